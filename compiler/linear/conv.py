"""A convolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from lapilli.compiler.linear.linear_map import Array, LinearMap, frozen


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
        sizes = self.out_shape[axis + 1], self.in_shape[axis + 1]
        return landings(start, self.stride[axis], *sizes)[1]

    def row_sums(self, weight: Array) -> Array:
        return np.asarray(weight.sum(axis=(1, 2, 3))).reshape(-1, 1, 1)

    def row_peaks(self) -> Array:
        return np.asarray(np.abs(self.weight).max(axis=(1, 2, 3))).reshape(-1, 1, 1)

    def pretty(self) -> str:
        words = geometry(self.weight, self.stride, self.padding, self.dilation, self.groups)
        return f"Conv {words}"

    @property
    def dense_macs(self) -> int:
        taps = np.full((self.in_shape[0], *self.kernel), self.weight.shape[0] // self.groups)
        return int(self._spread(taps).sum())


def _kept(margin: tuple[int, int], size: int) -> slice:
    """What is left of a padded axis where a margin is negative."""
    before, after = margin
    return slice(max(-before, 0), size - max(-after, 0))


def landings(start: int, step: int, count: int, size: int) -> tuple[slice, slice]:
    """Those k in range(count) whose place start + k * step is in range(size), and these places.

    >>> landings(-3, 2, 5, 4)
    (slice(2, 4, None), slice(1, 4, 2))
    """
    first = max(0, -(start // step))
    last = min(count - 1, (size - 1 - start) // step)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(start + first * step, start + last * step + 1, step)


def geometry(
    weight: Array,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> str:
    """The sizes of the weights, and what of the geometry is unusual, for people."""
    unusual = [
        f"{name} {value[0] if value[0] == value[1] else value}"
        for name, value, usual in (
            ("stride", stride, (1, 1)),
            ("padding", padding, (0, 0)),
            ("dilation", dilation, (1, 1)),
            ("groups", (groups, groups), (1, 1)),
        )
        if value != usual
    ]
    return " ".join(["x".join(str(n) for n in weight.shape), *unusual])
