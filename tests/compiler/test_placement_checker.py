"""The mapper against a second opinion that shares no code with it: `tests/placement_checker.py`.

Random networks of every coding on random chips with tight limits; and placements that were spoilt,
each of which the checker must see.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from chips import chip, quantity, random_chip
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import ALL_CODINGS, Coding, integers, random_netlist
from placement_checker import RESOURCES, violations

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.mapping import Core, CoreSlice, Placement, place
from lapilli.compiler.mapping.resources import Usage
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import SoftResetIF, Source
from lapilli.hardware_profiles import Profile

SEEDS = st.integers(0, 2**32 - 1)
EFFORT = 0.01
"""Of laying cores on the mesh: how well it is done does not matter here."""


def placed(coding: Coding, seed: int) -> tuple[Netlist, Profile, Placement | NetlistError]:
    rng = np.random.default_rng(seed)
    netlist = random_netlist(rng, coding)
    profile = random_chip(rng, netlist.graded)
    try:
        return netlist, profile, place(netlist, profile, effort=EFFORT)
    except NetlistError as refused:
        return netlist, profile, refused


def broken(coding: Coding, seed: int) -> list[str]:
    """The rules that do not hold; none where the network is refused with a remedy."""
    _, profile, result = placed(coding, seed)
    if isinstance(result, NetlistError):
        return [] if result.remedy else ["refused without a remedy"]
    return violations(result.netlist, result, profile)


@settings(max_examples=8)
@given(coding=st.sampled_from(ALL_CODINGS), seed=SEEDS)
def test_no_placement_breaks_a_rule(coding: Coding, seed: int) -> None:
    assert broken(coding, seed) == []


@pytest.mark.parametrize("coding", ALL_CODINGS)
def test_nor_does_any_coding(coding: Coding) -> None:
    assert broken(coding, ALL_CODINGS.index(coding)) == []


def flattened(netlist: Netlist) -> Netlist:
    """The same network whose populations are vectors; its maps still know of planes."""
    populations = []
    for p in netlist.populations:
        neuron = p.neuron
        if isinstance(neuron, SoftResetIF):
            values = (neuron.threshold, neuron.bias, neuron.initial)
            neuron = SoftResetIF(*(integers(np.broadcast_to(v, p.shape).ravel()) for v in values))
        shape = p.shape if isinstance(neuron, Source) else (p.size,)
        populations.append(replace(p, shape=shape, neuron=neuron))
    flat = replace(netlist, populations=tuple(populations))
    flat.verify()
    return flat


@pytest.mark.parametrize("seed", range(8))
def test_maps_may_see_a_population_in_another_shape(seed: int) -> None:
    """A piece of a vector is then no box of the map's output, but several."""
    netlist = flattened(random_netlist(np.random.default_rng(seed), "rate"))
    profile = chip(("loihi1", "loihi2")[seed % 2], neurons_per_core=37)
    placement = place(netlist, profile, effort=EFFORT)
    assert violations(placement.netlist, placement, profile) == []


def test_most_draws_are_placed_on_several_cores() -> None:
    """The property above is about placements, not refusals."""
    results = [placed("graded", seed)[2] for seed in range(12)]
    several = [r for r in results if isinstance(r, Placement) and len(r.cores) > 2]
    assert len(several) > 6


@functools.cache
def example() -> tuple[Netlist, Profile, Placement]:
    netlist = random_netlist(np.random.default_rng(3), "graded")
    profile = chip(neurons_per_core=60, cores_per_chip=3)
    placement = place(netlist, profile, effort=EFFORT)
    assert violations(netlist, placement, profile) == []
    assert len(placement.cores) > 4
    return netlist, profile, placement


def changed(placement: Placement, core: int, /, **fields: object) -> Placement:
    """The placement with one core altered."""
    cores = list(placement.cores)
    cores[core] = replace(cores[core], **fields)  # type: ignore[arg-type]
    return replace(placement, cores=tuple(cores))


def one_neuron(s: CoreSlice) -> CoreSlice:
    """The first neuron of a slice."""
    return replace(s, box=tuple((low, low + 1) for low, _ in s.box))


def twice(placement: Placement) -> Placement:
    there, here = placement.cores[0], placement.cores[1]
    return changed(placement, 1, slices=(*here.slices, one_neuron(there.slices[0])))


def missing(placement: Placement) -> Placement:
    (s, *others) = placement.cores[0].slices
    (low, high), *rest = s.box
    shorter = replace(s, box=((low, high - 1), *rest))
    kept = (shorter, *others) if high - low > 1 else tuple(others)
    return changed(placement, 0, slices=kept)


