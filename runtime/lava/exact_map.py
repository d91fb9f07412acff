"""A linear map of integer spikes, exact whatever the sizes, as fast as the sizes allow.

The largest sum of magnitudes that can occur, weights times the largest spike of this step, decides
the arithmetic: float32 (BLAS) up to 2**24, float64 up to 2**53, where sums of integers are exact in
any order, and int64 beyond. The factor 2**exponent goes into the weights: it moves no bit of a
float's mantissa. numpy and scipy only: torch hangs inside a Lava process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, final

import numpy as np

from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Sparse,
)
from lapilli.compiler.numerics import FLOAT32_EXACT, FLOAT64_EXACT, Int64Array

_Apply = Callable[[Array], Array]
_Result = type[np.int64] | type[np.float64]
_Arithmetic = type[np.float32] | type[np.float64] | type[np.int64]
_INT64_EXACT = 2**63 - 1


@final
class ExactMap:
    """y = (map . x) * 2**exponent for one integer array x (*map.in_shape), without a batch axis."""

    def __init__(self, linear_map: LinearMap, exponent: int = 0):
        if linear_map.weight.dtype.kind not in "iu" or exponent < 0:
            raise ValueError(
                f"weights are integers and the exponent is not negative; found "
                f"{linear_map.weight.dtype} and {exponent}"
            )
        self.map, self.exponent = linear_map, exponent
        magnitudes = np.abs(linear_map.weight.astype(np.int64))
        self._row_bound = int(linear_map.row_sums(magnitudes).max(initial=0))
        self._applies: dict[_Arithmetic, _Apply] = {}

    def __call__(self, x: Array) -> Int64Array:
        """Map x; raises OverflowError if the result could leave 64 bits."""
        # Python integers: the magnitude of the most negative int64 does not fit one.
        largest = max(int(x.max(initial=0)), -int(x.min(initial=0)))
        bound = self._row_bound * largest
        if bound == 0:
            return np.zeros(self.map.out_shape, np.int64)
        if bound > _INT64_EXACT // 2**self.exponent:
            raise OverflowError(
                f"a sum of up to {bound} << {self.exponent} does not fit 64 bits: "
                f"spikes up to {largest}, weights that add up to {self._row_bound}"
            )
        dtype = _arithmetic(bound)
        apply = self._applies.get(dtype)
        if apply is None:
            apply = self._applies[dtype] = _ready(self.map, self.exponent, dtype, np.int64)
        return apply(x)


@final
class FloatMap:
    """y = (map . x) * 2**exponent in float64, for one array x (*map.in_shape); any real weights."""

    def __init__(self, linear_map: LinearMap, exponent: int = 0):
        self.map, self.exponent = linear_map, exponent
        self._apply = _ready(linear_map, exponent, np.float64, np.float64)

    def __call__(self, x: Array) -> Array:
        """Map x."""
        return self._apply(x)


def _ready(m: LinearMap, exponent: int, dtype: _Arithmetic, result: _Result) -> _Apply:
    """The map with its factor, computing in `dtype` and returning `result`."""
    weight = np.asarray(m.weight.astype(dtype) * 2**exponent, dtype)
    return _FORMS[type(m)](m.with_weight(weight), result)


def _arithmetic(bound: int) -> _Arithmetic:
    if bound <= FLOAT32_EXACT:
        return np.float32
    return np.float64 if bound <= FLOAT64_EXACT else np.int64


def _batched(m: LinearMap, result: _Result) -> _Apply:
    dtype = m.weight.dtype
    return lambda x: m.apply(x.astype(dtype)[np.newaxis])[0].astype(result, copy=False)


def _sparse(m: LinearMap, result: _Result) -> _Apply:
    matrix, shape = m.to_sparse(), m.out_shape  # once: building it costs more than using it
    return lambda x: (matrix @ x.reshape(-1).astype(matrix.dtype)).astype(result).reshape(shape)


_BLOCK_BYTES = 2**17
"""Patches of a convolution that are made at a time: they stay in the processor's cache."""


@final
class _Convolution:
    """A convolution as matrix products, some output rows at a time, in buffers that it keeps.

    Many processes share a core and find its cache full of each other's data in every step, so
    little memory counts for more than few calls.
    """

    def __init__(self, m: Conv, result: _Result):
        self._out_shape, self._result, dtype = m.out_shape, result, m.weight.dtype
        margins = list(zip(m.in_shape[1:], m.margins(), strict=True))
        # What the taps read: the input between its margins, or cut where they are negative.
        reach = [max(size + before + after, 0) for size, (before, after) in margins]
        self._plane = np.zeros((m.in_shape[0], *reach), dtype)
        inside, self._read = [slice(None)], [slice(None)]
        for size, (before, after) in margins:
            first = max(0, -before)
            last = max(first, min(size, size + after))
            self._read.append(slice(first, last))
            inside.append(slice(first + before, last + before))
        self._inside = self._plane[tuple(inside)]
        self._kernels = m.weight.reshape(m.groups, m.out_shape[0] // m.groups, -1)
        self._blocks = list(self._cut(m, dtype))

    def _cut(self, m: Conv, dtype: np.dtype[Any]) -> Iterator[tuple[slice, Array, Array, Array]]:
        """Rows of the output, the taps that they read, room for these, the same as a matrix."""
        channels, (kernel_h, kernel_w), (_, height, width) = m.in_shape[0], m.kernel, m.out_shape
        c, y, x = self._plane.strides
        taps = np.lib.stride_tricks.as_strided(
            self._plane,
            (channels, kernel_h, kernel_w, height, width),
            (c, y * m.dilation[0], x * m.dilation[1], y * m.stride[0], x * m.stride[1]),
            writeable=False,
        )
        depth = channels * kernel_h * kernel_w
        most = min(height, max(1, _BLOCK_BYTES // (depth * width * dtype.itemsize)))
        room = np.empty(depth * most * width, dtype)
        for first in range(0, height, most):
            rows = slice(first, min(first + most, height))
            block = taps[:, :, :, rows]
            patches = room[: block.size].reshape(block.shape)
            yield rows, block, patches, patches.reshape(m.groups, depth // m.groups, -1)

    def __call__(self, x: Array) -> Array:
        """(*in_shape) -> (*out_shape)."""
        self._inside[...] = x[tuple(self._read)]
        result = np.empty(self._out_shape, self._result)
        channels, _, width = self._out_shape
        for rows, taps, patches, matrix in self._blocks:
            np.copyto(patches, taps)
            result[:, rows] = (self._kernels @ matrix).reshape(channels, -1, width)
        return result


_FORMS: dict[type[LinearMap], Callable[[Any, _Result], _Apply]] = {
    Conv: _Convolution,
    ConvTransposed: _batched,
    Dense: _batched,
    DensePart: _batched,
    Diagonal: _batched,
    Sparse: _sparse,
}
"""How each form is applied; total over `linear.FORMS`, which a test checks."""
