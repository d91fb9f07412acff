"""Lava's own delta and sigma-delta neurons, by the names that Lava has for their parameters.

Lava neither clips nor starts afresh with an image: what is clipped in the netlist is refused here,
and stock `Reset` processes start each window.
"""

from __future__ import annotations

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import Interval, LavaDelta, LavaSigmaDelta
from lapilli.runtime.lava.stock.cell import OURS, Cell, Restart, constants, flat, refusal, shared
from lapilli.runtime.lava.stock.plan import Stage


def lava_delta(netlist: Netlist, p: Population, neuron: LavaDelta) -> Cell:
    """Stock Delta."""
    step, _ = netlist.drive_bounds(p.name)
    _check_clip(p, neuron, step)
    parameters = _parameters(p, neuron, "Delta")
    return Cell(
        (Stage(p.name, "Delta", p.size, parameters),),
        restarts=(Restart(p.name, "act"), Restart(p.name, "residue")),
    )


def lava_sigma_delta(netlist: Netlist, p: Population, neuron: LavaSigmaDelta) -> Cell:
    """Stock SigmaDelta; what sigma starts a window with is part of its input."""
    _, total = netlist.drive_bounds(p.name)
    sums = (neuron.initial + np.minimum(total.low, 0), neuron.initial + np.maximum(total.high, 0))
    _check_clip(p, neuron, Interval(*sums))
    parameters = {
        **_parameters(p, neuron, "SigmaDelta"),
        "bias": flat(neuron.bias, p),
        "act_mode": neuron.activation,
    }
    values = np.zeros((netlist.steps, p.size), np.int64)
    values[0] = flat(neuron.initial, p)
    starts = {"sigma": 0}
    for variable, start in (("act", neuron.activity), ("residue", neuron.residue)):
        starts[variable] = shared(start, p, f"{variable} to start with", "SigmaDelta")
    return Cell(
        (Stage(p.name, "SigmaDelta", p.size, parameters),),
        constants=constants(p.name, values),
        restarts=tuple(Restart(p.name, name, value=value) for name, value in starts.items()),
    )


def _parameters(
    p: Population, neuron: LavaDelta | LavaSigmaDelta, process: str
) -> dict[str, int | str | Array]:
    return {
        "vth": shared(neuron.threshold, p, "threshold", process),
        "spike_exp": neuron.spike_exp,
        "state_exp": neuron.state_exp,
    }


def _check_clip(p: Population, neuron: LavaDelta | LavaSigmaDelta, reach: Interval) -> None:
    low, high = int(np.min(reach.low)), int(np.max(reach.high))
    if low < neuron.low or high > neuron.high:
        raise refusal(
            p,
            "stock processes do not clip what they add up",
            f"{low}..{high}",
            f"{neuron.low}..{neuron.high}",
            OURS,
        )
