"""What is exported for SANA-FE, and what the reference engine and the placement say of it."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

import chips
import numpy as np
import oracles
import pytest
import sanafe_networks
import search_network
from sanafe_networks import Case, case
from sanafe_replay import Neuron, Replay, replay

import lapilli
from lapilli.compiler.interchange import sanafe_export
from lapilli.compiler.interchange.sanafe_neurons import ABOVE
from lapilli.compiler.mapping import place
from lapilli.compiler.neurons import OrGate, Source
from lapilli.compiler.schedule import schedule

SEED = 1


@dataclass(frozen=True)
class Exported:
    """A case and its file."""

    of: Case
    text: str

    @functools.cached_property
    def document(self) -> Any:
        return json.loads(self.text)


@functools.cache
def exported(kind: str) -> Exported:
    """A random network; "digits": a compiled one with a max pool."""
    c = digits() if kind == "digits" else case(kind, SEED)
    made = sanafe_export.configuration(c.artifact, c.placement, c.profile, c.inputs)
    return Exported(c, sanafe_export.text(made))


@functools.cache
def replayed(kind: str) -> Replay:
    """The file's simulation by the rules of the program's documentation."""
    return replay(exported(kind).text)


def digits() -> Case:
    """The digits' network in unary windows, on cores of 50 neurons."""
    method = lapilli.methods.Parallel(levels=4, coding="unary")
    images = search_network.images("test", 1).images
    artifact = lapilli.compile(
        search_network.trained(),
        calibration=search_network.images("train", 64).images,
        method=method,
        profile="loihi1",
    )
    profile = chips.chip("loihi1", neurons_per_core=50)
    placement = place(artifact.netlist, profile, effort=0.05)
    inputs, _ = lapilli.runtime.quantise_input(artifact.netlist, images)
    trace = lapilli.run(artifact, images, record="spikes")
    return Case(artifact, placement, profile, inputs[0], trace)


CASES = (*sanafe_networks.KINDS, "digits")
every_case = pytest.mark.parametrize("kind", CASES)


def groups(c: Case) -> dict[str, str]:
    """The group of each population."""
    return {p.name: f"p{i}" for i, p in enumerate(c.netlist.populations)}


def spikes(c: Case) -> list[set[Neuron]]:
    """Who spikes in each step of the simulation, as the reference engine has it."""
    netlist, named = c.netlist, groups(c)
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    found: list[set[Neuron]] = [set() for _ in range(plan.latency + netlist.steps)]
    for name, train in c.trace.spikes.items():
        if name == netlist.input.name and netlist.source.timing != "train":
            continue
        for step, number in np.argwhere(train[0].reshape(netlist.steps, -1)).tolist():
            found[plan.sends[name] + step].add((named[name], number))
    assert not any(found[plan.latency :])
    return found[: plan.latency]


def readers(c: Case) -> dict[tuple[Neuron, int], set[int]]:
    """By neuron and delay: the cores on which targets are, from synapses one by one."""
    named = groups(c)
    found: dict[tuple[Neuron, int], set[int]] = {}
    for connection in c.netlist.connections:
        if connection.source == c.netlist.input.name and c.netlist.source.timing != "train":
            continue
        core_of = np.full(c.netlist[connection.target].shape, -1)
        for core, piece in c.placement.of(connection.target):
            core_of[tuple(slice(*edges) for edges in piece.box)] = core.index
        home = core_of.reshape(-1).tolist()
        for target, source, _ in oracles.synapses(connection.map):
            sender = (named[connection.source], source), connection.delay
            found.setdefault(sender, set()).add(home[target])
    return found


def waits(c: Case) -> int:
    """Spikes of the neurons that delay others': each as often as the longest delay."""
    longest: dict[Neuron, int] = {}
    for neuron, delay in readers(c):
        longest[neuron] = max(longest.get(neuron, 0), delay)
    return sum(longest.get(neuron, 0) for step in spikes(c) for neuron in step)


OUTSIDE = (sanafe_export.CHARGE, sanafe_export.WAITING)
"""Groups that are no part of the network."""


def synops(c: Case) -> int:
    """Synaptic operations as the reference engine counts them."""
    return sum(e.synops for e in c.trace.events.values())


def potentials(c: Case) -> dict[Neuron, float]:
    """Of the readouts, in the simulation's units: half a unit more."""
    named = groups(c)
    return {
        (named[name], i): v + ABOVE
        for name, values in c.trace.readouts.items()
        for i, v in enumerate(values[0].reshape(-1).tolist())
    }


def updates(c: Case, told: Any) -> int:
    """Neurons that the program updates: with a charge from their window's first step to the end.

    A gate keeps nothing, so it is updated when something arrives, and then it fires: all weights
    into gates are positive here.
    """
    first = {p["name"]: p["first"] for p in told["populations"]}
    counted = told["charges"] + waits(c)
    for p in c.netlist.populations:
        if isinstance(p.neuron, Source):
            counted += int(c.trace.spikes[p.name].sum()) if p.neuron.timing == "train" else 0
        elif isinstance(p.neuron, OrGate):
            counted += c.trace.events[p.name].spikes
        else:
            counted += p.size * (told["steps"] - first[p.name])
    return counted


def apart(c: Case) -> bool:
    """Has a neuron several axons to one core, or one over a stored zero?"""
    pairs: list[Any] = [(k.source, k.target) for k in c.netlist.connections]
    pieces = [(core.index, s.population) for core in c.placement.cores for s in core.slices]
    zeros = any((k.map.weight == 0).any() for k in c.netlist.connections)
    return len(set(pairs)) < len(pairs) or len(set(pieces)) < len(pieces) or zeros
