"""Integrate and fire with retraction: a spike of -1 takes back one that came too early."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array, frozen
from lapilli.compiler.neurons.model import Flaw, Interval, NeuronModel, State, integers, limited
from lapilli.compiler.neurons.sending import windowed_flaw
from lapilli.compiler.numerics import Int64Array


@final
@dataclass(frozen=True, eq=False)
class SignedIF(NeuronModel):
    """v += drive + current; s = +1 if v >= threshold and n < levels, -1 if v < 0 and n > 0, else 0;
    v -= threshold * s; n += s.

    v starts a window at initial + bias, n, the spikes sent so far less those taken back, at 0. Once
    a whole network is silent, n is clip(floor((initial + bias + drive) / threshold), 0, levels),
    the unit of the quantised ANN, in whatever order the drive came: a neuron that can fire does.
    Each step takes n one nearer to it once all drive is there, so that this takes `levels` steps at
    most (`settled`). A current that flows in every step never lets a network fall silent.
    Source: Fast-SNN (Hu et al. 2023), with the cap n <= levels and the lower threshold at 0, which
    make it exact; a window has to go on for some steps after its input.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "n")

    threshold: Array
    bias: Array
    initial: Array
    levels: int
    current: Array = field(default_factory=lambda: frozen(0, np.int64))

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v, n = state["v"], state["n"]
        if tau == 0:
            v, n = np.broadcast_to(self.initial + self.bias, v.shape), np.zeros_like(n)
        v = limited(v + drive + self.current)
        up = (v >= self.threshold) & (n < self.levels)
        down = (v < 0) & (n > 0)
        spikes = up.astype(v.dtype) - down.astype(v.dtype)
        return {"v": v - self.threshold * spikes, "n": n + spikes}, spikes

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        start = self.initial + self.bias
        down, up = (steps * bound(self.current, 0) for bound in (np.minimum, np.maximum))
        # Charge: v = start + drive so far - threshold * n, with n in 0 .. levels.
        held = start + np.minimum(total.low, 0) + down - self.threshold * self.levels
        # Steps: firing leaves v >= 0 and taking back raises it, so only drive pushes v below zero.
        pushed = np.minimum(start, 0) + steps * np.minimum(drive.low + self.current, 0)
        return Interval(np.maximum(held, pushed), start + np.maximum(total.high, 0) + up)

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        charge = self._charge(total, steps)
        return integers(np.clip(charge // self.threshold, 0, self.levels))

    def final_state(self, total: Int64Array, count: Int64Array, steps: int) -> Int64Array:
        return integers(self._charge(total, steps) - self.threshold * count)

    def _charge(self, total: Int64Array, steps: int) -> Int64Array:
        return integers(self.initial + self.bias + steps * self.current + total)

    def settled(self, last: int, steps: int) -> bool:
        return last + self.levels <= steps and not self.current.any()

    def last_sent(self, last: int, steps: int) -> int:
        # Within `last` steps the count is on its way; then it is at most `levels` off.
        return steps - 1 if self.current.any() else min(last + self.levels - 1, steps - 1)

    def flaw(self, steps: int) -> Flaw | None:
        return super().flaw(steps) or windowed_flaw(self.levels, "graded", steps)

    def payload(self) -> tuple[int, int]:
        return -1, 1

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, self.levels
