"""Boxes of neurons: how many, which, and the same neurons in another shape."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_boxes import random_box, random_boxes, random_tiling

from lapilli.compiler.linear import Shape
from lapilli.compiler.mapping.regions import (
    Boxes,
    count,
    flat_boxes,
    indices,
    ranges,
    reshaped,
    slices,
    volume,
    whole,
)

SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


def members(shape: Shape, boxes: Boxes) -> list[int]:
    """Flat indices of the neurons, box after box."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return [n for box in boxes for n in numbers[slices(box)].reshape(-1).tolist()]


@given(shape=SHAPES, seed=SEEDS)
def test_the_neurons_of_boxes(shape: Shape, seed: int) -> None:
    boxes = random_boxes(np.random.default_rng(seed), shape, most=3)
    found = indices(shape, boxes)
    assert found.tolist() == members(shape, boxes)
    assert len(set(found.tolist())) == len(found) == count(boxes) == sum(map(volume, boxes))
    assert all(volume(box) > 0 for box in boxes)
    assert indices(shape, (whole(shape),)).tolist() == list(range(math.prod(shape)))
    assert indices(shape, ()).tolist() == []


@given(shape=SHAPES, seed=SEEDS)
def test_a_cut_shape_is_whole(shape: Shape, seed: int) -> None:
    """What other tests rely on: random boxes are inside, and a tiling has each neuron once."""
    rng = np.random.default_rng(seed)
    tiles = random_tiling(rng, shape)
    assert sorted(members(shape, tuple(tiles))) == list(range(math.prod(shape)))
    assert set(members(shape, (random_box(rng, tiles[0]),))) <= set(members(shape, (tiles[0],)))


@given(shape=SHAPES, data=st.data())
def test_a_range_of_flat_indices_as_boxes(shape: Shape, data: st.DataObject) -> None:
    size = math.prod(shape)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    boxes = tuple(flat_boxes(shape, start, stop))
    assert members(shape, boxes) == list(range(start, stop))
    assert all(volume(box) for box in boxes)
    assert len(boxes) <= 2 * len(shape) - 1


@settings(max_examples=200)
@given(shape=SHAPES, seed=SEEDS)
def test_the_same_neurons_in_another_shape(shape: Shape, seed: int) -> None:
    rng = np.random.default_rng(seed)
    boxes, wanted = random_boxes(rng, shape), another_view(rng, shape)
    seen = reshaped(boxes, shape, wanted)
    assert all(len(box) == len(wanted) for box in seen)
    assert sorted(members(wanted, seen)) == sorted(members(shape, boxes))
    assert reshaped(boxes, shape, shape) == boxes


def another_view(rng: np.random.Generator, shape: Shape) -> Shape:
    """The axes of all prime factors, some of them joined, and now and then an axis of one."""
    factors: list[int] = []
    for n in shape:
        factors += [p for p in (2, 3, 5) for _ in range(8) if n % p == 0 and (n := n // p)]
    if rng.random() < 0.5:
        rng.shuffle(factors)
    else:
        factors = list(shape)
    view = [1]
    for factor in factors:
        if rng.random() < 0.5:
            view[-1] *= factor
        else:
            view.append(factor)
    if rng.random() < 0.5:
        view.insert(int(rng.integers(len(view) + 1)), 1)
    return tuple(view)


def test_an_axis_of_one_comes_and_goes_without_a_cut() -> None:
    box = ((1, 3), (0, 2), (2, 4))
    assert reshaped((box,), (4, 3, 5), (4, 1, 3, 5)) == (((1, 3), (0, 1), (0, 2), (2, 4)),)
    assert reshaped((((2, 7),),), (9,), (9, 1, 1)) == (((2, 7), (0, 1), (0, 1)),)
    assert reshaped((((3, 3),),), (9,), (9, 1)) == ()


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=6))
def test_the_union_of_ranges(edges: list[tuple[int, int]]) -> None:
    found = ranges(edges)
    covered = {n for low, high in edges for n in range(low, high)}
    assert [n for low, high in found for n in range(low, high)] == sorted(covered)
    assert all(before[1] < after[0] for before, after in pairwise(found))
