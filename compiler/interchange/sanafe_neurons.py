"""Our neurons as SANA-FE's built-in ones: integrate and fire, and charges that come from outside.

Its neuron adds up what arrives, fires above a threshold and then subtracts the threshold or is set
to a value; it starts at zero in the simulation's first step, and always works. What ours have
beyond that (a window that begins later, a starting charge, a bias that counts in the window only, a
phase in which nothing is sent) is charge: numbers that are added in a step that is known before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import (
    STATE_BITS,
    HardResetIF,
    NeuronModel,
    OrGate,
    Readout,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.compiler.numerics import Int64Array

Reals = npt.NDArray[np.float64]
HOLD = 2.0**STATE_BITS
"""Charge that keeps any neuron silent: twice what a state can be; the program counts to 2**25."""
ABOVE = 0.5
"""It fires above the threshold and ours at it: with half a unit more, integers do the same."""


@final
@dataclass(frozen=True, eq=False)
class Program:
    """One population: thresholds (size,), what a spike does, and charges by step of its window.

    reset: "soft" subtracts the threshold, "hard" sets v to `after`; keep: of v from step to step,
    1 or 0. charges: (size,) each; steps may lie behind the window.
    """

    threshold: Reals
    reset: Literal["soft", "hard"]
    after: float
    keep: int
    charges: Mapping[int, Reals]


def program(p: Population, steps: int) -> Program:
    """How the population is simulated. Raises NetlistError where it cannot be."""
    make = _PROGRAMS.get(type(p.neuron))
    if make is None or getattr(p.neuron, "sending", "unary") != "unary":
        sending = getattr(p.neuron, "sending", None)
        raise NetlistError(
            f"{p.name} ({type(p.neuron).__name__})",
            "neurons of SANA-FE add up, fire at one threshold and send spikes of one",
            found=type(p.neuron).__name__ + (f", sending {sending}" if sending else ""),
            allowed=", ".join(model.__name__ for model in _PROGRAMS) + ", sending unary",
            remedy="Compile with --method rate, or --method parallel --coding unary.",
        )
    return make(p.neuron, p, steps)


def host_drive(netlist: Netlist, target: Population, inputs: Int64Array) -> dict[int, Reals]:
    """What an analog input adds in each step of the target's window, (size,) each.

    inputs: (*shape), or (steps, *shape) where the source has a value for each step.
    """
    found: dict[int, Reals] = {}
    if sends_ones(netlist.source):
        return found
    steps, size = netlist.steps, target.size
    sent = _sent(netlist.source, np.asarray(inputs, np.int64), steps)
    for c in netlist.into(target.name):
        if c.source != netlist.input.name:
            continue
        drives = c.map.apply(sent.reshape(len(sent), *c.map.in_shape)).reshape(len(sent), size)
        for step, drive in enumerate(drives * 2**c.exponent, start=c.synaptic_delay):
            if step < steps and drive.any():
                found[step] = found.get(step, np.zeros(size)) + drive
    return found


def sends_ones(source: Source) -> bool:
    """Is the input a train of spikes of one?"""
    low, high = source.payload()
    return source.timing == "train" and low >= 0 and high <= 1


def _sent(source: Source, inputs: Int64Array, steps: int) -> Int64Array:
    """(steps, *shape)"""
    shape = inputs.shape[1:] if source.stepwise else inputs.shape
    state: dict[str, Any] = source.start(shape)
    sent = []
    for step in range(steps):
        frame = inputs[step] if source.stepwise else inputs
        state, values = source.step(state, frame, step, steps)
        sent.append(values)
    return np.stack(sent)


def _each(values: Any, p: Population) -> Reals:
    """(size,)"""
    return np.broadcast_to(np.asarray(values, np.float64), p.shape).reshape(-1)


def _integrating(neuron: SoftResetIF | HardResetIF, p: Population, steps: int) -> Program:
    soft = isinstance(neuron, SoftResetIF)
    charges = {step: _each(neuron.bias, p) for step in range(steps)}
    charges[0] = charges[0] + _each(neuron.initial, p) + ABOVE
    charges[steps] = np.full(p.size, -HOLD)
    threshold = _each(neuron.threshold, p)
    return Program(threshold, "soft" if soft else "hard", 0.0 if soft else ABOVE, 1, charges)


def _window(neuron: Window, p: Population, steps: int) -> Program:
    charges = {0: _each(neuron.beginning(), p) + ABOVE - HOLD}
    charges[steps - 1] = charges.get(steps - 1, np.zeros(p.size)) + HOLD
    charges[steps - 1 + neuron.levels] = np.full(p.size, -HOLD)
    return Program(_each(neuron.threshold, p), "soft", 0.0, 1, charges)


def _gate(neuron: OrGate, p: Population, steps: int) -> Program:
    return Program(np.full(p.size, ABOVE), "hard", 0.0, 0, {})


def _readout(neuron: Readout, p: Population, steps: int) -> Program:
    charges = {step: _each(neuron.bias, p) for step in range(steps)}
    charges[0] = charges[0] + _each(neuron.initial, p) + ABOVE
    return Program(np.full(p.size, HOLD), "soft", 0.0, 1, charges)


_Make = Callable[[Any, Population, int], Program]
_PROGRAMS: Mapping[type[NeuronModel], _Make] = MappingProxyType(
    {
        SoftResetIF: _integrating,
        HardResetIF: _integrating,
        Window: _window,
        OrGate: _gate,
        Readout: _readout,
    }
)
