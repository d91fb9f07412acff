"""Max pools in stages: as many inputs at a time as one neuron can tell apart.

Spikes of one, sorted, need no stages: a gate ORs any number of them. Counts, or unsorted spikes,
arrive as bit fields of one membrane (`neurons.packed`), which has room for few.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.linear import Array, Conv, LinearMap, Sparse, frozen
from lapilli.compiler.neurons.packed import FIELD_BITS
from lapilli.compiler.numerics import exponent_below, signed_range
from lapilli.compiler.spiking import SpikingConnection, SpikingGraph, SpikingPopulation
from lapilli.hardware_profiles import Profile

WEIGHT_BITS = 8  # where the profile knows no limit


def field_bits(graph: SpikingGraph, p: SpikingPopulation) -> int:
    """Bits that tell the counts of p apart; 1 where its spikes arrive one by one."""
    return 1 if graph.hold else (p.high - p.low).bit_length()


def weight_shift(profile: Profile) -> int:
    """Largest exponent of a power of two that is a weight."""
    bits = profile.limits.weight_bits
    return exponent_below(signed_range(int(bits.value) if bits else WEIGHT_BITS)[1])


def most_inputs(bits: int, profile: Profile) -> int:
    """How many fields of `bits` bits one neuron's synapses can fill, at least 2."""
    limit = profile.limits.weight_exponent_max
    exponents = int(limit.value) if limit else FIELD_BITS
    together = 1 + weight_shift(profile) // bits  # fields that one connection fills
    inputs = FIELD_BITS // bits
    while inputs > 2 and bits * ((inputs - 1) // together * together) > exponents:
        inputs -= 1
    return max(inputs, 2)


def lower_pools(graph: SpikingGraph, profile: Profile) -> SpikingGraph:
    """Split every max pool of more inputs than a neuron takes into populations one after another.

    The last one keeps the pool's name.
    """
    if graph.sending == "unary" and not graph.hold:
        return graph
    populations: list[SpikingPopulation] = []
    pools = {p.name for p in graph.populations if p.model == "max"}
    connections = [c for c in graph.connections if c.target not in pools]
    for p in graph.populations:
        if p.name not in pools:
            populations.append(p)
            continue
        ((source, linear),) = ((c.source, c.map) for c in graph.into(p.name))
        stages = split(linear, most_inputs(field_bits(graph, p), profile))
        for index, stage in enumerate(stages):
            last = index == len(stages) - 1
            name, shape = (p.name, p.shape) if last else (f"{p.name}.stage{index}", stage.out_shape)
            populations.append(replace(p, name=name, shape=shape))
            connections.append(SpikingConnection(source, name, stage))
            source = name
    return replace(graph, populations=tuple(populations), connections=tuple(connections))


def split(linear: LinearMap, inputs: int) -> list[LinearMap]:
    """Maps of zeros and ones, each output reading at most `inputs` values, one after another.

    The maximum through all of them is the maximum through `linear`.
    """
    if isinstance(linear, Conv) and linear.weight.all():
        if linear.weight[0].size <= inputs:
            return [linear]
        along_rows = _axis_stages(linear, 1, inputs)
        return [*along_rows, *_axis_stages(_rest(linear, along_rows), 0, inputs)]
    return _sparse_stages(linear, inputs)


def _rest(linear: Conv, done: list[Conv]) -> Conv:
    """What is left of a pool whose columns are done: windows of one column."""
    return replace(
        linear,
        weight=linear.weight[..., :1],
        in_shape=done[-1].out_shape if done else linear.in_shape,
        stride=(linear.stride[0], 1),
        padding=(linear.padding[0], 0),
    )


def _axis_stages(linear: Conv, axis: int, inputs: int) -> list[Conv]:
    """Sliding maxima along one spatial axis, each as wide as the widest of `inputs` before it.

    Windows of one stage may overlap, for a maximum counts nobody twice.
    """
    width, out = linear.kernel[axis], linear.out_shape[axis + 1]
    stride = linear.stride[axis] if out > 1 else 0
    whole = out == linear.in_shape[axis + 1]  # a stride that nothing follows is kept nowhere
    if width == 1 and linear.stride[axis] == 1 and not linear.padding[axis] and whole:
        return []
    taps: list[list[int]] = []
    reach = 1
    while reach < width or not taps:
        wider = min(reach * inputs, width)
        taps.append(sorted({*range(0, wider - reach, reach), wider - reach}))
        reach = wider
    result: list[Conv] = []
    shape, grid = linear.in_shape, 1
    for index, offsets in enumerate(taps):
        later = [offset for stage in taps[index + 1 :] for offset in stage]
        finer = math.gcd(stride, *later) or grid
        furthest = (out - 1) * stride + sum(max(stage) for stage in taps[index + 1 :])
        kernel = np.zeros(max(offsets) // grid + 1)
        kernel[[offset // grid for offset in offsets]] = 1.0
        weight = kernel.reshape((-1, 1) if axis == 0 else (1, -1))
        out_shape = list(shape)
        out_shape[axis + 1] = furthest // finer + 1
        result.append(
            Conv(
                frozen(np.broadcast_to(weight, (shape[0], 1, *weight.shape))),
                shape,
                tuple(out_shape),
                stride=_on(axis, finer // grid, 1),
                padding=_on(axis, linear.padding[axis] if index == 0 else 0, 0),
                groups=shape[0],
            )
        )
        shape, grid = tuple(out_shape), finer
    return result


def _on(axis: int, value: int, other: int) -> tuple[int, int]:
    return (value, other) if axis == 0 else (other, value)


def _sparse_stages(linear: LinearMap, inputs: int) -> list[LinearMap]:
    """Windows of any form: groups of each output's inputs, then groups of groups."""
    matrix = linear.to_sparse().tocsr()
    widest = int(np.diff(matrix.indptr).max())
    if widest <= inputs:
        return [linear]
    groups = -(-widest // inputs)
    rank = ranks(matrix)
    rows = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    part = rows * groups + rank // inputs
    # Where an output has fewer groups than others, those that lack read its first input again.
    missing = np.setdiff1d(np.arange(matrix.shape[0] * groups), part)
    first = matrix.indices[matrix.indptr[missing // groups]]
    shape = (linear.out_shape[0], math.prod(linear.out_shape[1:]) * groups)
    size = (matrix.shape[0] * groups, matrix.shape[1])
    into = sp.csr_matrix(
        (
            np.ones(len(part) + len(missing)),
            (np.concatenate([part, missing]), np.concatenate([matrix.indices, first])),
        ),
        size,
    )
    out_of = sp.csr_matrix(
        (np.ones(size[0]), (np.arange(size[0]) // groups, np.arange(size[0]))),
        (matrix.shape[0], size[0]),
    )
    return [
        Sparse.from_matrix(into, linear.in_shape, shape),
        *_sparse_stages(Sparse.from_matrix(out_of, shape, linear.out_shape), inputs),
    ]


def ranks(matrix: sp.csr_matrix) -> Array:
    """For each entry of a matrix in rows, how many stand before it in its row."""
    counts = np.diff(matrix.indptr)
    return np.asarray(np.arange(matrix.nnz) - np.repeat(matrix.indptr[:-1], counts))
