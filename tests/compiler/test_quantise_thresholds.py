"""Thresholds that a chip takes: powers of two to divide by, even ones, resets kept apart."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import sample_networks
from hypothesis import given
from hypothesis import strategies as st

from lapilli.compiler.calibrate import calibrate
from lapilli.compiler.errors import StateOverflowError
from lapilli.compiler.frontend import capture, evaluation_copy
from lapilli.compiler.linear import Dense, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Interval, SigmaDelta, SoftResetIF, Window
from lapilli.compiler.passes import METHODS, method_of
from lapilli.compiler.passes.convert_parallel import Parallel
from lapilli.compiler.passes.convert_rate import Rate
from lapilli.compiler.passes.convert_sigma_delta import SigmaDelta as SigmaDeltaMethod
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.passes.quantise import quantise
from lapilli.compiler.passes.thresholds import (
    divisible,
    integer_threshold,
    occupied,
    state_limits,
)
from lapilli.compiler.spiking import SpikingConnection, SpikingGraph, SpikingPopulation, readout
from lapilli.hardware_profiles import Profile, Quantity, load
from lapilli.runtime import quantised_ann, reference

STOCK, ANY = load("lava-stock"), load("loihi2")
ATRLIF_TOP = 2**17 - 1
OPTIONS = [Parallel(levels=6), SigmaDeltaMethod(levels=6, steps=2), Rate(steps=8, input_bits=4)]
SHARED = dataclasses.replace(
    STOCK,
    features=dataclasses.replace(
        STOCK.features, threshold_sharing=Quantity("population", "granularity", "here", "assumed")
    ),
)


def integers(values: Any) -> Any:
    return frozen(values, np.int64)


def compiled(name: str, options: Any, profile: Profile) -> Netlist:
    images = sample_networks.images(name, 30)
    graph = legalise(capture(evaluation_copy(sample_networks.network(name)), images))
    spiking = METHODS[method_of(options)].convert(graph, calibrate(graph, images), options)
    return quantise(spiking, profile)


def thresholds(netlist: Netlist) -> dict[str, list[int]]:
    return {
        p.name: np.unique(p.neuron.threshold).tolist()
        for p in netlist.populations
        if isinstance(p.neuron, (Window, SigmaDelta, SoftResetIF))
    }


@pytest.mark.parametrize("options", OPTIONS, ids=method_of)
@pytest.mark.parametrize("profile", [STOCK, SHARED], ids=["channel", "population"])
@pytest.mark.parametrize("name", ["residual", "chain"])
def test_every_threshold_is_one_that_the_chip_takes(
    name: str, profile: Profile, options: Any
) -> None:
    netlist = compiled(name, options, profile)
    found = thresholds(netlist)
    assert found
    for population, values in found.items():
        neuron = netlist[population].neuron
        assert isinstance(neuron, (Window, SigmaDelta, SoftResetIF))
        assert profile is STOCK or len(values) == 1
        assert (2 * neuron.initial == neuron.threshold).all() or min(values) == 1
        if isinstance(neuron, SoftResetIF):
            assert all(value % 2 == 0 for value in values)
            step, total = netlist.drive_bounds(population)
            held = occupied(neuron, step, total, netlist.steps, profile)
            assert -ATRLIF_TOP <= held.low.min() <= held.high.max() <= ATRLIF_TOP
        else:
            assert all(value & (value - 1) == 0 for value in values)


@pytest.mark.parametrize("options", OPTIONS, ids=method_of)
def test_other_chips_take_any_threshold(options: Any) -> None:
    found = [
        value
        for values in thresholds(compiled("residual", options, ANY)).values()
        for value in values
    ]
    assert any(value & (value - 1) for value in found)


@pytest.mark.parametrize("options", OPTIONS[:2], ids=method_of)
def test_powers_of_two_still_compute_the_network(options: Any) -> None:
    """The unit moves with the threshold, so outputs stay near those of free thresholds."""
    images = sample_networks.images("residual", 20)
    outputs = []
    for profile in (STOCK, ANY):
        netlist = compiled("residual", options, profile)
        source = netlist.input
        scaled = np.floor(images / source.state_scale + 0.5).astype(np.int64)
        inputs = np.clip(scaled, netlist.source.low, netlist.source.high)
        if netlist.source.stepwise:
            inputs = np.repeat(inputs[:, np.newaxis], netlist.steps, axis=1)
        trace = reference.run(netlist, inputs)
        ann = quantised_ann.run(netlist, inputs)
        for name, count in trace.counts.items():
            np.testing.assert_array_equal(count, ann.counts[name], name)
        outputs.append(trace.outputs)
    stock, free = (np.asarray(output) for output in outputs)
    # Both are roundings of one float network to 6 levels: they agree far better than they vary.
    assert np.abs(stock - free).mean() < 0.25 * np.abs(free - free.mean(0)).mean()


RATIOS = st.floats(1e-3, 1e7)


@given(st.lists(RATIOS, min_size=1, max_size=4), st.floats(1e-6, 1e6))
def test_units_grow_to_the_next_power_of_two(ratios: list[float], scale: float) -> None:
    threshold = np.array(ratios) * scale
    unit = np.full(len(ratios), scale)
    found = divisible(unit, threshold, "window", STOCK)
    for ratio, coarser, whole in zip(ratios, found / unit, threshold / found, strict=True):
        assert math.frexp(whole)[0] == 0.5, "a power of two exactly"
        assert 1 - 1e-8 <= coarser < 2, ratio
    assert divisible(unit, threshold, "soft_reset_if", STOCK) is unit
    assert divisible(unit, threshold, "window", ANY) is unit


@given(RATIOS)
def test_even_thresholds_are_the_nearest(ratio: float) -> None:
    found = int(integer_threshold(np.asarray(ratio), "soft_reset_if", STOCK))
    assert found >= 2
    assert found % 2 == 0
    assert found == 2 or abs(found - ratio) <= 1
    free = int(integer_threshold(np.asarray(ratio), "soft_reset_if", ANY))
    assert free == 1 or abs(free - ratio) <= 0.5


def test_state_limits_follow_the_arithmetic() -> None:
    assert state_limits("soft_reset_if", STOCK) == (-ATRLIF_TOP, ATRLIF_TOP)
    assert state_limits("window", STOCK) == (-(2**23) + 1, 2**23 - 1)
    assert state_limits("soft_reset_if", ANY) == (-(2**23) + 1, 2**23 - 1)


def test_what_variables_hold_on_the_chip() -> None:
    step, total = (Interval(integers(-a), integers(b)) for a, b in ((10, 20), (30, 70)))
    soft = SoftResetIF(integers(8), integers(-1), integers(4))
    # In five steps of bias -1, nothing subtracted, less half the threshold.
    assert occupied(soft, step, total, 5, STOCK) == (4 - 30 - 5 - 4, 4 + 70 - 4)
    assert occupied(soft, step, total, 5, ANY) == soft.reach(step, total, 5)
    window = Window(integers(8), integers(1), integers(4), 3, "graded")
    assert occupied(window, step, total, 5, STOCK) == (5 - 30 - 4 * 8, 5 + 70)
    assert occupied(window, step, total, 5, ANY) == (5 - 30, 5 + 70)


def test_windows_too_long_for_kept_resets_are_refused() -> None:
    size, one, zero = 64, frozen(1.0), frozen(0.0)
    weights = frozen(np.random.default_rng(0).normal(0, 1, (4, size)))
    source = SpikingPopulation("in", (size,), "source", one, 0.0, one, one, zero, -255, 255)
    neuron = SpikingPopulation("it", (4,), "soft_reset_if", frozen(9.0), 0.5, one, one, zero, 0, 9)
    populations = (source, neuron, readout("out", (4,), zero))
    connections = (
        SpikingConnection("in", "it", Dense(weights, (size,), (4,))),
        SpikingConnection("it", "out", Dense(frozen(np.eye(4)), (4,), (4,))),
    )
    graph = SpikingGraph(populations, connections, 64, 64, "unary", "held")
    assert quantise(graph, ANY)["it"].state_high > ATRLIF_TOP
    with pytest.raises(StateOverflowError) as caught:
        quantise(graph, STOCK)
    assert caught.value.where == "it (SoftResetIF)"
    assert caught.value.allowed == f"[{-ATRLIF_TOP}, {ATRLIF_TOP}]"
    assert "input bits" in caught.value.remedy
