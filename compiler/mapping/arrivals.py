"""To which cores a neuron sends: counted from the edges of boxes, for many targets at once.

What a piece of the target reads is a range of channels times inputs along rows times inputs along
columns, so how many neurons of a box it reads is a product of three counts.
"""

from __future__ import annotations

import math
from typing import Any, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.linear import (
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    Shape,
    Sparse,
)
from lapilli.compiler.mapping.regions import Box, Boxes, alike, indices, reshaped
from lapilli.compiler.mapping.synapse_memory import axis_reads, reads, sources_of
from lapilli.compiler.netlist import Connection

Counts = npt.NDArray[np.int64]


@final
class Arrivals:
    """What every core that holds targets of one connection reads of its source.

    shared: does one packet serve all pieces of the target on a core (native rows of weights), or
    does every piece have axons of its own (lists)?
    """

    def __init__(self, c: Connection, source: Shape, target: Shape, shared: bool):
        self._map, self._source, self._target, self._shared = c.map, source, target, shared
        listed = isinstance(c.map, Sparse | DensePart) or len(c.map.in_shape) > 3
        # Where a piece of the target is several boxes of outputs, what it reads is no product.
        listed |= not isinstance(c.map, Dense) and not alike(target, c.map.out_shape)
        listed |= isinstance(c.map, Diagonal) and not alike(c.map.in_shape, c.map.out_shape)
        self._entries = _Listed() if listed else _Products()
        self.cores: list[int] = []
        self._signs: list[int] = []
        self._sign_array: Counts | None = None
        self._run: Counts | None = None
        self._held: dict[int, list[Any]] = {}

    def add(self, core: int, boxes: Boxes) -> None:
        """Boxes of the target, at most two if axons are shared, are on a core."""
        held = self._held.setdefault(core, [])
        seen = [reshaped((box,), self._target, self._map.out_shape) for box in boxes]
        # A list serves a box of the map's own outputs, a row of weights all of a core's neurons.
        for here in seen if self._shared else [(part,) for parts in seen for part in parts]:
            read = self._read(here)
            self._append(core, 1, read)
            for other in held if self._shared else ():
                # Counted twice: what both read.
                both = self._entries.both(other, read)
                if both is not None:
                    self._append(core, -1, both)
            held.append(read)

    def counts(self, box: Box) -> Counts:
        """How many neurons of a box of the source each entry of `cores` reads, with its sign."""
        if not self.cores:
            return np.zeros(0, np.int64)
        seen = reshaped((box,), self._source, self._map.in_shape)
        if self._sign_array is None:
            self._sign_array = np.array(self._signs, np.int64)
        return self._entries.counts(seen, self._map.in_shape) * self._sign_array

    def total(self, boxes: Boxes) -> int:
        """Pairs of a neuron in `boxes` and a core that reads it."""
        return sum(int(self.counts(box).sum()) for box in boxes)

    def _append(self, core: int, sign: int, read: Any) -> None:
        self.cores.append(core)
        self._signs.append(sign)
        self._sign_array = None
        self._entries.append(read)

    def _read(self, here: Boxes) -> Any:
        """What outputs of the map read."""
        m = self._map
        if isinstance(m, DensePart):  # the same for all
            self._run = self._run if self._run is not None else np.arange(m.run.start, m.run.stop)
            return self._run
        if isinstance(self._entries, _Listed):
            return np.flatnonzero(sources_of(m, here))
        if isinstance(m, Conv | ConvTransposed):
            axes = [
                [axis_reads(m, axis, *tile[axis + 1]) for tile in here if tile] for axis in (0, 1)
            ]
            lines = [np.unique(np.concatenate(found)) if found else _NONE for found in axes]
            channels = [edges[0] for edges in reads(m, here)]
        else:
            boxes = [(*b, *((0, 1),) * (3 - len(b))) for b in reads(m, here)]
            lines = [
                np.unique(np.concatenate([np.arange(*b[axis]) for b in boxes] or [_NONE]))
                for axis in (1, 2)
            ]
            channels = [b[0] for b in boxes]
        low, high = (
            min((c[0] for c in channels), default=0),
            max((c[1] for c in channels), default=0),
        )
        return low, high, *lines


_NONE = np.zeros(0, np.int64)


class _Products:
    """low .. high of channels, and the inputs along rows and along columns."""

    def __init__(self) -> None:
        self._found: list[tuple[int, int, Counts, Counts]] = []
        self._tables: tuple[Counts, Counts, Counts, Counts] | None = None

    def append(self, read: tuple[int, int, Counts, Counts]) -> None:
        self._found.append(read)
        self._tables = None

    @staticmethod
    def both(one: Any, other: Any) -> Any:
        low, high = max(one[0], other[0]), min(one[1], other[1])
        rows, columns = (np.intersect1d(one[i], other[i]) for i in (2, 3))
        return (low, high, rows, columns) if low < high and rows.size and columns.size else None

    def counts(self, boxes: Boxes, shape: Shape) -> Counts:
        """(entries,)"""
        if self._tables is None:
            self._tables = (
                np.array([low for low, *_ in self._found]),
                np.array([high for _, high, *_ in self._found]),
                _before([rows for _, _, rows, _ in self._found], shape[1] if len(shape) > 1 else 1),
                _before(
                    [columns for *_, columns in self._found], shape[2] if len(shape) > 2 else 1
                ),
            )
        lows, highs, rows, columns = self._tables
        total = np.zeros(len(lows), np.int64)
        for box in boxes:
            edges = (*box, *((0, 1),) * (3 - len(box)))
            channels, high, wide = edges[0], edges[1], edges[2]
            held = np.maximum(np.minimum(highs, channels[1]) - np.maximum(lows, channels[0]), 0)
            total += held * (rows[high[1]] - rows[high[0]]) * (columns[wide[1]] - columns[wide[0]])
        return total


def _before(lines: list[Counts], length: int) -> Counts:
    """(length + 1, lines): how many of each line's indices lie before."""
    marks: npt.NDArray[Any] = np.zeros((length + 1, len(lines)), np.int32)
    owners = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    if len(owners):
        marks[np.concatenate(lines) + 1, owners] = 1
    found: Counts = np.cumsum(marks, axis=0, out=marks)
    return found


class _Listed:
    """The neurons one by one: of matrices without a structure."""

    def __init__(self) -> None:
        self._found: list[Counts] = []
        self._different: dict[int, Counts] = {}

    def append(self, read: Counts) -> None:
        self._found.append(read)
        self._different[id(read)] = read

    @staticmethod
    def both(one: Counts, other: Counts) -> Counts | None:
        shared = np.intersect1d(one, other)
        return shared if shared.size else None

    def counts(self, boxes: Boxes, shape: Shape) -> Counts:
        """(entries,)"""
        inside = np.zeros(math.prod(shape), np.bool_)
        inside[indices(shape, boxes)] = True
        once = {id(read): np.count_nonzero(inside[read]) for read in self._different.values()}
        return np.array([once[id(read)] for read in self._found], np.int64)