def beyond(placement: Placement) -> Placement:
    (s, *others) = placement.cores[0].slices
    (low, high), *rest = s.box
    return changed(placement, 0, slices=(replace(s, box=((low, high + 99), *rest)), *others))


def input_on_a_core(placement: Placement) -> Placement:
    pixel = CoreSlice("input", ((0, 1),) * 3)
    return changed(placement, 0, slices=(*placement.cores[0].slices, pixel))


def empty(placement: Placement) -> Placement:
    last = placement.cores[-1]
    spare = replace(last, index=last.index + 1, slices=(), usage=Usage())
    return replace(placement, cores=(*placement.cores, spare))


def same_number(placement: Placement) -> Placement:
    return changed(placement, 1, index=0)


def full_chip(placement: Placement) -> Placement:
    first = placement.cores[0]
    everywhere = tuple(replace(c, chip=first.chip) for c in placement.cores)
    return replace(placement, cores=everywhere)


def fewer_than_the_bound(placement: Placement) -> Placement:
    bound = replace(placement.bound, cores=len(placement.cores) + 1)
    return replace(placement, bound=bound)


SPOILT: list[tuple[Callable[[Placement], Placement], str]] = [
    (twice, "on several cores"),
    (missing, "on no core"),
    (beyond, "is not a box within"),
    (input_on_a_core, "though the host sends it"),
    (empty, "is empty"),
    (same_number, "not numbered in order"),
    (full_chip, "cores, allowed 3"),
    (fewer_than_the_bound, "fewer than the bound"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT, ids=[spoil.__name__ for spoil, _ in SPOILT])
def test_a_spoilt_placement_is_found(spoil: Callable[[Placement], Placement], said: str) -> None:
    netlist, profile, placement = example()
    found = violations(netlist, spoil(placement), profile)
    assert any(said in line for line in found), found


@pytest.mark.parametrize("resource", [f.name for f in fields(Usage)])
@pytest.mark.parametrize("by", [1, -1])
def test_usage_that_is_off_by_one_is_found(resource: str, by: int) -> None:
    netlist, profile, placement = example()
    usage = placement.cores[2].usage
    wrong = replace(usage, **{resource: getattr(usage, resource) + by})
    found = violations(netlist, changed(placement, 2, usage=wrong), profile)
    assert len(found) == 1
    assert found[0].startswith(f"core 2: {resource} recorded")


@pytest.mark.parametrize(("limit", "resource"), RESOURCES.items())
def test_a_core_that_is_too_full_is_found(limit: str, resource: str) -> None:
    netlist, _, placement = example()
    most = max(getattr(core.usage, resource) for core in placement.cores)
    tight = chip(neurons_per_core=60, cores_per_chip=3)
    tight = replace(tight, limits=replace(tight.limits, **{limit: quantity(most - 1)}))
    found = violations(netlist, placement, tight)
    assert any(f"{limit} {most - 1}, found {most}" in line for line in found), found


@functools.cache
def on_a_mesh() -> tuple[Netlist, Profile, Placement]:
    netlist = random_netlist(np.random.default_rng(3), "graded")
    profile = chip("loihi1", neurons_per_core=60, cores_per_chip=16, mesh_width_tiles=2)
    able = replace(
        profile.features, graded_spikes=quantity(True), programmable_neurons=quantity(True)
    )
    limits = replace(
        profile.limits,
        mesh_height_tiles=quantity(2),
        cores_per_tile=quantity(4),
        payload_bits=None,
    )
    profile = replace(profile, features=able, limits=limits)
    placement = place(netlist, profile, effort=EFFORT)
    assert violations(netlist, placement, profile) == []
    assert placement.cores[0].tile is not None
    return netlist, profile, placement


def same_tile(placement: Placement) -> Placement:
    first = placement.cores[0]
    crowd = tuple(
        replace(c, tile=first.tile, chip=first.chip) if c.index < 5 else c for c in placement.cores
    )
    return replace(placement, cores=crowd)


def no_tile(placement: Placement) -> Placement:
    return changed(placement, 0, tile=None)


def wrong_chip(placement: Placement) -> Placement:
    first: Core = placement.cores[0]
    assert first.tile is not None
    return changed(placement, 0, tile=(first.tile[0] + 2, first.tile[1]))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(same_tile, "cores, allowed 4"), (no_tile, "is on no tile"), (wrong_chip, "is not on chip")],
)
def test_a_core_in_the_wrong_place_is_found(
    spoil: Callable[[Placement], Placement], said: str
) -> None:
    netlist, profile, placement = on_a_mesh()
    found = violations(netlist, spoil(placement), profile)
    assert any(said in line for line in found), found
