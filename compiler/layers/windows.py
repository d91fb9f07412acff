"""Windows along one axis of an image, and which matrix moves one along. No layer by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.linear import Array


@final
@dataclass(frozen=True, eq=False)
class Window:
    """The same weights for every output, moved by a constant stride."""

    weights: Array
    stride: int
    padding: int

    def matrix(self, out: int, size: int) -> Array:
        """The (out, in) matrix, cut off at the borders."""
        return windows(self.weights, np.arange(out) * self.stride - self.padding, size)


def window(matrix: Array) -> Window | None:
    """The window that makes this (out, in) matrix, or None if there is none.

    A row at the border may lack weights that lie outside the input: those read zeros anyway.
    """
    starts = np.argmax(matrix != 0, axis=1)
    ends = matrix.shape[1] - np.argmax(matrix[:, ::-1] != 0, axis=1)
    widest = int(np.argmax(np.count_nonzero(matrix, axis=1)))
    if not matrix[widest].any():
        return None
    # Where a window is cut off at one side, its other side still moves by the stride.
    strides = {1, *np.diff(starts).tolist(), *np.diff(ends).tolist()}
    for stride in sorted(stride for stride in strides if stride > 0):
        found = _through(matrix, widest, stride)
        if np.array_equal(found.matrix(*matrix.shape), matrix):
            return found
    return None


def mostly_window(matrix: Array) -> Window | None:
    """The window of the middle of this (out, in) matrix, whatever its borders are."""
    middle = len(matrix) // 2
    starts = np.argmax(matrix[middle - 1 : middle + 1] != 0, axis=1)
    if middle < 1 or not matrix[middle].any() or starts[1] <= starts[0]:
        return None
    return _through(matrix, middle, int(starts[1] - starts[0]))


def _through(matrix: Array, row: int, stride: int) -> Window:
    """The window of one row, moved by a stride."""
    taps = np.flatnonzero(matrix[row])
    weights = matrix[row, taps[0] : taps[-1] + 1]
    return Window(weights, stride, row * stride - int(taps[0]))


def windows(weights: Array, first: Array, size: int) -> Array:
    """The (out, in) matrix of windows that begin at `first` (out,), cut off at the borders."""
    matrix = np.zeros((len(first), size))
    for row, start in zip(matrix, first, strict=True):
        taps = start + np.arange(len(weights))
        inside = (taps >= 0) & (taps < size)
        row[taps[inside]] = weights[inside]
    return matrix


def adaptive_axis(size: int, out: int) -> Array:
    """One axis of adaptive pooling: output o averages floor(o n / m) .. ceil((o + 1) n / m)."""
    matrix = np.zeros((out, size))
    for o in range(out):
        low, high = (o * size) // out, -((-(o + 1) * size) // out)
        matrix[o, low:high] = 1.0 / (high - low)
    return matrix
