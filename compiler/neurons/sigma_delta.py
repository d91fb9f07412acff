"""Sigma-delta: keep the activity's input, send only what the activity changed by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Flaw, Interval, NeuronModel, State, integers, limited
from lapilli.compiler.neurons.window import windowed_flaw
from lapilli.compiler.numerics import Int64Array


@final
@dataclass(frozen=True, eq=False)
class SigmaDelta(NeuronModel):
    """v += drive; n = clip(floor(v / threshold), 0, levels); s = n - sent; sent = n.

    v starts a window at initial + bias, `sent` at 0. Spikes are graded and signed; summed up they
    are the activity, so on a still image the network settles to the quantised ANN, and on a video
    only changes are sent.
    Source: O'Connor and Welling 2017 (sigma-delta quantised networks), with the activity quantised
    before the difference is taken, so that nothing is lost when it changes.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "sent")
    SETTLES: ClassVar[bool] = True

    threshold: Array
    bias: Array
    initial: Array
    levels: int

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v, sent = state["v"], state["sent"]
        if tau == 0:
            v = np.broadcast_to(self.initial + self.bias, v.shape)
            sent = np.zeros_like(sent)
        v = limited(v + drive)
        count = self.count(v)
        return {"v": v, "sent": count}, count - sent

    def count(self, v: Array) -> Array:
        """The activity at membrane v."""
        return np.asarray(np.clip(v // self.threshold, 0, self.levels))

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        start = self.initial + self.bias
        return Interval(start + np.minimum(total.low, 0), start + np.maximum(total.high, 0))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return integers(self.count(self.initial + self.bias + total))

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return integers(self.initial + self.bias + total)

    def flaw(self, steps: int) -> Flaw | None:
        return super().flaw(steps) or windowed_flaw(self.levels, "graded", steps)

    def payload(self) -> tuple[int, int]:
        return -self.levels, self.levels

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, self.levels
