"""Linear maps between populations: the compact forms a connection can take, in numpy.

One class per form. Weights are float64 before `quantise` and integers after; the algebra is the
same, so a netlist and the float graph share these classes. Arrays are read-only once built.
Shapes are without the batch dimension; a map reads and writes its arrays in C order, so a view of
the same size (a flatten) costs nothing and is no map of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def frozen(array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
    """A read-only, contiguous array that nobody else holds writable."""
    result = np.array(array, dtype=dtype, order="C")
    result.flags.writeable = False
    return result


def along_channels(values: Array, shape: Shape) -> Array:
    """Reshape per-channel values (C,) or a scalar () so that they broadcast against `shape`.

    >>> along_channels(np.arange(3), (3, 8, 8)).shape
    (3, 1, 1)
    """
    return values if values.ndim == 0 else values.reshape((-1,) + (1,) * (len(shape) - 1))


def per_channel(values: Array, shape: Shape) -> Array | None:
    """The (C,) or () array that broadcasts to `values` over `shape`, or None if there is none.

    >>> per_channel(np.array([[1.0, 1.0], [2.0, 2.0]]), (2, 2))
    array([1., 2.])
    >>> per_channel(np.array([[1.0, 1.0], [1.0, 2.0]]), (2, 2)) is None
    True
    """
    full = np.broadcast_to(values, shape).reshape(shape[0], -1)
    if (full != full[:, :1]).any():
        return None
    channels = full[:, 0]
    return np.array(channels[0]) if (channels == channels[0]).all() else channels.copy()


@dataclass(frozen=True, eq=False)
class LinearMap(ABC):
    """A linear map from `in_shape` to `out_shape`; subclasses say how the weights are shared."""

    weight: Array
    in_shape: Shape
    out_shape: Shape

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """Map x (N, *in_shape) to (N, *out_shape), in the common dtype of x and weight."""

    @abstractmethod
    def to_sparse(self) -> sp.csr_matrix:
        """The same map as a matrix (out size, in size)."""

    @abstractmethod
    def scaled(self, rows: Array, columns: Array) -> LinearMap:
        """rows * map * columns; both () or (C,) along the channels (axis 0) of output and input."""

    @abstractmethod
    def fan_out(self) -> npt.NDArray[np.int64]:
        """Number of non-zero synapses that leave each input, borders included; (*in_shape)."""

    @abstractmethod
    def row_sums(self, weight: Array) -> Array:
        """Sum `weight` (like self.weight) over each output's inputs; broadcasts to out_shape.

        Positions cut off at a border count as present, so for weights of one sign it is a bound.
        """

    @abstractmethod
    def row_peaks(self) -> Array:
        """Largest magnitude among each output channel's weights; broadcasts to out_shape."""

    @property
    @abstractmethod
    def dense_macs(self) -> int:
        """Multiply-accumulates of one application, zero weights included, borders excluded."""

    @property
    def in_size(self) -> int:
        """Number of inputs."""
        return math.prod(self.in_shape)

    @property
    def out_size(self) -> int:
        """Number of outputs."""
        return math.prod(self.out_shape)

    @property
    def synapses(self) -> int:
        """Number of non-zero synapses, borders excluded."""
        return int(self.fan_out().sum())

    def with_weight(self, weight: Array) -> LinearMap:
        """The same connectivity with other weights."""
        return replace(self, weight=frozen(weight))

    def pretty(self) -> str:
        """The form, and what of its geometry tells two maps apart."""
        return type(self).__name__


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


