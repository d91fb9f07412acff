"""SpikingGraph -> Netlist: integers with proven ranges, every one with its scale.

Per population one unit of v is worth `unit` (per channel where thresholds may differ per channel,
else one for all). Connection k's weights come in units of unit * 2**exponent_k, so that each
connection uses the weight bits in full although all add up in one membrane. Larger exponents make
the unit finer, and with it the rounding of thresholds and biases; the largest ones are taken for
which the proof holds: every reachable state fits. Where it fails even without exponents, units are
doubled channel by channel, which costs weight bits, until too few are left: StateOverflowError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from lapilli.compiler.compose import compact
from lapilli.compiler.errors import InputError, StateOverflowError
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
from lapilli.compiler.netlist import Connection, Netlist, Population, connection_bounds
from lapilli.compiler.neurons import STATE_BITS, Interval, NeuronModel, Source
from lapilli.compiler.numerics import (
    exponent_below,
    half_up,
    shift_left,
    signed_range,
    smallest_integer,
)
from lapilli.compiler.passes.integer_neurons import integer_neuron
from lapilli.compiler.passes.pool_stages import lower_pools
from lapilli.compiler.passes.quantise_packed import quantised_pool, quantised_product
from lapilli.compiler.passes.relays import relayed
from lapilli.compiler.passes.reparameterise import single_threshold, with_room
from lapilli.compiler.passes.signed_pools import lower_signed_pools
from lapilli.compiler.passes.thresholds import divisible, occupied, state_limits
from lapilli.compiler.passes.unroll_time import unroll_time
from lapilli.compiler.passes.weight_grid import grid_steps, on_grid
from lapilli.compiler.schedule import schedule
from lapilli.compiler.spiking import SpikingConnection, SpikingGraph, SpikingPopulation
from lapilli.hardware_profiles import Profile

WEIGHT_BITS = 8  # where the profile knows no limit
MAX_EXPONENT = 12  # of any connection: Loihi scales weights by up to 2**13 (6 + a 3-bit exponent)
LEAST_BITS = 4
"""Weights are refused with fewer bits than these, unless their errors stay below TOLERABLE."""
TOLERABLE = 2.0**-4
NEGLIGIBLE = 2.0**-8
"""In thresholds: what the errors of all weights into a neuron add up to, were they independent."""
FAINT = 2.0**-6
"""In thresholds: weights whose whole drive stays below this are left out."""
PARAMETER_BITS = STATE_BITS - 2  # a threshold and a bias leave a bit for the drive
BEYOND = 2**40  # no state holds this; the proof cuts bounds here, lest they wrap in 64 bits
SMALLEST = 1e-100  # unit of channels that have nothing to resolve


def quantise(graph: SpikingGraph, profile: Profile) -> Netlist:
    """The integer netlist of `graph` for `profile`, proved free of overflow and verified.

    Raises NetlistError where the profile cannot carry the network at all, StateOverflowError where
    no scaling makes the states fit, InputError for a profile that is no neuromorphic chip.
    """
    if profile.kind != "neuromorphic":
        raise InputError(
            f"profile {profile.name}",
            "networks are compiled for neuromorphic chips",
            found=profile.kind,
            allowed="neuromorphic",
            remedy="Choose a chip, for example loihi2.",
        )
    graph.verify()
    if graph.single_threshold:
        several = replace(graph, single_threshold=False)
        netlist = single_threshold(quantise(several, with_room(profile, graph)))
        netlist.verify(profile)
        return netlist
    graph = unroll_time(graph) if graph.mixed else graph
    graph = lower_signed_pools(graph) if graph.takes_back else lower_pools(graph, profile)
    sources = {p.name: p for p in graph.populations}
    netlist = Netlist((), (), graph.steps)
    for p in graph.populations:
        if p.model == "source":
            made: tuple[Population, tuple[Connection, ...]] = (_source(graph, p), ())
        elif p.model in _PACKED:
            made = _PACKED[p.model](graph, p, netlist, profile)
        else:
            drives = []
            for c in graph.into(p.name):
                linear = _facing(_weighted(c.map, sources[c.source]), p.shape)
                drives.append(_Drive(c, linear, netlist[c.source].neuron, p.shape))
            trial = _fitted(graph, _with_constants(graph, p, sources), drives, profile)
            made = trial.population, trial.connections
        netlist = replace(
            netlist,
            populations=(*netlist.populations, made[0]),
            connections=(*netlist.connections, *made[1]),
        )
    limit = profile.limits.max_delay_steps
    if limit is not None:
        netlist = relayed(netlist, graph, int(limit.value))
    netlist = _with_delays(netlist)
    netlist.verify(profile)
    return netlist


def _count_offset(graph: SpikingGraph, p: SpikingPopulation) -> Array:
    """Activity that a count of 0 stands for."""
    if p.model == "readout":
        return frozen(0.0)
    return frozen(along_channels(p.offset + (p.low - graph.lowest(p)) * p.count_scale, p.shape))


def _source(graph: SpikingGraph, p: SpikingPopulation) -> Population:
    neuron = Source(p.low, p.high, graph.timing)
    value, rate = (frozen(along_channels(s, p.shape)) for s in (p.amplitude, p.count_scale))
    return Population(p.name, p.shape, neuron, value, rate, 0, 0)


def _with_constants(
    graph: SpikingGraph, p: SpikingPopulation, sources: Mapping[str, SpikingPopulation]
) -> SpikingPopulation:
    """p with all constants in its bias: those of what it reads, and its own.

    Where spikes say no negative numbers, the count 0 is sent as -low; what that adds to the drives
    is taken off again here, and what a membrane must be raised by is put on.
    """
    bias = p.bias
    for c in graph.into(p.name):
        constant = along_channels(_unsent(graph, sources[c.source]), sources[c.source].shape)
        if constant.any():
            whole = np.broadcast_to(constant, sources[c.source].shape)
            bias = bias + c.map.apply(whole.reshape(1, *c.map.in_shape)).reshape(p.shape)
    if p.model != "readout":
        own = p.offset
        if p.model != "ladder":  # whose rungs say where counts begin
            own = own + (p.low - graph.lowest(p)) * p.threshold
        bias = bias - along_channels(np.asarray(own), p.shape)
    return replace(p, bias=frozen(compact(np.broadcast_to(bias, p.shape), p.shape)))


def _unsent(graph: SpikingGraph, p: SpikingPopulation) -> Array:
    """Activity that a population has where it sends nothing; () or (C,)."""
    return np.asarray(p.offset + (p.low - graph.lowest(p)) * p.amplitude)


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


@final
class _Drive:
    """A connection in real units per spike of its source, rounded to any unit on demand."""

    def __init__(self, c: SpikingConnection, linear: LinearMap, source: NeuronModel, shape: Shape):
        self.connection, self.map, self.source, self.shape = c, linear, source, shape
        self._silent: Array = np.zeros((), bool)
        self._grid: Array | None = None
        self._kept: tuple[Array, LinearMap, Interval, Interval] | None = None

    def peaks(self) -> Array:
        """Largest weight of every output channel, (C,), or one for all."""
        return self._per_channel(self.map.row_peaks())

    @property
    def synapses(self) -> int:
        """Weights that are not zero, each counted once however often it is used."""
        return int(np.count_nonzero(self.map.weight))

    def grid(self, top: int) -> Array:
        """The step of every output channel's weights; see `weight_grid`."""
        if self._grid is None:
            self._grid = grid_steps(self.map, top)
        return self._grid

    def largest(self, steps: int) -> Array:
        """Bound of what a window of spikes can add up to, per channel."""
        return self._per_channel(self.map.row_sums(np.abs(self.map.weight))) * self._spikes(steps)

    def noise(self, steps: int) -> Array:
        """What independent errors of one unit in every weight add up to in a window."""
        synapses = self._per_channel(self.map.row_sums((self.map.weight != 0).astype(np.int64)))
        return np.asarray(np.sqrt(synapses) * self._spikes(steps))

    def _spikes(self, steps: int) -> int:
        return max(abs(total) for total in self.source.window_total(steps))

    def _per_channel(self, values: Array) -> Array:
        """The largest of each channel's values, which broadcast to the map's output."""
        values = np.asarray(values)
        if values.ndim == 0:
            return values
        full = np.broadcast_to(values, self.map.out_shape)
        return np.asarray(full.reshape(len(full), -1).max(axis=1))

    def silence(self, channels: Array) -> None:
        """Set the weights into some channels, bool () or (C,), to zero."""
        if channels.any():
            self._silent = channels
            self.map = self.map.scaled(np.where(channels, 0.0, 1.0), np.ones(()))

    def rounded(self, scale: Array, steps: int) -> tuple[LinearMap, Interval, Interval]:
        """Integer weights in units of `scale`; bounds of one step's and of a window's drive."""
        # Larger exponents with finer units leave the scale as it is: most trials ask for the same.
        scale = np.where(self._silent, 1.0, scale)
        if self._kept is None or not np.array_equal(scale, self._kept[0]):
            scaled = self.map.scaled(1.0 / scale, np.ones(()))
            integer = scaled.with_weight(smallest_integer(half_up(scaled.weight)))
            c = Connection(self.connection.source, self.connection.target, integer, 0, 0, scale)
            sums = self.source.payload(), self.source.window_total(steps)
            step, total = (connection_bounds(c, spikes, self.shape) for spikes in sums)
            self._kept = scale, integer, step, total
        return self._kept[1:]


