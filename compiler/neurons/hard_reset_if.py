"""Integrate and fire, reset to zero: the stock LIF of Loihi without its leaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Interval, NeuronModel, State, limited


@final
@dataclass(frozen=True, eq=False)
class HardResetIF(NeuronModel):
    """v += drive + bias; s = v >= threshold; v = 0 where s. v starts a window at `initial`.

    Source: Rueckauer et al. 2016, "reset to zero"; Loihi's LIF (Davies et al. 2018) with currents
    that last one step and no leak. Charge above the threshold is lost, so no function of the whole
    drive gives the count; it never exceeds the count of a soft reset with the same drive.
    """

    threshold: Array
    bias: Array
    initial: Array

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = np.broadcast_to(self.initial, state["v"].shape) if tau == 0 else state["v"]
        v = limited(v + drive + self.bias)
        spikes = (v >= self.threshold).astype(v.dtype)
        return {"v": v - v * spikes}, spikes

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        low, high = drive.low + self.bias, drive.high + self.bias
        lowest = np.minimum(self.initial, 0) + steps * np.minimum(low, 0)
        # What did not fire is below the threshold; what fired is at zero.
        settled = np.maximum(self.initial, self.threshold - 1)
        return Interval(lowest, settled + np.maximum(high, 0))

    def payload(self) -> tuple[int, int]:
        return 0, 1

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, steps
