"""Conv1d, Conv2d, ConvTranspose1d and ConvTranspose2d."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, final

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.axiswise import through_axes
from lapilli.compiler.layers.onnx_windows import Numbers, numbers, padding
from lapilli.compiler.layers.padding import border, check_mode
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, pair, real
from lapilli.compiler.layers.tensor_product import Matrix
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
    """weight (O, C / groups, kH, kW); padding (top, left) of zeros.

    border: one matrix (out, in) per axis that pads the operand before; in_shape is then padded.
    """

    FORM = Conv
    border: tuple[Matrix, ...] = ()


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
    spread, taps = pair(dilation), pair(weight.shape[2:])
    after = None
    if padding == "same":  # torch puts the odd zero after the image
        whole = (spread[0] * (taps[0] - 1), spread[1] * (taps[1] - 1))
        before = (whole[0] // 2, whole[1] // 2)
        after = (whole[0] - before[0], whole[1] - before[1])
    else:
        before = (0, 0) if isinstance(padding, str) else pair(padding)  # "valid" pads nothing
    made = _made(Conv2d, call, input, weight, bias, pair(stride), before, spread, groups)
    if padding_mode == "zeros" or not any(before + (after or before)):
        return made
    assert isinstance(made, Conv2d)
    return _bordered(call, made, padding_mode, after or before)


def _bordered(call: Call, node: Conv2d, mode: str, after: tuple[int, int]) -> Node:
    """The convolution that reads no zeros beside the image but what `mode` puts there."""
    end = after if len(node.shape) == 3 else (0, after[1])
    pairs = ((0, 0), (node.padding[0], end[0]), (node.padding[1], end[1]))
    check_mode(call, mode, pairs)
    found = border(mode, pairs, node.in_shape)
    sizes = tuple(a + size + b for (a, b), size in zip(pairs, node.in_shape, strict=True))
    return replace(
        node, in_shape=sizes, padding=(0, 0), border=tuple(found.get(a) for a in range(3))
    )


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
    settings = pair(stride), pair(padding), pair(dilation)
    return _made(TransposedConvolution, call, input, weight, bias, *settings, groups)


def _build_either(
    call: Call,
    *,
    input: Operand,
    weight: Array,
    bias: Array | None,
    stride: _Sizes,
    padding: _Sizes,
    dilation: _Sizes,
    transposed: bool,
    output_padding: _Sizes,
    groups: int,
) -> Node:
    kind = TransposedConvolution if transposed else Conv2d
    settings = pair(stride), pair(padding), pair(dilation)
    return _made(kind, call, input, weight, bias, *settings, groups)


def _build_onnx(
    call: Call,
    *,
    input: Operand,
    weight: Array,
    bias: Array | None = None,
    kernel_shape: Numbers = None,  # the weight's own
    strides: Numbers = None,
    dilations: Numbers = None,
    pads: Numbers = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
) -> Node:
    taps = weight.shape[2:]
    # The zeros behind an axis show in the size of the result, and that is known.
    margins = padding(call, input.shape, call.shape, taps, strides, dilations, pads, auto_pad)
    before = pair(tuple(first for first, _ in margins))
    step, spread = (pair(numbers(given, len(taps))) for given in (strides, dilations))
    return _made(Conv2d, call, input, weight, bias, step, before, spread, group)


def _build_onnx_transposed(
    call: Call,
    *,
    input: Operand,
    weight: Array,
    bias: Array | None = None,
    kernel_shape: Numbers = None,
    strides: Numbers = None,
    dilations: Numbers = None,
    pads: Numbers = None,
    auto_pad: str = "NOTSET",
    group: int = 1,
    output_padding: Numbers = None,
    output_shape: Numbers = None,
) -> Node:
    taps, rank = weight.shape[2:], weight.ndim - 2
    step, spread = numbers(strides, rank), numbers(dilations, rank)
    if output_shape or auto_pad.startswith("SAME"):
        more, cut = numbers(output_padding, rank, 0), []
        for axis in range(rank):
            whole = step[axis] * (input.shape[axis + 1] - 1) + (taps[axis] - 1) * spread[axis] + 1
            total = max(whole + more[axis] - call.shape[axis + 1], 0)
            cut.append(total // 2 if auto_pad == "SAME_UPPER" else total - total // 2)
    else:
        margins = padding(call, input.shape, call.shape, taps, step, spread, pads, auto_pad)
        cut = [first for first, _ in margins]
    settings = pair(step), pair(tuple(cut)), pair(spread)
    return _made(TransposedConvolution, call, input, weight, bias, *settings, group)


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
    form = operands[0]
    if isinstance(node, Conv2d) and node.border:
        inner = tuple(
            size if matrix is None else int(matrix.shape[1])
            for size, matrix in zip(node.in_shape, node.border, strict=True)
        )
        form = through_axes(form, inner, node.border)
    result = form.through(node.map()).shifted(node.bias[:, None, None])
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
    aten={"conv1d": ("input", *_PARAMETERS), "conv2d": ("input", *_PARAMETERS)},
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
    aten={
        "conv_transpose1d": ("input", *_TRANSPOSED),
        "conv_transpose2d": ("input", *_TRANSPOSED),
    },
    macs=lambda node: node.map().dense_macs,
)

CONVOLUTION = LayerRule(
    build=_build_either,
    aten={
        "convolution": (
            *("input", "weight", "bias", "stride", "padding", "dilation"),
            *("transposed", "output_padding", "groups"),
        )
    },
)
"""What older versions of torch export both kinds as."""

ONNX_CONVOLUTION = LayerRule(build=_build_onnx, onnx={"Conv": ("input", "weight", "bias")})
ONNX_TRANSPOSED = LayerRule(
    build=_build_onnx_transposed, onnx={"ConvTranspose": ("input", "weight", "bias")}
)
