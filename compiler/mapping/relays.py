"""Relays that read parts of a layer's inputs, where these are more than a core has axons.

Populations of the layer's size read a part of the inputs each and send their partial sums on, in
every step, one step later: exactly what the layer got.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count, pairwise

import numpy as np

from lapilli.compiler.drive_bounds import connection_bounds
from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
    frozen,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import STATE_BITS, Relay
from lapilli.compiler.numerics import signed_range
from lapilli.compiler.schedule import schedule
from lapilli.hardware_profiles import Profile


def split_fan_in(
    netlist: Netlist,
    parts: Mapping[int | tuple[str, str], int],
    profile: Profile | None = None,
) -> Netlist:
    """The netlist in which relays (`Relay`) read connections in parts; exactly what it computed.

    parts: number of relay populations for a connection, which is named by its index or, with all
    others between the two, by (source, target). Relay i, `TARGET.partial<i>`, has the target's
    shape and reads the i-th of as many runs of the inputs, equal but for one: of neurons, or of the
    channels of a convolution. Every spike arrives one step later; proven reaches stay what they
    are.

    Raises NetlistError for connections that relays cannot stand in for, partial sums that do not
    fit the state or the profile's payload, and profiles without relays.
    """
    counts = _chosen(netlist, parts)
    taken = {p.name for p in netlist.populations}
    relays: dict[str, list[Population]] = {name: [] for name in taken}
    connections: list[Connection] = []
    for index, c in enumerate(netlist.connections):
        if index not in counts:
            connections.append(c)
            continue
        _check(netlist, c, counts[index], profile)
        for part in _parts(c.map, counts[index]):
            name = free_name(f"{c.target}.partial", taken)
            taken.add(name)
            relay = _sum(netlist, c, name, part)
            _check_sum(netlist, c, relay, profile)
            relays[c.target].append(relay)
            copied = frozen(1, np.int8)
            onward = Diagonal(copied, relay.shape, relay.shape)
            into = replace(c, target=name, map=part, exponent=0, synaptic_delay=0)
            connections += [into, replace(c, source=name, map=onward, weight_scale=frozen(1.0))]
    populations = tuple(q for p in netlist.populations for q in (*relays[p.name], p))
    plan = schedule(populations, tuple(connections), netlist.steps)
    delayed = tuple(replace(c, delay=plan.delay(c)) for c in connections)
    return replace(netlist, populations=populations, connections=delayed)


def _chosen(netlist: Netlist, parts: Mapping[int | tuple[str, str], int]) -> dict[int, int]:
    """The number of parts of each connection that is split, by its index."""
    found: dict[int, int] = {}
    for key, number in parts.items():
        named = [i for i, c in enumerate(netlist.connections) if key in (i, (c.source, c.target))]
        if not named or any(i in found for i in named):
            raise NetlistError(
                f"connection {key}",
                "each connection that is split exists and is named once",
                found="no such connection" if not named else "it is named twice",
                allowed=f"0..{len(netlist.connections) - 1}, or (source, target)",
                remedy="Name a connection of this netlist.",
            )
        found.update(dict.fromkeys(named, number))
    return found


def _check(netlist: Netlist, c: Connection, parts: int, profile: Profile | None) -> None:
    """Raise NetlistError unless sums of `parts` parts may stand in for the connection."""
    where, target = f"{c.source} -> {c.target}", netlist[c.target]
    if profile is not None and not profile.features.relay_populations.value:
        raise NetlistError(
            where,
            f"{profile.name} reads all inputs of a neuron at once",
            found=f"{c.map.in_size} inputs in {parts} parts",
            allowed="no relay populations",
            remedy="Give the layer fewer inputs, pool before it, or choose a chip with graded "
            "spikes and programmable neurons, such as loihi2.",
        )
    reason = ""
    if c.recurrent:
        reason = "the population drives itself: its spikes would come back a step too late"
    elif target.neuron.POOLS:
        reason = f"{type(target.neuron).__name__} compares what its inputs send"
    elif isinstance(c.map, Conv | ConvTransposed) and c.map.groups > 1:
        reason = "the channels of a grouped convolution read few inputs each"
    elif isinstance(c.map, Diagonal):
        reason = "every neuron has one input"
    if reason:
        raise NetlistError(
            where,
            "relays add up parts of a sum over many inputs",
            found=reason,
            allowed="a full, sparse or convolutional connection into neurons that add up",
            remedy="Leave this connection whole.",
        )
    most = _units(c.map)
    if not 1 <= parts <= most:
        raise NetlistError(
            where,
            "every part of the inputs has something to read",
            found=f"{parts} parts",
            allowed=f"1..{most}",
            remedy="Choose another number of parts.",
        )


def _units(linear: LinearMap) -> int:
    """What the inputs are cut between: neurons that are read, or a convolution's channels."""
    if isinstance(linear, DensePart):
        return int(linear.weight.shape[1])
    return linear.in_shape[0] if isinstance(linear, Conv | ConvTransposed) else linear.in_size


