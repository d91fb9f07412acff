"""Where a picture draws cores or chips: rectangles, whose populations they hold, how full they are.

Tiles are one unit wide; chips stand a little apart. A system of many cores is drawn chip by chip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.mapping.mesh import LinkLoads, Mesh
from lapilli.map_report import utilisation

if TYPE_CHECKING:
    from lapilli.compiler.mapping import Placement
    from lapilli.hardware_profiles import Profile

Reals = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
MOST_CORES = 12_000
"""More cores than that are too small to be seen: chips are drawn."""
GAP = 0.4
"""Between chips, in tiles."""


@final
@dataclass(frozen=True, eq=False)
class Seats:
    """corner (units, 2): left and top of every core or chip in use; width, height: of one of them.

    held: the populations of each, most cores first; full (units,): the share of the most used
    limit, of chips the mean over their cores, None without limits; free (n, 2): corners of places
    that are not in use. chips (c, 2), chip_width, chip_height: outlines. columns, rows: centres of
    tiles, or of chips, between which links are drawn; area: (width, height) of everything.
    """

    by_chip: bool
    corner: Reals
    width: float
    height: float
    held: tuple[tuple[str, ...], ...]
    full: Reals | None
    free: Reals
    chips: Reals
    chip_width: float
    chip_height: float
    columns: Reals
    rows: Reals
    area: tuple[float, float]


@final
@dataclass(frozen=True)
class _Grid:
    """The chips that are drawn, in tiles; without a mesh a tile is one core."""

    wide: int
    high: int
    tiles_wide: int
    tiles_high: int
    first_column: int
    first_row: int
    per_tile: int
    per_chip: int

    def left(self, x: Integers) -> Reals:
        """Left edge of tile columns of the whole system."""
        column = x - self.first_column * self.tiles_wide
        return column + GAP * (column // self.tiles_wide)

    def top(self, y: Integers) -> Reals:
        """Top edge of tile rows of the whole system."""
        row = y - self.first_row * self.tiles_high
        return row + GAP * (row // self.tiles_high)


def seats(placement: Placement, profile: Profile, most_cores: int = MOST_CORES) -> Seats:
    """Cores on their tiles; chips, where there are more cores than `most_cores`.

    Without a mesh the cores of a chip stand in rows, in their order.
    """
    names, used = utilisation(placement, profile)
    full = used.max(axis=1) if names else None
    held = [tuple(dict.fromkeys(s.population for s in core.slices)) for core in placement.cores]
    chip = np.array([core.chip for core in placement.cores], np.int64)
    mesh = placement.mesh
    if mesh is None:
        grid, x, y = _in_rows(chip)
    else:
        grid = _block(mesh, chip)
        tiles = np.array([core.tile for core in placement.cores], np.int64)
        x, y = tiles[:, 0], tiles[:, 1]
    if len(held) > most_cores:
        return _chips(grid, x, y, held, full)
    return _cores(grid, x, y, held, full)


def _block(mesh: Mesh, chip: Integers) -> _Grid:
    """The rows and columns of chips that are in use."""
    row, column = np.divmod(np.unique(chip), mesh.chips_wide)
    wide = int(column.max() - column.min()) + 1
    high = int(row.max() - row.min()) + 1
    tiles = mesh.tiles_wide, mesh.tiles_high
    first = int(column.min()), int(row.min())
    return _Grid(wide, high, *tiles, *first, mesh.cores_per_tile, mesh.cores_per_chip)


def _in_rows(chip: Integers) -> tuple[_Grid, Integers, Integers]:
    """Chips near-square, each as wide as its cores need; a tile holds one core."""
    which, number, each = np.unique(chip, return_inverse=True, return_counts=True)
    order = np.argsort(number, kind="stable")
    rank = np.empty_like(number)
    rank[order] = np.arange(len(chip)) - np.repeat(np.cumsum(each) - each, each)
    side = math.isqrt(int(each.max()) - 1) + 1
    wide = math.isqrt(len(which) - 1) + 1
    rows = -(-int(each.max()) // side)
    grid = _Grid(wide, -(-len(which) // wide), side, rows, 0, 0, 1, int(each.max()))
    return grid, number % wide * side + rank % side, number // wide * rows + rank // side


def _rank_on_tile(x: Integers, y: Integers) -> Integers:
    """0, 1, ... for the cores of every tile."""
    tile = y * (int(x.max()) + 1) + x
    order = np.argsort(tile, kind="stable")
    _, each = np.unique(tile, return_counts=True)
    rank = np.empty(len(tile), np.int64)
    rank[order] = np.arange(len(tile)) - np.repeat(np.cumsum(each) - each, each)
    return rank


def _cores(
    grid: _Grid, x: Integers, y: Integers, held: list[tuple[str, ...]], full: Reals | None
) -> Seats:
    side = math.isqrt(grid.per_tile - 1) + 1
    rows = -(-grid.per_tile // side)
    size = 0.9 / side, 0.9 / rows
    rank = _rank_on_tile(x, y)
    corner = _corner(grid, x, y, rank, side, rows)
    columns = np.arange(grid.wide * grid.tiles_wide) + grid.first_column * grid.tiles_wide
    lines = np.arange(grid.high * grid.tiles_high) + grid.first_row * grid.tiles_high
    everywhere = np.stack(np.meshgrid(columns, lines, range(grid.per_tile)), -1).reshape(-1, 3)
    tile = everywhere[:, 1] % grid.tiles_high * grid.tiles_wide
    tile += everywhere[:, 0] % grid.tiles_wide
    everywhere = everywhere[tile * grid.per_tile + everywhere[:, 2] < grid.per_chip]
    taken = set(zip(x.tolist(), y.tolist(), rank.tolist(), strict=True))
    left = [place for place in map(tuple, everywhere.tolist()) if place not in taken]
    vacant = np.array(left, np.int64).reshape(-1, 3)
    free = _corner(grid, vacant[:, 0], vacant[:, 1], vacant[:, 2], side, rows)
    return _seats(False, grid, corner, size, held, full, free, (columns, lines))


def _corner(grid: _Grid, x: Integers, y: Integers, rank: Integers, side: int, rows: int) -> Reals:
    inset = 0.05
    left = grid.left(x) + inset + 0.9 * (rank % side) / side
    top = grid.top(y) + inset + 0.9 * (rank // side) / rows
    return np.stack([left, top], axis=1)


def _chips(
    grid: _Grid, x: Integers, y: Integers, held: list[tuple[str, ...]], full: Reals | None
) -> Seats:
    """Every chip with the populations of its cores, most cores first."""
    column, row = x // grid.tiles_wide, y // grid.tiles_high
    found: dict[tuple[int, int], dict[str, int]] = {}
    number: dict[tuple[int, int], int] = {}
    places = list(zip(column.tolist(), row.tolist(), strict=True))
    for place, names in zip(places, held, strict=True):
        number.setdefault(place, len(number))
        counts = found.setdefault(place, {})
        for name in names:
            counts[name] = counts.get(name, 0) + 1
    chip = [number[place] for place in places]
    mean = None if full is None else np.bincount(chip, full) / np.bincount(chip)
    at = np.array(list(found), np.int64)
    corner = np.stack(
        [grid.left(at[:, 0] * grid.tiles_wide), grid.top(at[:, 1] * grid.tiles_high)], axis=1
    )
    most_first = [tuple(sorted(counts, key=lambda n: -counts[n])) for counts in found.values()]
    size = float(grid.tiles_wide), float(grid.tiles_high)
    columns = (np.arange(grid.wide) + grid.first_column) * grid.tiles_wide
    lines = (np.arange(grid.high) + grid.first_row) * grid.tiles_high
    nowhere = np.zeros((0, 2))
    return _seats(True, grid, corner, size, most_first, mean, nowhere, (columns, lines))


def _seats(
    by_chip: bool,
    grid: _Grid,
    corner: Reals,
    size: tuple[float, float],
    held: Sequence[tuple[str, ...]],
    full: Reals | None,
    free: Reals,
    nodes: tuple[Integers, Integers],
) -> Seats:
    across, down = np.meshgrid(np.arange(grid.wide), np.arange(grid.high))
    wide, high = grid.tiles_wide + GAP, grid.tiles_high + GAP
    outline = np.stack([across.ravel() * wide, down.ravel() * high], axis=1)
    middle = (size[0] / 2, size[1] / 2) if by_chip else (0.5, 0.5)
    return Seats(
        by_chip,
        corner,
        *size,
        tuple(held),
        full,
        free,
        outline,
        float(grid.tiles_wide),
        float(grid.tiles_high),
        grid.left(nodes[0]) + middle[0],
        grid.top(nodes[1]) + middle[1],
        (grid.wide * wide - GAP, grid.high * high - GAP),
    )


def loads(placement: Placement, by_chip: bool) -> LinkLoads | None:
    """Of the links between the tiles, or the chips, that are drawn; None without a mesh."""
    mesh, sent = placement.mesh, placement.traffic
    if mesh is None:
        return None
    first: dict[tuple[int, int], int] = {}
    for slot, tile in enumerate(zip(mesh.x.tolist(), mesh.y.tolist(), strict=True)):
        first.setdefault(tile, slot)
    slots = np.array([first[core.tile] for core in placement.cores if core.tile], np.int64)
    hosted = np.flatnonzero(sent.host_packets)
    source = np.concatenate((slots[sent.source], np.zeros(len(hosted), np.int64)))
    target = np.concatenate((slots[sent.target], slots[hosted]))
    found = mesh.link_loads(
        source, target, np.concatenate((sent.packets, sent.host_packets[hosted]))
    )
    grid = _block(mesh, np.array([core.chip for core in placement.cores], np.int64))
    wide, high = grid.tiles_wide, grid.tiles_high
    columns = slice(grid.first_column * wide, (grid.first_column + grid.wide) * wide)
    rows = slice(grid.first_row * high, (grid.first_row + grid.high) * high)
    across = slice(columns.start, columns.stop - 1)
    down = slice(rows.start, rows.stop - 1)
    east, west = found.east[rows, across], found.west[rows, across]
    south, north = found.south[down, columns], found.north[down, columns]
    if by_chip:
        east, west = (_summed(v[:, wide - 1 :: wide], high, 0) for v in (east, west))
        south, north = (_summed(v[high - 1 :: high], wide, 1) for v in (south, north))
    return LinkLoads(east, west, south, north)


def _summed(values: Reals, size: int, axis: int) -> Reals:
    """Sums of `size` neighbours along an axis."""
    total: Reals = np.add.reduceat(values, range(0, values.shape[axis], size), axis=axis)
    return total
