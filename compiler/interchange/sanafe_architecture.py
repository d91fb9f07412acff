"""A profile and a placement as an architecture of SANA-FE: tiles on a mesh, cores, costs of events.

Beside the placed cores, a tile has one that is no part of the chip, where it needs one: for neurons
that charge others, that delay spikes, and on the first tile for the host's. Nothing that these do
costs anything, so that what the simulation adds up belongs to the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping import Placement
from lapilli.hardware_profiles import Profile

Json = dict[str, Any]
_PICO, _NANO = 1e-12, 1e-9
UNIT_NEURONS = 1024
"""The program's units that add up, and those that fire, hold so many; a core may have several."""
MOST_TILES = 4096
"""Each is a line of the file."""


@final
@dataclass(frozen=True)
class Hardware:
    """tile: of every core of the placement, in the program's numbers; address: "tile.core" of each.

    outside: address of the core that is no part of the chip, by tile; inputs: units of these that
    spike in given steps; waiting: how many neurons of theirs delay spikes; cores: names by tile;
    unknown: costs that the profile has no number for, and which are zero.
    """

    tile: tuple[int, ...]
    address: tuple[str, ...]
    outside: Mapping[int, str]
    inputs: Mapping[int, int]
    waiting: Mapping[int, int]
    cores: Mapping[int, list[str]]
    unknown: tuple[str, ...]


HOST_TILE = 0
"""Where the host's spikes enter, as in `compiler.mapping`."""


def tiles_of(placement: Placement) -> tuple[int, ...]:
    """The tile of every core. The program counts tiles column by column."""
    high = 1 if placement.mesh is None else placement.mesh.height
    return tuple(0 if c.tile is None else c.tile[0] * high + c.tile[1] for c in placement.cores)


def hardware(
    placement: Placement, profile: Profile, inputs: Mapping[int, int], waiting: Mapping[int, int]
) -> Hardware:
    """Where every core is. inputs, waiting: by tile, see `Hardware`."""
    mesh = placement.mesh
    tiles = 1 if mesh is None else mesh.width * mesh.height
    if tiles > MOST_TILES:
        raise InputError(
            f"profile {profile.name}",
            "each tile is a line of the file",
            found=f"{tiles:,} tiles",
            allowed=f"{MOST_TILES:,}",
            remedy="Export for a smaller board, or for its chip.",
        )
    at = tiles_of(placement)
    cores: dict[int, list[str]] = {tile: [] for tile in range(tiles)}
    address = []
    for core, tile in zip(placement.cores, at, strict=True):
        address.append(f"{tile}.{len(cores[tile])}")
        cores[tile].append(f"core{core.index}")
    outside = {}
    for tile, held in cores.items():
        if inputs.get(tile) or waiting.get(tile) or not held:  # the program wants one in each
            outside[tile] = f"{tile}.{len(held)}"
            held.append(f"outside{tile}")
    unknown = tuple(
        key
        for key in profile.unknown()
        if key.startswith(("energy.", "time.")) and key.partition(".")[2] in _CHARGED
    )
    return Hardware(at, tuple(address), outside, inputs, waiting, cores, unknown)


_CHARGED = (
    *("synop_pj", "neuron_access_pj", "neuron_update_pj", "spike_pj", "axon_out_pj"),
    *("hop_east_west_pj", "hop_north_south_pj", "synop_ns", "neuron_access_ns"),
    *("neuron_update_ns", "spike_ns", "axon_out_ns", "axon_in_ns", "hop_east_west_ns"),
    *("hop_north_south_ns", "barrier_ns"),
)


def architecture(built: Hardware, placement: Placement, profile: Profile) -> Json:
    """The value of the key `architecture`. Raises InputError for a profile without costs."""
    costs = _costs(profile)
    mesh = placement.mesh
    held = max((sum(s.size for s in core.slices) for core in placement.cores), default=1)
    room = max(held, *(built.inputs.get(t, 0) + built.waiting.get(t, 0) for t in built.cores), 1)
    each = sorted({1, profile.features.soft_reset_compartments.value})
    tiles = []
    for tile, names in built.cores.items():
        cores = [
            _core(name, costs, held, each)
            if name.startswith("core")
            else _outside(name, room, built.inputs.get(tile, 0))
            for name in names
        ]
        tiles.append({"name": f"tile{tile}", "attributes": _hops(costs), "core": cores})
    return {
        "name": profile.name,
        "attributes": {
            "topology": "mesh",
            "width": 1 if mesh is None else mesh.width,
            "height": 1 if mesh is None else mesh.height,
            "link_buffer_size": _LINK_BUFFER,
            "sync_model": "fixed",
            "latency_sync": costs["barrier_ns"],
        },
        "tile": tiles,
    }


