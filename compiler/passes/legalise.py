"""Graph -> PopulationGraph: everything linear between two populations becomes one map."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.ir import Graph, Input, Node
from lapilli.compiler.layers import MEANING
from lapilli.compiler.linear import frozen, identity
from lapilli.compiler.populations import Connection, Population, PopulationGraph, Role


def legalise(graph: Graph) -> PopulationGraph:
    """Fold, in exact algebra, all linear operators into the connections and biases.

    Populations that no output depends on are left out. Raises UnsupportedOperatorError where two
    operators have no common form of a bearable size.
    """
    forms: dict[str, Affine] = {}
    drives: list[tuple[Population, Affine]] = []
    last = {name: node.name for node in graph for name in node.inputs}  # who reads it last
    for node in graph:
        role = _role(node)
        if role is None:
            forms[node.name] = _lowered(node, tuple(forms[name] for name in node.inputs))
        else:
            drive = forms[node.inputs[0]] if node.inputs else _silence(node)
            drives.append(_population(node.name, role, drive, node.where))
            forms[node.name] = _activity(node)
        for name in set(node.inputs) - set(graph.outputs):
            if last[name] == node.name:  # joins of many layers are large: keep none for long
                del forms[name]
    drives += _readouts(graph, forms, {p.name for p, _ in drives})
    drives = _alive(drives)
    return PopulationGraph(
        tuple(population for population, _ in drives),
        tuple(
            Connection(source, population.name, linear)
            for population, drive in drives
            for source, linear in drive.terms
        ),
    )


def _alive(drives: list[tuple[Population, Affine]]) -> list[tuple[Population, Affine]]:
    """The input and what leads to a readout; a network may compute what it does not return."""
    needed = {p.name for p, _ in drives if p.role != "relu"}
    for population, drive in reversed(drives):
        if population.name in needed:
            needed |= {source for source, _ in drive.terms}
    return [(population, drive) for population, drive in drives if population.name in needed]


def _role(node: Node) -> Role | None:
    return "input" if isinstance(node, Input) else MEANING[type(node)].role


def _silence(node: Node) -> Affine:
    return Affine(node.shape, (), np.zeros(()))


def _population(name: str, role: Role, drive: Affine, where: str) -> tuple[Population, Affine]:
    return Population(name, drive.shape, role, frozen(drive.bias), where), drive


def _activity(node: Node) -> Affine:
    return Affine(node.shape, ((node.name, identity(node.shape)),), np.zeros(()))


def _lowered(node: Node, operands: tuple[Affine, ...]) -> Affine:
    lower = MEANING[type(node)].lower
    assert lower is not None, f"the rule of {type(node).__name__} has neither role nor lowering"
    try:
        return lower(node, operands)
    except UnsupportedOperatorError as error:  # of the algebra, which knows no places
        raise UnsupportedOperatorError(
            f"{node.name} ({type(node).__name__}) at {node.where}: {error.where}",
            error.rule,
            found=error.found,
            allowed=error.allowed,
            remedy=error.remedy,
        ) from error


def _readouts(
    graph: Graph, forms: dict[str, Affine], taken: set[str]
) -> Iterator[tuple[Population, Affine]]:
    """One population per output of the network, even where two are the same tensor."""
    nodes = {node.name: node for node in graph}
    for output in graph.outputs:
        node = nodes[output]
        path = output if _role(node) is None else f"{output}.readout"
        name, count = path, 0
        while name in taken:
            count += 1
            name = f"{path}_{count}"
        taken = taken | {name}
        yield _population(name, "readout", forms[output], node.where)
