"""Views and slices: no arithmetic, only which unit is read where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.axiswise import axiswise, selection
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, Parts, axis_of
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


def getitem(call: Call, *, input: Operand | Parts, index: Any) -> Node:
    """The node of x[index]; also a part of a split."""
    if isinstance(input, Parts):
        return _part(call, input, index)
    ranges = _ranges(index, input.shape)
    if ranges is None:
        raise call.refuse(
            "a selection is the same for every image",
            f"x[{index}]",
            "x[:, a:b:c, ...], x[:, i], and one list or mask x[:, [i, j]] without numbers beside",
            "Keep the whole batch; select along one axis after the other.",
        )
    regular = [r for r in ranges if isinstance(r, range)]
    if len(regular) == len(ranges):
        return select(call, input, tuple(r.start for r in regular), regular)
    read = enumerate(zip(ranges, input.shape, strict=True))
    return axiswise(call, input, {a: selection(r, n) for a, (r, n) in read if r != range(n)})


def _part(call: Call, parts: Parts, index: int) -> Node:
    ranges = [range(size) for size in parts.operand.shape]
    first = sum(parts.sizes[:index])
    ranges[parts.axis] = range(first, first + parts.sizes[index])
    return select(call, parts.operand, tuple(r.start for r in ranges), ranges)


def _ranges(index: Any, shape: Shape) -> list[range | list[int]] | None:
    """What `index` reads along each axis of an image; None where it depends on more than that."""
    items = [_listed(i) for i in (index if isinstance(index, tuple) else (index,))]
    kinds = [type(i) for i in items]
    if not set(kinds) <= set(_INDICES) or (
        list in kinds and kinds.count(list) + kinds.count(int) > 1
    ):
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
    return [_read(item, size) for size, item in zip(shape, kept, strict=True)]


def _listed(item: Any) -> Any:
    """A list of places for a list, an array or a mask of one axis; all else as it is."""
    if isinstance(item, _INDICES[:-1]) or np.ndim(item) != 1:
        return item
    places = np.asarray(item)
    return (np.flatnonzero(places) if places.dtype == bool else places).tolist()


def _read(item: Any, size: int) -> range | list[int]:
    if isinstance(item, list):
        return [place % size for place in item]
    return range(size)[item] if isinstance(item, slice) else range(size)[item:][:1]


_INDICES = (int, slice, type(None), type(Ellipsis), list)


def select(call: Call, operand: Operand, start: tuple[int, ...], ranges: list[range]) -> Window:
    """The node that reads as far as `ranges` from `start` on along each axis."""
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


def _slice_along(
    call: Call,
    *,
    input: Operand,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Node | Operand:
    """x[start:end:step] along one dimension; the whole of one is the tensor itself."""
    if call.shape == input.shape and step == 1:
        return input
    item = range(input.shape[axis_of(call, dim, input.shape)])[slice(start, end, step)]
    return along(call, input, dim, item)


def _select(call: Call, *, input: Operand, dim: int, index: int) -> Node:
    size = input.shape[axis_of(call, dim, input.shape)]
    return along(call, input, dim, range(size)[index:][:1])


def _narrow(call: Call, *, input: Operand, dim: int, start: int, length: int) -> Node:
    size = input.shape[axis_of(call, dim, input.shape)]
    return along(call, input, dim, range(size)[start:][:length])


def along(call: Call, operand: Operand, dim: int, item: range) -> Node:
    """The node that reads `item` along one dimension of a tensor (the batch is 0)."""
    ranges = [range(size) for size in operand.shape]
    ranges[axis_of(call, dim, operand.shape)] = item
    return select(call, operand, tuple(r.start for r in ranges), ranges)


def _onnx_gather(call: Call, *, input: Operand, indices: Any, axis: int = 0) -> Node:
    if np.ndim(indices) > 1:
        raise call.refuse(
            "a selection is along one axis",
            f"indices of shape {np.shape(indices)}",
            "one index, or a list of them",
            "Write the selection as slices, or with one index per place.",
        )
    places, along_axis = np.asarray(indices), axis_of(call, axis, input.shape)
    if places.ndim:
        matrix = selection(places % input.shape[along_axis], input.shape[along_axis])
        return axiswise(call, input, {along_axis: matrix})
    return along(call, input, axis, range(input.shape[along_axis])[int(places) :][:1])


def _onnx_slice(
    call: Call, *, input: Operand, starts: Any, ends: Any, axes: Any = None, steps: Any = None
) -> Node | Operand:
    dims = range(len(starts)) if axes is None else [int(axis) for axis in axes]
    paces = [1] * len(starts) if steps is None else [int(step) for step in steps]
    ranges = [range(size) for size in input.shape]
    for dim, start, end, pace in zip(dims, starts, ends, paces, strict=True):
        if dim % (len(ranges) + 1) == 0 and (start, pace) == (0, 1):
            continue  # the whole batch, or its size would show
        axis = axis_of(call, dim, input.shape)
        size = input.shape[axis]
        # A huge negative end means before the first, which Python's slices write as None.
        stop = None if pace < 0 and end < -size else int(end)
        ranges[axis] = ranges[axis][int(start) : stop : pace]
    if ranges == [range(size) for size in input.shape]:
        return input
    if any(r.step < 0 for r in ranges):  # backwards: no window does that
        read = enumerate(zip(ranges, input.shape, strict=True))
        return axiswise(call, input, {a: selection(r, n) for a, (r, n) in read if r != range(n)})
    return select(call, input, tuple(r.start for r in ranges), ranges)


def _lower_reshape(node: Reshape, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].viewed(node.shape)


def _lower_window(node: Window, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].through(node.map()).viewed(node.shape)


_DIMS = ("input", "start_dim", "end_dim")
_NARROW = ("input", "dim", "start", "length")
_SELECT = ("input", "dim", "index")

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
        "torch.unflatten": ("input", "dim", "sizes"),
        "torch.atleast_2d": ("input",),
        "torch.atleast_3d": ("input",),
    },
    methods={
        "flatten": _DIMS,
        "unflatten": ("input", "dim", "*sizes"),
        "view": ("input", "*shape"),
        "view_as": ("input", "other"),
        "reshape": ("input", "*shape"),
        "reshape_as": ("input", "other"),
        "squeeze": ("input", "dim"),
        "unsqueeze": ("input", "dim"),
    },
    aten={
        **dict.fromkeys(
            ("view", "reshape", "_unsafe_view", "view_as", "reshape_as"), ("input", "*shape")
        ),
        **dict.fromkeys(("atleast_1d", "atleast_2d", "atleast_3d"), ("input",)),
        **dict.fromkeys(("flatten", "squeeze", "unsqueeze", "unflatten"), ("input", "*dims")),
    },
    onnx=dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), ("input", "*shape")),
)
SLICE = LayerRule(
    build=getitem,
    node=Window,
    lower=_lower_window,
    functions={"operator.getitem": ("input", "index")},
)
SLICE_ALONG = LayerRule(
    build=_slice_along,
    aten={"slice": ("input", "dim", "start", "end", "step")},
)
SELECT = LayerRule(
    build=_select,
    functions={"torch.select": _SELECT},
    methods={"select": _SELECT},
    aten={"select": _SELECT},
)
NARROW = LayerRule(
    build=_narrow,
    functions={"torch.narrow": _NARROW},
    methods={"narrow": _NARROW},
    aten={"narrow": _NARROW},
)
ONNX_SLICE = LayerRule(
    build=_onnx_slice, onnx={"Slice": ("input", "starts", "ends", "axes", "steps")}
)
ONNX_GATHER = LayerRule(build=_onnx_gather, onnx={"Gather": ("input", "indices")})
