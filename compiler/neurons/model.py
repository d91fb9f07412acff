"""What every neuron model is: states, bounds, and one update per time step in plain integers.

A state holds `STATE_BITS` bits signed and saturates, as Loihi's does; the compiler proves that it
never has to (`reach`). Parameters are integer arrays that broadcast to the population's shape.
`tau` is the step within the image's window, 0 .. steps - 1; a window starts afresh at tau = 0.

`step` is written in operations that integers and floats share: with float parameters and drives it
is the same model without rounding and without limits (Lava's `floating_pt`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array, Shape
from lapilli.compiler.numerics import Int64Array, saturate, signed_range

STATE_BITS = 24
State = dict[str, Array]
"""The variables of a population by name, each with the population's shape behind any other axes."""


class Interval(NamedTuple):
    """Inclusive integer bounds; arrays that broadcast to a population's shape."""

    low: Int64Array
    high: Int64Array


class Flaw(NamedTuple):
    """A rule that parameters break."""

    rule: str
    found: object
    allowed: object


def integers(values: Array | int) -> Int64Array:
    """As 64-bit integers, in which all arithmetic of a netlist is done."""
    return np.asarray(values, np.int64)


def limited(v: Array) -> Array:
    """Saturated to a state's bits; a float is a state without limits."""
    return saturate(v, STATE_BITS) if v.dtype.kind == "i" else v


@dataclass(frozen=True, eq=False)
class NeuronModel(ABC):
    """One update per time step; subclasses are final and carry their integer parameters.

    VARIABLES: what a neuron keeps from step to step; v, the membrane, is always there and is what
    traces record. PROGRAM: what takes a neuron that is a program, as on Loihi 2, or nothing.
    SETTLES: does `quantised` give exactly what a window of this network sends, in
    whatever order its drive comes? LEADING: parameters that have one axis of their own in front of
    those that broadcast to the population's shape. POOLS: the unit of the quantised ANN takes the
    largest of the counts that arrive over synapses that are not zero, not their weighted sum.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v",)
    LEADING: ClassVar[tuple[str, ...]] = ()
    SETTLES: ClassVar[bool] = False
    PROGRAM: ClassVar[str] = ""
    POOLS: ClassVar[bool] = False

    def start(self, shape: Shape) -> State:
        """The state before the first step."""
        return {name: np.zeros(shape, np.int64) for name in self.VARIABLES}

    @abstractmethod
    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        """The state after step `tau` of a window of `steps`, and the spikes sent in it."""

    @abstractmethod
    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        """Every value that v can take, saturation aside where the model has none of its own.

        drive: bounds of one step's drive; total: of the drive summed over any start of a window.
        """

    def flaw(self, steps: int) -> Flaw | None:
        """What is wrong with the parameters in a window of `steps`; None if they are sound."""
        threshold = getattr(self, "threshold", None)
        top = signed_range(STATE_BITS)[1]
        if threshold is None or 1 <= threshold.min() <= threshold.max() <= top:
            return None
        found = f"{threshold.min()}..{threshold.max()}"
        return Flaw("thresholds are positive and fit the state", found, f"1..{top}")

    @abstractmethod
    def payload(self) -> tuple[int, int]:
        """Smallest and largest value of one spike."""

    @abstractmethod
    def window_total(self, steps: int) -> tuple[int, int]:
        """Bounds of the spikes summed over any start of a window."""

    def spike_bounds(self, shape: Shape, steps: int) -> tuple[Interval, Interval]:
        """`payload` and `window_total`: of all neurons, (), or of each, (neurons,) in C order."""
        payload, total = self.payload(), self.window_total(steps)
        return Interval(*map(integers, payload)), Interval(*map(integers, total))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        """What the unit of the quantised ANN makes of a whole window's drive: count, or readout.

        total: that drive; where the model `POOLS`, the largest count that arrives.

        Raises NetlistError where no function of the whole drive stands for the model.
        """
        raise NetlistError(
            type(self).__name__,
            "the quantised ANN has a unit for every neuron model",
            found=type(self).__name__,
            allowed="a count that follows from the window's whole drive",
            remedy="Run the network on the reference engine.",
        )

    def has_unit(self, steps: int) -> bool:
        """Does a unit of the quantised ANN (`quantised`) stand for it in a window of `steps`?"""
        return type(self).quantised is not NeuronModel.quantised

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array | None:
        """v after a window whose drive adds up to `total` and in which `count` was sent.

        Charge is conserved, in whatever order drive and spikes came, unless v saturates. None where
        the model throws charge away.
        """
        return None

    def settled(self, last: int, steps: int) -> bool:
        """Is `quantised` what a window of `steps` sends, if no drive comes after step `last`?"""
        return self.SETTLES

    def last_sent(self, last: int, steps: int) -> int:
        """The last step in which a spike may leave, if no drive comes after step `last`.

        Counted from the first one in which spikes may leave, see `emission_lag`.
        """
        return steps - 1

    def emission_lag(self, steps: int) -> int:
        """Steps from the first step of a window to the first step in which its spikes leave."""
        return 0
