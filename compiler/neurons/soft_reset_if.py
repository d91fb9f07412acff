"""Integrate and fire, reset by subtraction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Interval, NeuronModel, State, integers, limited
from lapilli.compiler.numerics import Int64Array


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

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = np.broadcast_to(self.initial, state["v"].shape) if tau == 0 else state["v"]
        v = limited(v + drive + self.bias)
        spikes = (v >= self.threshold).astype(v.dtype)
        return {"v": v - self.threshold * spikes}, spikes

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        low, high = drive.low + self.bias, drive.high + self.bias
        lowest = np.minimum(self.initial, 0) + steps * np.minimum(low, 0)
        # After a step v <= max(threshold - 1, v_before + high - threshold).
        settled = np.maximum(self.initial, self.threshold - 1)
        growth = (steps - 1) * np.maximum(high - self.threshold, 0)
        return Interval(lowest, settled + growth + np.maximum(high, 0))

    def accumulated(self, total: Interval, steps: int) -> Interval:
        """Bounds of what a window adds up to on top of `initial`, nothing subtracted."""
        low, high = np.minimum(self.bias, 0) * steps, np.maximum(self.bias, 0) * steps
        return Interval(
            self.initial + np.minimum(total.low, 0) + low,
            self.initial + np.maximum(total.high, 0) + high,
        )

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        start = self.initial + steps * self.bias
        return integers(np.clip((start + total) // self.threshold, 0, steps))

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return integers(self.initial + steps * self.bias + total - self.threshold * count)

    def payload(self) -> tuple[int, int]:
        return 0, 1

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, steps
