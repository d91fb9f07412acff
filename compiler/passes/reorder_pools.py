"""Graph -> Graph: max pooling is moved behind the activation that follows it.

max and a function that never falls can change places: f(max(a, b)) = max(f(a), f(b)). Behind the
activation a pool reads counts, which neurons compare exactly; before it, a population of its own
would have to make counts of the drive first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from lapilli.compiler.ir import Graph, Node
from lapilli.compiler.layers.activation import Activate
from lapilli.compiler.layers.max_pooling import MaxPool


def reorder_pools(graph: Graph) -> Graph:
    """Swap each max pool with the monotone activation that alone reads it."""
    nodes = {node.name: node for node in graph}
    readers = Counter(name for node in graph for name in node.inputs)
    readers.update(graph.outputs)
    renamed: dict[str, str] = {}  # a tensor's name -> who makes it now
    result: list[Node] = []
    for node in graph:
        pool = nodes.get(node.inputs[0]) if node.inputs else None
        if _swaps(node, pool, nodes, readers):
            assert isinstance(pool, MaxPool)
            before = next(n for n in result if n.name == pool.name)
            result.remove(before)
            operand = before.inputs[0]
            shape = nodes[pool.inputs[0]].shape
            result.append(replace(node, inputs=(operand,), shape=shape))
            result.append(replace(before, inputs=(node.name,)))
            renamed[node.name] = pool.name
        else:
            result.append(replace(node, inputs=tuple(renamed.get(n, n) for n in node.inputs)))
    outputs = tuple(renamed.get(n, n) for n in graph.outputs)
    return replace(graph, nodes=tuple(result), outputs=outputs)


def _swaps(node: Node, pool: Node | None, nodes: dict[str, Node], readers: Counter[str]) -> bool:
    if not isinstance(node, Activate) or not isinstance(pool, MaxPool) or node.gain < 0:
        return False
    # Behind an activation the pool stands well already: the second one then has fewer neurons.
    counted = isinstance(nodes[pool.inputs[0]], (Activate, MaxPool))
    return node.activation.monotone and readers[pool.name] == 1 and not counted
