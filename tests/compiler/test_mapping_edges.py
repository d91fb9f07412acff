"""Placements of networks that are out of the ordinary: four axes, views, neurons of unlike size."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from chips import chip
from netlists import connection, integers, population, proven
from placement_checker import violations

from lapilli.compiler.linear import Dense, Diagonal, LinearMap, Shape, Sparse, frozen
from lapilli.compiler.mapping import Objective, Placement, place
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import NeuronModel, Readout, SoftResetIF, Source
from lapilli.hardware_profiles import load


def full(before: Shape, after: Shape) -> Dense:
    weight = np.ones((math.prod(after), math.prod(before)))
    return Dense(frozen(weight, np.int8), before, after)


def same(before: Shape, after: Shape) -> Diagonal:
    return Diagonal(frozen(1, np.int8), before, after)


def chain(*maps: LinearMap) -> Netlist:
    """A layer behind every map, the last one a readout; spikes are 0 or 1."""
    populations = [population("input", maps[0].in_shape, Source(0, 1, "held"))]
    connections = []
    for i, m in enumerate(maps, start=1):
        last = i == len(maps)
        neuron: NeuronModel = SoftResetIF(integers(9), integers(0), integers(4))
        neuron = Readout(integers(0), integers(0)) if last else neuron
        populations.append(population(f"layer{i}", m.out_shape, neuron))
        connections.append(connection(populations[-2].name, f"layer{i}", m))
    return proven(Netlist(tuple(populations), tuple(connections), 4))


def cores_of(placement: Placement, name: str) -> int:
    return len({core.index for core, _ in placement.of(name)})


def test_the_bound_knows_of_a_fourth_axis() -> None:
    """All eight neurons are in one piece, so they share the axons of their inputs."""
    netlist = chain(full((30,), (1, 1, 1, 8)), full((1, 1, 1, 8), (2,)))
    profile = chip(input_axon_words_per_core=60)
    placement = place(netlist, profile, effort=0)
    assert violations(placement.netlist, placement, profile) == []
    assert len(placement.cores) == placement.bound.cores == 1


@pytest.mark.parametrize("like", ["loihi1", "loihi2"])
@pytest.mark.parametrize("neurons", [7, 13, 31])
@pytest.mark.parametrize("shapes", [((4, 3, 5), (60,)), ((4, 15), (3, 4, 5)), ((60,), (4, 3, 5))])
def test_axons_through_a_view_are_those_of_its_neurons(
    like: str, neurons: int, shapes: tuple[Shape, Shape]
) -> None:
    """A piece of the target is then several boxes of the source."""
    before, after = shapes
    netlist = chain(same(before, before), same(before, after), full(after, (2,)))
    profile = chip(like, neurons_per_core=neurons)
    placement = place(netlist, profile, effort=0)
    assert violations(placement.netlist, placement, profile) == []


@pytest.mark.parametrize("name", ["layer1", "layer2"])
@pytest.mark.parametrize("neurons", range(120, 250, 30))
def test_what_stays_whole_is_not_cut_to_fill_the_core_opened_last(name: str, neurons: int) -> None:
    """Where output axons are limited, populations share the core opened last."""
    netlist = chain(full((20,), (60,)), full((60,), (60,)), full((60,), (4,)))
    profile = chip("loihi1", neurons_per_core=neurons)
    placement = place(netlist, profile, effort=0, whole=[name])
    assert cores_of(placement, name) == 1
    assert violations(placement.netlist, placement, profile) == []


@pytest.mark.parametrize("objective", ["latency", "energy"])
def test_what_stays_whole_is_not_cut_for_speed(objective: Objective) -> None:
    netlist = chain(full((20,), (60,)), full((60,), (60,)), full((60,), (4,)))
    placement = place(netlist, load("loihi2"), objective=objective, effort=0, whole=["layer2"])
    assert cores_of(placement, "layer2") == 1
    assert len(placement.cores) > 1  # while its own time decides, others need not be cut


def test_one_neuron_may_be_slower_than_all_others() -> None:
    """Nobody can cut it, so speed ends there; the one in the middle of its layer is faster."""
    weight = np.zeros((61, 8000), np.int8)
    weight[0], weight[:, 0] = 1, 1
    sparse = Sparse.from_matrix(sp.csr_matrix(weight), (8000,), (61,))
    netlist = chain(sparse, full((61,), (2,)))
    placement = place(netlist, load("loihi2"), objective="latency", effort=0)
    (busiest,) = placement.cores[placement.step.busiest_core].slices  # type: ignore[union-attr]
    assert (busiest.population, busiest.box[0][0]) == ("layer1", 0)
    assert len(placement.cores) > 2
