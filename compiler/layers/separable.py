"""Maps of images that weigh rows and columns apart: pooling, upsampling. No layer by itself."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import compose
from lapilli.compiler.layers.windows import window
from lapilli.compiler.linear import Array, Conv, ConvTransposed, LinearMap, Shape, Sparse, frozen


def separable_map(in_shape: Shape, rows: Array, columns: Array) -> LinearMap:
    """y[c] = rows @ x[c] @ columns.T for images (C, H, W); rows (H', H), columns (W', W).

    A depthwise convolution where all outputs read alike windows, a transposed one where all inputs
    have alike stamps, else a sparse matrix.
    """
    channels = in_shape[0]
    out_shape = (channels, len(rows), len(columns))
    for form, one, other in ((Conv, rows, columns), (ConvTransposed, rows.T, columns.T)):
        height, width = window(one), window(other)
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


def broadcast(shape: Shape, out_shape: Shape) -> LinearMap | None:
    """The map that repeats a tensor along its axes of one, as torch broadcasts; None: no change.

    shape, out_shape: without the batch, at most (C, H, W); shape may lack leading axes.
    """
    if shape == out_shape:
        return None
    full = (1,) * (len(out_shape) - len(shape)) + shape
    if len(out_shape) > 3:
        size = math.prod(full)
        index = np.broadcast_to(np.arange(size).reshape(full), out_shape).reshape(-1)
        matrix = sp.csr_matrix((np.ones(index.size), index, np.arange(index.size + 1)))
        return Sparse.from_matrix(matrix, shape, out_shape)
    channels, height, width = (*full, *(1,) * (3 - len(full)))
    wide = (*out_shape, *(1,) * (3 - len(out_shape)))
    linear: LinearMap | None = None
    if (height, width) != wide[1:]:
        rows, columns = (
            np.eye(n) if n == m else np.ones((m, 1))
            for n, m in zip((height, width), wide[1:], strict=True)
        )
        linear = separable_map((channels, height, width), rows, columns)
    if channels != wide[0]:
        spread = Conv(frozen(np.ones((wide[0], 1, 1, 1))), (1, *wide[1:]), wide)
        linear = spread if linear is None else compose(spread, linear)
    return linear
