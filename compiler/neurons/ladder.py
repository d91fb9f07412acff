"""Integrate, then count thresholds passed, up or down: any activation, monotone or not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from lapilli.compiler.linear import Array, Shape
from lapilli.compiler.neurons.model import STATE_BITS, Flaw
from lapilli.compiler.neurons.sending import AnySending
from lapilli.compiler.neurons.staircase import Staircase
from lapilli.compiler.numerics import signed_range

MOST_LADDERS = 2**12
"""Ladders of one population that are looked at one after the other."""


@final
@dataclass(frozen=True, eq=False)
class Ladder(Staircase):
    """n = foot + sum of rises[k] over all k with v >= thresholds[k].

    thresholds, rises: (K, ...), whose other axes broadcast to the population's shape. thresholds do
    not fall along the first axis, and may be negative; a rise is -1, 0 or 1. foot, the count below
    all of them, broadcasts to the shape. Every partial sum foot + rises[0] + ... lies in
    lowest .. levels. v starts a window at initial + bias. sending: "graded" and ones as `Window`
    has it, at a window's end; "changes" as `SigmaDelta`, in every step.
    So n is any staircase of v: sigmoid, tanh, softplus, ReLU6, and SiLU, which falls before it
    rises. A Window is the ladder threshold, 2 * threshold, ... with rises of 1.
    """

    VARIABLES: ClassVar[tuple[str, ...]] = ("v", "pending", "sent")
    PROGRAM: ClassVar[str] = "many thresholds in one neuron"
    LEADING: ClassVar[tuple[str, ...]] = ("thresholds", "rises")

    thresholds: Array
    rises: Array
    foot: Array
    bias: Array
    initial: Array
    lowest: int
    levels: int
    sending: AnySending

    def coding(self) -> AnySending:
        return self.sending

    def beginning(self) -> Array:
        return self.initial + self.bias

    def count(self, v: Array) -> Array:
        count = np.array(np.broadcast_to(self.foot, v.shape))
        own = np.broadcast_shapes(self.thresholds.shape[1:], self.rises.shape[1:])
        if math.prod(own) > MOST_LADDERS:
            for threshold, rise in zip(self.thresholds, self.rises, strict=True):
                count += rise * (v >= threshold)  # rung by rung: no array with an axis of rungs
            return count
        ladders = (_ladders(x, own) for x in (self.thresholds, self.rises))
        for index, rungs, rises in zip(np.ndindex(*own), *ladders, strict=True):
            heights = np.concatenate([[0], np.cumsum(rises)])
            axes = zip(index, own, strict=True)
            here: Any = (..., *(slice(i, i + 1) if n > 1 else slice(None) for i, n in axes))
            passed = np.searchsorted(rungs, np.asarray(v[here]), side="right")  # by bisection
            count[here] += heights[passed]
        return count

    def flaw(self, steps: int) -> Flaw | None:
        wrong = super().flaw(steps)
        if wrong is not None:
            return wrong
        rungs = self.thresholds.shape[:1], self.rises.shape[:1]
        if rungs[0] != rungs[1] or not self.thresholds.size or not self.rises.size:
            return Flaw(
                "a ladder has a rise per threshold", f"{rungs[1]} for {rungs[0]}", "as many"
            )
        top = signed_range(STATE_BITS)[1]
        low, high = int(self.thresholds.min()), int(self.thresholds.max())
        if low < -top or high > top:
            return Flaw("thresholds fit the state", f"{low}..{high}", f"{-top}..{top}")
        falls = self.thresholds[1:] < self.thresholds[:-1]
        if falls.any():
            rung = int(np.argwhere(falls)[0][0]) + 2
            return Flaw("thresholds do not fall", f"threshold {rung} below the one before", "order")
        return self._steps_too_far()

    def _steps_too_far(self) -> Flaw | None:
        low, high = int(self.rises.min()), int(self.rises.max())
        if low < -1 or high > 1:
            return Flaw("a rung is one step up or down, or none", f"{low}..{high}", "-1..1")
        height = self.foot
        low, high = int(height.min()), int(height.max())
        for rise in self.rises:
            height = height + rise
            low, high = min(low, int(height.min())), max(high, int(height.max()))
        if self.lowest <= low and high <= self.levels:
            return None
        rule = "a ladder stays between its lowest and its largest count"
        return Flaw(rule, f"{low}..{high}", f"{self.lowest}..{self.levels}")


def _ladders(values: Array, own: Shape) -> Array:
    """(K, ...) as one row (K,) per ladder, in C order of the axes `own` that ladders differ in."""
    aligned = values.reshape(len(values), *(1,) * (len(own) + 1 - values.ndim), *values.shape[1:])
    return np.broadcast_to(aligned, (len(values), *own)).reshape(len(values), -1).T
