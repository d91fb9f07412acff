"""Layouts improved by swapping cores: simulated annealing, many swaps at a time.

A sweep proposes up to one swap for every core: with a core near by, or with one near the centre of
its partners (the force-directed half). Ways join two cores each, so the change of the cost by many
swaps at once is, exactly, the sum of what each does alone and of what each two of them do to the
ways between them. A swap is taken only if it still pays with all that swaps ahead of it may add.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.mapping.mesh import Floats, Ints

Progress = Callable[[int, int, float], None]
"""Called now and then with sweeps done, sweeps in all, cost now."""

_CHUNK = 1 << 17  # half edges looked at together: what is in work stays in the cache
_CENTRE_AGE = 4  # sweeps after which the centres of the partners are computed anew
_COLD = 0.1  # share of the sweeps at the end that take improvements alone
_WARM = 400  # sweeps that can cool from the mean change of a swap with a neighbouring tile
_COOLING = 30.0  # first temperature over the last
_REACH = 3  # tiles between the cores of a swap at the start; it shrinks to 1


@final
@dataclass(frozen=True, eq=False)
class Places:
    """Where cores can sit: column and row of every place, and the places of every tile.

    x, y: integers, shape (places,), stretched by what a chip border costs; tile_first,
    tile_count: first place and number of places of the tile at [row, column].
    """

    x: npt.NDArray[np.int32]
    y: npt.NDArray[np.int32]
    tile_x: npt.NDArray[np.int32]
    tile_y: npt.NDArray[np.int32]
    tile_first: Ints
    tile_count: Ints


@final
@dataclass(frozen=True, eq=False)
class HalfEdges:
    """Traffic as a symmetric graph without loops, sorted by node.

    node, partner: shape (half edges,), every pair of partners in both directions; weight: packets
    per step of both directions together; first: where each node's half edges begin, shape (nodes
    + 1,); pull: packets per step that tie each node to place (0, 0), shape (nodes,).
    """

    node: npt.NDArray[np.int32]
    partner: npt.NDArray[np.int32]
    weight: Floats
    first: Ints
    pull: Floats

    @classmethod
    def of(cls, source: Ints, target: Ints, packets: Floats, pull: Floats) -> HalfEdges:
        """Half edges of directed edges between `len(pull)` nodes."""
        nodes = len(pull)
        apart = (source != target) & (packets > 0)
        source, target, packets = source[apart], target[apart], packets[apart]
        key = np.concatenate((source * nodes + target, target * nodes + source))
        order = np.argsort(key, kind="stable")
        key = key[order]
        new = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1]))[: len(key)])
        weight = np.concatenate((packets, packets))[order]
        node, partner = np.divmod(key[new], nodes)
        return cls(
            node=node.astype(np.int32),
            partner=partner.astype(np.int32),
            weight=np.add.reduceat(weight, new) if len(new) else weight,
            first=np.searchsorted(node, np.arange(nodes + 1)),
            pull=pull,
        )


@final
class Layout:
    """Nodes on places, one each, and the swaps that change it. `place[node]` is the state.

    There are as many nodes as places: those without traffic stand for empty places.
    """

    def __init__(self, places: Places, edges: HalfEdges, place: Ints):
        self._places, self._edges = places, edges
        self.place = place.copy()
        self._node = np.empty_like(place)  # on every place
        self._node[place] = np.arange(len(place))
        steps = np.searchsorted(edges.first, np.arange(0, edges.first[-1] + _CHUNK, _CHUNK))
        self._chunks = np.unique(np.append(steps, len(place)).clip(max=len(place)))
        self._total = np.bincount(edges.node, edges.weight, minlength=len(place)) + edges.pull
        self._total[self._total == 0] = 1.0

    def cost(self) -> float:
        """Packets x distance of the whole layout."""
        x, y = self._positions()
        node, partner = self._edges.node, self._edges.partner
        way = np.abs(x[node] - x[partner]) + np.abs(y[node] - y[partner])
        return float(self._edges.weight @ way) / 2 + float(self._edges.pull @ (x + y))

    def gains(self, one: Ints, other: Ints) -> Floats:
        """Change of the cost by each swap of one[k] with other[k] alone; no node twice."""
        target = np.arange(len(self.place))
        target[one], target[other] = other, one
        change = self._changes(target)
        gains: Floats = change[one] + change[other]
        return gains

    def sweep(
        self, one: Ints, other: Ints, temperature: float, rng: np.random.Generator
    ) -> tuple[float, int]:
        """Swap some of the pairs (no node twice): (change of the cost, number of swaps).

        Improvements are taken, and worse swaps with probability exp(-loss / temperature), where
        what the swaps ahead may add counts as lost: at temperature 0 the cost never rises.
        """
        gains = self.gains(one, other)
        bar = -temperature * np.log1p(-rng.random(len(one)))
        taken = np.flatnonzero(gains < bar)
        order = rng.permutation(len(taken)) if temperature > 0 else np.argsort(gains[taken])
        taken = taken[order]
        one, other, gains = one[taken], other[taken], gains[taken]
        swap, ahead, added = self._between(one, other)
        kept = gains + np.bincount(swap, np.maximum(added, 0), len(gains)) < bar[taken]
        change = gains[kept].sum() + added[kept[swap] & kept[ahead]].sum()
        one, other = one[kept], other[kept]
        self.place[one], self.place[other] = self.place[other], self.place[one]
        self._node[self.place[one]], self._node[self.place[other]] = one, other
        return float(change), len(one)

    def near(self, reach: int, movers: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Pairs of each of the first `movers` nodes with one at most `reach` tiles away."""
        node = rng.permutation(movers)
        step = rng.integers(-reach, reach + 1, (2, movers))
        place = self.place[node]
        x, y = self._places.tile_x[place] + step[0], self._places.tile_y[place] + step[1]
        return self._pairs(node, x, y, rng)

    def centres(self) -> tuple[Floats, Floats]:
        """Weighted mean of the tile columns and rows of every node's partners."""
        edges, nodes = self._edges, len(self.place)
        x, y = self._places.tile_x[self.place], self._places.tile_y[self.place]
        return (
            np.bincount(edges.node, edges.weight * x[edges.partner], nodes) / self._total,
            np.bincount(edges.node, edges.weight * y[edges.partner], nodes) / self._total,
        )

    def drawn(
        self, centres: tuple[Floats, Floats], reach: int, movers: int, rng: np.random.Generator
    ) -> tuple[Ints, Ints]:
        """Pairs of each of the first `movers` nodes with one near the centre of its partners."""
        node = rng.permutation(movers)
        step = rng.uniform(-reach, reach, (2, movers))
        x, y = (
            np.floor(centre[node] + shift + 0.5).astype(np.int64)
            for centre, shift in zip(centres, step, strict=True)
        )
        return self._pairs(node, x, y, rng)

    def _positions(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        return self._places.x[self.place], self._places.y[self.place]

    def _pairs(self, node: Ints, x: Ints, y: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Each node with one on the tile (x, y); of pairs that share a node, the first stays."""
        high, wide = self._places.tile_first.shape
        x, y = x.clip(0, wide - 1), y.clip(0, high - 1)
        count = self._places.tile_count[y, x]
        drawn = (rng.random(len(node)) * count).astype(np.int64)
        there = np.minimum(self._places.tile_first[y, x] + drawn, len(self.place) - 1)
        other = self._node[there]
        here = self.place[node]
        tiles = (self._places.tile_x, self._places.tile_y)
        elsewhere = (tiles[0][here] != tiles[0][there]) | (tiles[1][here] != tiles[1][there])
        useful = (count > 0) & elsewhere
        node, other = node[useful], other[useful]
        rank = np.arange(len(node))
        first = np.full(len(self.place), len(node))
        # The last of repeated assignments stays, so the pairs are written from the back.
        first[other[::-1]] = rank[::-1]
        first[node] = np.minimum(first[node], rank)
        alone = (first[node] == rank) & (first[other] == rank)
        return node[alone], other[alone]

    def _changes(self, target: Ints) -> Floats:
        """Change of each node's ways if it alone moves to where node target[node] sits.

        The way between two nodes that change places stays as it is.
        """
        x, y = self._positions()
        x_new, y_new = x[target], y[target]
        edges = self._edges
        change = np.asarray(edges.pull * ((x_new + y_new) - (x + y)), np.float64)
        for low, high in zip(self._chunks[:-1], self._chunks[1:], strict=True):
            part = slice(edges.first[low], edges.first[high])
            node, partner = edges.node[part], edges.partner[part]
            x_there, y_there = x[partner], y[partner]
            way = np.abs(x_new[node] - x_there) + np.abs(y_new[node] - y_there)
            way -= np.abs(x[node] - x_there) + np.abs(y[node] - y_there)
            way[target[node] == partner] = 0
            change[low:high] += np.bincount(node - low, edges.weight[part] * way, high - low)
        return change

    def _between(self, one: Ints, other: Ints) -> tuple[Ints, Ints, Floats]:
        """Ways between the cores of two swaps each: (swap, the swap ahead of it, change).

        The change is what both swaps together add to what each of them alone changes.
        """
        rank = np.full(len(self.place), -1)
        rank[one] = rank[other] = np.arange(len(one))
        target = np.arange(len(self.place))
        target[one], target[other] = other, one
        mover = np.concatenate((one, other))
        begin, count = self._edges.first[mover], np.diff(self._edges.first)[mover]
        half_edge = np.arange(int(count.sum()))
        half_edge += np.repeat(begin - (np.cumsum(count) - count), count)
        mover = np.repeat(mover, count)
        partner = self._edges.partner[half_edge]
        met = (rank[partner] >= 0) & (rank[partner] < rank[mover])
        mover, partner = mover[met], partner[met]
        added = np.zeros(len(mover), np.int64)
        for line in self._positions():
            here, there = line[mover], line[partner]
            here_new, there_new = line[target[mover]], line[target[partner]]
            added += np.abs(here_new - there_new) + np.abs(here - there)
            added -= np.abs(here_new - there) + np.abs(here - there_new)
        return rank[mover], rank[partner], added * self._edges.weight[half_edge[met]]


def anneal(
    layout: Layout,
    movers: int,
    *,
    sweeps: int,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> float:
    """Improve a layout in place; returns its cost.

    movers: nodes 0 .. movers - 1 propose swaps, the others stand for empty places. `progress` is
    called after every sweep.
    """
    change = np.abs(layout.gains(*layout.near(1, movers, rng)))
    hot = min(1.0, sweeps / _WARM) * float(change.mean()) if len(change) else 0.0
    now = layout.cost()
    centres = layout.centres()
    for sweep in range(sweeps):
        share = sweep / sweeps
        heat = hot * _COOLING**-share if share < 1 - _COLD else 0.0
        far = max(1, int(_REACH ** (1 - share)))
        if sweep % (2 * _CENTRE_AGE) == 0:
            centres = layout.centres()
        if sweep % 2:
            pairs = layout.near(far, movers, rng)
        else:
            pairs = layout.drawn(centres, far, movers, rng)
        now += layout.sweep(*pairs, heat, rng)[0]
        if progress is not None:
            progress(sweep + 1, sweeps, now)
    return layout.cost()
