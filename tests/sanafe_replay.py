"""What SANA-FE's documentation says that a file of its describes, computed from the file alone.

Only what `lapilli export` writes: neurons that integrate and fire, in three ways, neurons that
spike in given steps, edges of one step. A message goes to every core with a target of the neuron.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

Neuron = tuple[str, int]


@dataclass
class Replay:
    """spikes: (group, neuron) of every step; v: after the last step; messages: how many each
    neuron sent to each core; synops: over edges of each group; updated: neurons of each step.
    """

    spikes: list[list[Neuron]] = field(default_factory=list)
    v: dict[Neuron, float] = field(default_factory=dict)
    messages: Counter[tuple[Neuron, str]] = field(default_factory=Counter)
    synops: Counter[str] = field(default_factory=Counter)
    updated: list[int] = field(default_factory=list)


def neuron(address: str) -> Neuron:
    """Of "group.number"."""
    group, _, number = address.partition(".")
    return group, int(number)


def each(address: str) -> list[int]:
    """Of "low..high", or of one number."""
    low, _, high = address.partition("..")
    return list(range(int(low), int(high or low) + 1))


def somas(document: Any) -> dict[Neuron, dict[str, Any]]:
    """The model attributes of every neuron, each named once."""
    found: dict[Neuron, dict[str, Any]] = {}
    for group in document["network"]["groups"]:
        for entry in group["neurons"]:
            ((numbers, attributes),) = entry.items()
            for number in each(numbers):
                assert (group["name"], number) not in found
                found[group["name"], number] = attributes["soma"]
    return found


def homes(document: Any) -> dict[Neuron, dict[str, str]]:
    """Core and soma unit of every neuron, each named once."""
    found: dict[Neuron, dict[str, str]] = {}
    for entry in document["mappings"]:
        ((address, where),) = entry.items()
        group, _, numbers = address.partition(".")
        for number in each(numbers):
            assert (group, number) not in found
            found[group, number] = where
    return found


def edges(document: Any) -> list[tuple[Neuron, Neuron, float]]:
    """(from, to, weight)"""
    found = []
    for entry in document["network"]["edges"]:
        ((ends, attributes),) = entry.items()
        start, _, end = ends.partition(" -> ")
        found.append((neuron(start), neuron(end), attributes["weight"]))
    return found


def replay(text: str) -> Replay:
    """All steps that the file names."""
    document = json.loads(text)
    soma, home, found = somas(document), homes(document), Replay()
    assert soma.keys() == home.keys()
    leaving: dict[Neuron, list[tuple[Neuron, float]]] = defaultdict(list)
    for start, end, weight in edges(document):
        leaving[start].append((end, weight))
    current: dict[Neuron, float] = {}
    found.v = {name: 0.0 for name, s in soma.items() if "spikes" not in s}
    for step in range(document["lapilli"]["steps"]):
        fired = [name for name, s in soma.items() if "spikes" in s and s["spikes"][step]]
        found.updated.append(len(fired))
        for name in found.v:
            s, before = soma[name], found.v[name]
            found.updated[-1] += bool(before or name in current)
            v = before * s["leak_decay"] + current.get(name, 0.0)
            if v > s["threshold"]:
                fired.append(name)
                v = v - s["threshold"] if s["reset_mode"] == "soft" else s["reset"]
            found.v[name] = v
        current = {}
        for name in fired:
            found.messages.update(
                (name, core) for core in {home[n]["core"] for n, _ in leaving[name]}
            )
            found.synops[name[0]] += len(leaving[name])
            for end, weight in leaving[name]:
                current[end] = current.get(end, 0.0) + weight
        found.spikes.append(fired)
    return found
