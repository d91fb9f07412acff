"""Random linear maps of every form: integer weights, awkward borders, views."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
    frozen,
)

IMAGES: tuple[Shape, ...] = ((1, 1, 1), (2, 3, 3), (3, 5, 4), (4, 4, 6), (6, 2, 5))
"""Shapes that every form can read."""


def random_map(rng: np.random.Generator, form: type[LinearMap], in_shape: Shape) -> LinearMap:
    """A map of one form that reads `in_shape`; a convolution needs three axes."""
    return _MAKERS[form](rng, in_shape)


def random_view(rng: np.random.Generator, shape: Shape) -> Shape:
    """Three axes of the same size, most often the same shape."""
    size = math.prod(shape)
    if len(shape) == 3 and rng.random() < 0.7:
        return shape
    channels = int(rng.choice([c for c in range(1, 7) if size % c == 0]))
    rest = size // channels
    rows = int(rng.choice([r for r in range(1, 7) if rest % r == 0]))
    return (channels, rows, rest // rows)


def weights(rng: np.random.Generator, shape: Shape) -> Array:
    """Small integers as floats, many of them zero."""
    values = rng.integers(-9, 10, shape) * (rng.random(shape) < 0.7)
    return frozen(values, np.float64)


def _out_shape(rng: np.random.Generator) -> Shape:
    return tuple(int(n) for n in rng.integers(1, 4, int(rng.integers(1, 4))))


def _diagonal(rng: np.random.Generator, in_shape: Shape) -> Diagonal:
    shapes: list[Shape] = [(), (in_shape[0], *(1,) * (len(in_shape) - 1)), in_shape]
    shapes.append((1, *in_shape[1:]))
    return Diagonal(weights(rng, shapes[rng.integers(len(shapes))]), in_shape, in_shape)


def _dense(rng: np.random.Generator, in_shape: Shape) -> Dense:
    out_shape = _out_shape(rng)
    weight = weights(rng, (math.prod(out_shape), math.prod(in_shape)))
    return Dense(weight, in_shape, out_shape)


def _dense_part(rng: np.random.Generator, in_shape: Shape) -> DensePart:
    out_shape, size = _out_shape(rng), math.prod(in_shape)
    first = int(rng.integers(size))
    read = int(rng.integers(1, size - first + 1))
    return DensePart(weights(rng, (math.prod(out_shape), read)), in_shape, out_shape, first)


def _sparse(rng: np.random.Generator, in_shape: Shape) -> Sparse:
    out_shape = _out_shape(rng)
    matrix = rng.integers(-9, 10, (math.prod(out_shape), math.prod(in_shape)))
    matrix[rng.random(matrix.shape) < 0.6] = 0
    return Sparse.from_matrix(sp.csr_matrix(matrix.astype(np.float64)), in_shape, out_shape)


def _conv(rng: np.random.Generator, in_shape: Shape) -> Conv:
    channels = in_shape[0]
    groups = int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
    kernel = [int(k) for k in rng.integers(1, 4, 2)]
    stride = [int(s) for s in rng.integers(1, 4, 2)]
    dilation = [int(d) for d in rng.integers(1, 3, 2)]
    padding = [int(p) for p in rng.integers(-1, 3, 2)]
    sizes = []
    for axis in (0, 1):
        # As many outputs as fit, one fewer or one more: the far side is cropped or padded.
        room = in_shape[axis + 1] + padding[axis] - (kernel[axis] - 1) * dilation[axis] - 1
        sizes.append(max(1, room // stride[axis] + 1 + int(rng.integers(-1, 2))))
    outputs = groups * int(rng.integers(1, 4))
    return Conv(
        weights(rng, (outputs, channels // groups, kernel[0], kernel[1])),
        in_shape,
        (outputs, sizes[0], sizes[1]),
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
    )


def _conv_transposed(rng: np.random.Generator, in_shape: Shape) -> ConvTransposed:
    channels = in_shape[0]
    groups = int(rng.choice([g for g in range(1, channels + 1) if channels % g == 0]))
    kernel = [int(k) for k in rng.integers(1, 4, 2)]
    stride = [int(s) for s in rng.integers(1, 4, 2)]
    dilation = [int(d) for d in rng.integers(1, 3, 2)]
    padding = [int(p) for p in rng.integers(-1, 3, 2)]
    sizes = []
    for axis in (0, 1):
        # As torch has it, cropped by one more, or padded, too.
        extent = (in_shape[axis + 1] - 1) * stride[axis] + (kernel[axis] - 1) * dilation[axis] + 1
        sizes.append(max(1, extent - 2 * padding[axis] + int(rng.integers(-1, 3))))
    per_group = int(rng.integers(1, 4))
    return ConvTransposed(
        weights(rng, (channels, per_group, kernel[0], kernel[1])),
        in_shape,
        (groups * per_group, sizes[0], sizes[1]),
        stride=(stride[0], stride[1]),
        padding=(padding[0], padding[1]),
        dilation=(dilation[0], dilation[1]),
        groups=groups,
    )


_MAKERS: dict[type[LinearMap], Callable[[np.random.Generator, Shape], LinearMap]] = {
    Diagonal: _diagonal,
    Dense: _dense,
    DensePart: _dense_part,
    Conv: _conv,
    ConvTransposed: _conv_transposed,
    Sparse: _sparse,
}
COVERED = tuple(_MAKERS)
"""The forms made here; a test compares them with `linear.FORMS`."""
