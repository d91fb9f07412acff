"""The float graph as the user wrote it: torch-like operators in topological order, shapes known.

Operators themselves live in `compiler/layers/`, one frozen dataclass each, beside their rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import final

from lapilli.compiler.errors import CaptureError
from lapilli.compiler.outputs import Output, flaw

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """One operator. Subclasses add its parameters.

    name: after the user's module; inputs: names of operands; shape: of the result, without the
    batch dimension, (1,) for one number per image; where: file, line and code of the user, or the
    module path.
    """

    name: str
    inputs: tuple[str, ...]
    shape: Shape
    where: str = field(default="", repr=False)

    @property
    def kind(self) -> str:
        """What people call the operator."""
        return type(self).__name__


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Input(Node):
    """The network's input."""


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """Operators in topological order, and the names of those that leave the network, once each.

    returned: what the network returns, made of these outputs; Output.readout is an index into them.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    returned: tuple[Output, ...] = ()

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def verify(self) -> None:
        """Raise CaptureError unless names are unique, operands come first and shapes are real."""
        seen: set[str] = set()
        for node in self.nodes:
            for rule, bad in (
                ("names are unique", node.name if node.name in seen else None),
                ("operands come first", next((i for i in node.inputs if i not in seen), None)),
                ("sizes are positive", node.shape if math.prod(node.shape) < 1 else None),
            ):
                if bad is not None:
                    raise CaptureError(
                        f"{node.name} ({type(node).__name__})",
                        rule,
                        found=bad,
                        allowed="a graph in topological order",
                        remedy="This is a fault of Lapilli's frontend: please report it.",
                    )
            seen.add(node.name)
        missing = [name for name in self.outputs if name not in seen]
        if missing or not self.outputs:
            raise CaptureError(
                "outputs",
                "every output is a node of the graph",
                found=missing or "no output",
                allowed="at least one known node",
                remedy="Return a tensor that the network computed.",
            )
        shapes = {node.name: node.shape for node in self.nodes}
        wrong = flaw(self.returned, [shapes[name] for name in self.outputs])
        if self.returned and wrong is not None:
            rule, found, allowed = wrong
            raise CaptureError(
                "outputs",
                rule,
                found=found,
                allowed=allowed,
                remedy="This is a fault of Lapilli's frontend: please report it.",
            )

    def pretty(self) -> str:
        """One line per operator: name, kind, operands, shape."""
        lines = [
            f"{node.name} = {node.kind}({', '.join(node.inputs)}) {list(node.shape)}"
            for node in self.nodes
        ]
        heads = [
            f"{self.outputs[o.readout]}.{o.head}" for o in self.returned if o.head.kind != "none"
        ]
        return "\n".join([*lines, f"return {', '.join((*self.outputs, *heads))}"])
