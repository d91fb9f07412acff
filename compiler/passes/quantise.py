"""SpikingGraph -> Netlist: integers with proven ranges, every one with its scale.

Per population one unit of v is worth `unit` (per channel where thresholds may differ per channel,
else one for all). Connection k's weights come in units of unit * 2**exponent_k, so that each
connection uses the weight bits in full although all add up in one membrane. The units are as small
as the proof allows: the largest exponent for which every reachable state fits the state bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from lapilli.compiler.errors import StateOverflowError
from lapilli.compiler.linear import (
    Array,
    Dense,
    LinearMap,
    Shape,
    Sparse,
    along_channels,
    frozen,
    per_channel,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import STATE_BITS, NeuronModel, Readout, SoftResetIF, Source, Window
from lapilli.compiler.numerics import exponent_below, half_up, signed_range, smallest_integer
from lapilli.compiler.schedule import schedule
from lapilli.compiler.spiking import SpikingConnection, SpikingGraph, SpikingPopulation
from lapilli.hardware_profiles import Profile

MAX_EXPONENT = 12  # of any connection: Loihi scales weights by up to 2**13 (6 + a 3-bit exponent)
MAX_COARSENING = 20  # doublings of one channel's unit before the network is refused
PARAMETER_BITS = STATE_BITS - 2  # thresholds and biases leave a bit for the drive


def quantise(graph: SpikingGraph, profile: Profile) -> Netlist:
    """The integer netlist of `graph` for `profile`, proved free of overflow and verified.

    Raises NetlistError where the profile cannot carry the network at all, StateOverflowError where
    no scaling makes the states fit.
    """
    weight_bits = int(profile.limits.weight_bits.value) if profile.limits.weight_bits else 8
    sharing = profile.features.threshold_sharing.value
    netlist = Netlist((), (), graph.steps)
    sources = {p.name: p for p in graph.populations}
    for p in graph.populations:
        drives = [
            _Drive(c, _facing(_weighted(c.map, sources[c.source]), p.shape))
            for c in _into(graph, p.name)
        ]
        shared = sharing == "population" or p.model == "readout"
        netlist = _add(netlist, graph, p, drives, weight_bits, shared)
    netlist = _with_delays(netlist)
    netlist.verify(profile)
    return netlist


@final
@dataclass(frozen=True, eq=False)
class _Drive:
    """A connection and its map in real units per spike of the source."""

    connection: SpikingConnection
    map: LinearMap


def _into(graph: SpikingGraph, name: str) -> list[SpikingConnection]:
    return [c for c in graph.connections if c.target == name]


def _weighted(linear: LinearMap, source: SpikingPopulation) -> LinearMap:
    """map * amplitude of the source, per channel of the source."""
    amplitude = source.amplitude
    if amplitude.ndim and linear.in_shape != source.shape:
        # The map sees another view of the source: spread the amplitudes over its units.
        full = np.broadcast_to(along_channels(amplitude, source.shape), source.shape)
        channels = per_channel(full.reshape(linear.in_shape), linear.in_shape)
        if channels is None:
            matrix = linear.to_sparse().multiply(full.reshape(1, -1)).tocsr()
            return Sparse.from_matrix(matrix, linear.in_shape, linear.out_shape)
        amplitude = channels
    return linear.scaled(np.ones(()), amplitude)


def _facing(linear: LinearMap, shape: Shape) -> LinearMap:
    """The map with its output channels where the population has its own."""
    if linear.out_shape[0] == shape[0]:
        return linear
    if isinstance(linear, (Dense, Sparse)):
        return replace(linear, out_shape=shape)
    return Sparse.from_matrix(linear.to_sparse(), linear.in_shape, shape)


def _add(
    netlist: Netlist,
    graph: SpikingGraph,
    p: SpikingPopulation,
    drives: list[_Drive],
    weight_bits: int,
    shared: bool,
) -> Netlist:
    """The netlist with population p, its units as small as the proof allows."""
    if p.model == "source":
        source = Source(p.low, p.high, graph.hold)
        zero = Population(p.name, p.shape, source, p.amplitude, p.count_scale, 0, 0)
        return replace(netlist, populations=(*netlist.populations, zero))
    top_weight = 2 ** (weight_bits - 1) - 1
    peaks = [_channel_peaks(d.map) for d in drives]
    steps = _relative_exponents(peaks)
    units = [k / (top_weight * 2.0**e) for k, e in zip(peaks, steps, strict=True)]
    base = np.maximum(np.max(np.broadcast_arrays(*units), axis=0), 1e-30)
    floor = _parameter_floor(p)
    if shared:  # one threshold for all: the channels' scales are folded into the weights
        base = p.threshold * np.max(base / p.threshold)
        floor = p.threshold * np.max(floor / p.threshold)
    coarser = np.zeros(base.shape, np.int64)
    low, high = signed_range(STATE_BITS)
    for exponent in [*range(MAX_EXPONENT - max(steps), -1, -1), *[0] * MAX_COARSENING]:
        unit = np.maximum(base * 2.0 ** (coarser - exponent), floor)
        trial = _build(netlist, graph, p, drives, unit, [exponent + e for e in steps])
        reach = _reach(trial, p.name)
        bad = (reach[0] < low) | (reach[1] > high)
        if not bad.any():
            return trial
        if exponent == 0:
            coarser = coarser + _channels_of(bad, 0 if shared else unit.ndim)
    raise StateOverflowError(
        f"{p.name} ({p.model})",
        f"every reachable state fits {STATE_BITS} bits",
        found=f"[{int(reach[0].min())}, {int(reach[1].max())}]",
        allowed=f"[{low}, {high}] after coarsening the weights {MAX_COARSENING} times",
        remedy="Use fewer steps or levels.",
    )


def _channel_peaks(linear: LinearMap) -> Array:
    peaks = np.asarray(linear.row_peaks())
    if peaks.ndim == 0:
        return peaks
    return np.broadcast_to(peaks, linear.out_shape).reshape(linear.out_shape[0], -1).max(axis=1)


def _relative_exponents(peaks: list[Array]) -> list[int]:
    """Per connection, how many powers of two its weights are larger than the smallest's."""
    typical = [
        float(np.median(k[k > 0])) if (k > 0).any() else 0.0 for k in map(np.atleast_1d, peaks)
    ]
    smallest = min((t for t in typical if t > 0), default=1.0)
    return [
        min(exponent_below(t / smallest * 2**0.5), MAX_EXPONENT) if t > 0 else 0
        for t in typical
    ]


