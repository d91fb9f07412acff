"""Max pooling: over windows, to a given size, and over whole axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.onnx_windows import Numbers, numbers, padding
from lapilli.compiler.layers.pooling import as_images, image_shape, plane_axes
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, pair
from lapilli.compiler.layers.separable import separable_map
from lapilli.compiler.layers.windows import adaptive_axis, windows
from lapilli.compiler.linear import Array, LinearMap


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Node):
    """The largest value of each window; a window is the product of a row's and a column's.

    in_shape (C, H, W): the operand as it is, or with an axis of one where it has none; rows,
    columns: (out, in) of zeros and ones per spatial axis. What pads the operand is never largest.
    """

    in_shape: Shape
    rows: Array
    columns: Array

    def map(self) -> LinearMap:
        """Zeros and ones: what each output compares."""
        return separable_map(self.in_shape, self.rows, self.columns)


def _max_pool(
    call: Call,
    *,
    input: Operand,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Node:
    _refuse_indices(call, return_indices)
    shape, out = image_shape(call, input.shape), call.shape
    kernel, spread, pad = pair(kernel_size), pair(dilation), pair(padding)
    step = kernel if stride in (None, (), []) else pair(stride)
    if len(shape) == 2:
        kernel, spread, step, pad = (1, kernel[1]), (1, spread[1]), (1, step[1]), (0, pad[1])
        shape, out = as_images(shape), as_images(out)
    # ceil_mode shows in the number of windows alone, and that is known from the result.
    rows, columns = (
        windows(_taps(kernel[a], spread[a]), np.arange(out[a + 1]) * step[a] - pad[a], shape[a + 1])
        for a in (0, 1)
    )
    return _node(call, input, shape, rows, columns)


def _taps(kernel: int, dilation: int) -> Array:
    taps = np.zeros((kernel - 1) * dilation + 1)
    taps[::dilation] = 1.0
    return taps


def _adaptive(
    call: Call, *, input: Operand, output_size: Any, return_indices: bool = False
) -> Node:
    _refuse_indices(call, return_indices)
    shape, out = image_shape(call, input.shape), call.shape
    if len(shape) == 2:
        shape, out = as_images(shape), as_images(out)
    rows, columns = ((adaptive_axis(shape[a], out[a]) > 0).astype(float) for a in (1, 2))
    return _node(call, input, shape, rows, columns)


def _over_axes(call: Call, *, input: Operand, dim: Any = (), keepdim: bool = False) -> Node:
    axes = plane_axes(call, input.shape, dim, "a maximum", "amax((2, 3)) or AdaptiveMaxPool2d(1)")
    shape = input.shape if len(input.shape) == 3 else (*input.shape, 1)
    rows, columns = (
        np.ones((1, n)) if axis in axes else np.eye(n)
        for axis, n in zip((1, 2), shape[1:], strict=True)
    )
    return _node(call, input, shape, rows, columns)


def _onnx_max_pool(
    call: Call,
    *,
    input: Operand,
    kernel_shape: Numbers,
    strides: Numbers = None,
    pads: Numbers = None,
    dilations: Numbers = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    storage_order: int = 0,  # of the indices
) -> Node:
    kernel = numbers(kernel_shape, 0)
    rank = len(kernel)
    step, spread = numbers(strides, rank), numbers(dilations, rank)
    margins = padding(call, input.shape, call.shape, kernel, step, spread, pads, auto_pad)
    # The padding behind an axis shows in the number of windows alone, and that is known.
    before = tuple(first for first, _ in margins)
    axes = [
        windows(
            _taps(kernel[a], spread[a]),
            np.arange(call.shape[a + 1]) * step[a] - before[a],
            input.shape[a + 1],
        )
        for a in range(rank)
    ]
    shape = input.shape if rank == 2 else as_images(input.shape)
    return _node(call, input, shape, *(axes if rank == 2 else (np.ones((1, 1)), axes[0])))


def _global_max(call: Call, *, input: Operand) -> Node:
    return _over_axes(call, input=input, dim=tuple(range(2, len(input.shape) + 1)), keepdim=True)


def _onnx_max(call: Call, *, input: Operand, axes: Any = None, keepdims: int = 1, **_: Any) -> Node:
    dims = () if axes is None else tuple(int(axis) for axis in axes)
    return _over_axes(call, input=input, dim=dims, keepdim=bool(keepdims))


def _refuse_indices(call: Call, return_indices: bool) -> None:
    if return_indices:
        raise call.refuse(
            "a pool returns values", "return_indices", "return_indices=False", "Leave it out."
        )


def _node(call: Call, operand: Operand, in_shape: Shape, rows: Array, columns: Array) -> Node:
    return MaxPool(
        name=call.name,
        inputs=(operand.name,),
        shape=call.shape,
        where=call.where,
        in_shape=in_shape,
        rows=rows,
        columns=columns,
    )


_WINDOW = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
# torch's own functions take the last two in another order than its modules' constructors do.
_FUNCTION = ("input", *_WINDOW)

MAX_POOL = LayerRule(
    build=_max_pool,
    node=MaxPool,
    role="max",
    modules={"torch.nn.MaxPool1d": _WINDOW, "torch.nn.MaxPool2d": _WINDOW},
    functions={
        "torch.nn.functional.max_pool1d": _FUNCTION,
        "torch.nn.functional.max_pool2d": _FUNCTION,
        "torch.max_pool1d": _FUNCTION[:-1],
        "torch.max_pool2d": _FUNCTION[:-1],
    },
    aten=dict.fromkeys(
        ("max_pool1d", "max_pool2d", "max_pool1d_with_indices", "max_pool2d_with_indices"),
        _FUNCTION[:-1],
    ),
)
_ADAPTIVE = ("output_size", "return_indices")
ADAPTIVE_MAX_POOL = LayerRule(
    build=_adaptive,
    modules={"torch.nn.AdaptiveMaxPool1d": _ADAPTIVE, "torch.nn.AdaptiveMaxPool2d": _ADAPTIVE},
    functions={
        "torch.nn.functional.adaptive_max_pool1d": ("input", *_ADAPTIVE),
        "torch.nn.functional.adaptive_max_pool2d": ("input", *_ADAPTIVE),
    },
    aten=dict.fromkeys(("adaptive_max_pool1d", "adaptive_max_pool2d"), ("input", "output_size")),
)
MAX_OVER_AXES = LayerRule(
    build=_over_axes,
    functions={"torch.amax": ("input", "dim", "keepdim")},
    methods={"amax": ("input", "dim", "keepdim")},
    aten={"amax": ("input", "dim", "keepdim")},
)
ONNX_MAX_POOL = LayerRule(build=_onnx_max_pool, onnx={"MaxPool": ("input",)})
GLOBAL_MAX_POOL = LayerRule(build=_global_max, onnx={"GlobalMaxPool": ("input",)})
ONNX_MAX = LayerRule(build=_onnx_max, onnx={"ReduceMax": ("input", "axes")})
