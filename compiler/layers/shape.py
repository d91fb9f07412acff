"""Views, slices and zero padding: no arithmetic, only which unit is read where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, Parts
from lapilli.compiler.linear import Array, Conv, LinearMap, Sparse, frozen


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Reshape(Node):
    """The same values under another shape."""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Window(Node):
    """Output o along an axis is input start + o * step, zero where that lies outside.

    out_shape: of the window, one size per axis of in_shape; shape may be a view of it.
    """

    in_shape: Shape
    out_shape: Shape
    start: tuple[int, ...]
    step: tuple[int, ...]

    def map(self) -> LinearMap:
        """The window as a map."""
        return window_map(self.in_shape, self.out_shape, self.start, self.step)


def window_map(in_shape: Shape, out_shape: Shape, start: Shape, step: Shape) -> LinearMap:
    """Output o along an axis is input start + o * step, zero where that lies outside.

    A strided 1x1 convolution, all but the last two axes its channels; sequences (C, L) are images
    of one row; a sparse matrix for vectors.
    """
    plane = min(len(in_shape) - 1, 2)
    if plane == 0:
        read = start[0] + np.arange(out_shape[0]) * step[0]
        inside = (read >= 0) & (read < in_shape[0])
        places = (np.flatnonzero(inside), read[inside])
        matrix = sp.csr_matrix((np.ones(len(places[0])), places), shape=out_shape + in_shape)
        return Sparse.from_matrix(matrix, in_shape, out_shape)
    lead = len(in_shape) - plane
    one = (1,) * (2 - plane)  # the row of a sequence
    (height, width), (high, wide) = (*one, *in_shape[lead:]), (*one, *out_shape[lead:])
    (top, left), stride = ((0,) * (2 - plane) + start[lead:]), (*one, *step[lead:])
    picked = _picked(in_shape[:lead], out_shape[:lead], start[:lead], step[:lead])
    weight, groups = picked, 1
    if picked.shape[0] == picked.shape[1] and picked.diagonal().all():  # all channels, in order
        weight, groups = picked.diagonal()[:, None], picked.shape[0]
    return Conv(
        frozen(weight[:, :, None, None], np.float64),
        (picked.shape[1], height, width),
        (picked.shape[0], high, wide),
        stride=(stride[0], stride[1]),
        padding=(-top, -left),
        groups=groups,
    )


def _picked(in_shape: Shape, out_shape: Shape, start: Shape, step: Shape) -> Array:
    """Which input each output is, axes in C order: a matrix (out, in) of truths."""
    result = np.ones((1, 1), bool)
    for size, out, first, pace in zip(in_shape, out_shape, start, step, strict=True):
        result = np.kron(result, (first + np.arange(out)[:, None] * pace) == np.arange(size))
    return result


def _reshape(call: Call, *, input: Operand, **_: Any) -> Node:
    return Reshape(name=call.name, inputs=(input.name,), shape=call.shape, where=call.where)


def _getitem(call: Call, *, input: Operand | Parts, index: Any) -> Node:
    if isinstance(input, Parts):
        return _part(call, input, index)
    ranges = _ranges(index, input.shape)
    if ranges is None:
        raise call.refuse(
            "a selection is the same for every image, and regular",
            f"x[{index}]",
            "x[:, a:b:c, ...] and x[:, i]",
            "Keep the whole batch; write the selection as slices, not as a list or a mask.",
        )
    return _window(call, input, tuple(r.start for r in ranges), ranges)


def _part(call: Call, parts: Parts, index: int) -> Node:
    ranges = [range(size) for size in parts.operand.shape]
    first = sum(parts.sizes[:index])
    ranges[parts.axis] = range(first, first + parts.sizes[index])
    return _window(call, parts.operand, tuple(r.start for r in ranges), ranges)


def _ranges(index: Any, shape: Shape) -> list[range] | None:
    """What `index` reads along each axis of an image; None where it is no regular selection."""
    items = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(i, bool) or not isinstance(i, _INDICES) for i in items):
        return None
    used = sum(i is not None and i is not Ellipsis for i in items)
    fill = [slice(None)] * (len(shape) + 1 - used)
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = fill
    else:
        items += fill
    if items[0] != slice(None):  # the batch; x[:3] and x[0] would depend on its size
        return None
    kept = [i for i in items[1:] if i is not None]  # None adds an axis of one: a view
    return [
        range(size)[item] if isinstance(item, slice) else range(size)[item:][:1]
        for size, item in zip(shape, kept, strict=True)
    ]


_INDICES = (int, slice, type(None), type(Ellipsis))


def _window(call: Call, operand: Operand, start: tuple[int, ...], ranges: list[range]) -> Window:
    return Window(
        name=call.name,
        inputs=(operand.name,),
        shape=call.shape,
        where=call.where,
        in_shape=operand.shape,
        out_shape=tuple(len(r) for r in ranges),
        start=start,
        step=tuple(r.step for r in ranges),
    )


def _pad(
    call: Call, *, input: Operand, pad: Any, mode: str = "constant", value: float | None = None
) -> Node:
    if mode != "constant" or value not in (None, 0):
        raise call.refuse(
            "padding is with zeros", f"{mode}, value {value}", "constant, 0", "Pad with zeros."
        )
    axes = len(input.shape)
    # torch counts pairs from the last axis; negative amounts crop.
    pairs = [(int(a), int(b)) for a, b in zip(pad[0::2], pad[1::2], strict=True)]
    if any(a or b for a, b in pairs[axes:]):
        raise call.refuse(
            "padding is within one image", tuple(pad), "no padding of the batch", "Pad C, H, W."
        )
    pairs = [(0, 0)] * (axes - len(pairs)) + pairs[axes - 1 :: -1]
    sizes = [a + size + b for (a, b), size in zip(pairs, input.shape, strict=True)]
    return _window(call, input, tuple(-a for a, _ in pairs), [range(size) for size in sizes])


def _zero_pad(call: Call, *, input: Operand, padding: Any) -> Node:
    return _pad(call, input=input, pad=padding)


def _lower_reshape(node: Reshape, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].viewed(node.shape)


def _lower_window(node: Window, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].through(node.map()).viewed(node.shape)


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
