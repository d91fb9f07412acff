"""The weights that netx and Lava really run for the matrix in a `.net` file.

netx scales a dense matrix up until its largest weight fills 8 bits (optimize_weight_bits), and
Lava's Dense clips and truncates the result before it scales the sums down again. For matrices of
both signs within -256..254 that changes nothing; for others it does, and what is imported is what
runs. Convolutions are used as they are.
Source: lava-dl 0.6, lava/lib/dl/netx/utils.py; lava-nc 0.10, lava/utils/weightutils.py; both
compared with this file on random matrices by tests/test_netx_import_lava.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lapilli.compiler.numerics import Int64Array, exponent_below

MIXED_LOW, MIXED_HIGH = -256, 254
MAX_WEIGHT = 2**31 - 1


class Scaled(NamedTuple):
    """weight: as netx hands it to Lava; bits: num_weight_bits; up: weight_exp is -up."""

    weight: Int64Array
    bits: int
    up: int


def scaled_up(weight: Int64Array) -> Scaled:
    """netx's optimize_weight_bits, for a matrix that is not all zero."""
    low, high = int(weight.min()), int(weight.max())
    if (high > MIXED_HIGH and low < 0) or (low < MIXED_LOW and high > 0):
        weight = np.clip(weight, MIXED_LOW, MIXED_HIGH)
        low, high = int(weight.min()), int(weight.max())
    mixed = low < 0 <= high  # 0 counts as positive here, but not in Lava
    if mixed:
        up = exponent_below(min(127 / high if high else np.inf, -128 / low)) + 1
    else:
        up = exponent_below(255 / high if low >= 0 else -256 / low)
    zeros = next(n for n in range(8, -1, -1) if not (weight % 2**n).any())
    bits = 8 - up - (zeros - mixed)
    return Scaled(_left(weight, up), bits, up)


def truncated(weight: Int64Array, bits: int) -> Int64Array:
    """What Lava's Dense makes of its weights: clipped to its sign mode, low bits cut off."""
    low, high = int(weight.min()), int(weight.max())
    inhibitory = low < 0 and high <= 0
    mixed = low < 0 < high
    weight = np.clip(-weight if inhibitory else weight, MIXED_LOW if mixed else 0, 255)
    cut = 8 - bits + mixed
    weight = _left(_right(weight, cut), cut)
    return -weight if inhibitory else weight


def effective(weight: Int64Array, up: int) -> Int64Array | None:
    """Weights w with floor(sum(weight * spikes) / 2**up) == sum(w * spikes), if there are any."""
    if (weight % 2 ** max(up, 0)).any():
        return None
    return _left(weight, -up) if up < 0 else _right(weight, up)


def _left(x: Int64Array, bits: int) -> Int64Array:
    # As numpy, and so Lava, does it: a negative shift leaves nothing.
    return x << bits if bits >= 0 else np.zeros_like(x)


def _right(x: Int64Array, bits: int) -> Int64Array:
    return x >> bits if bits >= 0 else np.where(x < 0, -1, 0)
