"""Integrate a whole window, then count thresholds passed: any monotone activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import (
    STATE_BITS,
    Flaw,
    State,
    integers,
)
from lapilli.compiler.neurons.staircase import Staircase
from lapilli.compiler.neurons.window import Sending, send, windowed_flaw
from lapilli.compiler.numerics import Int64Array, signed_range


@final
@dataclass(frozen=True, eq=False)
class Ladder(Staircase):
    """Integrates a whole window, then n = number of k with v >= thresholds[k].

    thresholds: (levels, ...), whose other axes broadcast to the population's shape; they do not
    fall along the first axis, and may be negative. v starts a window at initial + bias. sending: as
    `Window` has it. So n is any monotone staircase of v: sigmoid, tanh, softplus, ReLU6.
    A Window is the ladder threshold, 2 * threshold, ..., levels * threshold.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "pending")
    LEADING: ClassVar[tuple[str, ...]] = ("thresholds",)

    thresholds: Array
    bias: Array
    initial: Array
    levels: int
    sending: Sending

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = self.charged(state, drive, tau)
        count = self.count(v).astype(v.dtype) if tau == steps - 1 else np.zeros_like(v)
        return send(self.sending, {"v": v, "pending": state["pending"]}, count)

    def count(self, v: Array) -> Int64Array:
        if self.thresholds.ndim == 1:  # shared: found by bisection
            return integers(np.searchsorted(self.thresholds, v, side="right"))
        count = np.zeros(v.shape, np.int64)
        for threshold in self.thresholds:  # rung by rung: no array with an axis of levels
            count += v >= threshold
        return count

    def flaw(self, steps: int) -> Flaw | None:
        wrong = windowed_flaw(self.levels, self.sending, steps)
        if wrong is not None:
            return wrong
        if self.thresholds.shape[:1] != (self.levels,):
            return Flaw("a ladder has a threshold per level", self.thresholds.shape, self.levels)
        top = signed_range(STATE_BITS)[1]
        low, high = int(self.thresholds.min()), int(self.thresholds.max())
        if low < -top or high > top:
            return Flaw("thresholds fit the state", f"{low}..{high}", f"{-top}..{top}")
        falls = self.thresholds[1:] < self.thresholds[:-1]
        if falls.any():
            rung = int(np.argwhere(falls)[0][0]) + 2
            return Flaw("thresholds do not fall", f"threshold {rung} below the one before", "order")
        return None

    def payload(self) -> tuple[int, int]:
        return 0, self.levels if self.sending == "graded" else 1

    def emission_lag(self, steps: int) -> int:
        return steps - 1
