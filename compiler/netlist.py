"""The integer spiking netlist: populations, connections, and the scale of every integer.

A population's drive at step t: sum over connections of (map . spikes[t-1-delay]) * 2**exponent.
Float ends at `quantise`; from here on there are integers only, and beside them their units.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from lapilli.compiler.drive_bounds import added
from lapilli.compiler.drive_bounds import connection_bounds as connection_bounds
from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array, LinearMap, Shape, frozen, per_channel
from lapilli.compiler.neurons import (
    STATE_BITS,
    AnySending,
    Interval,
    NeuronModel,
    OrGate,
    Readout,
    Relay,
    SignedIF,
    Source,
)
from lapilli.compiler.neurons.sending import ONES
from lapilli.compiler.neurons.staircase import Staircase
from lapilli.compiler.numerics import signed_range
from lapilli.compiler.schedule import schedule
from lapilli.hardware_profiles import Profile

FOREVER = 2**40
"""More steps than any window has."""


@final
@dataclass(frozen=True, eq=False)
class Population:
    """N neurons of one model.

    state_scale: value of one unit of v in the network's own units; count_scale: value of one
    spike (per unit of payload); both broadcast to shape. A readout's output is v * state_scale.
    state_low, state_high: the proven reach of v, and of what a neuron computes on the way.
    count_offset: the activity that count 0 stands for, broadcasts to shape: value = count *
    count_scale + count_offset, where negative numbers cannot be sent.
    """

    name: str
    shape: Shape
    neuron: NeuronModel
    state_scale: Array
    count_scale: Array
    state_low: int
    state_high: int
    count_offset: Array = field(default_factory=lambda: frozen(0.0))

    @property
    def size(self) -> int:
        """Number of neurons."""
        return math.prod(self.shape)


@final
@dataclass(frozen=True, eq=False)
class Connection:
    """Integer synapses, drive = map(spikes) * 2**exponent.

    weight_scale: value of one unit of weight, () or (C,) along the channels of the map's output.
    delay: steps beyond the one that every synapse has, as `schedule` wants them: those that bring
    branches into step, and synaptic_delay, which belongs to what the network computes: spikes of a
    step reach the target's membrane so many of its steps later.
    A population may drive itself: its spikes reach it one step later, plus synaptic_delay.
    """

    source: str
    target: str
    map: LinearMap
    exponent: int
    delay: int
    weight_scale: Array
    synaptic_delay: int = 0

    @property
    def recurrent(self) -> bool:
        """Does the population drive itself?"""
        return self.source == self.target


@final
@dataclass(frozen=True, eq=False)
class Netlist:
    """Populations in topological order, inputs first; steps: the window of one image."""

    populations: tuple[Population, ...]
    connections: tuple[Connection, ...]
    steps: int

    def __getitem__(self, name: str) -> Population:
        return self._populations[name]

    def into(self, target: str) -> tuple[Connection, ...]:
        """The connections into one population."""
        return self._into.get(target, ())

    @functools.cached_property
    def _populations(self) -> dict[str, Population]:
        # The first of a name, where `verify` has not refused a second one yet.
        return {p.name: p for p in reversed(self.populations)}

    @functools.cached_property
    def _into(self) -> dict[str, tuple[Connection, ...]]:
        found: dict[str, list[Connection]] = {}
        for c in self.connections:
            found.setdefault(c.target, []).append(c)
        return {name: tuple(connections) for name, connections in found.items()}

    @property
    def input(self) -> Population:
        """The one analog input."""
        return next(p for p in self.populations if isinstance(p.neuron, Source))

    @property
    def source(self) -> Source:
        """The neuron model of the input."""
        neuron = self.input.neuron
        assert isinstance(neuron, Source)
        return neuron

    @property
    def settles(self) -> bool:
        """Is the count of every neuron's window proven to be a function of its whole input?

        Then the quantised ANN computes the same counts. Neurons that take spikes back need time to
        get there (`SignedIF.settled`).
        """
        settled = all(p.neuron.settled(last, self.steps) for p, last in self._last_drives())
        return settled and self._undisturbed

    def _last_drives(self) -> Iterator[tuple[Population, int]]:
        """Each population with the last step of a window in which anything may reach it."""
        sent: dict[str, int] = {}
        for p in self.populations:
            arriving = max((sent.get(c.source, self.steps) for c in self.into(p.name)), default=0)
            yield p, arriving
            sent[p.name] = p.neuron.last_sent(arriving, self.steps)

    @property
    def settling(self) -> bool:
        """Would it settle (`settles`), were the window long enough?

        Whether this one is, for an image, its run shows: the network falls silent.
        """
        return self._undisturbed and all(
            p.neuron.SETTLES or p.neuron.settled(-FOREVER, self.steps) for p in self.populations
        )

    @property
    def _undisturbed(self) -> bool:
        return (
            all(_arrives_sorted(self, c) for c in self.connections)
            and len(_orders(self)) <= 1
            and not any(c.recurrent or c.synaptic_delay for c in self.connections)
            and self.source.timing in ("first", "changes")
        )

    @property
    def settled_at_once(self) -> bool:
        """Does it settle without any spike but those that are needed to say the counts?"""
        return self.settles and not any(isinstance(p.neuron, SignedIF) for p in self.populations)

    @property
    def has_quantised_ann(self) -> bool:
        """Does every neuron model say what the unit of a quantised ANN makes of a whole window?

        There is none of a population that drives itself: its whole drive contains its own spikes.
        """
        looped = any(c.recurrent for c in self.connections)
        return not looped and all(p.neuron.has_unit(self.steps) for p in self.populations)

    @property
    def one_pass(self) -> bool:
        """Can counts and events be had at once, without stepping through the window?

        How many spikes a relay sends does not follow from their sum, where there may be several.
        """
        once = self.steps == 1 or not any(
            last for p, last in self._last_drives() if isinstance(p.neuron, Relay)
        )
        return once and self.settled_at_once and (self.source.timing == "first" or self.steps == 1)

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
        shape = self[target].shape
        for c in self.into(target):
            sender = self[c.source]
            spike, whole = sender.neuron.spike_bounds(sender.shape, self.steps)
            step = added(step, connection_bounds(c, spike, shape))
            total = added(total, connection_bounds(c, whole, shape))
        return step, total

    def reach(self, name: str) -> tuple[int, int]:
        """The proven reach of one population's v."""
        step, total = self.drive_bounds(name)
        interval = self[name].neuron.reach(step, total, self.steps)
        return int(interval.low.min()), int(interval.high.max())

    def verify(self, profile: Profile | None = None) -> None:
        """Raise NetlistError unless the contract, and the profile's limits if given, hold."""
        if self.steps < 1 or not self.populations or not self.outputs:
            raise _refuse(
                "netlist",
                "there is an input, a readout and at least one step",
                f"{len(self.populations)} populations, {len(self.outputs)} readouts, "
                f"{self.steps} steps",
                "one input first, readouts, steps >= 1",
                _RECOMPILE,
            )
        _verify_structure(self)
        _verify_delays(self)
        _verify_gap(self)
        for population in self.populations:
            _verify_neurons(self, population)
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


