"""Compositions with transposed convolutions: compact where strides allow it, else a matrix."""

from __future__ import annotations

import numpy as np
import pytest
import random_maps

from lapilli.compiler.compose import compose
from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
    frozen,
)

RNG = np.random.default_rng(12)


def matrix(m: LinearMap) -> Array:
    return np.asarray(m.to_sparse().toarray())


def conv(
    in_shape: Shape,
    outputs: int,
    kernel: int,
    *,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Conv:
    sizes = [size + 2 * padding - (kernel - 1) * dilation for size in in_shape[1:]]
    weight = random_maps.weights(RNG, (outputs, in_shape[0] // groups, kernel, kernel))
    out_shape = (outputs, sizes[0], sizes[1])
    return Conv(
        weight,
        in_shape,
        out_shape,
        padding=(padding, padding),
        dilation=(dilation, dilation),
        groups=groups,
    )


def up(
    in_shape: Shape, outputs: int, kernel: int, stride: int, padding: int = 0, groups: int = 1
) -> ConvTransposed:
    """A transposed convolution as torch has it, without output padding."""
    sizes = [(n - 1) * stride + kernel - 2 * padding for n in in_shape[1:]]
    return ConvTransposed(
        random_maps.weights(RNG, (in_shape[0], outputs // groups, kernel, kernel)),
        in_shape,
        (outputs, sizes[0], sizes[1]),
        (stride, stride),
        (padding, padding),
        groups=groups,
    )


STAYS_COMPACT = {
    "transposed-BN": (
        Diagonal(random_maps.weights(RNG, (4, 1, 1)), (4, 6, 6), (4, 6, 6)),
        up((6, 3, 3), 4, 2, 2, groups=2),
        "ConvTransposed 6x2x2x2 stride 2 groups 2",
    ),
    "BN1d of another view-transposed": (
        up((3, 1, 4), 2, 2, 1),
        Diagonal(random_maps.weights(RNG, (3, 1)), (3, 4), (3, 4)),
        "ConvTransposed 3x2x2x2",
    ),
    "1x1-transposed": (
        up((3, 4, 4), 5, 4, 2, 1),
        conv((6, 4, 4), 3, 1),
        "ConvTransposed 6x5x4x4 stride 2 padding 1",
    ),
    "transposed-1x1": (
        conv((5, 8, 8), 2, 1),
        up((3, 4, 4), 5, 4, 2, 1),
        "ConvTransposed 3x2x4x4 stride 2 padding 1",
    ),
    "transposed-crop": (
        Conv(frozen(np.full((4, 1, 1, 1), 2.0)), (4, 8, 8), (4, 6, 7), padding=(-1, 0), groups=4),
        up((6, 4, 4), 4, 2, 2, groups=2),
        "ConvTransposed 6x2x2x2 stride 2 padding (1, 0) groups 2",
    ),
    "transposed-zeros around": (
        Conv(frozen(np.ones((4, 1, 1, 1))), (4, 8, 8), (4, 11, 9), padding=(2, 1), groups=4),
        up((6, 4, 4), 4, 2, 2),
        "ConvTransposed 6x4x2x2 stride 2 padding (-2, -1)",
    ),
    "transposed-conv": (
        conv((4, 4, 4), 2, 3, padding=1),
        up((3, 2, 2), 4, 2, 2),
        "ConvTransposed 3x2x4x4 stride 2 padding 1",
    ),
    "transposed-valid conv": (
        conv((4, 6, 6), 2, 3),
        up((3, 4, 4), 4, 2, 2, 1),
        "ConvTransposed 3x2x4x4 stride 2 padding 3",
    ),
    "transposed-grouped 1x1": (
        conv((4, 4, 4), 2, 1, groups=2),
        up((3, 2, 2), 4, 2, 2),
        "ConvTransposed 3x2x2x2 stride 2",
    ),
    "grouped transposed-grouped conv": (
        conv((4, 4, 4), 4, 2, padding=1, groups=4),
        up((8, 2, 2), 4, 2, 2, groups=2),
        "ConvTransposed 8x2x3x3 stride 2 groups 2",
    ),
    "grouped 1x1-transposed": (
        up((4, 3, 3), 2, 2, 2),
        conv((2, 3, 3), 4, 1, groups=2),
        "ConvTransposed 2x2x2x2 stride 2",
    ),
    "1x1-depthwise transposed": (
        up((4, 3, 3), 4, 2, 2, groups=4),
        conv((6, 3, 3), 4, 1),
        "ConvTransposed 6x4x2x2 stride 2",
    ),
    "grouped 1x1-grouped transposed": (
        up((4, 3, 3), 6, 2, 2, groups=2),
        conv((8, 3, 3), 4, 1, groups=4),
        "ConvTransposed 8x3x2x2 stride 2 groups 2",
    ),
    "transposed-dilated conv": (
        conv((4, 5, 5), 2, 3, padding=2, dilation=2),
        up((3, 5, 5), 4, 1, 1, groups=1),
        "ConvTransposed 3x2x3x3 padding 2 dilation 2",
    ),
}


@pytest.mark.parametrize("name", STAYS_COMPACT)
def test_stays_compact(name: str) -> None:
    outer, inner, expected = STAYS_COMPACT[name]
    found = compose(outer, inner)
    assert found.pretty() == expected
    assert np.array_equal(matrix(found), matrix(outer) @ matrix(inner))


FALLS_BACK = {
    "transposed-transposed": (up((4, 4, 4), 2, 2, 2), up((3, 2, 2), 4, 2, 2)),
    "transposed-conv where it was cut": (
        conv((4, 6, 6), 2, 3, padding=1),
        up((3, 4, 4), 4, 2, 2, 1),
    ),
    "padded 1x1-transposed": (up((4, 5, 5), 2, 2, 2), conv((2, 3, 3), 4, 1, padding=1)),
    "transposed-zeros where it was cut": (
        Conv(frozen(np.ones((4, 1, 1, 1))), (4, 6, 6), (4, 8, 8), padding=(1, 1), groups=4),
        up((6, 4, 4), 4, 2, 2, 1),
    ),
    "transposed-strided slice": (
        Conv(frozen(np.ones((4, 1, 1, 1))), (4, 8, 8), (4, 4, 4), stride=(2, 2), groups=4),
        up((6, 4, 4), 4, 2, 2),
    ),
}


@pytest.mark.parametrize("name", FALLS_BACK)
def test_falls_back_to_a_sparse_matrix(name: str) -> None:
    outer, inner = FALLS_BACK[name]
    found = compose(outer, inner)
    assert isinstance(found, Sparse)
    assert np.array_equal(matrix(found), matrix(outer) @ matrix(inner))
