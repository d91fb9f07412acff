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
    """Weighted sums of windows, separable: one (out, in) matrix of weights per spatial axis."""

    in_shape: Shape
    rows: Array
    columns: Array

    def map(self) -> LinearMap:
        """A depthwise convolution where all windows are alike, else a sparse matrix."""
        parts = [_window(axis) for axis in (self.rows, self.columns)]
        if parts[0] is not None and parts[1] is not None:
            (rows, *_), (columns, *_) = parts
            kernel = np.multiply.outer(rows, columns)
            channels = self.in_shape[0]
            return Conv(
                frozen(np.broadcast_to(kernel, (channels, 1, *kernel.shape))),
                self.in_shape,
                (channels, len(self.rows), len(self.columns)),
                stride=(parts[0][1], parts[1][1]),
                padding=(parts[0][2], parts[1][2]),
                groups=channels,
            )
        plane = sp.kron(sp.csr_matrix(self.rows), sp.csr_matrix(self.columns))
        matrix = sp.csr_matrix(sp.kron(sp.identity(self.in_shape[0]), plane))
        shape = (self.in_shape[0], len(self.rows), len(self.columns))
        return Sparse.from_matrix(matrix, self.in_shape, shape)


def _window(matrix: Array) -> tuple[Array, int, int] | None:
    """(weights, stride, padding) if every row is the same window moved by a constant stride.

    A border row may miss taps that lie outside the input: those read zeros anyway.
    """
    full = int(np.argmax(np.count_nonzero(matrix, axis=1)))
    taps = np.flatnonzero(matrix[full])
    weights = matrix[full, taps[0] : taps[-1] + 1]
    lasts = [int(np.flatnonzero(row)[-1]) for row in matrix]
    firsts = [int(np.flatnonzero(row)[0]) for row in matrix]
    for stride in {1, *np.diff(firsts).tolist(), *np.diff(lasts).tolist()}:
        padding = full * stride - int(taps[0])
        if stride > 0 and all(
            _same_window(row, weights, r * stride - padding) for r, row in enumerate(matrix)
        ):
            return weights, int(stride), padding
    return None


def _same_window(row: Array, weights: Array, start: int) -> bool:
    expected = np.zeros_like(row)
    low, high = max(start, 0), min(start + len(weights), len(row))
    expected[low:high] = weights[low - start : high - start]
    return bool((row == expected).all())


def _axis(  # one axis of AvgPool2d
    size: int, out: int, kernel: int, stride: int, padding: int, include_pad: bool
) -> Array:
    matrix = np.zeros((out, size))
    for o in range(out):
        start = o * stride - padding
        end = min(start + kernel, size + padding)
        low, high = max(start, 0), min(end, size)
        matrix[o, low:high] = 1.0 / ((end - start) if include_pad else (high - low))
    return matrix


def _average(  # torch's own parameter names
    call: Call,
    *,
    input: Operand,  # noqa: A002
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
    rows, columns = (
        _axis(shape[a + 1], call.shape[a + 1], kernel[a], step[a], pad[a], count_include_pad)
        for a in (0, 1)
    )
    if divisor_override is not None:
        ones = [_axis(shape[a + 1], call.shape[a + 1], kernel[a], step[a], pad[a], False) > 0
                for a in (0, 1)]
        rows, columns = ones[0] / divisor_override, ones[1].astype(np.float64)
    return _node(call, input, rows, columns)


def _adaptive(call: Call, *, input: Operand, output_size: Any) -> Node:  # noqa: A002
    shape = _images(call, input)
    rows, columns = (
        _adaptive_axis(shape[a + 1], call.shape[a + 1]) for a in (0, 1)
    )
    return _node(call, input, rows, columns)


def _adaptive_axis(size: int, out: int) -> Array:
    matrix = np.zeros((out, size))
    for o in range(out):
        low, high = (o * size) // out, -((-(o + 1) * size) // out)
        matrix[o, low:high] = 1.0 / (high - low)
    return matrix


def _mean(
    call: Call,
    *,
    input: Operand,  # noqa: A002
    dim: Any = None,
    keepdim: bool = False,
    dtype: Any = None,
) -> Node:
    shape = _images(call, input)
    axes = {axis_of(call, d, shape) for d in ((dim,) if isinstance(dim, int) else dim or ())}
    if axes != {1, 2} or dtype is not None:
        raise call.refuse(
            "a mean is over the whole image plane",
            f"dim={dim}, dtype={dtype}",
            "dim=(2, 3)",
            "Use mean((2, 3)) or AdaptiveAvgPool2d(1).",
        )
    return _node(call, input, *(np.full((1, n), 1.0 / n) for n in shape[1:]))


def _images(call: Call, operand: Operand) -> Shape:
    if len(operand.shape) != 3:
        raise call.refuse(
            "2-D pooling reads (C, H, W)", operand.shape, "(C, H, W)", "Keep the batch axis."
        )
    return operand.shape


def _node(call: Call, operand: Operand, rows: Array, columns: Array) -> Node:
    return AveragePool(
        name=call.name,
        inputs=(operand.name,),
        shape=call.shape,
        where=call.where,
        in_shape=operand.shape,
        rows=rows,
        columns=columns,
    )


def _lower(node: AveragePool, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].through(node.map()).viewed(node.shape)


_AVERAGE = (
    "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override",
)

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
MEAN = LayerRule(
    build=_mean,
    functions={"torch.mean": ("input", "dim", "keepdim", "dtype")},
    methods={"mean": ("input", "dim", "keepdim", "dtype")},
)
