"""Several counts in one membrane: what reaches a neuron is told apart by its bits.

A connection with the exponent k * bits, or with weights of 2**(k * bits), delivers field k. As long
as every field holds 0 .. 2**bits - 1, sums of them are exact and nothing carries over.
"""

from __future__ import annotations

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import STATE_BITS, Flaw

FIELD_BITS = STATE_BITS - 1
"""Bits of a positive state."""


def field(v: Array, bits: int, index: int) -> Array:
    """Bits index * bits .. (index + 1) * bits - 1 of v, which may be negative; 0 .. 2**bits - 1.

    >>> [int(field(np.array(0x1234), 4, k)) for k in range(5)]
    [4, 3, 2, 1, 0]
    """
    return np.asarray(v // 2 ** (bits * index) % 2**bits)


def above(v: Array, bits: int) -> Array:
    """What v holds above its lowest field, signed: v = field(v, bits, 0) + above * 2**bits.

    >>> int(above(np.array(-1), 4)), int(field(np.array(-1), 4, 0))
    (-1, 15)
    """
    return np.asarray(v // 2**bits)


def packing_flaw(fields: int, bits: int) -> Flaw | None:
    """What is wrong with that many fields of so many bits in one membrane."""
    if fields >= 1 and bits >= 1 and fields * bits <= FIELD_BITS:
        return None
    found = f"{fields} fields of {bits} bits"
    return Flaw("packed counts are bits of a state", found, f"1..{FIELD_BITS} bits in all")
