"""A netlist from anybody: shapes, indices and magnitudes are right before anything computes."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from artifact_samples import sample_netlist
from netlists import proven

from lapilli.compiler import soundness
from lapilli.compiler.errors import ArtifactError, NetlistError
from lapilli.compiler.linear import FORMS, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import GradedMax, Ladder, NeuronModel, Product

CONV, DIAGONAL, SPARSE, _, UP, DENSE = range(6)
INPUT, WINDOW, SOFT, _, OUT = range(5)


def ints(*values: int) -> Any:
    return frozen(values, np.int64)


def with_population(index: int, **changes: Any) -> Netlist:
    """The sample with another population; names of neuron fields change its neuron."""
    netlist = sample_netlist()
    p = netlist.populations[index]
    own = {name: value for name, value in changes.items() if hasattr(p, name)}
    inner = {name: value for name, value in changes.items() if name not in own}
    p = dataclasses.replace(p, neuron=dataclasses.replace(p.neuron, **inner), **own)
    populations = (*netlist.populations[:index], p, *netlist.populations[index + 1 :])
    return dataclasses.replace(netlist, populations=populations)


def with_connection(index: int, **changes: Any) -> Netlist:
    """The sample with another connection; names of map fields change its map."""
    netlist = sample_netlist()
    c = netlist.connections[index]
    own = {name: value for name, value in changes.items() if hasattr(c, name)}
    inner = {name: value for name, value in changes.items() if name not in own}
    c = dataclasses.replace(c, map=dataclasses.replace(c.map, **inner), **own)
    connections = (*netlist.connections[:index], c, *netlist.connections[index + 1 :])
    return dataclasses.replace(netlist, connections=connections)


def sparse(name: str, position: int, value: int) -> Netlist:
    """The sample with one index of its sparse map changed."""
    array = getattr(sample_netlist().connections[SPARSE].map, name).copy()
    array[position] = value
    return with_connection(SPARSE, **{name: frozen(array)})


def test_the_sample_is_sound() -> None:
    netlist = sample_netlist()
    soundness.check(netlist, "x")
    netlist.verify()


def test_every_form_has_its_check() -> None:
    assert set(soundness.FORM_CHECKS) == set(FORMS)


POPULATIONS: list[tuple[int, dict[str, Any], str, str]] = [
    (WINDOW, {"name": ""}, "name", "is a name"),
    (WINDOW, {"name": "two\nlines"}, "name", "is a name"),
    (WINDOW, {"shape": (4, 0, 3)}, "shape", "is a shape"),
    (WINDOW, {"shape": (-4, -3, 3)}, "shape", "is a shape"),
    (WINDOW, {"shape": (1,) * 9}, "shape", "is a shape"),
    (WINDOW, {"shape": (2**30,)}, "shape", "is a shape"),
    (WINDOW, {"shape": (5, 3, 3)}, "state_scale", "broadcasts to the population's shape"),
    (WINDOW, {"state_scale": frozen(np.ones((1, 4, 3, 3)))}, "state_scale", "broadcasts to"),
    (WINDOW, {"count_scale": frozen(np.ones(0))}, "count_scale", "broadcasts to"),
    (WINDOW, {"threshold": ints(1, 2, 3, 4)}, "neuron/threshold", "broadcasts to"),
    (WINDOW, {"bias": ints()}, "neuron/bias", "broadcasts to"),
    (WINDOW, {"bias": frozen(1, np.int8)}, "neuron/bias", "parameters are 64-bit"),
    (WINDOW, {"bias": ints(-(2**63))}, "neuron/bias", "is in range"),
    (WINDOW, {"levels": 2**33}, "neuron/levels", "is in range"),
    (WINDOW, {"lowest": -(2**33)}, "neuron/lowest", "is in range"),
    (WINDOW, {"count_offset": frozen(np.ones((4, 2, 1)))}, "count_offset", "broadcasts to"),
    (SOFT, {"initial": ints(2**40)}, "neuron/initial", "is in range"),
    (INPUT, {"low": 8}, "neuron", "sends an interval of payloads"),
    (INPUT, {"low": -(2**63)}, "neuron/low", "is in range"),
]


@pytest.mark.parametrize(("index", "changes", "place", "rule"), POPULATIONS)
def test_unsound_populations_are_refused(
    index: int, changes: dict[str, Any], place: str, rule: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        soundness.check(with_population(index, **changes), "file:/netlist")
    assert caught.value.where.startswith(f"file:/netlist/populations/000{index}")
    assert caught.value.where.endswith(f"/{place}")
    assert caught.value.rule.startswith(rule)


def with_neuron(neuron: NeuronModel) -> Netlist:
    """The sample with another model in place of its window."""
    netlist = sample_netlist()
    p = dataclasses.replace(netlist.populations[WINDOW], neuron=neuron)
    populations = (*netlist.populations[:WINDOW], p, *netlist.populations[WINDOW + 1 :])
    return dataclasses.replace(netlist, populations=populations)


ZERO = frozen(0, np.int64)
LADDER = Ladder(ints(*range(5)), ints(1, 1, 1, 1, 1), ZERO, ZERO, ZERO, 0, 5, "unary")


def with_ladder(thresholds: Any) -> Netlist:
    """The sample with a ladder in place of its window."""
    return with_neuron(dataclasses.replace(LADDER, thresholds=frozen(thresholds, np.int64)))


LADDERS: list[tuple[Any, str]] = [
    (3, "has an axis of its own first"),
    ([], "has an axis of its own first"),
    (np.ones((0, 4, 1, 1)), "has an axis of its own first"),
    (np.ones((5, 0, 1, 1)), "has an axis of its own first"),
    (np.ones((5, 2)), "broadcasts to the population's shape"),
    (np.ones((5, 4, 3, 3, 1)), "broadcasts to the population's shape"),
    ([1, 2, 3, 4, 2**40], "is in range"),
]


@pytest.mark.parametrize(("thresholds", "rule"), LADDERS)
def test_unsound_ladders_are_refused(thresholds: Any, rule: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        soundness.check(with_ladder(thresholds), "file:/netlist")
    assert caught.value.where.endswith("/neuron/thresholds")
    assert caught.value.rule.startswith(rule)


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"rises": 3}, "rises", "has an axis of its own first"),
        ({"rises": np.ones((5, 2))}, "rises", "broadcasts to the population's shape"),
        ({"rises": [0, 0, 2**40]}, "rises", "is in range"),
        ({"foot": [1, 2]}, "foot", "broadcasts to the population's shape"),
        ({"foot": -(2**40)}, "foot", "is in range"),
    ],
)
def test_unsound_steps_of_a_ladder_are_refused(
    changes: dict[str, Any], field: str, rule: str
) -> None:
    own = {name: frozen(value, np.int64) for name, value in changes.items()}
    neuron = dataclasses.replace(LADDER, **own)
    with pytest.raises(ArtifactError) as caught:
        soundness.check(with_neuron(neuron), "file:/netlist")
    assert caught.value.where.endswith(f"/neuron/{field}")
    assert caught.value.rule.startswith(rule)


TOP = 2**32
PACKED: dict[str, Any] = {"bias": ZERO, "lowest": 0, "levels": 5, "sending": "graded"}


def gate(start: int, bits: int, factor: int, shift: int) -> Product:
    one, first = frozen(1, np.int64), frozen(start, np.int64)
    own = {"initial_product": first, "bits": bits, "lowest_factor": factor, "shift": shift}
    return Product(threshold=one, **PACKED, **own)


HOSTILE: list[tuple[NeuronModel, str]] = [
    (GradedMax(**PACKED, inputs=TOP, bits=TOP), "packed counts are bits of a state"),
    (GradedMax(**PACKED, inputs=-TOP, bits=-TOP), "packed counts are bits of a state"),
    (GradedMax(**{**PACKED, "lowest": -TOP}, inputs=2, bits=3), "a window sends all its spikes"),
    (GradedMax(**{**PACKED, "levels": TOP}, inputs=2, bits=3), "a window sends all its spikes"),
    (gate(0, TOP, 0, 0), "packed counts are bits of a state"),
    (gate(0, -TOP, 0, 0), "packed counts are bits of a state"),
    (gate(0, 3, 0, TOP), "a product is shifted left by little"),
    (gate(0, 3, 0, -TOP), "a product is shifted left by little"),
    (gate(0, 3, -TOP, 0), "factors and products fit the state"),
    (gate(TOP, 3, 0, 0), "factors and products fit the state"),
    (gate(0, 3, 2**22, 12), "every reachable state fits 24 bits"),
]


@pytest.mark.parametrize(("neuron", "rule"), HOSTILE)
def test_hostile_packed_counts_are_refused_before_anything_is_computed(
    neuron: NeuronModel, rule: str
) -> None:
    netlist = with_neuron(neuron)
    soundness.check(netlist, "x")
    with pytest.raises(NetlistError) as caught:
        netlist.verify()
    assert caught.value.rule.startswith(rule)


@pytest.mark.parametrize("axes", [(), (1,), (4, 1, 1), (4, 3, 3)])
def test_the_first_axis_of_a_ladder_is_its_own(axes: tuple[int, ...]) -> None:
    rungs = np.arange(1, 6).reshape(5, *(1,) * len(axes)) * np.ones(axes)
    netlist = proven(with_ladder(rungs))
    soundness.check(netlist, "x")
    netlist.verify()
    with pytest.raises(NetlistError, match="a ladder has a rise per threshold"):
        proven(with_ladder(rungs[:4])).verify()


SIZE = "has the right size"
CONNECTIONS: list[tuple[Netlist, str, str]] = [
    (with_connection(CONV, source="nobody"), "", "joins populations that exist"),
    (with_connection(CONV, target="nobody"), "", "joins populations that exist"),
    (with_connection(CONV, exponent=-1), "/exponent", "is in range"),
    (with_connection(CONV, exponent=61), "/exponent", "is in range"),
    (with_connection(CONV, exponent=55), "", "drives fit 61 bits"),
    (with_connection(CONV, delay=-1), "/delay", "is in range"),
    (with_connection(CONV, weight_scale=frozen(np.ones(3))), "/weight_scale", "is shared or"),
    (with_connection(CONV, in_shape=(2, 0, 6)), "/map/in_shape", "is a shape"),
    (with_connection(CONV, out_shape=(-4,)), "/map/out_shape", "is a shape"),
    (with_connection(CONV, in_shape=(72,)), "/map", "shapes are (C, H, W)"),
    (with_connection(CONV, out_shape=(4, 3, 3, 1)), "/map", "shapes are (C, H, W)"),
    (with_connection(CONV, stride=(0, 1)), "/map/stride", "is in range"),
    (with_connection(CONV, dilation=(1, -1)), "/map/dilation", "is in range"),
    (with_connection(CONV, padding=(-(2**60), 0)), "/map/padding", "is in range"),
    (with_connection(CONV, groups=0), "/map/groups", "is in range"),
    (with_connection(CONV, groups=3), "/map/groups", "is in range"),
    (with_connection(CONV, in_shape=(3, 6, 6)), "/map/groups", "groups divide the channels"),
    (with_connection(CONV, out_shape=(5, 3, 3)), "/map/groups", "groups divide the channels"),
    (with_connection(CONV, weight=ints(1)), "/map/weight", "is (O, C / groups, kH, kW)"),
    (with_connection(CONV, groups=1), "/map/weight", SIZE),
    (with_connection(CONV, out_shape=(6, 3, 3)), "/map/weight", SIZE),
    (with_connection(CONV, weight=frozen(np.ones((4, 1, 0, 3), np.int8))), "taps", "is in range"),
    (with_connection(CONV, stride=(2**15, 2**15)), "padding included", "is in range"),
    (with_connection(CONV, dilation=(1, 2**26)), "padding included", "is in range"),
    (with_connection(CONV, weight=frozen(np.full((4, 1, 3, 3), 2**40))), "weight", "is in range"),
    (with_connection(UP, in_shape=(36,)), "/map", "shapes are (C, H, W)"),
    (with_connection(UP, out_shape=(4, 3)), "/map", "shapes are (C, H, W)"),
    (with_connection(UP, stride=(1, 0)), "/map/stride", "is in range"),
    (with_connection(UP, dilation=(-1, 1)), "/map/dilation", "is in range"),
    (with_connection(UP, padding=(0, 2**60)), "/map/padding", "is in range"),
    (with_connection(UP, groups=0), "/map/groups", "is in range"),
    (with_connection(UP, groups=3), "/map/groups", "groups divide the channels"),
    (with_connection(UP, out_shape=(5, 3, 3)), "/map/groups", "groups divide the channels"),
    (with_connection(UP, weight=ints(1)), "/map/weight", "is (C, O / groups, kH, kW)"),
    (with_connection(UP, groups=1), "/map/weight", SIZE),
    (with_connection(UP, in_shape=(6, 3, 3)), "/map/weight", SIZE),
    (with_connection(UP, weight=frozen(np.ones((4, 2, 0, 1), np.int8))), "taps", "is in range"),
    (with_connection(UP, stride=(2**13, 2**12)), "cut off included", "is in range"),
    (with_connection(UP, dilation=(2**26, 1)), "cut off included", "is in range"),
    (with_connection(UP, weight=frozen(np.full((4, 2, 2, 1), 2**40))), "weight", "is in range"),
    (with_connection(DIAGONAL, weight=ints(1, 2)), "/map/weight", "broadcasts to"),
    (with_connection(DIAGONAL, out_shape=(4, 3, 4)), "/map", SIZE),
    (with_connection(DENSE, weight=frozen(np.ones((36, 3), np.int8))), "/map/weight", SIZE),
    (with_connection(DENSE, in_shape=(4, 3, 4)), "/map/weight", SIZE),
    (with_connection(SPARSE, columns=frozen([], np.int16)), "/map/columns", "indices are int32"),
    (with_connection(SPARSE, starts=frozen([], np.int8)), "/map/starts", "indices are int32"),
    (with_connection(SPARSE, starts=ints(0)), "/map/starts", SIZE),
    (with_connection(SPARSE, columns=ints(0)), "/map/columns", SIZE),
    (with_connection(SPARSE, out_shape=(4, 3, 2)), "/map/starts", SIZE),
    (sparse("starts", 0, 1), "/map/starts", SIZE),
    (sparse("starts", -1, 1), "/map/starts", SIZE),
    (sparse("starts", 5, -1), "/map/starts", "rows follow each other"),
    (sparse("starts", 5, 2**62), "/map/starts", "rows follow each other"),
    (sparse("columns", 0, -1), "/map/columns", "name inputs"),
    (sparse("columns", 3, 36), "/map/columns", "name inputs"),
    (sparse("columns", 1, 0), "/map/columns", "are sorted and unique in each row"),
]


@pytest.mark.parametrize(("netlist", "place", "rule"), CONNECTIONS)
def test_unsound_connections_are_refused(netlist: Netlist, place: str, rule: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        soundness.check(netlist, "file:/netlist")
    assert caught.value.where.startswith("file:/netlist/connections/000")
    assert caught.value.where.endswith(place)
    assert caught.value.rule.startswith(rule)


@pytest.mark.parametrize("steps", [0, -1, 2**21])
def test_windows_have_a_length(steps: int) -> None:
    with pytest.raises(ArtifactError) as caught:
        soundness.check(dataclasses.replace(sample_netlist(), steps=steps), "file:/netlist")
    assert caught.value.where == "file:/netlist/steps"


def test_empty_rows_and_an_empty_matrix_are_sound() -> None:
    starts = frozen(np.zeros(37), np.int64)
    empty = frozen([], np.int8)
    netlist = with_connection(SPARSE, weight=empty, columns=frozen([], np.int32), starts=starts)
    soundness.check(netlist, "x")
    assert netlist.connections[SPARSE].map.synapses == 0


@pytest.mark.parametrize("weight", [3, [[[3]]] * 4])
def test_a_diagonal_map_may_see_another_view(weight: Any) -> None:
    netlist = with_connection(DIAGONAL, weight=frozen(weight, np.int8), out_shape=(36,))
    soundness.check(netlist, "x")
    assert netlist.reach("if") == sample_netlist().reach("if")


def test_a_single_neuron_needs_no_axis() -> None:
    netlist = with_population(OUT, shape=(), bias=frozen(1, np.int64), state_scale=frozen(0.1))
    *others, last = netlist.connections
    dense = dataclasses.replace(last.map, weight=frozen(last.map.weight[:1]), out_shape=())
    last = dataclasses.replace(last, map=dense, weight_scale=frozen(1.0))
    netlist = proven(dataclasses.replace(netlist, connections=(*others, last)))
    soundness.check(netlist, "x")
    netlist.verify()
    assert netlist["out"].size == 1


def test_a_bound_that_does_not_wrap_is_accepted() -> None:
    largest = max(e for e in range(61) if _accepted(e))
    drive = 20 * 72 * 7 * 8 * 2**largest
    assert drive <= soundness.MAX_DRIVE < 2 * drive


def _accepted(exponent: int) -> bool:
    try:
        soundness.check(with_connection(CONV, exponent=exponent), "x")
    except ArtifactError:
        return False
    return True
