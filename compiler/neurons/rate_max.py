"""Max pooling of spike trains in any order: as many spikes as the busiest input has sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array, Shape
from lapilli.compiler.neurons.model import (
    STATE_BITS,
    Flaw,
    Interval,
    NeuronModel,
    State,
    integers,
    limited,
)
from lapilli.compiler.numerics import Int64Array, shift_left

MAX_INPUTS = STATE_BITS - 1
"""Bits of a positive state."""


@final
@dataclass(frozen=True, eq=False)
class RateMax(NeuronModel):
    """counts[k] += s[k]; s = 1 where the largest of the counts has grown.

    The spikes of the pool's inputs come as the bits of one drive, drive = sum of s[k] * 2**k:
    connection k sends 0 or 1 with the exponent k. Higher bits are ignored. v is the drive; counts,
    one per input, start a window at 0. A maximum grows by one at most, so that at every step as
    many spikes have been sent as the busiest input had: the count of a window is the maximum,
    exactly. Rueckauer et al. 2016 let the input of the highest rate through instead, which sends
    too many spikes where the lead changes: 64 for two inputs that fire 32 times each, in turns.
    """

    POOLS: ClassVar[bool] = True
    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "counts")
    PROGRAM: ClassVar[str] = "a count for each input of a pool"

    inputs: int

    def start(self, shape: Shape) -> State:
        counts = np.zeros((self.inputs, *shape), np.int64)
        return {"v": np.zeros(shape, np.int64), "counts": counts}

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = limited(drive)
        bits = np.stack([shift_left(integers(v), -k) % 2 for k in range(self.inputs)])
        before = np.zeros_like(bits) if tau == 0 else state["counts"]
        counts = before + bits
        spikes = counts.max(axis=0) > before.max(axis=0)
        return {"v": v, "counts": counts}, spikes.astype(v.dtype)

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        return drive

    def quantised(self, total: Int64Array, steps: int) -> Int64Array:
        """total: the largest of the counts that arrive, see POOLS."""
        return integers(np.clip(total, 0, steps))

    def flaw(self, steps: int) -> Flaw | None:
        if 1 <= self.inputs <= MAX_INPUTS:
            return None
        return Flaw("the inputs of a pool are bits of a state", self.inputs, f"1..{MAX_INPUTS}")

    def payload(self) -> tuple[int, int]:
        return 0, 1

    def window_total(self, steps: int) -> tuple[int, int]:
        return 0, steps
