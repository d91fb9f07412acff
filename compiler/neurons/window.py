"""Integrate a whole window, then send the count: the neuron of parallel conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import (
    STATE_BITS,
    Flaw,
    Interval,
    NeuronModel,
    State,
    integers,
    limited,
)
from lapilli.compiler.numerics import Int64Array, signed_range

Sending = Literal["graded", "unary"]
MAX_LEVELS = signed_range(STATE_BITS)[1]
"""The largest payload is the largest state."""


@final
@dataclass(frozen=True, eq=False)
class Window(NeuronModel):
    """Integrates a whole window, then n = clip(floor(v / threshold), 0, levels).

    v starts a window at initial + bias. sending: "graded" sends one spike of payload n, "unary"
    sends n spikes of 1, first ones first, one per step from the window's last step on (so a window
    has at least `levels` steps).
    Source: Hao et al. 2025 (parallel spiking calculation), in integers.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "pending")
    SETTLES: ClassVar[bool] = True

    threshold: Array
    bias: Array
    initial: Array
    levels: int
    sending: Sending

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        start = self.initial + self.bias
        v = np.broadcast_to(start, state["v"].shape) if tau == 0 else state["v"]
        v = limited(v + drive)
        count = self.count(v) if tau == steps - 1 else np.zeros_like(v)
        return send(self.sending, {"v": v, "pending": state["pending"]}, count)

    def count(self, v: Array) -> Array:
        """Spikes that a window ending at membrane v sends."""
        return np.asarray(np.clip(v // self.threshold, 0, self.levels))

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        start = self.initial + self.bias
        return Interval(start + np.minimum(total.low, 0), start + np.maximum(total.high, 0))

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return integers(self.count(self.initial + self.bias + total))

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return integers(self.initial + self.bias + total)

    def flaw(self, steps: int) -> Flaw | None:
        return super().flaw(steps) or windowed_flaw(self.levels, self.sending, steps)

    def payload(self) -> tuple[int, int]:
        return 0, self.levels if self.sending == "graded" else 1

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, self.levels

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
