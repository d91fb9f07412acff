"""Geometry of the mesh: places, distances, chip borders and link loads, against packets that walk.

The oracle moves every packet tile by tile in plain Python.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping.baselines import hilbert_index
from lapilli.compiler.mapping.core_graph import HOST_SLOT, CoreGraph, cost
from lapilli.compiler.mapping.mesh import Mesh

Tile = tuple[int, int]


@st.composite
def meshes(draw: st.DrawFn) -> Mesh:
    sizes = [draw(st.integers(1, 4)) for _ in range(4)]
    per_tile = draw(st.integers(1, 3))
    return Mesh(*sizes, per_tile, draw(st.integers(1, sizes[2] * sizes[3] * per_tile)))


def places_one_by_one(mesh: Mesh) -> list[tuple[int, Tile]]:
    """Chip and global tile of every slot, counted with loops."""
    places = []
    for row in range(mesh.chips_high):
        for column in range(mesh.chips_wide):
            on_chip = [
                (column * mesh.tiles_wide + x, row * mesh.tiles_high + y)
                for y in range(mesh.tiles_high)
                for x in range(mesh.tiles_wide)
                for _ in range(mesh.cores_per_tile)
            ]
            chip = row * mesh.chips_wide + column
            places += [(chip, tile) for tile in on_chip[: mesh.cores_per_chip]]
    return places


def walk(start: Tile, stop: Tile) -> list[tuple[Tile, Tile]]:
    """Links of a packet's way: along its row first, then along its column."""
    links, here = [], start
    while here != stop:
        if here[0] != stop[0]:
            there = (here[0] + (1 if stop[0] > here[0] else -1), here[1])
        else:
            there = (here[0], here[1] + (1 if stop[1] > here[1] else -1))
        links.append((here, there))
        here = there
    return links


@dataclass
class Walked:
    hops: float = 0.0
    from_host: float = 0.0
    sideways: float = 0.0
    crossings: float = 0.0
    farthest: int = 0


