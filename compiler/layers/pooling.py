"""Average pooling: over windows, to a given size, and over whole axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, axis_of, pair
from lapilli.compiler.linear import Array, Conv, LinearMap, Sparse, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Node):
    """Weighted sums of windows, separable: one (out, in) matrix of weights per spatial axis.

    in_shape (C, H, W): the operand as it is, or with an axis of one where it has none.
    """

    in_shape: Shape
    rows: Array
    columns: Array

    def map(self) -> LinearMap:
        """A depthwise convolution where all windows are alike, else a sparse matrix."""
        channels = self.in_shape[0]
        out_shape = (channels, len(self.rows), len(self.columns))
        rows, columns = _window(self.rows), _window(self.columns)
        if rows is not None and columns is not None:
            kernel = np.multiply.outer(rows.weights, columns.weights)
            return Conv(
                frozen(np.broadcast_to(kernel, (channels, 1, *kernel.shape))),
                self.in_shape,
                out_shape,
                stride=(rows.stride, columns.stride),
                padding=(rows.padding, columns.padding),
                groups=channels,
            )
        plane = sp.kron(sp.csr_matrix(self.rows), sp.csr_matrix(self.columns))
        matrix = sp.kron(sp.identity(channels), plane, format="csr")
        return Sparse.from_matrix(matrix, self.in_shape, out_shape)


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
        if np.array_equal(_windows(weights, first, matrix.shape[1]), matrix):
            return _Window(weights, stride, -int(first[0]))
    return None


def _windows(weights: Array, first: Array, size: int) -> Array:
    """The (out, in) matrix of windows that begin at `first` (out,), cut off at the borders."""
    matrix = np.zeros((len(first), size))
    for row, start in zip(matrix, first, strict=True):
        taps = start + np.arange(len(weights))
        inside = (taps >= 0) & (taps < size)
        row[taps[inside]] = weights[inside]
    return matrix


def _average(
    call: Call,
    *,
    input: Operand,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Node:
    shape = _images(call, input)
    kernel = pair(kernel_size)
    step = kernel if stride in (None, (), []) else pair(stride)
    pad = pair(padding)
    # ceil_mode shows in the number of windows alone, and that is known from the result.
    rows, columns = (
        _sums(shape[a + 1], call.shape[a + 1], kernel[a], step[a], pad[a]) for a in (0, 1)
    )
    if divisor_override is not None:
        rows = rows / divisor_override
    else:
        counts = (
            _counts(shape[a + 1], call.shape[a + 1], kernel[a], step[a], pad[a]) for a in (0, 1)
        )
        if count_include_pad:
            rows, columns = (m / c[:, None] for m, c in zip((rows, columns), counts, strict=True))
        else:
            rows, columns = (m / m.sum(axis=1, keepdims=True) for m in (rows, columns))
    return _node(call, input, shape, rows, columns)


def _sums(size: int, out: int, kernel: int, stride: int, padding: int) -> Array:
    """One axis of pooling without its divisor: (out, in) of zeros and ones."""
    return _windows(np.ones(kernel), np.arange(out) * stride - padding, size)


def _counts(size: int, out: int, kernel: int, stride: int, padding: int) -> Array:
    """How many positions each window covers, padding included, but not what ceil_mode adds."""
    start = np.arange(out) * stride - padding
    return np.asarray(np.minimum(start + kernel, size + padding) - start)


def _adaptive(call: Call, *, input: Operand, output_size: Any) -> Node:
    shape = _images(call, input)
    rows, columns = (_adaptive_axis(shape[a], call.shape[a]) for a in (1, 2))
    return _node(call, input, shape, rows, columns)


def _adaptive_axis(size: int, out: int) -> Array:
    """One axis of adaptive pooling: output o averages floor(o n / m) .. ceil((o + 1) n / m)."""
    matrix = np.zeros((out, size))
    for o in range(out):
        low, high = (o * size) // out, -((-(o + 1) * size) // out)
        matrix[o, low:high] = 1.0 / (high - low)
    return matrix


def _mean(
    call: Call, *, input: Operand, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Node:
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    axes = {axis_of(call, d, input.shape) for d in dims}
    rank = len(input.shape)
    if not axes or not axes <= {1, 2} or rank not in (2, 3):
        raise call.refuse(
            "a mean is over axes of the image plane",
            f"dim={dim} of (N, {', '.join(map(str, input.shape))})",
            "dim=(2, 3), or one of the two",
            "Use mean((2, 3)) or AdaptiveAvgPool2d(1).",
        )
    shape = input.shape if rank == 3 else (*input.shape, 1)
    rows, columns = (
        np.full((1, n), 1.0 / n) if axis in axes else np.eye(n)
        for axis, n in zip((1, 2), shape[1:], strict=True)
    )
    return _node(call, input, shape, rows, columns)


def _images(call: Call, operand: Operand) -> Shape:
    if len(operand.shape) != 3:
        raise call.refuse(
            "2-D pooling reads (C, H, W)", operand.shape, "(C, H, W)", "Keep the batch axis."
        )
    return operand.shape


def _node(call: Call, operand: Operand, in_shape: Shape, rows: Array, columns: Array) -> Node:
    return AveragePool(
        name=call.name,
        inputs=(operand.name,),
        shape=call.shape,
        where=call.where,
        in_shape=in_shape,
        rows=rows,
        columns=columns,
    )


def _lower(node: AveragePool, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].through(node.map()).viewed(node.shape)


_AVERAGE = (
    "kernel_size",
    "stride",
    "padding",
    "ceil_mode",
    "count_include_pad",
    "divisor_override",
)
_MEAN = ("input", "dim", "keepdim", "dtype")

AVERAGE_POOL = LayerRule(
    build=_average,
    node=AveragePool,
    lower=_lower,
    modules={"torch.nn.AvgPool2d": _AVERAGE},
    functions={"torch.nn.functional.avg_pool2d": ("input", *_AVERAGE)},
)
ADAPTIVE_AVERAGE_POOL = LayerRule(
    build=_adaptive,
    modules={"torch.nn.AdaptiveAvgPool2d": ("output_size",)},
    functions={"torch.nn.functional.adaptive_avg_pool2d": ("input", "output_size")},
)
MEAN = LayerRule(build=_mean, functions={"torch.mean": _MEAN}, methods={"mean": _MEAN})
