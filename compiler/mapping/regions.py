"""Sets of neurons as boxes: a range of indices along every axis of a population's shape.

Layers stay symbolic: whatever is asked of a set of neurons is answered from the edges of its boxes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from lapilli.compiler.linear import Shape

Box = tuple[tuple[int, int], ...]
"""low .. high along every axis of a shape, high excluded."""
Boxes = tuple[Box, ...]


def whole(shape: Shape) -> Box:
    """The box that is everything."""
    return tuple((0, size) for size in shape)


def volume(box: Box) -> int:
    """How many neurons a box has."""
    return math.prod(high - low for low, high in box)


def count(boxes: Iterable[Box]) -> int:
    """How many neurons disjoint boxes have."""
    return sum(volume(box) for box in boxes)


def slices(box: Box) -> tuple[slice, ...]:
    """The box as an index of an array of the population's shape."""
    return tuple(slice(low, high) for low, high in box)


def indices(shape: Shape, boxes: Iterable[Box]) -> npt.NDArray[np.int64]:
    """Flat indices, C order, of the neurons of disjoint boxes, box after box.

    >>> indices((2, 3), (((0, 2), (1, 3)),)).tolist()
    [1, 2, 4, 5]
    """
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    parts = []
    for box in boxes:
        flat = np.zeros((1,), np.int64)
        for (low, high), step in zip(box, steps, strict=True):
            flat = (flat[:, None] + np.arange(low, high) * step).reshape(-1)
        parts.append(flat)
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def flat_boxes(shape: Shape, start: int, stop: int) -> Iterator[Box]:
    """The range start .. stop of flat indices as boxes, in order, without overlap.

    >>> list(flat_boxes((3, 4), 2, 9))
    [((0, 1), (2, 4)), ((1, 2), (0, 4)), ((2, 3), (0, 1))]
    """
    if start >= stop:
        return
    if len(shape) == 1:
        yield ((start, stop),)
        return
    inner = math.prod(shape[1:])
    (first, head), (last, tail) = divmod(start, inner), divmod(stop, inner)
    if first == last or (first + 1 == last and head and not tail):
        for box in flat_boxes(shape[1:], head, tail or inner):
            yield ((first, first + 1), *box)
        return
    if head:
        yield from flat_boxes(shape, start, (first + 1) * inner)
        first += 1
    if first < last:
        yield ((first, last), *((0, size) for size in shape[1:]))
    yield from flat_boxes(shape, last * inner, stop)


def reshaped(boxes: Boxes, shape: Shape, wanted: Shape) -> Boxes:
    """The same neurons seen in another shape of the same size, as a flatten sees them."""
    if shape == wanted:
        return boxes
    if alike(shape, wanted):
        return tuple(_with_ones(box, shape, wanted) for box in boxes if volume(box))
    return tuple(
        part
        for box in boxes
        for start, stop in _runs(box, shape)
        for part in flat_boxes(wanted, start, stop)
    )


def alike(shape: Shape, wanted: Shape) -> bool:
    """Is every box of one shape a box of the other? Then axes of one, at most, come and go."""
    return [n for n in shape if n > 1] == [n for n in wanted if n > 1]


def _with_ones(box: Box, shape: Shape, wanted: Shape) -> Box:
    kept = iter(edges for edges, size in zip(box, shape, strict=True) if size > 1)
    return tuple(next(kept) if size > 1 else (0, 1) for size in wanted)


def _runs(box: Box, shape: Shape) -> Iterator[tuple[int, int]]:
    """Ranges of flat indices that are the box, the longest there are."""
    axis = len(shape)
    while axis > 0 and box[axis - 1] == (0, shape[axis - 1]):
        axis -= 1
    if axis == 0:
        yield 0, math.prod(shape)
        return
    inner = math.prod(shape[axis:])
    low, high = box[axis - 1]
    for start in indices(shape[:axis], ((*box[: axis - 1], (low, low + 1)),)).tolist():
        yield start * inner, (start + high - low) * inner


def ranges(edges: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The union of ranges, sorted and without overlap.

    >>> ranges([(4, 6), (0, 2), (2, 3)])
    ((0, 3), (4, 6))
    """
    merged: list[tuple[int, int]] = []
    for low, high in sorted(edges):
        if low >= high:
            continue
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return tuple(merged)
