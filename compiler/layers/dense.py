"""Linear layers, over vectors or over one axis of images, and products with constant matrices."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.axiswise import axiswise
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
        return over_axis(call, input, len(input.shape) - 1, real(weight), bias)
    return Linear(
        name=call.name,
        inputs=(input.name,),
        shape=call.shape,
        where=call.where,
        weight=real(weight),
        bias=real(bias, len(weight)),
        in_shape=input.shape,
    )


def over_axis(
    call: Call, operand: Operand, axis: int, weight: Array, bias: Array | None = None
) -> Node:
    """A dense layer over one axis of an image, at every position the same: (out, in) weights."""
    positions = math.prod(operand.shape) // operand.shape[axis]
    shape = (-1,) + (1,) * (len(operand.shape) - 1 - axis)
    return axiswise(
        call,
        operand,
        {axis: sp.csr_matrix(weight)},
        shift=None if bias is None else real(bias).reshape(shape),
        macs=positions * int(weight.size),
    )


def _einsum(call: Call, *, equation: str, operands: Any) -> Node:
    """One axis of an image against a constant of one or two axes."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list) else operands
    letters = equation.replace(" ", "").replace("->", ",").split(",")
    active = [k for k, t in enumerate(tensors) if isinstance(t, Operand)]
    if len(active) > 1:
        raise call.refuse(*_TWO_ACTIVITIES)
    if len(tensors) == 2 and len(letters) == 3 and "->" in equation:
        operand, constant = tensors[active[0]], _finite(call, tensors[1 - active[0]])
        mine, theirs, result = letters[active[0]], letters[1 - active[0]], letters[2]
        mine, result = (s.replace("...", "") if s.endswith("...") else s for s in (mine, result))
        rank = len(operand.shape) + 1
        if "..." in mine and "..." in result:  # any letters that no one uses
            free = [c for c in "ABCDEFGHIJKL" if c not in equation]
            fill = "".join(free[: rank - len(mine) + 3])
            mine, result = mine.replace("...", fill), result.replace("...", fill)
        shared = [c for c in theirs if c in mine]
        new = [c for c in theirs if c not in mine]
        if len(mine) == rank and len(shared) == 1 and len(new) <= 1 and shared[0] not in result:
            axis = mine.index(shared[0]) - 1
            wanted = mine.replace(shared[0], "".join(new))
            if axis >= 0 and wanted == result and len(set(mine)) == rank:
                weight = constant.T if theirs[0] == shared[0] else constant
                return over_axis(call, operand, axis, weight.reshape(-1, operand.shape[axis]))
    raise call.refuse(
        "a product with a constant is over one axis of an image, which stays in its place",
        equation,
        "for example 'nchw,oc->nohw' or '...c,oc->...o'",
        "Write it as nn.Linear or a 1x1 convolution, and permute the axes before or after.",
    )


def _finite(call: Call, constant: Any) -> Array:
    array = real(np.asarray(constant))
    if not np.isfinite(array).all():
        raise call.refuse(
            "constants are finite", "NaN or infinity", "finite numbers", "Correct the constant."
        )
    return array


_TWO_ACTIVITIES = (
    "a neuron weighs activities by constants",
    "a product of two activities or of more than a matrix",
    "tensor @ constant matrix",
    "Products such as attention have no spiking form here: remove them.",
)


def _build_product(
    call: Call,
    *,
    input: Any,
    other: Any,
    bias: Array | float | None = None,
    beta: float = 1.0,
    alpha: float = 1.0,
) -> Node:
    """beta * bias + alpha * input @ matrix; without a bias, either may be the constant."""
    constant, operand = (input, other) if isinstance(other, Operand) else (other, input)
    if isinstance(constant, Operand) or np.ndim(constant) not in (1, 2):
        raise call.refuse(*_TWO_ACTIVITIES)
    weight = _finite(call, constant)
    axis = len(operand.shape) - 1
    if operand is input:
        weight = weight.T
    elif weight.ndim == 2:  # from the left, over the last axis but one
        axis -= 1
    if axis < 0:
        raise call.refuse(
            "images are independent of each other",
            f"a matrix from the left of {operand.shape}",
            "a matrix over an axis of one image",
            "Write it as nn.Linear.",
        )
    if bias is None and alpha == 1.0:
        return over_axis(call, operand, axis, weight.reshape(-1, operand.shape[axis]))
    shift = beta * np.broadcast_to(_finite(call, 0.0 if bias is None else bias), (1, *call.shape))
    return over_axis(call, operand, axis, alpha * weight, shift[0])


def _build_gemm(
    call: Call,
    *,
    input: Operand,
    matrix: Array,
    bias: Array | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803  ONNX's names
    transB: int = 0,  # noqa: N803
) -> Node:
    if transA:
        raise call.refuse(
            "the batch stays the first dimension", "transA=1", "transA=0", "Keep the batch first."
        )
    turned = matrix.T if transB else matrix
    return _build_product(call, input=input, other=turned, bias=bias, beta=beta, alpha=alpha)


def _lower(node: Linear, operands: tuple[Affine, ...]) -> Affine:
    dense = Dense(frozen(node.weight), node.in_shape, node.shape)
    return operands[0].through(dense).shifted(node.bias)


LINEAR = LayerRule(
    build=_build,
    node=Linear,
    lower=_lower,
    modules={"torch.nn.Linear": ("weight", "bias")},
    functions={"torch.nn.functional.linear": ("input", "weight", "bias")},
    aten={"linear": ("input", "weight", "bias")},
    macs=lambda node: int(node.weight.size),
)
EINSUM = LayerRule(
    build=_einsum,
    functions={"torch.einsum": ("equation", "**operands")},
    aten={"einsum": ("equation", "operands", "*path")},
    onnx={"Einsum": ("**operands",)},
)

PRODUCT = LayerRule(
    build=_build_product,
    functions={
        "operator.matmul": ("input", "other"),
        "torch.matmul": ("input", "other"),
        "torch.mm": ("input", "other"),
        "torch.addmm": ("bias", "input", "other"),
    },
    methods={"matmul": ("input", "other")},
    aten={
        "addmm": ("bias", "input", "other"),
        "mm": ("input", "other"),
        "matmul": ("input", "other"),
    },
    onnx={"MatMul": ("input", "other")},
)
"""A constant matrix."""

GEMM = LayerRule(build=_build_gemm, onnx={"Gemm": ("input", "matrix", "bias")})
