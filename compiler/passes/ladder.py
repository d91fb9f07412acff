"""Rungs of a ladder: where an activation's nearest count changes, whatever its form."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from lapilli.compiler.activations import Activation, evaluate
from lapilli.compiler.linear import Array, frozen
from lapilli.compiler.numerics import half_up
from lapilli.compiler.spiking import Rungs

FAR = 1e4
"""Rungs are looked for up to so many times the largest activity that counts can say, or 10."""
HALVINGS = 64  # brackets of 1e5 shrink below the rounding of float64 near 1


def rungs(activation: Activation, low: int, high: int, step: Array) -> Rungs:
    """The staircase that rounds the activation to the nearest of step * (low .. high), half up.

    step: () or (C,). Exact: n >= k + 1 just where activation(v) >= (k + 1/2) * step, for functions
    that rise and fall, too; between the points where they turn, each rung is found by bisection.
    """
    per_channel = step.ndim > 0 or any(p.ndim for p in getattr(activation, "parameters", ()))
    channels = max([step.size, *(p.size for p in getattr(activation, "parameters", ()))])
    steps = np.broadcast_to(step, (channels,))
    halves = np.multiply.outer(np.arange(low, high) + 0.5, steps)  # (K, C)
    far = FAR * max(float(np.abs(halves).max()) if halves.size else 0.0, 10.0)
    ends = [-far, *activation.turns, far]
    pieces = [_crossings(activation, a, b, halves) for a, b in pairwise(ends)]
    at = np.concatenate([crossings for crossings, _ in pieces])
    rises = np.concatenate([rise for _, rise in pieces])
    order = np.argsort(at, axis=0, kind="stable")
    at, rises = (np.take_along_axis(values, order, axis=0) for values in (at, rises))
    reached = max(int(np.isfinite(at).any(axis=1).sum()), 1)
    at, rises = at[:reached], rises[:reached]
    bottom = _at(activation, np.full((1, channels), -far))[0]
    start = np.clip(half_up(bottom / steps), low, high)
    if not per_channel:
        at, rises, start = at[:, 0], rises[:, 0], start[0]
    return Rungs(frozen(at), frozen(rises), frozen(start))


def _at(activation: Activation, x: Array) -> Array:
    """Values at (K, C) drives, the channels each with its own parameters."""
    return evaluate(activation, x)


def _crossings(
    activation: Activation, first: float, last: float, values: Array
) -> tuple[Array, Array]:
    """Where the activation reaches (K, C) values between first and last, and in what direction.

    Between them it must be monotone. Infinite, with a rise of 0, where it does not.
    """
    below, above = np.full(values.shape, first), np.full(values.shape, last)
    began, ended = (_at(activation, x) for x in (below, above))
    rises, falls = (began < values) & (values <= ended), (began >= values) & (values > ended)
    for _ in range(HALVINGS):
        middle = (below + above) / 2
        passed = (_at(activation, middle) >= values) == rises
        above, below = np.where(passed, middle, above), np.where(passed, below, middle)
    at = np.where(rises | falls, above, np.inf)
    return at, rises.astype(np.int64) - falls.astype(np.int64)