def walk_all(
    mesh: Mesh, ways: list[tuple[int, int, float, bool]]
) -> tuple[Walked, Counter[tuple[Tile, Tile]]]:
    """Totals and the load of every link under ways (slot, slot, packets, from the host)."""
    places = places_one_by_one(mesh)
    totals, loads = Walked(), Counter[tuple[Tile, Tile]]()
    for source, target, packets, host in ways:
        links = walk(places[source][1], places[target][1])
        totals.hops += packets * len(links)
        totals.from_host += packets * len(links) if host else 0
        totals.farthest = max(totals.farthest, len(links) if packets else 0)
        for (x, y), (x_next, y_next) in links:
            loads[(x, y), (x_next, y_next)] += packets
            totals.sideways += packets * (x != x_next)
            here = (x // mesh.tiles_wide, y // mesh.tiles_high)
            totals.crossings += packets * (
                here != (x_next // mesh.tiles_wide, y_next // mesh.tiles_high)
            )
    return totals, loads


@given(meshes())
def test_places_are_those_counted_one_by_one(mesh: Mesh) -> None:
    places = places_one_by_one(mesh)
    assert mesh.slots == len(places)
    found = zip(mesh.chip.tolist(), zip(mesh.x.tolist(), mesh.y.tolist(), strict=True), strict=True)
    assert list(found) == places
    assert (mesh.width, mesh.height) == (
        mesh.chips_wide * mesh.tiles_wide,
        mesh.chips_high * mesh.tiles_high,
    )


@settings(max_examples=60)
@given(meshes(), st.data())
def test_costs_and_link_loads_are_those_of_packets_that_walk(
    mesh: Mesh, data: st.DataObject
) -> None:
    cores = data.draw(st.integers(1, min(mesh.slots, 12)))
    slots = np.array(data.draw(st.permutations(range(mesh.slots)))[:cores])
    core = st.integers(0, cores - 1)
    edges = data.draw(st.lists(st.tuples(core, core, st.integers(0, 9)), max_size=15))
    host = data.draw(st.lists(st.integers(0, 9), min_size=cores, max_size=cores))
    columns = np.array(edges, np.int64).reshape(-1, 3).T
    graph = CoreGraph(
        columns[0], columns[1], columns[2].astype(np.float64), np.array(host, np.float64)
    )
    ways = [(int(slots[a]), int(slots[b]), float(p), False) for a, b, p in edges]
    ways += [(HOST_SLOT, int(slots[core]), float(p), True) for core, p in enumerate(host) if p]
    totals, loads = walk_all(mesh, ways)

    found = cost(graph, mesh, slots)
    assert found.packets == sum(way[2] for way in ways)
    assert found.packet_hops == totals.hops
    assert found.host_packet_hops == totals.from_host
    assert (found.east_west, found.north_south) == (totals.sideways, totals.hops - totals.sideways)
    assert found.chip_crossings == totals.crossings
    assert found.farthest == totals.farthest
    assert found.worst_link == max(loads.values(), default=0.0)
    assert found.mean_hops == (totals.hops / found.packets if found.packets else 0.0)

    source, target, packets, _ = np.array(ways or [(0, 0, 0.0, False)], np.int64).T
    found_loads = mesh.link_loads(source, target, packets.astype(np.float64))
    assert found_loads.total == totals.hops
    directions = {"east": (1, 0), "west": (-1, 0), "south": (0, 1), "north": (0, -1)}
    for name, (right, down) in directions.items():
        array = getattr(found_loads, name)
        shape = (mesh.height, mesh.width - 1) if right else (mesh.height - 1, mesh.width)
        assert array.shape == shape
        for y, x in np.ndindex(*shape):
            start = (x + (right < 0), y + (down < 0))
            assert array[y, x] == loads[start, (start[0] + right, start[1] + down)]


@given(meshes(), st.data())
def test_compact_slots_are_all_of_the_fewest_chips(mesh: Mesh, data: st.DataObject) -> None:
    cores = data.draw(st.integers(1, mesh.slots))
    slots = mesh.compact_slots(cores)
    chips = set(mesh.chip[slots].tolist())
    assert len(chips) == -(-cores // mesh.cores_per_chip)
    assert slots.tolist() == [i for i in range(mesh.slots) if mesh.chip[i] in chips]
    assert 0 in chips
    assert slots[0] == HOST_SLOT


def test_compact_chips_form_a_block() -> None:
    mesh = Mesh(32, 36, 8, 4, 4, 120)
    chips = set(mesh.chip[mesh.compact_slots(8 * 120)].tolist())
    assert chips == {row * 32 + column for row in range(4) for column in range(2)}  # 16 x 16 tiles


@given(st.integers(1, 2000), st.integers(1, 5), st.integers(1, 5))
def test_near_square_holds_the_cores(cores: int, wide: int, high: int) -> None:
    mesh = Mesh.near_square(cores, wide, high, 2, 2 * wide * high)
    assert mesh.slots >= cores
    chips = -(-cores // mesh.cores_per_chip)
    outlines = [w * wide + -(-chips // w) * high for w in range(1, chips + 1)]
    assert mesh.width + mesh.height == min(outlines)


def test_more_cores_than_slots_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        Mesh(2, 1, 2, 2, 1, 3).compact_slots(7)
    assert caught.value.found == "7 cores"
    assert caught.value.allowed == "6 of 2 chips"


@pytest.mark.parametrize("missing", range(6))
def test_nothing_of_a_mesh_is_zero(missing: int) -> None:
    numbers = [2, 2, 2, 2, 2, 2]
    numbers[missing] = 0
    with pytest.raises(InputError, match="at least one of everything") as caught:
        Mesh(*numbers)
    assert caught.value.where == "mesh, " + list(Mesh.__dataclass_fields__)[missing]


def test_a_chip_has_no_more_cores_than_its_tiles() -> None:
    with pytest.raises(InputError, match="a chip's cores sit on its tiles") as caught:
        Mesh(1, 1, 8, 4, 4, 129)
    assert caught.value.allowed == "8 x 4 tiles of 4 = 128"


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_hilbert_visits_every_cell_and_steps_to_a_neighbour(side: int) -> None:
    y, x = np.divmod(np.arange(side * side), side)
    order = np.argsort(hilbert_index(x, y, side))
    assert sorted(hilbert_index(x, y, side).tolist()) == list(range(side * side))
    steps = np.abs(np.diff(x[order])) + np.abs(np.diff(y[order]))
    assert set(steps.tolist()) <= {1}


def test_traffic_that_is_none_is_refused() -> None:
    good = {
        "source": np.array([0, 1]),
        "target": np.array([1, 0]),
        "packets": np.array([1.0, 2.0]),
        "host_packets": np.zeros(2),
    }
    assert CoreGraph(**good).cores == 2
    faults = {
        "edges join cores": {"target": np.array([1, 2])},
        "three vectors of one length": {"packets": np.ones(3)},
        "packets are counted": {"packets": np.array([1.0, -1.0])},
        "packets are": {"host_packets": np.array([np.nan, 0.0])},
    }
    for rule, wrong in faults.items():
        with pytest.raises(InputError, match=rule):
            CoreGraph(**(good | wrong))
