"""What each method's neuron is for: equalities between models, and parameters that cannot be.

I2.1: an invariant of LM-HT, counted in integers. Stacks of layers run on the reference engine.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from chips import chip, quantity
from netlists import connection, integers, population, proven

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array, Conv, Dense, Diagonal, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import (
    GradedMax,
    HardResetIF,
    Ladder,
    MultiThreshold,
    NeuronModel,
    OrGate,
    Product,
    RateGate,
    RateMax,
    Readout,
    Relay,
    SigmaDelta,
    SignedIF,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.compiler.numerics import Int64Array
from lapilli.hardware_profiles import load
from lapilli.runtime import quantised_ann, reference

ZERO, ONE = integers(0), integers(1)


def run(model: NeuronModel, drive: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Spikes and membranes (steps, *shape) for one window of drive (steps, *shape)."""
    state, spikes, membranes = model.start(drive.shape[1:]), [], []
    for tau in range(len(drive)):
        state, sent = model.step(state, drive[tau], tau, len(drive))
        spikes.append(sent)
        membranes.append(state["v"])
    return np.array(spikes), np.array(membranes)


def rising(thresholds: Array, bias: Array, levels: int, sending: Any) -> Ladder:
    """A ladder that climbs from 0, one step per threshold."""
    rises = integers(np.ones(len(thresholds)))
    return Ladder(thresholds, rises, ZERO, bias, ZERO, 0, levels, sending)


