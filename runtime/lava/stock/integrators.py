"""Neurons that integrate and fire, in Lava's ATRLIF and LIF, whose states are 64ths of a unit."""

from __future__ import annotations

import numpy as np

from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import LIF, STATE_BITS, HardResetIF, Interval, OrGate, SoftResetIF
from lapilli.compiler.numerics import Int64Array, signed_range
from lapilli.runtime.lava.stock.cell import PROFILE, Cell, Restart, constants, flat, refusal
from lapilli.runtime.lava.stock.plan import Stage

EXPONENT = 6
UNIT = 2**EXPONENT
TOP = signed_range(STATE_BITS)[1] // UNIT
"""Largest membrane that 24 bits hold in 64ths."""
BIAS_TOP = 2**12 - 1
"""Largest bias in a 13-bit mantissa; larger ones come from a buffer."""


def soft_reset_if(netlist: Netlist, p: Population, neuron: SoftResetIF) -> Cell:
    """ATRLIF without decays: spikes where v - r >= theta, and then adds 2 theta to r.

    v - r + theta is our membrane for the threshold 2 theta, so the threshold must be even. v adds
    up the whole window's input and saturates, r what was subtracted: both start afresh with every
    window.
    """
    threshold, bias, initial = (
        flat(values, p) for values in (neuron.threshold, neuron.bias, neuron.initial)
    )
    if (threshold % 2).any():
        odd = threshold[threshold % 2 == 1][0]
        raise refusal(p, "ATRLIF has even thresholds", odd, "2, 4, 6, ...", PROFILE)
    half = threshold // 2
    step, total = netlist.drive_bounds(p.name)
    sums = neuron.accumulated(total, netlist.steps)
    sums = Interval(flat(sums.low, p) - half, flat(sums.high, p) - half)
    rule = "what ATRLIF adds up in a window, resets not subtracted, fits 18 of its 24 bits"
    _check(p, rule, sums, step, bias, initial - half)
    # delta_i is a fraction whose 4096th part counts one more: this one forgets all of the current.
    decays = {"delta_i": 4095 / 4096, "delta_v": 0, "delta_theta": 0, "delta_r": 0}
    parameters = {**decays, "theta_step": 0, "theta_0": half, "theta": half}
    cell = _cell(netlist, p, Stage(p.name, "ATRLIF", p.size, parameters), bias, initial - half)
    return Cell(
        cell.stages, constants=cell.constants, restarts=(*cell.restarts, Restart(p.name, "r"))
    )


def hard_reset_if(netlist: Netlist, p: Population, neuron: HardResetIF) -> Cell:
    """LIF without leak, with currents that last one step; v > threshold - 1 is v >= threshold."""
    bias, initial = flat(neuron.bias, p), flat(neuron.initial, p)
    step, total = netlist.drive_bounds(p.name)
    reach = neuron.reach(step, total, netlist.steps)
    rule = "the membrane of a LIF fits 18 of its 24 bits"
    _check(p, rule, Interval(flat(reach.low, p), flat(reach.high, p)), step, bias, initial)
    parameters = {"du": 4095, "dv": 0, "vth": flat(neuron.threshold, p) - 1}
    return _cell(netlist, p, Stage(p.name, "LIF", p.size, parameters), bias, initial)


def or_gate(netlist: Netlist, p: Population, neuron: OrGate) -> Cell:
    """LIF that forgets everything in a step and fires above zero."""
    step, _ = netlist.drive_bounds(p.name)
    zero = np.zeros(p.size, np.int64)
    _check(p, "the current of a LIF fits 18 of its 24 bits", step, step, zero, zero)
    return Cell((Stage(p.name, "LIF", p.size, {"du": 4095, "dv": 4096, "vth": 0}),))


def lif(netlist: Netlist, p: Population, neuron: LIF) -> Cell:
    """The same neuron by the names that Lava has for its parameters."""
    decays = {"du": neuron.current_decay - 1, "dv": neuron.voltage_decay}
    more = {"vth": flat(neuron.threshold, p), "bias_mant": flat(neuron.bias, p)}
    stage = Stage(p.name, "LIF", p.size, {**decays, **more, "bias_exp": EXPONENT})
    return Cell((stage,), restarts=(Restart(p.name, "v"), Restart(p.name, "u")))


def _check(
    p: Population,
    rule: str,
    held: Interval,
    step: Interval,
    bias: Int64Array,
    initial: Int64Array,
) -> None:
    """Neither the membrane saturates nor one step's current wraps, whatever joins it."""
    joins = int(np.abs(bias).max()) + int(np.abs(initial).max())
    current = max(int(np.abs(bound).max()) for bound in step) + joins
    most = max(current, -int(held.low.min()), int(held.high.max()))
    if most > TOP:
        remedy = f"{PROFILE} If it was, use fewer steps or input bits."
        raise refusal(p, rule, f"up to {most}", TOP, remedy)


def _cell(
    netlist: Netlist, p: Population, stage: Stage, bias: Int64Array, initial: Int64Array
) -> Cell:
    """One stage with a bias, and a membrane v that starts a window at `initial`.

    A bias that has no room in the neuron, and starts that differ, are part of the input.
    """
    values = np.zeros((netlist.steps, p.size), np.int64)
    start = int(initial[0])
    if np.ptp(initial):
        values[0] += initial
        start = 0
    if np.abs(bias).max() > BIAS_TOP:
        values += bias
        bias = np.zeros_like(bias)
    parameters = {**stage.parameters, "bias_mant": bias, "bias_exp": EXPONENT}
    return Cell(
        (Stage(stage.name, stage.kind, stage.size, parameters),),
        constants=constants(p.name, values),
        restarts=(Restart(p.name, "v", value=start * UNIT),),
    )
