"""Graph -> PopulationGraph: everything linear between two populations becomes one map."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import final

import numpy as np

from lapilli.compiler.activations import Activation, Clip
from lapilli.compiler.compose import Affine
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.ir import Graph, Input, Node
from lapilli.compiler.layers import MEANING
from lapilli.compiler.layers.activation import Activate
from lapilli.compiler.layers.arithmetic import Product
from lapilli.compiler.layers.axiswise import broadcast
from lapilli.compiler.layers.max_pooling import MaxPool
from lapilli.compiler.linear import (
    Conv,
    Dense,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
    frozen,
    identity,
)
from lapilli.compiler.populations import Connection, Population, PopulationGraph, Role


def legalise(graph: Graph) -> PopulationGraph:
    """Fold, in exact algebra, all linear operators into the connections and biases.

    Populations that no output depends on are left out. Where a pool or a product reads what is no
    activity of neurons, a population of the identity is put before it. Raises
    UnsupportedOperatorError where two operators have no common form of a bearable size.
    """
    state = _Legalisation()
    last = {name: node.name for node in graph for name in node.inputs}  # who reads it last
    for node in graph:
        state.add(node)
        for name in set(node.inputs) - set(graph.outputs):
            if last[name] == node.name:  # joins of many layers are large: keep none for long
                del state.forms[name]
    state.read_out(graph)
    populations, connections = state.alive()
    return PopulationGraph(populations, connections)


@final
class _Legalisation:
    """The populations so far, and what every tensor still alive is made of."""

    def __init__(self) -> None:
        self.forms: dict[str, Affine] = {}
        self._populations: dict[str, Population] = {}
        self._connections: list[Connection] = []

    def add(self, node: Node) -> None:
        """One operator more."""
        operands = tuple(self.forms[name] for name in node.inputs)
        if isinstance(node, Input):
            self.forms[node.name] = self._start(node.name, "input", node.shape, node.where)
        elif isinstance(node, Activate):
            self.forms[node.name] = self._activity(
                node.name, _line(operands[0], node), node.activation, node.where
            )
        elif isinstance(node, MaxPool):
            self.forms[node.name] = self._pooled(node, operands[0])
        elif isinstance(node, Product):
            self.forms[node.name] = self._product(node, *operands)
        else:
            self.forms[node.name] = _lowered(node, operands)

    def _start(
        self,
        name: str,
        role: Role,
        shape: Shape,
        where: str,
        drives: tuple[tuple[str, LinearMap], ...] = (),
        population: Population | None = None,
    ) -> Affine:
        """A new population, driven as said; the tensor that its activity is."""
        self._populations[name] = population or Population(
            name, shape, role, frozen(np.zeros(())), where
        )
        self._connections += [Connection(source, name, linear) for source, linear in drives]
        return Affine(shape, ((name, identity(shape)),), np.zeros(()))

    def _activity(
        self,
        name: str,
        drive: Affine,
        activation: Activation,
        where: str,
        role: Role = "activation",
    ) -> Affine:
        of_role = activation if role == "activation" else None
        population = Population(name, drive.shape, role, frozen(drive.bias), where, of_role)
        return self._start(name, role, drive.shape, where, drive.terms, population)

    def _pooled(self, node: MaxPool, operand: Affine) -> Affine:
        """One pool for each population that the operand joins, in the channels of that population.

        The maximum of a window of counts is a count on the same scale, channel by channel.
        """
        operand = operand.viewed(node.in_shape)
        if not self._picks_channels(operand):
            operand = self._activity(f"{node.name}.input", operand, Clip(), node.where)
        out_plane = len(node.rows), len(node.columns)
        result = Affine((node.in_shape[0], *out_plane), (), np.zeros(()))
        for index, (source, linear) in enumerate(operand.terms):
            several = len(operand.terms) > 1
            name = f"{node.name}.{index}" if several else node.name
            channels = linear.in_shape[0]
            window = replace(node, in_shape=(channels, *node.in_shape[1:])).map()
            pool = self._start(name, "max", (channels, *out_plane), node.where, ((source, window),))
            result = result.plus(pool.through(_on_plane(linear, out_plane)))
        return result.viewed(node.shape)

    def _picks_channels(self, operand: Affine) -> bool:
        """Is every channel one whole channel of one population?"""
        picked = np.zeros(operand.shape[0], np.int64)
        for source, linear in operand.terms:
            shape = self._populations[source].shape
            if (
                linear.in_shape[0] != shape[0]
                or not (linear.weight.astype(bool) == linear.weight).all()
            ):
                return False
            if isinstance(linear, Diagonal):
                if shape[0] != operand.shape[0] or not linear.weight.all():
                    return False
                picked += 1
            elif isinstance(linear, Conv) and linear.kernel == (1, 1):
                moves = linear.stride != (1, 1) or linear.padding != (0, 0)
                if moves or linear.out_shape != operand.shape or linear.groups not in (1, shape[0]):
                    return False
                picked += np.count_nonzero(linear.weight, axis=(1, 2, 3))
            else:
                return False
        spiking = all(self._populations[s].role != "input" for s, _ in operand.terms)
        return spiking and not operand.bias.any() and bool((picked == 1).all())

    def _product(self, node: Product, *operands: Affine) -> Affine:
        factors = []
        for index, (operand, shape) in enumerate(zip(operands, node.factors, strict=True)):
            found = self._factor(operand, shape, node) if self._is_activity(operand) else None
            if found is None:
                name = f"{node.name}.factor{index}"
                # With all axes, so that its channels are those of the product, or one for all.
                full = (1,) * (len(node.shape) - len(shape)) + shape
                own = self._activity(name, operand.viewed(full), Clip(), node.where)
                found = self._factor(own, full, node)
            assert found is not None, "channels of a factor are channels of the product"
            factors.append(found)
        return self._start(node.name, "product", node.shape, node.where, tuple(factors))

    def _factor(self, operand: Affine, shape: Shape, node: Product) -> tuple[str, LinearMap] | None:
        """What one factor reads and how; None where channels of the product mix channels of it.

        Counts may have a step per channel, and those of the product must all have the same.
        """
        ((source, linear),) = broadcast(operand.viewed(shape), node.shape).terms
        channels = self._populations[source].shape
        ends = linear.in_shape[0], linear.out_shape[0]
        if len(channels) == 1 or (
            not isinstance(linear, (Sparse, Dense)) and ends == (channels[0], node.shape[0])
        ):
            return source, linear
        read = linear.to_sparse().indices // math.prod(channels[1:])
        rows = read.reshape(node.shape[0], -1)
        return (source, linear) if (rows == rows[:, :1]).all() else None

    def _is_activity(self, operand: Affine) -> bool:
        """Is every number the activity of one neuron, as it is?"""
        if len(operand.terms) != 1 or operand.bias.any():
            return False
        ((source, linear),) = operand.terms
        if self._populations[source].role == "input":
            return False
        chosen = linear.weight.astype(bool)
        alone = linear.row_sums(chosen.astype(np.int64)) == 1
        return bool((chosen == linear.weight).all() and alone.all())

    def read_out(self, graph: Graph) -> None:
        """One population per output of the network, even where two are the same tensor."""
        nodes = {node.name: node for node in graph}
        for output in graph.outputs:
            path = f"{output}.readout" if output in self._populations else output
            name, count = path, 0
            while name in self._populations:
                count += 1
                name = f"{path}_{count}"
            self._activity(name, self.forms[output], Clip(), nodes[output].where, "readout")

    def alive(self) -> tuple[tuple[Population, ...], tuple[Connection, ...]]:
        """The input and what leads to a readout; a network may compute what it does not return."""
        needed = {p.name for p in self._populations.values() if p.role in ("input", "readout")}
        for c in reversed(self._connections):  # in the order of their targets
            if c.target in needed:
                needed.add(c.source)
        return (
            tuple(p for p in self._populations.values() if p.name in needed),
            tuple(c for c in self._connections if c.target in needed),
        )


def _line(drive: Affine, node: Activate) -> Affine:
    if node.gain != 1.0:
        drive = drive.through(Diagonal(frozen(np.full((), node.gain)), node.shape, node.shape))
    return drive.shifted(np.full((), node.shift)) if node.shift else drive


def _on_plane(linear: LinearMap, plane: tuple[int, ...]) -> LinearMap:
    """A map that picks channels, on images of another size."""
    if isinstance(linear, Diagonal):  # of ones, however many it was written with
        linear = replace(linear, weight=frozen(1.0))
    return replace(
        linear, in_shape=(linear.in_shape[0], *plane), out_shape=(linear.out_shape[0], *plane)
    )


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
