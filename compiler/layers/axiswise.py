"""Layers that weigh each axis by itself: sums and means over axes, repetition, flips, broadcasts.

One matrix per axis says it all; what the whole is as a map of populations is decided in one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.onnx_reductions import onnx_reduction
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, axis_of
from lapilli.compiler.layers.tensor_product import Matrix, tensor_product
from lapilli.compiler.linear import Array


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class AxisWise(Node):
    """Every axis multiplied by a matrix of its own, and `shift` added.

    in_shape: a view of the operand; matrices: (out, in) for each axis of it, None where an axis
    stays as it is; shape: a view of the result; shift broadcasts to the result before the view.
    macs: multiply-accumulates of the float layer.
    """

    in_shape: Shape
    matrices: tuple[Matrix, ...]
    shift: Array
    macs: int = 0

    @property
    def out_shape(self) -> Shape:
        """One size per axis of in_shape."""
        return tuple(
            size if matrix is None else int(matrix.shape[0])
            for size, matrix in zip(self.in_shape, self.matrices, strict=True)
        )


def axiswise(
    call: Call,
    operand: Operand,
    matrices: dict[int, sp.csr_matrix],
    *,
    shift: Array | None = None,
    in_shape: Shape | None = None,
    macs: int = 0,
) -> Node:
    """The node that multiplies the given axes by matrices (out, in)."""
    shape = operand.shape if in_shape is None else in_shape
    return AxisWise(
        name=call.name,
        inputs=(operand.name,),
        shape=call.shape,
        where=call.where,
        in_shape=shape,
        matrices=tuple(matrices.get(axis) for axis in range(len(shape))),
        shift=np.zeros(()) if shift is None else shift,
        macs=macs,
    )


def selection(read: Sequence[int] | Array, size: int) -> sp.csr_matrix:
    """The matrix whose output o is input read[o], or zero where there is no such input."""
    places = np.asarray(read, np.int64)
    inside = np.flatnonzero((places >= 0) & (places < size))
    ones = np.ones(len(inside))
    return sp.csr_matrix((ones, (inside, places[inside])), shape=(len(places), size))


def broadcast(form: Affine, shape: Shape) -> Affine:
    """The form with its axes of one repeated, and new ones before, as numpy broadcasts."""
    if form.shape == shape:
        return form
    inner = (1,) * (len(shape) - len(form.shape)) + form.shape
    matrices = tuple(
        None if size == wanted else selection([0] * wanted, 1)
        for size, wanted in zip(inner, shape, strict=True)
    )
    return through_axes(form, inner, matrices).viewed(shape)


def check_broadcast(call: Call, operand: Operand) -> None:
    """Refuse an operand whose broadcast to the call's result would mix images.

    One number per image has no axis after the batch, and may not be told from a vector of one.
    """
    alike = len(operand.shape) == len(call.shape) and operand.shape != (1,)
    if operand.shape != call.shape and not alike:
        raise call.refuse(
            "images are independent of each other",
            f"{operand.shape} broadcast to {call.shape}",
            "as many axes as the result; not one number per image",
            "Add the missing axes with unsqueeze, after the batch; repeat vectors of one.",
        )


def through_axes(form: Affine, in_shape: Shape, matrices: tuple[Matrix, ...]) -> Affine:
    """The form after one matrix per axis of its view `in_shape`."""
    return form.through(*tensor_product(in_shape, matrices))


def _lower(node: AxisWise, operands: tuple[Affine, ...]) -> Affine:
    result = through_axes(operands[0], node.in_shape, node.matrices)
    return result.viewed(node.out_shape).shifted(node.shift).viewed(node.shape)


def axes_of(call: Call, dim: Any, shape: Shape) -> list[int]:
    """Axes of an image that `dim` names; none at all is all of them, which mixes the images."""
    dims = (dim,) if isinstance(dim, int) else tuple(dim or ())
    return sorted({axis_of(call, d, shape) for d in dims or (0,)})


def reduced(call: Call, operand: Operand, dim: Any, *, mean: bool) -> Node:
    """The sum or mean over dimensions of a tensor."""
    axes = axes_of(call, dim, operand.shape)
    count = math.prod(operand.shape[axis] for axis in axes) if mean else 1
    rows = {axis: sp.csr_matrix(np.ones((1, operand.shape[axis]))) for axis in axes}
    rows[axes[0]] = rows[axes[0]] / count
    return axiswise(call, operand, rows)


def _sum(
    call: Call, *, input: Operand, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Node:
    return reduced(call, input, dim, mean=False)


def _flip(call: Call, *, input: Operand, dims: Any) -> Node:
    axes = axes_of(call, _numbers(dims), input.shape)
    return axiswise(call, input, {a: _picked(input, a, np.s_[::-1]) for a in axes})


def _picked(operand: Operand, axis: int, item: slice) -> sp.csr_matrix:
    size = operand.shape[axis]
    return selection(np.arange(size)[item], size)


def _roll(call: Call, *, input: Operand, shifts: Any, dims: Any = None) -> Node:
    steps = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    where = (dims,) if isinstance(dims, int) else tuple(dims or ())
    read = {a: np.arange(size) for a, size in enumerate(input.shape)}
    for step, dim in zip(steps, where or (0,) * len(steps), strict=True):
        axis = axis_of(call, dim, input.shape)
        read[axis] = np.roll(read[axis], step)
    moved = {axis_of(call, dim, input.shape) for dim in where}
    return axiswise(call, input, {a: selection(read[a], input.shape[a]) for a in moved})


def _repeat(call: Call, *, input: Operand, repeats: Any) -> Node:
    """repeat and tile: numbers for the last axes; with more of them than axes, new ones come."""
    counts = _numbers(repeats)
    rank = len(input.shape) + 1
    counts = (1,) * (rank - len(counts)) + counts
    if len(counts) > rank or counts[0] != 1:
        raise call.refuse(
            "images are independent of each other",
            f"{call.called}{counts} of {rank - 1} axes and the batch",
            "as many numbers as axes, the first of them 1",
            "Add axes with unsqueeze, and leave the batch as it is.",
        )
    matrices = {
        axis: selection(np.tile(np.arange(size), count), size)
        for axis, (size, count) in enumerate(zip(input.shape, counts[1:], strict=True))
        if count != 1
    }
    return axiswise(call, input, matrices)


def _tile(call: Call, *, input: Operand, dims: Any) -> Node:
    return _repeat(call, input=input, repeats=dims)


def _repeat_interleave(
    call: Call, *, input: Operand, repeats: Any, dim: int | None = None, output_size: Any = None
) -> Node:
    axis = axis_of(call, 0 if dim is None else dim, input.shape)
    size = input.shape[axis]
    return axiswise(call, input, {axis: selection(np.repeat(np.arange(size), repeats), size)})


def _expand(call: Call, *, input: Operand, **_: Any) -> Node:
    check_broadcast(call, input)
    wanted = enumerate(zip(input.shape, call.shape, strict=True))
    ones = {axis: selection([0] * out, 1) for axis, (size, out) in wanted if size != out}
    return axiswise(call, input, ones)


def _index_select(call: Call, *, input: Operand, dim: int, index: Any) -> Node:
    axis = axis_of(call, dim, input.shape)
    size = input.shape[axis]
    return axiswise(call, input, {axis: selection(np.asarray(index).reshape(-1) % size, size)})


def _numbers(values: Any) -> tuple[int, ...]:
    """(1, 2), ((1, 2),) and 1 are alike."""
    found = np.asarray(values, np.int64).reshape(-1)
    return tuple(found.tolist())


_REDUCE = ("input", "dim", "keepdim", "dtype")
_TIMES = ("input", "repeats", "dim")
_ROLL = ("input", "shifts", "dims")
_PICK = ("input", "dim", "index")

SUM = LayerRule(
    build=_sum,
    node=AxisWise,
    lower=_lower,
    functions={"torch.sum": _REDUCE},
    methods={"sum": _REDUCE},
    aten={"sum.dim_IntList": _REDUCE[:-1], "sum": ("input",)},
    macs=lambda node: int(node.macs),
)
FLIP = LayerRule(
    build=_flip,
    functions={"torch.flip": ("input", "dims")},
    methods={"flip": ("input", "**dims")},
    aten={"flip": ("input", "dims")},
)
ROLL = LayerRule(
    build=_roll, functions={"torch.roll": _ROLL}, methods={"roll": _ROLL}, aten={"roll": _ROLL}
)
REPEAT = LayerRule(
    build=_repeat,
    methods={"repeat": ("input", "**repeats")},
    aten={"repeat": ("input", "repeats")},
)
TILE = LayerRule(
    build=_tile,
    functions={"torch.tile": ("input", "dims")},
    methods={"tile": ("input", "**dims")},
    aten={"tile": ("input", "dims")},
    onnx={"Tile": ("input", "dims")},
)
REPEAT_INTERLEAVE = LayerRule(
    build=_repeat_interleave,
    functions={"torch.repeat_interleave": _TIMES},
    methods={"repeat_interleave": _TIMES},
    aten={"repeat_interleave": _TIMES},
)
EXPAND = LayerRule(
    build=_expand,
    functions={"torch.broadcast_to": ("input", "size")},
    methods={
        "expand": ("input", "*size"),
        "expand_as": ("input", "other"),
        "broadcast_to": ("input", "size"),
    },
    aten=dict.fromkeys(("expand", "expand_as", "broadcast_to"), ("input", "*size")),
    onnx={"Expand": ("input", "*size")},
)
INDEX_SELECT = LayerRule(
    build=_index_select,
    functions={"torch.index_select": _PICK},
    methods={"index_select": _PICK},
    aten={"index_select": _PICK},
)
ONNX_SUM = LayerRule(build=onnx_reduction(_sum), onnx={"ReduceSum": ("input", "axes")})
