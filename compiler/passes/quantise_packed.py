"""Max pools and products in integers: counts side by side in one membrane (`neurons.packed`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from lapilli.compiler.errors import StateOverflowError
from lapilli.compiler.linear import (
    Array,
    Conv,
    LinearMap,
    Sparse,
    along_channels,
    frozen,
    per_channel,
)
from lapilli.compiler.netlist import Connection, Netlist, Population, connection_bounds
from lapilli.compiler.neurons import (
    STATE_BITS,
    GradedMax,
    Interval,
    NeuronModel,
    OrGate,
    Product,
    RateGate,
    RateMax,
)
from lapilli.compiler.neurons.product import MAX_SHIFT
from lapilli.compiler.numerics import (
    half_up,
    round_down,
    shift_left,
    signed_range,
    smallest_integer,
)
from lapilli.compiler.passes.pool_stages import field_bits, ranks, weight_shift
from lapilli.compiler.spiking import SpikingGraph, SpikingPopulation
from lapilli.hardware_profiles import Profile

_ONE = frozen(1.0)
_Quantised = tuple[Population, tuple[Connection, ...]]


def quantised_pool(
    graph: SpikingGraph, p: SpikingPopulation, netlist: Netlist, profile: Profile
) -> _Quantised:
    """An OR of sorted spikes; or counts, or rates, in fields of as many bits as they need."""
    (c,) = graph.into(p.name)
    if graph.sending == "unary" and not graph.hold:
        ones = c.map.with_weight(c.map.weight.astype(np.int8))
        gate = Connection(c.source, c.target, ones, 0, 0, _ONE)
        return _population(graph, p, netlist, OrGate(), [gate])
    bits = field_bits(graph, p)
    connections = [
        Connection(c.source, c.target, linear, exponent, 0, _ONE)
        for linear, exponent in _fields(c.map, bits, weight_shift(profile))
    ]
    inputs = int(c.map.row_sums((c.map.weight != 0).astype(np.int64)).max())
    if graph.hold:
        model = RateMax if graph.pools == "exact" else RateGate
        return _population(graph, p, netlist, model(inputs), connections)
    lowest = graph.lowest(p)
    bias = sum(
        shift_left(_constant(one.map, -lowest).reshape(p.shape), one.exponent)
        for one in connections
    )
    sending: Literal["graded", "changes"] = "changes" if graph.sending == "changes" else "graded"
    neuron = GradedMax(
        frozen(np.asarray(bias) if lowest else 0, np.int64),
        inputs,
        bits,
        lowest,
        p.high - p.low + lowest,
        sending,
    )
    return _population(graph, p, netlist, neuron, connections)


def _constant(linear: LinearMap, value: int) -> Array:
    """What the map makes of the same integer everywhere; (*out_shape)."""
    wide = linear.with_weight(linear.weight.astype(np.int64))
    return np.asarray(wide.apply(np.full((1, *linear.in_shape), value, np.int64))[0])


def _fields(linear: LinearMap, bits: int, widest: int) -> Iterator[tuple[LinearMap, int]]:
    """Maps whose weights are powers of two, and their exponents: input k at 2**(k * bits)."""
    together = 1 + widest // bits
    for first in range(0, STATE_BITS, together):
        part = _powers(linear, range(first, first + together), bits)
        if not part.weight.any():
            return
        yield part, first * bits


def _powers(linear: LinearMap, chosen: range, bits: int) -> LinearMap:
    """Of each output's inputs those with the ranks `chosen`, at 2**(bits * their place there)."""

    def weights(rank: Array) -> Array:
        inside = (rank >= chosen.start) & (rank < chosen.stop)
        return np.where(inside, 2 ** (bits * np.where(inside, rank - chosen.start, 0)), 0)

    if isinstance(linear, Conv):
        present = linear.weight.reshape(len(linear.weight), -1) != 0
        rank = np.cumsum(present, axis=1) - 1
        values = np.where(present, weights(rank), 0).reshape(linear.weight.shape)
        return linear.with_weight(smallest_integer(values))
    matrix = linear.to_sparse().copy()  # its arrays may be the map's own
    matrix.data = weights(ranks(matrix))
    matrix.eliminate_zeros()
    sparse = Sparse.from_matrix(matrix, linear.in_shape, linear.out_shape)
    return sparse.with_weight(smallest_integer(sparse.weight))


