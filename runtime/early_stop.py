"""Ending an image's window as soon as its answer is clear.

After every step of the readout its largest membrane is compared with the second largest. Once it
leads by `margin`, the image is done: its output is what the readout holds then, nothing that any
population does in later steps of the window counts, and the next image enters. All populations
work in step (`Schedule`), so "the first t steps of the window" means the same for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import Int64Array, round_down
from lapilli.compiler.schedule import schedule

FAR = 2.0**40
"""A lead that no readout of 24 bits reaches."""


@final
@dataclass(frozen=True)
class EarlyStop:
    """When an image is done.

    margin: lead of the best output over the second best, in the network's own units at the full
    window; at_least: steps that every image runs.
    """

    margin: float
    at_least: int = 1

    def __post_init__(self) -> None:
        if not (np.isfinite(self.margin) and self.margin > 0):
            raise _refuse("margin", "the margin is a positive number", self.margin, "> 0")
        whole = isinstance(self.at_least, int) and not isinstance(self.at_least, bool)
        if not whole or self.at_least < 1:
            raise _refuse("at_least", "every image runs a step", self.at_least, "integers >= 1")


@final
@dataclass(frozen=True)
class StopRule:
    """An `EarlyStop` in the integers of one netlist; lead: in units of the readout's v."""

    lead: int
    at_least: int
    steps: int

    def decided(self, v: Array, tau: int) -> bool:
        """Is an image done whose readout holds v (*shape) after step tau (from 0)?"""
        return tau + 1 >= self.steps or (
            tau + 1 >= self.at_least and int(leads(v[np.newaxis])[0]) >= self.lead
        )

    def stopped(self, states: Array) -> Int64Array:
        """Steps that each image ran, (N,), for the readout's v at each step, (N, steps, *shape)."""
        images, steps = states.shape[:2]
        done = leads(states.reshape(images * steps, -1)).reshape(images, steps) >= self.lead
        done[:, : self.at_least - 1] = False
        done[:, -1] = True
        return np.asarray(done.argmax(1) + 1, np.int64)


def leads(v: Array) -> Int64Array:
    """How far the largest value of each row is ahead of the second largest, (N, ...) to (N,)."""
    highest = np.partition(v.reshape(len(v), -1).astype(np.int64), -2, axis=1)[:, -2:]
    return np.asarray(highest[:, 1] - highest[:, 0])


def rule(netlist: Netlist, stop: EarlyStop) -> StopRule:
    """The rule in integers. Raises InputError where no image could stop early, or none alone."""
    outputs = netlist.outputs
    vector = outputs[0].size == outputs[0].shape[0] > 1  # a map has a class in every pixel
    if len(outputs) != 1 or not vector or outputs[0].state_scale.size != 1:
        found = ", ".join(f"{p.name} {p.shape}" for p in outputs)
        raise _refuse(
            "outputs", "one readout compares its classes", found, "one vector, of two or more"
        )
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    late = any(p.neuron.emission_lag(netlist.steps) for p in netlist.populations)
    reasons = {
        "one step": netlist.steps == 1,
        "neurons that answer at the end of a window": late,
        "an answer that does not change while the image stands still": netlist.settled_at_once,
        "spikes that arrive after their window": plan.gap > 0,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is not None:
        raise _refuse("network", "the answer builds up over a window", reason, "rate coding")
    scale = float(outputs[0].state_scale.reshape(-1)[0])
    lead = -int(round_down(-min(stop.margin / scale, FAR)))
    return StopRule(lead, min(stop.at_least, netlist.steps), netlist.steps)


def _refuse(where: str, what: str, found: object, allowed: str) -> InputError:
    remedy = "Leave early stopping out, or compile with the rate method."
    return InputError(f"early stop: {where}", what, found=found, allowed=allowed, remedy=remedy)
