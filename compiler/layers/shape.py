"""Views, slices and zero padding: no arithmetic, only which unit is read where."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand
from lapilli.compiler.linear import Conv, LinearMap, Sparse, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Node):
    """The same values under another shape."""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Window(Node):
    """Output o along an axis is input start + o * step, zero where that lies outside."""

    in_shape: Shape
    start: tuple[int, ...]
    step: tuple[int, ...]

    def map(self) -> LinearMap:
        """A strided 1x1 convolution for images, a sparse matrix for other shapes."""
        if len(self.in_shape) == 3:
            o, c = np.arange(self.shape[0]), np.arange(self.in_shape[0])
            weight = (self.start[0] + o[:, None] * self.step[0]) == c
            return Conv(
                frozen(weight[:, :, None, None], np.float64),
                self.in_shape,
                self.shape,
                stride=(self.step[1], self.step[2]),
                padding=(-self.start[1], -self.start[2]),
            )
        index = np.indices(self.shape).reshape(len(self.shape), -1)
        source = np.array(self.start)[:, None] + index * np.array(self.step)[:, None]
        inside = ((source >= 0) & (source < np.array(self.in_shape)[:, None])).all(axis=0)
        column = np.ravel_multi_index(tuple(source[:, inside]), self.in_shape)
        row = np.flatnonzero(inside)
        size = (math.prod(self.shape), math.prod(self.in_shape))
        matrix = sp.csr_matrix((np.ones(len(row)), (row, column)), shape=size)
        return Sparse.from_matrix(matrix, self.in_shape, self.shape)


def _reshape(call: Call, *, input: Operand, **_: Any) -> Node:  # noqa: A002
    if math.prod(call.shape) != math.prod(input.shape):
        raise call.refuse(
            "a view keeps the batch dimension first and alone",
            f"{input.shape} -> {call.shape} per image",
            "equal sizes",
            "Use x.flatten(1) or x.view(x.size(0), ...).",
        )
    return Reshape(name=call.name, inputs=(input.name,), shape=call.shape, where=call.where)


def _getitem(call: Call, *, input: Operand, index: Any) -> Node:  # noqa: A002
    items = list(index) if isinstance(index, tuple) else [index]
    if Ellipsis in [i for i in items if i is Ellipsis]:
        at = next(k for k, i in enumerate(items) if i is Ellipsis)
        missing = len(input.shape) + 1 - (len(items) - 1)
        items[at : at + 1] = [slice(None)] * missing
    plain = all(isinstance(i, slice) for i in items) and items[0] == slice(None)
    if not plain or len(items) > len(input.shape) + 1:
        raise call.refuse(
            "slices within one image, the whole batch",
            index,
            "x[:, a:b:c, ...]",
            "Write the selection as slices; index_select and masks have no lowering yet.",
        )
    ranges = [
        range(size)[item] for size, item in zip(input.shape, items[1:], strict=False)
    ]
    ranges += [range(size) for size in input.shape[len(ranges) :]]
    return Window(
        name=call.name,
        inputs=(input.name,),
        shape=call.shape,
        where=call.where,
        in_shape=input.shape,
        start=tuple(r.start for r in ranges),
        step=tuple(r.step for r in ranges),
    )


def _pad(
    call: Call,
    *,
    input: Operand,  # noqa: A002
    pad: Any,
    mode: str = "constant",
    value: float | None = None,
) -> Node:
    if mode != "constant" or value not in (None, 0, 0.0):
        raise call.refuse(
            "padding is with zeros", f"{mode}, value {value}", "constant, 0", "Pad with zeros."
        )
    amounts = [int(n) for n in pad]
    before = amounts[0::2][::-1]
    axes = len(input.shape)
    if len(before) > axes and any(amounts[2 * axes :]):
        raise call.refuse(
            "padding is within one image", pad, "no padding of the batch", "Pad C, H, W only."
        )
    before = [0] * (axes - len(before)) + before[-axes:]
    return Window(
        name=call.name,
        inputs=(input.name,),
        shape=call.shape,
        where=call.where,
        in_shape=input.shape,
        start=tuple(-n for n in before),
        step=(1,) * axes,
    )


def _zero_pad(call: Call, *, input: Operand, padding: Any) -> Node:  # noqa: A002
    return _pad(call, input=input, pad=padding)


def _lower_reshape(node: Reshape, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].viewed(node.shape)


def _lower_window(node: Window, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].through(node.map())


_DIMS = ("input", "start_dim", "end_dim")

RESHAPE = LayerRule(
    build=_reshape,
    node=Reshape,
    lower=_lower_reshape,
    modules={"torch.nn.Flatten": (), "torch.nn.Unflatten": ()},
    functions={
        "torch.flatten": _DIMS,
        "torch.reshape": ("input", "shape"),
        "torch.squeeze": ("input", "dim"),
        "torch.unsqueeze": ("input", "dim"),
    },
    methods={
        "flatten": _DIMS,
        "view": ("input", "*shape"),
        "reshape": ("input", "*shape"),
        "squeeze": ("input", "dim"),
        "unsqueeze": ("input", "dim"),
    },
)
SLICE = LayerRule(
    build=_getitem,
    node=Window,
    lower=_lower_window,
    functions={"operator.getitem": ("input", "index")},
)
PAD = LayerRule(
    build=_pad, functions={"torch.nn.functional.pad": ("input", "pad", "mode", "value")}
)
ZERO_PAD = LayerRule(build=_zero_pad, modules={"torch.nn.ZeroPad2d": ("padding",)})
