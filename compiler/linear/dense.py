"""A full matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from lapilli.compiler.linear.linear_map import Array, LinearMap, along_channels, frozen


@final
@dataclass(frozen=True, eq=False)
class Dense(LinearMap):
    """A full matrix; weight (out size, in size), inputs and outputs flattened in C order."""

    def apply(self, x: Array) -> Array:
        return np.asarray(x.reshape(len(x), -1) @ self.weight.T).reshape(len(x), *self.out_shape)

    def to_sparse(self) -> sp.csr_matrix:
        return sp.csr_matrix(self.weight)

    def scaled(self, rows: Array, columns: Array) -> LinearMap:
        left = np.broadcast_to(along_channels(rows, self.out_shape), self.out_shape)
        right = np.broadcast_to(along_channels(columns, self.in_shape), self.in_shape)
        return replace(
            self, weight=frozen(left.reshape(-1, 1) * self.weight * right.reshape(1, -1))
        )

    def fan_out(self) -> npt.NDArray[np.int64]:
        return np.asarray(np.count_nonzero(self.weight, axis=0), np.int64).reshape(self.in_shape)

    def row_sums(self, weight: Array) -> Array:
        return np.asarray(weight.sum(axis=1)).reshape(self.out_shape)

    def row_peaks(self) -> Array:
        return np.asarray(np.abs(self.weight).max(axis=1)).reshape(self.out_shape)

    def pretty(self) -> str:
        return f"Dense {self.out_size}x{self.in_size}"

    @property
    def dense_macs(self) -> int:
        return int(self.weight.size)
