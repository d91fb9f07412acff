"""Max pooling of counts: the largest of several fields of one membrane."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import Flaw
from lapilli.compiler.neurons.packed import field, packing_flaw
from lapilli.compiler.neurons.staircase import Staircase


@final
@dataclass(frozen=True, eq=False)
class GradedMax(Staircase):
    """n = lowest + the largest field of v, at most levels; v += drive, from `bias` on.

    v has `inputs` fields of `bits` bits: field k, bits k * bits .. (k + 1) * bits - 1, holds what
    input k sends, less `lowest`. So connection k has the exponent k * bits, and the bias is the sum
    of -lowest * 2**(k * bits) over the inputs that there are: beyond a border there is none, and
    its field is 0. Higher bits are ignored. sending: "graded" at a window's end, "changes" in every
    step, as `Ladder` has it.
    One neuron per pool; a tree of max(a, b) = a + relu(b - a) would take as many as there are
    inputs.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "sent")
    PROGRAM: ClassVar[str] = "a maximum of bit fields"

    bias: Array
    inputs: int
    bits: int
    lowest: int
    levels: int
    sending: Literal["graded", "changes"]

    def coding(self) -> Literal["graded", "changes"]:
        return self.sending

    def count(self, v: Array) -> Array:
        largest = field(v, self.bits, 0)
        for index in range(1, self.inputs):
            largest = np.maximum(largest, field(v, self.bits, index))
        return np.asarray(np.minimum(largest + self.lowest, self.levels))

    def flaw(self, steps: int) -> Flaw | None:
        wrong = super().flaw(steps) or packing_flaw(self.inputs, self.bits)
        if wrong is not None or self.levels - self.lowest < 2**self.bits:
            return wrong
        found = f"counts {self.lowest}..{self.levels} in {self.bits} bits"
        return Flaw("a field holds every count", found, f"up to {2**self.bits} counts")
