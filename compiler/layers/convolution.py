"""Conv1d, Conv2d, ConvTranspose1d and ConvTranspose2d."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, pair, real
from lapilli.compiler.linear import Array, Conv, ConvTransposed, frozen

_Sizes = int | tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Convolution(Node):
    """in_shape (C, H, W); out_shape (O, H', W'): in 1-D, (C, L) and (O, L') with a height of one.

    bias (O,); no bias is zeros.
    """

    FORM: ClassVar[type[Conv] | type[ConvTransposed]]

    weight: Array
    bias: Array
    in_shape: Shape
    out_shape: Shape
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def map(self) -> Conv | ConvTransposed:
        """The convolution without its bias."""
        return self.FORM(
            frozen(self.weight),
            self.in_shape,
            self.out_shape,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(_Convolution):
    """weight (O, C / groups, kH, kW); padding (top, left) of zeros."""

    FORM = Conv


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class TransposedConvolution(_Convolution):
    """weight (C, O / groups, kH, kW); padding (top, left) cut off."""

    FORM = ConvTransposed


def _build(
    call: Call,
    *,
    input: Operand,
    weight: Array,
    bias: Array | None = None,
    stride: _Sizes = 1,
    padding: _Sizes | str = 0,
    dilation: _Sizes = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Node:
    if padding_mode != "zeros":
        raise call.refuse(
            "padding is with zeros", padding_mode, "zeros", "Use padding_mode='zeros'."
        )
    spread, taps = pair(dilation), pair(weight.shape[2:])
    if padding == "same":  # torch puts the odd zero after the image
        before = (spread[0] * (taps[0] - 1) // 2, spread[1] * (taps[1] - 1) // 2)
    else:
        before = (0, 0) if isinstance(padding, str) else pair(padding)  # "valid" pads nothing
    return _made(Conv2d, call, input, weight, bias, pair(stride), before, spread, groups)


def _build_transposed(
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
    numbers = pair(stride), pair(padding), pair(dilation)
    return _made(TransposedConvolution, call, input, weight, bias, *numbers, groups)


def _made(
    kind: type[_Convolution],
    call: Call,
    input: Operand,
    weight: Array,
    bias: Array | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Node:
    rank = weight.ndim - 2
    if len(input.shape) != rank + 1:
        axes = "(C, L)" if rank == 1 else "(C, H, W)"
        what = "convolution" if kind is Conv2d else "transposed convolution"
        raise call.refuse(
            f"a {rank}-D {what} reads {axes}", input.shape, axes, "Keep the batch axis."
        )
    in_shape, out_shape = input.shape, call.shape
    if rank == 1:
        weight = weight[:, :, None]
        stride, padding, dilation = (1, stride[1]), (0, padding[1]), (1, dilation[1])
        in_shape, out_shape = (in_shape[0], 1, in_shape[1]), (out_shape[0], 1, out_shape[1])
    return kind(
        name=call.name,
        inputs=(input.name,),
        shape=call.shape,
        where=call.where,
        weight=real(weight),
        bias=real(bias, out_shape[0]),
        in_shape=in_shape,
        out_shape=out_shape,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


def _lower(node: _Convolution, operands: tuple[Affine, ...]) -> Affine:
    result = operands[0].through(node.map()).shifted(node.bias[:, None, None])
    return result.viewed(node.shape)


_PARAMETERS = ("weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")

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

CONV_TRANSPOSE = LayerRule(
    build=_build_transposed,
    node=TransposedConvolution,
    lower=_lower,
    modules={
        "torch.nn.ConvTranspose1d": (*_TRANSPOSED, "padding_mode"),
        "torch.nn.ConvTranspose2d": (*_TRANSPOSED, "padding_mode"),
    },
    functions={
        "torch.nn.functional.conv_transpose1d": ("input", *_TRANSPOSED),
        "torch.nn.functional.conv_transpose2d": ("input", *_TRANSPOSED),
    },
    macs=lambda node: node.map().dense_macs,
)
