"""The spiking network in real units: neuron models and thresholds chosen, nothing rounded yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array, LinearMap, Shape, frozen
from lapilli.compiler.neurons import Timing

Model = Literal["source", "soft_reset_if", "hard_reset_if", "window", "sigma_delta", "readout"]


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

    sending: how window neurons send; timing: when the input is sent. Where it is held, in every
    step (rate coding), a bias counts in every step, too, instead of once per window.
    """

    populations: tuple[SpikingPopulation, ...]
    connections: tuple[SpikingConnection, ...]
    steps: int
    levels: int
    sending: Literal["graded", "unary"]
    timing: Timing

    @property
    def hold(self) -> bool:
        """Does the input repeat, and a bias count, in every step?"""
        return self.timing == "held"

    def into(self, target: str) -> tuple[SpikingConnection, ...]:
        """The connections into one population."""
        return tuple(c for c in self.connections if c.target == target)

    def verify(self) -> None:
        """Raise NetlistError unless every number is finite, and scales and thresholds positive."""
        for p in self.populations:
            where = f"{p.name} ({p.model})"
            for name in ("threshold", "amplitude", "count_scale"):
                values = getattr(p, name)
                _check(where, f"every {name} is positive", values, values > 0, "> 0")
            _check(where, "every bias is a number", p.bias, True, "finite")
        for c in self.connections:
            where = f"{c.source} -> {c.target}"
            _check(where, "every weight is a number", c.map.weight, True, "finite")


def _check(where: str, rule: str, values: Array, good: Array | bool, allowed: str) -> None:
    good = np.isfinite(values) & good
    if not good.all():
        raise NetlistError(
            where,
            rule,
            found=np.asarray(values)[~good].flat[0],
            allowed=allowed,
            remedy="Normalise the network's weights: numbers this large or small are lost.",
        )


def readout(name: str, shape: Shape, bias: Array) -> SpikingPopulation:
    """The readout of any method: v is the output itself."""
    one = frozen(1.0)
    return SpikingPopulation(name, shape, "readout", one, 0.0, one, one, bias)
