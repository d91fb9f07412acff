"""Where a linear map has synapses, whatever their weights."""

from __future__ import annotations

import numpy as np

from lapilli.compiler.linear import Array, Dense, LinearMap


def structure(linear_map: LinearMap) -> Array:
    """1 where there is a synapse, whatever its weight; (out size, in size)."""
    if isinstance(linear_map, Dense):
        return np.ones((linear_map.out_size, linear_map.in_size), np.int64)
    ones = linear_map.with_weight(np.ones_like(linear_map.weight))
    return np.asarray(ones.to_sparse().toarray() != 0, np.int64)
