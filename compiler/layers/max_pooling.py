"""Max pooling: over windows, to a given size, and over whole axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.ir import Node
from lapilli.compiler.layers.onnx_reductions import onnx_reduction
from lapilli.compiler.layers.onnx_windows import Numbers, numbers, padding
from lapilli.compiler.layers.plane import PlaneNode, check_image, on_plane, per_axis
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, axis_of
from lapilli.compiler.layers.windows import Window, adaptive_axis, window
from lapilli.compiler.linear import Array, Conv, ConvTransposed, LinearMap, Shape, Sparse, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(PlaneNode):
    """The largest value of each window; a window is the product of a row's and a column's.

    The matrices are of zeros and ones. What pads the operand is never largest.
    """

    def map(self) -> LinearMap:
        """Zeros and ones: what each output compares."""
        return separable_map(self.in_shape, self.rows, self.columns)


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
    rank = check_image(call, input)
    kernel, spread, pad = (per_axis(value, rank) for value in (kernel_size, dilation, padding))
    step = kernel if stride in (None, (), []) else per_axis(stride, rank)
    # ceil_mode shows in the number of windows alone, and that is known from the result.
    return _over_windows(call, input, kernel, spread, step, pad)


def _over_windows(
    call: Call,
    operand: Operand,
    kernel: Shape,
    dilations: Shape,
    strides: Shape,
    before: Shape,
) -> Node:
    """The pool of one setting per axis, `before`: what pads the operand in front."""
    settings = zip(kernel, dilations, strides, before, strict=True)
    sizes = zip(operand.shape[1:], call.shape[1:], strict=True)
    matrices = [
        Window(_taps(taps, apart), pace, first).matrix(out, size)
        for (taps, apart, pace, first), (size, out) in zip(settings, sizes, strict=True)
    ]
    return on_plane(MaxPool, call, operand, matrices)


def _taps(kernel: int, dilation: int) -> Array:
    taps = np.zeros((kernel - 1) * dilation + 1)
    taps[::dilation] = 1.0
    return taps


def _adaptive(
    call: Call, *, input: Operand, output_size: Any, return_indices: bool = False
) -> Node:
    _refuse_indices(call, return_indices)
    check_image(call, input)
    sizes = zip(input.shape[1:], call.shape[1:], strict=True)
    matrices = [(adaptive_axis(size, out) > 0).astype(float) for size, out in sizes]
    return on_plane(MaxPool, call, input, matrices)


def _over_axes(call: Call, *, input: Operand, dim: Any = (), keepdim: bool = False) -> Node:
    axes = _plane_axes(call, input.shape, dim)
    matrices = [
        np.ones((1, n)) if axis in axes else np.eye(n)
        for axis, n in enumerate(input.shape[1:], start=1)
    ]
    return on_plane(MaxPool, call, input, matrices)


def _plane_axes(call: Call, shape: Shape, dim: Any) -> set[int]:
    """The axes of the image plane that a reduction runs over."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    axes = {axis_of(call, d, shape) for d in dims}
    if not axes or not axes <= {1, 2} or len(shape) not in (2, 3):
        raise call.refuse(
            "a maximum is over axes of the image plane",
            f"dim={dim} of (N, {', '.join(map(str, shape))})",
            "dim=(2, 3), or one of the two",
            "Use amax((2, 3)) or AdaptiveMaxPool2d(1).",
        )
    return axes


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
    return _over_windows(call, input, kernel, spread, step, before)


def _global_max(call: Call, *, input: Operand) -> Node:
    return _over_axes(call, input=input, dim=tuple(range(2, len(input.shape) + 1)), keepdim=True)


def _refuse_indices(call: Call, return_indices: bool) -> None:
    if return_indices:
        raise call.refuse(
            "a pool returns values", "return_indices", "return_indices=False", "Leave it out."
        )


_WINDOW = ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices")
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
ONNX_MAX = LayerRule(build=onnx_reduction(_over_axes), onnx={"ReduceMax": ("input", "axes")})
