"""What a graph, and a graph of populations, must be."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from lapilli.compiler.activations import Clip
from lapilli.compiler.errors import CaptureError
from lapilli.compiler.ir import Graph, Input, Node
from lapilli.compiler.layers.activation import Activate
from lapilli.compiler.layers.arithmetic import Sum
from lapilli.compiler.linear import identity
from lapilli.compiler.populations import Connection, Population, PopulationGraph, Role

X = Input(name="x", inputs=(), shape=(3,))
Y = Activate(name="y", inputs=("x",), shape=(3,), activation=Clip(0.0))
Z = Sum(name="z", inputs=("x", "y"), shape=(3,), alpha=1.0)


def test_a_graph_prints_one_line_per_operator() -> None:
    graph = Graph((X, Y, Z), ("z", "y"))
    graph.verify()
    assert list(graph) == [X, Y, Z]
    assert graph.pretty() == ("x = Input() [3]\ny = relu(x) [3]\nz = Sum(x, y) [3]\nreturn z, y")


@pytest.mark.parametrize(
    ("nodes", "outputs", "where", "rule", "found"),
    [
        ((X, Y, Y), ("y",), "y (Activate)", "names are unique", "y"),
        ((X, Z, Y), ("y",), "z (Sum)", "operands come first", "y"),
        ((dataclasses.replace(X, shape=(3, 0)),), ("x",), "x (Input)", "sizes are", "(3, 0)"),
        ((X,), ("y",), "outputs", "every output is a node", "['y']"),
        ((X,), (), "outputs", "every output is a node", "no output"),
    ],
)
def test_a_graph_that_is_none_is_refused(
    nodes: tuple[Node, ...], outputs: tuple[str, ...], where: str, rule: str, found: str
) -> None:
    with pytest.raises(CaptureError) as refused:
        Graph(nodes, outputs).verify()
    assert refused.value.where == where
    assert refused.value.rule.startswith(rule)
    assert refused.value.found == found
    assert refused.value.allowed
    assert refused.value.remedy.endswith(".")


def population(name: str, role: Role, *shape: int) -> Population:
    activation = Clip(0.0) if role == "activation" else None
    return Population(name, shape, role, np.zeros(()), activation=activation)


IN, MID, OUT = (
    population("in", "input", 2, 3),
    population("mid", "activation", 6),
    population("out", "readout", 6),
)


def joined(source: str, target: str, *shape: int) -> Connection:
    return Connection(source, target, identity(shape))


def test_populations_print_with_their_maps() -> None:
    biased = dataclasses.replace(OUT, bias=np.ones((6,)))
    graph = PopulationGraph(
        (IN, MID, biased),
        (joined("in", "mid", 2, 3), joined("mid", "out", 6), joined("in", "out", 6)),
    )
    graph.verify()
    assert graph.outputs == ("out",)
    assert [c.source for c in graph.into("out")] == ["mid", "in"]
    assert graph.pretty() == (
        "in: input [2, 3]\n"
        "mid: relu [6]\n"
        "    Diagonal <- in\n"
        "out: readout [6] + bias[6]\n"
        "    Diagonal <- mid\n"
        "    Diagonal <- in"
    )


FAULTS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], str, str]] = {
    "a name twice": ((IN, OUT, OUT), (joined("in", "out", 6),), "out", "Diagonal|in"),
    "a source that comes later": (
        (IN, OUT, MID),
        (joined("mid", "out", 6), joined("in", "mid", 6)),
        "out",
        "['mid (6,)->(6,)']",
    ),
    "a map that does not fit its source": (
        (population("in", "input", 5), OUT),
        (joined("in", "out", 6),),
        "out",
        "['in (6,)->(6,)']",
    ),
    "a map that does not fit its target": (
        (population("in", "input", 5), OUT),
        (joined("in", "out", 5),),
        "out",
        "['in (5,)->(5,)']",
    ),
    "nothing drives it": ((IN, OUT), (), "out", "[]"),
    "the input is driven": (
        (IN, population("in2", "input", 6), OUT),
        (joined("in", "in2", 6), joined("in", "out", 6)),
        "in2",
        "['in (6,)->(6,)']",
    ),
    "a target that is not there": (
        (IN, OUT),
        (joined("in", "out", 6), joined("in", "nowhere", 6)),
        "populations",
        "connections into ['nowhere']",
    ),
    "no readout": ((IN, MID), (joined("in", "mid", 6),), "populations", "no readout"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_populations_that_are_no_network_are_refused(name: str) -> None:
    populations, connections, where, found = FAULTS[name]
    with pytest.raises(CaptureError) as refused:
        PopulationGraph(populations, connections).verify()
    assert refused.value.where == where
    assert refused.value.found == found or name == "a name twice"
    assert "please report" in refused.value.remedy
