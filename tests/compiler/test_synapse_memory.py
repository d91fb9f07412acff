"""What boxes of a map's outputs take of a core: sources, synapses, axons, words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import connection
from random_boxes import random_boxes
from random_maps import IMAGES, random_map
from synapse_structure import structure
from unfolded_synapses import unfold

from lapilli.compiler.linear import (
    FORMS,
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Sparse,
    frozen,
)
from lapilli.compiler.mapping.regions import Box, Boxes, indices, whole
from lapilli.compiler.mapping.synapse_memory import (
    axis_reads,
    input_axons,
    is_native,
    is_shared,
    reads,
    sources_of,
    synapses,
    words,
)
from lapilli.hardware_profiles import load

SEEDS = st.integers(0, 2**32 - 1)
KERNELS = (Conv, ConvTransposed)
LOIHI1, LOIHI2 = load("loihi1"), load("loihi2")


def drawn(seed: int, form: type[LinearMap]) -> tuple[LinearMap, Boxes]:
    """A map and one or two boxes of its outputs."""
    rng = np.random.default_rng(seed)
    m = random_map(rng, form, IMAGES[rng.integers(len(IMAGES))])
    return m, random_boxes(rng, m.out_shape)


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60)
@given(seed=SEEDS)
def test_sources_synapses_and_axons_are_those_of_the_matrix(
    form: type[LinearMap], seed: int
) -> None:
    m, boxes = drawn(seed, form)
    rows = structure(m)[indices(m.out_shape, boxes)]
    mask = rows.any(axis=0)
    assert sources_of(m, boxes).tolist() == mask.tolist()
    assert synapses(m, boxes) == rows.sum()
    pixels = mask.reshape(m.in_shape[0], -1).any(axis=0).sum()
    assert input_axons(m, boxes) == (pixels if isinstance(m, KERNELS) else mask.sum())
    assert not sources_of(m, ()).any()
    assert synapses(m, ()) == input_axons(m, ()) == 0


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60)
@given(seed=SEEDS)
def test_nothing_outside_the_boxes_that_are_read_reaches_the_outputs(
    form: type[LinearMap], seed: int
) -> None:
    m, boxes = drawn(seed, form)
    mask = structure(m)[indices(m.out_shape, boxes)].any(axis=0)
    seen = np.zeros(m.in_size, np.bool_)
    for box in reads(m, boxes):
        seen[indices(m.in_shape, (box,))] = True
    assert not (mask & ~seen).any()
    if isinstance(m, Dense | DensePart | Diagonal):
        assert (mask == seen).all()
    if isinstance(m, KERNELS):
        for box in boxes:
            part = structure(m)[indices(m.out_shape, (box,))].any(axis=0).reshape(m.in_shape)
            for axis in (0, 1):
                lines = np.flatnonzero(part.any(axis=(0, 2 - axis)))
                found = axis_reads(m, axis, *box[axis + 1])
                assert set(lines.tolist()) <= set(found.tolist())
                if part.any():
                    assert lines.tolist() == found.tolist()


def words_by_row(m: LinearMap, boxes: Boxes) -> list[int]:
    """Loihi 2: one row per source, or per input channel and tap of a group that is touched."""
    plane = math.prod(m.out_shape[1:])
    neurons = indices(m.out_shape, boxes).tolist()
    channels = {n // plane for n in neurons}
    if isinstance(m, KERNELS):
        per_group = m.out_shape[0] // m.groups
        rows = m.in_shape[0] // m.groups * math.prod(m.kernel)
        held = Counter(channel // per_group for channel in channels)
        return [math.ceil((5 * n + 48) / 64) for n in held.values() for _ in range(rows)]
    if is_shared(m):
        return [1] * len(channels)
    lengths = structure(m)[neurons].sum(axis=0)
    return [math.ceil(21 * n / 64) for n in lengths.tolist() if n]


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60)
@given(seed=SEEDS)
def test_words_of_loihi_2(form: type[LinearMap], seed: int) -> None:
    """Rows serve all boxes: channels that both have are stored once."""
    m, boxes = drawn(seed, form)
    c, rows = connection("a", "b", m), words_by_row(m, boxes)
    assert is_native(LOIHI2)
    assert words(c, boxes, LOIHI2) == (sum(rows), max(rows, default=0))
    assert words(c, boxes, load("unlimited")) == (0, 0)


@pytest.mark.parametrize(
    ("inputs", "targets", "wanted"), [(784, 48, 12544), (128, 64, 2688), (64, 10, 256)]
)
def test_words_of_dense_layers_in_public_compile_logs(
    inputs: int, targets: int, wanted: int
) -> None:
    """lava-dl tutorial netx/mnist."""
    matrix = Dense(frozen(np.zeros((targets, inputs)), np.int8), (inputs,), (targets,))
    found = words(connection("a", "b", matrix), (((0, targets),),), LOIHI2)
    assert found == (wanted, wanted // inputs)


@pytest.mark.parametrize(
    ("channels", "outputs", "row"), [(3, 24, 3), (24, 36, 4), (36, 48, 5), (48, 64, 6)]
)
def test_words_of_kernels_in_public_compile_logs(channels: int, outputs: int, row: int) -> None:
    """lava-dl tutorial netx/pilotnet_sdnn; the place of the neurons does not matter."""
    weight = frozen(np.zeros((outputs, channels, 3, 3)), np.int8)
    conv = Conv(weight, (channels, 9, 9), (outputs, 4, 4), (2, 2))
    c = connection("a", "b", conv)
    apart = (((0, outputs), (0, 1), (0, 2)), ((0, outputs), (2, 4), (1, 4)))
    for boxes in ((whole(conv.out_shape),), apart, apart[1:]):
        assert words(c, boxes, LOIHI2) == (9 * channels * row, row)


def listed(runs: int, length: int, delay: int) -> int:
    """Loihi 1: entries of at most 60 synapses, with one index of 10 bits each or each their own.

    A list that nearly fills its last word takes one more.
    """
    synapse, index = 8 + (len(f"{delay:b}") if delay else 0), 10

    def entries(synapses: int, each: int, once: int) -> int:
        return sum(once + each * min(60, synapses - i) for i in range(0, synapses, 60))

    by_run = runs * entries(length, synapse, 4 + 6 + index)
    by_target = entries(runs * length, synapse + index, 4 + 6)
    total = min(by_run, by_target)
    return math.ceil(total / 64) + (total % 64 == 0 or total % 64 >= 59)


def lists(m: LinearMap, box: Box) -> list[tuple[int, int]]:
    """(runs of neighbouring targets, targets of a run) of every list for the outputs in a box."""
    neurons = indices(m.out_shape, (box,))
    plane = math.prod(m.out_shape[1:])
    if is_shared(m) and isinstance(m, Diagonal):
        return [(1, 1)] * (box[0][1] - box[0][0])
    if not isinstance(m, KERNELS):
        lengths = structure(m)[neurons].sum(axis=0)
        together = not isinstance(m, Sparse)
        return [(1, n) if together else (n, 1) for n in lengths.tolist() if n]
    # Inputs of a channel share a list where the same taps lead to targets that lie alike.
    found = unfold(m).into(neurons.tolist())
    per_input: dict[int, list[tuple[int, int, int, int]]] = {}
    for target, source, tap in zip(
        found.targets.tolist(), found.sources.tolist(), found.taps.tolist(), strict=True
    ):
        channel, place = divmod(target, plane)
        per_input.setdefault(source, []).append((*divmod(place, m.out_shape[2]), tap, channel))
    pixels = math.prod(m.in_shape[1:])
    alike: dict[object, tuple[int, int]] = {}
    for source, targets in per_input.items():
        places = sorted({target[:3] for target in targets})
        top, left, _ = places[0]
        layout = tuple((y - top, x - left, tap) for y, x, tap in places)
        alike[source // pixels, layout] = len(places), len(targets) // len(places)
    return list(alike.values())


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=40)
@given(seed=SEEDS, delay=st.integers(0, 9))
def test_words_of_loihi_1(form: type[LinearMap], seed: int, delay: int) -> None:
    """Every box has lists of its own."""
    m, boxes = drawn(seed, form)
    c = replace(connection("a", "b", m), delay=delay)
    found = [listed(*shape, delay) for box in boxes for shape in lists(m, box)]
    assert not is_native(LOIHI1)
    assert words(c, boxes, LOIHI1) == (sum(found), max(found, default=0))


def matrix(shape: tuple[int, int]) -> Array:
    return frozen(np.ones(shape), np.int8)


@pytest.mark.parametrize(
    ("targets", "wanted"),
    [(4, 1), (5, 2), (60, 8), (61, 9), (120, 16), (121, 17)],
)
def test_a_list_to_neighbours_keeps_one_index_per_entry(targets: int, wanted: int) -> None:
    """Bits: 20 + 4 * 8 = 52, in one word; 20 + 5 * 8 = 60, too late in a word; 60 make an entry."""
    c = connection("a", "b", Dense(matrix((targets, 1)), (1,), (targets,)))
    assert words(c, (((0, targets),),), LOIHI1) == (wanted, wanted)
    assert listed(1, targets, 0) == wanted


def test_a_list_takes_the_shorter_encoding() -> None:
    """A 1x1 kernel: a run of two or of one. Bits: 20 + 2 * 8 = 36; 9 runs of one: 10 + 9 * 18."""
    two = Conv(frozen(np.ones((2, 1, 1, 1)), np.int8), (1, 5, 5), (2, 5, 5))
    assert words(connection("a", "b", two), (whole(two.out_shape),), LOIHI1) == (1, 1)
    nine = Conv(frozen(np.ones((1, 1, 3, 3)), np.int8), (1, 3, 3), (1, 1, 1))
    assert words(connection("a", "b", nine), (whole((1, 1, 1)),), LOIHI1) == (9, 1)
    spread = Sparse.from_matrix(_column(9), (1,), (9,))
    assert words(connection("a", "b", spread), (((0, 9),),), LOIHI1) == (3, 3)


def _column(length: int) -> object:
    import scipy.sparse as sp

    return sp.csr_matrix(np.ones((length, 1), np.int8))
