"""How much one connection can deliver, proven from its weights and from what is sent."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from lapilli.compiler.linear import Array, Diagonal, LinearMap, Shape
from lapilli.compiler.neurons import Interval


class _Connection(Protocol):
    @property
    def map(self) -> LinearMap: ...
    @property
    def exponent(self) -> int: ...


def connection_bounds(c: _Connection, source: tuple[int, int] | Interval, shape: Shape) -> Interval:
    """Bounds of one connection's drive for source sums within `source`; broadcast to `shape`.

    source: of all its neurons, or of each, (neurons,) in C order. Bounds of each are kept apart
    where a connection is a diagonal; elsewhere the widest stands for all.
    """
    # In this order: the sums are 64-bit, but the weights may be 8-bit.
    up = c.map.row_sums(np.maximum(c.map.weight, 0)).astype(np.int64)
    down = c.map.row_sums(np.minimum(c.map.weight, 0)).astype(np.int64)
    low, high = (np.asarray(bound, np.int64) for bound in source)
    if isinstance(c.map, Diagonal):
        low, high = (b.reshape(c.map.out_shape) if b.ndim else b for b in (low, high))
    else:
        low, high = low.min(), high.max()
    bounds = (up * low + down * high, up * high + down * low)
    return Interval(*(_fit(b << c.exponent, c.map.out_shape, shape) for b in bounds))


def added(a: Interval, b: Interval) -> Interval:
    """Bounds of a sum of two terms."""
    return Interval(a.low + b.low, a.high + b.high)


def _fit(values: Array, map_shape: Shape, shape: Shape) -> Array:
    if map_shape == shape:
        return values
    return np.broadcast_to(values, map_shape).reshape(shape)
