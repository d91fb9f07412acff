"""What every conversion shares: the quantised input, the sizes of steps, pools, connections."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from lapilli.compiler.activations import Clip, dynamics_of, staircase_top
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.linear import Array, frozen
from lapilli.compiler.numerics import half_up, signed_range
from lapilli.compiler.populations import Population, PopulationGraph
from lapilli.compiler.spiking import SpikingConnection, SpikingPopulation

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import PopulationRange


def input_population(
    p: Population, seen: PopulationRange, bits: int, repeats: int
) -> SpikingPopulation:
    """The source: payloads of `bits` bits, unsigned where no calibration value is negative.

    bits: 1 for single spikes, which have a sign where values are negative; repeats: steps of a
    window in which the input is sent.
    """
    low, high = float(seen.minimum.min()), float(seen.maximum.max())
    bottom, top = (0, 2**bits - 1) if low >= 0 else signed_range(max(bits, 2))
    scale = frozen((max(-low, high) or 1.0) / top)
    return SpikingPopulation(
        p.name,
        p.shape,
        "source",
        threshold=scale,
        initial=0.0,
        amplitude=scale,
        count_scale=frozen(scale / repeats),
        bias=frozen(0.0),
        low=bottom,
        high=top,
    )


@final
@dataclass(frozen=True)
class ClipRule:
    """How the largest activity that counts can say is chosen.

    percentile None: by least squared rounding error.
    """

    per_channel: bool
    percentile: float | None
    over: Literal["all", "positive"] = "all"


def count_range(seen: PopulationRange, levels: int) -> tuple[int, int]:
    """Smallest and largest count, levels apart: 0 is silence, the sides share by their extremes."""
    bottom, top = max(-float(seen.minimum.min()), 0.0), max(float(seen.maximum.max()), 0.0)
    if bottom == 0:
        return 0, levels
    if levels == 1:  # one side has to do without
        return (0, 1) if top >= bottom else (-1, 0)
    below = int(np.clip(half_up(levels * bottom / (bottom + top)), 1, levels - 1))
    return -below, levels - below


def step_sizes(seen: PopulationRange, low: int, high: int, rule: ClipRule) -> Array:
    """Activity per count; () or (C,), positive everywhere.

    A channel that never fired in calibration takes the population's value.
    """

    def choose(channels: bool) -> Array:
        if rule.percentile is None:
            return np.asarray(seen.least_error(low, high, channels))
        reach = seen.percentile(rule.percentile, rule.over, channels) / max(high, 1)
        if low < 0:  # the other side by its extreme: it is bounded, or has no tail
            deepest = -seen.minimum if channels else -seen.minimum.min(keepdims=True)
            reach = np.maximum(reach, deepest.reshape(reach.shape) / -low)
        return np.asarray(reach)

    values = choose(True) if rule.per_channel else np.zeros(())
    if (values > 0).all():
        return frozen(values)
    pooled = choose(False)
    if pooled <= 0:  # silent but for less than the percentile, or altogether
        pooled = np.asarray(seen.maximum.max() if seen.maximum.max() > 0 else 1.0) / max(high, 1)
    return frozen(np.where(values > 0, values, pooled))


def clipped_line(p: Population) -> Clip:
    """The activation of p, where it is one that spikes of equal value can carry.

    Raises UnsupportedOperatorError for curves and products.
    """
    if isinstance(p.activation, Clip):
        return p.activation
    trained = staircase_top(p.activation)
    if trained is not None:
        return Clip(0.0, float(trained[0].max()))
    raise UnsupportedOperatorError(
        f"{p.name} at {p.where}",
        "spikes of equal value add up to a clipped line of the drive",
        found="product" if p.activation is None else p.activation.name,
        allowed="ReLU, ReLU6 and other clipped lines, QCFS",
        remedy="Use the method parallel, whose neurons count any function of their drive.",
    )


def check_dynamics(p: Population, uneven: Literal["subtract", "zero"] | None = None) -> None:
    """Raise UnsupportedOperatorError where p was trained to count as a method's neurons do not.

    uneven: the reset of what the method can do beside even staircases; None: nothing.
    """
    trained = dynamics_of(p.activation)
    if trained is None or trained.even or trained.reset == uneven:
        return
    raise UnsupportedOperatorError(
        f"{p.name} at {p.where}",
        "a layer of spikes is converted to neurons that count as it was trained to",
        found=str(trained),
        allowed="an even staircase, under this method's options",
        remedy="Use the method that SpikingNetwork.method() says.",
    )


def own_start(p: Population, otherwise: float) -> float:
    """The fraction of a threshold that p's membrane starts with; its own where it was trained."""
    trained = dynamics_of(p.activation)
    return otherwise if trained is None else trained.initial


def line_steps(
    p: Population, seen: PopulationRange, levels: int, rule: ClipRule
) -> tuple[Array, Array]:
    """Activity of the count 0, and activity per count from there on, () or (C,).

    `levels` counts lie between the least activity, or zero, and what `rule` says or where the
    activation itself ends. What is negative is raised to zero, and taken off again where the spikes
    arrive. Raises UnsupportedOperatorError as `clipped_line` does.
    """
    clip = clipped_line(p)
    trained = staircase_top(p.activation)
    if trained is not None:  # the network says it itself
        return frozen(0.0), frozen(trained[0] / levels)
    low, high = count_range(seen, levels)
    if low < 0 < high and not math.isfinite(clip.low):  # so that zero is a count, too
        step = step_sizes(seen, low, high, rule)
        if (high * step <= clip.high).all():  # where the other side is no longer than this one
            return frozen(low * step), step
    bottom = clip.low if math.isfinite(clip.low) else min(float(seen.minimum.min()), 0.0)
    top = np.minimum(step_sizes(seen, 0, levels, rule) * levels, clip.high)
    top = np.where(top > bottom, top, min(bottom + 1.0, clip.high))  # where it never left bottom
    return frozen(bottom), frozen((top - bottom) / levels)


def depths(graph: PopulationGraph) -> dict[str, int]:
    """How many layers of neurons lie before each population, on the longest way from the input."""
    found: dict[str, int] = {}
    for p in graph.populations:
        before = (c.source for c in graph.into(p.name))
        spiking = (found[s] + (graph[s].role != "input") for s in before)
        found[p.name] = max(spiking, default=0)
    return found


def convert_edges(graph: PopulationGraph) -> tuple[SpikingConnection, ...]:
    """Connections keep their maps: amplitudes and thresholds carry the normalisation."""
    return tuple(SpikingConnection(c.source, c.target, c.map) for c in graph.connections)
