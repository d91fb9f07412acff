"""What pools of spike trains share: a running count for each input, told apart by the drive's bits.

The spikes of a pool's inputs come as the bits of one drive, drive = sum of s[k] * 2**k: connection
k sends 0 or 1 with the exponent k. Higher bits are ignored. v is the drive; counts, one per input,
start a window at 0.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

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


@dataclass(frozen=True, eq=False)
class CountedInputs(NeuronModel):
    """counts[k] += s[k]; what is sent follows from the counts and the spikes of the step."""

    POOLS: ClassVar[bool] = True
    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "counts")
    PROGRAM: ClassVar[str] = "a count for each input of a pool"

    inputs: int

    @abstractmethod
    def sent(self, counts: Array, bits: Array) -> Array:
        """The spikes of a step, 0 or 1; counts (inputs, *shape) contain its bits already."""

    def start(self, shape: Shape) -> State:
        counts = np.zeros((self.inputs, *shape), np.int64)
        return {"v": np.zeros(shape, np.int64), "counts": counts}

    def step(self, state: State, drive: Array, tau: int, steps: int) -> tuple[State, Array]:
        v = limited(drive)
        bits = np.stack([shift_left(integers(v), -k) % 2 for k in range(self.inputs)])
        counts = bits if tau == 0 else state["counts"] + bits
        return {"v": v, "counts": counts}, self.sent(counts, bits).astype(v.dtype)

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
