"""Random netlists within the limits of Lava's stock processes, for the tests of that lowering."""

from __future__ import annotations

import dataclasses
from typing import Any

import netlists
import numpy as np

from lapilli.compiler.linear import Dense, Diagonal, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import (
    NeuronModel,
    Readout,
    SigmaDelta,
    SoftResetIF,
    Source,
    Timing,
    Window,
)
from lapilli.compiler.numerics import Int64Array


def rate(rng: np.random.Generator) -> Netlist:
    """Soft-reset neurons: small weights, even thresholds; initial charge and bias of any size."""
    netlist = netlists.random_netlist(rng, "rate")
    # What a window adds up to has 18 bits: narrow weights, and no exponents.
    connections = tuple(
        dataclasses.replace(c, map=c.map.with_weight(c.map.weight // 16), exponent=0)
        for c in netlist.connections
    )
    netlist = dataclasses.replace(netlist, connections=connections)
    for p in netlist.populations:
        if isinstance(p.neuron, SoftResetIF):
            unit = int(netlist.drive_bounds(p.name)[0].high.max())
            size = p.neuron.threshold.shape
            threshold = 2 * rng.integers(max(unit // 20, 1), max(unit // 10, 1) + 2, size)
            initial, bias = threshold // 2, rng.integers(-threshold // 8, threshold // 4 + 1)
            if rng.random() < 0.3:
                initial = rng.integers(-threshold, threshold)
            parameters = (netlists.integers(values) for values in (threshold, bias, initial))
            netlist = _with(netlist, p.name, SoftResetIF(*parameters))
    return _verified(netlist)


def graded(rng: np.random.Generator, *, capped: bool = True) -> Netlist:
    """Window neurons of one step; without `capped`, levels that no input reaches."""
    netlist = dataclasses.replace(netlists.random_netlist(rng, "graded"), steps=1)
    for p in netlist.populations:
        if isinstance(p.neuron, Window):
            levels, bias = p.neuron.levels, p.neuron.bias
            least = p.neuron.threshold
            if not capped:
                most = netlist.drive_bounds(p.name)[1].high.max() + bias.max()
                least = np.maximum(least, 2 * (most // levels + 1))
            threshold = netlists.integers(2 ** np.floor(np.log2(least)).astype(np.int64))
            initial = netlists.integers(threshold // 2)
            neuron = Window(threshold, bias, initial, levels, "graded")
            netlist = _with(netlist, p.name, neuron)
    return _verified(netlist)


def sigma_delta(
    rng: np.random.Generator, timing: Timing = "changes", *, steps: int = 5, capped: bool = True
) -> Netlist:
    """Sigma-delta neurons over a window of frames."""
    netlist = dataclasses.replace(graded(rng, capped=capped), steps=steps)
    for p in netlist.populations:
        if isinstance(p.neuron, Window):
            old = p.neuron
            neuron = SigmaDelta(old.threshold, old.bias, old.initial, old.levels)
            netlist = _with(netlist, p.name, neuron)
    source = netlist.source
    netlist = _with(netlist, netlist.input.name, Source(source.low, source.high, timing))
    return _verified(netlist)


def inputs(rng: np.random.Generator, netlist: Netlist, images: int) -> Int64Array:
    """Images, or frames of which some neighbours are equal, over the whole range of the source."""
    source, shape = netlist.source, netlist.input.shape
    if not source.stepwise:
        return rng.integers(source.low, source.high + 1, (images, *shape))
    frames = rng.integers(source.low, source.high + 1, (images, netlist.steps, *shape))
    for step in range(1, netlist.steps):
        still = rng.random((images, *shape)) < 0.5
        frames[:, step] = np.where(still, frames[:, step - 1], frames[:, step])
    return frames


def _with(netlist: Netlist, name: str, neuron: NeuronModel) -> Netlist:
    populations = tuple(
        dataclasses.replace(p, neuron=neuron) if p.name == name else p for p in netlist.populations
    )
    return dataclasses.replace(netlist, populations=populations)


def _verified(netlist: Netlist) -> Netlist:
    netlist = netlists.proven(netlist)
    netlist.verify()
    return netlist


def line(
    neuron: NeuronModel,
    weights: Any = ((1,),),
    *,
    source: Source | None = None,
    steps: int = 6,
    exponent: int = 0,
    name: str = "it",
) -> Netlist:
    """Input, one population behind a dense matrix, and a readout of what it sends."""
    matrix = np.array(weights)
    size, inputs_ = matrix.shape
    into = Dense(frozen(matrix, np.int16), (inputs_,), (size,))
    zero = netlists.integers(0)
    populations = (
        netlists.population("input", (inputs_,), source or Source(-9, 9, "train")),
        netlists.population(name, (size,), neuron),
        netlists.population("out", (size,), Readout(zero, zero)),
    )
    connections = (
        netlists.connection("input", name, into, exponent),
        netlists.connection(name, "out", Diagonal(frozen(1, np.int8), (size,), (size,))),
    )
    return netlists.proven(Netlist(populations, connections, steps))


def with_steps(netlist: Netlist, steps: int) -> Netlist:
    """The same network with another window."""
    return _verified(dataclasses.replace(netlist, steps=steps))