@final
@dataclass(frozen=True, eq=False)
class _Trial:
    """A population and its connections in one choice of units; overflow: channels, bool (C,)."""

    population: Population
    connections: tuple[Connection, ...]
    overflow: Array


def _fitted(
    graph: SpikingGraph, p: SpikingPopulation, drives: list[_Drive], profile: Profile
) -> _Trial:
    """The population in the finest units that the weight bits and the proof allow."""
    shared = profile.features.threshold_sharing.value == "population" or p.model == "readout"
    bits = profile.limits.weight_bits
    top = signed_range(int(bits.value) if bits else WEIGHT_BITS)[1]
    states = state_limits(p.model, profile)
    threshold = np.zeros(()) if p.model == "readout" else p.threshold
    silent = _total([d.largest(graph.steps) for d in drives]) <= FAINT * threshold
    for drive in drives:
        drive.silence(silent)
    noises = [drive.noise(graph.steps) for drive in drives]

    def alike(unit: Array) -> Array:
        # One threshold for all: the channels' scales are folded into the weights.
        return np.asarray(p.threshold * np.max(unit / p.threshold)) if shared else unit

    def tried(unit: Array, exponents: list[int]) -> _Trial:
        step = np.zeros(())
        for drive, e in sorted(zip(drives, exponents, strict=True), key=lambda d: -d[0].synapses):
            step = np.where(step > 0, step, drive.grid(top) / 2.0**e)  # the larger map's
        whole = on_grid(unit, step, shared)
        exact = divisible(whole, p.threshold, p.model, profile, always=graph.unrolled)
        return _trial(graph, p, drives, exact, exponents, profile)

    def fine(unit: Array, exponents: list[int], error: float) -> Array:
        errors = [(unit * 2.0**e * noise) ** 2 for e, noise in zip(exponents, noises, strict=True)]
        return np.asarray(np.sqrt(_total(errors)) <= error * threshold)

    floor = alike(_smallest_unit(graph, p))
    peaks = [drive.peaks() for drive in drives]
    relative = _relative_exponents(peaks)
    allowed = profile.limits.weight_exponent_max
    largest = min(MAX_EXPONENT, int(allowed.value)) if allowed else MAX_EXPONENT
    for shift in range(largest - max(relative), -max(relative) - 1, -1):
        exponents = [max(e + shift, 0) for e in relative]
        full = [k / (top * 2.0**e) for k, e in zip(peaks, exponents, strict=True)]
        unit = alike(np.maximum(np.max(np.broadcast_arrays(*full), axis=0), SMALLEST))
        # A channel whose weights are small beside its threshold need not hold the others back.
        if ((unit >= floor) | fine(floor, exponents, NEGLIGIBLE) | silent).all():
            trial = tried(np.maximum(unit, floor), exponents)
            if not trial.overflow.any():
                return trial
    coarsest = unit * top / signed_range(LEAST_BITS)[1]
    unit = np.maximum(unit, floor)
    while True:
        trial = tried(unit, exponents)
        if not trial.overflow.any():
            return trial
        unit = unit * np.where(trial.overflow.any() if shared else trial.overflow, 2.0, 1.0)
        if not ((unit <= coarsest) | fine(unit, exponents, TOLERABLE) | silent).all():
            raise _too_wide(trial.population, states)


