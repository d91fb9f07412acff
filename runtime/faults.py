"""Imperfect hardware: a netlist with noisy weights or dead neurons is another netlist.

Both are pure functions; what they return obeys the integer contract (`Netlist.verify`), so that
every engine runs it and the equalities hold for it as for any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.linear import Array, LinearMap, Shape, Sparse, frozen
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import (
    STATE_BITS,
    GradedMax,
    HardResetIF,
    Interval,
    Ladder,
    MultiThreshold,
    NeuronModel,
    OrGate,
    Product,
    RateMax,
    Readout,
    Relay,
    SigmaDelta,
    SignedIF,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.compiler.numerics import half_up, signed_range, smallest_integer

Mask = npt.NDArray[np.bool_]

WEIGHT_BITS = 8
TOP = signed_range(STATE_BITS)[1]
WIRED = (OrGate, RateMax, GradedMax, Product)
"""Neurons that tell their inputs apart by the bits of the weights: those are addresses."""
RESTING = ("bias", "initial", "initial_product", "activity", "residue", "current")
"""Parameters that drive a neuron of which nothing arrives."""


def noisy_weights(
    netlist: Netlist, strength: float, rng: np.random.Generator, bits: int = WEIGHT_BITS
) -> Netlist:
    """Every stored weight w becomes half_up(w * (1 + strength * z)), z standard normal.

    strength: standard deviation relative to each weight, >= 0. Results saturate at `bits` signed
    bits, or at the range that a connection had before where that is wider. Zeros stay, as do the
    wires of pools and products, whose weights are addresses (`WIRED`). Where larger weights could
    take a state beyond its bits, its population is given the room: all of it is halved (`_halved`).
    Raises InputError for a strength that is negative or not finite, NetlistError where there is no
    room.
    """
    _check("weights", strength, np.inf)
    if strength == 0:
        return netlist
    connections = []
    for c in netlist.connections:
        if isinstance(netlist[c.target].neuron, WIRED):
            connections.append(c)
            continue
        weight, top = c.map.weight, 2 ** (bits - 1)
        factor = 1 + strength * rng.standard_normal(weight.shape)
        low, high = min(-top, weight.min(initial=0)), max(top - 1, weight.max(initial=0))
        noisy = smallest_integer(np.clip(half_up(weight * factor), low, high))
        connections.append(replace(c, map=c.map.with_weight(noisy)))
    return _proven(replace(netlist, connections=tuple(connections)))


def dead_neurons(netlist: Netlist, share: float, rng: np.random.Generator) -> Netlist:
    """half_up(share * N) neurons of every population that spikes never send anything.

    Drawn without replacement. A count of 0 is silence, also where it stands for another activity
    than 0 (`Population.count_offset`). Where a parameter of the neuron can silence it, its synapses
    stay and the population costs what it did; else they are cut. Raises InputError for a share
    outside 0 .. 1, NetlistError where a state no longer fits.
    """
    _check("dead", share, 1.0)
    populations = {p.name: p for p in netlist.populations}
    connections = list(netlist.connections)
    for p in netlist.populations:
        if isinstance(p.neuron, (Source, Readout)):
            continue
        dead = _drawn(p, share, rng)
        if not dead.any():
            continue
        neuron = _silenced(netlist, p, dead)
        if neuron is None:
            neuron = _at_rest(p, dead)
            connections = [_cut(c, dead) if c.target == p.name else c for c in connections]
        populations[p.name] = replace(p, neuron=neuron)
    if all(populations[p.name] is p for p in netlist.populations):
        return netlist
    faulty = replace(
        netlist, populations=tuple(populations.values()), connections=tuple(connections)
    )
    return _proven(faulty)


FAULTS: dict[str, Callable[[Netlist, float, np.random.Generator], Netlist]] = {
    "weights": noisy_weights,
    "dead": dead_neurons,
}
"""What can be wrong with a chip: (netlist, strength, random numbers) -> netlist."""


def _check(what: str, strength: float, most: float) -> None:
    if 0 <= strength <= most and np.isfinite(strength):
        return
    raise InputError(
        f"fault {what}",
        "the strength of a fault is a share",
        found=strength,
        allowed="0 or more" if np.isinf(most) else f"0..{most:g}",
        remedy="Correct the strength.",
    )


def _drawn(p: Population, share: float, rng: np.random.Generator) -> Mask:
    dead = np.zeros(p.size, bool)
    dead[rng.permutation(p.size)[: int(half_up(share * p.size))]] = True
    return dead.reshape(p.shape)


def _proven(netlist: Netlist) -> Netlist:
    """With the reach of every state as it is now. Raises NetlistError where one does not fit."""
    for name in [p.name for p in netlist.populations]:
        low, high = netlist.reach(name)
        while low < -TOP or high > TOP:
            netlist = _halved(netlist, netlist[name])
            low, high = netlist.reach(name)
        proven = replace(netlist[name], state_low=low, state_high=high)
        if isinstance(proven.neuron, Relay):
            proven = replace(proven, neuron=Relay.of(*netlist.drive_bounds(name)))
        netlist = _with(netlist, proven, netlist.connections)
    netlist.verify()
    return netlist


def _halved(netlist: Netlist, p: Population) -> Netlist:
    """With one population in units twice as large: thresholds may change by half of a unit.

    Weights stay as they are, as long as the exponents can be smaller.
    """
    into = netlist.into(p.name)
    if type(p.neuron) not in (*_SILENCE, Readout) or min(c.exponent for c in into) < 1:
        low, high = netlist.reach(p.name)
        raise NetlistError(
            f"{p.name} ({type(p.neuron).__name__}) with a fault",
            f"every reachable state fits {STATE_BITS} bits",
            found=f"[{low}, {high}]",
            allowed=f"[{-TOP}, {TOP}]",
            remedy="Choose a smaller strength, or leave this fault out for this network.",
        )
    smaller = {
        f.name: frozen(half_up(getattr(p.neuron, f.name) / 2))
        for f in fields(p.neuron)
        if f.name in ("threshold", "thresholds", "bias", "initial", "current")
    }
    if "threshold" in smaller:
        smaller["threshold"] = frozen(np.maximum(smaller["threshold"], 1))
    scale = frozen(2 * p.state_scale)
    halved = replace(p, neuron=replace(p.neuron, **smaller), state_scale=scale)
    connections = (
        replace(c, exponent=c.exponent - 1) if c.target == p.name else c
        for c in netlist.connections
    )
    return _with(netlist, halved, connections)


def _with(netlist: Netlist, p: Population, connections: Iterable[Connection]) -> Netlist:
    populations = tuple(p if old.name == p.name else old for old in netlist.populations)
    return replace(netlist, populations=populations, connections=tuple(connections))


def _silenced(netlist: Netlist, p: Population, dead: Mask) -> NeuronModel | None:
    """The population's neurons with parameters that keep `dead` silent; None if there are none."""
    silence = _SILENCE.get(type(p.neuron))
    if silence is None:
        return None
    step, total = netlist.drive_bounds(p.name)
    neuron: NeuronModel | None = silence(p.neuron, dead, step, total, netlist.steps)
    if neuron is None or neuron.flaw(netlist.steps) is not None:
        return None
    reach = neuron.reach(step, total, netlist.steps)
    return neuron if reach.low.min() >= -TOP and reach.high.max() <= TOP else None


