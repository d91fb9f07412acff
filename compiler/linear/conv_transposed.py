"""A transposed convolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from lapilli.compiler.linear.conv import Conv, geometry, landings
from lapilli.compiler.linear.linear_map import Array, LinearMap, frozen

Tap = tuple[int, int]
Index = tuple[Any, slice, slice]


@final
@dataclass(frozen=True, eq=False)
class ConvTransposed(LinearMap):
    """A 2-D transposed convolution as PyTorch defines it: every input stamps its kernel.

    weight (C, O / groups, kH, kW); in_shape (C, H, W); out_shape (O, H', W'). Input (y, x) adds to
    output rows y*stride - padding + i*dilation; what falls outside is lost. The output size is
    free (PyTorch's output padding is a larger one), and `padding` (top, left) may be negative
    (zeros before). It is the transpose of the Conv from out_shape to in_shape with equal weights.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel height and width in taps."""
        return int(self.weight.shape[2]), int(self.weight.shape[3])

    def extent(self, axis: int) -> int:
        """Height (axis 0) or width of all that the inputs stamp, before anything is cut off."""
        taps = (self.kernel[axis] - 1) * self.dilation[axis]
        return (self.in_shape[axis + 1] - 1) * self.stride[axis] + taps + 1

    def apply(self, x: Array) -> Array:
        batch, (channels, height, width) = len(x), self.in_shape
        depth = channels // self.groups
        kernels = self.weight.reshape(self.groups, depth, -1).transpose(0, 2, 1)
        stamps = kernels @ x.reshape(batch, self.groups, depth, height * width)
        stamps = stamps.reshape(batch, self.out_shape[0], *self.kernel, height, width)
        result = np.zeros((batch, *self.out_shape), stamps.dtype)
        for (i, j), inputs, outputs in self._taps():
            result[outputs] += stamps[:, :, i, j][inputs]
        return result

    def _taps(self) -> Iterator[tuple[Tap, Index, Index]]:
        """Every tap with the inputs (..., rows, columns) that land inside, and where they land."""
        for i, j in np.ndindex(*self.kernel):
            rows, columns = self._landings(0, i), self._landings(1, j)
            yield (i, j), (..., rows[0], columns[0]), (..., rows[1], columns[1])

    def _landings(self, axis: int, tap: int) -> tuple[slice, slice]:
        start = tap * self.dilation[axis] - self.padding[axis]
        sizes = self.in_shape[axis + 1], self.out_shape[axis + 1]
        return landings(start, self.stride[axis], *sizes)

    def mirrored(self) -> Conv:
        """The convolution whose transpose this is."""
        return Conv(
            self.weight,
            self.out_shape,
            self.in_shape,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def _grouped(self, weight: Array) -> Array:
        """(groups, C / groups, O / groups, kH, kW)."""
        shape = weight.shape
        return weight.reshape(self.groups, shape[0] // self.groups, *shape[1:])

    def to_sparse(self) -> sp.csr_matrix:
        return sp.csr_matrix(self.mirrored().to_sparse().T)

    def scaled(self, rows: Array, columns: Array) -> LinearMap:
        left = np.broadcast_to(rows, self.out_shape[0]).reshape(self.groups, 1, -1, 1, 1)
        right = np.broadcast_to(columns, self.in_shape[0]).reshape(self.groups, -1, 1, 1, 1)
        weight = left * self._grouped(self.weight) * right
        return replace(self, weight=frozen(weight.reshape(self.weight.shape)))

    def fan_out(self) -> npt.NDArray[np.int64]:
        targets = np.count_nonzero(self.weight, axis=1)  # (C, kH, kW): of one input, by tap
        result = np.zeros(self.in_shape, dtype=np.int64)
        for (i, j), inputs, _ in self._taps():
            result[inputs] += targets[:, i, j, None, None]
        return result

    def row_sums(self, weight: Array) -> Array:
        # Exact: with a stride, each output meets few of the taps, so their total says little.
        sums = self._grouped(weight).sum(axis=1).reshape(-1, *self.kernel)
        result = np.zeros(self.out_shape, sums.dtype)
        for (i, j), _, outputs in self._taps():
            result[outputs] += sums[:, i, j, None, None]
        return result

    def row_peaks(self) -> Array:
        peaks = self._grouped(np.abs(self.weight)).max(axis=(1, 3, 4))
        return np.asarray(peaks).reshape(-1, 1, 1)

    def pretty(self) -> str:
        words = geometry(self.weight, self.stride, self.padding, self.dilation, self.groups)
        return f"ConvTransposed {words}"

    @property
    def dense_macs(self) -> int:
        return self.mirrored().dense_macs
