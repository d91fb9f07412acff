"""Random boxes of neurons: one, a few that do not meet, and cuts of a shape into boxes."""

from __future__ import annotations

import numpy as np

from lapilli.compiler.linear import Shape
from lapilli.compiler.mapping.regions import Box, Boxes, whole


def random_box(rng: np.random.Generator, within: Box) -> Box:
    """A box inside another; often as long as that along an axis."""
    box = []
    for low, high in within:
        ends = sorted((rng.choice(high - low + 1, 2, replace=False) + low).tolist())
        box.append((low, high) if rng.random() < 0.4 else (ends[0], ends[1]))
    return tuple(box)


def random_boxes(rng: np.random.Generator, shape: Shape, most: int = 2) -> Boxes:
    """1 .. most boxes of a shape that do not meet, in any order."""
    parts = random_tiling(rng, shape, int(rng.integers(1, most + 1)))
    return tuple(random_box(rng, parts[i]) for i in rng.permutation(len(parts))[:most])


def random_tiling(rng: np.random.Generator, shape: Shape, cuts: int | None = None) -> list[Box]:
    """The whole shape in boxes, each neuron once, after so many cuts (up to 4 if not given)."""
    boxes = [whole(shape)]
    for _ in range(int(rng.integers(5)) if cuts is None else cuts):
        box = boxes.pop(int(rng.integers(len(boxes))))
        axis = int(rng.integers(len(box)))
        low, high = box[axis]
        at = int(rng.integers(low, high + 1))
        edges = [(a, b) for a, b in ((low, at), (at, high)) if a < b]
        boxes += [(*box[:axis], e, *box[axis + 1 :]) for e in edges]
    return boxes
