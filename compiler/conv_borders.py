"""Two convolutions that are one but for the border: the one, and a small matrix that corrects it.

A convolution that reads zeros beside the output of another is not one with it: there, the merged
one would read what the inner one makes beyond its output. What it reads too much comes from four
strips around that output, so it is a matrix with entries along the border only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.conv_algebra import merged_anyway
from lapilli.compiler.linear import Conv, ConvTransposed, LinearMap, Sparse
from lapilli.compiler.linear.conv import landings

GAIN = 2
"""How many times fewer weights than synapses must remain; else all of it is one matrix."""


def bordered_product(
    outer: LinearMap, inner: LinearMap, limit: int
) -> tuple[LinearMap, LinearMap] | None:
    """Two maps whose sum is x -> outer(inner(x)), a convolution and a correction along its border.

    None where the two are no convolutions of that kind, where the border is most of the image, and
    where its matrix may have more than `limit` entries.
    """
    if not isinstance(outer, Conv) or not isinstance(inner, (Conv, ConvTransposed)):
        return None
    if inner.out_shape != outer.in_shape or not _worth_it(outer):
        return None
    core = merged_anyway(outer, inner)
    if core is None:
        return None
    matrix = sp.csr_matrix((core.out_size, core.in_size))
    for strip in _strips(outer):
        found = _through(strip, outer, inner, limit)
        if found is None:
            return None
        matrix = matrix - found
    border = Sparse.from_matrix(matrix, core.in_shape, core.out_shape)
    small = GAIN * (border.weight.size + core.weight.size) <= core.synapses
    return (core, border) if small else None


@final
@dataclass(frozen=True)
class _Strip:
    """Rows and columns between the two maps, in places of the inner one's output."""

    rows: range
    columns: range


def _worth_it(outer: Conv) -> bool:
    """Is what lies inside of the border at least as large as the border?"""
    inside = [
        size > 2 * (taps - 1) * pace
        for size, taps, pace in zip(outer.out_shape[1:], outer.kernel, outer.dilation, strict=True)
    ]
    return all(inside)


def _strips(outer: Conv) -> Iterator[_Strip]:
    """What the outer map reads beside its input: above, below, left, right."""
    (top, bottom), (left, right) = outer.margins()
    height, width = outer.in_shape[1:]
    wide = range(-max(left, 0), width + max(right, 0))
    for rows in (range(-top, 0), range(height, height + bottom)):
        if rows:
            yield _Strip(rows, wide)
    for columns in (range(-left, 0), range(width, width + right)):
        if columns:
            yield _Strip(range(height), columns)


def _through(
    strip: _Strip, outer: Conv, inner: Conv | ConvTransposed, limit: int
) -> sp.csr_matrix | None:
    """What goes through one strip, from all inputs to all outputs."""
    sides = (strip.rows, strip.columns)
    start, size = [s.start for s in sides], [len(s) for s in sides]
    forth = 1 if isinstance(inner, ConvTransposed) else -1
    steps = (1, 1) if isinstance(inner, ConvTransposed) else inner.stride
    first = replace(
        inner,
        out_shape=(inner.out_shape[0], *size),
        padding=(
            inner.padding[0] + forth * start[0] * steps[0],
            inner.padding[1] + forth * start[1] * steps[1],
        ),
    )
    reached = [_reached(outer, axis, side) for axis, side in enumerate(sides)]
    second = replace(
        outer,
        in_shape=(outer.in_shape[0], *size),
        out_shape=(outer.out_shape[0], *(len(r) for r in reached)),
        padding=(
            outer.padding[0] + start[0] - reached[0].start * outer.stride[0],
            outer.padding[1] + start[1] - reached[1].start * outer.stride[1],
        ),
    )
    if not second.out_size:
        return sp.csr_matrix((outer.out_size, inner.in_size))
    made = first.to_sparse()
    if int(second.fan_out().reshape(-1) @ np.diff(made.indptr)) > limit:  # before it is computed
        return None
    product = (second.to_sparse() @ made).tocoo()
    places = np.arange(outer.out_size).reshape(outer.out_shape)
    rows = places[:, reached[0].start : reached[0].stop, reached[1].start : reached[1].stop]
    return sp.csr_matrix(
        (product.data, (rows.reshape(-1)[product.row], product.col)),
        shape=(outer.out_size, inner.in_size),
    )


def _reached(outer: Conv, axis: int, side: range) -> range:
    """The outputs that read any place of `side`."""
    count, found = outer.out_shape[axis + 1], []
    for tap in range(outer.kernel[axis]):
        begin = tap * outer.dilation[axis] - outer.padding[axis] - side.start
        hit = landings(begin, outer.stride[axis], count, len(side))[0]
        if hit.stop > hit.start:
            found.append(hit)
    if not found:
        return range(0)
    return range(min(hit.start for hit in found), max(hit.stop for hit in found))
