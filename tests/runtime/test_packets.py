"""Packets of single neurons: against the mapper's axons, and the messages of a run one by one."""

from __future__ import annotations

from typing import Any

import chips
import netlists
import numpy as np
import pytest
from netlists import Coding

from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping import Placement, place
from lapilli.compiler.mapping.placement import pieces
from lapilli.compiler.mapping.traffic import flows
from lapilli.compiler.neurons import Readout
from lapilli.hardware_profiles import Profile
from lapilli.runtime import packets, reference

IMAGES = 3


def placed(coding: Coding, like: str) -> tuple[Placement, Profile, Any]:
    """A random network on small cores, and inputs for it."""
    rng = np.random.default_rng(2)
    netlist = netlists.random_netlist(rng, coding)
    size = max(p.size for p in netlist.populations[1:])
    profile = chips.chip(like, neurons_per_core=-(-size // (1 if like == "loihi1" else 3)))
    profile = chips.with_graded(profile) if like == "loihi2" else profile
    inputs = netlists.random_inputs(rng, netlist, IMAGES)
    return place(netlist, profile, effort=0), profile, inputs


@pytest.mark.parametrize(("coding", "like"), [("graded", "loihi2"), ("rate", "loihi1")])
def test_one_message_of_each_neuron_takes_every_axon(coding: Coding, like: str) -> None:
    placement, profile, _ = placed(coding, like)
    netlist, cores = placement.netlist, len(placement.cores)
    wanted = np.zeros((cores + 1, cores), np.int64)
    for flow in flows(netlist, [pieces(core) for core in placement.cores], profile):
        np.add.at(wanted[cores if flow.core is None else flow.core], flow.ends, flow.axons)
    ones = {p.name: np.ones(p.size, np.int64) for p in netlist.populations}
    found = packets.count(placement, profile, ones)
    assert cores > 3
    assert found.between.tolist() == wanted.tolist()
    assert found.arriving.tolist() == wanted.sum(0).tolist()
    assert (found.sent, found.from_host) == (wanted[:-1].sum(), wanted[-1].sum())
    assert (found.from_host > 0) == (like == "loihi2")
    x, y, chip = ([] for _ in range(3))
    for core in placement.cores:
        assert core.tile is not None
        x.append(core.tile[0])
        y.append(core.tile[1])
        chip.append(core.chip)
    x.append(0)
    y.append(0)
    east_west = north_south = 0
    for start, stop in np.argwhere(wanted).tolist():
        east_west += abs(x[start] - x[stop]) * wanted[start, stop]
        north_south += abs(y[start] - y[stop]) * wanted[start, stop]
    assert (found.east_west, found.north_south) == (east_west, north_south)
    if len(set(chip)) == 1:
        assert found.chip_crossings == 0


@pytest.mark.parametrize("coding", ["graded", "unary", "rate", "signed", "train"])
def test_messages_are_spikes_one_by_one(coding: Coding) -> None:
    rng = np.random.default_rng(4)
    netlist = netlists.random_netlist(rng, coding)
    inputs = netlists.random_inputs(rng, netlist, IMAGES)
    whole = reference.run(netlist, inputs, record="spikes")
    found = packets.messages(netlist, whole)
    for p in netlist.populations:
        if not isinstance(p.neuron, Readout):
            wanted = [0] * p.size
            for step in whole.spikes[p.name].reshape(-1, p.size).tolist():
                wanted = [n + (value != 0) for n, value in zip(wanted, step, strict=True)]
            assert found.pop(p.name).tolist() == wanted, p.name
    assert not found


def test_counts_tell_messages_or_are_refused() -> None:
    for coding in ("graded", "unary", "rate"):
        rng = np.random.default_rng(4)
        netlist = netlists.random_netlist(rng, coding)
        inputs = netlists.random_inputs(rng, netlist, IMAGES)
        counts = packets.messages(netlist, reference.run(netlist, inputs))
        spikes = packets.messages(netlist, reference.run(netlist, inputs, record="spikes"))
        assert {n: v.tolist() for n, v in counts.items()} == {
            n: v.tolist() for n, v in spikes.items()
        }
    netlist = netlists.random_netlist(rng, "signed")
    inputs = netlists.random_inputs(rng, netlist, IMAGES)
    with pytest.raises(InputError, match="how many messages"):
        packets.messages(netlist, reference.run(netlist, inputs))
    with pytest.raises(InputError, match="how many messages"):
        packets.messages(netlist, reference.run(netlist, inputs, record="outputs"))


def test_without_a_mesh_there_are_no_hops() -> None:
    rng = np.random.default_rng(2)
    netlist = netlists.random_netlist(rng, "rate")
    profile = chips.chip("loihi1", mesh_width_tiles=None)
    placement = place(netlist, profile, effort=0)
    ones = {p.name: np.ones(p.size, np.int64) for p in netlist.populations}
    found = packets.count(placement, profile, ones)
    assert found.sent > 0
    assert (found.east_west, found.north_south, found.chip_crossings) == (None, None, None)
