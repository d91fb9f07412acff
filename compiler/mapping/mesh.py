"""The grid of tiles on which the cores of a system sit, and the way a packet takes over it.

Chips stand in a flat grid, tiles in a grid on each chip, and a border between two chips is crossed
like any other border between tiles: the system is one global grid of tiles. A packet first goes
east or west along its row, then north or south along its column (dimension-ordered routing, as
Davies et al. 2018, "Loihi: A Neuromorphic Manycore Processor with On-Chip Learning", describe it).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class LinkLoads:
    """Packets per step on every directed link between neighbouring tiles.

    east[y, x] is the link from tile (x, y) to (x + 1, y), west[y, x] the one back: both have shape
    (tiles high, tiles wide - 1). south[y, x] leads from (x, y) to (x, y + 1), north[y, x] back:
    shape (tiles high - 1, tiles wide).
    """

    east: Floats
    west: Floats
    south: Floats
    north: Floats

    @property
    def worst(self) -> float:
        """Packets per step on the busiest link; 0 where there is no link."""
        return max(
            float(loads.max(initial=0.0))
            for loads in (self.east, self.west, self.south, self.north)
        )

    @property
    def total(self) -> float:
        """Packets x hops per step: the sum over all links."""
        return sum(float(loads.sum()) for loads in (self.east, self.west, self.south, self.north))


@final
@dataclass(frozen=True)
class Mesh:
    """A flat grid of chips, each a grid of tiles, each with cores.

    Core places ("slots") are numbered chip by chip, on each chip tile by tile, in each tile core
    by core; chips and tiles are numbered row by row. `cores_per_chip` may be less than what the
    tiles hold: the last places of a chip then do not exist.

    Errors: InputError for a number below 1 and for more cores per chip than its tiles hold.
    """

    chips_wide: int
    chips_high: int
    tiles_wide: int
    tiles_high: int
    cores_per_tile: int
    cores_per_chip: int

    def __post_init__(self) -> None:
        numbers = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name, number in numbers.items():
            if number < 1:
                raise InputError(
                    f"mesh, {name}",
                    "a mesh has at least one of everything",
                    found=number,
                    allowed="1 or more",
                    remedy="Correct the hardware profile.",
                )
        room = self.tiles_wide * self.tiles_high * self.cores_per_tile
        if self.cores_per_chip > room:
            raise InputError(
                "mesh, cores_per_chip",
                "a chip's cores sit on its tiles",
                found=self.cores_per_chip,
                allowed=f"{self.tiles_wide} x {self.tiles_high} tiles of {self.cores_per_tile}"
                f" = {room}",
                remedy="Correct the hardware profile.",
            )

    @classmethod
    def near_square(
        cls, cores: int, tiles_wide: int, tiles_high: int, cores_per_tile: int, cores_per_chip: int
    ) -> Mesh:
        """Mesh of as many chips as hold `cores` (and perhaps a few more), near-square in tiles.

        For a profile that states a chip and no system. Assumption: such chips can be laid side by
        side in a flat grid.
        """
        chips = max(1, -(-cores // cores_per_chip))
        wide, high = _compact(chips, chips, chips, tiles_wide, tiles_high)
        return cls(wide, high, tiles_wide, tiles_high, cores_per_tile, cores_per_chip)

    @property
    def chips(self) -> int:
        """Number of chips."""
        return self.chips_wide * self.chips_high

    @property
    def slots(self) -> int:
        """Number of core places of all chips."""
        return self.chips * self.cores_per_chip

    @property
    def width(self) -> int:
        """Tiles of the whole system from west to east."""
        return self.chips_wide * self.tiles_wide

    @property
    def height(self) -> int:
        """Tiles of the whole system from north to south."""
        return self.chips_high * self.tiles_high

    @cached_property
    def chip(self) -> Ints:
        """Chip of every slot, shape (slots,)."""
        return np.arange(self.slots, dtype=np.int64) // self.cores_per_chip

    @cached_property
    def x(self) -> Ints:
        """Global tile column of every slot, from the west, shape (slots,)."""
        tile = np.arange(self.slots, dtype=np.int64) % self.cores_per_chip // self.cores_per_tile
        return self.chip % self.chips_wide * self.tiles_wide + tile % self.tiles_wide

    @cached_property
    def y(self) -> Ints:
        """Global tile row of every slot, from the north, shape (slots,)."""
        tile = np.arange(self.slots, dtype=np.int64) % self.cores_per_chip // self.cores_per_tile
        return self.chip // self.chips_wide * self.tiles_high + tile // self.tiles_wide

    def compact_slots(self, cores: int) -> Ints:
        """Slots of the fewest chips that hold `cores`, in ascending order.

        The chips form a near-square block (its last row perhaps not full) that begins at chip 0,
        where the host's packets enter.

        Errors: InputError where the whole system has fewer slots.
        """
        if cores > self.slots:
            raise InputError(
                "mesh",
                "every core of a network sits on a core of its own",
                found=f"{cores} cores",
                allowed=f"{self.slots} of {self.chips} chips",
                remedy="Use a larger system or a smaller network.",
            )
        chips = max(1, -(-cores // self.cores_per_chip))
        wide, _ = _compact(
            chips, self.chips_wide, self.chips_high, self.tiles_wide, self.tiles_high
        )
        number = np.arange(chips, dtype=np.int64)
        taken = number // wide * self.chips_wide + number % wide
        places = np.arange(self.cores_per_chip, dtype=np.int64)
        return (taken[:, None] * self.cores_per_chip + places).ravel()

    def hops(self, source: Ints, target: Ints) -> tuple[Ints, Ints]:
        """Steps between tiles of a packet between slots: (east or west, north or south)."""
        east_west = np.abs(self.x[source] - self.x[target])
        north_south = np.abs(self.y[source] - self.y[target])
        return east_west, north_south

    def crossings(self, source: Ints, target: Ints) -> Ints:
        """How many of these steps cross a border between two chips."""
        row, column = np.divmod(self.chip, self.chips_wide)
        rows, columns = np.abs(row[source] - row[target]), np.abs(column[source] - column[target])
        crossings: Ints = rows + columns
        return crossings

    def link_loads(self, source: Ints, target: Ints, packets: Floats) -> LinkLoads:
        """Load of every link under edges between slots.

        source, target: slots, shape (edges,); packets: per step, shape (edges,). Cost grows with
        the edges and the tiles, not with the hops: each way is a difference at its two ends.
        """
        x_from, y_from, x_to, y_to = (
            *(self.x[source], self.y[source]),
            *(self.x[target], self.y[target]),
        )
        east, west = _runs(x_from, x_to, y_from, packets, self.width, self.height)
        south, north = _runs(y_from, y_to, x_to, packets, self.height, self.width)
        return LinkLoads(east, west, south.T, north.T)


def _runs(
    start: Ints, stop: Ints, line: Ints, packets: Floats, length: int, lines: int
) -> tuple[Floats, Floats]:
    """Loads of the forward and the backward links of all lines, each of shape (lines, length - 1).

    A run from `start` to `stop` adds its packets where it begins and takes them away where it
    ends; the sum along the line is the load.
    """
    loads = []
    for first, last, way in ((start, stop, start < stop), (stop, start, start > stop)):
        ends = np.concatenate((line[way] * length + first[way], line[way] * length + last[way]))
        signed = np.concatenate((packets[way], -packets[way]))
        steps = np.bincount(ends, weights=signed, minlength=length * lines)
        # What is left of the differences where every run has ended is float noise below zero.
        load = np.maximum(np.cumsum(steps.reshape(lines, length), axis=1)[:, :-1], 0.0)
        loads.append(load)
    return loads[0], loads[1]


def _compact(
    chips: int, widest: int, highest: int, tiles_wide: int, tiles_high: int
) -> tuple[int, int]:
    """Columns and rows of the block of at least `chips` chips with the least outline in tiles."""
    wide = np.arange(1, min(chips, widest) + 1)
    high = -(-chips // wide)
    outline = wide * tiles_wide + high * tiles_high
    outline[high > highest] = np.iinfo(outline.dtype).max
    best = int(np.lexsort((wide * high, outline))[0])
    return int(wide[best]), int(high[best])
