"""A linear map of integer spikes, exact whatever the sizes, as fast as the sizes allow.

The largest sum of magnitudes that can occur, weights times the largest spike of this step, decides
the arithmetic: float32 (BLAS) up to 2**24, float64 up to 2**53, where sums of integers are exact in
any order, and int64 beyond. The factor 2**exponent goes into the weights: it moves no bit of a
float's mantissa. numpy and scipy only: torch hangs inside a Lava process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import numpy as np

from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    Diagonal,
    LinearMap,
    Sparse,
)
from lapilli.compiler.numerics import FLOAT32_EXACT, FLOAT64_EXACT, Int64Array

_Apply = Callable[[Array], Array]
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
            weight = self.map.weight.astype(dtype) * dtype(2**self.exponent)
            shifted = self.map.with_weight(weight)
            apply = self._applies[dtype] = _FORMS[type(self.map)](shifted)
        return apply(x.astype(dtype)).astype(np.int64, copy=False)


@final
class FloatMap:
    """y = (map . x) * 2**exponent in float64, for one array x (*map.in_shape); any real weights."""

    def __init__(self, linear_map: LinearMap, exponent: int = 0):
        self.map, self.exponent = linear_map, exponent
        self._apply = _FORMS[type(linear_map)](linear_map, np.float64)

    def __call__(self, x: Array) -> Array:
        """Map x."""
        return self._apply(x.astype(np.float64)) * 2.0**self.exponent


def _arithmetic(bound: int) -> _Arithmetic:
    if bound <= FLOAT32_EXACT:
        return np.float32
    return np.float64 if bound <= FLOAT64_EXACT else np.int64


def _batched(linear_map: LinearMap) -> _Apply:
    return lambda x: linear_map.apply(x[np.newaxis])[0]


def _sparse(linear_map: LinearMap) -> _Apply:
    matrix = linear_map.to_sparse()  # once: building it costs more than using it
    return lambda x: (matrix @ x.reshape(-1)).reshape(linear_map.out_shape)


_FORMS: dict[type[LinearMap], Callable[[LinearMap], _Apply]] = {
    Conv: _batched,
    ConvTransposed: _batched,
    Dense: _batched,
    Diagonal: _batched,
    Sparse: _sparse,
}
"""How each form is applied; total over `linear.FORMS`, which a test checks."""
