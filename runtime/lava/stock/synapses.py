"""Which stock synapse computes a linear map exactly, and when none does.

`lava.proc.sparse.Sparse` with signs MIXED keeps even weights in -256..254 as they are (odd ones it
floors to even) and shifts the summed current, so an 8-bit weight w is stored as 2 w, and 2**e
becomes an exponent of e - 1: no bit is lost. The signs are always given, because Sparse would find
them from the weights and then treat matrices of one sign, all zero, or with -2**k differently.
Payloads need num_message_bits > 0, else a spike of 5 counts as 1.
`DelaySparse` does the same d steps later, d <= 62. Stock `Conv` is not used: it ignores exponents,
wraps at 24 bits instead of saturating, and is slower than Sparse in Lava's simulator.
"""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Connection, Population, connection_bounds
from lapilli.runtime.lava.stock.plan import Wire

LOWEST, HIGHEST = -128, 127
"""Weights that the stock synapse keeps; doubled, they are its even -256..254."""
MAX_DELAY = 62
"""Of a stock synapse, beyond the one step that each has."""
ACCUMULATOR = 2**31 - 1
"""Sparse adds and shifts in 32 bits, and wraps."""


def lowered(c: Connection, source: Population, target: Population, delay: int) -> Wire:
    """The exact stock synapse of a connection; delay: steps beyond the one of every synapse.

    Raises NetlistError for weights beyond 8 bits, long delays, and sums beyond 32 bits.
    """
    where = f"{c.source} -> {c.target}"
    weights = c.map.weight
    low, high = int(weights.min(initial=0)), int(weights.max(initial=0))
    if low < LOWEST or high > HIGHEST:
        raise NetlistError(
            where,
            "stock synapses store 8-bit weights",
            found=f"{low}..{high}",
            allowed=f"{LOWEST}..{HIGHEST}",
            remedy="Compile for the profile lava-stock.",
        )
    if delay > MAX_DELAY:
        raise NetlistError(
            where,
            "stock synapses delay a spike by few steps",
            found=f"{delay} steps",
            allowed=f"0..{MAX_DELAY}",
            remedy="Shorten the longer of the branches that join here.",
        )
    bounds = connection_bounds(c, source.neuron.payload(), target.shape)
    most = max(int(np.abs(bound).max(initial=0)) for bound in bounds)
    if 2 * most > ACCUMULATOR:
        raise NetlistError(
            where,
            "stock synapses add up in 32 bits",
            found=f"2 * {most}",
            allowed=ACCUMULATOR,
            remedy="Use fewer levels.",
        )
    return Wire(c.source, c.target, doubled(c.map.to_sparse()), c.exponent - 1, delay)


def doubled(matrix: sp.csr_matrix) -> sp.csr_matrix:
    """The even weights that a stock synapse keeps; the exponent makes good for the factor 2."""
    result = sp.csr_matrix(matrix, dtype=np.int32) * 2
    result.eliminate_zeros()
    return result


def shifts(source: str, target: str, exponents: Array, sign: int = 1) -> list[Wire]:
    """Synapses from neuron i to neuron i with s -> floor(sign * s / 2**exponents[i]).

    A stock synapse has one exponent, so there is one for each that occurs; the floor is exact
    because the shift comes after the sum, which has one term.
    """
    wires = []
    for exponent in np.unique(exponents).tolist():
        ones = np.where(exponents == exponent, sign, 0)
        wires.append(Wire(source, target, doubled(sp.diags(ones, dtype=np.int32)), -exponent - 1))
    return wires
