"""Average pooling: over windows, to a given size, and over whole axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.axiswise import axes_of, reduced
from lapilli.compiler.layers.onnx_windows import Numbers, numbers, padding
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, axis_of, pair
from lapilli.compiler.layers.tensor_product import tensor_product
from lapilli.compiler.layers.windows import adaptive_axis, windows
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

    def maps(self) -> tuple[LinearMap, ...]:
        """Maps whose sum this is; see tensor_product."""
        axes = (None, sp.csr_matrix(self.rows), sp.csr_matrix(self.columns))
        return tensor_product(self.in_shape, axes)


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
    shape, out = image_shape(call, input.shape), call.shape
    kernel = pair(kernel_size)
    step = kernel if stride in (None, (), []) else pair(stride)
    pad = pair(padding)
    if len(shape) == 2:
        kernel, step, pad = (1, kernel[1]), (1, step[1]), (0, pad[1])
        shape, out = as_images(shape), as_images(out)
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
    shape, out = image_shape(call, input.shape), call.shape
    if len(shape) == 2:
        shape, out = as_images(shape), as_images(out)
    rows, columns = (adaptive_axis(shape[a], out[a]) for a in (1, 2))
    return _node(call, input, shape, rows, columns)


def _mean(
    call: Call, *, input: Operand, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Node:
    axes = axes_of(call, dim, input.shape)
    rank = len(input.shape)
    if not set(axes) <= {1, 2} or rank not in (2, 3):
        return reduced(call, input, dim, mean=True)
    shape = input.shape if rank == 3 else (*input.shape, 1)
    rows, columns = (
        np.full((1, n), 1.0 / n) if axis in axes else np.eye(n)
        for axis, n in zip((1, 2), shape[1:], strict=True)
    )
    return _node(call, input, shape, rows, columns)


def plane_axes(call: Call, shape: Shape, dim: Any, what: str, instead: str) -> set[int]:
    """The axes of the image plane that a reduction runs over."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    axes = {axis_of(call, d, shape) for d in dims}
    if not axes or not axes <= {1, 2} or len(shape) not in (2, 3):
        raise call.refuse(
            f"{what} is over axes of the image plane",
            f"dim={dim} of (N, {', '.join(map(str, shape))})",
            "dim=(2, 3), or one of the two",
            f"Use {instead}.",
        )
    return axes


def image_shape(call: Call, shape: Shape) -> Shape:
    """The operand's shape, which a 1-D or 2-D pool can read."""
    rank = 1 if "1d" in call.called else 2
    if len(shape) != rank + 1:
        axes = "(C, L)" if rank == 1 else "(C, H, W)"
        raise call.refuse(f"{rank}-D pooling reads {axes}", shape, axes, "Keep the batch axis.")
    return shape


def as_images(shape: Shape) -> Shape:
    """(C, L) as an image of one row."""
    return shape[0], 1, shape[1]


def _onnx_average(
    call: Call,
    *,
    input: Operand,
    kernel_shape: Numbers,
    strides: Numbers = None,
    pads: Numbers = None,
    dilations: Numbers = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Node:
    kernel = numbers(kernel_shape, 0)
    rank = len(kernel)
    if any(apart != 1 for apart in dilations or ()):
        raise call.refuse("windows are whole", f"dilations {dilations}", "1", "Use no dilation.")
    margins = padding(call, input.shape, call.shape, kernel, strides, None, pads, auto_pad)
    axes = []
    for axis, (taps, step, (before, after)) in enumerate(
        zip(kernel, numbers(strides, rank), margins, strict=True), start=1
    ):
        size, out = input.shape[axis], call.shape[axis]
        matrix = _sums(size, out, taps, step, before)
        count = matrix.sum(axis=1)
        if count_include_pad:
            start = np.arange(out) * step - before
            count = np.minimum(start + taps, size + after) - start
        axes.append(matrix / count[:, None])
    shape = input.shape if rank == 2 else (input.shape[0], 1, input.shape[1])
    return _node(call, input, shape, *(axes if rank == 2 else (np.ones((1, 1)), axes[0])))


def _global_average(call: Call, *, input: Operand) -> Node:
    return _mean(call, input=input, dim=tuple(range(2, len(input.shape) + 1)), keepdim=True)


def _onnx_mean(
    call: Call,
    *,
    input: Operand,
    axes: Any = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Node | Operand:
    dims = () if axes is None else tuple(int(axis) for axis in axes)
    if not dims and noop_with_empty_axes:
        return input
    return _mean(call, input=input, dim=dims, keepdim=bool(keepdims))


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
    return operands[0].through(*node.maps()).viewed(node.shape)


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
    aten={"avg_pool1d": ("input", *_AVERAGE[:-1]), "avg_pool2d": ("input", *_AVERAGE)},
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
    aten=dict.fromkeys(
        ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"),
        ("input", "output_size"),
    ),
)
MEAN = LayerRule(
    build=_mean,
    functions={"torch.mean": _MEAN},
    methods={"mean": _MEAN},
    aten={"mean.dim": _MEAN[:-1]},
)
ONNX_AVERAGE_POOL = LayerRule(build=_onnx_average, onnx={"AveragePool": ("input",)})
GLOBAL_AVERAGE_POOL = LayerRule(build=_global_average, onnx={"GlobalAveragePool": ("input",)})
ONNX_MEAN = LayerRule(build=_onnx_mean, onnx={"ReduceMean": ("input", "axes")})
