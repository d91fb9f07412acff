"""What neurons have in common that keep all their drive, and whose count is a function of it."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Interval, NeuronModel, State, integers, limited
from lapilli.compiler.numerics import Int64Array


class Staircase(NeuronModel):
    """v starts a window at initial + bias, and v += drive; the count climbs from 0 to levels."""

    SETTLES: ClassVar[bool] = True

    bias: Array
    initial: Array
    levels: int

    @abstractmethod
    def count(self, v: Array) -> Array:
        """The activity at membrane v, 0 .. levels."""

    def charged(self, state: State, drive: Array, tau: int) -> Array:
        """v after step tau."""
        start = self.initial + self.bias
        v = np.broadcast_to(start, state["v"].shape) if tau == 0 else state["v"]
        return limited(v + drive)

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        start = self.initial + self.bias
        return Interval(start + np.minimum(total.low, 0), start + np.maximum(total.high, 0))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return integers(self.count(integers(self.initial + self.bias + total)))

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return integers(self.initial + self.bias + total)

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, self.levels
