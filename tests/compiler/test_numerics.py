"""Rounding, saturating and shifting against exact fractions and Python integers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapilli.compiler import numerics

floats = st.floats(-(2.0**60), 2.0**60)
HALF = Fraction(1, 2)


@given(floats)
def test_half_up_is_the_floor_of_x_plus_a_half(x: float) -> None:
    expected = math.floor(Fraction(x) + HALF)
    assert numerics.half_up(x).tolist() == expected


@pytest.mark.parametrize("whole", [-3, -1, 0, 1, 2**22, 2**51])
def test_half_up_at_ties_and_beside_them(whole: int) -> None:
    tie = whole + 0.5
    around = [math.nextafter(tie, -math.inf), tie, math.nextafter(tie, math.inf)]
    assert numerics.half_up(around).tolist() == [whole, whole + 1, whole + 1]


@given(floats)
def test_round_down_is_the_floor(x: float) -> None:
    assert numerics.round_down(x).tolist() == math.floor(Fraction(x))


def test_rounding_keeps_shapes_and_gives_64_bits() -> None:
    for function in (numerics.half_up, numerics.round_down):
        rounded = function(np.full((2, 3), 1.75, np.float32))
        assert (rounded.shape, rounded.dtype) == ((2, 3), np.int64)


@given(st.integers(2, 62), st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_saturate_clips_to_the_symmetric_range(bits: int, values: list[int]) -> None:
    top = 2 ** (bits - 1) - 1
    assert numerics.signed_range(bits) == (-top, top)
    expected = [min(max(v, -top), top) for v in values]
    assert numerics.saturate(np.array(values, np.int64), bits).tolist() == expected


@given(st.integers(-(2**40), 2**40), st.integers(-50, 20))
def test_shift_left_is_an_arithmetic_shift(value: int, exponent: int) -> None:
    expected = math.floor(Fraction(value) * Fraction(2) ** exponent)
    assert numerics.shift_left(np.array([value]), exponent).tolist() == [expected]


@given(st.floats(min_value=5e-324, max_value=1e308))
def test_exponent_below_brackets_the_ratio(ratio: float) -> None:
    e = numerics.exponent_below(ratio)
    assert Fraction(2) ** e <= Fraction(ratio) < Fraction(2) ** (e + 1)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_smallest_integer_at_the_limit_of_each_type(bits: int) -> None:
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    inside = numerics.smallest_integer(np.array([low, high]))
    assert (inside.dtype.itemsize * 8, inside.tolist()) == (bits, [low, high])
    for beyond in (low - 1, high + 1):
        wider = numerics.smallest_integer(np.array([0, beyond]))
        assert (wider.dtype.itemsize * 8, wider.tolist()) == (2 * bits, [0, beyond])


def test_smallest_integer_of_nothing() -> None:
    assert numerics.smallest_integer(np.zeros((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("limit", "dtype"),
    [(numerics.FLOAT32_EXACT, np.float32), (numerics.FLOAT64_EXACT, np.float64)],
)
def test_floats_hold_every_integer_up_to_the_limit_and_not_the_next(
    limit: int, dtype: type[np.floating]
) -> None:
    assert [int(dtype(limit - 1)), int(dtype(limit))] == [limit - 1, limit]
    assert int(dtype(limit + 1)) != limit + 1
