"""Lava's sigma-delta neuron, bit by bit: the hidden layers of a sigma-delta network of SLAYER."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.lava_delta import delta, delta_flaw, delta_payload, delta_total
from lapilli.compiler.neurons.model import Flaw, Interval, NeuronModel, State, integers
from lapilli.compiler.numerics import Int64Array, shift_left

Activation = Literal["relu", "unit"]
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)


@final
@dataclass(frozen=True, eq=False)
class LavaSigmaDelta(NeuronModel):
    """Adds up what it receives, sends what its activity changed by: `lava.proc.sdn.SigmaDelta`.

    v = clip(v + drive, low, high); act = f(v + bias * 2**(spike_exp + state_exp)), f = max(., 0) or
    the identity ("unit"); change = act - activity + residue, sent as in `LavaDelta`.
    v, activity and residue start a window at `initial`, `activity` and `residue`.
    Lava neither clips, nor starts afresh: low .. high is the proven reach of v, unless that has
    more than 24 bits.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "act", "residue")

    threshold: Array
    bias: Array
    initial: Array
    activity: Array
    residue: Array
    low: int
    high: int
    spike_exp: int
    state_exp: int
    activation: Activation

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v, before, residue = (state[name] for name in self.VARIABLES)
        if tau == 0:
            starts = (self.initial, self.activity, self.residue)
            v, before, residue = (np.broadcast_to(start, v.shape) for start in starts)
        v = np.clip(v + drive, self.low, self.high)
        act = self.activities(v)
        sent, residue = delta(act - before + residue, self.threshold, self)
        return {"v": v, "act": act, "residue": residue}, sent

    def activities(self, v: Array) -> Int64Array:
        """The activity at the membrane v."""
        charged = integers(v + shift_left(integers(self.bias), self.spike_exp + self.state_exp))
        return np.maximum(charged, 0) if self.activation == "relu" else charged

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        low = self.initial + np.minimum(total.low, 0)
        high = self.initial + np.maximum(total.high, 0)
        # Once v has been clipped, the sum of the drive says nothing about it any more.
        clipped = (low < self.low) | (high > self.high)
        return Interval(np.where(clipped, self.low, low), np.where(clipped, self.high, high))

    def flaw(self, steps: int) -> Flaw | None:
        if self.low > min(self.initial.min(), 0) or self.high < max(self.initial.max(), 0):
            bounds = f"{self.initial.min()}..{self.initial.max()}"
            return Flaw("v starts within its reach", bounds, f"{self.low}..{self.high}")
        starts = (self.low, self.high, *self._acts())
        rests = abs(self.residue).max()
        return delta_flaw(self, max(abs(bound) for bound in (*starts, int(rests))))

    def payload(self) -> tuple[int, int]:
        low, high = delta_payload(self, *self._acts())
        rest = int(abs(self.residue).max()) >> self.state_exp
        return low - rest - 1, high + rest + 1

    def window_total(self, steps: int) -> tuple[int, int]:
        low, high = delta_total(self, *self._acts(), steps)
        ahead = integers(self.residue - self.activity)
        lowest, highest = (int(bound) >> self.state_exp for bound in (ahead.min(), ahead.max()))
        return min(low + lowest, 0), max(high + highest + 1, 0)

    def _acts(self) -> tuple[int, int]:
        bounds = (self.activities(integers(bound)) for bound in (self.low, self.high))
        low, high = ((int(b.min()), int(b.max())) for b in bounds)
        starts = (0, int(self.activity.min()), int(self.activity.max()))
        return min(*low, *starts), max(*high, *starts)
