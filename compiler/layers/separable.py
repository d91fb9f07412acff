"""Maps of images that weigh rows and columns apart: pooling, upsampling. No layer by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.linear import Array, Conv, ConvTransposed, LinearMap, Shape, Sparse, frozen


def separable_map(in_shape: Shape, rows: Array, columns: Array) -> LinearMap:
    """y[c] = rows @ x[c] @ columns.T for images (C, H, W); rows (H', H), columns (W', W).

    A depthwise convolution where all outputs read alike windows, a transposed one where all inputs
    have alike stamps, else a sparse matrix.
    """
    channels = in_shape[0]
    out_shape = (channels, len(rows), len(columns))
    for form, one, other in ((Conv, rows, columns), (ConvTransposed, rows.T, columns.T)):
        height, width = _window(one), _window(other)
        if height is None or width is None:
            continue
        kernel = np.multiply.outer(height.weights, width.weights)
        return form(
            frozen(np.broadcast_to(kernel, (channels, 1, *kernel.shape))),
            in_shape,
            out_shape,
            stride=(height.stride, width.stride),
            padding=(height.padding, width.padding),
            groups=channels,
        )
    plane = sp.kron(sp.csr_matrix(rows), sp.csr_matrix(columns))
    matrix = sp.kron(sp.identity(channels), plane, format="csr")
    return Sparse.from_matrix(matrix, in_shape, out_shape)


@final
@dataclass(frozen=True, eq=False)
class _Window:
    """The same weights for every output, moved by a constant stride."""

    weights: Array
    stride: int
    padding: int


def _window(matrix: Array) -> _Window | None:
    """The window that makes this (out, in) matrix, or None if there is none.

    A row at the border may lack weights that lie outside the input: those read zeros anyway.
    """
    starts = np.argmax(matrix != 0, axis=1)
    ends = matrix.shape[1] - np.argmax(matrix[:, ::-1] != 0, axis=1)
    widest = int(np.argmax(np.count_nonzero(matrix, axis=1)))
    taps = np.flatnonzero(matrix[widest])
    weights = matrix[widest, taps[0] : taps[-1] + 1]
    # Where a window is cut off at one side, its other side still moves by the stride.
    for stride in sorted({1, *np.diff(starts).tolist(), *np.diff(ends).tolist()} - {0}):
        first = taps[0] + (np.arange(len(matrix)) - widest) * stride
        if np.array_equal(windows(weights, first, matrix.shape[1]), matrix):
            return _Window(weights, stride, -int(first[0]))
    return None


def windows(weights: Array, first: Array, size: int) -> Array:
    """The (out, in) matrix of windows that begin at `first` (out,), cut off at the borders."""
    matrix = np.zeros((len(first), size))
    for row, start in zip(matrix, first, strict=True):
        taps = start + np.arange(len(weights))
        inside = (taps >= 0) & (taps < size)
        row[taps[inside]] = weights[inside]
    return matrix
