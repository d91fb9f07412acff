"""Average pooling: over windows, to a given size, and over whole axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, axis_of, pair
from lapilli.compiler.layers.separable import separable_map, windows
from lapilli.compiler.linear import Array, LinearMap


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
        return separable_map(self.in_shape, self.rows, self.columns)


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
    shape, out = _images(call, input.shape), call.shape
    kernel = pair(kernel_size)
    step = kernel if stride in (None, (), []) else pair(stride)
    pad = pair(padding)
    if len(shape) == 2:
        kernel, step, pad = (1, kernel[1]), (1, step[1]), (0, pad[1])
        shape, out = _flat(shape), _flat(out)
    # ceil_mode shows in the number of windows alone, and that is known from the result.
    rows, columns = (_sums(shape[a + 1], out[a + 1], kernel[a], step[a], pad[a]) for a in (0, 1))
    if divisor_override is not None:
        rows = rows / divisor_override
    else:
        counts = (_counts(shape[a + 1], out[a + 1], kernel[a], step[a], pad[a]) for a in (0, 1))
        if count_include_pad:
            rows, columns = (m / c[:, None] for m, c in zip((rows, columns), counts, strict=True))
        else:
            rows, columns = (m / m.sum(axis=1, keepdims=True) for m in (rows, columns))
    return _node(call, input, shape, rows, columns)


def _sums(size: int, out: int, kernel: int, stride: int, padding: int) -> Array:
    """One axis of pooling without its divisor: (out, in) of zeros and ones."""
    return windows(np.ones(kernel), np.arange(out) * stride - padding, size)


def _counts(size: int, out: int, kernel: int, stride: int, padding: int) -> Array:
    """How many positions each window covers, padding included, but not what ceil_mode adds."""
    start = np.arange(out) * stride - padding
    return np.asarray(np.minimum(start + kernel, size + padding) - start)


def _adaptive(call: Call, *, input: Operand, output_size: Any) -> Node:
    shape, out = _images(call, input.shape), call.shape
    if len(shape) == 2:
        shape, out = _flat(shape), _flat(out)
    rows, columns = (_adaptive_axis(shape[a], out[a]) for a in (1, 2))
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


def _images(call: Call, shape: Shape) -> Shape:
    rank = 1 if "1d" in call.called else 2
    if len(shape) != rank + 1:
        axes = "(C, L)" if rank == 1 else "(C, H, W)"
        raise call.refuse(f"{rank}-D pooling reads {axes}", shape, axes, "Keep the batch axis.")
    return shape


def _flat(shape: Shape) -> Shape:
    """(C, L) as an image of one row."""
    return shape[0], 1, shape[1]


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
    modules={"torch.nn.AvgPool1d": _AVERAGE[:-1], "torch.nn.AvgPool2d": _AVERAGE},
    functions={
        "torch.nn.functional.avg_pool1d": ("input", *_AVERAGE[:-1]),
        "torch.nn.functional.avg_pool2d": ("input", *_AVERAGE),
    },
)
ADAPTIVE_AVERAGE_POOL = LayerRule(
    build=_adaptive,
    modules={
        "torch.nn.AdaptiveAvgPool1d": ("output_size",),
        "torch.nn.AdaptiveAvgPool2d": ("output_size",),
    },
    functions={
        "torch.nn.functional.adaptive_avg_pool1d": ("input", "output_size"),
        "torch.nn.functional.adaptive_avg_pool2d": ("input", "output_size"),
    },
)
MEAN = LayerRule(build=_mean, functions={"torch.mean": _MEAN}, methods={"mean": _MEAN})
