"""One weight per input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from lapilli.compiler.linear.linear_map import Array, LinearMap, Shape, along_channels, frozen


@final
@dataclass(frozen=True, eq=False)
class Diagonal(LinearMap):
    """One weight per input, shared as far as `weight` broadcasts: identity, scale, shortcut."""

    def apply(self, x: Array) -> Array:
        scaled = x.reshape(len(x), *self.in_shape) * self.weight
        return np.asarray(scaled.reshape(len(x), *self.out_shape))

    def to_sparse(self) -> sp.csr_matrix:
        # Not scipy's own diagonals: those are floats, whatever they hold.
        starts = np.arange(self.in_size + 1)
        return sp.csr_matrix((self._full().reshape(-1), starts[:-1].copy(), starts))

    def scaled(self, rows: Array, columns: Array) -> LinearMap:
        left = along_channels(rows, self.out_shape)
        if left.ndim and self.in_shape != self.out_shape:
            left = np.broadcast_to(left, self.out_shape).reshape(self.in_shape)
        return replace(
            self, weight=frozen(left * self.weight * along_channels(columns, self.in_shape))
        )

    def fan_out(self) -> npt.NDArray[np.int64]:
        return np.asarray(self._full() != 0, np.int64)

    def row_sums(self, weight: Array) -> Array:
        if weight.ndim == 0 or self.in_shape == self.out_shape:
            return weight
        return np.broadcast_to(weight, self.in_shape).reshape(self.out_shape)

    def row_peaks(self) -> Array:
        return self.row_sums(np.abs(self.weight))

    def _full(self) -> Array:
        return np.broadcast_to(self.weight, self.in_shape)

    @property
    def dense_macs(self) -> int:
        return self.in_size


def identity(shape: Shape) -> Diagonal:
    """The identity on `shape`."""
    return Diagonal(frozen(np.ones((), dtype=np.float64)), shape, shape)
