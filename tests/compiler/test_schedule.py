"""Alignment in time: when populations work, how long branches wait, for every coding."""

from __future__ import annotations

from dataclasses import dataclass

import netlists
import numpy as np
import pytest
from netlists import CODINGS, Coding, integers

from lapilli.compiler.neurons import NeuronModel, Readout, SoftResetIF, Source, Window
from lapilli.compiler.schedule import Schedule, schedule

LEVELS = 4


def neuron(coding: Coding) -> NeuronModel:
    if coding == "rate":
        return SoftResetIF(integers(3), integers(0), integers(1))
    return Window(integers(3), integers(0), integers(1), LEVELS, coding)


@dataclass(frozen=True)
class Node:
    name: str
    neuron: NeuronModel


@dataclass(frozen=True)
class Edge:
    source: str
    target: str
    synaptic_delay: int = 0


def planned(coding: Coding, *edges: str) -> Schedule:
    """The schedule of a network given as "ab" for a -> b; "i" is the input, "o" the readout."""
    names = dict.fromkeys("".join(edges))
    special = {
        "i": Source(0, 1, "held" if coding == "rate" else "first"),
        "o": Readout(integers(0), integers(0)),
    }
    nodes = tuple(Node(name, special.get(name, neuron(coding))) for name in names)
    steps = 1 if coding == "graded" else LEVELS
    return schedule(nodes, tuple(Edge(*edge) for edge in edges), steps)


# One connection takes a step; a unary window sends in its last step, LEVELS - 1 later.
DEPTH = {"graded": 1, "unary": LEVELS, "rate": 1}


@pytest.mark.parametrize("coding", CODINGS)
def test_a_chain(coding: Coding) -> None:
    plan = planned(coding, "ia", "ab", "bo")
    d = DEPTH[coding]
    assert plan.first == {"i": 0, "a": 1, "b": 1 + d, "o": 1 + 2 * d}
    assert plan.sends == {"i": 0, "a": d, "b": 2 * d, "o": 1 + 2 * d}
    steps = 1 if coding == "graded" else LEVELS
    assert plan.interval == steps
    assert plan.latency == 1 + 2 * d + steps
    assert [plan.delay(Edge(*pair)) for pair in ("ia", "ab", "bo")] == [0, 0, 0]
    assert [plan.total_steps(n) for n in (1, 2, 10)] == [
        plan.latency, plan.latency + steps, plan.latency + 9 * steps
    ]  # fmt: skip


def test_latencies_that_the_methods_promise() -> None:
    """Graded: the depth in steps. Unary: the depth in windows. Rate: a window and the depth."""
    assert planned("graded", "ia", "ab", "bo").latency == 4
    assert planned("unary", "ia", "ab", "bo").latency == 3 * LEVELS + 1
    assert planned("rate", "ia", "ab", "bo").latency == LEVELS + 3


@pytest.mark.parametrize("coding", CODINGS)
def test_short_branches_wait_for_long_ones(coding: Coding) -> None:
    d = DEPTH[coding]
    plan = planned(coding, "ia", "ab", "bc", "ac", "io", "co")
    assert plan.delay(Edge("a", "c")) == d
    assert plan.delay(Edge("b", "c")) == 0
    assert plan.delay(Edge("i", "o")) == 3 * d
    assert plan.delay(Edge("c", "o")) == 0


@pytest.mark.parametrize("coding", CODINGS)
def test_what_joins_arrives_in_the_same_step(coding: Coding) -> None:
    plan = planned(coding, "ia", "ab", "bc", "cd", "ad", "bd", "id", "do", "ao")
    arrivals = {}
    for source, target in ("ad", "bd", "cd", "id", "do", "ao"):
        arrival = plan.sends[source] + 1 + plan.delay(Edge(source, target))
        assert arrivals.setdefault(target, arrival) == arrival == plan.first[target]
        assert plan.delay(Edge(source, target)) >= 0


def test_a_dead_end_counts_for_the_latency() -> None:
    plan = planned("graded", "ia", "ao", "ab", "bc")
    assert plan.first["c"] > plan.first["o"]
    assert plan.latency == plan.first["c"] + 1


def test_one_population_works_without_any_other() -> None:
    plan = schedule((Node("i", Source(0, 1, "held")),), (), 5)
    assert (plan.first, plan.latency, plan.total_steps(2)) == ({"i": 0}, 5, 10)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("seed", range(3))
def test_delays_of_a_netlist_are_the_schedules(coding: Coding, seed: int) -> None:
    netlist = netlists.random_netlist(np.random.default_rng(seed), coding)
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    delays = [c.delay for c in netlist.connections]
    assert delays == [plan.delay(c) for c in netlist.connections]
    assert max(delays) > 0


def test_synaptic_delays_come_on_top_and_keep_windows_apart() -> None:
    """What a window sends in its last step has arrived before its target's next window begins."""
    rate = neuron("rate")
    nodes = (Node("i", Source(0, 1, "train")), Node("a", rate), Node("b", rate))
    edges = (Edge("i", "a", 2), Edge("a", "b", 5), Edge("i", "b"))
    plan = schedule(nodes, edges, 7)
    assert plan.first == {"i": 0, "a": 1, "b": 2}
    assert [plan.delay(edge) for edge in edges] == [2, 5, 1]
    assert (plan.gap, plan.interval, plan.latency) == (5, 12, 9)
    assert plan.total_steps(3) == 9 + 2 * 12


def test_a_population_that_drives_itself_does_not_wait_for_itself() -> None:
    nodes = (Node("i", Source(0, 1, "train")), Node("a", neuron("rate")))
    edges = (Edge("i", "a"), Edge("a", "a", 3))
    plan = schedule(nodes, edges, 7)
    assert plan.first == {"i": 0, "a": 1}
    assert [plan.delay(edge) for edge in edges] == [0, 3]
    assert (plan.gap, plan.interval) == (4, 11)
