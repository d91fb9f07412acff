"""Pass on what arrives: a population that sums up a part of what drives another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array, Shape, frozen
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

MOST = 2**31 - 1
"""What spikes of one window add up to is recorded in 32 bits."""


@final
@dataclass(frozen=True, eq=False)
class Relay(NeuronModel):
    """v = drive; s = v, in each step by itself: one signed graded spike of the exact sum.

    So what relays send in step t adds up to what their sources would have delivered in that step,
    whatever the coding, and the whole of a window to the whole. low, high: proven bounds of one
    step's drive; total_low, total_high: of the drive summed over any start of a window. They do not
    limit anything: `driven_flaw` says where a network breaks them.
    """

    SETTLES: ClassVar[bool] = True
    PROGRAM: ClassVar[str] = "a sum that is sent as it is"

    low: Array
    high: Array
    total_low: Array
    total_high: Array

    @classmethod
    def of(cls, drive: Interval, total: Interval) -> Relay:
        """The relay for drives within these bounds: of one step, and of any start of a window."""
        bounds = [np.minimum(b.low, 0) for b in (drive, total)]
        tops = [np.maximum(b.high, 0) for b in (drive, total)]
        parameters = (bounds[0], tops[0], bounds[1], tops[1])
        return cls(*(frozen(p, np.int64) for p in parameters))

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = limited(drive)
        return {"v": v}, v

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        return drive

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return integers(total)

    def last_sent(self, last: int, steps: int) -> int:
        return last

    def payload(self) -> tuple[int, int]:
        return int(self.low.min()), int(self.high.max())

    def window_total(self, steps: int) -> tuple[int, int]:
        return int(self.total_low.min()), int(self.total_high.max())

    def spike_bounds(self, shape: Shape, steps: int) -> tuple[Interval, Interval]:
        low, high, total_low, total_high = (
            np.broadcast_to(p, shape).reshape(-1)
            for p in (self.low, self.high, self.total_low, self.total_high)
        )
        return Interval(low, high), Interval(total_low, total_high)

    def flaw(self, steps: int) -> Flaw | None:
        payload, total = self.payload(), self.window_total(steps)
        top = signed_range(STATE_BITS)[1]
        lows, highs = (self.low, self.total_low), (self.high, self.total_high)
        if any(p.max() > 0 for p in lows) or any(p.min() < 0 for p in highs):
            found = f"a spike {payload[0]}..{payload[1]}, a window {total[0]}..{total[1]}"
            return Flaw("bounds of sums contain 0, the sum of nothing", found, "low <= 0 <= high")
        if max(-payload[0], payload[1]) > top:
            return Flaw("sums fit the state", f"{payload[0]}..{payload[1]}", f"{-top}..{top}")
        if max(-total[0], total[1]) > MOST:
            rule = "the spikes of a window add up to 32 bits"
            return Flaw(rule, f"{total[0]}..{total[1]}", f"{-MOST}..{MOST}")
        return None

    def driven_flaw(self, drive: Interval, total: Interval) -> Flaw | None:
        """What is wrong with the bounds, where drives are proven to be within these."""
        own = Interval(self.low, self.high), Interval(self.total_low, self.total_high)
        for what, stated, proven in zip(("step", "window"), own, (drive, total), strict=True):
            if (proven.low < stated.low).any() or (proven.high > stated.high).any():
                found = f"{stated.low.min()}..{stated.high.max()}"
                allowed = f"each neuron's own, {proven.low.min()}..{proven.high.max()} in all"
                return Flaw(f"a relay states what its drive of a {what} can be", found, allowed)
        return None
