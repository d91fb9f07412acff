"""A full matrix over a run of the inputs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from lapilli.compiler.linear.linear_map import Array, LinearMap, along_channels, frozen


@final
@dataclass(frozen=True, eq=False)
class DensePart(LinearMap):
    """A full matrix that reads the inputs first .. first + n - 1, flattened in C order, alone.

    weight (out size, n). The other inputs have no synapse, and take no room: a part of a `Dense`.
    """

    first: int

    @property
    def run(self) -> slice:
        """The inputs that are read."""
        return slice(self.first, self.first + int(self.weight.shape[1]))

    def apply(self, x: Array) -> Array:
        read = x.reshape(len(x), -1)[:, self.run]
        return np.asarray(read @ self.weight.T).reshape(len(x), *self.out_shape)

    def to_sparse(self) -> sp.csr_matrix:
        matrix = sp.csr_matrix(self.weight)
        columns = matrix.indices + self.first
        return sp.csr_matrix(
            (matrix.data, columns, matrix.indptr), shape=(self.out_size, self.in_size)
        )

    def scaled(self, rows: Array, columns: Array) -> LinearMap:
        left = np.broadcast_to(along_channels(rows, self.out_shape), self.out_shape)
        right = np.broadcast_to(along_channels(columns, self.in_shape), self.in_shape)
        weight = left.reshape(-1, 1) * self.weight * right.reshape(1, -1)[:, self.run]
        return replace(self, weight=frozen(weight))

    def fan_out(self) -> npt.NDArray[np.int64]:
        result = np.zeros(self.in_size, np.int64)
        result[self.run] = np.count_nonzero(self.weight, axis=0)
        return result.reshape(self.in_shape)

    def row_sums(self, weight: Array) -> Array:
        return np.asarray(weight.sum(axis=1)).reshape(self.out_shape)

    def row_peaks(self) -> Array:
        return np.asarray(np.abs(self.weight).max(axis=1)).reshape(self.out_shape)

    def pretty(self) -> str:
        inputs = f"{self.run.start}..{self.run.stop - 1} of {self.in_size}"
        return f"DensePart {self.out_size}x{self.weight.shape[1]}, inputs {inputs}"

    @property
    def dense_macs(self) -> int:
        return int(self.weight.size)