def _total(values: list[Array]) -> Array:
    return np.asarray(np.sum(np.broadcast_arrays(*values), axis=0))


def _too_wide(p: Population, states: tuple[int, int]) -> StateOverflowError:
    return StateOverflowError(
        f"{p.name} ({type(p.neuron).__name__})",
        "every reachable state fits, with weights that are fine enough",
        found=f"[{p.state_low}, {p.state_high}] with the coarsest weights",
        allowed=f"[{states[0]}, {states[1]}]",
        remedy="Use fewer steps, levels or input bits.",
    )


def _smallest_unit(graph: SpikingGraph, p: SpikingPopulation) -> Array:
    """(C,): the unit at which threshold, starting membrane and bias are integers that fit."""
    bias = np.broadcast_to(np.abs(p.bias), p.shape).reshape(p.shape[0], -1).max(axis=1)
    if p.model == "readout":
        return np.asarray(bias / BEYOND)  # the proof does the rest
    stepwise = p.model in ("soft_reset_if", "hard_reset_if")
    stepwise |= p.model == "signed_if" and graph.hold
    most = 2 if stepwise else graph.levels + 1  # a larger bias is cut, see `integer_neuron`
    parameters = 2.0 * p.threshold + np.minimum(bias, most * p.threshold)
    return np.asarray(parameters / 2.0**PARAMETER_BITS)


