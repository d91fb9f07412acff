"""The product of two counts: gates, squeeze and excitation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import STATE_BITS, Flaw, Interval, integers
from lapilli.compiler.neurons.packed import above, field, packing_flaw
from lapilli.compiler.neurons.sending import AnySending
from lapilli.compiler.neurons.staircase import Staircase
from lapilli.compiler.numerics import signed_range

MAX_SHIFT = 12
_BEYOND = 2**STATE_BITS
"""More than any state: bounds cut to it stay wrong, and their products stay within 64 bits."""


@final
@dataclass(frozen=True, eq=False)
class Product(Staircase):
    """u = (low + lowest_factor) * high * 2**shift;
    n = clip(floor((u + initial_product) / threshold), lowest, levels); v += drive, from `bias` on.

    low = v mod 2**bits is what the first factor sends, less `lowest_factor`, the smallest it can
    be; high = floor(v / 2**bits), signed, is what the second one sends. So connections of the first
    factor have the exponent 0, those of the second one `bits`, and the bias -lowest_factor makes
    the low field non-negative. u has as many bits as a state; that v's own reach keeps it there is
    part of `reach`. initial_product: threshold // 2 rounds half up. sending: as `Ladder` has it.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "pending", "sent")
    PROGRAM: ClassVar[str] = "a product of two counts"

    threshold: Array
    bias: Array
    initial_product: Array
    bits: int
    lowest_factor: int
    shift: int
    lowest: int
    levels: int
    sending: AnySending

    def coding(self) -> AnySending:
        return self.sending

    def count(self, v: Array) -> Array:
        u = self.product(field(v, self.bits, 0), above(v, self.bits))
        n = (u + self.initial_product) // self.threshold
        return np.asarray(np.clip(n, self.lowest, self.levels))

    def product(self, low: Array, high: Array) -> Array:
        """u of the two fields."""
        return np.asarray((low + self.lowest_factor) * high * 2**self.shift)

    def reach(self, drive: Interval, total: Interval, steps: int) -> Interval:
        """Of v and of what is computed from it: u, and u + initial_product."""
        held = super().reach(drive, total, steps)
        highs = [above(np.clip(bound, -_BEYOND, _BEYOND), self.bits) for bound in held]
        lows = np.array(0), np.array(2**self.bits - 1)
        corners = [self.product(low, high) for low in lows for high in highs]
        corners += [u + self.initial_product for u in corners]
        return Interval(
            reduce(np.minimum, corners, integers(held.low)),
            reduce(np.maximum, corners, integers(held.high)),
        )

    def flaw(self, steps: int) -> Flaw | None:
        wrong = super().flaw(steps) or packing_flaw(1, self.bits)
        if wrong is not None:
            return wrong
        if not 0 <= self.shift <= MAX_SHIFT:
            return Flaw("a product is shifted left by little", self.shift, f"0..{MAX_SHIFT}")
        top = signed_range(STATE_BITS)[1]
        low, high = int(self.initial_product.min()), int(self.initial_product.max())
        if max(abs(self.lowest_factor), -low, high) > top:
            found = f"lowest factor {self.lowest_factor}, initial product {low}..{high}"
            return Flaw("factors and products fit the state", found, f"{-top}..{top}")
        return None
