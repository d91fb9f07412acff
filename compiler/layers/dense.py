"""Linear."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, real
from lapilli.compiler.linear import Array, Dense, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Node):
    """weight (out, in); bias (out,), zeros where there is none."""

    weight: Array
    bias: Array
    in_shape: Shape


def _build(
    call: Call,
    *,
    input: Operand,
    weight: Array,
    bias: Array | None = None,
) -> Node:
    if len(input.shape) != 1:
        raise call.refuse(
            "a linear layer reads one vector per image",
            f"shape {input.shape}",
            "(features,)",
            "Flatten before it, or write a layer over positions as a 1x1 convolution.",
        )
    return Linear(
        name=call.name,
        inputs=(input.name,),
        shape=call.shape,
        where=call.where,
        weight=real(weight),
        bias=real(bias, len(weight)),
        in_shape=input.shape,
    )


def _lower(node: Linear, operands: tuple[Affine, ...]) -> Affine:
    dense = Dense(frozen(node.weight), node.in_shape, node.shape)
    return operands[0].through(dense).shifted(node.bias)


LINEAR = LayerRule(
    build=_build,
    node=Linear,
    lower=_lower,
    modules={"torch.nn.Linear": ("weight", "bias")},
    functions={"torch.nn.functional.linear": ("input", "weight", "bias")},
    macs=lambda node: int(node.weight.size),
)
