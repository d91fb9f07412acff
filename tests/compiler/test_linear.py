"""Every form of linear map against torch, its matrix, and loops in Python integers."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import oracles
import pytest
import random_maps
import scipy.sparse as sp
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from lapilli.compiler import linear
from lapilli.compiler.execute import TorchMap
from lapilli.compiler.linear import (
    FORMS,
    Array,
    Conv,
    ConvTransposed,
    Dense,
    Diagonal,
    LinearMap,
    Sparse,
    frozen,
    identity,
)

SEEDS = st.integers(0, 2**32 - 1)
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


def sample(form: type[LinearMap], seed: int) -> tuple[LinearMap, np.random.Generator]:
    rng = np.random.default_rng(seed)
    shape = random_maps.IMAGES[rng.integers(len(random_maps.IMAGES))]
    return random_maps.random_map(rng, form, shape), rng


def matrix(m: LinearMap) -> Array:
    return np.asarray(m.to_sparse().toarray())


def channels_or_one(rng: np.random.Generator, channels: int) -> Array:
    return np.asarray(rng.integers(-4, 5, () if rng.random() < 0.3 else channels), np.float64)


def test_forms_are_all_there_are() -> None:
    assert set(FORMS) == {
        value
        for value in vars(linear).values()
        if inspect.isclass(value) and LinearMap in value.__mro__[1:]
    }
    assert FORMS
    assert set(random_maps.COVERED) == set(FORMS)


@every_form
@given(seed=SEEDS)
def test_apply_is_the_loop_over_synapses(form: type[LinearMap], seed: int) -> None:
    m, rng = sample(form, seed)
    m = m.with_weight(m.weight.astype(np.int8))  # as netlists keep them
    x = rng.integers(-1000, 1001, (2, *m.in_shape))
    found = m.apply(x)
    assert found.shape == (2, *m.out_shape)
    assert found.dtype == np.int64
    synapses = oracles.synapses(m)
    for image, result in zip(x, found, strict=True):
        expected = oracles.mapped(synapses, 0, image.reshape(-1).tolist(), m.out_size)
        assert result.reshape(-1).tolist() == expected
    assert np.array_equal(m.to_sparse() @ x.reshape(2, -1).T, found.reshape(2, -1).T)
    assert m.synapses == len(synapses)


@every_form
@given(seed=SEEDS)
@settings(max_examples=40)
def test_torch_computes_the_same(form: type[LinearMap], seed: int) -> None:
    m, rng = sample(form, seed)
    if isinstance(m, Conv) and not reads_input(m):
        return
    x = rng.integers(-1000, 1001, (2, *m.in_shape)).astype(np.float64)
    apply = TorchMap(m, torch.float64, torch.device("cpu"))
    assert np.array_equal(apply(torch.tensor(x)).numpy(), m.apply(x))


def reads_input(m: Conv) -> bool:
    """torch's own padding refuses to crop more than there is."""
    return all(
        max(-before, 0) + max(-after, 0) < size
        for (before, after), size in zip(m.margins(), m.in_shape[1:], strict=True)
    )


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_convolution_is_that_of_torch(
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int
) -> None:
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.integers(-9, 10, (2, 4, 7, 6)).astype(np.float64))
    weight = random_maps.weights(rng, (8, 4 // groups, 3, 2))
    expected = F.conv2d(x, torch.tensor(weight), None, stride, padding, dilation, groups).numpy()
    out_shape = expected.shape[1:]
    m = Conv(weight, (4, 7, 6), out_shape, stride, padding, dilation, groups)
    assert np.array_equal(m.apply(x.numpy()), expected)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 1)])
