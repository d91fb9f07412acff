"""Which core sits where: a layout with few packets x hops.

The start is the best of layer order, a Hilbert curve and layouts from the shape of the traffic
(`embedding`); simulated annealing improves it (`anneal`). Everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, inf, sqrt
from typing import Literal, final

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping.anneal import HalfEdges, Layout, Places, Progress, anneal
from lapilli.compiler.mapping.baselines import along_hilbert, at_random, in_order
from lapilli.compiler.mapping.core_graph import CoreGraph
from lapilli.compiler.mapping.embedding import halve, plane
from lapilli.compiler.mapping.mesh import Ints, Mesh

Start = Literal["best", "order", "hilbert", "random", "traffic"]

_SWEEPS = 190_000.0  # of a graph with one half edge; they grow with the root of 1 / half edges
_FEWEST, _MOST = 10, 4000  # sweeps at effort 1
_PARTS = (8, 16, 32, 64, 150)  # numbers of parts, each of which gives first layouts
_FEW = 3  # up to so many cores stay in order: a plane takes more
_MANY = 20_000  # from so many cores on, the largest of these numbers alone


@final
@dataclass(frozen=True, eq=False)
class Arrangement:
    """Core i sits on slot slot[i], shape (cores,); `start` says which first layout was taken."""

    slot: Ints
    start: str


def arrange(
    graph: CoreGraph,
    mesh: Mesh,
    *,
    seed: int = 0,
    effort: float = 1.0,
    start: Start = "best",
    crossing_hops: int = 0,
    progress: Progress | None = None,
) -> Arrangement:
    """Lay the cores of a graph on the slots of the fewest chips that hold them.

    Minimises packets x (hops + crossing_hops x borders between chips); the host's packets count.
    effort scales the sweeps of the annealing (0: none); start chooses the first layout: "order",
    "hilbert", "random", "traffic", or "best": the cheapest of all but random. The result costs no
    more than the start. progress is called with sweeps done, sweeps in all, cost now.

    Errors: InputError for more cores than slots, a negative effort or crossing_hops.
    """
    for name, value in (("effort", effort), ("crossing_hops", crossing_hops)):
        if not value >= 0:
            raise InputError(
                f"arrange, {name}",
                "work and costs are not negative",
                found=value,
                allowed="0 or more",
                remedy=f"Give {name} as 0 or more.",
            )
    slots = mesh.compact_slots(graph.cores)
    if graph.cores == 0:
        return Arrangement(slots[:0], "order")
    places = _places(mesh, slots, crossing_hops)
    edges = HalfEdges.of(
        graph.source,
        graph.target,
        graph.packets,
        np.append(graph.host_packets, np.zeros(len(slots) - graph.cores)),
    )
    best, place, now = "", slots, inf
    for name, cores in _starts(graph.cores, mesh, slots, places, edges, start, seed):
        candidate = _with_empty(cores, len(slots))
        if (costs := Layout(places, edges, candidate).cost()) < now:
            best, place, now = name, candidate, costs
    layout = Layout(places, edges, place)
    sweeps = min(max(_SWEEPS / sqrt(max(1, len(edges.node))), _FEWEST), _MOST)
    after = anneal(
        layout,
        graph.cores,
        sweeps=ceil(effort * sweeps),
        rng=np.random.default_rng(seed),
        progress=progress,
    )
    place = layout.place if after < now else place
    return Arrangement(slots[place[: graph.cores]], best)


def _places(mesh: Mesh, slots: Ints, crossing_hops: int) -> Places:
    x, y = mesh.x[slots], mesh.y[slots]
    row, column = np.divmod(mesh.chip[slots], mesh.chips_wide)
    shape = (int(y.max()) + 1, int(x.max()) + 1)
    count = np.zeros(shape, np.int64)
    np.add.at(count, (y, x), 1)
    first = np.full(shape, len(slots))
    np.minimum.at(first, (y, x), np.arange(len(slots)))
    return Places(
        # Distances between stretched positions hold hops and what the borders between cost.
        x=(x + crossing_hops * column).astype(np.int32),
        y=(y + crossing_hops * row).astype(np.int32),
        tile_x=x.astype(np.int32),
        tile_y=y.astype(np.int32),
        tile_first=first,
        tile_count=count,
    )


def _with_empty(place: Ints, places: int) -> Ints:
    """Places of all nodes: the cores' own, then the empty ones."""
    empty = np.ones(places, bool)
    empty[place] = False
    return np.concatenate((place, np.flatnonzero(empty)))


def _starts(
    cores: int, mesh: Mesh, slots: Ints, tiles: Places, edges: HalfEdges, start: Start, seed: int
) -> Iterator[tuple[str, Ints]]:
    """First layouts, as places of the cores: the plain ones, then those from the traffic."""
    plain = {
        "order": in_order(cores, mesh),
        "hilbert": along_hilbert(cores, mesh),
        "random": at_random(cores, mesh, seed),
    }
    for name, slot in plain.items():
        few = cores <= _FEW and name == "order"
        if start == name or few or (start == "best" and name != "random"):
            yield name, np.searchsorted(slots, slot)
    if start not in ("best", "traffic") or cores <= _FEW:
        return
    tried = _PARTS[-1:] if cores >= _MANY else _PARTS
    for parts in sorted({min(parts, max(cores // 4, 3)) for parts in tried}):
        position = plane(edges, cores, parts, seed)
        # The slower mode along x and along y: which fits the block of chips better is tried.
        for name, turned in (("upright", position), ("turned", position[:, ::-1])):
            yield f"traffic, {parts} parts, {name}", halve(turned, tiles.tile_x, tiles.tile_y)