_LINK_BUFFER = 16
"""Flits; the value of the program's own description of Loihi."""


def _costs(profile: Profile) -> dict[str, float]:
    """In joules and seconds; 0 where the profile knows none."""
    if profile.energy is None or profile.time is None:
        raise InputError(
            f"profile {profile.name}",
            "events are simulated with what they cost",
            found="no energy or no time",
            allowed="a profile with both, such as loihi1 or loihi2",
            remedy="Export for one of these with --profile.",
        )
    found = {}
    for name in _CHARGED:
        pico = name.endswith("_pj")
        quantity = getattr(profile.energy if pico else profile.time, name)
        found[name] = 0.0 if quantity is None else quantity.value * (_PICO if pico else _NANO)
    return found


def _hops(costs: dict[str, float]) -> Json:
    found = {}
    for directions, key in (
        (("north", "south"), "hop_north_south"),
        (("east", "west"), "hop_east_west"),
    ):
        for direction in directions:
            found[f"energy_{direction}_hop"] = costs[f"{key}_pj"]
            found[f"latency_{direction}_hop"] = costs[f"{key}_ns"]
    return found


def _core(name: str, costs: dict[str, float], room: int, compartments: list[int]) -> Json:
    """A core of the chip: one kind of neuron for each number of compartments."""
    units = _units(room)
    somas = [_soma(f"neuron{n}{units}", "leaky_integrate_fire", costs, n) for n in compartments]
    return _pipeline(name, room, costs, somas)


def _outside(name: str, room: int, inputs: int) -> Json:
    """A core that costs nothing. A neuron that spikes in given steps has a unit of its own."""
    free = dict.fromkeys(_CHARGED, 0.0)
    somas = [_soma(f"waiting{_units(room)}", "leaky_integrate_fire", free, 1)]
    if inputs:
        somas.append(_soma(f"input[0..{inputs - 1}]", "input", free, 1))
    return _pipeline(name, room, free, somas)


def _units(room: int) -> str:
    """As many units as hold so many neurons."""
    return f"[0..{max(-(-room // UNIT_NEURONS), 1) - 1}]"


def _soma(name: str, model: str, costs: dict[str, float], compartments: int) -> Json:
    keys = {
        "access_neuron": ("neuron_access", compartments),
        "update_neuron": ("neuron_update", compartments),
        "spike_out": ("spike", 1),
    }
    attributes: Json = {"model": model}
    for theirs, (ours, times) in keys.items():
        attributes[f"energy_{theirs}"] = costs[f"{ours}_pj"] * times
        attributes[f"latency_{theirs}"] = costs[f"{ours}_ns"] * times
    return {"name": name, "attributes": attributes}


def _pipeline(name: str, room: int, costs: dict[str, float], somas: list[Json]) -> Json:
    return {
        "name": name,
        "attributes": {
            "buffer_position": "soma",
            "buffer_inside_unit": False,
            "max_neurons_supported": room,
        },
        "axon_in": [_unit("axon_in", message_in=(0.0, costs["axon_in_ns"]))],
        "synapse": [
            _unit(
                "synapse",
                model="current_based",
                process_spike=(costs["synop_pj"], costs["synop_ns"]),
            )
        ],
        "dendrite": [_unit(f"dendrite{_units(room)}", model="accumulator", update=(0.0, 0.0))],
        "soma": somas,
        "axon_out": [_unit("axon_out", message_out=(costs["axon_out_pj"], costs["axon_out_ns"]))],
    }


def _unit(name: str, model: str | None = None, **costs: tuple[float, float]) -> Json:
    attributes: Json = {} if model is None else {"model": model}
    for event, (energy, latency) in costs.items():
        attributes[f"energy_{event}"] = energy
        attributes[f"latency_{event}"] = latency
    return {"name": name, "attributes": attributes}
