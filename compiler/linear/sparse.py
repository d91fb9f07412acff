"""A matrix of which most is zero."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from lapilli.compiler.linear.linear_map import Array, LinearMap, Shape, along_channels, frozen


@final
@dataclass(frozen=True, eq=False)
class Sparse(LinearMap):
    """A sparse matrix in CSR form: weight (nnz,), columns (nnz,), starts (out size + 1,)."""

    columns: Array
    starts: Array

    @classmethod
    def from_matrix(cls, matrix: sp.csr_matrix, in_shape: Shape, out_shape: Shape) -> Sparse:
        """Canonical CSR (sorted, no duplicates, no stored zeros) of a scipy matrix."""
        matrix = sp.csr_matrix(matrix, copy=True)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        matrix.sort_indices()
        return cls(
            frozen(matrix.data),
            in_shape,
            out_shape,
            frozen(matrix.indices, np.int32),
            frozen(matrix.indptr, np.int64),
        )

    def to_sparse(self) -> sp.csr_matrix:
        return sp.csr_matrix(
            (self.weight, self.columns, self.starts), shape=(self.out_size, self.in_size)
        )

    def apply(self, x: Array) -> Array:
        flat = x.reshape(len(x), -1)
        return np.ascontiguousarray((self.to_sparse() @ flat.T).T).reshape(len(x), *self.out_shape)

    def _rows(self) -> Array:
        return np.repeat(np.arange(self.out_size), np.diff(self.starts))

    def scaled(self, rows: Array, columns: Array) -> LinearMap:
        left = np.broadcast_to(along_channels(rows, self.out_shape), self.out_shape).reshape(-1)
        right = np.broadcast_to(along_channels(columns, self.in_shape), self.in_shape).reshape(-1)
        return replace(self, weight=frozen(left[self._rows()] * self.weight * right[self.columns]))

    def fan_out(self) -> npt.NDArray[np.int64]:
        used = self.columns[self.weight != 0]
        counts = np.bincount(used, minlength=self.in_size).astype(np.int64)
        return counts.reshape(self.in_shape)

    def row_sums(self, weight: Array) -> Array:
        matrix = sp.csr_matrix((weight, self.columns, self.starts), (self.out_size, self.in_size))
        return np.asarray(matrix.sum(axis=1)).reshape(self.out_shape)

    def row_peaks(self) -> Array:
        peaks = np.zeros(self.out_size, dtype=self.weight.dtype)
        np.maximum.at(peaks, self._rows(), np.abs(self.weight))
        return peaks.reshape(self.out_shape)

    def pretty(self) -> str:
        return f"Sparse {self.out_size}x{self.in_size} with {self.weight.size:,} synapses"

    @property
    def dense_macs(self) -> int:
        return int(self.weight.size)
