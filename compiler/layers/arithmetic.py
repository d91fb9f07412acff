"""Sums of tensors (residual connections), products (gates), and arithmetic with constants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.axiswise import broadcast, check_broadcast
from lapilli.compiler.layers.rescale import rescale
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, real
from lapilli.compiler.linear import Array, Diagonal, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Sum(Node):
    """input + alpha * other, two tensors that broadcast to shape."""

    alpha: float


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Product(Node):
    """input * other, two tensors that broadcast to `shape`; factors: their own shapes."""

    factors: tuple[Shape, Shape]


def _constant(call: Call, value: Any) -> Array:
    """A scalar or tensor constant without its batch dimension."""
    array = real(np.asarray(value))
    if not np.isfinite(array).all():
        raise call.refuse(
            "constants are finite", "NaN or infinity", "finite numbers", "Correct the constant."
        )
    if array.ndim > len(call.shape) and (array == array[:1]).all():
        array = array[0]
    if np.broadcast_shapes(array.shape, call.shape) != call.shape:
        raise call.refuse(
            "a constant is the same for every image", array.shape, call.shape, "Drop its batch."
        )
    return array


def _add(call: Call, *, input: Any, other: Any, alpha: float = 1.0) -> Node:
    if isinstance(input, Operand) and isinstance(other, Operand):
        check_broadcast(call, input)
        check_broadcast(call, other)
        return Sum(
            name=call.name,
            inputs=(input.name, other.name),
            shape=call.shape,
            where=call.where,
            alpha=float(alpha),
        )
    if isinstance(input, Operand):
        return rescale(call, input, np.ones(()), float(alpha) * _constant(call, other))
    return rescale(call, other, np.full((), float(alpha)), _constant(call, input))


def _subtract(call: Call, *, input: Any, other: Any, alpha: float = 1.0) -> Node:
    return _add(call, input=input, other=other, alpha=-float(alpha))


def _subtract_from(call: Call, *, input: Any, other: Any, alpha: float = 1.0) -> Node:
    return _subtract(call, input=other, other=input, alpha=alpha)


def _multiply(call: Call, *, input: Any, other: Any) -> Node:
    if isinstance(input, Operand) and isinstance(other, Operand):
        check_broadcast(call, input)
        check_broadcast(call, other)
        return Product(
            name=call.name,
            inputs=(input.name, other.name),
            shape=call.shape,
            where=call.where,
            factors=(input.shape, other.shape),
        )
    operand, factor = (input, other) if isinstance(input, Operand) else (other, input)
    return rescale(call, operand, _constant(call, factor), np.zeros(()))


def _divide(call: Call, *, input: Any, other: Any) -> Node:
    if isinstance(other, Operand):
        raise call.refuse(
            "a neuron weighs activities by constants",
            "a division by an activity",
            "tensor / constant",
            "Divide by constants only.",
        )
    divisor = _constant(call, other)
    if not divisor.all():
        raise call.refuse("constants are finite", "a division by 0", "not 0", "Divide by another.")
    return rescale(call, input, 1.0 / divisor, np.zeros(()))


def _negate(call: Call, *, input: Operand) -> Node:
    return rescale(call, input, np.full((), -1.0), np.zeros(()))


def _lower_sum(node: Sum, operands: tuple[Affine, ...]) -> Affine:
    left, right = (broadcast(operand, node.shape) for operand in operands)
    if node.alpha != 1.0:
        right = right.through(Diagonal(frozen(np.full((), node.alpha)), node.shape, node.shape))
    return left.plus(right)


_TWO = ("input", "other")
_SCALED = ("input", "other", "alpha")

ADD = LayerRule(
    build=_add,
    node=Sum,
    lower=_lower_sum,
    functions={"operator.add": _TWO, "operator.iadd": _TWO, "torch.add": _SCALED},
    methods={"add": _SCALED, "add_": _SCALED},
    aten={"add": _SCALED, "add_": _SCALED},
    onnx={"Add": _TWO},
)
SUBTRACT = LayerRule(
    build=_subtract,
    functions={
        "operator.sub": _TWO,
        "operator.isub": _TWO,
        "torch.sub": _SCALED,
        "torch.subtract": _SCALED,
    },
    methods={"sub": _SCALED, "sub_": _SCALED, "subtract": _SCALED},
    aten=dict.fromkeys(("sub", "sub_", "subtract", "subtract_"), _SCALED),
    onnx={"Sub": _TWO},
)
SUBTRACT_FROM = LayerRule(
    build=_subtract_from, functions={"torch.rsub": _SCALED}, aten={"rsub": _SCALED}
)
MULTIPLY = LayerRule(
    build=_multiply,
    node=Product,
    role="product",
    functions={
        "operator.mul": _TWO,
        "operator.imul": _TWO,
        "torch.mul": _TWO,
        "torch.multiply": _TWO,
    },
    methods={"mul": _TWO, "mul_": _TWO, "multiply": _TWO},
    aten=dict.fromkeys(("mul", "mul_", "multiply", "multiply_"), _TWO),
    onnx={"Mul": _TWO},
)
DIVIDE = LayerRule(
    build=_divide,
    functions={
        "operator.truediv": _TWO,
        "operator.itruediv": _TWO,
        "torch.div": _TWO,
        "torch.divide": _TWO,
        "torch.true_divide": _TWO,
    },
    methods={"div": _TWO, "div_": _TWO, "divide": _TWO, "true_divide": _TWO},
    aten=dict.fromkeys(("div", "div_", "divide", "divide_", "true_divide", "true_divide_"), _TWO),
    onnx={"Div": _TWO},
)
NEGATE = LayerRule(
    build=_negate,
    functions={
        "operator.neg": ("input",),
        "torch.neg": ("input",),
        "torch.negative": ("input",),
    },
    methods={"neg": ("input",), "neg_": ("input",), "negative": ("input",)},
    aten=dict.fromkeys(("neg", "neg_", "negative", "negative_"), ("input",)),
    onnx={"Neg": ("input",)},
)
