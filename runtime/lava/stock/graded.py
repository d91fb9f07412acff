"""Neurons that divide and send payloads, in GradedVec, GradedReluVec, Sigma, Delta, SigmaDelta."""

from __future__ import annotations

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import (
    STATE_BITS,
    MultiThreshold,
    Readout,
    SigmaDelta,
    Source,
    Window,
)
from lapilli.compiler.numerics import Int64Array, exponent_below, signed_range
from lapilli.runtime.lava.stock import synapses
from lapilli.runtime.lava.stock.cell import (
    OURS,
    PROFILE,
    Cell,
    Constant,
    Restart,
    constants,
    flat,
    part,
    refusal,
)
from lapilli.runtime.lava.stock.plan import Stage

_VECTOR = {"vth": 0}
"""Of GradedVec and GradedReluVec: send everything that is not zero."""


def window(netlist: Netlist, p: Population, neuron: Window) -> Cell:
    """Sum, shift, rectify: v in a GradedVec, floor(v / 2**k) in a synapse, GradedReluVec."""
    if netlist.steps > 1 or neuron.sending != "graded":
        raise refusal(
            p,
            "GradedReluVec sends a count at once, for a window of one step",
            f"{netlist.steps} steps, {neuron.sending}",
            "1 step, graded",
            "Compile with coding='graded'.",
        )
    _from_zero(p, neuron)
    return _quantiser(netlist, p, neuron, Stage(p.name, "GradedVec", p.size, _VECTOR))


def _from_zero(p: Population, neuron: Window | SigmaDelta) -> None:
    if neuron.lowest:
        rule = "GradedReluVec and SigmaDelta rectify: counts start at 0"
        raise refusal(p, rule, f"a lowest count of {neuron.lowest}", 0, OURS)


def multi_threshold(netlist: Netlist, p: Population, neuron: MultiThreshold) -> Cell:
    """In one step it is a window neuron; in more, what it has sent would have to leave v."""
    if netlist.steps > 1:
        rule = "stock processes subtract a multiple of the threshold in the last step only"
        raise refusal(p, rule, f"{netlist.steps} steps", "1 step", OURS)
    start = neuron.leak(np.asarray(neuron.initial, np.int64))
    same = Window(neuron.threshold, neuron.bias, start, neuron.levels, "graded")
    return window(netlist, p, same)


def sigma_delta(netlist: Netlist, p: Population, neuron: SigmaDelta) -> Cell:
    """Sigma adds up, GradedReluVec rectifies the shifted sum, Delta sends what has changed.

    Stock SigmaDelta does all that in one neuron, but sends the change of the activity before it is
    shifted, and forgets the bits that are shifted out. So it is used where nothing follows a
    neuron's first message in a window, and no input reaches levels + 1.
    """
    _from_zero(p, neuron)
    exponents = _exponents(p, neuron.threshold)
    at_once = not np.ptp(exponents) and _arrives_at_once(netlist, p)
    if at_once and not _reaches_the_cap(netlist, p, neuron):
        return _native(netlist, p, neuron, int(exponents[0]))
    quantiser = _quantiser(netlist, p, neuron, Stage(p.name, "Sigma", p.size, {}))
    delta = Stage(part(p, "delta"), "Delta", p.size, {"vth": 1})
    lag = quantiser.latency + 1
    joined = synapses.shifts(quantiser.exit, delta.name, np.zeros(p.size, np.int64))
    return Cell(
        (*quantiser.stages, delta),
        lag,
        (*quantiser.wires, *joined),
        quantiser.constants,
        (Restart(p.name, "sigma"), Restart(delta.name, "act", lag)),
    )


def _native(netlist: Netlist, p: Population, neuron: SigmaDelta, exponent: int) -> Cell:
    values = np.zeros((netlist.steps, p.size), np.int64)
    values[0] = flat(neuron.initial + neuron.bias, p)
    stage = Stage(p.name, "SigmaDelta", p.size, {"vth": 1, "spike_exp": 0, "state_exp": exponent})
    restarts = tuple(Restart(p.name, variable) for variable in ("sigma", "act", "residue"))
    return Cell((stage,), constants=constants(p.name, values), restarts=restarts)


