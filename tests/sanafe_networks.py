"""Small random networks that SANA-FE's neurons can express, on chips with small cores."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import chips
import numpy as np
from netlist_neurons import Coding, Drive, random_neuron
from netlists import connection, integers, population, proven, random_inputs, random_map

from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.linear import Conv, Dense, Diagonal, LinearMap, Sparse, frozen
from lapilli.compiler.mapping import Placement, place
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import OrGate, Readout, Source, Timing
from lapilli.compiler.numerics import Int64Array
from lapilli.hardware_profiles import Profile
from lapilli.runtime import reference
from lapilli.runtime.trace import Trace

KINDS = (
    *("rate", "hard", "unary", "gates", "train", "first", "changes"),
    *("branches", "unary branches", "loop", "train branches"),
)
"""Neurons of rate coding with an image as a current; with reset to zero; of windows; these with
gates between; of rate coding with a train of spikes, with a single current, with a video; with a
branch that waits; with a population that drives itself, later."""
DOUBLE = ("rate", "first")
"""With two connections between the same populations, and zeros among the weights."""
_HELD = ("rate", "hard", "branches", "loop")


@dataclass(frozen=True)
class Case:
    """One network on its cores, one input for it, and what the reference engine finds."""

    artifact: Artifact
    placement: Placement
    profile: Profile
    inputs: Int64Array
    trace: Trace

    @property
    def netlist(self) -> Netlist:
        """The network."""
        return self.artifact.netlist


def provenance() -> Provenance:
    """Of a network that nobody compiled."""
    return Provenance("0", "0", "random", {}, "loihi1", "", 0, {})


def case(kind: str, seed: int = 0, like: str = "loihi1") -> Case:
    """A chain of four layers and a readout."""
    rng = np.random.default_rng([KINDS.index(kind), seed])
    netlist = _network(rng, kind)
    size = max(p.size for p in netlist.populations[1:])
    profile = chips.chip(like, neurons_per_core=size)
    inputs = random_inputs(rng, netlist, 1)
    trace = reference.run(netlist, inputs, record="spikes")
    artifact = Artifact(netlist, provenance())
    return Case(
        artifact, place(netlist, profile, effort=0.05, seed=seed), profile, inputs[0], trace
    )


def _network(rng: np.random.Generator, kind: str) -> Netlist:
    windows = kind in ("unary", "gates", "unary branches")
    coding: Coding = "unary" if windows else "hard" if kind == "hard" else "rate"
    levels = 3
    source = Source(0, 1, "train") if "train" in kind else Source(-3, 9, _timing(kind))
    populations = [population("input", (2, 5, 5), source)]
    connections: list[Any] = []
    for index, form in enumerate((Conv, Diagonal, Sparse, Dense)):
        before, name = populations[-1], f"layer.{index}"
        first = random_map(rng, form, before.shape)
        gate = kind == "gates" and index in (1, 2)
        maps: list[LinearMap] = [first]
        if index == 1 and kind in DOUBLE:
            maps.append(random_map(rng, Diagonal, before.shape))
        for m in maps:
            weight = m.weight.astype(np.int64)
            weight = np.abs(weight) if gate else weight
            if kind not in DOUBLE:  # a stored zero has an axon, but carries nothing
                weight = np.where(weight == 0, 1, weight)
            exact = m.with_weight(np.clip(weight, -127, 127).astype(np.int8))
            connections.append(connection(before.name, name, exact, int(rng.integers(0, 3))))
        if "branches" in kind and index in (0, 2):
            early = populations[-2 if index else 0]
            weight = rng.integers(1, 9, (math.prod(first.out_shape), early.size))
            branch = Dense(frozen(weight, np.int8), early.shape, first.out_shape)
            connections.append(connection(early.name, name, branch))
        populations.append(population(name, first.out_shape, OrGate()))
        if kind == "loop" and index == 1:
            back = Diagonal(frozen(-3, np.int8), first.out_shape, first.out_shape)
            connections.append(connection(name, name, back, synaptic_delay=2))
        if not gate:
            so_far = Netlist(tuple(populations), tuple(connections), levels + 3)
            step, total = so_far.drive_bounds(name)
            bounds = (int(step.high.max()), int(total.high.max()))
            neuron = random_neuron(rng, coding, Drive(first.out_shape, *bounds, levels))
            populations[-1] = population(name, first.out_shape, neuron)
    head = random_map(rng, Dense, populations[-1].shape)
    head = head.with_weight(head.weight | 1)  # odd: none is zero
    connections.append(connection(populations[-1].name, "head", head))
    bias, initial = rng.integers(-9, 10, (2, *head.out_shape))
    readout = Readout(integers(bias), integers(initial))
    populations.append(population("head", head.out_shape, readout))
    return proven(Netlist(tuple(populations), tuple(connections), levels + 3))


def _timing(kind: str) -> Timing:
    return "held" if kind in _HELD else "changes" if kind == "changes" else "first"
