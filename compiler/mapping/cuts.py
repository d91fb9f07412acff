"""How a population may be cut: channels in groups, the plane in strips, strips row by row.

A piece is a range of strip-rows of one group of channels. Strips follow each other, so that pieces
need not end where a strip does: then a piece is two boxes. Vectors are cut anywhere.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from lapilli.compiler.linear import Conv, ConvTransposed, Shape
from lapilli.compiler.mapping.regions import Box, Boxes
from lapilli.compiler.mapping.resources import drives_of
from lapilli.compiler.netlist import Netlist, Population
from lapilli.hardware_profiles import Profile

MOST_PIECES = 2
"""Boxes of one population on one core."""
_HALO = 0.05
"""What a core that is read twice for the same input counts, against one that stays empty."""


@final
@dataclass(frozen=True)
class Plane:
    """A population's shape as channels x rows x columns; what lies behind columns is not cut."""

    shape: Shape
    channels: int
    rows: int
    columns: int

    @classmethod
    def of(cls, shape: Shape) -> Plane:
        """A vector is rows alone, so that it can be cut anywhere."""
        if len(shape) == 1:
            return cls(shape, 1, shape[0], 1)
        return cls(shape, shape[0], shape[1], shape[2] if len(shape) > 2 else 1)

    @property
    def size(self) -> int:
        """Positions of one channel."""
        return self.rows * self.columns

    def box(self, group: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> Box:
        """The box in the population's own shape."""
        if len(self.shape) == 1:
            return (rows,)
        if len(self.shape) == 2:
            return group, rows
        return group, rows, columns, *((0, n) for n in self.shape[3:])


@final
@dataclass(frozen=True)
class Cut:
    """groups: ranges of channels; width: columns of a strip (the last may have fewer)."""

    plane: Plane
    groups: tuple[tuple[int, int], ...]
    width: int

    @property
    def units(self) -> int:
        """Strip-rows of one group."""
        return -(-self.plane.columns // self.width) * self.plane.rows

    def reach(self, unit: int, boxes: int) -> int:
        """The end of the longest piece that begins at a unit and surely has no more boxes."""
        return min((unit // self.plane.rows + boxes) * self.plane.rows, self.units)

    def boxes(self, group: tuple[int, int], start: int, stop: int) -> Boxes:
        """The strip-rows start .. stop of a group, a box for every strip."""
        found: list[Box] = []
        rows = self.plane.rows
        while start < stop:
            strip, first = divmod(start, rows)
            last = min(rows, first + stop - start)
            columns = strip * self.width, min((strip + 1) * self.width, self.plane.columns)
            found.append(self.plane.box(group, (first, last), columns))
            start += last - first
        return tuple(found)


def parts(size: int, count: int, unit: int = 1) -> tuple[tuple[int, int], ...]:
    """`count` ranges of nearly the same size, cut at multiples of `unit`.

    >>> parts(10, 3)
    ((0, 4), (4, 7), (7, 10))
    """
    units = -(-size // unit)
    edges = [min(-(-units * i // count) * unit, size) for i in range(count + 1)]
    return tuple((low, high) for low, high in itertools.pairwise(edges) if low < high)


def groupings(netlist: Netlist, p: Population, profile: Profile) -> Iterator[int]:
    """Into how many groups of channels a population may be cut, fewest first.

    Of the numbers that give groups of one size the least; where these are many, those that divide
    the channels evenly and some of the others.
    """
    channels = Plane.of(p.shape).channels
    most = channels // unit_of(netlist, p, profile)
    counts = sorted({-(-most // size) for size in {-(-most // k) for k in range(1, most + 1)}})
    if len(counts) > 20:
        some = {int(len(counts) ** (i / 12)) - 1 for i in range(13)} | {len(counts) - 1}
        counts = [k for i, k in enumerate(counts) if most % k == 0 or i in some]
    yield from counts


def unit_of(netlist: Netlist, p: Population, profile: Profile) -> int:
    """Channels that stay together while there is a choice: the outputs of a group share inputs."""
    sizes = [
        c.map.out_shape[0] // c.map.groups
        for c in drives_of(netlist, p, profile)
        if isinstance(c.map, Conv | ConvTransposed) and c.map.groups > 1
    ]
    channels = Plane.of(p.shape).channels
    size = math.lcm(*sizes) if sizes else 1
    return size if channels % size == 0 and size < channels else 1


def width(netlist: Netlist, p: Population, room: int, profile: Profile) -> int:
    """Columns of a strip such that pieces of `room` positions waste little and are nearly square.

    Square pieces read the fewest inputs at their borders, so the fewest cores get the same spike.
    """
    plane = Plane.of(p.shape)
    windows = [
        (c.map.kernel, c.map.stride)
        for c in drives_of(netlist, p, profile)
        if isinstance(c.map, Conv) and c.map.out_shape == p.shape
    ]

    def score(columns: int) -> float:
        fit = min(room // columns, MOST_PIECES * plane.rows)
        if fit == 0:
            return math.inf
        held = min(fit * columns, plane.size)
        wide = columns * -(-fit // plane.rows)
        halo = max((_halo(min(fit, plane.rows), wide, k, s) for k, s in windows), default=1.0)
        return min(room, plane.size) / held * (1 + _HALO * (halo - 1))

    return min(_sizes(plane.columns), key=lambda columns: (score(columns), -columns))


def _sizes(length: int) -> list[int]:
    return sorted({-(-length // k) for k in range(1, length + 1)})


def _halo(high: int, wide: int, kernel: tuple[int, int], stride: tuple[int, int]) -> float:
    """Inputs that a piece reads, over those that are its own."""
    read = math.prod(
        (n - 1) * s + max(k, s) for n, k, s in zip((high, wide), kernel, stride, strict=True)
    )
    return read / (high * wide * math.prod(stride))
