"""Neurons that take the largest of counts, or the product of two: in loops, engines, quantised ANN.

Networks here pack counts as the compiler does; random ones are in test_reference.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import netlists
import numpy as np
import oracles
import pytest
import torch
from netlists import connection, integers, population, proven

import lapilli
from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.errors import NetlistError
from lapilli.compiler.execute import TorchMax
from lapilli.compiler.linear import FORMS, Array, Conv, Diagonal, LinearMap, Sparse, frozen
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import (
    AnySending,
    GradedMax,
    NeuronModel,
    OrGate,
    Product,
    RateMax,
    Readout,
    SigmaDelta,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.runtime import quantised_ann, reference

ZERO = integers(0)
IMAGE, POOLED = (3, 7, 6), (3, 4, 4)
GEOMETRY = {"stride": (2, 2), "padding": (1, 1), "groups": 3}
"""2x2 windows, stride 2, of which those at the borders miss one to three inputs."""


def ones(shape: tuple[int, ...] = (3, 1, 1, 1)) -> Array:
    return frozen(np.ones(shape), np.int8)


def counter(low: int, high: int, sending: AnySending) -> NeuronModel:
    """Sends its input, clipped to low .. high and, for ones, not below 0."""
    if sending == "changes":
        return SigmaDelta(integers(1), ZERO, ZERO, high, low)
    return Window(integers(1), ZERO, ZERO, high, sending, low)


def taps() -> list[Conv]:
    """One connection per tap of the pool."""
    found = []
    for k in range(4):
        weight = np.zeros((3, 1, 2, 2))
        weight[:, :, k // 2, k % 2] = 1
        found.append(Conv(frozen(weight, np.int8), IMAGE, POOLED, **GEOMETRY))
    return found


def built(populations: list[Population], drives: list[Any], steps: int) -> Netlist:
    last = populations[-1]
    populations.append(population("out", last.shape, Readout(ZERO, ZERO)))
    drives.append(connection(last.name, "out", Diagonal(frozen(1), last.shape, last.shape)))
    netlist = proven(Netlist(tuple(populations), tuple(drives), steps))
    netlist.verify()
    return netlist


def same_everywhere(netlist: Netlist, inputs: Array) -> dict[str, Array]:
    """Counts, the same in loops, in steps, in one pass and in the quantised ANN."""
    assert netlist.settles
    looped = oracles.simulate(netlist, inputs)
    stepped = reference.run(netlist, inputs, record="states")
    counts = reference.run(netlist, inputs).counts
    ann = quantised_ann.run(netlist, inputs).counts
    for name, count in counts.items():
        assert (looped.spikes[name] == stepped.spikes[name]).all(), name
        assert (stepped.spikes[name].sum(1) == count).all(), name
        assert (ann[name] == count).all(), name
    for name, states in stepped.states.items():
        assert (looped.states[name] == states).all(), name
    return counts


def largest(counts: Array) -> Array:
    """(N, *IMAGE) to the largest of every window that is there."""
    padded = np.pad(counts.astype(float), [(0, 0), (0, 0), (1, 1), (1, 2)], constant_values=-np.inf)
    taps = [padded[:, :, y : y + 8 : 2, x : x + 8 : 2] for y in (0, 1) for x in (0, 1)]
    return np.asarray(np.max(taps, axis=0), np.int64)


@pytest.mark.parametrize("sending", ["graded", "changes"])
@pytest.mark.parametrize(("low", "high"), [(-9, 20), (0, 31), (3, 30), (-31, 0)])
def test_a_graded_maximum_is_the_largest_of_the_counts_that_there_are(
    low: int, high: int, sending: Literal["graded", "changes"]
) -> None:
    found = [tap.row_sums(tap.weight) * 0 + tap.apply(np.ones((1, *IMAGE)))[0] for tap in taps()]
    bias = sum(-low * there * 2 ** (5 * k) for k, there in enumerate(found))
    pool = GradedMax(integers(bias), 4, 5, low, high, sending)
    changes = sending == "changes"
    populations = [
        population("input", IMAGE, Source(-40, 40, "changes" if changes else "first")),
        population("counts", IMAGE, counter(low, high, sending)),
        population("max", POOLED, pool),
    ]
    drives = [connection("input", "counts", Conv(ones(), IMAGE, IMAGE, groups=3))]
    drives += [connection("counts", "max", tap, 5 * k) for k, tap in enumerate(taps())]
    netlist = built(populations, drives, 2)
    assert netlist["max"].state_high < 2**20
    rng = np.random.default_rng(low % 7)
    counts = same_everywhere(netlist, rng.integers(-40, 41, (9, *(2,) * changes, *IMAGE)))
    assert (counts["max"] == largest(counts["counts"])).all()
    assert len(np.unique(counts["max"])) > 5


@pytest.mark.parametrize("sending", ["graded", "unary", "changes"])
@pytest.mark.parametrize("shift", [0, 3])
def test_a_product_of_counts_is_divided_and_clipped(sending: AnySending, shift: int) -> None:
    bits, low = 4, 0 if sending == "unary" else -6
    theta = np.random.default_rng(shift).integers(3, 20, (3, 1, 1)) << shift
    lowest = 0 if sending == "unary" else -5
    gate = Product(
        *(integers(theta), integers(-low), integers(theta // 2)),
        *(bits, low, shift, lowest, 9, sending),
    )
    changes = sending == "changes"
    populations = [
        population("input", IMAGE, Source(-30, 30, "changes" if changes else "first")),
        population("first", IMAGE, counter(low, 9, sending)),
        population("second", IMAGE, counter(0 if sending == "unary" else -12, 9, sending)),
        population("gate", IMAGE, gate),
    ]
    weights = [frozen(np.array([[[w]]]), np.int8) for w in (1, -1)]
    names = ("first", "second")
    drives = [
        connection("input", name, Diagonal(frozen(np.resize(w, (3, 1, 1)), np.int8), IMAGE, IMAGE))
        for name, w in zip(names, weights, strict=True)
    ]
    if sending == "unary":
        drives[1] = connection("input", "second", drives[0].map)
    one = Diagonal(frozen(1), IMAGE, IMAGE)
    drives += [connection("first", "gate", one), connection("second", "gate", one, bits)]
    netlist = built(populations, drives, 9 if sending == "unary" else 2)
    inputs = np.random.default_rng(1).integers(-30, 31, (9, *(2,) * changes, *IMAGE))
    counts = same_everywhere(netlist, inputs)
    product = (counts["first"].astype(int) * counts["second"]) << shift
    expected = np.clip((2 * product + theta) // (2 * theta), lowest, 9)
    half_up = (product + theta // 2) // theta
    assert (counts["gate"] == np.clip(half_up, lowest, 9)).all()
    assert (expected == np.clip(half_up, lowest, 9)).all()
    assert len(np.unique(counts["gate"])) > 4


def test_the_reach_of_a_product_says_what_it_multiplies_to() -> None:
    gate = Product(integers(1), ZERO, ZERO, 11, 0, 2, 0, 9, "graded")
    populations = [
        population("input", (1,), Source(0, 2**11, "first")),
        population("gate", (1,), gate),
    ]
    netlist = proven(
        Netlist(
            (*populations, population("out", (1,), Readout(ZERO, ZERO))),
            (
                connection("input", "gate", Diagonal(frozen(1), (1,), (1,)), 11),
                connection("gate", "out", Diagonal(frozen(1), (1,), (1,))),
            ),
            1,
        )
    )
    assert netlist["gate"].state_high == (2**11 - 1) * 2**11 * 4
    with pytest.raises(NetlistError, match="every reachable state fits 24 bits"):
        netlist.verify()


def gated(
    first: NeuronModel, weight: int = 1, steps: int = 9, gate: NeuronModel | None = None
) -> Netlist:
    populations = [
        population("input", IMAGE, Source(-20, 60, "first")),
        population("counts", IMAGE, first),
        population("max", POOLED, gate or OrGate()),
    ]
    pool = Conv(frozen(np.full((3, 1, 2, 2), weight), np.int8), IMAGE, POOLED, **GEOMETRY)
    drives = [
        connection("input", "counts", Conv(ones(), IMAGE, IMAGE, groups=3)),
        connection("counts", "max", pool, 1),
    ]
    return built(populations, drives, steps)


@pytest.mark.parametrize(("sending", "levels"), [("unary", 9), ("graded", 1)])
@pytest.mark.parametrize("weight", [1, 3])
def test_an_or_of_sorted_ones_settles_to_the_maximum(
    sending: Literal["unary", "graded"], levels: int, weight: int
) -> None:
    netlist = gated(Window(integers(6), ZERO, integers(3), levels, sending), weight)
    inputs = np.random.default_rng(2).integers(-20, 61, (7, *IMAGE))
    counts = same_everywhere(netlist, inputs)
    assert (counts["max"] == largest(counts["counts"])).all()
    assert len(np.unique(counts["max"])) == levels + 1


def test_networks_with_gates_are_verified(tmp_path: Path) -> None:
    netlist = gated(Window(integers(6), ZERO, integers(3), 9, "unary"))
    Artifact(netlist, Provenance("0", "0", "", {}, "", "", 0, {})).save(tmp_path / "net.h5")
    images = np.random.default_rng(4).integers(-20, 61, (5, *IMAGE)).astype(float)
    artifact = lapilli.load(tmp_path / "net.h5")
    result = lapilli.verify(artifact, images, backends=("reference",))
    assert result.ok, result.first_difference
    names = [row.name for row in result.rows]
    assert "quantised ANN == reference: counts" in names
    assert "reference, stepped == at once: counts" in names


def test_gates_follow_gates() -> None:
    netlist = gated(Window(integers(6), ZERO, integers(3), 9, "unary"))
    populations = [*netlist.populations[:-1], population("again", POOLED, OrGate())]
    one = Diagonal(frozen(1), POOLED, POOLED)
    drives = [*netlist.connections[:-1], connection("max", "again", one)]
    late = Conv(ones((3, 1, 3, 3)), IMAGE, POOLED, (2, 2), (1, 1), groups=3)
    drives.append(connection("counts", "again", late))
    counts = same_everywhere(
        built(populations, drives, 9), np.random.default_rng(3).integers(-20, 61, (7, *IMAGE))
    )
    assert (counts["again"] >= counts["max"]).all()
    assert (counts["again"] > counts["max"]).any()


@pytest.mark.parametrize(
    "netlist",
    [
        gated(Window(integers(6), ZERO, integers(3), 9, "unary"), -1),
        gated(Window(integers(6), ZERO, integers(3), 9, "graded")),
        gated(SigmaDelta(integers(6), ZERO, integers(3), 1)),
        gated(SoftResetIF(integers(6), ZERO, integers(3))),
        gated(OrGate()),
        gated(Window(integers(6), ZERO, integers(3), 9, "unary"), gate=RateMax(1)),
    ],
)
def test_an_or_of_anything_else_does_not_settle(netlist: Netlist) -> None:
    assert not netlist.settles
    assert netlist.has_quantised_ann
    inputs = np.random.default_rng(2).integers(-20, 61, (3, *IMAGE))
    looped = oracles.simulate(netlist, inputs)
    counts = reference.run(netlist, inputs).counts
    assert (looped.spikes["max"].sum(1) == counts["max"]).all()


def test_the_quantised_ann_of_a_rate_maximum_is_the_maximum_of_the_counts() -> None:
    first = SoftResetIF(integers(61), ZERO, integers(30))
    netlist = gated(first, steps=100)
    source = population("input", IMAGE, Source(-20, 60, "held"))
    drives = [netlist.connections[0]]
    drives += [connection("counts", "max", tap, k) for k, tap in enumerate(taps())]
    populations = [source, netlist["counts"], population("max", POOLED, RateMax(4))]
    netlist = built(populations, drives, 100)
    inputs = np.random.default_rng(2).integers(-20, 61, (5, *IMAGE))
    ann, counts = quantised_ann.run(netlist, inputs).counts, reference.run(netlist, inputs).counts
    assert (ann["max"] == largest(ann["counts"])).all()
    assert (ann["counts"] == counts["counts"]).all()
    assert (ann["max"] == counts["max"]).all()


def naive(linear: LinearMap, x: Array) -> Array:
    """(N, in_size) to (N, out_size), -inf where no synapse ends, one synapse after the other."""
    result = np.full((len(x), linear.out_size), -math.inf)
    for target, source, _ in oracles.synapses(linear):
        result[:, target] = np.maximum(result[:, target], x[:, source])
    return result


POOLS = [
    Conv(ones((3, 1, 2, 2)), IMAGE, POOLED, **GEOMETRY),
    Conv(ones((3, 1, 3, 2)), IMAGE, (3, 3, 5), (2, 1), (0, 0), (1, 1), 3),
    Conv(ones((3, 1, 2, 3)), IMAGE, (3, 9, 8), (1, 1), (2, 3), (2, 2), 3),
    Conv(ones((3, 1, 2, 2)), IMAGE, (3, 5, 5), (1, 1), (-1, -1), (1, 1), 3),
    Conv(ones((6, 1, 2, 2)), IMAGE, (6, 4, 4), (2, 2), (1, 1), (1, 1), 3),
    Conv(ones((3, 1, 1, 1)), IMAGE, (3, 12, 9), (1, 1), (2, 2), (1, 1), 3),
]


@pytest.mark.parametrize("linear", POOLS)
@pytest.mark.parametrize("hole", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_takes_the_largest_input_of_a_pool(
    linear: Conv, hole: bool, dtype: torch.dtype
) -> None:
    if hole:
        weight = linear.weight.copy()
        weight[:, :, 0, 0] = 0
        linear = dataclasses.replace(linear, weight=frozen(weight))
    x = np.random.default_rng(0).integers(-99, -9, (4, linear.in_size)).astype(float)
    expected = naive(linear, x).reshape(4, *linear.out_shape)
    device = torch.device("cpu")
    batch = torch.tensor(x, dtype=dtype).reshape(4, *linear.in_shape)
    assert (TorchMax(linear, device)(batch).numpy() == expected).all()
    shown = np.where(np.isinf(expected), 5, expected)
    assert (TorchMax(linear, device, empty=5)(batch).numpy() == shown).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("part", [7, 2**18])
def test_any_map_says_which_inputs_are_compared(
    form: type[LinearMap], part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lapilli.compiler.execute.GATHERED", part)
    monkeypatch.setattr("lapilli.runtime.quantised_ann.SYNAPSES", part)
    rng = np.random.default_rng(5)
    for _ in range(3):
        linear = netlists.random_map(rng, form, (4, 7, 6))
        x = rng.integers(0, 99, (3, linear.in_size))
        expected = naive(linear, x)
        found = TorchMax(linear, torch.device("cpu"))(torch.tensor(x, dtype=torch.float32))
        assert (found.numpy().reshape(3, -1) == expected).all()
        target = population("max", linear.out_shape, OrGate())
        source = population("counts", linear.in_shape, Source(0, 99, "first"))
        netlist = Netlist((source, target), (connection("counts", "max", linear),), 1)
        counts = quantised_ann.Drives(netlist).largest(target, {"counts": x})
        assert (counts.reshape(3, -1) == np.where(np.isinf(expected), 0, expected)).all()


def test_a_stored_zero_is_no_synapse_and_the_map_stays_as_it_is() -> None:
    weight, columns, starts = frozen(np.array([0, 3, 0]), np.int8), [0, 1, 0], [0, 2, 3, 3]
    linear = Sparse(weight, (2,), (3,), frozen(columns, np.int32), frozen(starts, np.int64))
    x = torch.tensor([[9.0, 4.0]])
    assert TorchMax(linear, torch.device("cpu"), empty=-1)(x).tolist() == [[4, -1, -1]]
    populations = (
        population("counts", (2,), Source(0, 99, "first")),
        population("max", (3,), OrGate()),
    )
    both = Sparse(
        frozen([1], np.int8), (2,), (3,), frozen([0], np.int32), frozen([0, 1, 1, 1], np.int64)
    )
    drives = (connection("counts", "max", linear), connection("counts", "max", both))
    pools = quantised_ann.Drives(Netlist(populations, drives, 1))
    assert pools.largest(populations[1], {"counts": np.array([[9, 4]])}).tolist() == [[9, 0, 0]]
    assert pools.largest(populations[1], {"counts": np.array([[-9, -4]])}).tolist() == [[-4, 0, 0]]
    assert linear.weight.tolist() == [0, 3, 0]
