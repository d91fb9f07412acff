"""The floor of a tensor: no layer by itself, but a part of staircases that were trained.

`capture.staircases` finds those among the calls of a network, and refuses any other floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lapilli.compiler.ir import Node
from lapilli.compiler.layers.rule import Call, LayerRule, Operand


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Floor(Node):
    """The largest integer that is no larger; no graph that was captured still has one."""


def _floor(call: Call, *, input: Operand) -> Node:
    return Floor(name=call.name, inputs=(input.name,), shape=call.shape, where=call.where)


_INPUT = ("input",)
FLOOR = LayerRule(
    build=_floor,
    functions={"torch.floor": _INPUT, "torch.floor_": _INPUT},
    methods={"floor": _INPUT, "floor_": _INPUT},
    aten={"floor": _INPUT, "floor_": _INPUT},
    onnx={"Floor": _INPUT},
)
