"""The spiking network in real units: neuron models and thresholds chosen, nothing rounded yet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, final

import numpy as np

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array, LinearMap, Shape, frozen
from lapilli.compiler.neurons import AnySending, Timing

Model = Literal[
    "source",
    "soft_reset_if",
    "hard_reset_if",
    "signed_if",
    "multi_threshold",
    "window",
    "sigma_delta",
    "ladder",
    "max",
    "product",
    "readout",
]


@final
@dataclass(frozen=True, eq=False)
class Rungs:
    """A staircase of any form: the count at membrane v is start + sum of rises over v >= at.

    at, rises: (K,) or (K, C), in the network's own units; infinite where a channel has fewer;
    start: () or (C,), the count below all of them.
    """

    at: Array
    rises: Array
    start: Array


_NOTHING = frozen(0.0)


@final
@dataclass(frozen=True, eq=False)
class SpikingPopulation:
    """One population; arrays are () or (C,) along channels, in the network's own units.

    threshold: membrane that earns one spike; initial: fraction of it that v starts a window with;
    amplitude: value that one spike (per unit of payload) adds to what it reaches; bias broadcasts
    to shape; low, high: range of the count, or of a source's payload; count_scale: activity per
    count of a window; offset: activity of the count 0, which what it reaches gets in any case (per
    step where biases count per step); rungs: of a ladder alone; decay: 4096ths that a
    multi-threshold membrane loses per step; mixing (T, T): of a network that is to be unrolled in
    time (`passes.unroll_time`): mixing[t, j] is the share of what comes in step j that arrives in
    step t; None: each step gets its own; spread: `initial` comes in equal parts with every step of
    a window, not at its start.

    A window neuron counts floor((v - offset) / threshold + initial), within low .. high; a ladder
    as its rungs say; "max" the largest count that its connection reads; "product" as a window
    does, v being the product of the two activities that its connections read.
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
    offset: Array = field(default_factory=lambda: _NOTHING)
    rungs: Rungs | None = None
    spread: bool = False
    decay: int = 0
    mixing: Array | None = None


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
    """steps: length of one image's window; levels: how many counts above its lowest a neuron
    has, at most.

    sending: how window neurons send ("unary" where spikes are -1, 0 or 1, too). order: in which
    steps of a window such neurons send what they have to. timing: when the input is sent. Where it
    is held, in every step (rate coding), a bias counts in every step, too, instead of once per
    window.
    pools: how spikes of rates are pooled: as many as the busiest input's, or those of the leader.
    unrolled: the populations are the steps of others (`passes.unroll_time`). single_threshold:
    neurons of several thresholds become ones of a single one (`passes.reparameterise`).
    """

    populations: tuple[SpikingPopulation, ...]
    connections: tuple[SpikingConnection, ...]
    steps: int
    levels: int
    sending: Literal["graded", "unary", "changes"]
    timing: Timing
    pools: Literal["exact", "gated"] = "exact"
    unrolled: bool = False
    single_threshold: bool = False
    order: Literal["first", "last"] = "first"

    @property
    def coding(self) -> AnySending:
        """How the neurons of the netlist send."""
        late = self.sending == "unary" and self.order == "last"
        return "unary-last" if late else self.sending

    @property
    def mixed(self) -> bool:
        """Does a population mix its steps, so that the graph is to be unrolled in time?"""
        return not self.unrolled and any(p.mixing is not None for p in self.populations)

    @property
    def hold(self) -> bool:
        """Does the input come, and a bias count, in every step?"""
        return self.timing in ("held", "train")

    @property
    def takes_back(self) -> bool:
        """Are there spikes of -1, which take one of +1 back?"""
        return any(p.model == "signed_if" for p in self.populations)

    def into(self, target: str) -> tuple[SpikingConnection, ...]:
        """The connections into one population."""
        return tuple(c for c in self.connections if c.target == target)

    def lowest(self, p: SpikingPopulation) -> int:
        """What is sent for p's lowest count: it itself, or 0 where spikes say no negative numbers.

        Counts are then raised by -p.low, and the activity that this adds is taken off again by
        `quantise`.
        """
        return 0 if self.sending == "unary" and p.model != "source" else p.low

    def verify(self) -> None:
        """Raise NetlistError unless every number is finite, and scales and thresholds positive."""
        for p in self.populations:
            where = f"{p.name} ({p.model})"
            for name in ("threshold", "amplitude", "count_scale"):
                values = getattr(p, name)
                _check(where, f"every {name} is positive", values, values > 0, "> 0")
            _check(where, "every bias is a number", p.bias, True, "finite")
            _check(where, "every offset is a number", p.offset, True, "finite")
            if p.model != "readout" and p.low >= p.high:
                raise NetlistError(
                    where,
                    "a neuron has more than one count",
                    found=f"{p.low}..{p.high}",
                    allowed="low < high",
                    remedy="This is a fault of Lapilli's conversion: please report it.",
                )
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


def pool(name: str, shape: Shape, source: SpikingPopulation) -> SpikingPopulation:
    """A max pool counts as its source does; its membrane holds nothing but counts."""
    return replace(
        source, name=name, shape=shape, model="max", bias=_NOTHING, initial=0.0, rungs=None
    )


def readout(name: str, shape: Shape, bias: Array) -> SpikingPopulation:
    """The readout of any method: v is the output itself."""
    one = frozen(1.0)
    return SpikingPopulation(name, shape, "readout", one, 0.0, one, one, bias)
