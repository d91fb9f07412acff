"""The integer spiking netlist: populations, connections, and the scale of every integer.

Drive of a population at step t: sum over connections of (map . spikes[t - 1 - delay]) * 2**exponent.
Float ends at `quantise`; from here on there are integers only, and beside them their units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array, LinearMap, Shape
from lapilli.compiler.neurons import STATE_BITS, Interval, NeuronModel, Readout, Source
from lapilli.compiler.numerics import signed_range
from lapilli.hardware_profiles import Profile


@final
@dataclass(frozen=True, eq=False)
class Population:
    """N neurons of one model.

    state_scale: value of one unit of v in the network's own units; count_scale: value of one
    spike (per unit of payload); both broadcast to shape. A readout's output is v * state_scale.
    state_low, state_high: the proven reach of v.
    """

    name: str
    shape: Shape
    neuron: NeuronModel
    state_scale: Array
    count_scale: Array
    state_low: int
    state_high: int

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)


@final
@dataclass(frozen=True, eq=False)
class Connection:
    """Integer synapses. weight_scale: value of one unit of weight, () or (C,) over outputs.

    delay: steps beyond the one that every synapse has.
    """

    source: str
    target: str
    map: LinearMap
    exponent: int
    delay: int
    weight_scale: Array


@final
@dataclass(frozen=True, eq=False)
class Netlist:
    """Populations in topological order, inputs first; steps: the window of one image."""

    populations: tuple[Population, ...]
    connections: tuple[Connection, ...]
    steps: int

    def __getitem__(self, name: str) -> Population:
        for population in self.populations:
            if population.name == name:
                return population
        raise KeyError(name)

    def into(self, target: str) -> tuple[Connection, ...]:
        """The connections into one population."""
        return tuple(c for c in self.connections if c.target == target)

    @property
    def input(self) -> Population:
        """The one analog input."""
        return next(p for p in self.populations if isinstance(p.neuron, Source))

    @property
    def outputs(self) -> tuple[Population, ...]:
        """The readouts, in the order of the network's outputs."""
        return tuple(p for p in self.populations if isinstance(p.neuron, Readout))

    @property
    def graded(self) -> bool:
        """Does any neuron send more than 0 or 1 in one spike?"""
        inner = [p for p in self.populations if not isinstance(p.neuron, Source)]
        return any(p.neuron.payload()[0] < 0 or p.neuron.payload()[1] > 1 for p in inner)

    def drive_bounds(self, target: str) -> tuple[Interval, Interval]:
        """Proven bounds of one step's drive and of the drive summed over any start of a window."""
        step = total = Interval(np.zeros((), np.int64), np.zeros((), np.int64))
        for c in self.into(target):
            neuron = self[c.source].neuron
            step = _add(step, connection_bounds(c, neuron.payload(), self[target].shape))
            total = _add(
                total, connection_bounds(c, neuron.window_total(self.steps), self[target].shape)
            )
        return step, total

    def reach(self, name: str) -> tuple[int, int]:
        """The proven reach of one population's v."""
        step, total = self.drive_bounds(name)
        interval = self[name].neuron.reach(step, total, self.steps)
        return int(interval.low.min()), int(interval.high.max())

    def verify(self, profile: Profile | None = None) -> None:
        """Raise NetlistError unless the contract, and the profile's limits if given, hold."""
        if self.steps < 1 or not self.populations or not self.outputs:
            raise NetlistError(
                "netlist",
                "there is an input, a readout and at least one step",
                found=f"{len(self.populations)} populations, {self.steps} steps",
                allowed="one input first, readouts, steps >= 1",
                remedy="Compile the network again.",
            )
        _verify_structure(self)
        for population in self.populations:
            _verify_states(self, population)
        if profile is not None:
            for population in self.populations:
                _verify_limits(population, profile)
            for connection in self.connections:
                _verify_synapses(connection, profile)

    def pretty(self) -> str:
        """One line per population: model, shape, proven reach, incoming synapses."""
        lines = [f"steps {self.steps}"]
        for p in self.populations:
            drives = ", ".join(
                f"{type(c.map).__name__}({c.source})<<{c.exponent} delay {c.delay}"
                for c in self.into(p.name)
            )
            reach = f"[{p.state_low}, {p.state_high}]"
            model = type(p.neuron).__name__
            lines.append(f"{p.name}: {model}{list(p.shape)} v in {reach} <- {drives or 'user'}")
        return "\n".join(lines)


def connection_bounds(c: Connection, source: tuple[int, int], shape: Shape) -> Interval:
    """Bounds of one connection's drive for source sums within `source`; broadcast to `shape`."""
    weight = c.map.weight.astype(np.int64)
    positive, negative = np.maximum(weight, 0), np.minimum(weight, 0)
    up, down = c.map.row_sums(positive), c.map.row_sums(negative)
    low, high = source
    bounds = (up * low + down * high, up * high + down * low)
    return Interval(*(_fit(b << max(c.exponent, 0), c.map.out_shape, shape) for b in bounds))