def _arrives_at_once(netlist: Netlist, p: Population) -> bool:
    """Does everything that drives p in a window come in its first step?"""
    if netlist.steps == 1:
        return True
    for c in netlist.into(p.name):
        source = netlist[c.source]
        first = isinstance(source.neuron, Source) and source.neuron.timing == "first"
        still = isinstance(source.neuron, SigmaDelta) and _arrives_at_once(netlist, source)
        if not first and not still:
            return False
    return True


def _reach(netlist: Netlist, p: Population, neuron: Window | SigmaDelta) -> tuple[Array, Array]:
    reach = neuron.reach(*netlist.drive_bounds(p.name), netlist.steps)
    return flat(reach.low, p), flat(reach.high, p)


def _reaches_the_cap(netlist: Netlist, p: Population, neuron: Window | SigmaDelta) -> bool:
    _, high = _reach(netlist, p, neuron)
    return bool((high // flat(neuron.threshold, p) > neuron.levels).any())


def _quantiser(
    netlist: Netlist, p: Population, neuron: Window | SigmaDelta, collect: Stage
) -> Cell:
    """n = clip(floor(v / 2**k), 0, levels), where `collect` sends v in every step.

    Where no input reaches levels + 1, GradedReluVec is enough. Else
    clip(m, 0, L) = relu(L - relu(L - m)), and L - floor(v / 2**k) is
    floor(-(v - 2**k + 1 - L * 2**k) / 2**k): the constants join v, and the first synapse is -1.
    """
    exponents = _exponents(p, neuron.threshold)
    values = np.zeros((netlist.steps, p.size), np.int64)
    values[0] = flat(neuron.initial + neuron.bias, p)
    relu = Stage(part(p, "relu"), "GradedReluVec", p.size, _VECTOR)
    if not _reaches_the_cap(netlist, p, neuron):
        wires = tuple(synapses.shifts(collect.name, relu.name, exponents))
        return Cell((collect, relu), 1, wires, constants(collect.name, values))
    threshold = flat(neuron.threshold, p)
    offset = threshold - 1 + neuron.levels * threshold
    lowest, bottom = int((_reach(netlist, p, neuron)[0] - offset).min()), -_TOP
    if lowest < bottom:
        rule = f"v - (levels + 1) * threshold fits {STATE_BITS} bits, where levels can be reached"
        raise refusal(p, rule, lowest, bottom, f"{PROFILE} If it was, use fewer levels.")
    values[0] -= offset
    cap = Stage(part(p, "cap"), "GradedReluVec", p.size, _VECTOR)
    wires = (
        *synapses.shifts(collect.name, relu.name, exponents, -1),
        *synapses.shifts(relu.name, cap.name, np.zeros_like(exponents), -1),
    )
    levels = Constant(cap.name, 2, np.array([[neuron.levels]]))
    return Cell((collect, relu, cap), 2, wires, (*constants(collect.name, values), levels))


_TOP = signed_range(STATE_BITS)[1]


def _exponents(p: Population, threshold: Array) -> Int64Array:
    """k of every neuron, (size,): its threshold is 2**k."""
    values = flat(threshold, p)
    exponents = np.array([exponent_below(value) for value in values.tolist()], np.int64)
    wrong = values != 2**exponents
    if wrong.any():
        found = int(values[wrong][0])
        raise refusal(p, "stock synapses divide by shifting", found, "a power of two", PROFILE)
    return exponents


def readout(netlist: Netlist, p: Population, neuron: Readout) -> Cell:
    """Sigma, started afresh with every window; GradedVec where a window is one step."""
    values = np.zeros((netlist.steps, p.size), np.int64)
    values += flat(neuron.bias, p)
    values[0] += flat(neuron.initial, p)
    if netlist.steps == 1:
        stage = Stage(p.name, "GradedVec", p.size, _VECTOR)
        return Cell((stage,), constants=constants(p.name, values))
    stage = Stage(p.name, "Sigma", p.size, {})
    restarts = (Restart(p.name, "sigma"),)
    return Cell((stage,), constants=constants(p.name, values), restarts=restarts)
