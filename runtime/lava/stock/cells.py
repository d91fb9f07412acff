"""The cell of every neuron model, or the reason why stock processes have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import (
    LIF,
    GradedMax,
    HardResetIF,
    Ladder,
    LavaDelta,
    LavaSigmaDelta,
    MultiThreshold,
    NeuronModel,
    OrGate,
    Product,
    RateGate,
    RateMax,
    Readout,
    Relay,
    SigmaDelta,
    SignedIF,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.runtime.lava.stock import deltas, graded, integrators
from lapilli.runtime.lava.stock.cell import OURS, Cell, refusal
from lapilli.runtime.lava.stock.plan import Stage


def _source(netlist: Netlist, p: Population, neuron: Source) -> Cell:
    """A stock RingBuffer; `lowering` fills it with what the source sends."""
    return Cell((Stage(p.name, "RingBuffer", p.size, {}),))


Rule = Callable[[Netlist, Population, Any], Cell]
CELLS: dict[type[NeuronModel], Rule | str] = {
    Source: _source,
    SoftResetIF: integrators.soft_reset_if,
    HardResetIF: integrators.hard_reset_if,
    LIF: integrators.lif,
    OrGate: integrators.or_gate,
    SignedIF: "no stock neuron takes a spike back when its membrane falls below zero",
    MultiThreshold: graded.multi_threshold,
    Window: graded.window,
    Ladder: "no stock neuron has more than one threshold, and none is built from several here",
    RateGate: "no stock neuron compares the running counts of its inputs",
    RateMax: "no stock neuron compares the running counts of its inputs",
    GradedMax: "no stock neuron tells the bits of its membrane apart",
    Product: "no stock neuron multiplies what it receives",
    SigmaDelta: graded.sigma_delta,
    Relay: "stock neurons that send a sum as it is have no cell here",
    Readout: graded.readout,
    LavaDelta: deltas.lava_delta,
    LavaSigmaDelta: deltas.lava_sigma_delta,
}
"""The rule of every neuron model, or why there is none; total over `neurons.MODELS`."""


def cell(netlist: Netlist, p: Population) -> Cell:
    """The cell of a population; raises NetlistError where stock processes are not exact."""
    rule = CELLS[type(p.neuron)]
    if isinstance(rule, str):
        known = ", ".join(model.__name__ for model, rule in CELLS.items() if callable(rule))
        law = "stock processes compute every neuron model of the network"
        raise refusal(p, law, rule, known, OURS)
    return rule(netlist, p, p.neuron)
