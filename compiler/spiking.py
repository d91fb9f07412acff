"""The spiking network in real units: neuron models and thresholds chosen, nothing rounded yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

from lapilli.compiler.linear import Array, LinearMap, Shape

Model = Literal["source", "soft_reset_if", "window", "readout"]


@final
@dataclass(frozen=True, eq=False)
class SpikingPopulation:
    """One population; arrays are () or (C,) along channels, in the network's own units.

    threshold: membrane that earns one spike; initial: fraction of it that v starts a window with;
    amplitude: value that one spike (per unit of payload) adds to what it reaches; bias broadcasts
    to shape; low, high: range of a source's payload; count_scale: activity per spike of a window.
    """

    name: str
    shape: Shape
    model: Model
    threshold: Array
    initial: float
    amplitude: Array
    count_scale: Array
    bias: Array
    low: int = 0
    high: int = 0


@final
@dataclass(frozen=True, eq=False)
class SpikingConnection:
    """Drive of target, in real units, += map(amplitude * spikes of source)."""

    source: str
    target: str
    map: LinearMap


@final
@dataclass(frozen=True, eq=False)
class SpikingGraph:
    """steps: length of one image's window; levels: most spikes of a window neuron.

    sending: how window neurons send; hold: the input repeats in every step, and a bias counts in
    every step (rate coding), instead of once per window.
    """

    populations: tuple[SpikingPopulation, ...]
    connections: tuple[SpikingConnection, ...]
    steps: int
    levels: int
    sending: Literal["graded", "unary"]
    hold: bool
