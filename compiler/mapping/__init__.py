"""From a netlist to cores, chips and boards.

In the order in which they are used: `fan_in` splits layers with too many inputs, `bound` says how
many cores are needed at least and what each resource is worth, `cuts` how a population may be cut,
`partition` fills cores, `traffic` counts the packets between them, `arrange` lays the cores on the
`mesh`, `step_time` says how long a step takes, `placement` is the result. `resources` and
`synapse_memory` count what neurons take of a core; `regions` are sets of neurons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping.arrange import arrange
from lapilli.compiler.mapping.baselines import along_hilbert
from lapilli.compiler.mapping.bound import Prices, prices
from lapilli.compiler.mapping.core_graph import CoreGraph, Cost, cost
from lapilli.compiler.mapping.fan_in import as_placed
from lapilli.compiler.mapping.mesh import Ints, Mesh
from lapilli.compiler.mapping.partition import Rules, partition
from lapilli.compiler.mapping.placement import Bound, Core, CoreSlice, Placement, usages
from lapilli.compiler.mapping.refusals import (
    ELSEWHERE,
    UNCHECKED,
    Unchecked,
    check_constants,
    check_rates,
    check_wishes,
    too_many,
    unchecked,
    whole_exists,
)
from lapilli.compiler.mapping.regions import Boxes
from lapilli.compiler.mapping.step_time import (
    StepTime,
    core_times_ns,
    step_energy_uj,
    step_time,
    work_ns,
)
from lapilli.compiler.mapping.traffic import Traffic, traffic
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Source
from lapilli.hardware_profiles import Profile

__all__ = (
    "ELSEWHERE",
    "OBJECTIVES",
    "UNCHECKED",
    "Bound",
    "Core",
    "CoreSlice",
    "Cost",
    "Objective",
    "Placement",
    "StepTime",
    "Traffic",
    "Unchecked",
    "place",
)

Objective = Literal["cores", "latency", "energy"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
Told = Callable[[str, int, int], None]
"""(stage, done, of)"""
_HALVINGS = 8
"""How often the time of the busiest core is halved, at most, in search of speed."""
_CHIPS_FOR_SPEED = 4
"""Of a chip that states no system, times so many chips as are needed may be spent on speed."""


class _Held(NamedTuple):
    """One way to fill cores, and what it costs."""

    pieces: list[dict[str, Boxes]]
    sent: Traffic
    busy_ns: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
    step_us: float
    energy_uj: float


def place(
    netlist: Netlist,
    profile: Profile,
    *,
    objective: Objective = "cores",
    rates: Mapping[str, float] | None = None,
    whole: Iterable[str] = (),
    effort: float = 1.0,
    seed: int = 0,
    progress: Told | None = None,
) -> Placement:
    """A placement that keeps every limit the profile states; limits it has no number for are named.

    objective: what is made small: the number of cores; the time of a step ("latency", on cores of
    one population each, as many as help and the system has); or the energy of a step, of the
    placements in between. rates: mean spikes per neuron and step of populations, as measured; 1,
    the most that one spike a step allows, where none is given. whole: populations that stay on one
    core. effort: of laying cores on the mesh, 0 for none. progress(stage, done, of) is called.

    Raises NetlistError for a layer that fits no core and for a network that needs more cores than
    the system has, InputError for a profile without cores and for unknown populations.
    """
    if profile.kind != "neuromorphic":
        raise InputError(
            f"profile {profile.name}",
            "a network is placed on a chip with cores",
            found=profile.kind,
            allowed="a neuromorphic chip",
            remedy="Choose the profile of a chip.",
        )
    netlist.verify(profile)
    kept = whole_exists(netlist, whole)
    check_wishes(objective, OBJECTIVES, rates or {}, seed)
    check_constants(objective, profile)
    given, netlist = netlist, as_placed(netlist, profile)
    if netlist is not given:
        netlist.verify(profile)  # relays delay their branch, so that others must wait
    check_rates(netlist, rates or {})
    worth = prices(netlist, profile)
    tell = progress or (lambda stage, done, of: None)
    fillings = _fillings(netlist, profile, worth, objective, rates or {}, kept, tell)
    held = _best(list(fillings), objective)
    mesh = _mesh(profile, len(held.pieces))
    slots = _arranged(held.sent, mesh, effort, seed, tell)
    placement = _placement(netlist, profile, worth.bound, objective, held, mesh, slots)
    placement.verify(netlist, profile)
    return placement


def _fillings(
    netlist: Netlist,
    profile: Profile,
    worth: Prices,
    objective: Objective,
    rates: Mapping[str, float],
    whole: frozenset[str],
    tell: Told,
) -> Iterator[_Held]:
    """Fewest cores first; for speed then cores that do less and less, until none is left."""

    def filled(rules: Rules) -> _Held:
        held = [
            dict(core)
            for core in partition(
                netlist, profile, worth, rules, lambda done, of: tell("partition", done, of)
            )
        ]
        sent = traffic(netlist, held, profile, rates)
        busy = core_times_ns(netlist, held, sent, profile, rates)
        wanted = objective != "cores" and (room is None or len(held) <= room)
        mesh = _mesh(profile, len(held)) if wanted else None
        seats = None if mesh is None else along_hilbert(len(held), mesh)
        spent = None if mesh is None or seats is None else cost(_graph(sent), mesh, seats)
        step = step_time(busy, spent, profile)
        step_us = step.step_us if step else 0.0
        packets = float(sent.packets.sum() + sent.host_packets.sum())
        chips = _chips(profile, len(held))
        energy = step_energy_uj(len(held), chips, step_us, packets, profile)
        return _Held(held, sent, busy, step_us, energy or 0.0)

    room = _room(profile)
    first = filled(Rules(whole=whole))
    _check_room(netlist, profile, len(first.pieces))
    yield first
    if objective == "cores" or profile.time is None:
        return
    most = room if room is not None else _CHIPS_FOR_SPEED * _cores_of(profile, len(first.pieces))
    limit, least = math.inf, _least_ns(netlist, profile, rates)
    for _ in range(_HALVINGS):
        found = filled(
            Rules(
                share=False,
                whole=whole,
                busy=lambda p, boxes: work_ns(netlist, p, boxes, profile, rates),
                limit_ns=limit,
            )
        )
        if len(found.pieces) > most:
            return
        yield found
        if found.step_us <= profile.time.step_floor_us.value:
            return
        limit = float(found.busy_ns.max()) / 2
        if limit < least:
            return


def _least_ns(netlist: Netlist, profile: Profile, rates: Mapping[str, float]) -> float:
    """How long the busiest single neuron takes: no core with a neuron is faster."""
    middles = {
        p.name: (tuple((size // 2, size // 2 + 1) for size in p.shape),)
        for p in netlist.populations
        if not isinstance(p.neuron, Source)
    }
    return max(
        (work_ns(netlist, netlist[name], one, profile, rates) for name, one in middles.items()),
        default=0.0,
    )


def _best(found: list[_Held], objective: Objective) -> _Held:
    if objective == "cores":
        return found[0]
    if objective == "latency":
        return min(found, key=lambda held: (held.step_us, len(held.pieces)))
    return min(found, key=lambda held: (held.energy_uj, len(held.pieces)))


def _cores_of(profile: Profile, cores: int) -> int:
    """Cores of as many chips as hold `cores`."""
    per_chip = profile.limits.cores_per_chip
    return -(-cores // per_chip.value) * per_chip.value if per_chip else 4 * cores


def _chips(profile: Profile, cores: int) -> int:
    per_chip = profile.limits.cores_per_chip
    return -(-cores // per_chip.value) if per_chip else 1


def _room(profile: Profile) -> int | None:
    """Cores of the system; None for a chip of which there are as many as one likes."""
    per_chip = profile.limits.cores_per_chip
    if profile.system is None or per_chip is None:
        return None
    return profile.system.chips.value * per_chip.value


def _check_room(netlist: Netlist, profile: Profile, cores: int) -> None:
    room = _room(profile)
    if room is not None and cores > room:
        raise too_many(netlist, profile, cores, room)


def _mesh(profile: Profile, cores: int) -> Mesh | None:
    """The mesh of the system, or of as many chips as are needed; None where none is stated."""
    limits, system = profile.limits, profile.system
    stated = (limits.mesh_width_tiles, limits.mesh_height_tiles, limits.cores_per_tile)
    wide, high, per_tile = (q.value if q is not None else 0 for q in stated)
    if not (wide and high and per_tile and limits.cores_per_chip):
        return None
    tiles = (wide, high, per_tile, limits.cores_per_chip.value)
    if system is None:
        return Mesh.near_square(cores, *tiles)
    if system.chips_wide is None or system.chips_high is None:
        chips = system.chips.value
        across = next(n for n in range(math.isqrt(chips), 0, -1) if chips % n == 0)
        return Mesh(across, chips // across, *tiles)
    return Mesh(system.chips_wide.value, system.chips_high.value, *tiles)


def _graph(sent: Traffic) -> CoreGraph:
    return CoreGraph(sent.source, sent.target, sent.packets, sent.host_packets)


def _arranged(
    sent: Traffic, mesh: Mesh | None, effort: float, seed: int, tell: Told
) -> Ints | None:
    """The place of every core on the mesh."""
    if mesh is None:
        return None

    def told(done: int, of: int, now: float) -> None:
        tell("arrange", done, of)

    return arrange(_graph(sent), mesh, seed=seed, effort=effort, progress=told).slot


def _placement(
    netlist: Netlist,
    profile: Profile,
    bound: Bound,
    objective: Objective,
    held: _Held,
    mesh: Mesh | None,
    slots: Ints | None,
) -> Placement:
    order = {p.name: i for i, p in enumerate(netlist.populations)}
    per_chip = profile.limits.cores_per_chip
    taken = usages(netlist, held.pieces, profile, held.sent)
    cores = tuple(
        Core(
            index,
            int(mesh.chip[slots[index]])
            if mesh is not None and slots is not None
            else (index // per_chip.value if per_chip else 0),
            (int(mesh.x[slots[index]]), int(mesh.y[slots[index]]))
            if mesh is not None and slots is not None
            else None,
            tuple(
                CoreSlice(name, box)
                for name in sorted(pieces, key=order.__getitem__)
                for box in pieces[name]
            ),
            taken[index],
        )
        for index, pieces in enumerate(held.pieces)
    )
    spent = None if mesh is None or slots is None else cost(_graph(held.sent), mesh, slots)
    return Placement(
        profile.name,
        netlist,
        cores,
        unchecked(profile),
        bound,
        objective,
        spent,
        step_time(held.busy_ns, spent, profile),
        mesh,
        held.sent,
    )
