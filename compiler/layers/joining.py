"""Concatenation and stacking, and their reverse: splits. No arithmetic, only places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, Parts, axis_of, real
from lapilli.compiler.layers.shape import window_map
from lapilli.compiler.linear import Array


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Concatenate(Node):
    """Tensors one after the other along `axis`.

    sizes: of each input along it; starts: where each begins; constants: the joint tensor with the
    inputs' places zero, broadcasts to shape.
    """

    axis: int
    sizes: tuple[int, ...]
    starts: tuple[int, ...]
    constants: Array


def _concatenate(call: Call, *, tensors: Any, dim: int = 0, axis: int | None = None) -> Node:
    along = axis_of(call, dim if axis is None else axis, call.shape)
    return _joined(call, [_batchless(call, t) for t in tensors], along)


def _hstack(call: Call, *, tensors: Any) -> Node:
    return _joined(call, [_batchless(call, t) for t in tensors], 0)


def _stack(call: Call, *, tensors: Any, dim: int = 0) -> Node:
    along = axis_of(call, dim, call.shape)
    parts = [_batchless(call, t) for t in tensors]
    widened = [
        Operand(part.name, _widened(part.shape, along, call.shape))
        if isinstance(part, Operand)
        else part.reshape(_widened(part.shape, along, call.shape))
        for part in parts
    ]
    return _joined(call, widened, along)


def _widened(shape: Shape, axis: int, result: Shape) -> Shape:
    """The shape with the new axis of one; one number per image has no other axes."""
    return (*shape[:axis], 1, *shape[axis:]) if len(shape) < len(result) else (1,)


def _batchless(call: Call, part: Any) -> Operand | Array:
    """A part of the result without its batch dimension."""
    if isinstance(part, Operand):
        return part
    array = real(part)
    if not np.isfinite(array).all():
        raise call.refuse(
            "constants are finite", "NaN or infinity", "finite numbers", "Correct the constant."
        )
    if (array != array[:1]).any():
        raise call.refuse(
            "a constant is the same for every image",
            f"values that differ between {len(array)} images",
            "one value for all images",
            "Make it the same for every image, for example with expand.",
        )
    return array[0] if array.ndim > 1 else array[:1]


def _joined(call: Call, parts: list[Operand | Array], axis: int) -> Node:
    constants = np.zeros(call.shape)
    inputs, sizes, starts, begin = [], [], [], 0
    for part in parts:
        size = part.shape[axis] if len(part.shape) == len(call.shape) else 0  # torch skips (0,)
        if isinstance(part, Operand):
            inputs.append(part.name)
            sizes.append(size)
            starts.append(begin)
        elif size:
            constants[(slice(None),) * axis + (slice(begin, begin + size),)] = part
        begin += size
    return Concatenate(
        name=call.name,
        inputs=tuple(inputs),
        shape=call.shape,
        where=call.where,
        axis=axis,
        sizes=tuple(sizes),
        starts=tuple(starts),
        constants=constants if constants.any() else np.zeros(()),
    )


def _lower(node: Concatenate, operands: tuple[Affine, ...]) -> Affine:
    """The sum of the parts, each among zeros: one map per population, of its share of inputs."""
    result = Affine(node.shape, (), np.zeros(()))
    for operand, size, begin in zip(operands, node.sizes, node.starts, strict=True):
        shape = list(node.shape)
        shape[node.axis] = size
        start = [0] * len(shape)
        start[node.axis] = -begin
        place = window_map(tuple(shape), node.shape, tuple(start), (1,) * len(shape))
        result = result.plus(operand.through(place).viewed(node.shape))
    return result.shifted(node.constants)


def _split(call: Call, *, input: Operand, dim: int = 0, **_: Any) -> Parts:
    axis = axis_of(call, dim, input.shape)
    return Parts(input, axis, tuple(part[axis] for part in call.parts))


def _unbind(call: Call, *, input: Operand, dim: int = 0) -> Parts:
    return Parts(input, axis_of(call, dim, input.shape), (1,) * len(call.parts))


_JOIN = ("tensors", "dim")
_SIZES = ("input", "split_size_or_sections", "dim")

CONCATENATE = LayerRule(
    build=_concatenate,
    node=Concatenate,
    lower=_lower,
    functions={"torch.cat": _JOIN, "torch.concat": _JOIN, "torch.concatenate": _JOIN},
    aten={"cat": _JOIN, "concat": _JOIN, "concatenate": _JOIN},
    onnx={"Concat": ("**tensors",)},
)
HSTACK = LayerRule(
    build=_hstack,
    functions={"torch.hstack": ("tensors",), "torch.column_stack": ("tensors",)},
    aten={"hstack": ("tensors",), "column_stack": ("tensors",)},
)
STACK = LayerRule(build=_stack, functions={"torch.stack": _JOIN}, aten={"stack": _JOIN})
SPLIT = LayerRule(
    build=_split,
    splits=True,
    functions={
        "torch.split": _SIZES,
        "torch.chunk": ("input", "chunks", "dim"),
        "torch.tensor_split": _SIZES,
    },
    methods={
        "split": _SIZES,
        "split_with_sizes": _SIZES,
        "chunk": ("input", "chunks", "dim"),
        "tensor_split": _SIZES,
    },
    aten={
        **dict.fromkeys(("split", "split_with_sizes", "tensor_split"), _SIZES),
        "chunk": ("input", "chunks", "dim"),
    },
    onnx={"Split": ("input", "*split", "axis=dim")},
)
UNBIND = LayerRule(
    build=_unbind,
    splits=True,
    functions={"torch.unbind": ("input", "dim")},
    methods={"unbind": ("input", "dim")},
    aten={"unbind": ("input", "dim")},
)
