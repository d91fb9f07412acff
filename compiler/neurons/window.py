"""Integrate a whole window, then send the count: the neuron of parallel conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import (
    STATE_BITS,
    Flaw,
    State,
)
from lapilli.compiler.neurons.staircase import Staircase
from lapilli.compiler.numerics import signed_range

Sending = Literal["graded", "unary"]
MAX_LEVELS = signed_range(STATE_BITS)[1]
"""The largest payload is the largest state."""


@final
@dataclass(frozen=True, eq=False)
class Window(Staircase):
    """Integrates a whole window, then n = clip(floor(v / threshold), 0, levels).

    v starts a window at initial + bias. sending: "graded" sends one spike of payload n, "unary"
    sends n spikes of 1, first ones first, one per step from the window's last step on (so a window
    has at least `levels` steps).
    Source: Hao et al. 2025 (parallel spiking calculation), in integers.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "pending")

    threshold: Array
    bias: Array
    initial: Array
    levels: int
    sending: Sending

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = self.charged(state, drive, tau)
        count = self.count(v) if tau == steps - 1 else np.zeros_like(v)
        return send(self.sending, {"v": v, "pending": state["pending"]}, count)

    def count(self, v: Array) -> Array:
        return np.asarray(np.clip(v // self.threshold, 0, self.levels))

    def flaw(self, steps: int) -> Flaw | None:
        return super().flaw(steps) or windowed_flaw(self.levels, self.sending, steps)

    def payload(self) -> tuple[int, int]:
        return 0, self.levels if self.sending == "graded" else 1

    def emission_lag(self, steps: int) -> int:
        return steps - 1


def windowed_flaw(levels: int, sending: Sending, steps: int) -> Flaw | None:
    """What is wrong with sending up to `levels` spikes per window of `steps`."""
    most = steps if sending == "unary" else MAX_LEVELS
    if 1 <= levels <= most:
        return None
    rule = "a window sends all its spikes before the next one ends"
    return Flaw(rule, f"{levels} levels, {sending}, {steps} steps", f"1..{most} levels")


def send(sending: Sending, state: State, count: Array) -> tuple[State, Array]:
    """Send `count`, which ends a window, at once or as ones; state["pending"]: ones still to go."""
    if sending == "graded":
        return state, count
    pending = state["pending"] + count
    spikes = (pending > 0).astype(pending.dtype)
    return {**state, "pending": pending - spikes}, spikes