def _relative_exponents(peaks: list[Array]) -> list[int]:
    """Per connection, how many powers of two its weights are larger than the smallest's."""
    typical = [
        float(np.median(k[k > 0])) if (k > 0).any() else 0.0 for k in map(np.atleast_1d, peaks)
    ]
    smallest = min((t for t in typical if t > 0), default=1.0)
    return [
        min(exponent_below(t / smallest * 2**0.5), MAX_EXPONENT) if t > 0 else 0 for t in typical
    ]


def _trial(
    graph: SpikingGraph,
    p: SpikingPopulation,
    drives: list[_Drive],
    unit: Array,
    exponents: list[int],
    profile: Profile,
) -> _Trial:
    """Population p in units of `unit`, () or (C,), with its proven reach."""
    connections = []
    step = total = Interval(np.zeros((), np.int64), np.zeros((), np.int64))
    for drive, exponent in zip(drives, exponents, strict=True):
        scale = unit * 2.0**exponent
        linear, one, whole = drive.rounded(scale, graph.steps)
        step, total = _plus(step, one, exponent), _plus(total, whole, exponent)
        c = drive.connection
        connections.append(Connection(c.source, c.target, linear, exponent, 0, frozen(scale)))
    neuron = integer_neuron(graph, p, along_channels(unit, p.shape), step, total, profile)
    reach = neuron.reach(step, total, graph.steps)
    state_scale = unit / (graph.steps if graph.hold and p.model == "readout" else 1)
    population = Population(
        p.name,
        p.shape,
        neuron,
        frozen(along_channels(np.asarray(state_scale), p.shape)),
        frozen(along_channels(p.count_scale, p.shape)),
        int(reach.low.min()),
        int(reach.high.max()),
        _count_offset(graph, p),
    )
    states = state_limits(p.model, profile)
    held = occupied(neuron, step, total, graph.steps, profile)
    low, high = (np.broadcast_to(bound, p.shape).reshape(p.shape[0], -1) for bound in held)
    overflow = np.asarray(((low < states[0]) | (high > states[1])).any(axis=1))
    return _Trial(population, tuple(connections), overflow)


def _plus(sum_: Interval, bounds: Interval, exponent: int) -> Interval:
    """sum + bounds * 2**exponent, cut at BEYOND."""
    most = BEYOND >> exponent
    low, high = (shift_left(np.clip(b, -most, most), exponent) for b in bounds)
    return Interval(sum_.low + low, sum_.high + high)


def _with_delays(netlist: Netlist) -> Netlist:
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    return replace(
        netlist,
        connections=tuple(replace(c, delay=plan.delay(c)) for c in netlist.connections),
    )


_PACKED: Mapping[
    str,
    Callable[
        [SpikingGraph, SpikingPopulation, Netlist, Profile],
        tuple[Population, tuple[Connection, ...]],
    ],
] = {"max": quantised_pool, "product": quantised_product}
"""Models whose synapses carry bare counts, without units of their own."""
