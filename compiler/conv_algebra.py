"""Algebra of convolutions: when two of them are one, and which one.

Everything is exact, borders included. Kernels are built in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from lapilli.compiler.linear import Array, Conv, ConvTransposed, LinearMap, frozen


def conv_product(outer: Conv, inner: Conv) -> Conv | None:
    """The convolution x -> outer(inner(x)), or None if that is not one convolution.

    It is one if whatever the inner convolution would compute beyond its own output, where the
    outer one reads zeros, is zero because it reads nothing but padding.
    """
    if inner.out_shape != outer.in_shape or not all(_merges(outer, inner, a) for a in (0, 1)):
        return None
    merged = _merged(outer, inner)
    return merged if _reads_input(merged) else None


def merged_anyway(outer: Conv, inner: Conv | ConvTransposed) -> Conv | ConvTransposed | None:
    """One convolution for both that is right wherever the outer one reads no padding."""
    if isinstance(inner, Conv):
        merged = _merged(outer, inner)
        return merged if _reads_input(merged) else None
    return _moved(outer, inner) if outer.stride == (1, 1) else None


def conv_sum(left: Conv, right: Conv) -> Conv | None:
    """The convolution x -> left(x) + right(x), or None if that is not one convolution."""
    if (left.in_shape, left.out_shape) != (right.in_shape, right.out_shape):
        return None
    if left.stride != right.stride:
        return None
    return _summed(left, right)


def transposed_product(outer: LinearMap, inner: LinearMap) -> ConvTransposed | None:
    """The transposed convolution x -> outer(inner(x)), or None if that is not one, or a wide one.

    One of the two is a transposed convolution. The other is 1x1 (crops, zero padding, channel
    mixers), or an outer convolution of stride 1, as after upsampling.
    """
    if inner.out_shape != outer.in_shape:
        return None
    if isinstance(outer, Conv) and isinstance(inner, ConvTransposed) and outer.stride == (1, 1):
        return _moved(outer, inner) if _keeps_stamps(outer, inner) else None
    if isinstance(outer, ConvTransposed) and isinstance(inner, Conv) and _pointwise(inner):
        whole = inner.padding == (0, 0) and inner.in_shape[1:] == inner.out_shape[1:]
        return _mixed_before(outer, inner) if whole else None
    return None


def _mixed_before(outer: ConvTransposed, inner: Conv) -> ConvTransposed:
    """The transposed convolution of channels that `inner`, 1x1, mixes."""
    groups = math.gcd(outer.groups, inner.groups)
    mixer = _grouped(inner, groups)[..., 0, 0]
    if outer.groups == outer.in_shape[0] == outer.out_shape[0]:  # no sum over channels between
        stamps = outer.weight.reshape(groups, -1, *outer.kernel)
        weight = np.einsum("goij,goc->gcoij", stamps, mixer)
    else:
        stamps = _grouped(outer.mirrored(), groups)
        weight = np.einsum("gmoij,gmc->gcoij", stamps, mixer, optimize=True)
    return replace(
        outer,
        weight=frozen(weight.reshape(-1, *weight.shape[2:])),
        in_shape=inner.in_shape,
        groups=groups,
    )


def _pointwise(conv: Conv) -> bool:
    return conv.kernel == (1, 1) == conv.stride


def _keeps_stamps(outer: Conv, inner: ConvTransposed) -> bool:
    """Does the outer one read zeros of its padding only where no input of the inner one stamps?"""
    for axis in (0, 1):
        middle = _rows_read(np.arange(outer.out_shape[axis + 1]), outer, axis)
        beyond = middle[(middle < 0) | (middle >= inner.out_shape[axis + 1])] + inner.padding[axis]
        if ((beyond >= 0) & (beyond < inner.extent(axis))).any():
            return False
    return True


def _moved(outer: Conv, inner: ConvTransposed) -> ConvTransposed:
    """The transposed convolution whose stamps went through `outer`, cropped or padded."""
    groups = math.gcd(outer.groups, inner.groups)
    if _pointwise(outer) and _depthwise(outer):
        groups, spread = inner.groups, inner.dilation
        weight = inner.scaled(outer.weight.reshape(-1), np.ones(())).weight
    else:
        weight, spread = _stamps(outer, inner, groups)
    last = [(taps - 1) * pace for taps, pace in zip(outer.kernel, outer.dilation, strict=True)]
    return replace(
        inner,
        weight=frozen(weight),
        out_shape=outer.out_shape,
        padding=(
            inner.padding[0] - outer.padding[0] + last[0],
            inner.padding[1] - outer.padding[1] + last[1],
        ),
        dilation=spread,
        groups=groups,
    )


def _stamps(outer: Conv, inner: ConvTransposed, groups: int) -> tuple[Array, tuple[int, int]]:
    """What one input of `inner` puts into the output of `outer`: (C, O / groups, kH, kW), dilation.

    The outer kernel is read backwards: its last tap is the first that meets an input.
    """
    taps = _grouped(outer, groups)[..., ::-1, ::-1]
    kernels = _grouped(inner.mirrored(), groups)
    first, second = _grid(outer, inner, 0), _grid(outer, inner, 1)
    channels, out_channels = kernels.shape[1], taps.shape[1]
    weight = np.zeros((groups, channels, out_channels, first.size, second.size))
    for i, j in np.ndindex(*outer.kernel):
        product = np.einsum("gom,gcmij->gcoij", taps[..., i, j], kernels, optimize=True)
        weight[:, :, :, first.taps(i), second.taps(j)] += product
    return weight.reshape(-1, *weight.shape[2:]), (first.dilation, second.dilation)


def _merges(outer: Conv, inner: Conv, axis: int) -> bool:
    middle = _rows_read(np.arange(outer.out_shape[axis + 1]), outer, axis)
    beyond = middle[(middle < 0) | (middle >= inner.out_shape[axis + 1])]
    rows = _rows_read(beyond, inner, axis)
    return not ((rows >= 0) & (rows < inner.in_shape[axis + 1])).any()


def _rows_read(outputs: Array, conv: Conv, axis: int) -> Array:
    """Input positions, padding included, that the taps of these outputs read."""
    taps = np.arange(conv.kernel[axis]) * conv.dilation[axis]
    return (outputs[:, None] * conv.stride[axis] - conv.padding[axis] + taps).reshape(-1)


def _reads_input(conv: Conv) -> bool:
    """Does anything of the input remain after cropping? Engines take this for granted."""
    return all(
        max(-before, 0) + max(-after, 0) < size
        for (before, after), size in zip(conv.margins(), conv.in_shape[1:], strict=True)
    )


def _depthwise(conv: Conv) -> bool:
    return conv.groups == conv.in_shape[0] == conv.out_shape[0]


def _grouped(conv: Conv, groups: int) -> Array:
    """The weights for fewer groups, zeros filled in; (groups, O / groups, C / groups, kH, kW)."""
    inside = conv.groups // groups  # old groups within a new one
    outputs, inputs = conv.out_shape[0] // conv.groups, conv.in_shape[0] // conv.groups
    result = np.zeros((groups, inside, outputs, inside, inputs, *conv.kernel), conv.weight.dtype)
    old = conv.weight.reshape(groups, inside, outputs, inputs, *conv.kernel)
    for k in range(inside):
        result[:, k, :, k] = old[:, k]
    return result.reshape(groups, inside * outputs, inside * inputs, *conv.kernel)


def _merged(outer: Conv, inner: Conv) -> Conv:
    """One kernel for both: taps of the outer kernel place shifted copies of the inner one."""
    groups = math.gcd(outer.groups, inner.groups)
    first, second = _grid(outer, inner, 0), _grid(outer, inner, 1)
    out_channels, channels = outer.out_shape[0] // groups, inner.in_shape[0] // groups
    weight = np.zeros((groups, out_channels, channels, first.size, second.size))
    product = _product_of_taps(outer, inner, groups)
    for i, j in np.ndindex(*outer.kernel):
        weight[:, :, :, first.taps(i), second.taps(j)] += product(i, j)
    return Conv(
        frozen(weight.reshape(-1, *weight.shape[2:])),
        inner.in_shape,
        outer.out_shape,
        stride=(outer.stride[0] * inner.stride[0], outer.stride[1] * inner.stride[1]),
        padding=(
            outer.padding[0] * inner.stride[0] + inner.padding[0],
            outer.padding[1] * inner.stride[1] + inner.padding[1],
        ),
        dilation=(first.dilation, second.dilation),
        groups=groups,
    )


@final
@dataclass(frozen=True)
class _Grid:
    """Taps of a merged kernel along one axis: where outer tap i puts the inner kernel."""

    size: int
    dilation: int
    outer_step: int
    inner_step: int
    inner_taps: int

    def taps(self, i: int) -> slice:
        start = i * self.outer_step
        return slice(start, start + (self.inner_taps - 1) * self.inner_step + 1, self.inner_step)


def _grid(outer: Conv, inner: Conv | ConvTransposed, axis: int) -> _Grid:
    taps = (outer.kernel[axis], inner.kernel[axis])
    stride = inner.stride[axis] if isinstance(inner, Conv) else 1
    # Distance between neighbouring taps, in the input (the output of a transposed one); none
    # where there is only one.
    steps = (
        outer.dilation[axis] * stride if taps[0] > 1 else 0,
        inner.dilation[axis] if taps[1] > 1 else 0,
    )
    dilation = math.gcd(*steps) or 1
    last = (taps[0] - 1) * steps[0] + (taps[1] - 1) * steps[1]
    return _Grid(
        last // dilation + 1,
        dilation,
        steps[0] // dilation,
        steps[1] // dilation or 1,
        taps[1],
    )


def _product_of_taps(outer: Conv, inner: Conv, groups: int) -> Callable[[int, int], Array]:
    """Of outer tap (i, j) with the whole inner kernel: (groups, O / groups, C / groups, kH, kW)."""
    if _depthwise(inner):
        taps = _grouped(outer, groups)
        kernels = inner.weight.reshape(groups, 1, -1, *inner.kernel)
    elif _depthwise(outer):
        taps = outer.weight.reshape(groups, -1, 1, *outer.kernel)
        kernels = _grouped(inner, groups)
    else:
        taps, kernels = _grouped(outer, groups), _grouped(inner, groups)
        flat = kernels.reshape(*kernels.shape[:2], -1)
        shape = (groups, taps.shape[1], *kernels.shape[2:])
        return lambda i, j: np.asarray(taps[..., i, j] @ flat).reshape(shape)
    # One number per channel on one side: no sum over the channels between.
    return lambda i, j: np.asarray(taps[..., i, j, None, None] * kernels)


def _summed(a: Conv, b: Conv) -> Conv:
    """One kernel that holds the taps of both."""
    groups = math.gcd(a.groups, b.groups)
    padding = (max(a.padding[0], b.padding[0]), max(a.padding[1], b.padding[1]))
    dilation, size = [1, 1], [1, 1]
    for axis in (0, 1):
        spread = [c.dilation[axis] for c in (a, b) if c.kernel[axis] > 1]
        dilation[axis] = math.gcd(a.padding[axis] - b.padding[axis], *spread) or 1
        lasts = [(c.kernel[axis] - 1) * c.dilation[axis] - c.padding[axis] for c in (a, b)]
        size[axis] = (max(lasts) + padding[axis]) // dilation[axis] + 1
    weight = np.zeros((groups, a.out_shape[0] // groups, a.in_shape[0] // groups, *size))
    for conv in (a, b):
        taps = []
        for axis in (0, 1):
            start = (padding[axis] - conv.padding[axis]) // dilation[axis]
            step = conv.dilation[axis] // dilation[axis] or 1
            taps.append(slice(start, start + (conv.kernel[axis] - 1) * step + 1, step))
        weight[:, :, :, taps[0], taps[1]] += _grouped(conv, groups)
    return replace(
        a,
        weight=frozen(weight.reshape(-1, *weight.shape[2:])),
        padding=padding,
        dilation=(dilation[0], dilation[1]),
        groups=groups,
    )