def _fit(values: Array, map_shape: Shape, shape: Shape) -> Array:
    if map_shape == shape:
        return values
    return np.broadcast_to(values, map_shape).reshape(shape)


def _add(a: Interval, b: Interval) -> Interval:
    return Interval(a.low + b.low, a.high + b.high)


def _refuse(where: str, rule: str, found: object, allowed: object, remedy: str) -> NetlistError:
    return NetlistError(where, rule, found=found, allowed=allowed, remedy=remedy)


_RECOMPILE = "The file was altered or written by a faulty tool: compile the network again."


def _verify_structure(netlist: Netlist) -> None:
    seen: dict[str, Population] = {}
    for p in netlist.populations:
        if p.name in seen:
            raise _refuse(p.name, "population names are unique", p.name, "one", _RECOMPILE)
        drives = netlist.into(p.name)
        if isinstance(p.neuron, Source) != (not drives) or (isinstance(p.neuron, Source) and seen):
            raise _refuse(
                p.name,
                "the input comes first and every other population is driven",
                f"{len(drives)} connections",
                "none into the input, one or more into others",
                _RECOMPILE,
            )
        for c in drives:
            where = f"{c.source} -> {p.name}"
            if c.source not in seen:
                raise _refuse(
                    where, "connections come from earlier populations", c.source, list(seen),
                    _RECOMPILE,
                )
            found = (c.map.in_size, c.map.out_size)
            allowed = (seen[c.source].size, p.size)
            if found != allowed:
                raise _refuse(where, "a map fits its populations", found, allowed, _RECOMPILE)
            if c.map.weight.dtype.kind != "i" or c.delay < 0 or c.exponent < 0:
                raise _refuse(
                    where,
                    "weights are integers, delay and exponent not negative",
                    f"{c.map.weight.dtype}, delay {c.delay}, exponent {c.exponent}",
                    "signed integers, >= 0, >= 0",
                    _RECOMPILE,
                )
        seen[p.name] = p
    unknown = [c.target for c in netlist.connections if c.target not in seen]
    if unknown:
        raise _refuse(unknown[0], "targets exist", unknown[0], list(seen), _RECOMPILE)


def _verify_states(netlist: Netlist, p: Population) -> None:
    threshold = getattr(p.neuron, "threshold", None)
    if threshold is not None and threshold.min() < 1:
        raise _refuse(p.name, "thresholds are positive", threshold.min(), ">= 1", _RECOMPILE)
    low, high = netlist.reach(p.name)
    allowed = signed_range(STATE_BITS)
    if low < allowed[0] or high > allowed[1]:
        raise _refuse(
            f"{p.name} ({type(p.neuron).__name__})",
            f"every reachable state fits {STATE_BITS} bits",
            f"[{low}, {high}]",
            f"[{allowed[0]}, {allowed[1]}]",
            "Use fewer steps or levels, or smaller weights.",
        )
    if (p.state_low, p.state_high) != (low, high):
        raise _refuse(
            p.name,
            "the recorded reach is the proven one",
            f"[{p.state_low}, {p.state_high}]",
            f"[{low}, {high}]",
            _RECOMPILE,
        )


def _verify_limits(p: Population, profile: Profile) -> None:
    features = profile.features
    low, high = p.neuron.payload()
    graded = not isinstance(p.neuron, Source) and (low < 0 or high > 1)
    if graded and not features.graded_spikes.value:
        raise _refuse(
            f"{p.name} ({type(p.neuron).__name__})",
            f"{profile.name} sends binary spikes only",
            f"payload {low}..{high}",
            "0..1",
            "Compile with unary sending (coding='unary') or for a chip with graded spikes.",
        )
    threshold = getattr(p.neuron, "threshold", None)
    if threshold is None:
        return
    sharing = features.threshold_sharing.value
    if sharing == "population" and threshold.size > 1 and (threshold != threshold.flat[0]).any():
        raise _refuse(
            p.name,
            f"{profile.name} shares one threshold per population",
            f"{len(np.unique(threshold))} thresholds",
            "1",
            f"Compile for {profile.name}: the scales are then folded into the weights.",
        )


def _verify_synapses(c: Connection, profile: Profile) -> None:
    where = f"{c.source} -> {c.target}"
    bits = profile.limits.weight_bits
    if bits is not None:
        top = 2 ** (int(bits.value) - 1)
        low, high = int(c.map.weight.min(initial=0)), int(c.map.weight.max(initial=0))
        if low < -top or high >= top:
            raise _refuse(
                where,
                f"{profile.name} stores {bits.value:g}-bit signed weights",
                f"{low}..{high}",
                f"{-top}..{top - 1}",
                f"Compile for {profile.name}.",
            )
    delay = profile.limits.max_delay_steps
    if delay is not None and c.delay > delay.value:
        raise _refuse(
            where,
            f"{profile.name} delays a spike by at most {delay.value:g} steps",
            f"{c.delay} steps",
            f"{delay.value:g}",
            "Use fewer levels or steps per window, or graded sending.",
        )
