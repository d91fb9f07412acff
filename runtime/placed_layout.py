"""A placement as the energy model needs it: packets, ways and work, of events that were counted.

The neurons of a population are taken to spike equally often, as in `compiler.mapping.traffic`. No
torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping import Placement
from lapilli.compiler.mapping.core_graph import HOST_SLOT
from lapilli.compiler.mapping.mesh import Mesh
from lapilli.compiler.mapping.placement import pieces
from lapilli.compiler.mapping.regions import Boxes
from lapilli.compiler.mapping.resources import compartments_each
from lapilli.compiler.mapping.step_time import work
from lapilli.compiler.mapping.traffic import Flow, flows
from lapilli.compiler.neurons import Relay
from lapilli.hardware_profiles import Profile
from lapilli.runtime.layout import WORK, Journeys, Layout, OnCores, Reals
from lapilli.runtime.metrics import PopulationEvents, check_events

Ints = npt.NDArray[np.int64]
_OUT, _IN = WORK.index("time.axon_out_ns"), WORK.index("time.axon_in_ns")


class _Way(NamedTuple):
    """Packets of a mean step from one core, or the host, to others."""

    flow: Flow
    packets: Reals


def rates(events: Mapping[str, PopulationEvents]) -> dict[str, float]:
    """Mean spikes per neuron and step of every population that was counted."""
    return {name: e.spikes / (e.neurons * e.steps * e.images) for name, e in events.items()}


def layout(
    placement: Placement,
    profile: Profile,
    events: Mapping[str, PopulationEvents],
    input_rate: float,
) -> Layout:
    """Packets, ways and work of what was counted.

    events: of a run of placement.netlist; input_rate: share of the input's values that are sent in
    a mean step. Raises InputError for another profile than that of the placement, and for events of
    another network.
    """
    _check(placement, profile, events)
    netlist = placement.netlist
    held = [pieces(core) for core in placement.cores]
    rate = {netlist.input.name: input_rate, **rates(events)}
    ways = [
        _Way(flow, np.asarray(flow.axons * rate[flow.source], np.float64))
        for flow in flows(netlist, held, profile)
    ]
    slots = slots_of(placement)
    core, population, work_done = _work(placement, profile, held, ways, events, rate)
    sent, from_host = _journeys(placement, ways, slots, events)
    cores = {name: len({int(i) for i in core[population == name]}) for name in events}
    each = {name: compartments_each(netlist[name], profile) for name in events}
    on_cores = OnCores(
        objective=placement.objective,
        sent=sent,
        from_host=from_host,
        core=core,
        population=tuple(population.tolist()),
        work=work_done,
        worst_link=_worst_link(placement.mesh, slots, ways),
        relays=sum(p.size for p in netlist.populations if isinstance(p.neuron, Relay)),
        board_chips=None if profile.system is None else profile.system.chips.value,
        unchecked=tuple(u.limit for u in placement.unchecked),
    )
    return Layout(cores, len(placement.cores), placement.chips, each, on_cores)


def _check(placement: Placement, profile: Profile, events: Mapping[str, PopulationEvents]) -> None:
    check_events(events)
    if placement.profile != profile.name:
        raise InputError(
            "placement",
            "a network is estimated on the chip or system that it was placed on",
            found=profile.name,
            allowed=placement.profile,
            remedy="Place it with this profile, or estimate with that of the placement.",
        )
    netlist = placement.netlist
    ours = {p.name: p.size for p in netlist.populations if p.name != netlist.input.name}
    theirs = {name: e.neurons for name, e in events.items()}
    if ours != theirs:
        different = sorted(dict(ours.items() ^ theirs.items()))
        raise InputError(
            "placement",
            "events are counted on the network that was placed, relays included",
            found=f"not alike: {', '.join(different)}",
            allowed=f"{len(ours)} populations with as many neurons as were placed",
            remedy="Run the placement's netlist, or place this network.",
        )


def slots_of(placement: Placement) -> Ints | None:
    """A slot of the mesh on each core's tile: all slots of a tile have the same ways."""
    mesh = placement.mesh
    if mesh is None:
        return None
    where = mesh.x + mesh.width * mesh.y
    order = np.argsort(where, kind="stable")
    tiles = [core.tile for core in placement.cores if core.tile is not None]
    wanted = np.array([x + mesh.width * y for x, y in tiles], np.int64)
    return np.asarray(order[np.searchsorted(where[order], wanted)], np.int64)


def _ends(way: _Way, slots: Ints) -> tuple[Ints, Ints]:
    """Slots between which a way's packets go."""
    start = HOST_SLOT if way.flow.core is None else slots[way.flow.core]
    return np.full(len(way.flow.ends), start, np.int64), slots[way.flow.ends]


def _journeys(
    placement: Placement,
    ways: list[_Way],
    slots: Ints | None,
    events: Mapping[str, PopulationEvents],
) -> tuple[dict[str, Journeys], dict[str, Journeys]]:
    """Per inference: by whom sent, and to whom sent by the host."""
    sent, from_host = (dict.fromkeys(events, Journeys()) for _ in range(2))
    steps = placement.netlist.steps
    for way in ways:
        lengths: tuple[Reals | Ints, ...] = ()
        if placement.mesh is not None and slots is not None:
            start, stop = _ends(way, slots)
            lengths = (
                *placement.mesh.hops(start, stop),
                placement.mesh.crossings(start, stop),
            )
        far = (float(way.packets @ length) * steps for length in lengths)
        found = Journeys(float(way.packets.sum()) * steps, *far)
        if way.flow.core is None:
            from_host[way.flow.target] += found
        else:
            sent[way.flow.source] += found
    return sent, from_host


def _work(
    placement: Placement,
    profile: Profile,
    held: list[dict[str, Boxes]],
    ways: list[_Way],
    events: Mapping[str, PopulationEvents],
    rate: Mapping[str, float],
) -> tuple[Ints, npt.NDArray[np.str_], Reals]:
    """Every population on every core: (core, population, work per step)."""
    netlist = placement.netlist
    parts = [(core, name) for core, boxes in enumerate(held) for name in boxes]
    row = {part: i for i, part in enumerate(parts)}
    found = np.zeros((len(parts), len(WORK)))
    for (core, name), i in row.items():
        e, boxes = events[name], held[core][name]
        todo = work(netlist, netlist[name], boxes, profile, rate)
        updated = e.neuron_updates / (e.neurons * e.steps * e.images)
        accesses = float(todo.compartments)
        found[i, :_OUT] = todo.arriving, accesses, accesses * updated, todo.spikes
    for way in ways:
        if way.flow.core is not None:
            found[row[way.flow.core, way.flow.source], _OUT] += way.packets.sum()
        arrives: dict[int, float] = defaultdict(float)
        for end, packets in zip(way.flow.ends.tolist(), way.packets.tolist(), strict=True):
            arrives[end] += packets
        for end, packets in arrives.items():
            found[row[end, way.flow.target], _IN] += packets
    return (
        np.array([core for core, _ in parts], np.int64),
        np.array([name for _, name in parts], np.str_),
        found,
    )


def _worst_link(mesh: Mesh | None, slots: Ints | None, ways: list[_Way]) -> float | None:
    """Packets on the busiest link in a mean step."""
    if mesh is None or slots is None:
        return None
    if not ways:
        return 0.0
    pairs = [_ends(way, slots) for way in ways]
    start = np.concatenate([start for start, _ in pairs])
    stop = np.concatenate([stop for _, stop in pairs])
    return float(mesh.link_loads(start, stop, np.concatenate([w.packets for w in ways])).worst)
