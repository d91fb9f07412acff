"""Sigma-delta: keep the activity's input, send only what the activity changed by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Flaw, State
from lapilli.compiler.neurons.staircase import Staircase
from lapilli.compiler.neurons.window import windowed_flaw


@final
@dataclass(frozen=True, eq=False)
class SigmaDelta(Staircase):
    """v += drive; n = clip(floor(v / threshold), 0, levels); s = n - sent; sent = n.

    v starts a window at initial + bias, `sent` at 0. Spikes are graded and signed; summed up they
    are the activity, so on a still image the network settles to the quantised ANN, and on a video
    only changes are sent.
    Source: O'Connor and Welling 2017 (sigma-delta quantised networks), with the activity quantised
    before the difference is taken, so that nothing is lost when it changes.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "sent")

    threshold: Array
    bias: Array
    initial: Array
    levels: int

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = self.charged(state, drive, tau)
        sent = np.zeros_like(state["sent"]) if tau == 0 else state["sent"]
        count = self.count(v)
        return {"v": v, "sent": count}, count - sent

    def count(self, v: Array) -> Array:
        return np.asarray(np.clip(v // self.threshold, 0, self.levels))

    def flaw(self, steps: int) -> Flaw | None:
        return super().flaw(steps) or windowed_flaw(self.levels, "graded", steps)

    def payload(self) -> tuple[int, int]:
        return -self.levels, self.levels