def _parts(linear: LinearMap, number: int) -> Iterator[LinearMap]:
    """Maps that add up to `linear`; each holds its own weights only, but for kernels."""
    units = _units(linear)
    edges = [i * units // number for i in range(number + 1)]
    for low, high in pairwise(edges):
        if isinstance(linear, Dense | DensePart):
            weight = frozen(linear.weight[:, low:high])
            first = low + (linear.first if isinstance(linear, DensePart) else 0)
            yield DensePart(weight, linear.in_shape, linear.out_shape, first)
        elif isinstance(linear, Sparse):
            yield _columns(linear, low, high)
        else:
            yield _channels(linear, low, high)


def _columns(linear: Sparse, low: int, high: int) -> Sparse:
    """The synapses of the inputs low .. high - 1."""
    kept = (linear.columns >= low) & (linear.columns < high)
    before = np.concatenate([[0], np.cumsum(kept)])
    return replace(
        linear,
        weight=frozen(linear.weight[kept]),
        columns=frozen(linear.columns[kept]),
        starts=frozen(before[linear.starts], np.int64),
    )


def _channels(linear: LinearMap, low: int, high: int) -> LinearMap:
    """A convolution in which the other channels weigh nothing; its kernels stay as large."""
    read = np.zeros(linear.in_shape[0], bool)
    read[low:high] = True
    axis = (1, -1, 1, 1) if isinstance(linear, Conv) else (-1, 1, 1, 1)
    return linear.with_weight(linear.weight * read.reshape(axis))


def _sum(netlist: Netlist, c: Connection, name: str, part: LinearMap) -> Population:
    """The relay that reads `part` of a connection; its unit is that of the drive it stands for."""
    target = netlist[c.target]
    unit = frozen(target.state_scale * 2.0**c.exponent)
    return sums(netlist, replace(c, map=part, exponent=0), name, target.shape, unit)


def sums(netlist: Netlist, c: Connection, name: str, shape: Shape, unit: Array) -> Population:
    """The relay that sums up what a connection brings; unit: the value of a sum of one."""
    sender = netlist[c.source]
    step, total = (
        connection_bounds(c, bounds, shape)
        for bounds in sender.neuron.spike_bounds(sender.shape, netlist.steps)
    )
    low, high = int(step.low.min()), int(step.high.max())
    return Population(name, shape, Relay.of(step, total), unit, unit, low, high)


def unfit(relay: Population, steps: int, profile: Profile) -> bool:
    """Are the sums of a relay more than a state holds or a spike of the chip carries?"""
    carried = profile.limits.payload_bits
    bits = min(STATE_BITS, int(carried.value)) if carried is not None else STATE_BITS
    (low, high), (least, most) = relay.neuron.payload(), signed_range(bits)
    return low < least or high > most or relay.neuron.flaw(steps) is not None


def _check_sum(netlist: Netlist, c: Connection, relay: Population, profile: Profile | None) -> None:
    """Raise NetlistError where the partial sum leaves the state, or what a spike carries."""
    bits, owner = STATE_BITS, "a state"
    carried = profile.limits.payload_bits if profile is not None else None
    if profile is not None and carried is not None and carried.value < bits:
        bits, owner = int(carried.value), f"a spike of {profile.name}"
    allowed, found = signed_range(bits), relay.neuron.payload()
    if found[0] < allowed[0] or found[1] > allowed[1]:
        raise NetlistError(
            f"{relay.name}, for {c.source} -> {c.target}",
            f"a partial sum fits the {bits} bits of {owner}",
            found=f"{found[0]}..{found[1]}",
            allowed=f"{allowed[0]}..{allowed[1]}",
            remedy="Split the connection into more parts, or use fewer levels.",
        )
    flaw = relay.neuron.flaw(netlist.steps)
    if flaw is not None:
        raise NetlistError(
            f"{relay.name}, for {c.source} -> {c.target}",
            flaw.rule,
            found=flaw.found,
            allowed=flaw.allowed,
            remedy="Split the connection into more parts, or use fewer steps.",
        )


def free_name(stem: str, taken: set[str]) -> str:
    """The first of stem0, stem1, ... that no population has."""
    return next(name for name in (f"{stem}{i}" for i in count()) if name not in taken)
