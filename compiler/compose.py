"""Composition and sums of linear maps, and affine forms: maps of populations plus a bias.

`legalise` walks the network with these: whatever is linear between two populations collapses into
one map per source population. The result keeps a compact form where one exists and falls back to a
sparse matrix only where none does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from lapilli.compiler.conv_algebra import conv_product, conv_sum, transposed_product
from lapilli.compiler.conv_borders import bordered_product
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
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
    """The map x -> outer(inner(x)). Sizes must match; shapes may differ by a view.

    So may the result's shapes: in_shape is a view of inner.in_shape, out_shape of outer.out_shape.
    Raises UnsupportedOperatorError where only a matrix of more than MAX_SPARSE_SYNAPSES would do.
    """
    if isinstance(inner, Diagonal):
        outer = _reading(outer, inner.in_shape)
        scale = per_channel(inner.weight, inner.in_shape)
        if scale is not None and (scale.ndim == 0 or outer.in_shape[0] == inner.in_shape[0]):
            return outer.scaled(np.ones(()), scale)
    if isinstance(outer, Diagonal):
        scale = per_channel(outer.weight, outer.in_shape)
        if scale is not None and (scale.ndim == 0 or outer.in_shape[0] == inner.out_shape[0]):
            return inner.scaled(scale, np.ones(()))
        if isinstance(inner, Diagonal):
            full = np.broadcast_to(outer.weight, outer.in_shape).reshape(inner.in_shape)
            return Diagonal(frozen(full * inner.weight), inner.in_shape, inner.in_shape)
    merged = _merged(outer, inner)
    if merged is not None:
        return merged
    if isinstance(outer, Dense) or isinstance(inner, Dense):
        return _dense_product(outer, inner)
    return _sparse_product(outer, inner)


def products(outer: LinearMap, inner: LinearMap) -> tuple[LinearMap, ...]:
    """Maps whose sum is x -> outer(inner(x)): one, or a convolution and what its border lacks.

    Raises UnsupportedOperatorError as `compose` does.
    """
    if isinstance(outer, Conv) and _merged(outer, inner) is None:
        found = bordered_product(outer, inner, MAX_SPARSE_SYNAPSES)
        if found is not None:
            return found
    return (compose(outer, inner),)


def _merged(outer: LinearMap, inner: LinearMap) -> LinearMap | None:
    """One (transposed) convolution for both, where there is one."""
    if isinstance(outer, Conv) and isinstance(inner, Conv):
        return conv_product(outer, inner)
    return transposed_product(outer, inner)


def add(left: LinearMap, right: LinearMap) -> LinearMap:
    """The map x -> left(x) + right(x). Sizes must match; shapes may differ by a view.

    The result's shapes are those of `left` or of `right`. Raises UnsupportedOperatorError where
    only a matrix of more than MAX_SPARSE_SYNAPSES would do.
    """
    if isinstance(left, Diagonal) and isinstance(right, Diagonal):
        other = right.weight
        if other.ndim and right.in_shape != left.in_shape:
            other = np.broadcast_to(other, right.in_shape).reshape(left.in_shape)
        return replace(left, weight=frozen(left.weight + other))
    for one, other_map in ((left, right), (right, left)):
        if isinstance(one, Dense):
            return one.with_weight(one.weight + other_map.to_sparse().toarray())
    a, b = _as_conv(left), _as_conv(right)
    merged = None if a is None or b is None else conv_sum(a, b)
    if merged is not None:
        return merged
    _check_size(left, right, left.synapses + right.synapses)
    return Sparse.from_matrix(left.to_sparse() + right.to_sparse(), left.in_shape, left.out_shape)


def _reading(linear: LinearMap, in_shape: Shape) -> LinearMap:
    """Let a map that reads a flattened view read the original shape, where its form can."""
    return replace(linear, in_shape=in_shape) if isinstance(linear, (Dense, Sparse)) else linear


def _writing(linear: LinearMap, out_shape: Shape) -> LinearMap:
    """Let a map write a view of its result, where its form can."""
    return replace(linear, out_shape=out_shape) if isinstance(linear, (Dense, Sparse)) else linear


def _dense_product(outer: LinearMap, inner: LinearMap) -> Dense:
    _check_size(outer, inner, outer.out_size * inner.in_size)
    if isinstance(outer, Dense):
        product = (inner.to_sparse().T @ outer.weight.T).T
    else:
        product = outer.to_sparse() @ inner.weight
    return Dense(frozen(product), inner.in_shape, outer.out_shape)


def _sparse_product(outer: LinearMap, inner: LinearMap) -> Sparse:
    _check_size(outer, inner, max(outer.synapses, inner.synapses))
    second = inner.to_sparse()
    # An upper bound of the product's size, known before it is computed.
    _check_size(outer, inner, int(outer.fan_out().reshape(-1) @ np.diff(second.indptr)))
    product = outer.to_sparse() @ second
    return Sparse.from_matrix(product, inner.in_shape, outer.out_shape)


def _check_size(first: LinearMap, second: LinearMap, synapses: int) -> None:
    check_size(f"{first.pretty()} with {second.pretty()} of {second.in_shape}", synapses)


def check_size(where: str, synapses: int) -> None:
    """Raise UnsupportedOperatorError for a matrix of more than MAX_SPARSE_SYNAPSES."""
    if synapses > MAX_SPARSE_SYNAPSES:
        raise UnsupportedOperatorError(
            where,
            "two linear operators without a compact common form become one matrix",
            found=f"up to {synapses:,} synapses",
            allowed=f"{MAX_SPARSE_SYNAPSES:,}",
            remedy="Put an activation between the two operators.",
        )


def _as_conv(linear: LinearMap) -> Conv | None:
    """The same map as a convolution: a diagonal one over images is 1x1 and depthwise."""
    if isinstance(linear, Conv):
        return linear
    if not isinstance(linear, Diagonal) or len(linear.in_shape) != 3:
        return None
    scale = per_channel(linear.weight, linear.in_shape)
    if scale is None or linear.in_shape != linear.out_shape:
        return None
    channels = linear.in_shape[0]
    weight = np.broadcast_to(scale, channels).reshape(-1, 1, 1, 1)
    return Conv(frozen(weight), linear.in_shape, linear.out_shape, groups=channels)


@final
@dataclass(frozen=True, eq=False)
class Affine:
    """A tensor of the network as sum over terms of map(population) + bias.

    terms: (population name, map with out_size == size of shape), several of one population where
    their sum would lose its compact form; bias broadcasts to shape.
    """

    shape: Shape
    terms: tuple[tuple[str, LinearMap], ...]
    bias: Array

    def through(self, *outer: LinearMap) -> Affine:
        """The form after the sum of some linear maps of one size.

        What no longer depends on a population loses its term. One term remains, as every
        population has a drive.
        """
        terms = [
            (name, linear)
            for name, inner in self.terms
            for o in outer
            for linear in products(o, inner)
        ]
        read = [term for term in terms if term[1].weight.any()]
        shape = outer[0].out_shape
        bias = compact(sum((self._bias_through(o) for o in outer), np.zeros(())), shape)
        return Affine(shape, _gathered(read or terms[:1]), bias)

    def _bias_through(self, outer: LinearMap) -> Array:
        if not self.bias.any():
            return np.zeros(())
        full = np.broadcast_to(self.bias, self.shape).reshape(1, *outer.in_shape)
        return compact(outer.apply(full)[0], outer.out_shape)

    def plus(self, other: Affine) -> Affine:
        """The sum of two forms of equal shape."""
        terms = _gathered([*self.terms, *other.terms])
        return Affine(self.shape, terms, self.bias).shifted(other.bias)

    def shifted(self, bias: Array) -> Affine:
        """The form with `bias` (broadcasts to shape) added."""
        full = np.broadcast_to(self.bias + bias, self.shape)
        return replace(self, bias=compact(full, self.shape))

    def viewed(self, shape: Shape) -> Affine:
        """The same values under another shape of equal size."""
        full = np.broadcast_to(self.bias, self.shape).reshape(shape)
        terms = tuple((name, _writing(linear, shape)) for name, linear in self.terms)
        return Affine(shape, terms, compact(full, shape))


def _gathered(terms: list[tuple[str, LinearMap]]) -> tuple[tuple[str, LinearMap], ...]:
    """The terms with those of one population added up, unless a compact form would be lost."""
    result: list[tuple[str, LinearMap]] = []
    for name, linear in terms:
        for place, (other, held) in enumerate(result):
            if name == other and (total := _compact_sum(held, linear)) is not None:
                result[place] = name, total
                break
        else:
            result.append((name, linear))
    return tuple(result)


def _compact_sum(left: LinearMap, right: LinearMap) -> LinearMap | None:
    """Their sum, or None where that would make a matrix of a convolution."""
    kinds = [type(linear) for linear in (left, right)]
    if Dense in kinds or not {Conv, ConvTransposed} & set(kinds):
        return add(left, right)
    a, b = _as_conv(left), _as_conv(right)
    return None if a is None or b is None else conv_sum(a, b)


def compact(values: Array, shape: Shape) -> Array:
    """The smallest of scalar, per-channel and full arrays that broadcasts to `values`."""
    channels = per_channel(values, shape)
    return values if channels is None else along_channels(channels, shape)
