"""The only place that rounds, saturates and shifts integers.

Rounding is half up everywhere: floor(x + 1/2). A test keeps `round` out of every other module.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer[Any]]
Int64Array = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.floating[Any]]

FLOAT32_EXACT = 2**24
"""Sums of integers whose magnitudes add up to at most this are exact in float32, in any order."""
FLOAT64_EXACT = 2**53
"""The same bound for float64."""


def half_up(x: npt.ArrayLike) -> Int64Array:
    """Round to the nearest integer, ties towards plus infinity; x is finite and below 2**63.

    >>> half_up([-0.5, 0.5, 1.5, 0.49999999999999994]).tolist()
    [0, 1, 2, 0]
    """
    value = np.asarray(x, dtype=np.float64)
    whole = np.floor(value)
    # x + 0.5 itself can round up to the next integer, so the fraction is compared instead.
    result: Int64Array = (whole + (value - whole >= 0.5)).astype(np.int64)
    return result


def round_down(x: npt.ArrayLike) -> Int64Array:
    """The largest integer that is not above x; x is finite and below 2**63.

    >>> round_down([-0.5, 2.5]).tolist()
    [-1, 2]
    """
    return np.floor(np.asarray(x, dtype=np.float64)).astype(np.int64)


def drop_fraction(x: npt.ArrayLike) -> Int64Array:
    """Round towards zero, as a conversion to integers does; x is finite and below 2**63.

    >>> drop_fraction([10.9, -10.9]).tolist()
    [10, -10]
    """
    return np.trunc(np.asarray(x, dtype=np.float64)).astype(np.int64)


def signed_range(bits: int) -> tuple[int, int]:
    """Symmetric range of a signed state of `bits` bits: Loihi keeps -(2**(bits-1) - 1) .. same.

    >>> signed_range(24)
    (-8388607, 8388607)
    """
    top = 2 ** (bits - 1) - 1
    return -top, top


def saturate(x: Int64Array, bits: int) -> Int64Array:
    """Clip to `signed_range(bits)`.

    >>> saturate(np.array([-9, 5, 9]), 4).tolist()
    [-7, 5, 7]
    """
    low, high = signed_range(bits)
    return np.clip(x, low, high)


def shift_left(x: Int64Array, exponent: int) -> Int64Array:
    """Multiply by 2**exponent; a negative exponent floors, as an arithmetic shift does.

    >>> shift_left(np.array([3, -3]), -1).tolist()
    [1, -2]
    """
    return x << exponent if exponent >= 0 else x >> -exponent


def shift_towards_zero(x: Int64Array, bits: int) -> Int64Array:
    """Divide by 2**bits and drop the fraction, as Loihi decays: both signs lose magnitude.

    >>> shift_towards_zero(np.array([7, -7]), 1).tolist()
    [3, -3]
    """
    result: Int64Array = np.sign(x) * (np.abs(x) >> bits)
    return result


def exponent_below(ratio: float) -> int:
    """Largest integer e with 2**e <= ratio (ratio > 0).

    >>> exponent_below(9.0), exponent_below(0.3)
    (3, -2)
    """
    return int(np.frexp(ratio)[1]) - 1


def smallest_integer(x: npt.ArrayLike) -> IntArray:
    """Copy into the smallest signed integer type that holds every value.

    >>> smallest_integer(np.array([-128, 127])).dtype, smallest_integer(np.array([128])).dtype
    (dtype('int8'), dtype('int16'))
    """
    values = np.asarray(x)
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for dtype in (np.int8, np.int16, np.int32):
        info = np.iinfo(dtype)
        if info.min <= low and high <= info.max:
            return values.astype(dtype)
    return values.astype(np.int64)