def _windowed(
    neuron: Window | SigmaDelta, dead: Mask, step: Interval, total: Interval, steps: int
) -> NeuronModel | None:
    """A threshold that is out of reach, but for counts below zero."""
    highest = (neuron.beginning() + np.maximum(total.high, 0)).max()
    if neuron.lowest != 0 or highest >= TOP:
        return None
    return replace(neuron, threshold=_where(dead, TOP, neuron.threshold))


def _integrating(
    neuron: SoftResetIF | HardResetIF | MultiThreshold,
    dead: Mask,
    step: Interval,
    total: Interval,
    steps: int,
) -> NeuronModel:
    """A threshold just above all that a window without spikes could add up to."""
    gain = steps * np.maximum(step.high + neuron.bias, 0)
    peak = np.maximum(neuron.initial, 0) + gain
    return replace(neuron, threshold=_where(dead, np.maximum(peak + 1, 1), neuron.threshold))


def _signed(
    neuron: SignedIF, dead: Mask, step: Interval, total: Interval, steps: int
) -> NeuronModel:
    """A start from which no drive reaches zero."""
    gain = np.maximum(total.high, 0) + steps * np.maximum(neuron.current, 0)
    return replace(neuron, bias=_where(dead, -(neuron.initial + gain), neuron.bias))


def _flat(neuron: Ladder, dead: Mask, step: Interval, total: Interval, steps: int) -> NeuronModel:
    """A ladder of no height."""
    rises = np.stack([_where(dead, 0, rise) for rise in neuron.rises])
    return replace(
        neuron,
        rises=frozen(rises, np.int64),
        foot=_where(dead, 0, neuron.foot),
        lowest=min(neuron.lowest, 0),
        levels=max(neuron.levels, 0),
    )


_SILENCE: dict[type[NeuronModel], Callable[..., NeuronModel | None]] = {
    Window: _windowed,
    SigmaDelta: _windowed,
    SoftResetIF: _integrating,
    HardResetIF: _integrating,
    MultiThreshold: _integrating,
    SignedIF: _signed,
    Ladder: _flat,
}
"""(neuron, dead, drive of a step, of a window, steps) -> neuron; the synapses of others are cut."""


def _where(dead: Mask, silent: Array | int, living: Array) -> Array:
    return frozen(np.where(dead, silent, living), np.int64)


def _at_rest(p: Population, dead: Mask) -> NeuronModel:
    """Without what drives a neuron of itself."""
    neuron = p.neuron
    lowest, highest = getattr(neuron, "lowest", 0), getattr(neuron, "levels", 0)
    if not lowest <= 0 <= highest:
        raise InputError(
            f"fault dead: {p.name} ({type(neuron).__name__})",
            "a dead neuron sends counts of 0",
            found=f"counts {lowest}..{highest}",
            allowed="counts from 0 or less",
            remedy="Leave this fault out for this network.",
        )
    # A packed maximum is zero where a field holds what stands for zero.
    silent = -lowest if isinstance(neuron, GradedMax) else 0
    present: dict[str, Any] = {
        f.name: _where(dead, silent, getattr(neuron, f.name))
        for f in fields(neuron)
        if f.name in RESTING
    }
    return replace(neuron, **present)


def _cut(c: Connection, dead: Mask) -> Connection:
    """Without the synapses onto dead neurons."""
    alive = sp.diags_array((~dead.reshape(-1)).astype(c.map.weight.dtype), dtype=c.map.weight.dtype)
    return replace(c, map=_masked(c.map, sp.csr_matrix(alive), dead.shape))


def _masked(linear: LinearMap, alive: sp.csr_matrix, shape: Shape) -> LinearMap:
    matrix = sp.csr_matrix(alive @ linear.to_sparse())
    return Sparse.from_matrix(matrix, linear.in_shape, linear.out_shape)
