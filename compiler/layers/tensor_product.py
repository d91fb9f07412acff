"""One matrix per axis of an image as maps: compact forms where there are any. No layer by itself.

A map that is a convolution but for its borders (reflected padding, bilinear upsampling) is the sum
of that convolution and of a small matrix for the borders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import check_size
from lapilli.compiler.layers.windows import mostly_window, window
from lapilli.compiler.linear import (
    Conv,
    ConvTransposed,
    Dense,
    LinearMap,
    Shape,
    Sparse,
    frozen,
    identity,
)

Matrix: TypeAlias = sp.csr_matrix | None
"""(out, in) weights along one axis; None: the axis stays as it is."""
BORDER = 3
"""A border is that many times smaller than the whole; else it is none: all is one matrix."""
LARGEST_AXIS = 4096
"""Axes beyond this are not looked through for windows: that takes full matrices."""
LARGEST_KERNEL = 2**24
"""Weights between channels, zeros included; beyond, a sparse matrix is smaller."""


def tensor_product(in_shape: Shape, matrices: tuple[Matrix, ...]) -> tuple[LinearMap, ...]:
    """Maps whose sum multiplies every axis by its matrix; their shapes are views.

    Raises UnsupportedOperatorError where only a matrix beyond compose.MAX_SPARSE_SYNAPSES would do.
    """
    if all(matrix is None for matrix in matrices):
        return (identity(in_shape),)
    axes = _without_ones(list(zip(in_shape, matrices, strict=True)))
    if len(axes) == 1:
        return (_matrix(axes, in_shape),)
    if len(axes) == 2:
        axes = [axes[0], (1, None), axes[1]]  # a sequence is an image of one row
    lead, plane = axes[:-2], axes[-2:]
    core = _convolution(lead, plane) if _bearable(lead, plane) else None
    if core is None:
        return (_matrix(axes, in_shape),)
    linear, kept = core
    (rows, columns), (one, other) = (_csr(*axis) for axis in plane), kept
    # Rows that differ, with all columns; rows that do not, with columns that differ.
    border = _kron([rows - one, columns]) + _kron([one, columns - other])
    border.eliminate_zeros()
    if not border.nnz:
        return (linear,)
    if BORDER * border.nnz > rows.nnz * columns.nnz:
        return (_matrix(axes, in_shape),)
    channels = _kron([_csr(*axis) for axis in lead])
    return linear, Sparse.from_matrix(_kron([channels, border]), in_shape, linear.out_shape)


_Axis = tuple[int, Matrix]


def _without_ones(axes: list[_Axis]) -> list[_Axis]:
    """Without axes of one that stay: views. Images keep their three axes."""
    while len(axes) > 3 or len(axes) == 2:
        unused = [axis for axis in axes if axis == (1, None)]
        if not unused:
            break
        axes = [axis for axis in axes if axis is not unused[-1]]
    return axes


def _csr(size: int, matrix: Matrix) -> sp.csr_matrix:
    return sp.identity(size, format="csr") if matrix is None else matrix


def _kron(factors: Sequence[sp.csr_matrix]) -> sp.csr_matrix:
    result = factors[0]
    for factor in factors[1:]:
        result = sp.kron(result, factor, format="csr")
    return result


def _matrix(axes: list[_Axis], in_shape: Shape) -> LinearMap:
    """All of it in one matrix, full where most of it is."""
    factors = [_csr(*axis) for axis in axes]
    out_shape = tuple(int(factor.shape[0]) for factor in factors)
    check_size(f"a matrix from {in_shape} to {out_shape}", math.prod(f.nnz for f in factors))
    product = _kron(factors)
    if 2 * product.nnz > math.prod(product.shape):
        return Dense(frozen(product.toarray()), in_shape, out_shape)
    return Sparse.from_matrix(product, in_shape, out_shape)


def _bearable(lead: list[_Axis], plane: list[_Axis]) -> bool:
    weights = math.prod(size * _csr(size, matrix).shape[0] for size, matrix in lead)
    largest = max(max(_csr(*axis).shape) for axis in plane)
    return bool(weights // _groups(lead) <= LARGEST_KERNEL and largest <= LARGEST_AXIS)


def _groups(lead: list[_Axis]) -> int:
    """How many groups of channels are alike and apart: the product of the first axes that stay."""
    moved = next((k for k, (_, matrix) in enumerate(lead) if matrix is not None), len(lead))
    return math.prod(size for size, _ in lead[:moved])


def _convolution(
    lead: list[_Axis], plane: list[_Axis]
) -> tuple[LinearMap, tuple[sp.csr_matrix, sp.csr_matrix]] | None:
    """A (transposed) convolution equal to most of the map, and what it does along both axes."""
    groups = _groups(lead)
    channels = _kron([_csr(*axis) for axis in lead])
    (out, size), full = channels.shape, [_csr(*axis).toarray() for axis in plane]
    mixer = channels[: out // groups, : size // groups].toarray()
    for least in (window, mostly_window):
        for form in (Conv, ConvTransposed):
            back = form is ConvTransposed
            found = [least(matrix.T if back else matrix) for matrix in full]
            height, width = found
            if height is None or width is None:
                continue
            kernel = np.multiply.outer(height.weights, width.weights)
            weight = (mixer.T if back else mixer)[:, :, None, None] * kernel
            linear = form(
                frozen(np.tile(weight, (groups, 1, 1, 1))),
                (size, *(matrix.shape[1] for matrix in full)),
                (out, *(matrix.shape[0] for matrix in full)),
                stride=(height.stride, width.stride),
                padding=(height.padding, width.padding),
                groups=groups,
            )
            kept = [
                w.matrix(*m.shape[::-1]).T if back else w.matrix(*m.shape)
                for w, m in zip((height, width), full, strict=True)
            ]
            return linear, (sp.csr_matrix(kept[0]), sp.csr_matrix(kept[1]))
    return None
