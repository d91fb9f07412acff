"""What the mapper makes small: cores, the time of a step, its energy; and how long a step takes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from chips import chip, quantity
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import CODINGS, connection, integers, population, proven, random_netlist
from synapse_structure import structure

from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.linear import Dense, frozen
from lapilli.compiler.mapping import OBJECTIVES, Placement, place
from lapilli.compiler.mapping.placement import pieces
from lapilli.compiler.mapping.regions import indices
from lapilli.compiler.mapping.step_time import core_times_ns, step_energy_uj
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Readout, SoftResetIF, Source
from lapilli.hardware_profiles import Profile, load

SMALL = chip(neurons_per_core=60)


def rates_of(netlist: Netlist, rng: np.random.Generator) -> dict[str, float]:
    return {p.name: float(rng.random()) for p in netlist.populations if rng.random() < 0.8}


def busy_ns(placement: Placement, profile: Profile, rates: dict[str, float]) -> list[float]:
    """Synapse by synapse and neuron by neuron."""
    time, netlist = profile.time, placement.netlist
    assert time is not None
    sent = placement.traffic
    busy = []
    for core in placement.cores:
        total = 0.0
        for name, boxes in pieces(core).items():
            here = indices(netlist[name].shape, boxes)
            for c in netlist.into(name):
                arriving = int(structure(c.map)[here].sum())
                total += arriving * rates.get(c.source, 1.0) * time.synop_ns.value
            known = (time.neuron_access_ns, time.neuron_update_ns)
            total += len(here) * sum(q.value for q in known if q is not None)
            spike = time.spike_ns.value if time.spike_ns else 0.0
            total += len(here) * rates.get(name, 1.0) * spike
        out = float(sent.packets[sent.source == core.index].sum())
        into = float(sent.packets[sent.target == core.index].sum())
        into += float(sent.host_packets[core.index])
        total += out * (time.axon_out_ns.value if time.axon_out_ns else 0.0)
        total += into * (time.axon_in_ns.value if time.axon_in_ns else 0.0)
        busy.append(total)
    return busy


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), coding=st.sampled_from(CODINGS))
def test_a_core_is_busy_with_synapses_neurons_and_packets(seed: int, coding: str) -> None:
    rng = np.random.default_rng(seed)
    netlist = random_netlist(rng, coding)
    time = load("loihi1").time
    profile = replace(SMALL, time=time, name="timed")
    rates = rates_of(netlist, rng)
    placement = place(netlist, profile, rates=rates, effort=0)
    held = [pieces(core) for core in placement.cores]
    found = core_times_ns(placement.netlist, held, placement.traffic, profile, rates)
    np.testing.assert_allclose(found, busy_ns(placement, profile, rates), rtol=1e-9)
    assert placement.step is not None
    assert placement.step.core_us == pytest.approx(found.max() / 1000)
    assert placement.step.busiest_core == int(found.argmax())
    step = placement.step
    mesh = step.mesh_us or 0.0
    assert step.step_us == pytest.approx(
        max(max(step.core_us, mesh) + step.barrier_us, step.floor_us)
    )


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), coding=st.sampled_from(CODINGS))
def test_each_objective_is_best_at_its_own(seed: int, coding: str) -> None:
    netlist = random_netlist(np.random.default_rng(seed), coding)
    found = {name: place(netlist, SMALL, objective=name, effort=0) for name in OBJECTIVES}
    for name, placement in found.items():
        assert placement.objective == name
        placement.verify(placement.netlist, SMALL)
    cores = {name: len(placement.cores) for name, placement in found.items()}
    assert cores["cores"] == min(cores.values())
    steps = {name: p.step.step_us for name, p in found.items() if p.step is not None}
    assert set(steps) == set(found)
    assert steps["latency"] <= steps["cores"]
    energies = {name: energy(placement) for name, placement in found.items()}
    assert energies["energy"] <= min(energies["cores"], energies["latency"]) * (1 + 1e-9)


def energy(placement: Placement) -> float:
    sent = placement.traffic
    packets = float(sent.packets.sum() + sent.host_packets.sum())
    per_chip = SMALL.limits.cores_per_chip
    assert placement.step is not None
    assert per_chip is not None
    chips = -(-len(placement.cores) // per_chip.value)
    found = step_energy_uj(len(placement.cores), chips, placement.step.step_us, packets, SMALL)
    assert found is not None
    return found


def test_speed_needs_cores_of_one_population() -> None:
    netlist = random_netlist(np.random.default_rng(5), "graded")
    few, fast = (place(netlist, SMALL, objective=name, effort=0) for name in ("cores", "latency"))
    assert max(len(pieces(core)) for core in few.cores) > 1
    assert {len(pieces(core)) for core in fast.cores} == {1}
    assert few.step is not None
    assert fast.step is not None
    assert len(fast.cores) > len(few.cores)
    assert fast.step.step_us < few.step.step_us


def test_a_system_that_is_too_small_is_refused_and_speed_stays_within_it() -> None:
    netlist = random_netlist(np.random.default_rng(5), "graded")
    board = load("oheo-gulch")
    assert board.system is not None

    def of(cores: int) -> Profile:
        limits = replace(SMALL.limits, cores_per_chip=quantity(cores))
        return replace(SMALL, name="board", system=board.system, limits=limits)

    needed = len(place(netlist, SMALL, effort=0).cores)
    with pytest.raises(NetlistError, match="as many cores as the network needs") as error:
        place(netlist, of(needed - 1))
    assert (error.value.found, error.value.allowed) == (
        f"{needed} cores",
        f"{needed - 1}, on 1 chips",
    )
    for room in (needed, needed + 6):
        fast = place(netlist, of(room), objective="latency", effort=0)
        assert needed <= len(fast.cores) <= room
        assert fast.chips == 1


def test_a_population_may_be_kept_on_one_core() -> None:
    netlist = random_netlist(np.random.default_rng(5), "graded")
    largest = max(
        (p for p in netlist.populations if not isinstance(p.neuron, Source)), key=lambda p: p.size
    )
    roomy = chip(neurons_per_core=largest.size)
    assert len({c.index for c, _ in place(netlist, roomy, effort=0).of(largest.name)}) >= 1
    kept = place(netlist, roomy, whole=[largest.name], effort=0)
    assert len(kept.of(largest.name)) == 1
    tight = chip(neurons_per_core=largest.size - 1)
    with pytest.raises(NetlistError, match="you forbade splitting") as error:
        place(netlist, tight, whole=[largest.name])
    assert error.value.found == f"{largest.size} compartments"
    assert "over 2 cores" in error.value.remedy
    with pytest.raises(InputError, match="Did you mean") as wrong:
        place(netlist, roomy, whole=[largest.name + "x"])
    assert wrong.value.found == largest.name + "x"


def test_without_times_there_is_no_step() -> None:
    netlist = random_netlist(np.random.default_rng(5), "graded")
    silent = replace(SMALL, time=None)
    assert place(netlist, silent, effort=0).step is None
    for objective in ("latency", "energy"):
        with pytest.raises(InputError, match="has the constants that it needs") as error:
            place(netlist, silent, objective=objective)
        assert error.value.found.startswith("small without time")
    with pytest.raises(InputError, match="has the constants") as other:
        place(netlist, replace(SMALL, energy=None), objective="energy")
    assert other.value.found == "small without energy"


def test_the_mesh_counts_where_speed_is_wanted() -> None:
    """Many cores make many packets: on Loihi 1 the busiest link can be slower than any core."""
    sizes = (200, 100, 100, 100, 4)
    net = dense_layers(*sizes)
    profile = load("loihi1")
    found = {name: place(net, profile, objective=name, effort=0) for name in OBJECTIVES}
    steps = {name: p.step.step_us for name, p in found.items() if p.step is not None}
    assert steps["latency"] <= min(steps["cores"], steps["energy"]) * 1.25
    assert any(p.step and p.step.mesh_us for p in found.values())


def dense_layers(*sizes: int) -> Netlist:
    neuron = SoftResetIF(integers(9), integers(0), integers(4))
    populations = [population("input", (sizes[0],), Source(0, 1, "train"))]
    drives = []
    for index, (before, after) in enumerate(pairwise(sizes)):
        last = index == len(sizes) - 2
        model = Readout(integers(0), integers(0)) if last else neuron
        matrix = Dense(frozen(np.ones((after, before)), np.int8), (before,), (after,))
        drives.append(connection(populations[-1].name, f"layer{index}", matrix))
        populations.append(population(f"layer{index}", (after,), model))
    return proven(Netlist(tuple(populations), tuple(drives), 4))
