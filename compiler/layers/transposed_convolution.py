"""ConvTranspose1d and ConvTranspose2d."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, pair, real
from lapilli.compiler.linear import Array, ConvTransposed, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class TransposedConvolution(Node):
    """weight (C, O / groups, kH, kW); bias (O,); padding (top, left) cut off; no bias is zeros.

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

    def map(self) -> ConvTransposed:
        """The transposed convolution without its bias."""
        return ConvTransposed(
            frozen(self.weight),
            self.in_shape,
            self.out_shape,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


_Sizes = int | tuple[int, ...]


def _build(
    call: Call,
    *,
    input: Operand,
    weight: Array,
    bias: Array | None = None,
    stride: _Sizes = 1,
    padding: _Sizes = 0,
    output_padding: _Sizes = 0,  # shows in the size of the result alone, and that is known
    groups: int = 1,
    dilation: _Sizes = 1,
    padding_mode: str = "zeros",  # torch itself refuses all others
) -> Node:
    rank = weight.ndim - 2
    if len(input.shape) != rank + 1:
        axes = "(C, L)" if rank == 1 else "(C, H, W)"
        raise call.refuse(
            f"a {rank}-D transposed convolution reads {axes}",
            input.shape,
            axes,
            "Keep the batch axis.",
        )
    before, step, spread = pair(padding), pair(stride), pair(dilation)
    in_shape, out_shape = input.shape, call.shape
    if rank == 1:
        weight = weight[:, :, None]
        before, step, spread = (0, before[1]), (1, step[1]), (1, spread[1])
        in_shape, out_shape = (in_shape[0], 1, in_shape[1]), (out_shape[0], 1, out_shape[1])
    return TransposedConvolution(
        name=call.name,
        inputs=(input.name,),
        shape=call.shape,
        where=call.where,
        weight=real(weight),
        bias=real(bias, call.shape[0]),
        in_shape=in_shape,
        out_shape=out_shape,
        stride=step,
        padding=before,
        dilation=spread,
        groups=groups,
    )


def _lower(node: TransposedConvolution, operands: tuple[Affine, ...]) -> Affine:
    result = operands[0].through(node.map()).shifted(node.bias[:, None, None])
    return result.viewed(node.shape)


_PARAMETERS = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")

CONV_TRANSPOSE = LayerRule(
    build=_build,
    node=TransposedConvolution,
    lower=_lower,
    modules={
        "torch.nn.ConvTranspose1d": (*_PARAMETERS, "padding_mode"),
        "torch.nn.ConvTranspose2d": (*_PARAMETERS, "padding_mode"),
    },
    functions={
        "torch.nn.functional.conv_transpose1d": ("input", *_PARAMETERS),
        "torch.nn.functional.conv_transpose2d": ("input", *_PARAMETERS),
    },
    macs=lambda node: node.map().dense_macs,
)
