"""Conv1d and Conv2d."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, pair, real
from lapilli.compiler.linear import Array, Conv, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(Node):
    """weight (O, C / groups, kH, kW); bias (O,); padding (top, left) of zeros; no bias is zeros.

    in_shape (C, H, W); out_shape (O, H', W'): in 1-D, (C, L) and (O, L') with a height of one.
    """

    weight: Array
    bias: Array
    in_shape: Shape
    out_shape: Shape
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def map(self) -> Conv:
        """The convolution without its bias."""
        return Conv(
            frozen(self.weight),
            self.in_shape,
            self.out_shape,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


def _build(
    call: Call,
    *,
    input: Operand,
    weight: Array,
    bias: Array | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Node:
    if padding_mode != "zeros":
        raise call.refuse(
            "padding is with zeros", padding_mode, "zeros", "Use padding_mode='zeros'."
        )
    rank = weight.ndim - 2
    if len(input.shape) != rank + 1:
        axes = "(C, L)" if rank == 1 else "(C, H, W)"
        raise call.refuse(
            f"a {rank}-D convolution reads {axes}", input.shape, axes, "Keep the batch axis."
        )
    spread, step = pair(dilation), pair(stride)
    taps = pair(weight.shape[2:])
    if padding == "same":  # torch puts the odd zero after the image
        before = (spread[0] * (taps[0] - 1) // 2, spread[1] * (taps[1] - 1) // 2)
    else:
        before = (0, 0) if isinstance(padding, str) else pair(padding)  # "valid" pads nothing
    in_shape, out_shape = input.shape, call.shape
    if rank == 1:
        weight = weight[:, :, None]
        before, step, spread = (0, before[1]), (1, step[1]), (1, spread[1])
        in_shape, out_shape = (in_shape[0], 1, in_shape[1]), (out_shape[0], 1, out_shape[1])
    return Conv2d(
        name=call.name,
        inputs=(input.name,),
        shape=call.shape,
        where=call.where,
        weight=real(weight),
        bias=real(bias, len(weight)),
        in_shape=in_shape,
        out_shape=out_shape,
        stride=step,
        padding=before,
        dilation=spread,
        groups=groups,
    )


def _lower(node: Conv2d, operands: tuple[Affine, ...]) -> Affine:
    result = operands[0].through(node.map()).shifted(node.bias[:, None, None])
    return result.viewed(node.shape)


_PARAMETERS = ("weight", "bias", "stride", "padding", "dilation", "groups")

CONV2D = LayerRule(
    build=_build,
    node=Conv2d,
    lower=_lower,
    modules={
        "torch.nn.Conv1d": (*_PARAMETERS, "padding_mode"),
        "torch.nn.Conv2d": (*_PARAMETERS, "padding_mode"),
    },
    functions={
        "torch.nn.functional.conv1d": ("input", *_PARAMETERS),
        "torch.nn.functional.conv2d": ("input", *_PARAMETERS),
    },
    macs=lambda node: node.map().dense_macs,
)
