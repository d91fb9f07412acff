"""Linear maps of integer spikes: exact in every arithmetic, for every form. Needs no Lava."""

from __future__ import annotations

import itertools

import netlists
import numpy as np
import oracles
import pytest

from lapilli.compiler.linear import FORMS, Conv, ConvTransposed, Dense, LinearMap, frozen
from lapilli.runtime.lava import exact_map
from lapilli.runtime.lava.exact_map import ExactMap


def one_weight(*weights: int) -> Dense:
    return Dense(frozen([weights], np.int64), (len(weights),), (1,))


def test_every_form_is_covered() -> None:
    assert set(exact_map._FORMS) == set(FORMS)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("largest", [1, 15, 2**16, 2**23 - 1, 2**40])
def test_equals_nested_loops(form: type[LinearMap], largest: int) -> None:
    rng = np.random.default_rng(largest)
    for exponent in (0, 3):
        linear_map = netlists.random_map(rng, form, (4, 7, 6))
        x = rng.integers(-largest, largest + 1, linear_map.in_shape)
        found = ExactMap(linear_map, exponent)(x)
        assert found.dtype == np.int64
        assert found.shape == linear_map.out_shape
        flat = x.reshape(-1).tolist()
        expected = oracles.mapped(oracles.synapses(linear_map), exponent, flat, linear_map.out_size)
        assert any(expected)
        assert found.reshape(-1).tolist() == expected


@pytest.mark.parametrize("form", FORMS)
def test_arithmetic_follows_the_step_that_is_largest(form: type[LinearMap]) -> None:
    """One map meets small and large spikes in turn, as a synapse does."""
    rng = np.random.default_rng(5)
    linear_map = netlists.random_map(rng, form, (2, 5, 5))
    exact, found = ExactMap(linear_map), oracles.synapses(linear_map)
    for largest in (1, 2**45, 0, 2**20, 1):
        x = rng.integers(-largest, largest + 1, linear_map.in_shape)
        expected = oracles.mapped(found, 0, x.reshape(-1).tolist(), linear_map.out_size)
        assert exact(x).reshape(-1).tolist() == expected


PAIRS = [(1, 1), (2, 3)]


@pytest.mark.parametrize("form", [Conv, ConvTransposed])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("largest", [15, 2**23 - 1, 2**50])
def test_every_geometry(form: type[Conv | ConvTransposed], groups: int, largest: int) -> None:
    rng = np.random.default_rng(largest + groups)
    geometries = itertools.product(PAIRS, [(0, 0), (1, 2), (-1, 1)], PAIRS, [(5, 4), (7, 9)])
    for stride, padding, dilation, size in geometries:
        weight = frozen(rng.integers(-128, 128, (4, 4 // groups, 3, 2)), np.int8)
        linear_map = form(weight, (4, 5, 6), (4, *size), stride, padding, dilation, groups)
        x = rng.integers(-largest, largest + 1, (4, 5, 6))
        wired = oracles.synapses(linear_map)
        expected = oracles.mapped(wired, 1, x.reshape(-1).tolist(), linear_map.out_size)
        assert any(expected)
        assert ExactMap(linear_map, 1)(x).reshape(-1).tolist() == expected


@pytest.mark.parametrize("padding", [(6, 6), (-5, -5), (1, -3), (-3, 7)])
def test_a_convolution_may_read_beyond_the_input_altogether(padding: tuple[int, int]) -> None:
    linear_map = Conv(frozen([[[[3]]]], np.int64), (1, 4, 4), (1, 2, 3), padding=padding)
    x = np.arange(1, 17).reshape(1, 4, 4)
    wired = oracles.synapses(linear_map)
    expected = oracles.mapped(wired, 0, x.reshape(-1).tolist(), 6)
    assert any(expected) == (padding == (1, -3))
    assert ExactMap(linear_map)(x).reshape(-1).tolist() == expected


def test_what_a_map_returned_is_not_overwritten_by_the_next_call() -> None:
    weight = frozen(np.ones((1, 1, 2, 2)), np.int8)
    for largest in (1, 2**30, 2**55):  # in every arithmetic
        exact = ExactMap(Conv(weight, (1, 3, 3), (1, 2, 2)))
        first = exact(np.full((1, 3, 3), largest))
        exact(np.full((1, 3, 3), -largest))
        assert first.reshape(-1).tolist() == [4 * largest] * 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("sign", [1, -1])
def test_every_form_refuses_what_could_leave_64_bits(form: type[LinearMap], sign: int) -> None:
    linear_map = netlists.random_map(np.random.default_rng(3), form, (2, 5, 5))
    x = np.full(linear_map.in_shape, sign * 2**46)
    wired = oracles.synapses(linear_map)
    expected = oracles.mapped(wired, 0, x.reshape(-1).tolist(), linear_map.out_size)
    assert any(expected)
    assert ExactMap(linear_map)(x).reshape(-1).tolist() == expected
    rows = [0] * linear_map.out_size
    for target, _, weight in wired:
        rows[target] += abs(weight)
    beyond = next(e for e in range(20) if max(rows) << (46 + e) >= 2**63)
    with pytest.raises(OverflowError, match="64 bits"):
        ExactMap(linear_map, beyond)(x)


@pytest.mark.parametrize("bits", [24, 53])
def test_sums_beyond_the_exact_range_of_a_float(bits: int) -> None:
    """2**24 + 1 is no float32, 2**53 + 1 no float64."""
    exact = ExactMap(one_weight(2, 1))
    for x, expected in (
        ([2 ** (bits - 1), 1], 2**bits + 1),
        ([-(2 ** (bits - 1)), -1], -(2**bits) - 1),
        ([2 ** (bits - 1) - 1, 1], 2**bits - 1),
    ):
        assert exact(np.array(x)).tolist() == [expected]


def test_most_negative_weight_and_spike() -> None:
    exact = ExactMap(Dense(frozen([[-128]], np.int8), (1,), (1,)))
    assert exact(np.array([-(2**31)], np.int32)).tolist() == [2**38]


def test_result_that_leaves_64_bits_is_refused() -> None:
    assert ExactMap(one_weight(2**40), 22)(np.array([1])).tolist() == [2**62]
    with pytest.raises(OverflowError, match="64 bits"):
        ExactMap(one_weight(2**40), 23)(np.array([1]))


@pytest.mark.parametrize(("weight", "exponent"), [(0.5, 0), (1, -1)])
def test_only_integers_and_left_shifts(weight: float, exponent: int) -> None:
    with pytest.raises(ValueError, match="weights are integers"):
        ExactMap(Dense(frozen([[weight]]), (1,), (1,)), exponent)