def _arrives_sorted(netlist: Netlist, c: Connection) -> bool:
    """Is an OR over this connection and others the longest of their spike trains?

    So it is for trains in which all ones come first, or in all of them last (`_orders`), from
    neurons that settle, over weights that are not negative. An input's spikes come in any order.
    """
    if not isinstance(netlist[c.target].neuron, OrGate):
        return True
    sender = netlist[c.source].neuron
    ones = sender.payload() == (0, 1) and not isinstance(sender, Source)
    return ones and not (c.map.weight < 0).any()


def _orders(netlist: Netlist) -> set[AnySending]:
    """In which orders neurons send ones, where there are gates for which that matters."""
    neurons = [p.neuron for p in netlist.populations]
    if not any(isinstance(neuron, OrGate) for neuron in neurons):
        return set()
    return {n.coding() for n in neurons if isinstance(n, Staircase) and n.coding() in ONES}


def _refuse(where: str, rule: str, found: object, allowed: object, remedy: str) -> NetlistError:
    return NetlistError(where, rule, found=found, allowed=allowed, remedy=remedy)


_RECOMPILE = "The file was altered or written by a faulty tool: compile the network again."


def _verify_structure(netlist: Netlist) -> None:
    seen: dict[str, Population] = {}
    for p in netlist.populations:
        if p.name in seen:
            raise _refuse(p.name, "population names are unique", p.name, "one", _RECOMPILE)
        drives = netlist.into(p.name)
        drives_from_others = [c for c in drives if not c.recurrent]
        is_input = isinstance(p.neuron, Source)
        if is_input == bool(drives_from_others) or is_input == bool(seen):
            raise _refuse(
                p.name,
                "the input comes first and every other population is driven",
                f"population {len(seen)}, {type(p.neuron).__name__}, {len(drives)} connections",
                "none into the input, one or more into others",
                _RECOMPILE,
            )
        for c in drives:
            _verify_connection(c, seen, p)
        seen[p.name] = p
    unknown = [c.target for c in netlist.connections if c.target not in seen]
    if unknown:
        raise _refuse(unknown[0], "targets exist", unknown[0], ", ".join(seen), _RECOMPILE)


def _verify_connection(c: Connection, seen: Mapping[str, Population], target: Population) -> None:
    where = f"{c.source} -> {c.target}"
    senders = [name for name, p in seen.items() if not isinstance(p.neuron, Readout)]
    if not isinstance(target.neuron, (Source, Readout)):
        senders.append(target.name)
    if c.source not in senders:
        raise _refuse(
            where,
            "connections come from earlier populations that spike, or from the population itself",
            c.source,
            ", ".join(senders),
            _RECOMPILE,
        )
    found = (c.map.in_size, c.map.out_size)
    allowed = (target.size if c.recurrent else seen[c.source].size, target.size)
    if found != allowed:
        raise _refuse(where, "a map fits its populations", found, allowed, _RECOMPILE)
    if c.map.weight.dtype.kind != "i" or min(c.delay, c.synaptic_delay, c.exponent) < 0:
        raise _refuse(
            where,
            "weights are integers, delays and exponent not negative",
            f"{c.map.weight.dtype}, delay {c.delay} of which {c.synaptic_delay} synaptic, "
            f"exponent {c.exponent}",
            "signed integers, >= 0, >= 0",
            _RECOMPILE,
        )


