"""Placement: each neuron is on one core, each limit holds, and what is recorded is true."""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from chips import chip, quantity, with_graded
from hypothesis import example, given, settings
from hypothesis import strategies as st
from netlists import (
    CODINGS,
    Coding,
    connection,
    integers,
    population,
    proven,
    random_netlist,
)
from random_boxes import random_tiling
from synapse_structure import structure

import lapilli
from lapilli.compiler import mapping
from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.linear import (
    Conv,
    ConvTransposed,
    Dense,
    Diagonal,
    frozen,
)
from lapilli.compiler.mapping import Core, CoreSlice, Placement, place
from lapilli.compiler.mapping.cuts import MOST_PIECES
from lapilli.compiler.mapping.fan_in import as_placed
from lapilli.compiler.mapping.placement import pieces
from lapilli.compiler.mapping.regions import indices, slices
from lapilli.compiler.mapping.resources import LIMITS, Usage, excess, usage
from lapilli.compiler.netlist import Connection, Netlist
from lapilli.compiler.neurons import (
    GradedMax,
    NeuronModel,
    Product,
    Readout,
    Relay,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.hardware_profiles import Limits, Profile, load

SEEDS = st.integers(0, 2**32 - 1)
ROOMY = load("unlimited")
synapses = functools.lru_cache(maxsize=32)(structure)


def dense_chain(*sizes: int, weight: int = 1) -> Netlist:
    """Fully connected layers of graded neurons, with a readout."""
    populations = [population("input", (sizes[0],), Source(0, 9, "first"))]
    connections = []
    for i, (before, after) in enumerate(pairwise(sizes), start=1):
        last = i == len(sizes) - 1
        neuron: NeuronModel = Window(integers(5), integers(0), integers(2), 4, "graded")
        neuron = Readout(integers(0), integers(0)) if last else neuron
        matrix = Dense(frozen(np.full((after, before), weight), np.int8), (before,), (after,))
        populations.append(population(f"layer{i}", (after,), neuron))
        connections.append(connection(populations[-2].name, f"layer{i}", matrix))
    return proven(Netlist(tuple(populations), tuple(connections), 1))


def picture(shape: tuple[int, int, int], timing: str = "first") -> Netlist:
    """A 3x3 convolution of one channel into `shape`, then two readouts."""
    neuron = SoftResetIF(integers(9), integers(0), integers(4))
    weight = frozen(np.ones((shape[0], 1, 3, 3)), np.int8)
    conv = Conv(weight, (1, *shape[1:]), shape, (1, 1), (1, 1))
    dense = Dense(frozen(np.ones((2, math.prod(shape))), np.int8), shape, (2,))
    return proven(
        Netlist(
            (
                population("input", (1, *shape[1:]), Source(-3, 9, "held")),
                population("conv", shape, neuron),
                population("out", (2,), Readout(integers(0), integers(0))),
            ),
            (connection("input", "conv", conv), connection("conv", "out", dense)),
            4,
        )
    )


def test_the_longest_list_of_loihi_1_is_limited() -> None:
    """One word holds 20 bits and four weights; with a fifth it would be all but full.

    Every box has lists of its own, so a core may hold two of them.
    """
    net = dense_chain(4, 9, 3)
    placement = place(net, with_graded(chip("loihi1", synapse_words_per_axon=1)))
    sizes = [s.size for _, s in placement.of("layer1")]
    assert sum(sizes) == 9
    assert max(sizes) == 4
    assert {core.usage.longest_list for core in placement.cores} == {1}


CHIPS = [
    chip(neurons_per_core=40, cores_per_chip=3),
    chip(neurons_per_core=20),
    chip(neuron_groups_per_core=1, synapse_words_per_core=900),
    chip(input_axon_words_per_core=1200, output_axons_per_core=150),
    chip(pool_words_per_core=700),
    chip(
        threshold_profiles_per_core=12, compartment_profiles_per_core=2, synapse_formats_per_core=3
    ),
    ROOMY,
]


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("profile", CHIPS, ids=range(len(CHIPS)))
@settings(max_examples=4)
@given(seed=SEEDS)
@example(seed=6)  # one neuron takes more pool words than a core of the fifth chip has
def test_every_limit_holds_for_random_networks(coding: Coding, profile: Profile, seed: int) -> None:
    netlist = random_netlist(np.random.default_rng(seed), coding)
    try:
        placement = place(netlist, profile, effort=0)  # where cores sit does not matter
    except NetlistError as refused:
        name = refused.where.split(" (")[0]
        assert refused.rule.startswith("one neuron keeps the limit ")
        assert too_large(as_placed(netlist, profile), name, profile) is not None
        return
    netlist = placement.netlist
    placement.verify(netlist, profile)
    check_cover(netlist, placement)
    assert len(placement.cores) >= placement.bound.cores
    per_chip = profile.limits.cores_per_chip
    crowd = Counter(core.chip for core in placement.cores)
    assert max(crowd.values()) <= (per_chip.value if per_chip else len(placement.cores))
    assert len(crowd) == placement.chips
    for position, core in enumerate(placement.cores):
        assert core.index == position
        assert excess(core.usage, profile) is None
        assert core.slices
        names = [s.population for s in core.slices]
        assert names == sorted(names, key=[p.name for p in netlist.populations].index)
        assert max(Counter(names).values()) <= MOST_PIECES
        neurons = sum(s.size for s in core.slices)
        assert core.usage.compartments == neurons  # chips like Loihi 2: one compartment each
        assert core.usage.neuron_groups == len(set(names))
        assert core.usage.output_axons == packets(netlist, placement, core)
        assert core.usage.input_axons == arriving(netlist, core)


def check_cover(netlist: Netlist, placement: Placement) -> None:
    """Each neuron is in one box of one core, the input in none."""
    for p in netlist.populations:
        held = np.zeros(p.shape, np.int64)
        for _, s in placement.of(p.name):
            assert all(0 <= low < high for low, high in s.box)
            here = held[slices(s.box)]
            assert here.size == s.size
            here += 1
        assert (held == (not isinstance(p.neuron, Source))).all(), p.name


def too_large(netlist: Netlist, name: str, profile: Profile) -> object:
    """What a neuron of a population that fits no core of its own takes too much of."""
    p = netlist[name]
    boxes = (tuple((i, i + 1) for i in place) for place in np.ndindex(*p.shape))
    alone = (usage(netlist, p, (box,), profile) for box in boxes)
    return next((found for taken in alone if (found := excess(taken, profile))), None)


def packets(netlist: Netlist, placement: Placement, core: Core) -> int:
    """Pairs of a neuron of a core and a core with a synapse of it, by connection."""
    found = 0
    elsewhere = [pieces(other) for other in placement.cores]
    for name, boxes in pieces(core).items():
        here = indices(netlist[name].shape, boxes)
        for c in netlist.connections:
            for there in elsewhere if c.source == name else ():
                targets = indices(netlist[c.target].shape, there.get(c.target, ()))
                found += int(synapses(c.map)[np.ix_(targets, here)].any(axis=0).sum())
    return found


def arriving(netlist: Netlist, core: Core) -> int:
    """Sources of a core's neurons, by connection; pixels of them for kernels."""
    found = 0
    for name, boxes in pieces(core).items():
        for c in netlist.into(name):
            neurons = indices(netlist[name].shape, boxes)
            read = np.flatnonzero(synapses(c.map)[neurons].any(axis=0))
            kernel = isinstance(c.map, Conv | ConvTransposed)
            found += len(set((read % math.prod(c.map.in_shape[1:])).tolist()) if kernel else read)
    return found


def test_tight_chips_need_several_cores() -> None:
    """The limits of the property above do bind."""
    netlist = random_netlist(np.random.default_rng(3), "graded")
    cores = [len(place(netlist, profile, effort=0).cores) for profile in CHIPS]
    assert cores[-1] == 1
    assert min(cores[:-1]) > 1, cores


def test_cores_are_full_whatever_the_room() -> None:
    """122 neurons: 4 channels of 5 x 6, and two readouts, each with 120 axons of 127 inputs."""
    net = picture((4, 5, 6))
    for room in (70, 29, 13, 5, 1):
        placement = place(net, chip(neurons_per_core=room), effort=0)
        check_cover(placement.netlist, placement)
        sizes = [core.usage.compartments for core in placement.cores]
        assert max(sizes) <= room
        assert placement.bound.cores >= math.ceil(sum(sizes) / room)
        assert placement.bound.cores <= len(sizes) <= placement.bound.cores * 1.1


def test_what_a_core_has_left_is_used() -> None:
    placement = place(dense_chain(3, 10, 4), chip(neurons_per_core=8))
    held = [sorted((s.population, s.size) for s in core.slices) for core in placement.cores]
    assert sorted(held) == [[("layer1", 4), ("layer2", 4)], [("layer1", 6)]]
    lines = placement.pretty().splitlines()
    assert lines[0] == "2 cores on 1 chips of small"
    assert lines[1:] == [
        f"core {core.index} (chip 0): "
        + ", ".join(f"{s.population} {s.box[0][0]}..{s.box[0][1]}" for s in core.slices)
        for core in placement.cores
    ]
    box = ((0, 4), (0, 5), (2, 4))
    (first, *_) = placement.cores
    shown = replace(placement, cores=(replace(first, slices=(CoreSlice("a", box),)),))
    assert shown.pretty().endswith("a 0..4x0..5x2..4")


def test_packed_counts_are_placed_as_any_neuron() -> None:
    zero, shape = integers(0), (6, 5)
    models: list[NeuronModel] = [
        GradedMax(zero, 2, 4, 0, 15, "graded"),
        Product(integers(3), zero, integers(1), 4, 0, 0, 0, 15, "graded"),
    ]
    one = Diagonal(frozen(np.int8(1)), shape, shape)
    populations = [population("input", shape, Source(0, 9, "first"))]
    drives = []
    for index, model in enumerate([*models, Readout(zero, zero)]):
        drives.append(connection(populations[-1].name, f"it{index}", one, 2))
        populations.append(population(f"it{index}", shape, model))
    placement = place(proven(Netlist(tuple(populations), tuple(drives), 1)), chip())
    (core,) = placement.cores
    assert core.usage.compartments == 3 * 30
    assert core.usage.threshold_profiles == 1


def doubled() -> Netlist:
    """Two connections into one population."""
    net = dense_chain(3, 1, 1)
    first, last = net.connections
    return proven(replace(net, connections=(first, first, last)))


REFUSED = [
    (dense_chain(3, 1, 1), {"synapse_words_per_core": 2}, "3 synapse words"),
    (dense_chain(3, 1, 1), {"pool_words_per_core": 3}, "7 pool words"),
    (dense_chain(3, 1, 1), {"input_axon_words_per_core": 2}, "3 input axons"),
    (dense_chain(3, 1, 1), {"input_axons_per_core": 2}, "3 input axons"),
    (dense_chain(3, 1, 2), {"output_axons_per_core": 1, "neurons_per_core": 1}, " output axons"),
    (doubled(), {"synapse_formats_per_core": 1}, "2 synapse formats"),
    (picture((1, 3, 3)), {"neurons_per_core": 1}, "2 compartments"),
]


@pytest.mark.parametrize(("net", "limits", "found"), REFUSED, ids=[str(r[1]) for r in REFUSED])
def test_a_layer_that_fits_no_core_is_refused(
    net: Netlist, limits: dict[str, int], found: str
) -> None:
    profile = without_relays(chip(**limits))
    if found.endswith("compartments"):
        twice = replace(profile.features, soft_reset_compartments=quantity(2))
        profile = replace(profile, features=twice)
    with pytest.raises(NetlistError) as error:
        place(net, profile)
    resource, allowed = next(iter(limits.items()))
    assert error.value.rule == f"one neuron keeps the limit {resource} of small"
    assert error.value.where in ("layer1 (Window)", "conv (SoftResetIF)")
    assert error.value.found.endswith(found)
    assert error.value.allowed == str(allowed)
    assert error.value.remedy


def without_relays(profile: Profile) -> Profile:
    features = replace(profile.features, relay_populations=quantity(False))
    return replace(profile, features=features)


@pytest.mark.parametrize("limit", ["input_axons_per_core", "synapse_words_per_core"])
def test_relays_read_what_is_too_much_for_a_core(limit: str) -> None:
    """The netlist that is placed has them; the compiled one stays as it is."""
    net, profile = dense_chain(30, 6, 2), chip(**{limit: 12})
    placement = place(net, profile)
    assert placement.netlist is not net
    added = {p.name for p in placement.netlist.populations} - {p.name for p in net.populations}
    assert added
    assert all(isinstance(placement.netlist[name].neuron, Relay) for name in added)
    check_cover(placement.netlist, placement)
    placement.verify(placement.netlist, profile)
    with pytest.raises(NetlistError, match=f"one neuron keeps the limit {limit}"):
        place(net, without_relays(profile))


def test_a_processor_has_no_cores() -> None:
    with pytest.raises(InputError, match="processor"):
        place(dense_chain(3, 2, 2), load("cmos45"))


def test_the_netlists_own_limits_are_checked_first() -> None:
    with pytest.raises(NetlistError, match="4-bit signed weights"):
        place(dense_chain(3, 2, 2, weight=8), chip(weight_bits=4))
    net = random_netlist(np.random.default_rng(0), "graded")
    assert max(c.exponent for c in net.connections) > 0
    with pytest.raises(NetlistError, match=r"at most 2\*\*0"):
        place(net, chip(weight_exponent_max=0))


def test_a_placement_of_another_network_or_chip_is_refused() -> None:
    net, profile = dense_chain(3, 10, 4), chip(neurons_per_core=8)
    placement = place(net, profile)
    first, last = placement.cores
    missing = replace(placement, cores=(last,))
    (held, *others) = first.slices
    box = ((held.box[0][0], held.box[0][1] - 1),)
    shorter = replace(first, slices=(replace(held, box=box), *others))
    both = replace(first, slices=(*first.slices, replace(last.slices[0], box=((5, 6),))))
    wrong = replace(first, usage=Usage())
    for changed, rule in (
        (missing, "each neuron is on one core"),
        (replace(placement, cores=(shorter, last)), "each neuron is on one core"),
        (replace(placement, cores=(both, last)), "each neuron is on one core"),
        (replace(placement, cores=(wrong, last)), "the recorded usage is the true one"),
    ):
        with pytest.raises(NetlistError, match=rule):
            changed.verify(net, profile)
    with pytest.raises(NetlistError, match=r"core \d \(layer1, layer2\): a core keeps the limit"):
        placement.verify(net, chip(neurons_per_core=7))
    with pytest.raises(NetlistError, match="each neuron is on one core"):
        placement.verify(dense_chain(3, 11, 4), profile)


@pytest.mark.parametrize("resource", [field.name for field in fields(Usage)])
def test_a_usage_that_is_off_by_one_is_refused(resource: str) -> None:
    net, profile = dense_chain(3, 10, 4), chip(neurons_per_core=8)
    placement = place(net, profile)
    first, *others = placement.cores
    usage = replace(first.usage, **{resource: getattr(first.usage, resource) + 1})
    wrong = replace(placement, cores=(replace(first, usage=usage), *others))
    with pytest.raises(NetlistError, match=r"recorded usage|a core keeps the limit"):
        wrong.verify(net, profile)


@settings(max_examples=25)
@given(seed=SEEDS)
def test_boxes_that_meet_are_found_wherever_they_are(seed: int) -> None:
    """One box moved: every neuron is still counted as often as before, but some are there twice."""
    rng = np.random.default_rng(seed)
    shape = (3, 4, 5)
    boxes = random_tiling(rng, shape, 6)
    index = int(rng.integers(len(boxes)))
    moved = tuple(
        (start, start + high - low)
        for (low, high), size in zip(boxes[index], shape, strict=True)
        for start in [int(rng.integers(size - (high - low) + 1))]
    )
    spoilt = [moved if i == index else box for i, box in enumerate(boxes)]
    net, profile = picture(shape), chip()
    placement = place(net, profile)
    (core,) = placement.cores
    net = placement.netlist
    others = [s for s in core.slices if s.population != "conv"]
    for found, right in ((boxes, True), (spoilt, moved == boxes[index])):
        held = tuple(CoreSlice("conv", box) for box in found)
        changed = replace(placement, cores=(replace(core, slices=(*held, *others)),))
        if right:
            changed.verify(net, profile)
        else:
            with pytest.raises(NetlistError, match="each neuron is on one core"):
                changed.verify(net, profile)


def test_a_population_that_drives_itself() -> None:
    net = dense_chain(3, 10, 4)
    neuron = SoftResetIF(integers(5), integers(0), integers(2))
    populations = tuple(
        replace(p, neuron=neuron) if p.name == "layer1" else p for p in net.populations
    )
    loop = Connection(
        "layer1", "layer1", Diagonal(frozen(np.int8(1)), (10,), (10,)), 0, 0, frozen(1.0)
    )
    net = proven(Netlist(populations, (*net.connections, loop), 4))
    placement = place(net, chip(neurons_per_core=8))
    assert sorted(core.usage.output_axons for core in placement.cores) == [4 + 4, 6 + 6]
    with pytest.raises(NetlistError, match="keeps the limit output_axons_per_core"):
        place(net, chip(neurons_per_core=8, output_axons_per_core=1))


def test_every_limit_is_checked_or_named() -> None:
    checked, unchecked = set(LIMITS), set(mapping.UNCHECKED)
    elsewhere = set(mapping.ELSEWHERE)
    assert checked | unchecked | elsewhere == {field.name for field in fields(Limits)}
    assert len(checked) + len(unchecked) + len(elsewhere) == len(fields(Limits))
    assert set(LIMITS.values()) == {field.name for field in fields(Usage)}


def test_what_was_not_checked_is_named() -> None:
    net = dense_chain(3, 2, 2)
    roomy = dict(place(net, ROOMY).unchecked)
    assert set(roomy) == set(LIMITS)
    assert set(roomy.values()) == {"the profile states none"}
    named = dict(place(net, load("loihi2")).unchecked)
    assert named["output_axons_per_core"] == "the profile states none"
    assert "not public" in named["axon_memory_words_per_core"]
    assert "neurons_per_core" not in named
    assert "cores_per_tile" not in named  # null in the profile, and nothing to check


def test_the_front_door_places_for_the_chip_compiled_for_or_another() -> None:
    netlist = dense_chain(3, 10, 4)
    provenance = Provenance("0", "0", "parallel", {}, "unlimited", "", 0, {})
    artifact = Artifact(netlist, provenance)
    assert lapilli.place(artifact).profile == "unlimited"
    assert lapilli.place(artifact, profile="loihi2").profile == "loihi2"
    small = chip(neurons_per_core=8)
    assert lapilli.place(artifact, profile=small) == place(netlist, small)


def test_a_large_network_is_placed_at_once() -> None:
    """Three quarters of a million neurons, as boxes."""
    shape = (64, 112, 112)
    small = picture((64, 3, 3))
    conv = Conv(frozen(np.ones((64, 1, 3, 3)), np.int8), (1, 112, 112), shape, (1, 1), (1, 1))
    maps = (conv, Diagonal(frozen(np.int8(1)), shape, shape))
    shapes = ((1, 112, 112), shape, shape)
    resized = zip(small.populations, shapes, strict=True)
    net = Netlist(
        tuple(replace(p, shape=size) for p, size in resized),
        tuple(replace(c, map=m) for c, m in zip(small.connections, maps, strict=True)),
        4,
    )
    placement = place(proven(net), load("loihi2"), effort=0)
    assert sum(s.size for _, s in placement.of("conv")) == conv.out_size == 802_816
    assert placement.bound.cores <= len(placement.cores) <= placement.bound.cores * 1.02
