"""Graph -> Graph: activations move from behind a concatenation of channels to its parts.

act(norm(cat(a, b))) becomes cat(act(norm_a(a)), act(norm_b(b))). As one population, the join would
be reached from every source of every part through a map of which most rows are zero; DenseNet has
up to 33 parts. As several, each part reads what it reads, and who reads the join is joined by as
many maps of as many synapses in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lapilli.compiler.ir import Graph, Input, Node
from lapilli.compiler.layers import MEANING
from lapilli.compiler.layers.joining import Concatenate


def split_joins(graph: Graph) -> Graph:
    """The graph with each activation of joined channels replaced by a join of activations.

    Only where a part of the join is no population itself: else the maps into the joint population
    merely copy. Parts are named by their channels, `relu[0:64]`; the join takes the name of the
    activation. What nothing reads any more is left out.
    """
    nodes = {node.name: node for node in graph}
    result: dict[str, Node] = {}
    for node in graph:
        parts = _parts(node, nodes)
        if parts is None:
            result[node.name] = node
            continue
        moved = [_moved(node, part, nodes) for part in parts]
        # Two activations of one normalisation share its parts.
        result |= {new.name: new for chain in moved for new in chain}
        result[node.name] = _join(node, [chain[-1].name for chain in moved], parts)
    return replace(graph, nodes=_needed(tuple(result.values()), graph.outputs))


class _Part(NamedTuple):
    """Channels start..stop of a join are all channels of one node."""

    source: str
    start: int
    stop: int


def _parts(node: Node, nodes: dict[str, Node]) -> list[_Part] | None:
    """What an activation is to be split into; None where it stays."""
    if isinstance(node, Input) or MEANING[type(node)].role is None or not _elementwise(node):
        return None
    before = _before(node, nodes)
    if not isinstance(before, Concatenate) or before.shape != node.shape:
        return None
    parts = list(_channels(before, nodes, 0))
    covered = sum(part.stop - part.start for part in parts)
    linear = [part for part in parts if not _starts_population(nodes[part.source])]
    return parts if len(parts) > 1 and linear and covered == node.shape[0] else None


def _elementwise(node: Node) -> bool:
    return not isinstance(node, Input) and MEANING[type(node)].part is not None


def _starts_population(node: Node) -> bool:
    return isinstance(node, Input) or MEANING[type(node)].role is not None


def _before(node: Node, nodes: dict[str, Node]) -> Node:
    """The first node upwards that is not elementwise, or a population."""
    above = nodes[node.inputs[0]]
    while _elementwise(above) and not _starts_population(above) and above.shape == node.shape:
        above = nodes[above.inputs[0]]
    return above


def _channels(join: Concatenate, nodes: dict[str, Node], first: int) -> Iterator[_Part]:
    """The parts of a join of channels, those of joins within it as well; no constants."""
    if join.axis != 0 or join.constants.any():
        return
    for name, size, start in zip(join.inputs, join.sizes, join.starts, strict=True):
        part = nodes[name]
        if isinstance(part, Concatenate) and part.axis == 0 and part.shape[0] == size:
            yield from _channels(part, nodes, first + start)
        elif part.shape == (size, *join.shape[1:]):
            yield _Part(name, first + start, first + start + size)


def _moved(node: Node, part: _Part, nodes: dict[str, Node]) -> list[Node]:
    """The activation, and what of elementwise operators is before it, on one part of the join."""
    chain = [node]
    while _elementwise(above := nodes[chain[-1].inputs[0]]):
        chain.append(above)
    result: list[Node] = []
    source = part.source
    for one in reversed(chain):
        result.append(_restricted(one, source, part))
        source = result[-1].name
    return result


def _restricted(node: Node, source: str, part: _Part) -> Node:
    """An elementwise node on some channels."""
    part_of = MEANING[type(node)].part
    assert part_of is not None
    return replace(
        node,
        name=f"{node.name}[{part.start}:{part.stop}]",
        inputs=(source,),
        shape=(part.stop - part.start, *node.shape[1:]),
        **part_of(node, slice(part.start, part.stop)),
    )


def _join(node: Node, names: list[str], parts: list[_Part]) -> Node:
    return Concatenate(
        name=node.name,
        inputs=tuple(names),
        shape=node.shape,
        where=node.where,
        axis=0,
        sizes=tuple(part.stop - part.start for part in parts),
        starts=tuple(part.start for part in parts),
        constants=np.zeros(()),
    )


def _needed(nodes: tuple[Node, ...], outputs: tuple[str, ...]) -> tuple[Node, ...]:
    """The inputs, and what leads to an output."""
    read = set(outputs)
    for node in reversed(nodes):
        if node.name in read:
            read |= set(node.inputs)
    return tuple(node for node in nodes if node.name in read or isinstance(node, Input))
