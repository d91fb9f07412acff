"""What stock processes cannot compute exactly is refused, by name, before Lava is even imported."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from typing import Any

import netlists
import numpy as np
import pytest
import scipy.sparse as sp
import stock_netlists
from hypothesis import given
from hypothesis import strategies as st

from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.linear import Dense, Diagonal, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import (
    MODELS,
    HardResetIF,
    LavaDelta,
    LavaSigmaDelta,
    MultiThreshold,
    OrGate,
    Readout,
    SigmaDelta,
    SignedIF,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.runtime.lava import stock
from lapilli.runtime.lava.stock import synapses
from lapilli.runtime.lava.stock.cells import CELLS
from lapilli.runtime.lava.stock.integrators import TOP
from lapilli.runtime.lava.stock.lowering import lower
from lapilli.runtime.lava.stock.plan import Plan


def integers(values: Any) -> Any:
    return netlists.integers(values)


def soft(threshold: Any, bias: Any = 0, initial: Any = 0) -> SoftResetIF:
    return SoftResetIF(integers(threshold), integers(bias), integers(initial))


def lowered(netlist: Netlist) -> Plan:
    return lower(netlist, stock_netlists.inputs(np.random.default_rng(0), netlist, 2))


def refused(netlist: Netlist) -> NetlistError:
    with pytest.raises(NetlistError) as caught:
        lowered(netlist)
    return caught.value


def test_a_rule_or_a_reason_for_every_model() -> None:
    assert set(CELLS) == set(MODELS)
    for model, rule in CELLS.items():
        assert callable(rule) or len(rule.split()) > 3, model


def test_a_model_without_a_rule_is_refused_with_the_reason() -> None:
    signed = SignedIF(integers(4), integers(0), integers(2), 3)
    error = refused(stock_netlists.line(signed, source=Source(-9, 9, "first"), steps=9))
    assert error.where == "it (SignedIF)"
    assert "takes a spike back" in error.found
    assert "SoftResetIF" in error.allowed
    assert "SignedIF" not in error.allowed


def test_lava_is_not_imported() -> None:
    code = (
        "import sys; from lapilli.runtime.lava import stock; "
        "print([m for m in sys.modules if m == 'lava' or m.startswith('lava.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


WIDE = Source(-255, 255, "train")
REFUSALS: dict[str, tuple[Netlist, str, str, str]] = {
    # name: network, rule, found, allowed
    "odd threshold": (
        stock_netlists.line(soft([4, 7], initial=2), [[1], [1]]),
        "ATRLIF has even thresholds",
        "7",
        "2, 4, 6, ...",
    ),
    "wide membrane of ATRLIF": (
        stock_netlists.line(soft(4, initial=2), [[127]], source=WIDE, steps=5),
        "resets not subtracted",
        f"up to {255 * 127 * 5}",
        str(TOP),
    ),
    "wide current of LIF": (
        stock_netlists.line(
            HardResetIF(*[integers(1)] * 3), [[127]], source=WIDE, steps=1, exponent=3
        ),
        "the membrane of a LIF fits 18",
        f"up to {255 * 127 * 8 + 2}",
        str(TOP),
    ),
    "threshold of three": (
        stock_netlists.line(SigmaDelta(integers([8, 3]), *[integers(0)] * 2, 4), [[1], [1]]),
        "divide by shifting",
        "3",
        "a power of two",
    ),
    "two steps of several thresholds": (
        stock_netlists.line(MultiThreshold(integers(4), *[integers(0)] * 2, 3, 0), steps=2),
        "in the last step only",
        "2 steps",
        "1 step",
    ),
    "wide current into a gate": (
        stock_netlists.line(OrGate(), [[127]], source=WIDE, exponent=3),
        "the current of a LIF fits 18",
        f"up to {255 * 127 * 8}",
        str(TOP),
    ),
    "unary": (
        stock_netlists.line(Window(integers(4), *[integers(0)] * 2, 4, "unary")),
        "sends a count at once",
        "6 steps, unary",
        "1 step, graded",
    ),
    "window of two steps": (
        stock_netlists.line(Window(integers(4), *[integers(0)] * 2, 4, "graded"), steps=2),
        "sends a count at once",
        "2 steps, graded",
        "1 step, graded",
    ),
    "cap beyond 24 bits": (
        stock_netlists.line(
            SigmaDelta(integers(2**21), *[integers(0)] * 2, 2),
            source=Source(-(2**22), 2**23 - 1, "first"),
        ),
        "fits 24 bits",
        str(-(2**22) - 3 * 2**21 + 1),
        str(-(2**23) + 1),
    ),
    "counts below zero": (
        stock_netlists.line(Window(integers(4), *[integers(0)] * 2, 4, "graded", -3), steps=1),
        "counts start at 0",
        "a lowest count of -3",
        "0",
    ),
    "changes below zero": (
        stock_netlists.line(SigmaDelta(integers(4), *[integers(0)] * 2, 4, -3)),
        "counts start at 0",
        "a lowest count of -3",
        "0",
    ),
    "counts above zero": (
        stock_netlists.line(Window(integers(4), *[integers(0)] * 2, 4, "graded", 2), steps=1),
        "counts start at 0",
        "a lowest count of 2",
        "0",
    ),
    "weights of nine bits": (
        stock_netlists.line(soft(4, initial=2), [[128]]),
        "8-bit weights",
        "0..128",
        "-128..127",
    ),
    "clipped delta": (
        stock_netlists.line(
            LavaDelta(integers(0), -1, 1, 0, 0), [[127]], exponent=24, source=Source(0, 9, "train")
        ),
        "clip",
        f"0..{9 * 127 * 2**24}",
        "-1..1",
    ),
    "clipped sigma-delta": (
        stock_netlists.line(
            LavaSigmaDelta(*[integers(0)] * 5, -4, 4, 0, 0, "relu"), source=Source(-9, 9, "first")
        ),
        "do not clip",
        "-9..9",
        "-4..4",
    ),
    "two thresholds in a Delta": (
        stock_netlists.line(LavaDelta(integers([1, 2]), -9, 9, 0, 0), [[1], [1]]),
        "all neurons of a Delta have one threshold",
        "2 of them",
        "one",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_population_rule_found_allowed(case: str) -> None:
    netlist, rule, found, allowed = REFUSALS[case]
    error = refused(netlist)
    assert "it" in error.where.replace("(", " ").split()
    assert rule in error.rule
    assert (error.found, error.allowed) == (found, allowed)
    assert error.remedy.split()[0] in ("Compile", "Run", "Use")


def test_sums_beyond_32_bits_are_refused() -> None:
    zero = integers(0)
    populations = (
        netlists.population("input", (1,), Source(0, 2**20, "first")),
        netlists.population("out", (1,), Readout(zero, zero)),
    )
    matrix = Dense(frozen([[127]], np.int8), (1,), (1,))
    connections = (netlists.connection("input", "out", matrix, 4),)
    error = refused(netlists.proven(Netlist(populations, connections, 1)))
    assert error.where == "input -> out"
    assert error.rule == "stock synapses add up in 32 bits"
    assert error.found == f"2 * {2**20 * 127 * 16}"


def test_long_delays_are_refused_and_the_longest_is_not() -> None:
    """A short branch waits for a chain; each layer of the chain takes one step here."""

    def network(depth: int) -> Netlist:
        one, zero = Diagonal(frozen(1, np.int8), (1,), (1,)), integers(0)
        names = ["input", *(f"layer{i}" for i in range(depth)), "out"]
        neurons = [Source(0, 1, "train"), *[soft(2, initial=1)] * depth, Readout(zero, zero)]
        pairs = zip(names, neurons, strict=True)
        populations = tuple(netlists.population(name, (1,), neuron) for name, neuron in pairs)
        chain = itertools.pairwise(names)
        connections = [netlists.connection(a, b, one) for a, b in chain]
        connections.append(netlists.connection("input", "out", one))
        return netlists.proven(Netlist(populations, tuple(connections), 2))

    assert max(wire.delay for wire in lowered(network(62)).wires) == synapses.MAX_DELAY
    error = refused(network(63))
    assert (error.where, error.found, error.allowed) == ("input -> out", "63 steps", "0..62")


def test_recurrence_is_refused() -> None:
    netlist = stock_netlists.line(soft(4, initial=2))
    again = netlists.connection("it", "it", Diagonal(frozen(-1, np.int8), (1,), (1,)))
    netlist = netlists.proven(
        dataclasses.replace(netlist, connections=(*netlist.connections, again))
    )
    error = refused(netlist)
    assert error.where == "it -> it"
    assert "no spike may outlive its window" in error.rule


def test_membranes_are_not_shown() -> None:
    netlist = stock_netlists.line(soft(4, initial=2))
    inputs = stock_netlists.inputs(np.random.default_rng(0), netlist, 1)
    with pytest.raises(InputError) as caught:
        stock.run(netlist, inputs, record="states")
    assert caught.value.found == "states"


def test_only_lava_has_stock_processes() -> None:
    from lapilli.runtime import backends_with

    assert backends_with(("reference", "lava"), "stock") == ("reference", "lava-stock")
    assert backends_with(("reference", "lava"), "lapilli") == ("reference", "lava")
    with pytest.raises(InputError, match="only Lava"):
        backends_with(("reference",), "stock")
    with pytest.raises(InputError, match="the processes is known"):
        backends_with(("lava",), "other")


def through_lava(matrix: sp.csr_matrix, exponent: int, spikes: Any) -> list[int]:
    """What lava.proc.sparse computes with signs MIXED: clip to 9 bits, floor to even, add, shift.

    Re-told from its source; tests/test_lava_stock.py runs the real one.
    """
    result = []
    for row in matrix.toarray().tolist():
        kept = [min(max(weight, -256), 255) // 2 * 2 for weight in row]
        total = sum(w * s for w, s in zip(kept, spikes, strict=True))
        result.append(total << exponent if exponent > 0 else total >> -exponent)
    return result


WEIGHTS = st.lists(st.integers(-128, 127), min_size=3, max_size=3)
SPIKES = st.lists(st.integers(-(2**12), 2**12), min_size=3, max_size=3)


@given(st.lists(WEIGHTS, min_size=1, max_size=3), SPIKES, st.integers(0, 8))
def test_stored_weights_lose_no_bit(
    rows: list[list[int]], spikes: list[int], exponent: int
) -> None:
    zero = integers(0)
    size = len(rows)
    populations = (
        netlists.population("input", (3,), Source(-(2**12), 2**12, "first")),
        netlists.population("out", (size,), Readout(zero, zero)),
    )
    matrix = Dense(frozen(rows, np.int8), (3,), (size,))
    c = netlists.connection("input", "out", matrix, exponent)
    wire = synapses.lowered(c, *populations, 0)
    assert wire.matrix is not None
    expected = [sum(w * s for w, s in zip(row, spikes, strict=True)) * 2**exponent for row in rows]
    assert through_lava(wire.matrix, wire.exponent, spikes) == expected


@given(
    st.lists(st.tuples(st.integers(0, 22), st.integers(-(2**23), 2**23)), min_size=1, max_size=4),
    st.sampled_from([1, -1]),
)
def test_shifts_floor_each_neuron_by_its_own_exponent(
    neurons: list[tuple[int, int]], sign: int
) -> None:
    exponents = np.array([k for k, _ in neurons])
    values = [v for _, v in neurons]
    wires = synapses.shifts("a", "b", exponents, sign)
    assert len(wires) == len(set(exponents.tolist()))
    found = np.zeros(len(neurons), np.int64)
    for wire in wires:
        assert wire.matrix is not None
        found += through_lava(wire.matrix, wire.exponent, values)
    assert found.tolist() == [sign * v // 2**k for k, v in neurons]


@given(st.integers(-(2**22), 2**22), st.integers(0, 12), st.integers(1, 300))
def test_two_rectifiers_clip(v: int, exponent: int, levels: int) -> None:
    """clip(floor(v / 2**k), 0, L) by the formula of graded._quantiser, in Python integers."""
    threshold = 2**exponent
    shifted = -(v - threshold + 1 - levels * threshold) >> exponent
    assert max(levels - max(shifted, 0), 0) == min(max(v // threshold, 0), levels)


def test_limits_grow_with_the_network() -> None:
    netlist = stock_netlists.line(soft(4, initial=2))
    few, many = (
        stock.limits(lower(netlist, np.zeros((n, netlist.steps, 1), np.int64))) for n in (1, 50)
    )
    assert few.stall_s == many.stall_s >= 60
    assert few.timeout_s < many.timeout_s


def test_front_door_passes_the_choice_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import lapilli.runtime

    seen: list[str] = []

    def execute(artifact: object, images: object, *, backend: str, **more: object) -> str:
        seen.append(backend)
        return "trace"

    monkeypatch.setattr(lapilli.runtime, "run", execute)
    artifact: Any = None
    lapilli.run(artifact, np.zeros(1), backend="lava", processes="stock")
    lapilli.run(artifact, np.zeros(1), backend="lava")
    assert seen == ["lava-stock", "lava"]