def _verify_delays(netlist: Netlist) -> None:
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    for c in netlist.connections:
        wanted = plan.delay(c)
        if c.delay != wanted:
            raise _refuse(
                f"{c.source} -> {c.target}",
                "branches that join arrive in the same step",
                f"delay {c.delay}",
                wanted,
                _RECOMPILE,
            )


def _verify_gap(netlist: Netlist) -> None:
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    late = [p for p in netlist.populations if p.neuron.emission_lag(netlist.steps)]
    if plan.gap and late:
        raise _refuse(
            f"{late[0].name} ({type(late[0].neuron).__name__})",
            "a window that ends before the next one begins has sent all its spikes",
            f"{plan.gap} steps between windows, because of synaptic delays or recurrence",
            "neurons that send within their window",
            _RECOMPILE,
        )


def _verify_neurons(netlist: Netlist, p: Population) -> None:
    flaw = p.neuron.flaw(netlist.steps)
    if flaw is None and isinstance(p.neuron, Relay):
        flaw = p.neuron.driven_flaw(*netlist.drive_bounds(p.name))
    if flaw is not None:
        raise _refuse(f"{p.name} ({type(p.neuron).__name__})", *flaw, _RECOMPILE)


def _verify_states(netlist: Netlist, p: Population) -> None:
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
    where = f"{p.name} ({type(p.neuron).__name__})"
    low, high = signed_range(int(profile.limits.state_bits.value))
    if p.state_low < low or p.state_high > high:
        raise _refuse(
            where,
            f"{profile.name} keeps states of {profile.limits.state_bits.value:g} bits",
            f"[{p.state_low}, {p.state_high}]",
            f"[{low}, {high}]",
            f"Compile for {profile.name}.",
        )
    if p.neuron.PROGRAM and not profile.features.programmable_neurons.value:
        raise _refuse(
            where,
            f"{profile.name} has fixed neurons",
            f"{p.neuron.PROGRAM}",
            "neurons that add up, compare with one threshold and reset",
            "Compile for a chip whose neurons are programs, such as loihi2; on others, activations "
            "are clipped lines such as ReLU, and max pools are exact in unary coding.",
        )
    payload = p.neuron.payload()
    graded = not isinstance(p.neuron, Source) and (payload[0] < 0 or payload[1] > 1)
    if graded and not profile.features.graded_spikes.value:
        raise _refuse(
            where,
            f"{profile.name} sends binary spikes only",
            f"payload {payload[0]}..{payload[1]}",
            "0..1",
            "Compile with unary sending (coding='unary') or for a chip with graded spikes.",
        )
    bits = profile.limits.payload_bits
    if graded and bits is not None:
        low, high = signed_range(int(bits.value))
        if payload[0] < low or payload[1] > high:
            raise _refuse(
                where,
                f"{profile.name} sends payloads of {bits.value:g} bits",
                f"payload {payload[0]}..{payload[1]}",
                f"{low}..{high}",
                "Use fewer levels.",
            )
    _verify_sharing(p, profile)


def _verify_sharing(p: Population, profile: Profile) -> None:
    sharing = profile.features.threshold_sharing.value
    names = [n for n in p.neuron.LEADING or ("threshold",) if hasattr(p.neuron, n)]
    if not names or sharing == "neuron":
        return
    values = [np.asarray(getattr(p.neuron, name)) for name in names]
    rungs = [rung for value in values for rung in (value if p.neuron.LEADING else value[None])]
    if not all(_is_shared(rung, p.shape, sharing) for rung in rungs):
        raise _refuse(
            p.name,
            f"{profile.name} shares one threshold per {sharing}",
            f"{len(np.unique(rungs[0]))} thresholds of shape {rungs[0].shape}",
            "1" if sharing == "population" else f"{p.shape[0]}, one per channel",
            f"Compile for {profile.name}: the scales are then folded into the weights.",
        )


def _is_shared(values: Array, shape: Shape, sharing: str) -> bool:
    if values.shape == (*shape[:1], *(1,) * (len(shape) - 1)):  # no need to look at every neuron
        channels: Array | None = values
    else:
        channels = values if values.size == 1 else per_channel(values, shape)
    return channels is not None and (sharing == "channel" or not np.ptp(channels))


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
    exponent = profile.limits.weight_exponent_max
    if exponent is not None and c.exponent > exponent.value:
        raise _refuse(
            where,
            f"{profile.name} scales weights by at most 2**{exponent.value:g}",
            f"exponent {c.exponent}",
            f"{exponent.value:g}",
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
