"""How a neuron sends the count that its membrane stands for, and what such counts may be."""

from __future__ import annotations

from typing import Literal

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.model import STATE_BITS, Flaw, State
from lapilli.compiler.numerics import signed_range

Sending = Literal["graded", "unary", "unary-last"]
AnySending = Literal["graded", "unary", "unary-last", "changes"]
"""graded: one spike of payload n, in the window's last step. unary: n spikes of 1, one per step, in
the first n of the steps that begin with the window's last one and are as many as a window has;
unary-last: in the last n of these. changes: in every step what n changed by, from 0 when a window
starts; the spikes add up to n."""
ONES = ("unary", "unary-last")
MAX_LEVELS = signed_range(STATE_BITS)[1]
"""The largest payload is the largest state."""


def send(
    sending: AnySending, state: State, count: Array, tau: int, steps: int
) -> tuple[State, Array]:
    """Variables that change, and spikes, where `count` is what v stands for in step `tau`.

    state: "pending", the ones still to go, for ONES; "sent", the sum of the spikes, for
    "changes".
    """
    if sending == "changes":
        before = np.zeros_like(count) if tau == 0 else state["sent"]
        return {"sent": count}, count - before
    ended = count if tau == steps - 1 else np.zeros_like(count)
    if sending == "graded":
        return {}, ended
    pending = state["pending"] + ended
    left = steps - (tau + 1) % steps  # steps in which to send, this one included
    soonest = 1 if sending == "unary" else left
    spikes = (pending >= soonest).astype(pending.dtype)
    return {"pending": pending - spikes}, spikes


def windowed_flaw(levels: int, sending: AnySending, steps: int, lowest: int = 0) -> Flaw | None:
    """What is wrong with sending counts from `lowest` to `levels` per window of `steps`."""
    if sending in ONES and lowest:
        return Flaw("spikes of one say a count from 0 on", f"lowest count {lowest}", 0)
    most = steps if sending in ONES else MAX_LEVELS
    largest = max(abs(bound) for bound in payload(sending, lowest, levels))
    if -MAX_LEVELS <= lowest < levels <= most and largest <= MAX_LEVELS:
        return None
    rule = "a window sends all its spikes before the next one ends"
    counted = f"counts {lowest}..{levels}" if lowest else f"{levels} levels"
    allowed = f"{lowest + 1}..{most} levels"
    return Flaw(rule, f"{counted}, {sending}, {steps} steps", allowed)


def counts(lowest: int, levels: int) -> tuple[int, int]:
    """Bounds of spikes summed over any start of a window: nothing may have been sent yet."""
    return min(lowest, 0), max(levels, 0)


def payload(sending: AnySending, lowest: int, levels: int) -> tuple[int, int]:
    """Smallest and largest value of one spike; a step without one counts as 0."""
    low, high = counts(lowest, levels)
    if sending == "changes":
        return low - high, high - low
    return (low, high) if sending == "graded" else (0, 1)
