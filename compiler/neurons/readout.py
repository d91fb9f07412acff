"""The output of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Interval, NeuronModel, State, integers, limited
from lapilli.compiler.numerics import Int64Array


@final
@dataclass(frozen=True, eq=False)
class Readout(NeuronModel):
    """v += drive + bias, never a spike: v after the window's last step is the output.

    v starts a window at `initial`, which holds a bias that counts once per window.
    """

    SETTLES: ClassVar[bool] = True

    bias: Array
    initial: Array

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = np.broadcast_to(self.initial, state["v"].shape) if tau == 0 else state["v"]
        v = limited(v + drive + self.bias)
        return {"v": v}, np.zeros_like(v)

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        low, high = np.minimum(self.bias, 0) * steps, np.maximum(self.bias, 0) * steps
        return Interval(
            self.initial + np.minimum(total.low, 0) + low,
            self.initial + np.maximum(total.high, 0) + high,
        )

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return integers(self.initial + steps * self.bias + total)

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return self.quantised(total, steps)

    def payload(self) -> tuple[int, int]:
        return 0, 0

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, 0
