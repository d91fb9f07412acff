"""Padding with constants, reflections, copies of the border, or the opposite side."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.axiswise import axiswise, selection
from lapilli.compiler.layers.rule import Call, LayerRule, Operand
from lapilli.compiler.layers.shape import select

Pairs = tuple[tuple[int, int], ...]
"""What is added before and after, for each axis; negative amounts crop."""


def border(mode: str, pairs: Pairs, shape: Shape) -> dict[int, sp.csr_matrix]:
    """The matrices (out, in) that pad axes of `shape`; torch.nn.functional.pad's documentation."""
    return {
        axis: selection(_read(mode, np.arange(-before, size + after), size), size)
        for axis, (size, (before, after)) in enumerate(zip(shape, pairs, strict=True))
        if before or after
    }


def _read(mode: str, places: Any, size: int) -> Any:
    """The input that each place of the padded axis shows."""
    if mode == "circular":
        return places % size
    inside = np.clip(places, 0, size - 1)
    return 2 * inside - places if mode == "reflect" else inside


def check_mode(call: Call, mode: str, pairs: Pairs) -> None:
    """Refuse what PyTorch does not document."""
    if mode not in MODES or min(n for pair in pairs for n in pair) < 0:
        raise call.refuse(
            "padding repeats what is in the image",
            f"{mode} by {pairs}",
            f"{', '.join(MODES)}; cropping where constant",
            "Crop with a slice of its own.",
        )


MODES = ("reflect", "replicate", "circular")


def _pad(
    call: Call, *, input: Operand, pad: Any, mode: str = "constant", value: float | None = None
) -> Node:
    axes = len(input.shape)
    # torch counts pairs from the last axis.
    pairs = [(int(a), int(b)) for a, b in zip(pad[0::2], pad[1::2], strict=True)]
    if any(a or b for a, b in pairs[axes:]):
        raise call.refuse(
            "padding is within one image", tuple(pad), "no padding of the batch", "Pad C, H, W."
        )
    pairs = [(0, 0)] * (axes - len(pairs)) + pairs[axes - 1 :: -1]
    mode = {"edge": "replicate", "wrap": "circular"}.get(mode, mode)  # as ONNX says
    if mode == "constant":
        return _constant(call, input, tuple(pairs), float(value or 0))
    check_mode(call, mode, tuple(pairs))
    return axiswise(call, input, border(mode, tuple(pairs), input.shape))


def _constant(call: Call, operand: Operand, pairs: Pairs, value: float) -> Node:
    if not np.isfinite(value):
        raise call.refuse("constants are finite", value, "finite numbers", "Correct the constant.")
    if value == 0:
        start = tuple(-before for before, _ in pairs)
        return select(call, operand, start, [range(size) for size in call.shape])
    shift = np.full(call.shape, value)
    shift[tuple(_inside(*sizes) for sizes in zip(pairs, operand.shape, strict=True))] = 0.0
    matrices = {
        axis: selection(np.arange(-before, size + after), size)
        for axis, ((before, after), size) in enumerate(zip(pairs, operand.shape, strict=True))
        if before or after
    }
    return axiswise(call, operand, matrices, shift=shift)


def _inside(pair: tuple[int, int], size: int) -> slice:
    return slice(max(pair[0], 0), max(pair[0] + size, 0))


def _onnx_pad(
    call: Call,
    *,
    input: Operand,
    pads: Any,
    value: Any = 0,
    axes: Any = None,
    mode: str = "constant",
) -> Node:
    rank, given = len(input.shape) + 1, [int(n) for n in pads]
    whole = [(0, 0)] * rank
    dims = range(rank) if axes is None else [int(axis) % rank for axis in axes]
    for dim, before, after in zip(
        dims, given[: len(given) // 2], given[len(given) // 2 :], strict=True
    ):
        whole[dim] = (before, after)
    torch_order = [n for pair in reversed(whole) for n in pair]
    number = float(np.asarray(0 if value is None else value).reshape(()))
    return _pad(call, input=input, pad=torch_order, mode=mode, value=number)


def _constant_pad(call: Call, *, input: Operand, pad: Any, value: float = 0.0) -> Node:
    return _pad(call, input=input, pad=pad, value=value)


def _fill_pad(call: Call, *, input: Operand, padding: Any, value: float = 0.0) -> Node:
    return _pad(call, input=input, pad=padding, value=value)


def _reflection_pad(call: Call, *, input: Operand, padding: Any) -> Node:
    return _pad(call, input=input, pad=padding, mode="reflect")


def _replication_pad(call: Call, *, input: Operand, padding: Any) -> Node:
    return _pad(call, input=input, pad=padding, mode="replicate")


def _circular_pad(call: Call, *, input: Operand, padding: Any) -> Node:
    return _pad(call, input=input, pad=padding, mode="circular")


_MODULE = ("padding",)
_FILLED = ("padding", "value")

PAD = LayerRule(
    build=_pad,
    functions={"torch.nn.functional.pad": ("input", "pad", "mode", "value")},
    aten={"pad": ("input", "pad", "mode", "value")},
)
CONSTANT_PAD = LayerRule(build=_constant_pad, aten={"constant_pad_nd": ("input", "pad", "value")})
FILL_PAD = LayerRule(
    build=_fill_pad,
    modules={
        "torch.nn.ConstantPad1d": _FILLED,
        "torch.nn.ConstantPad2d": _FILLED,
        "torch.nn.ZeroPad1d": _MODULE,
        "torch.nn.ZeroPad2d": _MODULE,
    },
)
REFLECTION_PAD = LayerRule(
    build=_reflection_pad,
    modules={"torch.nn.ReflectionPad1d": _MODULE, "torch.nn.ReflectionPad2d": _MODULE},
    aten=dict.fromkeys(("reflection_pad1d", "reflection_pad2d"), ("input", "padding")),
)
REPLICATION_PAD = LayerRule(
    build=_replication_pad,
    modules={"torch.nn.ReplicationPad1d": _MODULE, "torch.nn.ReplicationPad2d": _MODULE},
    aten=dict.fromkeys(("replication_pad1d", "replication_pad2d"), ("input", "padding")),
)
CIRCULAR_PAD = LayerRule(
    build=_circular_pad,
    modules={"torch.nn.CircularPad1d": _MODULE, "torch.nn.CircularPad2d": _MODULE},
)
ONNX_PAD = LayerRule(build=_onnx_pad, onnx={"Pad": ("input", "pads", "value", "axes")})
