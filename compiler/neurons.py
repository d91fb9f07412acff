"""What each neuron model computes in one time step, in plain integers: the definition.

Every backend is tested equal to `step`. A state holds `STATE_BITS` bits signed and saturates, as
Loihi's does; the compiler proves that it never has to (`reach`). Parameters are integer arrays that
broadcast to the population's shape. `tau` is the step within the image's window, 0 .. steps - 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple, final

import numpy as np

from lapilli.compiler.linear import Array, Shape
from lapilli.compiler.numerics import Int64Array, saturate

STATE_BITS = 24


class State(NamedTuple):
    """v: membrane; pending: unary spikes still to be sent (zeros where a model sends at once)."""

    v: Int64Array
    pending: Int64Array


class Interval(NamedTuple):
    """Inclusive integer bounds; arrays that broadcast to a population's shape."""

    low: Int64Array
    high: Int64Array


def _integers(values: Array) -> Int64Array:
    return np.asarray(values, np.int64)


@dataclass(frozen=True, eq=False)
class NeuronModel(ABC):
    """One update per time step; subclasses are final and carry their integer parameters."""

    def start(self, shape: Shape) -> State:
        """The state before the first step."""
        return State(np.zeros(shape, np.int64), np.zeros(shape, np.int64))

    @abstractmethod
    def step(self, state: State, drive: Int64Array, tau: int, steps: int) -> tuple[State, Array]:
        """The state after step `tau` of a window of `steps`, and the spikes sent in it."""

    @abstractmethod
    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        """Every value that v can take, saturation aside.

        drive: bounds of one step's drive; total: of the drive summed over any start of a window.
        """

    @abstractmethod
    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        """What the unit of the quantised ANN makes of a whole window's drive: count, or readout."""

    @abstractmethod
    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        """v after a window whose drive adds up to `total` and in which `count` was sent.

        Charge is conserved, in whatever order drive and spikes came, unless v saturates.
        """

    @abstractmethod
    def payload(self) -> tuple[int, int]:
        """Smallest and largest value of one spike."""

    @abstractmethod
    def window_total(self, steps: int) -> tuple[int, int]:
        """Bounds of the spikes summed over any start of a window."""

    def emission_lag(self, steps: int) -> int:
        """Steps from the first step of a window to the first step in which its spikes leave."""
        return 0


@final
@dataclass(frozen=True, eq=False)
class Source(NeuronModel):
    """The analog input: sends x, an integer in low .. high, as a graded payload.

    hold: in every step of the window (rate coding: a constant current), else in its first only.
    The drive is the input itself. Source: Rueckauer et al. 2016, "analog input".
    """

    low: int
    high: int
    hold: bool

    def step(self, state: State, drive: Int64Array, tau: int, steps: int) -> tuple[State, Array]:
        sent = drive if self.hold or tau == 0 else np.zeros_like(drive)
        return state, np.clip(sent, self.low, self.high)

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        return Interval(np.zeros((), np.int64), np.zeros((), np.int64))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return np.clip(total, self.low, self.high) * (steps if self.hold else 1)

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return np.zeros_like(total)

    def payload(self) -> tuple[int, int]:
        return self.low, self.high

    def window_total(self, steps: int) -> tuple[int, int]:
        times = steps if self.hold else 1
        return self.low * times, self.high * times


@final
@dataclass(frozen=True, eq=False)
class SoftResetIF(NeuronModel):
    """v += drive + bias; s = v >= threshold; v -= threshold * s. v starts a window at `initial`.

    Source: Rueckauer et al. 2016, reset by subtraction; initial = threshold / 2 turns the
    floor of the rate into rounding.
    """

    threshold: Array
    bias: Array
    initial: Array

    def step(self, state: State, drive: Int64Array, tau: int, steps: int) -> tuple[State, Array]:
        v = np.broadcast_to(self.initial, state.v.shape) if tau == 0 else state.v
        v = saturate(v + drive + self.bias, STATE_BITS)
        spikes = (v >= self.threshold).astype(np.int64)
        return State(_integers(v - self.threshold * spikes), state.pending), spikes

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        low, high = drive.low + self.bias, drive.high + self.bias
        lowest = np.minimum(self.initial, 0) + steps * np.minimum(low, 0)
        # After a step v <= max(threshold - 1, v_before + high - threshold).
        settled = np.maximum(self.initial, self.threshold - 1)
        growth = (steps - 1) * np.maximum(high - self.threshold, 0)
        return Interval(lowest, settled + growth + np.maximum(high, 0))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        start = self.initial + steps * self.bias
        return _integers(np.clip((start + total) // self.threshold, 0, steps))

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return _integers(self.initial + steps * self.bias + total - self.threshold * count)

    def payload(self) -> tuple[int, int]:
        return 0, 1

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, steps


@final
@dataclass(frozen=True, eq=False)
class Window(NeuronModel):
    """Integrates a whole window, then n = clip(floor(v / threshold), 0, levels).

    v starts a window at initial + bias. sending: "graded" sends one spike of payload n, "unary"
    sends n spikes of 1, first ones first, one per step from the window's last step on (so a window
    has at least `levels` steps).
    Source: Hao et al. 2025 (parallel spiking calculation), in integers.
    """

    threshold: Array
    bias: Array
    initial: Array
    levels: int
    sending: Literal["graded", "unary"]

    def step(self, state: State, drive: Int64Array, tau: int, steps: int) -> tuple[State, Array]:
        start = self.initial + self.bias
        v = np.broadcast_to(start, state.v.shape) if tau == 0 else state.v
        v = saturate(v + drive, STATE_BITS)
        count = self.count(v) if tau == steps - 1 else np.zeros_like(v)
        if self.sending == "graded":
            return State(v, state.pending), count
        pending = state.pending + count
        spikes = (pending > 0).astype(np.int64)
        return State(v, pending - spikes), spikes

    def count(self, v: Int64Array) -> Int64Array:
        """Spikes that a window ending at membrane v sends."""
        return _integers(np.clip(v // self.threshold, 0, self.levels))

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        start = self.initial + self.bias
        return Interval(start + np.minimum(total.low, 0), start + np.maximum(total.high, 0))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return self.count(self.initial + self.bias + total)

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return _integers(self.initial + self.bias + total)

    def payload(self) -> tuple[int, int]:
        return 0, self.levels if self.sending == "graded" else 1

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, self.levels

    def emission_lag(self, steps: int) -> int:
        return steps - 1


@final
@dataclass(frozen=True, eq=False)
class Readout(NeuronModel):
    """v += drive + bias, never a spike: v after the window's last step is the output.

    v starts a window at `initial`, which holds a bias that counts once per window.
    """

    bias: Array
    initial: Array

    def step(self, state: State, drive: Int64Array, tau: int, steps: int) -> tuple[State, Array]:
        v = np.broadcast_to(self.initial, state.v.shape) if tau == 0 else state.v
        v = saturate(v + drive + self.bias, STATE_BITS)
        return State(v, state.pending), np.zeros_like(v)

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        low, high = np.minimum(self.bias, 0) * steps, np.maximum(self.bias, 0) * steps
        return Interval(
            self.initial + np.minimum(total.low, 0) + low,
            self.initial + np.maximum(total.high, 0) + high,
        )

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return _integers(self.initial + steps * self.bias + total)

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return self.quantised(total, steps)

    def payload(self) -> tuple[int, int]:
        return 0, 0

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, 0


MODELS: tuple[type[NeuronModel], ...] = (Source, SoftResetIF, Window, Readout)
"""Every model; files, backends and tests are total over it."""
