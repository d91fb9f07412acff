"""What neurons have in common that keep all their drive, and whose count is a function of it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Flaw, Interval, NeuronModel, State, integers, limited
from lapilli.compiler.neurons.sending import AnySending, counts, payload, send, windowed_flaw
from lapilli.compiler.numerics import Int64Array


class Staircase(NeuronModel):
    """v starts a window at `beginning`, and v += drive; the count lies in lowest .. levels."""

    SETTLES: ClassVar[bool] = True

    bias: Array
    lowest: int
    levels: int

    @abstractmethod
    def count(self, v: Array) -> Array:
        """The activity at membrane v, lowest .. levels."""

    @abstractmethod
    def coding(self) -> AnySending:
        """How the count is sent."""

    def beginning(self) -> Array:
        """v before the first drive of a window."""
        return self.bias

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = self.charged(state, drive, tau)
        counted = self.coding() == "changes" or tau == steps - 1
        count = self.count(v).astype(v.dtype) if counted else np.zeros_like(v)
        kept, spikes = send(self.coding(), state, count, tau, steps)
        return {**state, **kept, "v": v}, spikes

    def charged(self, state: State, drive: Array, tau: int) -> Array:
        """v after step tau."""
        start = self.beginning()
        v = np.broadcast_to(start, state["v"].shape) if tau == 0 else state["v"]
        return limited(v + drive)

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        start = self.beginning()
        return Interval(start + np.minimum(total.low, 0), start + np.maximum(total.high, 0))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return integers(self.count(integers(self.beginning() + total)))

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return integers(self.beginning() + total)

    def flaw(self, steps: int) -> Flaw | None:
        flaw = super().flaw(steps)
        return flaw or windowed_flaw(self.levels, self.coding(), steps, self.lowest)

    def payload(self) -> tuple[int, int]:
        return payload(self.coding(), self.lowest, self.levels)

    def window_total(self, steps: int) -> tuple[int, int]:
        return counts(self.lowest, self.levels)

    def last_sent(self, last: int, steps: int) -> int:
        if self.coding() == "changes":
            return last
        if self.coding() == "unary-last":
            return steps - 1
        return 0 if self.coding() == "graded" else self.levels - 1

    def emission_lag(self, steps: int) -> int:
        return 0 if self.coding() == "changes" else steps - 1