def _parameter_floor(p: SpikingPopulation) -> Array:
    """The smallest unit at which threshold, starting membrane and bias are integers that fit."""
    bias = np.broadcast_to(np.abs(p.bias), p.shape).reshape(p.shape[0], -1).max(axis=1)
    threshold = 0.0 if p.model == "readout" else 2.0 * p.threshold
    return np.asarray((bias + threshold) / 2.0**PARAMETER_BITS)


def _channels_of(bad: Array, ndim: int) -> Array:
    if ndim == 0:
        return np.ones((), np.int64)
    return bad.reshape(len(bad), -1).any(axis=1).astype(np.int64)


def _reach(netlist: Netlist, name: str) -> tuple[Array, Array]:
    """Proven bounds of v, with the population's full shape."""
    p = netlist[name]
    interval = p.neuron.reach(*netlist.drive_bounds(name), netlist.steps)
    low, high = (np.broadcast_to(bound, p.shape) for bound in interval)
    return low, high


def _build(
    netlist: Netlist,
    graph: SpikingGraph,
    p: SpikingPopulation,
    drives: list[_Drive],
    unit: Array,
    exponents: list[int],
) -> Netlist:
    """The netlist with p in units of `unit`: () or (C,)."""
    connections = []
    for drive, exponent in zip(drives, exponents, strict=True):
        scale = unit * 2.0**exponent
        scaled = drive.map.scaled(1.0 / scale, np.ones(()))
        weight = frozen(smallest_integer(half_up(scaled.weight)))
        connections.append(
            Connection(
                drive.connection.source,
                p.name,
                replace(scaled, weight=weight),
                exponent,
                0,
                frozen(scale),
            )
        )
    wide = along_channels(unit, p.shape)
    neuron = _neuron(graph, p, wide)
    repeats = graph.steps if graph.hold else 1
    state_scale = wide / repeats if p.model == "readout" else wide
    population = Population(
        p.name,
        p.shape,
        neuron,
        frozen(state_scale, np.float64),
        frozen(along_channels(p.count_scale, p.shape), np.float64),
        0,
        0,
    )
    grown = Netlist(
        (*netlist.populations, population),
        (*netlist.connections, *connections),
        netlist.steps,
    )
    low, high = grown.reach(p.name)
    return replace(
        grown,
        populations=(
            *netlist.populations,
            replace(population, state_low=low, state_high=high),
        ),
    )


def _neuron(graph: SpikingGraph, p: SpikingPopulation, unit: Array) -> NeuronModel:
    bias = _parameter(p.bias / unit)
    zero = frozen(np.zeros((), np.int64))
    if p.model == "readout":
        return Readout(bias, zero) if graph.hold else Readout(zero, bias)
    ratio = along_channels(p.threshold, p.shape) / unit
    if unit.ndim and np.ptp(ratio) <= 1e-9 * ratio.max():  # one threshold: keep rounding from
        ratio = np.asarray(ratio.flat[0])  # telling channels apart
    threshold = _parameter(ratio, least=1)
    # floor(theta / 2) makes floor((u + v0) / theta) round u / theta half up, for odd theta too.
    initial = threshold // 2 if p.initial == 0.5 else np.zeros_like(threshold)
    if p.model == "window":
        return Window(threshold, bias, frozen(initial), graph.levels, graph.sending)
    return SoftResetIF(threshold, bias, frozen(initial))


def _parameter(values: Array, least: int | None = None) -> Array:
    rounded = half_up(values)
    return frozen(rounded if least is None else np.maximum(rounded, least))


def _with_delays(netlist: Netlist) -> Netlist:
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    return replace(
        netlist,
        connections=tuple(
            replace(c, delay=plan.delay(c.source, c.target)) for c in netlist.connections
        ),
    )


