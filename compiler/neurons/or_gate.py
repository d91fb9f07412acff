"""Fire when anything arrives: exact max pooling of sorted spike trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Interval, NeuronModel, State, integers, limited
from lapilli.compiler.numerics import Int64Array


@final
@dataclass(frozen=True, eq=False)
class OrGate(NeuronModel):
    """s = drive >= 1, in each step by itself; v is the drive of the step.

    Unary window spikes are sorted, all ones first (`Window`, `Ladder`): with weights of 1, the OR
    over a pool is the longest of its trains, so the count is the maximum of the counts, exactly.
    Spikes that are not sorted overestimate it: use `RateMax`.
    SETTLES holds for sorted trains of ones over weights that are not negative (`Netlist.settles`).
    """

    SETTLES: ClassVar[bool] = True
    POOLS: ClassVar[bool] = True

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = limited(drive)
        return {"v": v}, (v >= 1).astype(v.dtype)

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        return drive

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        return integers(np.clip(total, 0, steps))

    def last_sent(self, last: int, steps: int) -> int:
        return last

    def payload(self) -> tuple[int, int]:
        return 0, 1

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, steps
