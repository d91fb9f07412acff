"""The input of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Flaw, Interval, NeuronModel, State
from lapilli.compiler.numerics import Int64Array

Timing = Literal["first", "held", "train", "changes"]
TIMINGS: tuple[Timing, ...] = get_args(Timing)


@final
@dataclass(frozen=True, eq=False)
class Source(NeuronModel):
    """The input: sends integers x in low .. high as graded payloads; the drive is the input itself.

    timing: "first" sends an image in the window's first step only; "held" in every step (rate
    coding: a constant current; Rueckauer et al. 2016, "analog input"); "train" sends what each step
    brings, spikes or frames; "changes" sends the difference from the step before, which was zero
    before the window.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "before")
    SETTLES: ClassVar[bool] = True

    low: int
    high: int
    timing: Timing

    def whole(self, inputs: Array) -> Array:
        """What `quantised` takes for inputs (N, *shape) or, if stepwise, (N, steps, *shape)."""
        if self.timing == "train":
            return np.asarray(inputs.sum(1))
        return inputs[:, -1] if self.timing == "changes" else inputs

    @property
    def stepwise(self) -> bool:
        """Does the input have a value of its own for each step?"""
        return self.timing in ("train", "changes")

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        silent = self.timing == "first" and tau > 0
        sent = np.zeros_like(drive) if silent else np.clip(drive, self.low, self.high)
        if self.timing != "changes":
            return state, sent
        before = np.zeros_like(sent) if tau == 0 else state["before"]
        return {**state, "before": sent}, sent - before

    def last_sent(self, last: int, steps: int) -> int:
        return 0 if self.timing == "first" else steps - 1

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        return Interval(np.zeros((), np.int64), np.zeros((), np.int64))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        if self.timing == "train":
            return total
        sent = np.clip(total, self.low, self.high)
        return sent * steps if self.timing == "held" else sent

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return np.zeros_like(total)

    def flaw(self, steps: int) -> Flaw | None:
        if self.low <= self.high:
            return None
        return Flaw("payloads are an interval", f"{self.low}..{self.high}", "low <= high")

    def payload(self) -> tuple[int, int]:
        if self.timing == "changes":
            reach = self.high - min(self.low, 0), self.low - max(self.high, 0)
            return min(reach), max(reach)
        # Nothing is sent in some steps, and beyond a border there is nothing.
        return min(self.low, 0), max(self.high, 0)

    def window_total(self, steps: int) -> tuple[int, int]:
        times = steps if self.timing in ("held", "train") else 1
        return min(self.low, 0) * times, max(self.high, 0) * times
