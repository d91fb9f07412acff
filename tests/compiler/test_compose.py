"""Compositions and sums of maps equal those of their matrices, and stay compact where they can."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import random_maps
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st

from lapilli.compiler import compose as algebra
from lapilli.compiler.compose import Affine, add, compact, compose
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.linear import (
    FORMS,
    Array,
    Conv,
    Dense,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
    frozen,
    identity,
)

SEEDS = st.integers(0, 2**32 - 1)
PAIRS = list(itertools.product(FORMS, FORMS))
every_pair = pytest.mark.parametrize(
    ("first", "second"), PAIRS, ids=[f"{a.__name__}-{b.__name__}" for a, b in PAIRS]
)
RNG = np.random.default_rng(11)


def matrix(m: LinearMap) -> Array:
    return np.asarray(m.to_sparse().toarray())


def conv(  # a convolution whose output size follows from the rest, as in torch
    in_shape: Shape,
    outputs: int,
    kernel: int | tuple[int, int],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Conv:
    taps = (kernel, kernel) if isinstance(kernel, int) else kernel
    sizes = [
        (size + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for size, k in zip(in_shape[1:], taps, strict=True)
    ]
    return Conv(
        random_maps.weights(RNG, (outputs, in_shape[0] // groups, *taps)),
        in_shape,
        (outputs, sizes[0], sizes[1]),
        (stride, stride),
        (padding, padding),
        (dilation, dilation),
        groups,
    )


def pool(in_shape: Shape, size: int, padding: int = 0) -> Conv:
    depthwise = conv(in_shape, in_shape[0], size, stride=size, padding=padding, groups=in_shape[0])
    return Conv(
        frozen(np.full_like(depthwise.weight, 1 / 4)),
        in_shape,
        depthwise.out_shape,
        depthwise.stride,
        depthwise.padding,
        groups=depthwise.groups,
    )


@every_pair
@given(seed=SEEDS)
@settings(max_examples=60)
def test_compose_is_the_matrix_product(
    first: type[LinearMap], second: type[LinearMap], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = random_maps.IMAGES[rng.integers(len(random_maps.IMAGES))]
    inner = random_maps.random_map(rng, first, shape)
    outer = random_maps.random_map(rng, second, random_maps.random_view(rng, inner.out_shape))
    found = compose(outer, inner)
    assert np.array_equal(matrix(found), matrix(outer) @ matrix(inner))
    assert (found.in_size, found.out_size) == (inner.in_size, outer.out_size)
    assert not found.weight.flags.writeable
    x = rng.integers(-9, 10, (2, inner.in_size)).astype(np.float64)
    steps = outer.apply(inner.apply(x.reshape(2, *inner.in_shape)).reshape(2, *outer.in_shape))
    at_once = found.apply(x.reshape(2, *found.in_shape))
    assert np.array_equal(at_once.reshape(2, -1), steps.reshape(2, -1))


@every_pair
@given(seed=SEEDS)
@settings(max_examples=60)
def test_add_is_the_sum_of_the_matrices(
    first: type[LinearMap], second: type[LinearMap], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = random_maps.IMAGES[rng.integers(len(random_maps.IMAGES))]
    left = random_maps.random_map(rng, first, shape)
    right = random_maps.random_map(rng, second, random_maps.random_view(rng, shape))
    if left.out_size != right.out_size:  # make it fit, as few random pairs do
        dense = Dense(
            random_maps.weights(rng, (left.out_size, right.out_size)),
            right.out_shape,
            left.out_shape,
        )
        right = compose(dense, right)
    found = add(left, right)
    assert np.array_equal(matrix(found), matrix(left) + matrix(right))
    assert found.in_shape in (left.in_shape, right.in_shape)
    assert found.out_shape in (left.out_shape, right.out_shape)


@given(seed=SEEDS)
@settings(max_examples=300)
def test_two_convolutions_of_one_geometry_add_to_a_convolution(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (4, 6, 5)
    left = random_maps.random_map(rng, Conv, shape)
    assert isinstance(left, Conv)
    kernel, dilation = rng.integers(1, 4, 2).tolist(), rng.integers(1, 4, 2).tolist()
    groups = int(rng.choice([g for g in (1, 2, 4) if left.out_shape[0] % g == 0]))
    right = Conv(
        random_maps.weights(rng, (left.out_shape[0], 4 // groups, *kernel)),
        shape,
        left.out_shape,
        left.stride,
        tuple(rng.integers(-2, 4, 2).tolist()),
        tuple(dilation),
        groups,
    )
    found = add(left, right)
    assert isinstance(found, Conv)
    assert np.array_equal(matrix(found), matrix(left) + matrix(right))


STAYS_COMPACT = {
    # name: outer, inner, form, and what pretty() says of the result
    "conv-BN": (
        Diagonal(random_maps.weights(RNG, (6, 1, 1)), (6, 4, 4), (6, 4, 4)),
        conv((3, 4, 4), 6, 3, padding=1),
        "Conv 6x3x3x3 padding 1",
    ),
    "BN-conv": (
        conv((3, 4, 4), 6, 3, padding=1),
        Diagonal(random_maps.weights(RNG, (3, 1, 1)), (3, 4, 4), (3, 4, 4)),
        "Conv 6x3x3x3 padding 1",
    ),
    "global pool-dense": (
        Dense(random_maps.weights(RNG, (10, 6)), (6,), (10,)),
        pool((6, 2, 2), 2),
        "Dense 10x24",
    ),
    "pool-padded conv": (
        conv((3, 4, 4), 5, 3, padding=1),
        pool((3, 8, 8), 2),
        "Conv 5x3x6x6 stride 2 padding 2",
    ),
    "padded conv-pool": (
        pool((5, 8, 8), 2),
        conv((3, 8, 8), 5, 3, padding=1),
        "Conv 5x3x4x4 stride 2 padding 1",
    ),
    "3x3-1x1": (
        conv((6, 4, 4), 5, 1),
        conv((3, 4, 4), 6, 3, padding=1),
        "Conv 5x3x3x3 padding 1",
    ),
    "1x1-padded 3x3": (
        conv((6, 4, 4), 5, 3, padding=1),
        conv((3, 4, 4), 6, 1),
        "Conv 5x3x3x3 padding 1",
    ),
    "option-A shortcut": (
        Conv(  # pad the channels: 2 zeros before, 2 after
            frozen(np.eye(8, 4, k=-2)[:, :, None, None]),
            (4, 3, 3),
            (8, 3, 3),
        ),
        Conv(  # x[:, :, ::2, ::2]
            frozen(np.ones((4, 1, 1, 1))), (4, 6, 6), (4, 3, 3), stride=(2, 2), groups=4
        ),
        "Conv 8x4x1x1 stride 2",
    ),
    "slice-conv": (
        conv((4, 3, 3), 5, 3, padding=1),
        Conv(frozen(np.ones((4, 1, 1, 1))), (4, 6, 6), (4, 3, 3), stride=(2, 2), groups=4),
        "Conv 5x4x3x3 stride 2 padding 2 dilation 2",
    ),
    "crop-valid conv": (
        conv((4, 4, 4), 5, 3),
        Conv(frozen(np.ones((4, 1, 1, 1))), (4, 6, 6), (4, 4, 4), padding=(-1, -2), groups=4),
        "Conv 5x4x3x3 padding (-1, -2)",
    ),
    "depthwise-pointwise": (
        conv((4, 5, 5), 6, 1),
        conv((4, 5, 5), 4, 3, padding=1, groups=4),
        "Conv 6x4x3x3 padding 1",
    ),
    "grouped-grouped": (
        conv((8, 3, 3), 8, 1, groups=4),
        conv((4, 3, 3), 8, 3, padding=1, groups=2),
        "Conv 8x2x3x3 padding 1 groups 2",
    ),
    "dilated-valid": (
        conv((3, 5, 5), 2, 2),
        conv((2, 9, 9), 3, 3, dilation=2),
        "Conv 2x2x6x6",
    ),
    "dense-BN1d": (
        Diagonal(random_maps.weights(RNG, (5,)), (5,), (5,)),
        Dense(random_maps.weights(RNG, (5, 4)), (4,), (5,)),
        "Dense 5x4",
    ),
    "dense-view-conv": (
        conv((2, 3, 3), 4, 3, padding=1),
        Dense(random_maps.weights(RNG, (18, 4)), (4,), (18,)),
        "Dense 36x4",
    ),
    "conv-flatten-dense": (
        Dense(random_maps.weights(RNG, (7, 32)), (32,), (7,)),
        conv((2, 4, 4), 2, 3, padding=1),
        "Dense 7x32",
    ),
    "two per-position scales": (
        Diagonal(random_maps.weights(RNG, (2, 3, 3)), (2, 3, 3), (2, 3, 3)),
        Diagonal(random_maps.weights(RNG, (1, 3, 3)), (2, 3, 3), (2, 3, 3)),
        "Diagonal",
    ),
    "view of a per-position scale": (
        Diagonal(random_maps.weights(RNG, (18,)), (18,), (18,)),
        Diagonal(random_maps.weights(RNG, (2, 3, 3)), (2, 3, 3), (2, 3, 3)),
        "Diagonal",
    ),
    "scaled view of an image": (
        Diagonal(frozen(np.full((), 3.0)), (18,), (18,)),
        conv((2, 3, 3), 2, 1),
        "Conv 2x2x1x1",
    ),
}


@pytest.mark.parametrize("name", STAYS_COMPACT)
def test_stays_compact(name: str) -> None:
    outer, inner, expected = STAYS_COMPACT[name]
    found = compose(outer, inner)
    assert found.pretty() == expected
    assert np.allclose(matrix(found), matrix(outer) @ matrix(inner), rtol=0, atol=1e-12)


FALLS_BACK = {
    "padded-padded": (conv((6, 4, 4), 5, 3, padding=1), conv((3, 4, 4), 6, 3, padding=1)),
    "odd pool-padded conv": (conv((3, 2, 2), 5, 3, padding=1), pool((3, 5, 5), 2)),
    "crop-padded conv": (
        conv((4, 4, 4), 5, 3, padding=1),
        Conv(frozen(np.ones((4, 1, 1, 1))), (4, 6, 6), (4, 4, 4), padding=(-1, -1), groups=4),
    ),
    "per-position scale-conv": (
        conv((2, 3, 3), 3, 2),
        Diagonal(frozen(np.arange(9.0).reshape(1, 3, 3)), (2, 3, 3), (2, 3, 3)),
    ),
    "conv-other view-conv": (conv((4, 2, 8), 3, 2), conv((2, 4, 8), 2, 3, padding=1)),
    "nothing of the input": (
        Conv(frozen(np.ones((1, 1, 1, 1))), (1, 9, 9), (1, 2, 2)),
        Conv(frozen(np.ones((1, 1, 1, 1))), (1, 4, 4), (1, 9, 9), padding=(5, 5)),
    ),
}


@pytest.mark.parametrize("name", FALLS_BACK)
def test_falls_back_to_a_sparse_matrix(name: str) -> None:
    outer, inner = FALLS_BACK[name]
    found = compose(outer, inner)
    assert isinstance(found, Sparse)
    assert np.array_equal(matrix(found), matrix(outer) @ matrix(inner))


SUMS_COMPACT = {
    "x + x": (identity((3, 4, 4)), identity((3, 4, 4)), "Diagonal"),
    "x - flattened x": (identity((3, 4, 4)), identity((48,)), "Diagonal"),
    "RepVGG": (
        conv((3, 4, 4), 3, 3, padding=1),
        add(conv((3, 4, 4), 3, 1), identity((3, 4, 4))),
        "Conv 3x3x3x3 padding 1",
    ),
    "strided 3x3 + strided 1x1": (
        conv((4, 6, 6), 8, 3, stride=2, padding=1),
        conv((4, 6, 6), 8, 1, stride=2),
        "Conv 8x4x3x3 stride 2 padding 1",
    ),
    "dilated + plain": (
        conv((4, 7, 7), 4, 3, padding=2, dilation=2, groups=4),
        conv((4, 7, 7), 4, 3, padding=1, groups=2),
        "Conv 4x2x5x5 padding 2 groups 2",
    ),
    "dense + anything": (
        conv((1, 3, 3), 1, 3, padding=1),
        Dense(random_maps.weights(RNG, (9, 9)), (9,), (9,)),
        "Dense 9x9",
    ),
}


@pytest.mark.parametrize("name", SUMS_COMPACT)
def test_sums_stay_compact(name: str) -> None:
    left, right, expected = SUMS_COMPACT[name]
    found = add(left, right)
    assert found.pretty() == expected
    assert np.array_equal(matrix(found), matrix(left) + matrix(right))


SAME = conv((2, 6, 6), 2, 3, padding=1)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (SAME, Diagonal(frozen(np.arange(36.0).reshape(1, 6, 6)), (2, 6, 6), (2, 6, 6))),
        (SAME, Diagonal(random_maps.weights(RNG, (4, 1, 1)), (4, 3, 6), (2, 6, 6))),
        (SAME, Diagonal(random_maps.weights(RNG, (2, 1, 1)), (2, 6, 6), (4, 3, 6))),
        (SAME, conv((2, 9, 4), 2, 3, padding=1)),
        (
            conv((2, 6, 6), 3, (3, 1)),
            Diagonal(random_maps.weights(RNG, (2, 1, 1)), (2, 6, 6), (3, 4, 6)),
        ),
    ],
)
def test_sums_of_other_geometries_become_sparse(left: LinearMap, right: LinearMap) -> None:
    found = add(left, right)
    assert isinstance(found, Sparse)
    assert np.array_equal(matrix(found), matrix(left) + matrix(right))


@pytest.mark.parametrize("scale", [np.ones(()), np.full((2, 1, 1), 3.0)])
@pytest.mark.parametrize("form", [Dense, Sparse])
def test_a_matrix_reads_a_population_in_its_own_shape(form: type[LinearMap], scale: Array) -> None:
    """After a flatten: so that what holds per channel of the population scales it."""
    outer = random_maps.random_map(RNG, form, (18,))
    found = compose(outer, Diagonal(frozen(scale), (2, 3, 3), (2, 3, 3)))
    assert (type(found), found.in_shape) == (form, (2, 3, 3))
    full = np.broadcast_to(scale, (2, 3, 3)).reshape(1, -1)
    assert np.array_equal(matrix(found), matrix(outer) * full)


@pytest.mark.parametrize("outer_is_dense", [False, True])
def test_matrices_beyond_reason_are_refused_before_they_are_built(
    monkeypatch: pytest.MonkeyPatch, outer_is_dense: bool
) -> None:
    inner = conv((3, 8, 8), 8, 3, padding=1)
    outer: LinearMap = conv((8, 8, 8), 8, 3, padding=1)
    if outer_is_dense:
        outer = Dense(random_maps.weights(RNG, (10, 512)), (512,), (10,))
    monkeypatch.setattr(algebra, "MAX_SPARSE_SYNAPSES", 1000)
    with pytest.raises(UnsupportedOperatorError) as refused:
        compose(outer, inner)
    assert "become one matrix" in refused.value.rule
    assert refused.value.found.startswith("up to ")
    assert refused.value.allowed == "1,000"
    assert "activation between" in refused.value.remedy
    assert "of (3, 8, 8)" in refused.value.where


def test_a_large_product_of_small_matrices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    inner, outer = conv((3, 8, 8), 8, 3, padding=1), conv((8, 8, 8), 8, 3, padding=1)
    limit = max(inner.synapses, outer.synapses)
    monkeypatch.setattr(algebra, "MAX_SPARSE_SYNAPSES", limit)
    with pytest.raises(UnsupportedOperatorError) as refused:
        compose(outer, inner)
    assert int(refused.value.found.split()[2].replace(",", "")) > limit
    zero = inner.with_weight(np.zeros_like(inner.weight))
    assert compose(outer, zero).synapses == 0
    monkeypatch.setattr(algebra, "MAX_SPARSE_SYNAPSES", limit // 2)
    with pytest.raises(UnsupportedOperatorError):  # not even to find out that nothing is left
        compose(outer, zero)


def test_sums_beyond_reason_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "MAX_SPARSE_SYNAPSES", 100)
    sparse = Sparse.from_matrix(conv((3, 8, 8), 3, 3, padding=1).to_sparse(), (192,), (192,))
    with pytest.raises(UnsupportedOperatorError, match="become one matrix"):
        add(sparse, sparse)


def affine(shape: Shape, bias: Array) -> Affine:
    return Affine(shape, (("source", identity(shape)),), bias)


def value(form: Affine, **sources: Array) -> Array:
    total = np.broadcast_to(form.bias, form.shape).astype(np.float64)
    for name, linear in form.terms:
        x = sources[name].reshape(1, *linear.in_shape)
        total = total + linear.apply(x).reshape(form.shape)
    return total


def test_a_bias_goes_through_a_padded_convolution_exactly() -> None:
    """At the border a shift before the convolution reaches fewer taps than inside."""
    m = conv((3, 6, 5), 4, 3, stride=2, padding=1)
    shift = RNG.integers(-5, 6, 3).astype(np.float64)
    form = affine((3, 6, 5), np.zeros(())).shifted(shift.reshape(3, 1, 1)).through(m)
    x = RNG.integers(-9, 10, (3, 6, 5)).astype(np.float64)
    expected = F.conv2d(
        torch.tensor(x + shift.reshape(3, 1, 1))[None], torch.tensor(m.weight), None, 2, 1
    )[0]
    assert np.array_equal(value(form, source=x), expected.numpy())
    assert form.bias.shape == form.shape  # it differs from place to place


def test_a_bias_stays_as_small_as_it_can() -> None:
    form = affine((3, 4, 4), np.zeros(()))
    assert form.through(conv((3, 4, 4), 2, 3, padding=1)).bias.shape == ()
    per_channel = form.shifted(np.arange(3.0).reshape(3, 1, 1))
    assert per_channel.bias.shape == (3, 1, 1)
    valid = per_channel.through(conv((3, 4, 4), 2, 3))
    assert valid.bias.shape in ((), (2, 1, 1))
    assert per_channel.viewed((48,)).bias.shape == (48,)
    assert per_channel.viewed((48,)).viewed((3, 4, 4)).bias.shape == (3, 1, 1)
    assert compact(np.full((2, 2), 5.0), (2, 2)).shape == ()


def test_a_sum_keeps_one_map_per_population() -> None:
    left = affine((2, 3, 3), np.full((), 1.0))
    other = Affine((2, 3, 3), (("other", identity((2, 3, 3))),), np.full((), 2.0))
    both = left.plus(other).plus(left)
    assert [name for name, _ in both.terms] == ["source", "other"]
    x, y = RNG.integers(-9, 10, (2, 2, 3, 3)).astype(np.float64)
    assert np.array_equal(value(both, source=x, other=y), 2 * x + y + 4)


def test_views_let_later_maps_stay_compact() -> None:
    """Linear, then unflatten, then BatchNorm2d: one matrix, although the channels are new."""
    dense = Dense(random_maps.weights(RNG, (18, 4)), (4,), (18,))
    scale = Diagonal(random_maps.weights(RNG, (2, 1, 1)), (2, 3, 3), (2, 3, 3))
    form = affine((4,), np.ones(())).through(dense).viewed((2, 3, 3))
    scaled = form.through(scale)
    for ((_, linear),) in (form.terms, scaled.terms):
        assert (type(linear), linear.out_shape) == (Dense, (2, 3, 3))
    x = RNG.integers(-9, 10, 4).astype(np.float64)
    expected = (dense.weight @ (x + 1)).reshape(2, 3, 3) * scale.weight
    assert np.array_equal(value(scaled, source=x), expected)
