"""Integrate a whole window, then send the count: the neuron of parallel conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.sending import Sending
from lapilli.compiler.neurons.staircase import Staircase


@final
@dataclass(frozen=True, eq=False)
class Window(Staircase):
    """Integrates a whole window, then n = clip(floor(v / threshold), lowest, levels).

    v starts a window at initial + bias. sending: "graded" sends one spike of payload n, "unary"
    and "unary-last" send n spikes of 1, one per step from the window's last step on, as soon as
    they can or as late (so a window has at least `levels` steps, and lowest is 0).
    Source: Hao et al. 2025 (parallel spiking calculation), in integers.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "pending")

    threshold: Array
    bias: Array
    initial: Array
    levels: int
    sending: Sending
    lowest: int = 0

    def coding(self) -> Sending:
        return self.sending

    def beginning(self) -> Array:
        return self.initial + self.bias

    def count(self, v: Array) -> Array:
        return np.asarray(np.clip(v // self.threshold, self.lowest, self.levels))
