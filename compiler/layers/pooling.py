"""Average pooling: over windows, to a given size, and over whole axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from lapilli.compiler.ir import Node
from lapilli.compiler.layers.axiswise import axes_of, reduced
from lapilli.compiler.layers.onnx_reductions import onnx_reduction
from lapilli.compiler.layers.onnx_windows import Numbers, numbers, padding
from lapilli.compiler.layers.plane import PlaneNode, check_image, on_plane, per_axis, weighted_sums
from lapilli.compiler.layers.rule import Call, LayerRule, Operand
from lapilli.compiler.layers.windows import Window, adaptive_axis
from lapilli.compiler.linear import Array


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(PlaneNode):
    """Weighted sums of windows, separable: one (out, in) matrix of weights per spatial axis."""


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
    rank = check_image(call, input)
    kernel, pad = per_axis(kernel_size, rank), per_axis(padding, rank)
    step = kernel if stride in (None, (), []) else per_axis(stride, rank)
    matrices: list[Array] = []
    # ceil_mode shows in the number of windows alone, and that is known from the result.
    for size, out, taps, pace, before in zip(
        input.shape[1:], call.shape[1:], kernel, step, pad, strict=True
    ):
        matrix = _sums(size, out, taps, pace, before)
        counts = _counts(size, out, taps, pace, before, before)
        if divisor_override is not None:
            counts = np.full(out, 1 if matrices else divisor_override)
        elif not count_include_pad:
            counts = matrix.sum(axis=1)
        matrices.append(matrix / counts[:, None])
    return on_plane(AveragePool, call, input, matrices)


def _sums(size: int, out: int, kernel: int, stride: int, before: int) -> Array:
    """One axis of pooling without its divisor: (out, in) of zeros and ones."""
    return Window(np.ones(kernel), stride, before).matrix(out, size)


def _counts(size: int, out: int, kernel: int, stride: int, before: int, after: int) -> Array:
    """How many positions each window covers, padding included, but not what ceil_mode adds."""
    start = np.arange(out) * stride - before
    return np.asarray(np.minimum(start + kernel, size + after) - start)


def _adaptive(call: Call, *, input: Operand, output_size: Any) -> Node:
    check_image(call, input)
    sizes = zip(input.shape[1:], call.shape[1:], strict=True)
    return on_plane(AveragePool, call, input, [adaptive_axis(size, out) for size, out in sizes])


def _mean(
    call: Call, *, input: Operand, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Node:
    axes = axes_of(call, dim, input.shape)
    if not set(axes) <= {1, 2} or len(input.shape) not in (2, 3):
        return reduced(call, input, dim, mean=True)
    matrices = [
        np.full((1, n), 1.0 / n) if axis in axes else np.eye(n)
        for axis, n in enumerate(input.shape[1:], start=1)
    ]
    return on_plane(AveragePool, call, input, matrices)


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
    matrices = []
    for size, out, taps, step, (before, after) in zip(
        input.shape[1:], call.shape[1:], kernel, numbers(strides, rank), margins, strict=True
    ):
        matrix = _sums(size, out, taps, step, before)
        counts = _counts(size, out, taps, step, before, after)
        matrices.append(matrix / (counts if count_include_pad else matrix.sum(axis=1))[:, None])
    return on_plane(AveragePool, call, input, matrices)


def _global_average(call: Call, *, input: Operand) -> Node:
    return _mean(call, input=input, dim=tuple(range(2, len(input.shape) + 1)), keepdim=True)


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
    lower=weighted_sums,
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
ONNX_MEAN = LayerRule(build=onnx_reduction(_mean), onnx={"ReduceMean": ("input", "axes")})
