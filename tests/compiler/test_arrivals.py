"""To which cores neurons send: counted from edges, against every synapse unfolded."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from chips import chip, with_graded
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import ALL_CODINGS, Coding, connection, random_netlist
from random_boxes import random_boxes, random_tiling
from random_maps import IMAGES, random_map, random_view
from synapse_structure import structure

from lapilli.compiler.linear import FORMS, LinearMap, Shape
from lapilli.compiler.mapping.arrivals import Arrivals
from lapilli.compiler.mapping.regions import Boxes, indices, reshaped, whole
from lapilli.compiler.mapping.resources import on_host
from lapilli.compiler.mapping.synapse_memory import is_native
from lapilli.compiler.mapping.traffic import traffic
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Source
from lapilli.hardware_profiles import Profile

SEEDS = st.integers(0, 2**32 - 1)


def view(rng: np.random.Generator, shape: Shape, seen: bool) -> Shape:
    """The shape of a population that a map of this shape leaves or enters."""
    if not seen:
        return shape
    return (math.prod(shape),) if rng.random() < 0.5 else random_view(rng, shape)


@pytest.mark.parametrize("seen", [False, True], ids=["", "views"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=50)
@given(seed=SEEDS)
def test_pairs_of_a_neuron_and_a_core(
    form: type[LinearMap], shared: bool, seen: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    m = random_map(rng, form, IMAGES[rng.integers(len(IMAGES))])
    source, target = view(rng, m.in_shape, seen), view(rng, m.out_shape, seen)
    arrivals = Arrivals(connection("a", "b", m), source, target, shared)
    rows = structure(m)
    readers: list[list[Boxes]] = []  # in the shape of the map's outputs
    for core in range(int(rng.integers(1, 4))):
        boxes = random_boxes(rng, target)
        arrivals.add(core, boxes)
        here = reshaped(boxes, target, m.out_shape)
        readers.append([here] if shared else [(box,) for box in here])
    senders = random_boxes(rng, source)
    expected = [
        [
            sum(read(rows, m.out_shape, memory, source, (box,)) for memory in core)
            for core in readers
        ]
        for box in senders
    ]
    for box, wanted in zip(senders, expected, strict=True):
        found = np.zeros(len(readers), np.int64)
        np.add.at(found, arrivals.cores, arrivals.counts(box))
        assert found.tolist() == wanted
    assert arrivals.total(senders) == sum(map(sum, expected))


def read(rows: object, target: Shape, here: Boxes, source: Shape, there: Boxes) -> int:
    """How many neurons of some boxes have a synapse to neurons of others."""
    part = np.asarray(rows)[indices(target, here)][:, indices(source, there)]
    return int(part.any(axis=0).sum())


def test_without_targets_nothing_arrives() -> None:
    m = random_map(np.random.default_rng(0), FORMS[0], IMAGES[1])
    arrivals = Arrivals(connection("a", "b", m), m.in_shape, m.out_shape, True)
    assert arrivals.counts(whole(m.in_shape)).size == 0
    assert arrivals.total((whole(m.in_shape),)) == 0


def scattered(rng: np.random.Generator, netlist: Netlist, cores: int) -> list[dict[str, Boxes]]:
    """All neurons but the input's on random cores, at most two boxes of a population on each."""
    held: list[dict[str, Boxes]] = [{} for _ in range(cores)]
    for p in netlist.populations:
        if isinstance(p.neuron, Source):
            continue
        for box in random_tiling(rng, p.shape):
            free = [core for core in held if len(core.get(p.name, ())) < 2]
            chosen = free[rng.integers(len(free))]
            chosen[p.name] = (*chosen.get(p.name, ()), box)
    return held


CHIPS = {"rows": chip(), "lists": with_graded(chip("loihi1")), "host": chip("loihi1")}


@pytest.mark.parametrize("profile", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("coding", ALL_CODINGS)
@settings(max_examples=3)
@given(seed=SEEDS)
def test_packets_between_cores(coding: Coding, profile: Profile, seed: int) -> None:
    rng = np.random.default_rng(seed)
    netlist = random_netlist(rng, coding)
    rates = {p.name: float(rng.random()) for p in netlist.populations if rng.random() < 0.7}
    held = scattered(rng, netlist, 5)
    axons, host = Counter[tuple[int, int]](), np.zeros(5)
    packets = Counter[tuple[int, int]]()
    for c in netlist.connections:
        if on_host(netlist, c, profile):
            continue
        rows, source, target = structure(c.map), netlist[c.source], netlist[c.target]
        for here, boxes in enumerate(core.get(c.target, ()) for core in held):
            memories = [boxes] if is_native(profile) else [(box,) for box in boxes]
            for there, sent in enumerate(core.get(c.source, ()) for core in held):
                n = sum(read(rows, target.shape, m, source.shape, sent) for m in memories)
                if n:
                    axons[there, here] += n
                    packets[there, here] += n * rates.get(c.source, 1.0)
            if isinstance(source.neuron, Source):
                everything = (whole(source.shape),)
                n = sum(read(rows, target.shape, m, source.shape, everything) for m in memories)
                host[here] += n * rates.get(c.source, 1.0)
    found = traffic(netlist, held, profile, rates)
    edges = list(zip(found.source.tolist(), found.target.tolist(), strict=True))
    assert edges == sorted(set(edges))
    assert dict(zip(edges, found.axons.tolist(), strict=True)) == axons
    assert dict(zip(edges, found.packets.tolist(), strict=True)) == pytest.approx(packets)
    assert found.host_packets.tolist() == pytest.approx(host.tolist())
    sent = [sum(n for (there, _), n in axons.items() if there == core) for core in range(5)]
    assert found.output_axons.tolist() == sent
