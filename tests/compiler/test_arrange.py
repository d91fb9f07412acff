"""Which core sits where: exact costs of swaps, none worse than the plain layouts, and how good."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping.anneal import HalfEdges, Layout, Places
from lapilli.compiler.mapping.arrange import Start, arrange
from lapilli.compiler.mapping.baselines import along_hilbert, at_random, in_order
from lapilli.compiler.mapping.core_graph import CoreGraph, cost
from lapilli.compiler.mapping.embedding import halve
from lapilli.compiler.mapping.mesh import Ints, Mesh

SMALL = Mesh(2, 2, 3, 2, 2, 11)  # 44 slots; the last place of each chip does not exist


def graph_of(edges: list[tuple[int, int, float]], cores: int, host: float = 0.0) -> CoreGraph:
    columns = np.array(edges, np.float64).reshape(-1, 3).T
    host_packets = np.zeros(cores)
    host_packets[: 1 + cores // 4] = host
    return CoreGraph(
        columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2], host_packets
    )


@st.composite
def graphs(draw: st.DrawFn, most: int = 44) -> CoreGraph:
    cores = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(0, 5 * cores))
    ends = rng.integers(0, cores, (2, count))
    host = rng.integers(0, 3, cores).astype(np.float64)
    return CoreGraph(ends[0], ends[1], rng.uniform(0, 5, count), host)


@cache
def network() -> CoreGraph:
    """Like a residual network on 298 cores: planes of 7x7, 4x4, 2x2 cores, then dense layers.

    Cores of a plane send to their 3x3 neighbourhood in the next, to a quarter as many where it
    shrinks, and past one layer to their own place; the dense layers join all to all.
    """
    rng = np.random.default_rng(7)
    edges: list[tuple[int, int, float]] = []
    layers: list[Ints] = []
    cores = 0
    for side, depth in ((7, 4), (4, 4), (2, 3)):
        for _ in range(depth):
            layers.append(np.arange(cores, cores + side * side).reshape(side, side))
            cores += side * side
    for before, after in pairwise(layers):
        wide, narrow = before.shape[0], after.shape[0]
        for y, x in np.ndindex(wide, wide):
            home = (y * narrow // wide, x * narrow // wide)
            reach = 1 if wide == narrow else 0
            for row in range(max(0, home[0] - reach), min(narrow, home[0] + reach + 1)):
                for column in range(max(0, home[1] - reach), min(narrow, home[1] + reach + 1)):
                    packets = rng.uniform(20, 400) * (1 if (row, column) == home else 0.2)
                    edges.append((int(before[y, x]), int(after[row, column]), packets))
    for before, after in zip(layers[:-2:2], layers[2::2], strict=True):
        if before.shape == after.shape:
            ends = zip(before.ravel().tolist(), after.ravel().tolist(), strict=True)
            edges += [(a, b, float(rng.uniform(20, 400))) for a, b in ends]
    last = layers[-1].ravel()
    for _ in range(2):
        dense = np.arange(cores, cores + 13)
        cores += 13
        edges += [(int(a), int(b), float(rng.uniform(20, 200))) for a in last for b in dense]
        last = dense
    host = np.zeros(cores)
    host[:49] = 100.0
    columns = np.array(edges).T
    return CoreGraph(columns[0].astype(np.int64), columns[1].astype(np.int64), columns[2], host)


def packet_hops(graph: CoreGraph, mesh: Mesh, slots: Ints) -> float:
    return cost(graph, mesh, slots).packet_hops


def on_grid(graph: CoreGraph, wide: int, high: int, seed: int) -> tuple[Places, HalfEdges, Ints]:
    """A grid of tiles of one place each, the graph on it, and random places of all its nodes."""
    y, x = np.divmod(np.arange(wide * high, dtype=np.int32), np.int32(wide))
    first = np.arange(wide * high).reshape(high, wide)
    places = Places(x, y, x, y, first, np.ones_like(first))
    pull = np.append(graph.host_packets, np.zeros(wide * high - graph.cores))
    edges = HalfEdges.of(graph.source, graph.target, graph.packets, pull)
    return places, edges, np.random.default_rng(seed).permutation(wide * high)


def full_cost(graph: CoreGraph, wide: int, place: Ints) -> float:
    """Packets x hops, edge by edge."""
    total = 0.0
    for a, b, packets in zip(graph.source, graph.target, graph.packets, strict=True):
        (y, x), (v, u) = divmod(int(place[a]), wide), divmod(int(place[b]), wide)
        total += float(packets) * (abs(x - u) + abs(y - v))
    for core, packets in enumerate(graph.host_packets):
        total += float(packets) * sum(divmod(int(place[core]), wide))
    return total


@settings(max_examples=40)
@given(graphs(), st.integers(0, 1000))
def test_gain_of_a_swap_is_the_change_of_the_full_cost(graph: CoreGraph, seed: int) -> None:
    places, edges, place = on_grid(graph, 8, 6, seed)
    layout = Layout(places, edges, place)
    before = full_cost(graph, 8, place)
    assert layout.cost() == pytest.approx(before)
    one, other = np.random.default_rng(seed).permutation(48).reshape(2, 24)
    gains = layout.gains(one, other)
    for k in range(0, 24, 5):
        swapped = place.copy()
        swapped[one[k]], swapped[other[k]] = place[other[k]], place[one[k]]
        change = full_cost(graph, 8, swapped) - before
        assert gains[k] == pytest.approx(change, abs=1e-9 * (1 + before))
    assert layout.place.tolist() == place.tolist()


@settings(max_examples=40)
@given(graphs(), st.integers(0, 1000), st.sampled_from([0.0, 1.0, 50.0]))
def test_change_of_a_sweep_is_the_change_of_the_full_cost(
    graph: CoreGraph, seed: int, temperature: float
) -> None:
    places, edges, place = on_grid(graph, 8, 6, seed)
    layout, rng = Layout(places, edges, place), np.random.default_rng(seed)
    now = full_cost(graph, 8, place)
    for step in range(4):
        near = layout.near(2, graph.cores, rng)
        pairs = layout.drawn(layout.centres(), 2, graph.cores, rng) if step % 2 else near
        assert len(set(np.concatenate(pairs).tolist())) == 2 * len(pairs[0])
        change, _ = layout.sweep(*pairs, temperature, rng)
        assert temperature > 0 or change <= 0
        after = full_cost(graph, 8, layout.place)
        assert after - now == pytest.approx(change, abs=1e-9 * (1 + now))
        assert sorted(layout.place.tolist()) == list(range(48))
        now = after


def test_hot_sweeps_take_losses_and_cold_ones_none() -> None:
    graph = network()
    places, edges, place = on_grid(graph, 18, 17, 3)
    layout, rng = Layout(places, edges, place), np.random.default_rng(3)
    cold = [layout.sweep(*layout.near(2, graph.cores, rng), 0.0, rng)[0] for _ in range(40)]
    assert max(cold) <= 0
    assert sum(cold) < 0
    change, swaps = layout.sweep(*layout.near(2, graph.cores, rng), 1e9, rng)
    assert change > 0
    assert swaps > 80  # nearly all, though most of them touch others


@settings(max_examples=25)
@given(graphs(), st.integers(0, 9))
def test_every_slot_once_and_no_worse_than_any_plain_layout(graph: CoreGraph, seed: int) -> None:
    found = arrange(graph, SMALL, seed=seed, effort=0.02)
    assert len(set(found.slot.tolist())) == graph.cores
    assert set(found.slot.tolist()) <= set(SMALL.compact_slots(graph.cores).tolist())
    mine = packet_hops(graph, SMALL, found.slot)
    for plain in (in_order, along_hilbert):
        assert mine <= packet_hops(graph, SMALL, plain(graph.cores, SMALL)) * (1 + 1e-12)
    shuffled = at_random(graph.cores, SMALL, seed)
    assert sorted(shuffled.tolist()) == in_order(graph.cores, SMALL).tolist()
    from_random = arrange(graph, SMALL, seed=seed, effort=0.02, start="random").slot
    limit = packet_hops(graph, SMALL, shuffled) * (1 + 1e-12)
    assert packet_hops(graph, SMALL, from_random) <= limit


def test_a_network_is_far_better_than_in_order_and_at_random() -> None:
    graph = network()
    assert graph.cores == 298
    mesh = Mesh.near_square(graph.cores, 8, 4, 4, 128)
    found = arrange(graph, mesh)
    mine = packet_hops(graph, mesh, found.slot)
    assert mine <= 0.7 * packet_hops(graph, mesh, in_order(graph.cores, mesh))
    assert mine <= 0.3 * packet_hops(graph, mesh, at_random(graph.cores, mesh))


def test_the_seed_decides_everything() -> None:
    graph, mesh = network(), Mesh.near_square(298, 8, 4, 4, 128)
    one, again, other = (
        arrange(graph, mesh, seed=seed, effort=0.05).slot.tolist() for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


def test_effort_pays() -> None:
    graph, mesh = network(), Mesh.near_square(298, 8, 4, 4, 128)
    none, some = (arrange(graph, mesh, effort=effort) for effort in (0, 0.2))
    assert none.start == some.start
    assert none.start.startswith("traffic")
    assert packet_hops(graph, mesh, some.slot) < 0.9 * packet_hops(graph, mesh, none.slot)


def test_borders_are_crossed_less_where_they_cost_more() -> None:
    graph, mesh = network(), Mesh.near_square(298, 8, 4, 4, 128)
    cheap, dear = (
        cost(graph, mesh, arrange(graph, mesh, effort=0.1, crossing_hops=hops).slot)
        for hops in (0, 10)
    )
    assert dear.chip_crossings < 0.98 * cheap.chip_crossings


def test_progress_counts_sweeps_and_ends_at_the_cost() -> None:
    graph, mesh = network(), Mesh.near_square(298, 8, 4, 4, 128)
    seen: list[tuple[int, int, float]] = []
    found = arrange(graph, mesh, effort=0.01, progress=lambda *now: seen.append(now))
    assert [done for done, _, _ in seen] == list(range(1, seen[0][1] + 1))
    assert seen[-1][2] == pytest.approx(packet_hops(graph, mesh, found.slot))


@pytest.mark.parametrize("start", ["best", "order", "hilbert", "random", "traffic"])
@pytest.mark.parametrize("cores", [0, 1, 2, 3, 4, 5, 44])
def test_graphs_of_any_size_without_an_edge(cores: int, start: Start) -> None:
    found = arrange(graph_of([], cores), SMALL, start=start, effort=0.01)
    assert len(set(found.slot.tolist())) == cores
    assert all(0 <= slot < SMALL.slots for slot in found.slot.tolist())


@pytest.mark.parametrize(
    "edges",
    [
        [(0, i, 1.0) for i in range(1, 40)],  # a star
        [(i, i, 3.0) for i in range(40)],  # to itself
        [(i, i ^ 1, 1.0) for i in range(40)],  # twins apart from one another
        [(i, j, 1.0) for i in range(40) for j in range(40)],  # all to all
        [(i, i + 1, 0.0) for i in range(39)],  # silent
        [(0, 1, 1e300), (2, 3, 1e-300)],  # far apart in size
    ],
)
def test_odd_graphs_are_laid_out(edges: list[tuple[int, int, float]]) -> None:
    graph = graph_of(edges, 40, host=1.0)
    found = arrange(graph, SMALL, effort=0.01)
    assert len(set(found.slot.tolist())) == 40
    before = packet_hops(graph, SMALL, in_order(40, SMALL))
    assert packet_hops(graph, SMALL, found.slot) <= before * (1 + 1e-12)


def test_twins_share_a_tile() -> None:
    mesh = Mesh(1, 1, 4, 5, 2, 40)
    graph = graph_of([(i, i + 20, 1.0) for i in range(20)], 40)
    assert packet_hops(graph, mesh, arrange(graph, mesh).slot) == 0.0
    assert packet_hops(graph, mesh, in_order(40, mesh)) > 0


def test_halving_lays_a_grid_on_itself() -> None:
    y, x = np.divmod(np.arange(96, dtype=np.int32), np.int32(12))
    rng = np.random.default_rng(0)
    order = rng.permutation(96)
    position = np.stack((x, y), axis=1)[order] * 3.7 + rng.uniform(-1, 1, (96, 2))
    assert halve(position, x, y).tolist() == order.tolist()


def test_halving_spreads_few_cores_over_many_places() -> None:
    y, x = np.divmod(np.arange(100, dtype=np.int32), np.int32(10))
    place = halve(np.random.default_rng(0).uniform(0, 1, (40, 2)), x, y)
    assert len(set(place.tolist())) == 40
    quarters = np.bincount(2 * (y[place] >= 5) + (x[place] >= 5), minlength=4)
    assert quarters.tolist() == [10, 10, 10, 10]


@pytest.mark.parametrize(
    "wrong", [{"effort": -1.0}, {"effort": float("nan")}, {"crossing_hops": -1}]
)
def test_negative_work_and_costs_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="not negative") as caught:
        arrange(graph_of([], 2), SMALL, **wrong)  # type: ignore[arg-type]
    assert caught.value.where == f"arrange, {next(iter(wrong))}"


def test_more_cores_than_the_mesh_has_are_refused() -> None:
    with pytest.raises(InputError, match="a core of its own"):
        arrange(graph_of([], 45), SMALL)
