"""Weights that were trained on a grid, k * step with integers k, stay integers on the chip.

Usually the largest weight of an output becomes the chip's largest, 127, and the others are rounded;
weights of a few bits would fall between those integers. Where the weights into a channel are such
multiples, its unit is made a little coarser, by less than a factor of two, so that the step is an
integer of units: then nothing is rounded. Found from the weights alone, so it does not matter who
trained them, and BatchNorm may have been folded into them.
"""

from __future__ import annotations

import numpy as np

from lapilli.compiler.linear import Array, Conv, ConvTransposed, Dense, LinearMap
from lapilli.compiler.numerics import half_up, round_down

FLOAT_NOISE = 2.0**-11
"""In steps: what float32 arithmetic (folding, training) may have left of an integer multiple."""
LOOKED_AT = 1024
"""Weights of a channel that are looked at first: float weights are told by their variety."""
ALIKE = 1e-5
"""Relative: channels whose steps differ by no more were trained with the same."""


def grid_steps(linear: LinearMap, top: int) -> Array:
    """The largest step that all weights into a channel are up to `top` multiples of; (C,).

    0 for channels whose weights are on no such grid, or that have fewer than two: a single one is
    an integer in any unit that it sets, and need not have a say where it sets none.
    """
    if isinstance(linear, (Conv, Dense)):
        rows = linear.weight.reshape(linear.out_shape[0], -1)
    elif isinstance(linear, ConvTransposed):
        kernels = linear.weight.reshape(linear.groups, -1, *linear.weight.shape[1:])
        rows = np.moveaxis(kernels, 2, 1).reshape(linear.out_shape[0], -1)
    else:  # one weight each, or made by composing maps
        return np.zeros(linear.out_shape[0])
    return np.array([_step(row, top) for row in rows])


def on_grid(unit: Array, step: Array, shared: bool) -> Array:
    """The least unit, not below `unit`, of which `step` is an integer multiple.

    unit, step: () or (C,); unit stays where it is larger than the step already, or there is none.
    shared: channels keep the ratios of their units, so it takes one unit and one step for all.
    """
    if shared:
        if not ((step > 0).all() and _one(step) and _one(unit)):
            return unit
        step = np.asarray(step.max())
    times = round_down(step / unit * (1 + ALIKE))
    return np.asarray(np.where(times > 0, step / np.maximum(times, 1), unit))


def _one(values: Array) -> bool:
    return bool(np.ptp(values) <= ALIKE * values.max())


def _step(row: Array, top: int) -> float:
    peak = float(np.abs(row).max(initial=0.0))
    if np.count_nonzero(row) < 2:
        return 0.0
    for part in (row[:LOOKED_AT], row):
        values = np.sort(np.abs(part)) / peak
        kept = values[np.concatenate([[True], np.diff(values) > FLOAT_NOISE / top])]
        if len(kept) > top + 1:
            return 0.0
    counts = np.arange(1, top + 1)
    multiples = np.multiply.outer(counts, kept)
    fits = (np.abs(multiples - half_up(multiples)) <= FLOAT_NOISE).all(axis=1)
    return peak / float(counts[fits.argmax()]) if fits.any() else 0.0
