"""Interpolation to another size, nearest and (bi)linear: maps that weigh rows and columns apart.

Source: torch.nn.functional.interpolate's documentation; the order of float32 operations that
decides ties of "nearest" is that of PyTorch 2 (aten/src/ATen/native/UpSample.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, LayerRule, Operand
from lapilli.compiler.layers.separable import separable_map
from lapilli.compiler.linear import Array, LinearMap
from lapilli.compiler.numerics import round_down


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Interpolate(Node):
    """Every pixel is a weighted sum of input pixels; one (out, in) matrix per spatial axis.

    in_shape (C, H, W): the operand, or a sequence (C, L) with a height of one.
    """

    in_shape: Shape
    rows: Array
    columns: Array

    def map(self) -> LinearMap:
        """A depthwise transposed convolution where all stamps are alike, else a matrix."""
        return separable_map(self.in_shape, self.rows, self.columns)


_MODES = ("nearest", "nearest-exact", "linear", "bilinear")


def _interpolate(
    call: Call,
    *,
    input: Operand,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Node:
    if mode not in _MODES or antialias:
        raise call.refuse(
            "images are resized by nearest or bilinear interpolation",
            f"mode {mode}{', antialias' if antialias else ''}",
            ", ".join(_MODES),
            "Use mode='bilinear', or adaptive_avg_pool2d in place of mode='area'.",
        )
    rank = len(input.shape) - 1
    if rank not in (1, 2):
        raise call.refuse(
            "interpolation reads (C, L) or (C, H, W)", input.shape, "(C, H, W)", "Drop an axis."
        )
    factors = (scale_factor,) * rank if isinstance(scale_factor, (int, float)) else scale_factor
    given = factors is not None and not recompute_scale_factor
    matrices = [
        _axis(mode, bool(align_corners), inner, outer, 1.0 / factor if given else None)
        for inner, outer, factor in zip(
            input.shape[1:], call.shape[1:], factors if given else (None,) * rank, strict=True
        )
    ]
    return Interpolate(
        name=call.name,
        inputs=(input.name,),
        shape=call.shape,
        where=call.where,
        in_shape=input.shape if rank == 2 else (input.shape[0], 1, input.shape[1]),
        rows=matrices[0] if rank == 2 else np.ones((1, 1)),
        columns=matrices[-1],
    )


def _axis(mode: str, align_corners: bool, size: int, out: int, pace: float | None) -> Array:
    """(out, size) weights along one axis; pace: input pixels per output pixel where given."""
    if out == size and mode != "nearest-exact":  # torch ignores what is left of a factor
        return np.eye(size)
    if out == 2 * size and mode == "nearest":  # here too
        pace = 0.5
    matrix = np.zeros((out, size))
    places = np.arange(out)
    if mode.startswith("nearest"):
        step = np.float32(size) / np.float32(out) if pace is None else np.float32(pace)
        shift = np.float32(0.5 if mode == "nearest-exact" else 0.0)
        nearest = round_down((places.astype(np.float32) + shift) * step)
        matrix[places, np.minimum(nearest, size - 1)] = 1.0
        return matrix
    if align_corners:
        read = places * ((size - 1) / (out - 1) if out > 1 else 0.0)
    else:
        read = np.maximum((places + 0.5) * (size / out if pace is None else pace) - 0.5, 0.0)
    low = np.minimum(round_down(read), size - 1)
    high = np.minimum(low + 1, size - 1)
    np.add.at(matrix, (places, low), 1.0 - (read - low))
    np.add.at(matrix, (places, high), read - low)
    return matrix


def _lower(node: Interpolate, operands: tuple[Affine, ...]) -> Affine:
    return operands[0].through(node.map()).viewed(node.shape)


_MODULE = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
_RESIZE = ("size", "scale_factor", "mode", "align_corners")

INTERPOLATE = LayerRule(
    build=_interpolate,
    node=Interpolate,
    lower=_lower,
    modules={
        "torch.nn.Upsample": _MODULE,
        "torch.nn.UpsamplingNearest2d": _RESIZE,
        "torch.nn.UpsamplingBilinear2d": _RESIZE,
    },
    functions={
        "torch.nn.functional.interpolate": ("input", *_MODULE, "antialias"),
    },
)
