"""Multiplication by and addition of constants: BatchNorm in evaluation, normalisation of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node
from lapilli.compiler.layers.axiswise import broadcast, check_broadcast
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, real
from lapilli.compiler.linear import Array, Diagonal, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Rescale(Node):
    """x * scale + shift; all three broadcast to shape."""

    scale: Array
    shift: Array


def rescale(call: Call, operand: Operand, scale: Array, shift: Array) -> Node:
    """The node for x * scale + shift; all three broadcast to the shape of the result."""
    check_broadcast(call, operand)
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


def _onnx_batch_norm(
    call: Call,
    *,
    input: Operand,
    weight: Array,
    bias: Array,
    running_mean: Array,
    running_var: Array,
    epsilon: float = 1e-5,
    training_mode: int = 0,
    momentum: float = 0.9,
) -> Node:
    return _batch_norm(
        call,
        input=input,
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
        training=bool(training_mode) or len(call.parts) > 1,  # before opset 14, by its results
        eps=epsilon,
    )


def _channels_of(values: Array, node: Rescale, channels: slice) -> Array:
    whole = values.ndim < len(node.shape) or values.shape[0] == 1
    return values if whole else values[channels]


def _lower(node: Rescale, operands: tuple[Affine, ...]) -> Affine:
    scale = Diagonal(frozen(node.scale, np.float64), node.shape, node.shape)
    return broadcast(operands[0], node.shape).through(scale).shifted(node.shift)


def _instance_norm(
    call: Call,
    *,
    input: Operand,
    running_mean: Array | None = None,
    running_var: Array | None = None,
    weight: Array | None = None,
    bias: Array | None = None,
    use_input_stats: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
    track_running_stats: bool | None = None,
) -> Node:
    # A layer in evaluation has the one flag, the functional form the other.
    if use_input_stats if track_running_stats is None else not track_running_stats:
        raise call.refuse(
            "normalisation uses stored statistics",
            "mean and variance of each image",
            "running_mean and running_var: track_running_stats=True, in evaluation",
            "What depends on the image is not linear: train with track_running_stats=True, "
            "or with BatchNorm.",
        )
    return _batch_norm(
        call,
        input=input,
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
        eps=eps,
    )


_ATTRIBUTES = ("running_mean", "running_var", "weight", "bias", "training", "eps")
_PARAMETERS = ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_ATEN = ("weight", "bias", "running_mean", "running_var")

_STORED = ("running_mean", "running_var", "weight", "bias")
_LAYER = (*_STORED, "eps", "track_running_stats")
_LAST = ("momentum", "eps")

BATCH_NORM = LayerRule(
    build=_batch_norm,
    node=Rescale,
    lower=_lower,
    part=lambda node, channels: {
        "scale": _channels_of(node.scale, node, channels),
        "shift": _channels_of(node.shift, node, channels),
    },
    modules={"torch.nn.BatchNorm1d": _ATTRIBUTES, "torch.nn.BatchNorm2d": _ATTRIBUTES},
    functions={"torch.nn.functional.batch_norm": ("input", *_PARAMETERS)},
    aten={
        "batch_norm": ("input", *_ATEN, "training", "momentum", "eps", "*cudnn_enabled"),
        "_native_batch_norm_legit_no_training": ("input", *_ATEN, "momentum", "eps"),
    },
)
INSTANCE_NORM = LayerRule(
    build=_instance_norm,
    modules={"torch.nn.InstanceNorm1d": _LAYER, "torch.nn.InstanceNorm2d": _LAYER},
    functions={"torch.nn.functional.instance_norm": ("input", *_STORED, "use_input_stats", *_LAST)},
    aten={"instance_norm": ("input", *_ATEN, "use_input_stats", "momentum", "eps", "*cudnn")},
)

ONNX_BATCH_NORM = LayerRule(build=_onnx_batch_norm, onnx={"BatchNormalization": ("input", *_ATEN)})