def quantised_product(
    graph: SpikingGraph, p: SpikingPopulation, netlist: Netlist, profile: Profile
) -> _Quantised:
    """The first factor in the lowest field, the second above it; see `Product`.

    Raises StateOverflowError where the product of two counts does not fit a state.
    """
    first, second = graph.into(p.name)
    factors = [next(s for s in graph.populations if s.name == c.source) for c in (first, second)]
    low, high = factors
    bits = (low.high - low.low).bit_length()
    weight = min(bits, weight_shift(profile))
    connections = [
        Connection(
            c.source,
            c.target,
            c.map.with_weight(smallest_integer(c.map.weight * 2**factor)),
            exponent,
            0,
            _ONE,
        )
        for c, factor, exponent in ((first, 0, 0), (second, weight, bits - weight))
    ]
    # Fields hold what is sent, raised to be no less than zero (low) or to be the count (high).
    bias = -graph.lowest(low) + (high.low - graph.lowest(high)) * 2**bits
    largest = max(2**bits - 1 + low.low, -low.low) * max(abs(high.low), abs(high.high), 1)
    room = signed_range(STATE_BITS)[1] // 2
    shift = max((s for s in range(MAX_SHIFT + 1) if largest * 2**s <= room), default=-1)
    if shift < 0:
        raise StateOverflowError(
            f"{p.name} (Product)",
            "a product of two counts fits a state",
            found=f"{largest}",
            allowed=f"{room}",
            remedy="Use fewer levels.",
        )
    value = np.ones(())
    for factor, c in zip(factors, (first, second), strict=True):
        wide = np.broadcast_to(along_channels(factor.amplitude, factor.shape), factor.shape)
        value = value * c.map.apply(wide.reshape(1, *c.map.in_shape)).reshape(p.shape)
    ratio = along_channels(p.threshold, p.shape) * 2.0**shift / value
    channels = per_channel(np.broadcast_to(ratio, p.shape), p.shape)
    ratio = ratio if channels is None else along_channels(channels, p.shape)
    threshold = frozen(np.clip(half_up(ratio), 1, signed_range(STATE_BITS)[1] // 2))
    lowest = graph.lowest(p)
    neuron = Product(
        threshold=threshold,
        bias=frozen(bias, np.int64),
        # Counts that are sent from 0 on are raised by -low.
        initial_product=frozen(round_down(threshold * p.initial) + threshold * (lowest - p.low)),
        bits=bits,
        lowest_factor=low.low,
        shift=shift,
        lowest=lowest,
        levels=p.high - p.low + lowest,
        sending=graph.coding,
    )
    return _population(graph, p, netlist, neuron, connections)


def _population(
    graph: SpikingGraph,
    p: SpikingPopulation,
    netlist: Netlist,
    neuron: NeuronModel,
    connections: list[Connection],
) -> _Quantised:
    step = total = Interval(np.zeros((), np.int64), np.zeros((), np.int64))
    for c in connections:
        source = netlist[c.source].neuron
        bounds = (
            connection_bounds(c, sums, p.shape)
            for sums in (source.payload(), source.window_total(graph.steps))
        )
        step, total = (
            Interval(have.low + more.low, have.high + more.high)
            for have, more in zip((step, total), bounds, strict=True)
        )
    reach = neuron.reach(step, total, graph.steps)
    population = Population(
        p.name,
        p.shape,
        neuron,
        _ONE,
        frozen(along_channels(p.count_scale, p.shape)),
        int(reach.low.min()),
        int(reach.high.max()),
        frozen(along_channels(p.offset + (p.low - graph.lowest(p)) * p.count_scale, p.shape)),
    )
    return population, tuple(connections)
