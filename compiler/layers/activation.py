"""ReLU: where a population of neurons stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lapilli.compiler.ir import Node
from lapilli.compiler.layers.rule import Call, LayerRule, Operand


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Relu(Node):
    """max(x, 0)."""


def _build(call: Call, *, input: Operand, inplace: bool = False) -> Node:
    return Relu(name=call.name, inputs=(input.name,), shape=call.shape, where=call.where)


RELU = LayerRule(
    build=_build,
    node=Relu,
    role="relu",
    modules={"torch.nn.ReLU": ("inplace",)},
    functions={
        "torch.nn.functional.relu": ("input", "inplace"),
        "torch.nn.functional.relu_": ("input",),
        "torch.relu": ("input",),
        "torch.relu_": ("input",),
    },
    methods={"relu": ("input",), "relu_": ("input",)},
)
