"""What a range of neurons takes of a core: boxes of neurons, sources, synapses, words."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import (
    connection,
    random_map,
)
from synapse_structure import structure

from lapilli.compiler import core_resources
from lapilli.compiler.core_resources import boxes, hull, input_axons, sources_of
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
from lapilli.hardware_profiles import load

SEEDS = st.integers(0, 2**32 - 1)
ROOMY = load("unlimited")


def some_range(rng: np.random.Generator, size: int) -> tuple[int, int]:
    start, stop = sorted(rng.choice(size + 1, 2, replace=False).tolist())
    return start, stop


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