@pytest.mark.parametrize("padding", [(0, 0), (1, 2)])
@pytest.mark.parametrize(("stride", "more"), [((1, 1), (0, 0)), ((2, 3), (1, 2)), ((3, 2), (0, 1))])
def test_transposed_convolution_is_that_of_torch(
    stride: tuple[int, int],
    more: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> None:
    rng = np.random.default_rng(1)
    x = torch.tensor(rng.integers(-9, 10, (2, 4, 5, 4)).astype(np.float64))
    weight = random_maps.weights(rng, (4, 8 // groups, 3, 2))
    expected = F.conv_transpose2d(
        x, torch.tensor(weight), None, stride, padding, more, groups, dilation
    ).numpy()
    out_shape = expected.shape[1:]
    m = ConvTransposed(weight, (4, 5, 4), out_shape, stride, padding, dilation, groups)
    assert np.array_equal(m.apply(x.numpy()), expected)


def test_a_transposed_convolution_may_miss_its_output_altogether() -> None:
    weight = frozen(np.ones((1, 1, 1, 1)))
    x = np.arange(1.0, 5).reshape(1, 1, 2, 2)
    apply = torch.tensor(x)
    for padding, expected in (
        ((6, 6), [[0, 0], [0, 0]]),
        ((-5, -5), [[0, 0], [0, 0]]),
        ((1, -1), [[0, 3], [0, 0]]),
    ):
        m = ConvTransposed(weight, (1, 2, 2), (1, 2, 2), padding=padding)
        assert m.apply(x)[0, 0].tolist() == expected
        assert TorchMap(m, torch.float64, torch.device("cpu"))(apply)[0, 0].tolist() == expected
        assert (m.to_sparse() @ x.reshape(-1)).reshape(2, 2).tolist() == expected
        assert m.synapses == m.dense_macs == m.to_sparse().count_nonzero()


def test_a_convolution_may_read_beyond_the_input_altogether() -> None:
    weight = frozen(np.ones((1, 1, 1, 1)))
    before = Conv(weight, (1, 4, 4), (1, 2, 2), padding=(6, 6))
    behind = Conv(weight, (1, 4, 4), (1, 2, 2), padding=(-5, -5))
    half = Conv(weight, (1, 4, 4), (1, 2, 2), padding=(1, -3))
    x = np.arange(1.0, 17).reshape(1, 1, 4, 4)
    for m, expected in (
        (before, [[0, 0], [0, 0]]),
        (behind, [[0, 0], [0, 0]]),
        (half, [[0, 0], [4, 0]]),
    ):
        assert m.apply(x)[0, 0].tolist() == expected
        assert (m.to_sparse() @ x.reshape(-1)).reshape(2, 2).tolist() == expected
        assert m.synapses == m.to_sparse().count_nonzero()


@every_form
@given(seed=SEEDS)
def test_scaled_multiplies_rows_and_columns(form: type[LinearMap], seed: int) -> None:
    m, rng = sample(form, seed)
    rows = channels_or_one(rng, m.out_shape[0])
    columns = channels_or_one(rng, m.in_shape[0])
    found = m.scaled(rows, columns)
    left = np.broadcast_to(linear.along_channels(rows, m.out_shape), m.out_shape).reshape(-1, 1)
    right = np.broadcast_to(linear.along_channels(columns, m.in_shape), m.in_shape).reshape(1, -1)
    assert np.array_equal(matrix(found), left * matrix(m) * right)
    assert (found.in_shape, found.out_shape) == (m.in_shape, m.out_shape)
    assert type(found) is form


@every_form
@given(seed=SEEDS)
def test_fan_out_counts_the_synapses_of_each_input(form: type[LinearMap], seed: int) -> None:
    m, _ = sample(form, seed)
    found = m.fan_out()
    assert found.dtype == np.int64
    assert np.array_equal(found, np.count_nonzero(matrix(m), axis=0).reshape(m.in_shape))
    assert m.synapses == np.count_nonzero(matrix(m))


@every_form
@given(seed=SEEDS)
def test_row_sums_bound_what_each_output_can_receive(form: type[LinearMap], seed: int) -> None:
    m, _ = sample(form, seed)
    full = matrix(m)
    for weight, exact in (
        (np.maximum(m.weight, 0), np.maximum(full, 0).sum(axis=1)),
        (np.minimum(m.weight, 0), np.minimum(full, 0).sum(axis=1)),
    ):
        bound = np.broadcast_to(m.row_sums(weight), m.out_shape).reshape(-1)
        assert (abs(bound) >= abs(exact)).all()
        inside = np.ones(m.out_size, bool)
        if isinstance(m, Conv):  # at the border a bound is all that is promised
            ones = m.with_weight(np.ones_like(m.weight))
            taps = m.weight[0].size
            inside = np.asarray(ones.to_sparse().sum(axis=1)).reshape(-1) == taps
        assert np.array_equal(bound[inside], exact[inside])


@every_form
@given(seed=SEEDS)
def test_row_peaks_are_the_largest_weights(form: type[LinearMap], seed: int) -> None:
    m, _ = sample(form, seed)
    peaks = np.broadcast_to(m.row_peaks(), m.out_shape)
    if isinstance(m, (Conv, ConvTransposed)):  # per channel, also where a border hides the weight
        channels = m.weight
        if isinstance(m, ConvTransposed):  # (C, O / groups, ...): outputs are not first
            channels = m.weight.reshape(m.groups, -1, *m.weight.shape[1:]).swapaxes(1, 2)
        expected = abs(channels).reshape(m.out_shape[0], -1).max(axis=1)
        assert np.array_equal(peaks, np.broadcast_to(expected[:, None, None], m.out_shape))
    else:
        assert np.array_equal(peaks.reshape(-1), abs(matrix(m)).max(axis=1))


@every_form
@given(seed=SEEDS)
def test_dense_macs_count_zero_weights_but_no_borders(form: type[LinearMap], seed: int) -> None:
    m, _ = sample(form, seed)
    assert m.dense_macs == m.with_weight(np.ones_like(m.weight)).synapses


def test_a_diagonal_may_write_a_view() -> None:
    rng = np.random.default_rng(2)
    m = Diagonal(random_maps.weights(rng, (4, 1)), (4, 2), (2, 4))
    x = rng.integers(-9, 10, (3, 4, 2))
    assert np.array_equal(m.apply(x), (x * m.weight).reshape(3, 2, 4))
    rows, columns = np.array([2.0, 3.0]), np.array([1.0, 5.0, 7.0, 9.0])
    expected = np.repeat(rows, 4)[:, None] * matrix(m) * np.repeat(columns, 2)
    assert np.array_equal(matrix(m.scaled(rows, columns)), expected)
    assert np.array_equal(m.row_peaks().reshape(-1), abs(matrix(m)).max(axis=1))


def test_identity_changes_nothing() -> None:
    x = np.arange(12.0).reshape(1, 3, 4)
    m = identity((3, 4))
    assert np.array_equal(m.apply(x), x)
    assert np.array_equal(matrix(m), np.eye(12))
    assert (m.synapses, m.dense_macs) == (12, 12)


def test_a_stored_zero_is_no_synapse() -> None:
    """Weights that `quantise` rounds to zero stay in the matrix, but cost nothing."""
    m = Sparse.from_matrix(sp.csr_matrix([[3.0, 0.0], [0.4, 5.0]]), (2,), (2,))
    rounded = m.with_weight(np.array([3, 0, 5]))
    assert rounded.fan_out().tolist() == [1, 1]
    assert (rounded.synapses, rounded.dense_macs) == (2, 3)


def test_sparse_is_canonical() -> None:
    unsorted = sp.csr_matrix(([5.0, 0.0, 1.0, 2.0], ([0, 0, 0, 0], [2, 1, 0, 0])), (2, 3))
    m = Sparse.from_matrix(unsorted, (3,), (2,))
    assert (m.weight.tolist(), m.columns.tolist(), m.starts.tolist()) == ([3, 5], [0, 2], [0, 2, 2])
    assert unsorted.nnz == 3  # the caller's own matrix is left as it was
    assert m.row_peaks().tolist() == [5, 0]


@every_form
def test_maps_are_immutable(form: type[LinearMap]) -> None:
    m, _ = sample(form, 3)
    with pytest.raises(ValueError, match="read-only"):
        m.weight[...] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        m.weight = np.zeros(1)  # type: ignore[misc]
    mine = np.ones(3)
    kept = frozen(mine)
    mine[0] = 7
    assert kept.tolist() == [1, 1, 1]


def test_maps_introduce_themselves() -> None:
    rng = np.random.default_rng(4)
    weight = random_maps.weights(rng, (8, 2, 3, 1))
    plain = Conv(weight, (2, 4, 4), (8, 2, 4))
    assert plain.pretty() == "Conv 8x2x3x1"
    other = Conv(weight, (4, 9, 9), (8, 3, 5), (2, 2), (1, 0), (1, 3), 2)
    assert other.pretty() == "Conv 8x2x3x1 stride 2 padding (1, 0) dilation (1, 3) groups 2"
    up = ConvTransposed(weight, (8, 4, 4), (4, 7, 5), (2, 1), (1, 1), groups=2)
    assert up.pretty() == "ConvTransposed 8x2x3x1 stride (2, 1) padding 1 groups 2"
    assert Dense(random_maps.weights(rng, (3, 4)), (4,), (3,)).pretty() == "Dense 3x4"
    assert identity((2,)).pretty() == "Diagonal"
    sparse = Sparse.from_matrix(sp.identity(3, format="csr"), (3,), (3,))
    assert sparse.pretty() == "Sparse 3x3 with 3 synapses"
