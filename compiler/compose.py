"""Composition of linear maps, and affine forms: sums of maps of populations plus a bias.

`legalise` walks the network with these: whatever is linear between two populations collapses into
one map per source population. A composition keeps a compact form where one exists and falls back
to a sparse matrix only where none does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.linear import (
    Array,
    Conv,
    Dense,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
    along_channels,
    frozen,
    per_channel,
)

MAX_SPARSE_SYNAPSES = 200_000_000
"""A fallback matrix beyond this would not fit any machine that compiles; it is refused."""


def compose(outer: LinearMap, inner: LinearMap) -> LinearMap:
    """The map x -> outer(inner(x)). Sizes must match; shapes may differ by a view."""
    if isinstance(inner, Diagonal):
        outer = _reading(outer, inner.in_shape)
        scale = per_channel(inner.weight, inner.in_shape)
        if scale is not None and (scale.ndim == 0 or outer.in_shape == inner.in_shape):
            return outer.scaled(np.ones(()), scale)
    if isinstance(outer, Diagonal):
        scale = per_channel(outer.weight, outer.in_shape)
        if scale is not None and (scale.ndim == 0 or outer.in_shape == inner.out_shape):
            return inner.scaled(scale, np.ones(()))
    if isinstance(outer, Conv) and isinstance(inner, Conv) and _merges(outer, inner):
        return _merge(outer, inner)
    if isinstance(outer, Dense):
        product = np.asarray(inner.to_sparse().T @ outer.weight.T).T
        return Dense(frozen(product), inner.in_shape, outer.out_shape)
    return _product(outer, inner)


def _reading(outer: LinearMap, in_shape: Shape) -> LinearMap:
    """Let a map that reads a flattened view read the original shape, where its form can."""
    if isinstance(outer, (Dense, Sparse)):
        return replace(outer, in_shape=in_shape)
    return outer


def _product(outer: LinearMap, inner: LinearMap) -> LinearMap:
    a, b = outer.to_sparse(), inner.to_sparse()
    # An upper bound of the product's size, known before it is computed.
    bound = int(np.diff(b.tocsr().indptr)[a.indices].sum())
    if bound > MAX_SPARSE_SYNAPSES:
        raise UnsupportedOperatorError(
            f"{type(outer).__name__} after {type(inner).__name__} {inner.in_shape}",
            "two linear operators without a compact common form become a sparse matrix",
            found=f"up to {bound:,} synapses",
            allowed=f"{MAX_SPARSE_SYNAPSES:,}",
            remedy="Put an activation between the two operators.",
        )
    return Sparse.from_matrix(a @ b, inner.in_shape, outer.out_shape)


def _merges(outer: Conv, inner: Conv) -> bool:
    """Is the composition one convolution, borders included?

    It is when the outer map never reads beyond the inner map's output, or when what the inner
    convolution would compute there is zero: every virtual position reads only outside the input.
    """
    if inner.out_shape != outer.in_shape:
        return False
    if inner.groups != 1 and not _depthwise(inner):
        return False
    if outer.groups != 1 and not (_depthwise(inner) or _depthwise(outer)):
        return False
    for axis, (before, after) in enumerate(outer.margins()):
        reach = (inner.kernel[axis] - 1) * inner.dilation[axis]
        if before > 0 and reach - inner.stride[axis] - inner.padding[axis] >= 0:
            return False
        first_beyond = inner.out_shape[axis + 1] * inner.stride[axis] - inner.padding[axis]
        if after > 0 and first_beyond < inner.in_shape[axis + 1]:
            return False
    return inner.dilation == (1, 1) or inner.kernel == (1, 1)


def _depthwise(conv: Conv) -> bool:
    return conv.groups == conv.in_shape[0] == conv.out_shape[0]


def _merge(outer: Conv, inner: Conv) -> Conv:
    """One kernel for both: taps of the outer kernel place shifted copies of the inner one."""
    steps = [outer.dilation[a] * inner.stride[a] for a in (0, 1)]
    size = [(outer.kernel[a] - 1) * steps[a] + inner.kernel[a] for a in (0, 1)]
    groups = outer.groups if _depthwise(inner) else 1
    channels = inner.in_shape[0]
    weight = np.zeros((outer.out_shape[0], channels // groups, *size))
    for i, j in np.ndindex(*outer.kernel):
        tap = outer.weight[:, :, i, j]
        if _depthwise(inner):
            # Output o of group g reads the depthwise kernels of that group's channels.
            kernels = inner.weight[:, 0].reshape(groups, channels // groups, *inner.kernel)
            mine = np.repeat(kernels, outer.out_shape[0] // groups, axis=0)
            block = tap[:, :, None, None] * mine
        elif outer.groups == 1:
            block = np.tensordot(tap, inner.weight, axes=(1, 0))
        else:  # depthwise outer: one tap per channel
            block = tap[:, 0][:, None, None, None] * inner.weight
        y, x = i * steps[0], j * steps[1]
        weight[:, :, y : y + inner.kernel[0], x : x + inner.kernel[1]] += block
    return Conv(
        frozen(weight),
        inner.in_shape,
        outer.out_shape,
        stride=(outer.stride[0] * inner.stride[0], outer.stride[1] * inner.stride[1]),
        padding=(
            outer.padding[0] * inner.stride[0] + inner.padding[0],
            outer.padding[1] * inner.stride[1] + inner.padding[1],
        ),
        groups=groups,
    )


@dataclass(frozen=True, eq=False)
class Affine:
    """A tensor of the network as sum over terms of map(population) + bias.

    terms: (population name, map with out_size == size of shape); bias broadcasts to shape.
    """

    shape: Shape
    terms: tuple[tuple[str, LinearMap], ...]
    bias: Array

    def through(self, outer: LinearMap) -> Affine:
        """The form after a linear map."""
        terms = tuple((name, compose(outer, inner)) for name, inner in self.terms)
        return Affine(outer.out_shape, terms, self._bias_through(outer))

    def _bias_through(self, outer: LinearMap) -> Array:
        if not self.bias.any():
            return np.zeros(())
        full = np.broadcast_to(self.bias, self.shape).reshape(1, *outer.in_shape)
        return compact(outer.apply(full)[0], outer.out_shape)

    def plus(self, other: Affine) -> Affine:
        """The sum of two forms of equal shape; both may read the same population."""
        bias = compact(np.broadcast_to(self.bias + other.bias, self.shape), self.shape)
        return Affine(self.shape, self.terms + other.terms, bias)

    def shifted(self, bias: Array) -> Affine:
        """The form with `bias` (broadcasts to shape) added."""
        return Affine(
            self.shape,
            self.terms,
            compact(np.broadcast_to(self.bias + bias, self.shape), self.shape),
        )

    def viewed(self, shape: Shape) -> Affine:
        """The same values under another shape of equal size."""
        full = np.broadcast_to(self.bias, self.shape).reshape(shape)
        return Affine(shape, self.terms, compact(full, shape))


def compact(values: Array, shape: Shape) -> Array:
    """The smallest of scalar, per-channel and full arrays that broadcasts to `values`."""
    channels = per_channel(values, shape)
    return values if channels is None else along_channels(channels, shape)
