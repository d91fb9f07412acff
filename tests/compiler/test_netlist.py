"""What a netlist must keep: each rule broken once, and the sentence that says so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import netlists
import numpy as np
import oracles
import pytest
from netlists import CODINGS, Coding, connection, integers, population, proven

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import FORMS, Array, Dense, Diagonal, LinearMap, frozen
from lapilli.compiler.netlist import Netlist, connection_bounds
from lapilli.compiler.neurons import NeuronModel, Readout, SoftResetIF, Source, Window
from lapilli.hardware_profiles import Profile, Quantity, load

RECOMPILE = "The file was altered or written by a faulty tool: compile the network again."
TOP = 2**23 - 1


def window(
    threshold: Any = 5, levels: int = 3, sending: Literal["graded", "unary"] = "unary"
) -> Window:
    return Window(integers(threshold), integers(1), integers(2), levels, sending)


def dense(weight: Any, dtype: Any = np.int8) -> Dense:
    matrix = frozen(weight, dtype)
    return Dense(matrix, matrix.shape[1:], matrix.shape[:1])


def sample(neuron: NeuronModel | None = None, steps: int = 3) -> Netlist:
    """Source -> a -> b -> readout, and from a to the readout directly."""
    middle = window() if neuron is None else neuron
    return proven(
        Netlist(
            (
                population("in", (2,), Source(-4, 7, "first")),
                population("a", (2,), middle),
                population("b", (2,), middle),
                population("out", (3,), Readout(integers(0), integers([1, 2, 3]))),
            ),
            (
                connection("in", "a", dense([[1, -2], [3, 4]])),
                connection("a", "b", dense([[5, 6], [-7, 8]]), exponent=2),
                connection("b", "out", dense(np.arange(6).reshape(3, 2))),
                connection("a", "out", dense(-np.ones((3, 2)))),
            ),
            steps,
        )
    )


def with_population(netlist: Netlist, which: str, **changes: Any) -> Netlist:
    changed = tuple(
        dataclasses.replace(p, **changes) if p.name == which else p for p in netlist.populations
    )
    return dataclasses.replace(netlist, populations=changed)


def with_connection(netlist: Netlist, index: int, **changes: Any) -> Netlist:
    connections = list(netlist.connections)
    connections[index] = dataclasses.replace(connections[index], **changes)
    return dataclasses.replace(netlist, connections=tuple(connections))


def without(netlist: Netlist, *names: str) -> Netlist:
    return dataclasses.replace(
        netlist,
        populations=tuple(p for p in netlist.populations if p.name not in names),
        connections=tuple(
            c for c in netlist.connections if c.source not in names and c.target not in names
        ),
    )


def reordered(netlist: Netlist, *order: int) -> Netlist:
    return dataclasses.replace(netlist, populations=tuple(netlist.populations[i] for i in order))


SAMPLE = sample()
ENDS = "there is an input, a readout and at least one step"
DRIVEN = "the input comes first and every other population is driven"
EARLIER = "connections come from earlier populations that spike, or from the population itself"
SIGNS = "weights are integers, delays and exponent not negative"
THRESHOLDS = "thresholds are positive and fit the state"
LEVELS = "a window sends all its spikes before the next one ends"
STATES = "every reachable state fits 24 bits"

# Netlist, where, rule, found, allowed
BROKEN: dict[str, tuple[Netlist, str, str, str, str]] = {
    "no step": (
        dataclasses.replace(SAMPLE, steps=0),
        "netlist", ENDS, "4 populations, 1 readouts, 0 steps", "one input first, readouts",
    ),
    "nothing": (
        Netlist((), (), 1),
        "netlist", ENDS, "0 populations, 0 readouts, 1 steps", "one input first, readouts",
    ),
    "no readout": (
        without(SAMPLE, "out"),
        "netlist", ENDS, "3 populations, 0 readouts, 3 steps", "one input first, readouts",
    ),
    "a name twice": (
        with_population(SAMPLE, "b", name="a"),
        "a", "population names are unique", "a", "one",
    ),
    "no input": (
        without(SAMPLE, "in"),
        "a", DRIVEN, "population 0, Window, 0 connections", "none into the input",
    ),
    "the input later": (
        reordered(SAMPLE, 1, 0, 2, 3),
        "a", DRIVEN, "population 0, Window, 1 connections", "none into the input",
    ),
    "two inputs": (
        dataclasses.replace(
            SAMPLE,
            populations=(*SAMPLE.populations, population("late", (2,), Source(0, 1, "held"))),
        ),
        "late", DRIVEN, "population 4, Source, 0 connections", "none into the input",
    ),
    "an input that is driven": (
        with_connection(SAMPLE, 0, source="a", target="in"),
        "in", DRIVEN, "population 0, Source, 1 connections", "none into the input",
    ),
    "a population that nothing drives": (
        dataclasses.replace(
            SAMPLE, connections=tuple(c for c in SAMPLE.connections if c.target != "b")
        ),
        "b", DRIVEN, "population 2, Window, 0 connections", "one or more into others",
    ),
    "a source that comes later": (
        with_connection(SAMPLE, 0, source="b"),
        "b -> a", EARLIER, "b", "in, a",
    ),
    "a source that does not exist": (
        with_connection(SAMPLE, 2, source="c"),
        "c -> out", EARLIER, "c", "in, a, b",
    ),
    "a source that is a readout": (
        proven(
            Netlist(
                (
                    *SAMPLE.populations[:2],
                    population("early", (2,), Readout(integers(0), integers(0))),
                    SAMPLE.populations[3],
                ),
                (
                    SAMPLE.connections[0],
                    connection("a", "early", dense(np.eye(2))),
                    connection("early", "out", dense(np.ones((3, 2)))),
                ),
                3,
            )
        ),
        "early -> out", EARLIER, "early", "in, a",
    ),
    "a target that does not exist": (
        dataclasses.replace(
            SAMPLE, connections=(*SAMPLE.connections, connection("a", "c", dense(np.eye(2))))
        ),
        "c", "targets exist", "c", "in, a, b, out",
    ),
    "a map that does not fit": (
        with_connection(SAMPLE, 2, map=dense(np.ones((3, 3)))),
        "b -> out", "a map fits its populations", "(3, 3)", "(2, 3)",
    ),
    "float weights": (
        with_connection(SAMPLE, 1, map=dense(np.eye(2), np.float64)),
        "a -> b", SIGNS, "float64, delay 0 of which 0 synaptic, exponent 2", "signed integers",
    ),
    "unsigned weights": (
        with_connection(SAMPLE, 1, map=dense(np.eye(2), np.uint8)),
        "a -> b", SIGNS, "uint8, delay 0 of which 0 synaptic, exponent 2", "signed integers",
    ),
    "a negative exponent": (
        with_connection(SAMPLE, 1, exponent=-1),
        "a -> b", SIGNS, "int8, delay 0 of which 0 synaptic, exponent -1", "signed integers",
    ),
    "a negative delay": (
        with_connection(SAMPLE, 1, delay=-1),
        "a -> b", SIGNS, "int8, delay -1 of which 0 synaptic, exponent 2", "signed integers",
    ),
    "a delay too many": (
        with_connection(SAMPLE, 3, delay=4),
        "a -> out", "branches that join arrive in the same step", "delay 4", "3",
    ),
    "a threshold of 0": (
        with_population(SAMPLE, "a", neuron=window([5, 0])),
        "a (Window)", THRESHOLDS, "0..5", f"1..{TOP}",
    ),
    "a threshold beyond the state": (
        with_population(SAMPLE, "b", neuron=window([5, TOP + 1])),
        "b (Window)", THRESHOLDS, f"5..{TOP + 1}", f"1..{TOP}",
    ),
    "more spikes than steps": (
        with_population(SAMPLE, "a", neuron=window(levels=4)),
        "a (Window)", LEVELS, "4 levels, unary, 3 steps", "1..3 levels",
    ),
    "no level": (
        with_population(SAMPLE, "a", neuron=window(levels=0, sending="graded")),
        "a (Window)", LEVELS, "0 levels, graded, 3 steps", f"1..{TOP} levels",
    ),
    "a state that overflows above": (
        proven(with_connection(SAMPLE, 0, exponent=18)),
        "a (Window)", STATES, f"[{3 - 28 * 2**18}, {3 + 49 * 2**18}]", f"[{-TOP}, {TOP}]",
    ),
    "a state that overflows below": (
        proven(with_connection(SAMPLE, 2, map=dense([[-128, -128]] * 3), exponent=14)),
        "out (Readout)", STATES, f"[{-5 - 768 * 2**14}, 3]", f"[{-TOP}, {TOP}]",
    ),
    "a reach that is not the proven one": (
        with_population(SAMPLE, "b", state_high=77),
        "b", "the recorded reach is the proven one", "[-81, 77]", "[-81, 135]",
    ),
}  # fmt: skip


def refusal(netlist: Netlist, profile: Profile | None = None) -> NetlistError:
    with pytest.raises(NetlistError) as caught:
        netlist.verify(profile)
    return caught.value


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_contract_is_refused(case: str) -> None:
    netlist, where, rule, found, allowed = BROKEN[case]
    error = refusal(netlist)
    assert (error.where, error.rule) == (where, rule)
    assert error.found == found
    assert allowed in error.allowed
    assert error.remedy == ("Use fewer steps or levels, or smaller weights." if rule == STATES
                            else RECOMPILE)  # fmt: skip


def test_the_sample_is_sound() -> None:
    SAMPLE.verify()
    for chip in ("loihi1", "loihi2", "unlimited"):
        SAMPLE.verify(load(chip))
    assert SAMPLE.input.name == "in"
    assert [p.name for p in SAMPLE.outputs] == ["out"]
    assert [c.source for c in SAMPLE.into("out")] == ["b", "a"]
    assert SAMPLE["b"].size == 2
    with pytest.raises(KeyError):
        SAMPLE["c"]


def limited(**limits: int) -> Profile:
    base = load("loihi2")
    values = {key: Quantity(v, "bit", "a test", "assumed") for key, v in limits.items()}
    return dataclasses.replace(base, name="chip", limits=dataclasses.replace(base.limits, **values))


def with_first_weights(weight: Any, dtype: Any = np.int16) -> Netlist:
    return proven(with_connection(SAMPLE, 0, map=dense(weight, dtype)))


# Netlist, profile, where, rule, found, allowed, remedy
BEYOND: dict[str, tuple[Netlist, Profile, str, str, str, str, str]] = {
    "graded spikes on loihi1": (
        sample(window(sending="graded")), load("loihi1"),
        "a (Window)", "loihi1 sends binary spikes only", "payload 0..3", "0..1",
        "Compile with unary sending (coding='unary') or for a chip with graded spikes.",
    ),
    "payloads": (
        sample(window(levels=128, sending="graded")), limited(payload_bits=8),
        "a (Window)", "chip sends payloads of 8 bits", "payload 0..128", "-127..127",
        "Use fewer levels.",
    ),
    "states": (
        SAMPLE, limited(state_bits=8),
        "b (Window)", "chip keeps states of 8 bits", "[-81, 135]", "[-127, 127]",
        "Compile for chip.",
    ),
    "thresholds of a population": (
        sample(window([5, 6])), load("loihi1"),
        "a", "loihi1 shares one threshold per population", "2 thresholds of shape (2,)", "1",
        "Compile for loihi1: the scales are then folded into the weights.",
    ),
    "thresholds of a channel": (
        proven(
            Netlist(
                (
                    population("in", (2, 2), Source(0, 3, "first")),
                    population("a", (2, 2), window([[5, 6], [7, 7]])),
                    population("out", (4,), Readout(integers(0), integers(0))),
                ),
                (
                    connection("in", "a", Diagonal(frozen(1), (2, 2), (2, 2))),
                    connection("a", "out", Diagonal(frozen(1), (2, 2), (4,))),
                ),
                3,
            )
        ),
        load("loihi2"),
        "a", "loihi2 shares one threshold per channel", "3 thresholds of shape (2, 2)",
        "2, one per channel", "Compile for loihi2: the scales are then folded into the weights.",
    ),
    "weights above": (
        with_first_weights([[1, 128], [0, 0]]), load("loihi2"),
        "in -> a", "loihi2 stores 8-bit signed weights", "0..128", "-128..127",
        "Compile for loihi2.",
    ),
    "weights below": (
        with_first_weights([[1, -129], [0, 0]]), load("loihi1"),
        "in -> a", "loihi1 stores 8-bit signed weights", "-129..1", "-128..127",
        "Compile for loihi1.",
    ),
    "an exponent": (
        proven(with_connection(SAMPLE, 1, exponent=8)), load("loihi1"),
        "a -> b", "loihi1 scales weights by at most 2**7", "exponent 8", "7",
        "Compile for loihi1.",
    ),
    "delays": (
        sample(window(levels=63), steps=63), load("loihi1"),
        "a -> out", "loihi1 delays a spike by at most 62 steps", "63 steps", "62",
        "Use fewer levels or steps per window, or graded sending.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BEYOND)
def test_what_a_chip_cannot_do_is_refused(case: str) -> None:
    netlist, profile, *expected = BEYOND[case]
    netlist.verify()
    error = refusal(netlist, profile)
    assert [error.where, error.rule, error.found, error.allowed, error.remedy] == expected


def test_a_chip_carries_what_is_at_its_limit() -> None:
    carried = [
        (sample(window([5, 5])), load("loihi1")),
        (sample(window([5, 6])), load("loihi2")),
        (sample(window(levels=62), steps=62), load("loihi1")),
        (sample(window(levels=127, sending="graded")), limited(payload_bits=8)),
        (SAMPLE, limited(state_bits=9)),
        (with_first_weights([[127, -128], [0, 0]]), load("loihi2")),
    ]
    for netlist, profile in carried:
        netlist.verify(profile)  # raises nothing
    assert len({profile.name for _, profile in carried}) >= 2


@pytest.mark.parametrize("coding", CODINGS)
def test_graded_is_what_any_neuron_sends(coding: Coding) -> None:
    netlist = netlists.random_netlist(np.random.default_rng(0), coding)
    assert netlist.graded == (coding == "graded")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("source", [(0, 1), (-9, 4), (3, 8), (0, 0), (-7, -2)])
def test_bounds_of_a_connection_hold_and_are_met(
    form: type[LinearMap], source: tuple[int, int]
) -> None:
    rng = np.random.default_rng(1)
    for exponent in (0, 3):
        linear = netlists.random_map(rng, form, (2, 6, 6))
        c = connection("a", "b", linear, exponent)
        low, high = (
            np.broadcast_to(bound, linear.out_shape).reshape(-1)
            for bound in connection_bounds(c, source, linear.out_shape)
        )
        assert (low.dtype, high.dtype) == (np.int64, np.int64)
        rows: dict[int, list[int]] = {i: [] for i in range(linear.out_size)}
        for target, _, weight in oracles.synapses(linear):
            rows[target].append(weight)
        ends: list[Callable[[int], int]] = [
            lambda w: w * source[w > 0], lambda w: w * source[w < 0]
        ]  # fmt: skip
        highest, lowest = (
            np.array([sum(map(end, row)) << exponent for row in rows.values()]) for end in ends
        )
        assert (low <= lowest).all() or source[0] > 0 or source[1] < 0
        assert (high >= highest).all() or source[0] > 0 or source[1] < 0
        # The whole kernel is counted at borders, too, where a part of it reads zeros.
        complete = {k: len(v) for k, v in rows.items()}
        full = [k for k, n in complete.items() if n == max(complete.values())]
        met = (low == lowest)[full].any() and (high == highest)[full].any()
        assert met


def test_bounds_of_8_bit_weights_do_not_wrap() -> None:
    wide = Diagonal(frozen(127, np.int8), (3,), (3,))
    low, high = connection_bounds(connection("a", "b", wide, 4), (-1000, 1000), (3,))
    assert (int(low), int(high)) == (-127_000 * 16, 127_000 * 16)


def test_drives_of_several_connections_add_up() -> None:
    step, total = SAMPLE.drive_bounds("out")
    assert [np.broadcast_to(x, 3).tolist() for x in step] == [[-2] * 3, [1, 5, 9]]
    assert [np.broadcast_to(x, 3).tolist() for x in total] == [[-6] * 3, [3, 15, 27]]
    step, _ = SAMPLE.drive_bounds("in")
    assert [int(x) for x in step] == [0, 0]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("seed", range(3))
def test_no_run_leaves_the_proven_reach(coding: Coding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    netlist = netlists.random_netlist(rng, coding)
    low, high = netlist.input.neuron.payload()
    shape = (1, *netlist.input.shape)
    inputs = np.concatenate(
        [np.full(shape, low), np.full(shape, high), rng.choice([low, high], (2, *shape[1:]))]
    )
    result = oracles.simulate(netlist, inputs)
    for p in netlist.populations[1:]:
        states = result.states[p.name]
        assert p.state_low <= states.min() <= states.max() <= p.state_high, p.name


def test_pretty_says_what_is_connected() -> None:
    lines = SAMPLE.pretty().splitlines()
    assert lines[0] == "steps 3"
    assert lines[1] == "in: Source[2] v in [0, 0] <- user"
    assert lines[3] == "b: Window[2] v in [-81, 135] <- Dense(a)<<2 delay 0"
    assert lines[4].endswith("<- Dense(b)<<0 delay 0, Dense(a)<<0 delay 3")


def rate_sample(threshold: Array) -> Netlist:
    return sample(SoftResetIF(threshold, integers(0), integers(2)))


def test_rules_on_thresholds_hold_for_every_model_that_has_one() -> None:
    error = refusal(rate_sample(integers([3, 4])), load("loihi1"))
    assert error.rule == "loihi1 shares one threshold per population"
    assert refusal(rate_sample(integers(0))).rule == THRESHOLDS
