"""Placement: what a range of neurons takes of a core, and which core gets which range."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest
from chips import chip, quantity
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import (
    CODINGS,
    Coding,
    connection,
    integers,
    population,
    proven,
    random_map,
    random_netlist,
)

import lapilli
from lapilli.compiler import core_resources, mapping
from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.core_resources import Usage, boxes, excess, hull, input_axons, sources_of
from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.linear import (
    FORMS,
    Array,
    Conv,
    ConvTransposed,
    Dense,
    Diagonal,
    LinearMap,
    Sparse,
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


def structure(linear_map: LinearMap) -> Array:
    """1 where there is a synapse, whatever its weight; (out size, in size)."""
    if isinstance(linear_map, Dense):
        return np.ones((linear_map.out_size, linear_map.in_size), np.int64)
    ones = linear_map.with_weight(np.ones_like(linear_map.weight))
    return np.asarray(ones.to_sparse().toarray() != 0, np.int64)


def some_range(rng: np.random.Generator, size: int) -> tuple[int, int]:
    start, stop = sorted(rng.choice(size + 1, 2, replace=False).tolist())
    return start, stop


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


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_boxes_are_the_range(shape: list[int], data: st.DataObject) -> None:
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    indices = np.arange(size).reshape(shape)
    found = [
        indices[tuple(slice(*axis) for axis in box)].reshape(-1)
        for box in boxes(tuple(shape), start, stop)
    ]
    assert np.concatenate([*found, []]).tolist() == list(range(start, stop))
    assert all(part.size for part in found)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(seed=SEEDS)
def test_sources_and_synapses_are_those_of_the_matrix(form: type[LinearMap], seed: int) -> None:
    rng = np.random.default_rng(seed)
    linear_map = random_map(rng, form, (4, int(rng.integers(4, 8)), int(rng.integers(4, 8))))
    start, stop = some_range(rng, linear_map.out_size)
    rows = structure(linear_map)[start:stop]
    mask = sources_of(linear_map, start, stop)
    assert mask.tolist() == rows.any(axis=0).tolist()
    assert core_resources.synapses(linear_map, start, stop) == rows.sum()
    pixels = mask.reshape(linear_map.in_shape[0], -1).any(axis=0).sum()
    kernel = isinstance(linear_map, (Conv, ConvTransposed))
    assert input_axons(linear_map, start, stop) == (pixels if kernel else mask.sum())
    low, high = hull(linear_map, start, stop)
    assert mask.sum() == mask[low:high].sum()


def words_by_row(linear_map: LinearMap, start: int, stop: int) -> int:
    """Loihi 2: one row per source, or per input channel and tap of a group that is touched."""
    if isinstance(linear_map, (Conv, ConvTransposed)):
        plane = math.prod(linear_map.out_shape[1:])
        touched = sorted({neuron // plane for neuron in range(start, stop)})
        per_group = linear_map.out_shape[0] // linear_map.groups
        rows = linear_map.in_shape[0] // linear_map.groups * math.prod(linear_map.kernel)
        groups = [c // per_group for c in touched]
        return sum(rows * math.ceil((5 * groups.count(g) + 48) / 64) for g in set(groups))
    if isinstance(linear_map, Diagonal) and linear_map.weight.size <= linear_map.in_shape[0]:
        plane = linear_map.in_size // linear_map.in_shape[0]
        return len({neuron // plane for neuron in range(start, stop)})
    lengths = structure(linear_map)[start:stop].sum(axis=0)
    return sum(math.ceil(21 * n / 64) for n in lengths.tolist())


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=30)
@given(seed=SEEDS)
def test_words_of_loihi_2(form: type[LinearMap], seed: int) -> None:
    rng = np.random.default_rng(seed)
    linear_map = random_map(rng, form, (4, int(rng.integers(4, 8)), int(rng.integers(4, 8))))
    start, stop = some_range(rng, linear_map.out_size)
    c = connection("a", "b", linear_map)
    words, longest = core_resources.synapse_words(c, start, stop, load("loihi2"))
    assert words == words_by_row(linear_map, start, stop)
    assert longest <= words
    assert core_resources.synapse_words(c, start, stop, ROOMY) == (0, 0)


@pytest.mark.parametrize(
    ("inputs", "targets", "words"), [(784, 48, 12544), (128, 64, 2688), (64, 10, 256)]
)
def test_words_of_dense_layers_in_public_compile_logs(
    inputs: int, targets: int, words: int
) -> None:
    """lava-dl tutorial netx/mnist."""
    matrix = Dense(frozen(np.zeros((targets, inputs)), np.int8), (inputs,), (targets,))
    found = core_resources.synapse_words(connection("a", "b", matrix), 0, targets, load("loihi2"))
    assert found == (words, words // inputs)


@pytest.mark.parametrize(
    ("channels", "outputs", "row"), [(3, 24, 3), (24, 36, 4), (36, 48, 5), (48, 64, 6)]
)
def test_words_of_kernels_in_public_compile_logs(channels: int, outputs: int, row: int) -> None:
    """lava-dl tutorial netx/pilotnet_sdnn; the place of the neurons does not matter."""
    weight = frozen(np.zeros((outputs, channels, 3, 3)), np.int8)
    conv = Conv(weight, (channels, 9, 9), (outputs, 4, 4), (2, 2))
    found = core_resources.synapse_words(
        connection("a", "b", conv), 0, conv.out_size, load("loihi2")
    )
    assert found == (9 * channels * row, row)


def listed(synapses: int, bits: int, prefix: int) -> int:
    """Loihi 1: 60 synapses an entry; a list that nearly fills its last word takes one more."""
    total = sum(prefix + bits * min(60, synapses - first) for first in range(0, synapses, 60))
    return math.ceil(total / 64) + (total % 64 == 0 or total % 64 >= 59)


@settings(max_examples=20)
@given(seed=SEEDS, delay=st.integers(0, 9))
def test_words_of_loihi_1(seed: int, delay: int) -> None:
    rng = np.random.default_rng(seed)
    loihi1 = load("loihi1")
    for form in (Dense, Sparse, Conv, ConvTransposed):
        linear_map = random_map(rng, form, (4, 6, 7))
        c = replace(connection("a", "b", linear_map), delay=delay)
        start, stop = 0, linear_map.out_size
        width = len(f"{delay:b}") if delay else 0
        matrix = structure(linear_map)
        dense = form is Dense
        if form in (Dense, Sparse):
            lists = [int(n) for n in matrix.sum(axis=0) if n]
        else:  # inputs of a channel whose targets lie alike share their list
            seen, taps = set(), kernel_taps(linear_map)
            for column in range(linear_map.in_size):
                targets = np.flatnonzero(matrix[:, column])
                if targets.size:
                    position = tuple((targets - targets[0]).tolist())
                    seen.add((column // 42, position, tuple(taps[targets, column].tolist())))
            lists = [len(position) for _, position, _ in seen]
        bits, prefix = (8 + width, 20) if dense else (18 + width, 10)
        words = [listed(n, bits, prefix) for n in lists]
        expected = (sum(words), max(words, default=0))
        assert core_resources.synapse_words(c, start, stop, loihi1) == expected, form


def kernel_taps(linear_map: LinearMap) -> Array:
    """Which tap of the kernel each synapse is, found by numbering the taps; (out size, in size)."""
    numbers = np.arange(1, linear_map.weight.size + 1).reshape(linear_map.weight.shape)
    numbered = np.asarray(linear_map.with_weight(numbers).to_sparse().toarray())
    return (numbered - 1) % math.prod(linear_map.weight.shape[2:])


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
def test_every_limit_holds_for_random_networks(coding: Coding, profile: Profile, seed: int) -> None:
    netlist = random_netlist(np.random.default_rng(seed), coding)
    placement = place(netlist, profile)
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
