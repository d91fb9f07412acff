"""Several thresholds in one step: a graded spike says how many of them v has passed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Flaw, Interval, NeuronModel, State, integers, limited
from lapilli.compiler.neurons.sending import windowed_flaw
from lapilli.compiler.numerics import Int64Array, shift_towards_zero

DECAY_BITS = 12
UNITY = 2**DECAY_BITS


@final
@dataclass(frozen=True, eq=False)
class MultiThreshold(NeuronModel):
    """v = leak(v) + drive + bias; s = clip(floor(v / threshold), 0, levels); v -= threshold * s.

    v starts a window at `initial`. leak(v) = v * (4096 - decay) / 4096 towards zero, as on Loihi;
    decay 0 keeps everything, 4096 nothing. s is sent as one graded spike. One step equals `levels`
    steps of a soft reset with the drive spread evenly.
    Source: Hao et al. 2024 (LM-HT), with thresholds at the multiples of one; equations 5 and 6.
    """

    threshold: Array
    bias: Array
    initial: Array
    levels: int
    decay: int

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = np.broadcast_to(self.initial, state["v"].shape) if tau == 0 else state["v"]
        v = limited(self.leak(v) + drive + self.bias)
        spikes = np.clip(v // self.threshold, 0, self.levels)
        return {"v": v - self.threshold * spikes}, spikes

    def leak(self, v: Array) -> Array:
        """What a step leaves of v."""
        kept = v * (UNITY - self.decay)
        return shift_towards_zero(kept, DECAY_BITS) if v.dtype.kind == "i" else kept / UNITY

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        low, high = drive.low + self.bias, drive.high + self.bias
        lowest = np.minimum(self.initial, 0) + steps * np.minimum(low, 0)
        # After a step v <= max(threshold - 1, v_before + high - levels * threshold).
        settled = np.maximum(self.initial, self.threshold - 1)
        growth = (steps - 1) * np.maximum(high - self.levels * self.threshold, 0)
        return Interval(lowest, settled + growth + np.maximum(high, 0))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        """Exact for one step, and for drive that is the same in every step."""
        if not self.has_unit(steps):
            return super().quantised(total, steps)
        start = self.leak(integers(self.initial)) + steps * self.bias
        return integers(np.clip((start + total) // self.threshold, 0, steps * self.levels))

    def has_unit(self, steps: int) -> bool:
        # A leak weighs every step's drive differently: the whole of it does not say the count.
        return not self.decay or steps == 1

    def settled(self, last: int, steps: int) -> bool:
        return steps == 1

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array | None:
        if self.decay:
            return None
        return integers(self.initial + steps * self.bias + total - self.threshold * count)

    def flaw(self, steps: int) -> Flaw | None:
        if not 0 <= self.decay <= UNITY:
            return Flaw("a decay is a fraction of 4096", self.decay, f"0..{UNITY}")
        return super().flaw(steps) or windowed_flaw(self.levels, "graded", steps)

    def payload(self) -> tuple[int, int]:
        return 0, self.levels

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, steps * self.levels
