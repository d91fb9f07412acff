"""Sigma-delta: keep the activity's input, send only what the activity changed by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.staircase import Staircase


@final
@dataclass(frozen=True, eq=False)
class SigmaDelta(Staircase):
    """v += drive; n = clip(floor(v / threshold), lowest, levels); s = n - sent; sent = n.

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
    lowest: int = 0

    def coding(self) -> Literal["changes"]:
        return "changes"

    def beginning(self) -> Array:
        return self.initial + self.bias

    def count(self, v: Array) -> Array:
        return np.asarray(np.clip(v // self.threshold, self.lowest, self.levels))