@final
@dataclass(frozen=True, eq=False)
class Conv(LinearMap):
    """A 2-D convolution as PyTorch defines it (cross-correlation), zeros outside the input.

    weight (O, C / groups, kH, kW); in_shape (C, H, W); out_shape (O, H', W'). Output (y, x) reads
    input rows y*stride - padding + i*dilation. `padding` (top, left) may be negative (a crop), and
    the output size is free, so slices, one-sided padding and strided shortcuts are convolutions.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel height and width in taps."""
        return int(self.weight.shape[2]), int(self.weight.shape[3])

    def margins(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Zeros to add (negative: rows to cut) before and after, for both axes."""
        return self._margin(0), self._margin(1)

    def _margin(self, axis: int) -> tuple[int, int]:
        reach = (self.out_shape[axis + 1] - 1) * self.stride[axis] + 1
        reach += (self.kernel[axis] - 1) * self.dilation[axis]
        return self.padding[axis], reach - self.padding[axis] - self.in_shape[axis + 1]

    def _padded(self, x: Array) -> Array:
        rows, columns = self.margins()
        if max(*rows, *columns) > 0:
            # First pad, then cut: a window may lie beyond the input altogether.
            x = np.pad(x, [(0, 0), (0, 0), *((max(b, 0), max(a, 0)) for b, a in (rows, columns))])
        return x[..., _kept(rows, x.shape[2]), _kept(columns, x.shape[3])]

    def apply(self, x: Array) -> Array:
        x = self._padded(x.reshape(len(x), *self.in_shape))
        batch, channels = len(x), self.in_shape[0]
        (kh, kw), (oh, ow) = self.kernel, self.out_shape[1:]
        sn, sc, sy, sx = x.strides
        (dy, dx), (step_y, step_x) = self.dilation, self.stride
        taps = np.lib.stride_tricks.as_strided(
            x,
            (batch, channels, kh, kw, oh, ow),
            (sn, sc, sy * dy, sx * dx, sy * step_y, sx * step_x),
            writeable=False,
        )
        depth = channels // self.groups * kh * kw
        columns = taps.reshape(batch, self.groups, depth, oh * ow)
        kernels = self.weight.reshape(self.groups, -1, depth)
        return np.asarray(kernels @ columns).reshape(batch, *self.out_shape)

    def to_sparse(self) -> sp.csr_matrix:
        out_channels, out_h, out_w = self.out_shape
        channels, height, width = self.in_shape
        per_group_in, per_group_out = channels // self.groups, out_channels // self.groups
        o = np.arange(out_channels)[:, None, None, None]
        c = (o // per_group_out) * per_group_in + np.arange(per_group_in)[None, :, None, None]
        oy, ox = np.arange(out_h)[None, None, :, None], np.arange(out_w)[None, None, None, :]
        parts = []
        for i, j in np.ndindex(*self.kernel):
            y = oy * self.stride[0] - self.padding[0] + i * self.dilation[0]
            x = ox * self.stride[1] - self.padding[1] + j * self.dilation[1]
            w = self.weight[:, :, i, j][:, :, None, None]
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width) & (w != 0)
            rows, columns, values = np.broadcast_arrays(
                (o * out_h + oy) * out_w + ox, (c * height + y) * width + x, w
            )
            parts.append((rows[inside], columns[inside], values[inside]))
        row, column, value = (np.concatenate(part) for part in zip(*parts, strict=True))
        return sp.csr_matrix((value, (row, column)), shape=(self.out_size, self.in_size))

    def scaled(self, rows: Array, columns: Array) -> LinearMap:
        left = np.broadcast_to(rows, self.out_shape[0]).reshape(-1, 1, 1, 1)
        right = np.broadcast_to(columns, self.in_shape[0]).reshape(self.groups, 1, -1)
        shape = self.weight.shape
        grouped = self.weight.reshape(self.groups, shape[0] // self.groups, shape[1], -1)
        weight = (grouped * right[..., None]).reshape(shape) * left
        return replace(self, weight=frozen(weight))

    def fan_out(self) -> npt.NDArray[np.int64]:
        shape = self.weight.shape
        grouped = self.weight.reshape(self.groups, shape[0] // self.groups, *shape[1:])
        # (C, kH, kW): synapses of one input channel through one tap, were no border there.
        taps = np.count_nonzero(grouped, axis=1).reshape(-1, *self.kernel)
        return self._spread(taps)

    def _spread(self, taps: Array) -> npt.NDArray[np.int64]:
        """Sum per-tap values (C, kH, kW) over the outputs that each input really reaches."""
        result = np.zeros(self.in_shape, dtype=np.int64)
        for i, j in np.ndindex(*self.kernel):
            result[:, self._reached(0, i), self._reached(1, j)] += taps[:, i, j][:, None, None]
        return result

    def _reached(self, axis: int, tap: int) -> slice:
        """The input rows that this tap reads over all outputs."""
        start = tap * self.dilation[axis] - self.padding[axis]
        step, size = self.stride[axis], self.in_shape[axis + 1]
        first = max(0, -(start // step))  # smallest output index whose row is >= 0
        last = min(self.out_shape[axis + 1] - 1, (size - 1 - start) // step)
        if last < first:
            return slice(0, 0)
        return slice(start + first * step, start + last * step + 1, step)

    def row_sums(self, weight: Array) -> Array:
        return np.asarray(weight.sum(axis=(1, 2, 3))).reshape(-1, 1, 1)

    def row_peaks(self) -> Array:
        return np.asarray(np.abs(self.weight).max(axis=(1, 2, 3))).reshape(-1, 1, 1)

    def pretty(self) -> str:
        unusual = [
            f"{name} {value[0] if value[0] == value[1] else value}"
            for name, value, usual in (
                ("stride", self.stride, (1, 1)),
                ("padding", self.padding, (0, 0)),
                ("dilation", self.dilation, (1, 1)),
                ("groups", (self.groups, self.groups), (1, 1)),
            )
            if value != usual
        ]
        size = "x".join(str(n) for n in self.weight.shape)
        return " ".join(["Conv", size, *unusual])

    @property
    def dense_macs(self) -> int:
        taps = np.full((self.in_shape[0], *self.kernel), self.weight.shape[0] // self.groups)
        return int(self._spread(taps).sum())


def _kept(margin: tuple[int, int], size: int) -> slice:
    """What is left of a padded axis where a margin is negative."""
    before, after = margin
    return slice(max(-before, 0), size - max(-after, 0))


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


FORMS: tuple[type[LinearMap], ...] = (Diagonal, Dense, Conv, Sparse)
"""Every form; files, engines and tests are total over it."""
