"""Placement: which core gets which range of neurons, and what a core holds."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from chips import chip, quantity
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
from synapse_structure import structure

import lapilli
from lapilli.compiler import core_resources, mapping
from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.core_resources import Usage, excess
from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.linear import (
    Conv,
    Dense,
    Diagonal,
    frozen,
)
from lapilli.compiler.mapping import CoreSlice, Placement, place
from lapilli.compiler.netlist import Connection, Netlist
from lapilli.compiler.neurons import (
    GradedMax,
    Ladder,
    NeuronModel,
    Product,
    Readout,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.hardware_profiles import Limits, Profile, load

SEEDS = st.integers(0, 2**32 - 1)
ROOMY = load("unlimited")


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
    """One word holds 20 bits and four weights; with a fifth it would be all but full."""
    net = dense_chain(4, 9, 3)
    placement = place(net, with_graded(chip("loihi1", synapse_words_per_axon=1)))
    assert [s.size for _, s in placement.of("layer1")] == [1, 4, 4]
    with pytest.raises(NetlistError, match="synapse_words_per_axon") as error:
        place(net, with_graded(chip("loihi1", synapse_words_per_axon=0)))
    assert (error.value.found, error.value.allowed) == ("1 words in one list", "0")


def with_graded(profile: Profile) -> Profile:
    features = replace(profile.features, graded_spikes=quantity(True))
    limits = replace(profile.limits, payload_bits=None)
    return replace(profile, features=features, limits=limits)


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
        placement = place(netlist, profile)
    except NetlistError as refused:
        name = refused.where.split(" (")[0]
        assert refused.rule.startswith("one neuron keeps the limit ")
        assert too_large(netlist, name, profile) is not None
        return
    placement.verify(netlist, profile)
    per_chip = profile.limits.cores_per_chip
    for position, core in enumerate(placement.cores):
        assert core.index == position
        assert core.chip == (position // per_chip.value if per_chip else 0)
        assert excess(core.usage, profile) is None
        assert len({s.population for s in core.slices}) == len(core.slices)
        neurons = sum(s.size for s in core.slices)
        assert core.usage.compartments == neurons  # chips like Loihi 2: one compartment each
        assert core.usage.output_axons == packets(netlist, placement, core.slices)
    names = [s.population for core in placement.cores for s in core.slices]
    order = [p.name for p in netlist.populations]
    assert names == sorted(names, key=order.index)


def too_large(netlist: Netlist, name: str, profile: Profile) -> object:
    """What the first neuron of a population that fits no core of its own takes too much of."""
    p = netlist[name]
    alone = (core_resources.usage(netlist, p, i, i + 1, profile) for i in range(p.size))
    return next((found for usage in alone if (found := excess(usage, profile))), None)


def packets(netlist: Netlist, placement: Placement, slices: tuple[CoreSlice, ...]) -> int:
    """Pairs of a neuron in `slices` and a core with a synapse of it, by connection."""
    return sum(
        int(structure(c.map)[there.start : there.stop, s.start : s.stop].any(axis=0).sum())
        for s in slices
        for c in netlist.connections
        if c.source == s.population
        for _, there in placement.of(c.target)
    )


def test_tight_chips_need_several_cores() -> None:
    """The limits of the property above do bind."""
    netlist = random_netlist(np.random.default_rng(3), "graded")
    cores = [len(place(netlist, profile).cores) for profile in CHIPS]
    assert cores[-1] == 1
    assert min(cores[:-1]) > 1, cores


def test_cuts_lie_between_channels_then_rows_then_neurons() -> None:
    net = picture((4, 5, 6))
    sizes = {
        room: [s.size for _, s in place(net, chip(neurons_per_core=room)).of("conv")]
        for room in (70, 29, 13, 5, 1)
    }
    # The readouts' two neurons come first, at the end, and leave less room on the last core.
    assert sizes[70] == [60, 60]
    assert sizes[29] == [24, 6] * 4 or sizes[29] == [6, 24] * 4
    assert sizes[13] == [6, 12, 12] * 4
    assert sizes[5] == [1, 5] * 20
    assert sizes[1] == [1] * 120


def test_what_the_last_core_has_left_is_used() -> None:
    placement = place(dense_chain(3, 10, 4), chip(neurons_per_core=8))
    assert [core.slices for core in placement.cores] == [
        (CoreSlice("layer1", 0, 6),),
        (CoreSlice("layer1", 6, 10), CoreSlice("layer2", 0, 4)),
    ]
    assert placement.pretty().splitlines() == [
        "2 cores on 1 chips of small",
        "core 0 (chip 0): layer1 0..6",
        "core 1 (chip 0): layer1 6..10, layer2 0..4",
    ]


def test_a_neuron_that_subtracts_its_threshold_takes_two_compartments_of_loihi_1() -> None:
    placement = place(picture((8, 16, 16)), load("loihi1"))
    (readout, *_) = [core for core in placement.cores if core.usage.compartments % 256]
    assert readout.usage.compartments == 2 * 256 + 2
    assert {c.usage.compartments for c in placement.cores} == {512, 514, 1024}
    # The host computes the drive of the analog input: no synapse, no axon of it is on a core.
    assert [c.usage.input_axons for c in placement.cores][:-1] == [0] * (len(placement.cores) - 1)


@pytest.mark.parametrize(
    ("rungs", "rises", "ladders"),
    [
        ((5,), (5,), [1, 1, 1]),
        ((5, 4, 1, 1), (5,), [1, 2, 4]),
        ((5,), (5, 4, 1, 1), [1, 2, 4]),
        ((5, 4, 1, 1), (5, 4, 1, 1), [1, 2, 4]),
        ((5, 4, 3, 3), (5,), [7, 4, 36]),
        ((5,), (5, 1, 3, 3), [7, 4, 9]),
        ((5, 4, 1, 1), (5, 1, 3, 3), [7, 4, 36]),
    ],
)
def test_different_ladders_take_memory_of_a_core(
    rungs: tuple[int, ...], rises: tuple[int, ...], ladders: list[int]
) -> None:
    """A word per rung of every ladder, thresholds and rises together, that neurons do not share."""
    shape, zero = (4, 3, 3), integers(0)
    thresholds = np.arange(math.prod(rungs[1:])).reshape(1, *rungs[1:]) * 5
    thresholds = thresholds + np.arange(5).reshape(5, *(1,) * (len(rungs) - 1))
    codes = np.arange(math.prod(rises[1:])).reshape(1, *rises[1:])
    bits = codes // 3 ** np.arange(5).reshape(5, *(1,) * (len(rises) - 1)) % 3 - 1
    ladder = Ladder(integers(thresholds), integers(bits), zero, zero, zero, -5, 5, "graded")
    one = Diagonal(frozen(np.int8(1)), shape, shape)
    drives = (connection("input", "it", one), connection("it", "out", one))
    source, out = population("input", shape, Source(-9, 9, "first")), Readout(zero, zero)
    populations = (source, population("it", shape, ladder), population("out", shape, out))
    netlist = proven(Netlist(populations, drives, 1))
    netlist.verify()
    shared = replace(ladder, thresholds=integers([0]), rises=integers([1]))
    plain = replace(netlist, populations=(source, population("it", shape, shared), populations[2]))
    for (start, stop), wanted in zip(((1, 8), (7, 11), (0, 36)), ladders, strict=True):
        of = [core_resources.usage(n, n["it"], start, stop, chip()) for n in (netlist, plain)]
        assert of[0].threshold_profiles == wanted
        assert of[0].pool_words - of[1].pool_words == 5 * wanted - 1
        assert of[0].compartments == stop - start
    assert sum(len(core.slices) for core in place(netlist, chip(neurons_per_core=9)).cores) >= 8


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


REFUSED = [
    ({"synapse_words_per_core": 0}, "synapse_words_per_core", "1 synapse words"),
    ({"synapse_words_per_core": 2}, "synapse_words_per_core", "3 synapse words"),
    ({"pool_words_per_core": 3}, "pool_words_per_core", "7 pool words"),
    ({"input_axon_words_per_core": 2}, "input_axon_words_per_core", "3 input axons"),
    ({"input_axons_per_core": 2}, "input_axons_per_core", "3 input axons"),
    ({"output_axons_per_core": 0}, "output_axons_per_core", "1 output axons"),
    ({"synapse_formats_per_core": 0}, "synapse_formats_per_core", "1 synapse formats"),
    ({"neurons_per_core": 0}, "neurons_per_core", "1 compartments"),
    ({"neuron_groups_per_core": 0}, "neuron_groups_per_core", "1 neuron groups"),
    ({"threshold_profiles_per_core": 0}, "threshold_profiles_per_core", "1 threshold profiles"),
    ({"compartment_profiles_per_core": 0}, "compartment_profiles_per_core", "1 compart"),
]


@pytest.mark.parametrize(("limits", "resource", "found"), REFUSED, ids=[str(r[0]) for r in REFUSED])
def test_a_layer_that_fits_no_core_is_refused(
    limits: dict[str, int], resource: str, found: str
) -> None:
    net = dense_chain(3, 1, 1)
    with pytest.raises(NetlistError) as error:
        place(net, chip(**limits))
    assert error.value.rule == f"one neuron keeps the limit {resource}"
    assert error.value.where.startswith("layer")
    assert error.value.found.startswith(found)
    assert error.value.allowed == str(next(iter(limits.values())))
    assert error.value.remedy


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
    shorter = replace(first, slices=(CoreSlice("layer1", 0, 5),))
    wrong = replace(first, usage=Usage())
    for changed, rule in (
        (missing, "each neuron is on one core"),
        (replace(placement, cores=(shorter, last)), "each neuron is on one core"),
        (replace(placement, cores=(wrong, last)), "the recorded usage is the true one"),
    ):
        with pytest.raises(NetlistError, match=rule):
            changed.verify(net, profile)
    with pytest.raises(NetlistError, match=r"core 1 \(layer1, layer2\): a core keeps the limit"):
        placement.verify(net, chip(neurons_per_core=7))
    with pytest.raises(NetlistError, match="each neuron is on one core"):
        placement.verify(dense_chain(3, 11, 4), profile)


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
    assert [core.usage.output_axons for core in placement.cores] == [6 + 6, 4 + 4]
    with pytest.raises(NetlistError, match="a core keeps the limit output_axons_per_core"):
        place(net, chip(neurons_per_core=8, output_axons_per_core=9))


def test_every_limit_is_checked_or_named() -> None:
    checked, unchecked = set(core_resources.LIMITS), set(mapping.UNCHECKED)
    elsewhere = set(mapping.ELSEWHERE)
    assert checked | unchecked | elsewhere == {field.name for field in fields(Limits)}
    assert len(checked) + len(unchecked) + len(elsewhere) == len(fields(Limits))
    assert set(core_resources.LIMITS.values()) == {field.name for field in fields(Usage)}


def test_what_was_not_checked_is_named() -> None:
    net = dense_chain(3, 2, 2)
    roomy = dict(place(net, ROOMY).unchecked)
    assert set(roomy) == set(core_resources.LIMITS)
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
    """Three quarters of a million neurons, as ranges."""
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
    placement = place(proven(net), load("loihi2"))
    assert sum(s.size for _, s in placement.of("conv")) == conv.out_size == 802_816
    # 36 of the 112 rows of a channel fill a core.
    assert len(placement.of("conv")) == 64 * 4
