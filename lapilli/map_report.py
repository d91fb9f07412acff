"""What `lapilli map` says of a placement, as plain dicts: layers, totals, cores, edges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lapilli.compiler.mapping.fan_in import as_placed
from lapilli.compiler.mapping.regions import Box, volume
from lapilli.compiler.mapping.resources import LIMITS, usage
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Source

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.mapping import Core, Placement
    from lapilli.hardware_profiles import Profile

Report = dict[str, Any]
Reals = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]


def measured_rates(
    artifact: Artifact,
    images: npt.NDArray[np.float32],
    profile: Profile,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Mean spikes per neuron and step of every population on these images, counted exactly.

    The network runs as it is placed on the chip, so relays are counted, and so is the input.
    """
    from lapilli.runtime import run
    from lapilli.runtime.placed_layout import rates

    placed = replace(artifact, netlist=as_placed(artifact.netlist, profile))
    events = run(placed, images, record="outputs", progress=progress).events
    return {artifact.netlist.input.name: input_rate(artifact, images), **rates(events)}


def input_rate(artifact: Artifact, images: npt.NDArray[np.float32]) -> float:
    """Share of the input's values that are sent in a mean step."""
    from lapilli.runtime import poisson, quantise_input

    netlist = artifact.netlist
    if poisson.encodes(artifact, images):
        images = poisson.spikes(netlist, images, 0)
    values, _ = quantise_input(netlist, images)
    if netlist.source.timing == "changes":
        values = np.diff(values, axis=1, prepend=0)
    share = float(np.count_nonzero(values)) / values.size
    return share / netlist.steps if netlist.source.timing == "first" else share


def utilisation(placement: Placement, profile: Profile) -> tuple[list[str], Reals]:
    """The limits that the profile states, and what share of each every core uses: (cores, limits).

    Limits on one resource stand once, by the lowest of them.
    """
    lowest: dict[str, str] = {}
    for limit, field in LIMITS.items():
        stated = getattr(profile.limits, limit)
        known = lowest.get(field)
        if stated is not None and (
            known is None or stated.value < getattr(profile.limits, known).value
        ):
            lowest[field] = limit
    names = list(lowest.values())
    taken = [[getattr(core.usage, field) for field in lowest] for core in placement.cores]
    allowed = [float(getattr(profile.limits, limit).value) for limit in names]
    used = np.array(taken, np.float64).reshape(len(placement.cores), len(names))
    return names, used / np.array(allowed)


def own_use(placement: Placement, profile: Profile) -> Reals:
    """What the neurons of every population alone use of the limits, mean over its cores:
    (populations, limits). Output axons belong to whole cores and count for every population.
    """
    names, used = utilisation(placement, profile)
    row = {core.index: i for i, core in enumerate(placement.cores)}
    netlist, found = placement.netlist, []
    for name, held in members(placement).items():
        total = np.zeros(len(names))
        for index, boxes in held.items():
            alone = usage(netlist, netlist[name], tuple(boxes), profile)
            total += [
                used[row[index], i]
                if LIMITS[limit] == "output_axons"
                else getattr(alone, LIMITS[limit]) / getattr(profile.limits, limit).value
                for i, limit in enumerate(names)
            ]
        found.append(total / len(held))
    return np.array(found)


def placement_report(
    given: Netlist,
    placement: Placement,
    profile: Profile,
    rates: Mapping[str, float] | None = None,
) -> Report:
    """Layers and totals; given: the netlist before relays were added; rates: those measured."""
    known, step = rates or {}, placement.step
    bound, count = placement.bound, len(placement.cores)
    sent = placement.traffic
    netlist = placement.netlist
    return {
        "profile": placement.profile,
        "calibrated": profile.calibrated,
        "objective": placement.objective,
        "cores": count,
        "bound": {"cores": bound.cores, "limit": bound.limit},
        "cores_over_bound": count / bound.cores if bound.cores else None,
        "chips": placement.chips,
        "neurons": sum(p.size for p in netlist.populations if not isinstance(p.neuron, Source)),
        "packets": float(sent.packets.sum() + sent.host_packets.sum()),
        "host_packets": float(sent.host_packets.sum()),
        "mesh_cost": None if placement.cost is None else asdict(placement.cost),
        "step": None if step is None else asdict(step),
        "rates": {
            p.name: {"rate": known.get(p.name, 1.0), "measured": p.name in known}
            for p in netlist.populations
        },
        "relays": _relays(given, netlist),
        "populations": _populations(given, placement, profile),
        "unchecked": [{"limit": u.limit, "reason": u.reason} for u in placement.unchecked],
    }


