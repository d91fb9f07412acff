"""Plain layouts of cores on a mesh: what a search starts from and is measured against.

All of them, and the search, use the same slots: `Mesh.compact_slots`, the fewest chips that hold
the cores.
"""

from __future__ import annotations

import numpy as np

from lapilli.compiler.mapping.mesh import Ints, Mesh


def in_order(cores: int, mesh: Mesh) -> Ints:
    """Core i on the i-th slot: layer order, as NxTF and Lava place."""
    return mesh.compact_slots(cores)[:cores]


def at_random(cores: int, mesh: Mesh, seed: int = 0) -> Ints:
    """The slots of `in_order`, shuffled."""
    return np.random.default_rng(seed).permutation(in_order(cores, mesh))


def along_hilbert(cores: int, mesh: Mesh) -> Ints:
    """Cores in order along a Hilbert curve over the chips and, on each chip, over its tiles.

    Chips are filled one after the other. A grid that is no power of two wide is visited as the
    part of the next larger square that exists.
    """
    slots = mesh.compact_slots(cores)
    row, column = np.divmod(mesh.chip[slots], mesh.chips_wide)
    chip = hilbert_index(column, row, max(mesh.chips_wide, mesh.chips_high))
    side = max(mesh.tiles_wide, mesh.tiles_high)
    tile = hilbert_index(mesh.x[slots] % mesh.tiles_wide, mesh.y[slots] % mesh.tiles_high, side)
    order = np.lexsort((slots, tile, chip))
    return np.asarray(slots[order][:cores], np.int64)


def hilbert_index(x: Ints, y: Ints, side: int) -> Ints:
    """Where cells lie along the Hilbert curve through the smallest 2^k x 2^k square >= side.

    >>> import numpy as np
    >>> hilbert_index(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 0]), 2).tolist()
    [0, 1, 2, 3]
    """
    x, y = x.copy(), y.copy()
    index = np.zeros_like(x)
    half = 1 << max(0, (side - 1).bit_length() - 1)
    last = 2 * half - 1
    while half:
        right, low = (x & half) > 0, (y & half) > 0
        index += half * half * ((3 * right) ^ low)
        # Each quarter holds the same curve, turned: the lower-index quarters are mirrored.
        flip = ~low & right
        x[flip], y[flip] = last - x[flip], last - y[flip]
        x, y = np.where(low, x, y), np.where(low, y, x)
        half //= 2
    return index
