"""A population's neurons in integers, once the unit of its membrane is chosen.

What no drive can make good changes no spike: biases and rungs are cut where that begins, so that
they fit.
"""

from __future__ import annotations

import numpy as np

from lapilli.compiler.linear import Array, along_channels, frozen
from lapilli.compiler.neurons import (
    HardResetIF,
    Interval,
    Ladder,
    MultiThreshold,
    NeuronModel,
    Readout,
    SigmaDelta,
    SignedIF,
    SoftResetIF,
    Window,
)
from lapilli.compiler.numerics import Int64Array, half_up, round_down
from lapilli.compiler.passes.thresholds import integer_threshold
from lapilli.compiler.spiking import Rungs, SpikingGraph, SpikingPopulation
from lapilli.hardware_profiles import Profile

SNAP = 1e-9
"""A rung that is so little above an integer is that integer, but for float rounding."""


def integer_neuron(
    graph: SpikingGraph,
    p: SpikingPopulation,
    unit: Array,
    step: Interval,
    total: Interval,
    profile: Profile,
) -> NeuronModel:
    """The neuron in units of `unit`, which broadcasts to the population's shape.

    step, total: bounds of what arrives in one step and in a window, in units.
    """
    zero = frozen(0, np.int64)
    lowest = graph.lowest(p)
    levels = p.high - p.low + lowest
    if p.rungs is not None:
        return _ladder(graph, p, p.rungs, unit, total)
    if p.model == "readout":
        bias = frozen(half_up(p.bias / unit))
        return Readout(bias, zero) if graph.hold else Readout(zero, bias)
    ratio = along_channels(p.threshold, p.shape) / unit
    if np.ptp(ratio) <= 1e-9 * ratio.max():  # equal but for float rounding: one threshold
        ratio = np.asarray(ratio.flat[0])
    threshold = frozen(integer_threshold(ratio, p.model, profile))
    # floor(theta / 2) makes floor((u + v0) / theta) round u / theta half up, for odd theta too.
    initial = frozen(round_down(threshold * p.initial))
    if p.model not in ("window", "sigma_delta", "signed_if") or graph.hold:
        return _stepwise(graph, p, threshold, initial, p.bias / unit, step)
    least = threshold * lowest - initial - np.maximum(total.high, 0)
    most = threshold * levels - initial - np.minimum(total.low, 0)
    bias = _integer_between(p.bias / unit, least, most)
    if p.model == "signed_if":
        return SignedIF(threshold, bias, initial, levels)
    if graph.sending == "changes":
        return SigmaDelta(threshold, bias, initial, levels, lowest)
    assert graph.coding != "changes"
    return Window(threshold, bias, initial, levels, graph.coding, lowest)


def _stepwise(
    graph: SpikingGraph,
    p: SpikingPopulation,
    threshold: Array,
    initial: Array,
    bias: Array,
    step: Interval,
) -> NeuronModel:
    """A neuron that may fire in every step, and that its bias drives in every step."""
    levels = p.high - p.low
    at_once = levels // graph.steps if p.model == "multi_threshold" else 1  # spikes per step
    least = -np.maximum(step.high, 0)
    most = threshold * at_once - np.minimum(step.low, 0)
    if p.spread:
        bias, initial = bias + threshold * p.initial / graph.steps, frozen(0, np.int64)
    bias = _integer_between(bias, least, most)
    if p.model == "signed_if":
        return SignedIF(threshold, frozen(0, np.int64), initial, levels, bias)
    if p.model == "multi_threshold":
        return MultiThreshold(threshold, bias, initial, at_once, p.decay)
    model = HardResetIF if p.model == "hard_reset_if" else SoftResetIF
    return model(threshold, bias, initial)


def _ladder(
    graph: SpikingGraph, p: SpikingPopulation, rungs: Rungs, unit: Array, total: Interval
) -> Ladder:
    """v reaches a real rung when it reaches the next integer; those out of reach lie just there."""
    unit = along_channels(unit.reshape(-1), p.shape) if unit.size > 1 else unit.reshape(())
    at = [along_channels(rung, p.shape) / unit for rung in rungs.at]
    finite = np.concatenate([rung[np.isfinite(rung)] for rung in at] or [np.zeros(1)])
    below = float(finite.min(initial=0.0)) - np.maximum(total.high, 0) - 1
    above = float(finite.max(initial=0.0)) - np.minimum(total.low, 0) + 1
    bias = frozen(half_up(np.clip(p.bias / unit, below, above)))
    low = int((bias + np.minimum(total.low, 0)).min())
    high = int((bias + np.maximum(total.high, 0)).max()) + 1
    near = [np.clip(rung, low - 1, high + 1) - SNAP for rung in at]
    thresholds = [np.clip(-round_down(-rung), low, high) for rung in near]
    lowest = graph.lowest(p)
    return Ladder(
        thresholds=frozen(np.stack(np.broadcast_arrays(*thresholds)), np.int64),
        rises=frozen([along_channels(rise, p.shape) for rise in rungs.rises], np.int64),
        foot=frozen(along_channels(rungs.start - p.low + lowest, p.shape), np.int64),
        bias=bias,
        initial=frozen(0, np.int64),
        lowest=lowest,
        levels=p.high - p.low + lowest,
        sending=graph.coding,
    )


def _integer_between(values: Array, low: Int64Array, high: Int64Array) -> Array:
    return frozen(half_up(np.clip(values, low, high)))