def every_core(placement: Placement, profile: Profile) -> Report:
    """The mesh, every core, and who sends how many packets to whom in a step."""
    names, used = utilisation(placement, profile)
    sent = placement.traffic
    return {
        "mesh": None if placement.mesh is None else asdict(placement.mesh),
        "cores_in_use": [
            _core(core, dict(zip(names, shares, strict=True)))
            for core, shares in zip(placement.cores, used.tolist(), strict=True)
        ],
        "edges": {
            "source": sent.source.tolist(),
            "target": sent.target.tolist(),
            "packets": sent.packets.tolist(),
        },
        "host_packets_to": sent.host_packets.tolist(),
    }


def _core(core: Core, shares: Mapping[str, float]) -> Report:
    return {
        "core": core.index,
        "chip": core.chip,
        "tile": None if core.tile is None else list(core.tile),
        "slices": [
            {"population": s.population, "box": [list(edges) for edges in s.box]}
            for s in core.slices
        ],
        "usage": asdict(core.usage),
        "utilisation": dict(shares),
    }


def _relays(given: Netlist, placed: Netlist) -> list[Report]:
    """The populations that the mapper added, and for which layer."""
    known = {p.name for p in given.populations}
    reads: dict[str, str] = {c.source: c.target for c in reversed(placed.connections)}
    found = []
    for p in placed.populations:
        if p.name not in known:
            layer = reads[p.name]
            while layer not in known:
                layer = reads[layer]
            found.append({"population": p.name, "layer": layer, "neurons": p.size})
    return found


def members(placement: Placement) -> dict[str, dict[int, list[Box]]]:
    """Population -> core -> its boxes there, in the order of the netlist; the input is left out."""
    found: dict[str, dict[int, list[Box]]] = {
        p.name: {} for p in placement.netlist.populations if not isinstance(p.neuron, Source)
    }
    for core in placement.cores:
        for s in core.slices:
            found[s.population].setdefault(core.index, []).append(s.box)
    return found


def _populations(given: Netlist, placement: Placement, profile: Profile) -> list[Report]:
    known = {p.name for p in given.populations}
    names, used = utilisation(placement, profile)
    row = {core.index: i for i, core in enumerate(placement.cores)}
    found = []
    for name, held in members(placement).items():
        mean = used[[row[index] for index in held]].mean(axis=0)
        binding = int(mean.argmax()) if names else None
        found.append(
            {
                "population": name,
                "shape": list(placement.netlist[name].shape),
                "neurons": placement.netlist[name].size,
                "relay": name not in known,
                "cores": len(held),
                "piece": _usual_piece(held),
                "binding": None if binding is None else names[binding],
                "use": dict(zip(names, mean.tolist(), strict=True)),
            }
        )
    return found


def _usual_piece(held: Mapping[int, list[Box]]) -> list[list[int]]:
    """Extents of the boxes of one core, as most neurons of the population are cut."""
    kinds: Counter[tuple[tuple[int, ...], ...]] = Counter()
    for boxes in held.values():
        sizes = sorted(boxes, key=volume, reverse=True)
        kind = tuple(tuple(high - low for low, high in box) for box in sizes)
        kinds[kind] += sum(volume(box) for box in boxes)
    (usual, _), *_ = kinds.most_common(1)
    return [list(extents) for extents in usual]
