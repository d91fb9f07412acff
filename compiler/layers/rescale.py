"""Multiplication by and addition of constants: BatchNorm in evaluation, normalisation of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, real
from lapilli.compiler.linear import Array, Diagonal, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Rescale(Node):
    """x * scale + shift; both broadcast to shape."""

    scale: Array
    shift: Array


def rescale(call: Call, operand: Operand, scale: Array, shift: Array) -> Node:
    """The node for x * scale + shift; scale and shift broadcast to the operand's shape."""
    if call.shape != operand.shape:
        raise call.refuse(
            "a constant broadcasts to the tensor, not the tensor to the constant",
            f"result {call.shape} from {operand.shape}",
            operand.shape,
            "Give the constant the shape of the tensor, or (C, 1, 1).",
        )
    return Rescale(
        name=call.name,
        inputs=(operand.name,),
        shape=call.shape,
        where=call.where,
        scale=scale,
        shift=shift,
    )


def _batch_norm(
    call: Call,
    *,
    input: Operand,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> Node:
    if running_mean is None or running_var is None or training:
        raise call.refuse(
            "normalisation uses stored statistics",
            "statistics of the batch",
            "running_mean and running_var, training=False",
            "Train with track_running_stats=True and call model.eval().",
        )
    variance = real(running_var) + eps
    if not (variance > 0).all():
        raise call.refuse(
            "variances are positive",
            f"running_var + eps down to {variance.min():g}",
            "> 0",
            "The checkpoint is damaged, or eps is missing.",
        )
    shape = (-1,) + (1,) * (len(input.shape) - 1)
    # Source: Rueckauer et al. 2016: gamma / sigma, beta - gamma * mu / sigma.
    scale = 1.0 / np.sqrt(variance)
    scale = scale if weight is None else scale * real(weight)
    shift = -real(running_mean) * scale
    shift = shift if bias is None else shift + real(bias)
    return rescale(call, input, scale.reshape(shape), shift.reshape(shape))


def _lower(node: Rescale, operands: tuple[Affine, ...]) -> Affine:
    scale = Diagonal(frozen(node.scale, np.float64), node.shape, node.shape)
    return operands[0].through(scale).shifted(node.shift)


_ATTRIBUTES = ("running_mean", "running_var", "weight", "bias", "training", "eps")
_PARAMETERS = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")

BATCH_NORM = LayerRule(
    build=_batch_norm,
    node=Rescale,
    lower=_lower,
    modules={"torch.nn.BatchNorm1d": _ATTRIBUTES, "torch.nn.BatchNorm2d": _ATTRIBUTES},
    functions={"torch.nn.functional.batch_norm": ("input", *_PARAMETERS)},
)