def stack(rng: np.random.Generator, depth: int, levels: int, window: int) -> Netlist:
    """`depth` dense layers of SignedIF, random signs; what arrives is spread over the window."""
    size = 12
    populations = [population("input", (size,), Source(-9, 9, "train"))]
    connections = []
    for index in range(depth):
        weights = rng.integers(-40, 41, (size, size))
        threshold = rng.integers(40, 200, size)
        bias = rng.integers(-threshold, threshold)
        neuron = SignedIF(integers(threshold), integers(bias), integers(threshold // 2), levels)
        name, before = f"layer{index}", populations[-1].name
        populations.append(population(name, (size,), neuron))
        matrix = Dense(frozen(weights, np.int8), (size,), (size,))
        connections.append(connection(before, name, matrix))
    head = Dense(frozen(rng.integers(-9, 10, (3, size)), np.int8), (size,), (3,))
    connections.append(connection(populations[-1].name, "out", head))
    populations.append(population("out", (3,), Readout(ZERO, ZERO)))
    return proven(Netlist(tuple(populations), tuple(connections), window))


@pytest.mark.parametrize("depth", [2, 5, 10])
@pytest.mark.parametrize("levels", [3, 8])
def test_every_layer_of_signed_neurons_settles_to_the_quantised_ann(
    depth: int, levels: int
) -> None:
    rng = np.random.default_rng(depth * levels)
    netlist = stack(rng, depth, levels, window=levels + 32)
    images, steps = 20, netlist.steps
    inputs = np.zeros((images, steps, *netlist.input.shape), np.int64)
    inputs[:, :levels] = rng.integers(-9, 10, (images, levels, *netlist.input.shape))
    netlist.verify()
    trace = reference.run(netlist, inputs, record="spikes")
    ann = quantised_ann.run(netlist, inputs)
    taken_back = 0
    for p in netlist.populations[1:-1]:
        spikes = trace.spikes[p.name]
        assert (spikes.sum(1) == ann.counts[p.name]).all(), p.name
        assert 0 < ann.counts[p.name].mean() < levels
        taken_back += int((spikes < 0).sum())
        last = int(np.flatnonzero(spikes.any(axis=(0, 2)))[-1]) + 1
        assert last <= levels + 24, f"{p.name} speaks for {last} steps"
    assert (trace.readouts["out"] == ann.readouts["out"]).all()
    assert taken_back, "without a spike of -1 nothing is shown"
    assert not netlist.settles, "silence after a given time is measured, not proved"


def test_signed_neurons_without_time_to_settle_differ_from_the_quantised_ann() -> None:
    rng = np.random.default_rng(0)
    netlist = stack(rng, 5, 8, window=8)
    inputs = rng.integers(-9, 10, (20, 8, *netlist.input.shape))
    trace, ann = reference.run(netlist, inputs), quantised_ann.run(netlist, inputs)
    assert any((trace.counts[n] != ann.counts[n]).any() for n in ("layer1", "layer4"))


def test_i2_1_one_step_of_many_thresholds_is_as_many_steps_of_one() -> None:
    rng = np.random.default_rng(1)
    levels, size = 5, 20_000
    theta = rng.integers(1, 60, size)
    start = rng.integers(0, theta)
    drive = rng.integers(-80, 120, size)
    many = MultiThreshold(integers(theta * levels), ZERO, integers(start * levels), levels, 0)
    one = SoftResetIF(integers(theta * levels), ZERO, integers(start * levels))
    spikes, membranes = run(many, drive[np.newaxis] * levels)
    single, singles = run(one, np.repeat(drive[np.newaxis], levels, axis=0))
    assert (spikes[0] == single.sum(axis=0)).all()
    assert (membranes[0] == singles[-1]).all()
    assert set(spikes[0].tolist()) == set(range(levels + 1))


@pytest.mark.parametrize(("levels", "steps"), [(12, 1), (4, 3), (2, 6)])
def test_levels_times_steps_is_what_counts_for_even_drive(levels: int, steps: int) -> None:
    rng = np.random.default_rng(levels)
    theta = rng.integers(1, 40, 5000) * 12
    drive = rng.integers(-3, 50, 5000) * 12
    half = integers(theta // 2)
    window = Window(integers(theta), ZERO, half, 12, "graded").quantised(drive * 12, 1)
    many = MultiThreshold(integers(theta), ZERO, half, levels, 0)
    even = np.repeat(drive[np.newaxis] * (12 // steps), steps, axis=0)
    assert (run(many, even)[0].sum(axis=0) == window).all()
    assert (many.quantised(even.sum(axis=0), steps) == window).all()
    assert (
        run(MultiThreshold(integers(theta), ZERO, half, 12, 0), even[:1] * steps)[0] == window
    ).all()


def test_a_leak_takes_the_same_part_of_both_signs_towards_zero() -> None:
    membranes = np.array([4096, -4096, 4095, -4095, 1, -1, 0])
    for decay, kept in ((0, membranes), (1024, [3072, -3072, 3071, -3071, 0, 0, 0])):
        model = MultiThreshold(integers(10**6), ZERO, integers(membranes), 1, decay)
        assert run(model, np.zeros((1, 7), np.int64))[1][0].tolist() == list(kept)
    gone = MultiThreshold(integers(10**6), ZERO, integers(membranes), 1, 4096)
    assert not run(gone, np.zeros((1, 7), np.int64))[1].any()
    with pytest.raises(NetlistError, match="MultiThreshold"):
        gone.quantised(membranes, 2)
    assert not gone.quantised(membranes * 0, 1).any()


@pytest.mark.parametrize("sending", ["graded", "unary"])
@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_ladder_of_multiples_is_a_window(sending: Any, rank: int) -> None:
    rng = np.random.default_rng(rank)
    shape, levels = (6, 5), 4
    theta = rng.integers(1, 20, ((), (5,), (6, 5))[rank])
    bias = integers(rng.integers(-20, 20, shape))
    rungs = integers(np.stack([k * theta for k in range(1, levels + 1)]))
    drive = rng.integers(-20, 40, (levels, 100, *shape))
    window = Window(integers(theta), bias, ZERO, levels, sending)
    ladder = rising(rungs, bias, levels, sending)
    for found, expected in zip(run(ladder, drive), run(window, drive), strict=True):
        assert (found == expected).all()
    counts = ladder.quantised(drive.sum(axis=0), levels)
    assert (counts == window.quantised(drive.sum(axis=0), levels)).all()
    assert set(counts.reshape(-1).tolist()) == set(range(levels + 1))


def test_a_ladder_is_any_staircase() -> None:
    rungs = integers([-30, -5, -5, 0, 100])
    v = np.array([-31, -30, -6, -5, -1, 0, 99, 100, 10**6])
    model = rising(rungs, ZERO, 5, "graded")
    assert model.count(v).tolist() == [0, 1, 1, 3, 3, 4, 4, 5, 5]
    wide = rising(integers(np.repeat(rungs[:, None], 9, axis=1)), ZERO, 5, "graded")
    assert wide.count(v).tolist() == model.count(v).tolist()


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_ladder_is_a_curve_that_falls_and_rises(rank: int) -> None:
    """SiLU, negative counts included: thresholds are where its rounded value changes."""
    v = np.arange(-8000, 8000)
    exact = np.floor(8 * (v / 1000) / (1 + np.exp(-v / 1000)) + 0.5).astype(int)
    change = np.diff(exact)
    rungs, rises = v[1:][change != 0], change[change != 0]
    assert set(rises.tolist()) == {-1, 1}
    axes = ((), (1,), (1, 1))[rank]
    rungs, rises = (x.reshape(-1, *axes) for x in (rungs, rises))
    model = Ladder(
        *(integers(x) for x in (rungs, rises, exact[0], 0, 0)), -2, int(exact.max()), "graded"
    )
    assert model.flaw(1) is None
    shown = v.reshape(-1, *axes) if rank else v
    assert model.quantised(shown, 1).reshape(-1).tolist() == exact.tolist()
    assert exact.min() == -2
    assert run(model, shown[np.newaxis])[0].reshape(-1).tolist() == exact.tolist()
    short = Ladder(
        *(integers(x) for x in (rungs, rises, exact[0], 0, 0)), -1, int(exact.max()), "graded"
    )
    flaw = short.flaw(1)
    assert flaw is not None
    assert flaw.rule == "a ladder stays between its lowest and its largest count"


@pytest.mark.parametrize(("lowest", "levels"), [(-4, 3), (-5, -1), (2, 6), (0, 3)])
def test_counts_have_a_lowest_value_too(lowest: int, levels: int) -> None:
    rng = np.random.default_rng(9)
    theta = rng.integers(1, 20, 500)
    drive = rng.integers(-90, 90, (1, 500))
    ratio = (drive[0] / theta).tolist()
    expected = [min(max(int(np.floor(r)), lowest), levels) for r in ratio]
    window = Window(integers(theta), ZERO, ZERO, levels, "graded", lowest)
    delta = SigmaDelta(integers(theta), ZERO, ZERO, levels, lowest)
    for model in (window, delta):
        assert model.flaw(1) is None
        assert run(model, drive)[0][0].tolist() == expected
        assert model.window_total(1) == (min(lowest, 0), max(levels, 0))
    assert window.payload() == (min(lowest, 0), max(levels, 0))
    assert set(expected) == set(range(lowest, levels + 1))


def pooled(first: NeuronModel, gate: NeuronModel, steps: int, exponents: list[int]) -> Netlist:
    """One neuron per pixel, then a gate over 2x2 of them, tap by tap where there are exponents."""
    shape, half = (3, 6, 6), (3, 3, 3)
    one = frozen(np.ones((3, 1, 1, 1)), np.int8)
    populations = (
        population("input", shape, Source(-20, 60, "first" if steps == 9 else "held")),
        population("counts", shape, first),
        population("max", half, gate),
        population("out", half, Readout(ZERO, ZERO)),
    )
    drives = [connection("input", "counts", Conv(one, shape, shape, groups=3))]
    if exponents:
        for k in exponents:
            tap = np.zeros((3, 1, 2, 2))
            tap[:, :, k // 2, k % 2] = 1
            taps = Conv(frozen(tap, np.int8), shape, half, (2, 2), groups=3)
            drives.append(connection("counts", "max", taps, k))
    else:
        pool = frozen(np.ones((3, 1, 2, 2)), np.int8)
        drives.append(connection("counts", "max", Conv(pool, shape, half, (2, 2), groups=3)))
    drives.append(connection("max", "out", Conv(one, half, half, groups=3)))
    netlist = proven(Netlist(populations, tuple(drives), steps))
    netlist.verify()
    return netlist


def maxima(counts: Array) -> Array:
    """(N, 3, 6, 6) to the largest of every 2x2."""
    return np.asarray(counts.reshape(-1, 3, 3, 2, 3, 2).max(axis=(3, 5)))


@pytest.mark.parametrize("kind", ["window", "ladder"])
def test_an_or_gate_is_the_maximum_of_sorted_spikes(kind: str) -> None:
    first: NeuronModel = Window(integers(6), ZERO, integers(3), 9, "unary")
    if kind == "ladder":
        first = rising(integers([-8, 0, 1, 5, 7, 20, 30, 31, 50]), ZERO, 9, "unary")
    netlist = pooled(first, OrGate(), 9, [])
    inputs = np.random.default_rng(2).integers(-20, 61, (40, 3, 6, 6))
    trace = reference.run(netlist, inputs)
    assert (trace.counts["max"] == maxima(trace.counts["counts"])).all()
    assert len(np.unique(trace.counts["max"])) > 5
    assert (trace.readouts["out"] == trace.counts["max"]).all()


def test_rate_max_is_the_maximum_where_an_or_overestimates() -> None:
    rng = np.random.default_rng(3)
    first = SoftResetIF(integers(61), ZERO, integers(rng.integers(0, 61, (3, 6, 6))))
    inputs = rng.integers(-20, 61, (20, 3, 6, 6))
    trace = reference.run(pooled(first, RateMax(4), 100, [0, 1, 2, 3]), inputs, record="spikes")
    best = maxima(trace.counts["counts"])
    assert (trace.counts["max"] == best).all()
    joined = reference.run(pooled(first, OrGate(), 100, []), inputs)
    assert (joined.counts["max"] - best).mean() > 5
    # At every step, too, not only at the end.
    for t in range(100):
        so_far = (trace.spikes[name][:, : t + 1].sum(axis=1) for name in ("max", "counts"))
        sent, arrived = so_far
        assert (sent == maxima(arrived)).all()


def test_rate_max_is_not_fooled_by_inputs_that_take_turns() -> None:
    """Letting the leader's spikes through, as published, sends all 64."""
    drive = np.array([2, 1] * 32)[:, np.newaxis]
    spikes, _ = run(RateMax(2), drive)
    assert int(spikes.sum()) == 32
    assert int(run(RateGate(2), drive)[0].sum()) == 64


def test_a_hard_reset_loses_what_is_above_the_threshold() -> None:
    """I5.2: constant drive a counts floor(T / ceil(threshold / a))."""
    rng = np.random.default_rng(4)
    theta = rng.integers(1, 100, 3000)
    drive = rng.integers(1, theta + 1)
    steps = 50
    model = HardResetIF(integers(theta), ZERO, ZERO)
    even = np.repeat(drive[np.newaxis], steps, axis=0)
    expected = steps // -(-theta // drive)
    assert (run(model, even)[0].sum(axis=0) == expected).all()
    soft = run(SoftResetIF(integers(theta), ZERO, ZERO), even)[0].sum(axis=0)
    assert (soft >= expected).all()
    assert (soft > expected).any()
    with pytest.raises(NetlistError, match="HardResetIF"):
        model.quantised(drive, steps)


FLAWS: list[tuple[NeuronModel, str]] = [
    (HardResetIF(ZERO, ZERO, ZERO), "thresholds are positive"),
    (SignedIF(integers(0), ZERO, ZERO, 3), "thresholds are positive"),
    (SignedIF(integers(1), ZERO, ZERO, 0), "a window sends all its spikes"),
    (MultiThreshold(integers(-1), ZERO, ZERO, 3, 0), "thresholds are positive"),
    (MultiThreshold(integers(1), ZERO, ZERO, 2**23, 0), "a window sends all its spikes"),
    (MultiThreshold(integers(1), ZERO, ZERO, 3, 4097), "a decay is a fraction"),
    (MultiThreshold(integers(1), ZERO, ZERO, 3, -1), "a decay is a fraction"),
    (
        Ladder(integers([1, 2]), integers([1]), ZERO, ZERO, ZERO, 0, 3, "graded"),
        "a ladder has a rise per threshold",
    ),
    (rising(integers([1, 3, 2]), ZERO, 3, "graded"), "thresholds do not fall"),
    (rising(integers([[1, 5], [2, 4]]), ZERO, 2, "graded"), "thresholds do not fall"),
    (rising(integers([1, 2**23]), ZERO, 2, "graded"), "thresholds fit the state"),
    (rising(integers([-(2**23), 1]), ZERO, 2, "graded"), "thresholds fit the state"),
    (rising(integers([1, 2, 3, 4, 5]), ZERO, 5, "unary"), "a window sends all its spikes"),
    (Ladder(integers([]), integers([]), ZERO, ZERO, ZERO, 0, 3, "graded"), "a ladder has a rise"),
    (
        Ladder(integers([1, 2]), integers([1, 2]), ZERO, ZERO, ZERO, 0, 3, "graded"),
        "a rung is one step up or down",
    ),
    (rising(integers([1, 2, 3]), ZERO, 2, "graded"), "a ladder stays between"),
    (
        Ladder(integers([1, 2]), integers([1, -1]), integers([0, -1]), ZERO, ZERO, 0, 3, "graded"),
        "a ladder stays between",
    ),
    (Window(integers(1), ZERO, ZERO, 3, "unary", -1), "spikes of one say a count from 0 on"),
    (Window(integers(1), ZERO, ZERO, 3, "graded", 3), "a window sends all its spikes"),
    (Window(integers(1), ZERO, ZERO, 3, "graded", -(2**23)), "a window sends all its spikes"),
    (SigmaDelta(integers(1), ZERO, ZERO, 2**22, -(2**22)), "a window sends all its spikes"),
    (SigmaDelta(integers(1), ZERO, ZERO, -(2**22), -(2**23)), "a window sends all its spikes"),
    (GradedMax(ZERO, 0, 5, 0, 9, "graded"), "packed counts are bits of a state"),
    (GradedMax(ZERO, 2, 0, 0, 1, "graded"), "packed counts are bits of a state"),
    (GradedMax(ZERO, 5, 5, 0, 9, "graded"), "packed counts are bits of a state"),
    (GradedMax(ZERO, -1, -5, 0, 9, "graded"), "packed counts are bits of a state"),
    (GradedMax(ZERO, 2, 3, -1, 7, "graded"), "a field holds every count"),
    (GradedMax(ZERO, 2, 3, 7, 7, "graded"), "a window sends all its spikes"),
    (Product(ZERO, ZERO, ZERO, 3, 0, 0, 0, 3, "graded"), "thresholds are positive"),
    (Product(ONE, ZERO, ZERO, 3, 0, 0, 0, 5, "unary"), "a window sends all its spikes"),
    (Product(ONE, ZERO, ZERO, 3, 0, 0, -1, 3, "unary"), "spikes of one say a count from 0 on"),
    (Product(ONE, ZERO, ZERO, 0, 0, 0, 0, 3, "graded"), "packed counts are bits of a state"),
    (Product(ONE, ZERO, ZERO, 24, 0, 0, 0, 3, "graded"), "packed counts are bits of a state"),
    (Product(ONE, ZERO, ZERO, 3, 0, -1, 0, 3, "graded"), "a product is shifted left by little"),
    (Product(ONE, ZERO, ZERO, 3, 0, 13, 0, 3, "graded"), "a product is shifted left by little"),
    (Product(ONE, ZERO, ZERO, 3, -(2**23), 0, 0, 3, "graded"), "factors and products fit"),
    (Product(ONE, ZERO, integers(2**23), 3, 0, 0, 0, 3, "graded"), "factors and products fit"),
    (Product(ONE, ZERO, integers(-(2**23)), 3, 0, 0, 0, 3, "graded"), "factors and products fit"),
    (Relay(ONE, ONE, ZERO, ZERO), "bounds of sums contain 0"),
    (Relay(ZERO, ONE, ZERO, integers(-1)), "bounds of sums contain 0"),
    (Relay(integers([0, -(2**23)]), ONE, ZERO, ZERO), "sums fit the state"),
    (Relay(ZERO, integers(2**23), ZERO, ZERO), "sums fit the state"),
    (Relay(ZERO, ONE, ZERO, integers(2**31)), "the spikes of a window add up to 32 bits"),
    (Relay(ZERO, ONE, integers(-(2**31)), ZERO), "the spikes of a window add up to 32 bits"),
    (RateMax(0), "the inputs of a pool"),
    (RateMax(24), "the inputs of a pool"),
    (RateGate(24), "the inputs of a pool"),
]


@pytest.mark.parametrize(("model", "rule"), FLAWS)
def test_parameters_that_cannot_be(model: NeuronModel, rule: str) -> None:
    flaw = model.flaw(4)
    assert flaw is not None
    assert flaw.rule.startswith(rule)


@pytest.mark.parametrize(
    "model",
    [
        rising(integers([-7, -7, 0]), ZERO, 3, "unary"),
        SignedIF(integers(1), ZERO, ZERO, 9),
        MultiThreshold(integers(1), ZERO, ZERO, 9, 4096),
        RateMax(23),
        OrGate(),
        Relay(integers(1 - 2**23), integers(2**23 - 1), ZERO, integers(2**31 - 1)),
        Window(ONE, ZERO, ZERO, 2**23 - 1, "graded", 1 - 2**23),
        SigmaDelta(ONE, ZERO, ZERO, 2**22 - 1, -(2**22)),
        GradedMax(ZERO, 23, 1, -1, 0, "changes"),
        Product(ONE, ZERO, integers(2**23 - 1), 23, 1 - 2**23, 12, 0, 4, "unary"),
    ],
)
def test_parameters_that_can_be(model: NeuronModel) -> None:
    assert model.flaw(4) is None


@pytest.mark.parametrize("parameter", ["thresholds", "rises"])
@pytest.mark.parametrize(
    ("rungs", "sharing", "found"),
    [
        ([0, 1, 1], "population", None),
        ([[[0]] * 2, [[1]] * 2, [[1]] * 2], "population", None),
        ([[[0], [0]], [[0], [1]], [[1], [1]]], "channel", None),
        ([[[0, 0], [0, 0]], [[0, 0], [1, 1]]], "channel", None),
        ([[[0], [0]], [[0], [1]], [[1], [1]]], "population", "shares one threshold per population"),
        ([[[0, 0], [0, 0]], [[0, 1], [1, 1]]], "channel", "shares one threshold per channel"),
        ([[[0, 0], [0, 0]], [[0, 1], [1, 1]]], "neuron", None),
    ],
)
def test_a_ladder_is_shared_as_far_as_the_chip_wants(
    rungs: Any, sharing: str, found: str | None, parameter: str
) -> None:
    shape = (2, 2)
    profile = chip()
    features = dataclasses.replace(profile.features, threshold_sharing=quantity(sharing))
    profile = dataclasses.replace(profile, features=features)
    ladder = rising(integers(range(len(rungs))), ZERO, len(rungs), "unary")
    ladder = dataclasses.replace(ladder, **{parameter: integers(rungs)})
    populations = (
        population("in", shape, Source(0, 3, "first")),
        population("a", shape, ladder),
        population("out", shape, Readout(ZERO, ZERO)),
    )
    drives = [
        connection(a, b, Diagonal(frozen(1), shape, shape)) for a, b in (("in", "a"), ("a", "out"))
    ]
    netlist = proven(Netlist(populations, tuple(drives), 4))
    if found is None:
        netlist.verify(profile)
    else:
        with pytest.raises(NetlistError, match=found):
            netlist.verify(profile)


def test_neurons_that_are_fixed_have_no_ladder() -> None:
    ladder = rising(integers([1, 2]), ZERO, 2, "unary")
    with pytest.raises(NetlistError, match="loihi1 has fixed neurons"):
        pooled(ladder, OrGate(), 9, []).verify(load("loihi1"))
