"""What every conversion shares: the quantised input, clip values, and the connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from lapilli.compiler.linear import Array, frozen
from lapilli.compiler.numerics import signed_range
from lapilli.compiler.populations import Population, PopulationGraph
from lapilli.compiler.spiking import SpikingConnection, SpikingPopulation

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import PopulationRange


def input_population(
    p: Population, seen: PopulationRange, bits: int, repeats: int
) -> SpikingPopulation:
    """The source: payloads of `bits` bits, unsigned where no calibration value is negative.

    repeats: steps of a window in which the input is sent.
    """
    low, high = float(seen.minimum.min()), float(seen.maximum.max())
    bottom, top = (0, 2**bits - 1) if low >= 0 else signed_range(bits)
    scale = frozen((max(-low, high) or 1.0) / top)
    rate, zero = frozen(scale / repeats), frozen(0.0)
    return SpikingPopulation(p.name, p.shape, "source", scale, 0.0, scale, rate, zero, bottom, top)


def clip_values(
    seen: PopulationRange,
    *,
    per_channel: bool,
    percentile: float | None,
    over: Literal["all", "positive"],
    levels: int,
) -> Array:
    """The activity that stands for the full count; () or (C,), positive everywhere.

    percentile None: the value of least rounding error. A channel that never fired in calibration
    takes the population's value.
    """

    def choose(channels: bool) -> Array:
        if percentile is None:
            return np.asarray(seen.least_error(levels, channels))
        return np.asarray(seen.percentile(percentile, over, channels))

    pooled = choose(False)
    if pooled <= 0:  # silent but for less than the percentile, or altogether
        pooled = np.asarray(seen.maximum.max() if seen.maximum.max() > 0 else 1.0)
    if not per_channel:
        return frozen(pooled)
    values = choose(True)
    return frozen(np.where(values > 0, values, pooled))


def convert_edges(graph: PopulationGraph) -> tuple[SpikingConnection, ...]:
    """Connections keep their maps: amplitudes and thresholds carry the normalisation."""
    return tuple(SpikingConnection(c.source, c.target, c.map) for c in graph.connections)
