"""Permuted axes: transposition, channel shuffle, pixel shuffle and its reverse."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, axis_of
from lapilli.compiler.linear import Conv, ConvTransposed, LinearMap, Sparse, frozen, identity


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Permute(Node):
    """Axis i of the result, or of what it is a view of, is axis axes[i] of the operand.

    in_shape: a view of the operand.
    """

    in_shape: Shape
    axes: tuple[int, ...]

    def map(self) -> LinearMap:
        """1x1 convolution where the last axes stay and only channels move, else a matrix."""
        moved = [a for a in self.axes if self.in_shape[a] > 1]  # axes of one are views
        if moved == sorted(moved):
            return identity(self.in_shape)
        fixed = 0
        for axis, last in zip(reversed(moved), sorted(moved, reverse=True), strict=True):
            if axis != last or fixed == 2:
                break
            fixed += 1
        sizes = [self.in_shape[a] for a in sorted(moved)]
        plane = tuple(sizes[len(sizes) - fixed :])
        channels = math.prod(sizes) // math.prod(plane)
        source = np.arange(math.prod(sizes)).reshape(self.in_shape).transpose(self.axes).reshape(-1)
        if not fixed:
            places = (np.ones(len(source)), source, np.arange(len(source) + 1))
            out_shape = tuple(self.in_shape[a] for a in self.axes)
            return Sparse.from_matrix(sp.csr_matrix(places), self.in_shape, out_shape)
        image = (channels, *(1,) * (2 - fixed), *plane)
        order = source.reshape(channels, -1)[:, 0] // math.prod(plane)
        weight = order[:, None] == np.arange(channels)
        return Conv(frozen(weight[:, :, None, None], np.float64), image, image)


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class PixelShuffle(Node):
    """Blocks of factor x factor pixels from as many channels, or back (unshuffle).

    in_shape (C * factor**2, H, W) to (C, H * factor, W * factor).
    """

    in_shape: Shape
    factor: int
    back: bool

    def map(self) -> LinearMap:
        """A grouped (transposed) convolution: each channel is one place in the block."""
        factor, form = self.factor, Conv if self.back else ConvTransposed
        channels = self.in_shape[0] if self.back else self.shape[0]
        places = np.eye(factor * factor).reshape(-1, 1, factor, factor)
        return form(
            frozen(np.tile(places, (channels, 1, 1, 1))),
            self.in_shape,
            self.shape,
            stride=(factor, factor),
            groups=channels,
        )


def _permute(call: Call, *, input: Operand, dims: Any) -> Node:
    wanted = dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims
    rank = len(input.shape) + 1
    axes = [int(d) % rank for d in wanted]
    if axes[0] != 0:
        raise call.refuse(
            "images are independent of each other",
            f"dimension {axes[0]} as the first",
            "the batch as the first dimension",
            "Do not move the batch dimension.",
        )
    return _node(call, input, input.shape, tuple(a - 1 for a in axes[1:]))


def _transpose(call: Call, *, input: Operand, dim0: int, dim1: int) -> Node:
    first, second = (axis_of(call, d, input.shape) for d in (dim0, dim1))
    axes = list(range(len(input.shape)))
    axes[first], axes[second] = second, first
    return _node(call, input, input.shape, tuple(axes))


def _move(call: Call, *, input: Operand, source: Any, destination: Any) -> Node:
    rank = len(input.shape) + 1
    start, end = (
        [int(d) % rank for d in ((dims,) if isinstance(dims, int) else dims)]
        for dims in (source, destination)
    )
    order = [axis for axis in range(rank) if axis not in start]
    for place, axis in sorted(zip(end, start, strict=True)):
        order.insert(place, axis)
    return _permute(call, input=input, dims=tuple(order))


def _channel_shuffle(call: Call, *, input: Operand, groups: int) -> Node:
    channels, *plane = input.shape
    view = (groups, channels // groups, *plane)
    return _node(call, input, view, (1, 0, *range(2, len(view))))


def _node(call: Call, operand: Operand, in_shape: Shape, axes: tuple[int, ...]) -> Node:
    return Permute(
        name=call.name,
        inputs=(operand.name,),
        shape=call.shape,
        where=call.where,
        in_shape=in_shape,
        axes=axes,
    )


def _pixel_shuffle(call: Call, *, input: Operand, upscale_factor: int) -> Node:
    return _blocks(call, input, upscale_factor, back=False)


def _pixel_unshuffle(call: Call, *, input: Operand, downscale_factor: int) -> Node:
    return _blocks(call, input, downscale_factor, back=True)


def _blocks(call: Call, operand: Operand, factor: int, *, back: bool) -> Node:
    _three(call, operand)
    return PixelShuffle(
        name=call.name,
        inputs=(operand.name,),
        shape=call.shape,
        where=call.where,
        in_shape=operand.shape,
        factor=factor,
        back=back,
    )


def _depth_to_space(call: Call, *, input: Operand, blocksize: int, mode: str = "DCR") -> Node:
    if mode == "CRD":  # PyTorch's order
        return _blocks(call, input, blocksize, back=False)
    channels, height, width = _three(call, input)
    view = (blocksize, blocksize, channels // blocksize**2, height, width)
    return _node(call, input, view, (2, 3, 0, 4, 1))


def _space_to_depth(call: Call, *, input: Operand, blocksize: int) -> Node:
    channels, height, width = _three(call, input)
    view = (channels, height // blocksize, blocksize, width // blocksize, blocksize)
    return _node(call, input, view, (2, 4, 0, 1, 3))


def _three(call: Call, operand: Operand) -> tuple[int, int, int]:
    if len(operand.shape) != 3:
        raise call.refuse(
            "pixel shuffling reads (C, H, W)", operand.shape, "(C, H, W)", "Keep the batch axis."
        )
    return operand.shape[0], operand.shape[1], operand.shape[2]


def _lower(node: Permute | PixelShuffle, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].through(node.map()).viewed(node.shape)


_TWO = ("input", "dim0", "dim1")
_MOVED = ("input", "source", "destination")

PERMUTE = LayerRule(
    build=_permute,
    node=Permute,
    lower=_lower,
    functions={"torch.permute": ("input", "**dims")},
    methods={"permute": ("input", "**dims")},
    aten={"permute": ("input", "**dims")},
    onnx={"Transpose": ("input", "perm=dims")},
)
TRANSPOSE = LayerRule(
    build=_transpose,
    functions={"torch.transpose": _TWO, "torch.swapaxes": _TWO, "torch.swapdims": _TWO},
    methods={"transpose": _TWO, "swapaxes": _TWO, "swapdims": _TWO},
    aten={"transpose": _TWO, "swapaxes": _TWO, "swapdims": _TWO},
)
MOVE = LayerRule(
    build=_move,
    functions={"torch.movedim": _MOVED, "torch.moveaxis": _MOVED},
    methods={"movedim": _MOVED, "moveaxis": _MOVED},
    aten={"movedim": _MOVED, "moveaxis": _MOVED},
)
CHANNEL_SHUFFLE = LayerRule(
    build=_channel_shuffle,
    modules={"torch.nn.ChannelShuffle": ("groups",)},
    functions={"torch.nn.functional.channel_shuffle": ("input", "groups")},
    aten={"channel_shuffle": ("input", "groups"), "native_channel_shuffle": ("input", "groups")},
)
PIXEL_SHUFFLE = LayerRule(
    build=_pixel_shuffle,
    node=PixelShuffle,
    lower=_lower,
    modules={"torch.nn.PixelShuffle": ("upscale_factor",)},
    functions={"torch.nn.functional.pixel_shuffle": ("input", "upscale_factor")},
    aten={"pixel_shuffle": ("input", "upscale_factor")},
)
PIXEL_UNSHUFFLE = LayerRule(
    build=_pixel_unshuffle,
    modules={"torch.nn.PixelUnshuffle": ("downscale_factor",)},
    functions={"torch.nn.functional.pixel_unshuffle": ("input", "downscale_factor")},
    aten={"pixel_unshuffle": ("input", "downscale_factor")},
)
DEPTH_TO_SPACE = LayerRule(build=_depth_to_space, onnx={"DepthToSpace": ("input",)})
SPACE_TO_DEPTH = LayerRule(build=_space_to_depth, onnx={"SpaceToDepth": ("input",)})
