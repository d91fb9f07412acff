"""Max pools of signed spikes: max(a, b) = a + relu(b - a), neuron by neuron, exact once settled.

Signed spikes of several neurons cannot be compared one by one, as sorted ones can (`OrGate`), nor
do their counts arrive at once (`GradedMax`). But a neuron whose threshold is one spike, driven by
the difference of two counts, settles to what the second count has above the first. What a pool's
inputs become in pairs, half as many at a time, stays a sum of populations until the last one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from lapilli.compiler.linear import LinearMap, Shape, Sparse, frozen
from lapilli.compiler.passes.pool_stages import ranks, split
from lapilli.compiler.spiking import SpikingConnection, SpikingGraph, SpikingPopulation

_NOTHING = frozen(0.0)


def lower_signed_pools(graph: SpikingGraph) -> SpikingGraph:
    """Every max pool as signed neurons that compare two inputs; the last one keeps its name."""
    if not any(p.model == "max" for p in graph.populations):
        return graph
    pools = {p.name for p in graph.populations if p.model == "max"}
    populations: list[SpikingPopulation] = []
    connections = [c for c in graph.connections if c.target not in pools]
    for p in graph.populations:
        if p.name not in pools:
            populations.append(p)
            continue
        (c,) = graph.into(p.name)
        made, synapses = _compared(p, c.source, c.map)
        populations += made
        connections += synapses
    return replace(graph, populations=tuple(populations), connections=tuple(connections))


def _compared(
    p: SpikingPopulation, source: str, linear: LinearMap
) -> tuple[list[SpikingPopulation], list[SpikingConnection]]:
    neuron = replace(
        p, model="signed_if", threshold=p.amplitude, initial=0.0, bias=_NOTHING, offset=_NOTHING
    )
    populations, connections = [], []
    # The values that the next stage compares: a sum of these populations' counts.
    terms = [(source, linear.in_shape, sp.identity(linear.in_size, format="csr"))]
    for index, stage in enumerate(split(linear, 2)):
        first, second = _pairs(stage)
        name = f"{p.name}.stage{index}"
        populations.append(replace(neuron, name=name, shape=stage.out_shape))
        connections += _synapses(terms, second - first, name, stage.out_shape)
        terms = [(name_, shape, first @ matrix) for name_, shape, matrix in terms]
        terms.append((name, stage.out_shape, sp.identity(stage.out_size, format="csr")))
    populations.append(replace(neuron, offset=p.offset))
    last = sp.identity(linear.out_size, format="csr")
    connections += _synapses(terms, last, p.name, linear.out_shape)
    return populations, connections


def _pairs(linear: LinearMap) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Of each output's at most two inputs the first, and the last, as matrices of ones."""
    matrix = linear.to_sparse().tocsr()
    rank = ranks(matrix)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    last = rank == np.diff(matrix.indptr)[rows] - 1

    def chosen(which: npt.NDArray[np.bool_]) -> sp.csr_matrix:
        ones = np.ones(int(which.sum()))
        return sp.csr_matrix((ones, (rows[which], matrix.indices[which])), matrix.shape)

    return chosen(rank == 0), chosen(last)


def _synapses(
    terms: list[tuple[str, Shape, sp.csr_matrix]], matrix: sp.csr_matrix, target: str, shape: Shape
) -> list[SpikingConnection]:
    made = []
    for source, in_shape, values in terms:
        product = sp.csr_matrix(matrix @ values)
        product.eliminate_zeros()
        if product.nnz:
            linear = Sparse.from_matrix(product, in_shape, shape)
            made.append(SpikingConnection(source, target, linear))
    return made
