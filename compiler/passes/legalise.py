"""Graph -> PopulationGraph: everything linear between two populations becomes one map."""

from __future__ import annotations

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Graph, Input, Node
from lapilli.compiler.layers import MEANING
from lapilli.compiler.linear import frozen, identity
from lapilli.compiler.populations import Connection, Population, PopulationGraph, Role


def legalise(graph: Graph) -> PopulationGraph:
    """Fold, in exact algebra, all linear operators into the connections and biases."""
    forms: dict[str, Affine] = {}
    populations: list[Population] = []
    connections: list[Connection] = []

    def populate(name: str, role: Role, form: Affine, where: str) -> Affine:
        populations.append(Population(name, form.shape, role, frozen(form.bias), where))
        connections.extend(Connection(source, name, term) for source, term in form.terms)
        return _activity(name, form.shape)

    for node in graph:
        if isinstance(node, Input):
            populations.append(Population(node.name, node.shape, "input", frozen(np.zeros(()))))
            forms[node.name] = _activity(node.name, node.shape)
            continue
        rule = MEANING[type(node)]
        operands = tuple(forms[name] for name in node.inputs)
        if rule.role is not None:
            forms[node.name] = populate(node.name, rule.role, operands[0], node.where)
        elif rule.lower is not None:
            forms[node.name] = rule.lower(node, operands)
    _add_readouts(graph, forms, populate)
    return PopulationGraph(tuple(populations), tuple(connections))


def _activity(name: str, shape: tuple[int, ...]) -> Affine:
    return Affine(shape, ((name, identity(shape)),), np.zeros(()))


def _add_readouts(graph: Graph, forms: dict[str, Affine], populate: object) -> None:
    assert callable(populate)
    nodes: dict[str, Node] = {node.name: node for node in graph}
    taken: set[str] = set()
    for output in graph.outputs:
        node = nodes[output]
        spiking = isinstance(node, Input) or MEANING[type(node)].role is not None
        name = f"{output}.readout" if spiking else output
        while name in taken:
            name += "_again"
        taken.add(name)
        populate(name, "readout", forms[output], node.where)
