"""Interpolation to another size: maps that weigh rows and columns apart.

Source: torch.nn.functional.interpolate's documentation; the order of float32 operations that
decides ties of "nearest" is that of PyTorch 2 (aten/src/ATen/native/UpSample.h).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from lapilli.compiler.ir import Node
from lapilli.compiler.layers.plane import PlaneNode, on_plane, weighted_sums
from lapilli.compiler.layers.rule import Call, LayerRule, Operand
from lapilli.compiler.layers.shape import getitem
from lapilli.compiler.layers.windows import adaptive_axis
from lapilli.compiler.linear import Array
from lapilli.compiler.numerics import round_down


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Interpolate(PlaneNode):
    """Every pixel is a weighted sum of input pixels; one (out, in) matrix per spatial axis."""


_MODES = ("nearest", "nearest-exact", "linear", "bilinear", "bicubic", "area")


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
    rank = len(input.shape) - 1
    if rank not in (1, 2):
        raise call.refuse(
            "interpolation reads (C, L) or (C, H, W)", input.shape, "(C, H, W)", "Drop an axis."
        )
    factors = (scale_factor,) * rank if isinstance(scale_factor, (int, float)) else scale_factor
    given = factors is not None and not recompute_scale_factor
    how = f"{mode}, antialias" if antialias else mode
    matrices = [
        _axis(how, bool(align_corners), inner, outer, 1.0 / factor if given else None)
        for inner, outer, factor in zip(
            input.shape[1:], call.shape[1:], factors if given else (None,) * rank, strict=True
        )
    ]
    return on_plane(Interpolate, call, input, matrices)


def _resized(
    call: Call,
    *,
    input: Operand,
    size: Any,
    mode: str,
    align: bool | None = None,
    factors: Any = None,
    rows: float | None = None,
    columns: float | None = None,
    antialias: bool = False,
) -> Node:
    """An exported operator: one mode each; factors in a list or apart, for what torch rounds."""
    given = factors or (None if columns is None else (rows, columns)[-len(input.shape) + 1 :])
    return _interpolate(
        call,
        input=input,
        size=None if given else size,
        scale_factor=given,
        mode=mode,
        align_corners=align,
        antialias=antialias,
    )


def _nearest(call: Call, *, input: Operand, size: Any, **factors: Any) -> Node:
    return _resized(call, input=input, size=size, mode="nearest", **factors)


def _nearest_exact(call: Call, *, input: Operand, size: Any, **factors: Any) -> Node:
    return _resized(call, input=input, size=size, mode="nearest-exact", **factors)


def _bilinear(call: Call, *, input: Operand, size: Any, align: bool, **factors: Any) -> Node:
    return _resized(call, input=input, size=size, mode="bilinear", align=align, **factors)


def _onnx_resize(
    call: Call,
    *,
    input: Operand,
    roi: Any = None,
    scales: Any = None,
    sizes: Any = None,  # shows in the result's
    axes: Any = None,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    antialias: int = 0,
    **_: Any,  # of cubic interpolation, of cropping, and of sizes, that are known
) -> Node:
    rank, where = len(input.shape) + 1, coordinate_transformation_mode
    if mode not in ("nearest", "linear") or antialias or where not in _PLACES or rank > 4:
        raise call.refuse(
            "images are resized by nearest or bilinear interpolation",
            f"mode {mode}, {where}{', antialias' if antialias else ''}",
            f"nearest or linear; {', '.join(_PLACES)}",
            "Export the network with nearest or bilinear upsampling.",
        )
    factors = [1.0] * rank
    if scales is not None and np.size(scales):
        dims = range(rank) if axes is None else [int(a) % rank for a in axes]
        for dim, scale in zip(dims, np.asarray(scales, np.float64), strict=True):
            factors[dim] = float(scale)
    else:
        factors[1:] = [out / size for size, out in zip(input.shape, call.shape, strict=True)]
    if call.shape[0] != input.shape[0] or factors[:2] != [1.0, 1.0]:
        raise call.refuse(
            "images are resized along rows and columns",
            f"{input.shape} to {call.shape}",
            "the same channels",
            "Keep batch and channels.",
        )
    matrices = [
        _onnx_axis(mode, where, nearest_mode, size, out, factor)
        for size, out, factor in zip(input.shape[1:], call.shape[1:], factors[2:], strict=True)
    ]
    return on_plane(Interpolate, call, input, matrices)


_Place = Callable[[Array, float, int, int], Array]
_PLACES: dict[str, _Place] = {
    "half_pixel": lambda x, factor, size, out: (x + 0.5) / factor - 0.5,
    "pytorch_half_pixel": lambda x, factor, size, out: (
        (x + 0.5) / factor - 0.5 if out > 1 else x * 0
    ),
    "align_corners": lambda x, factor, size, out: x * ((size - 1) / (out - 1) if out > 1 else 0.0),
    "asymmetric": lambda x, factor, size, out: x / factor,
}
"""Where the input is read for pixel x of the output. Source: onnx/docs/Operators.md, Resize."""
_NEAREST: dict[str, Callable[[Array], Array]] = {
    "floor": round_down,
    "ceil": lambda x: -round_down(-x),
    "round_prefer_floor": lambda x: -round_down(0.5 - x),
    "round_prefer_ceil": lambda x: round_down(x + 0.5),
}


def _onnx_axis(mode: str, where: str, nearest: str, size: int, out: int, factor: float) -> Array:
    """(out, size) weights along one axis."""
    if mode == "nearest" and where == "asymmetric" and nearest == "floor" and out % size == 0:
        return _axis("nearest", False, size, out, None)  # PyTorch's own
    if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel") and out > 1:
        return _axis("bilinear", False, size, out, 1.0 / factor if out != size * factor else None)
    if mode == "linear" and where == "align_corners":
        return _axis("bilinear", True, size, out, None)
    read = np.asarray(_PLACES[where](np.arange(out, dtype=np.float64), factor, size, out))
    matrix, rows = np.zeros((out, size)), np.arange(out)
    if mode == "nearest":
        matrix[rows, np.clip(_NEAREST[nearest](read), 0, size - 1)] = 1.0
        return matrix
    low = round_down(read)
    np.add.at(matrix, (rows, np.clip(low, 0, size - 1)), 1.0 - (read - low))
    np.add.at(matrix, (rows, np.clip(low + 1, 0, size - 1)), read - low)
    return matrix


def _bicubic(call: Call, *, input: Operand, size: Any, align: bool, **factors: Any) -> Node:
    return _resized(call, input=input, size=size, mode="bicubic", align=align, **factors)


def _smooth(call: Call, *, input: Operand, size: Any, align: bool, **factors: Any) -> Node:
    mode = "bicubic" if "bicubic" in call.called else "bilinear"
    return _resized(call, input=input, size=size, mode=mode, align=align, antialias=True, **factors)


def _gather(call: Call, *, input: Operand, indices: Any) -> Node:
    """x[:, :, rows, columns]; rows (H, 1) with columns (W,): nearest upsampling of torch 2.3."""
    places = [slice(None) if i is None else np.asarray(i) for i in indices]
    rows, columns = [*places, None, None][2:4]
    if not (
        len(places) == len(input.shape) + 1 == 4
        and places[:2] == [slice(None)] * 2
        and isinstance(rows, np.ndarray)
        and isinstance(columns, np.ndarray)
        and (rows.shape, columns.shape) == ((call.shape[1], 1), (call.shape[2],))
    ):
        return getitem(call, input=input, index=tuple(places))
    matrices = (np.eye(input.shape[1])[rows.reshape(-1)], np.eye(input.shape[2])[columns])
    return on_plane(Interpolate, call, input, matrices)


def _axis(mode: str, align_corners: bool, size: int, out: int, pace: float | None) -> Array:
    """(out, size) weights along one axis; pace: input pixels per output pixel where given."""
    if mode == "area":
        return adaptive_axis(size, out)
    # Here torch ignores what is left of a factor, and in the other modes it does not.
    if out == size and mode not in ("nearest-exact", "bicubic"):
        return np.eye(size)
    if mode.endswith("antialias"):
        return _smoothed(mode, align_corners, size, out, pace)
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
    if mode == "bicubic":
        return _cubic(align_corners, size, out, pace)
    if align_corners:
        read = places * ((size - 1) / (out - 1) if out > 1 else 0.0)
    else:
        read = np.maximum((places + 0.5) * (size / out if pace is None else pace) - 0.5, 0.0)
    low = np.minimum(round_down(read), size - 1)
    high = np.minimum(low + 1, size - 1)
    np.add.at(matrix, (places, low), 1.0 - (read - low))
    np.add.at(matrix, (places, high), read - low)
    return matrix


def _cubic(align_corners: bool, size: int, out: int, pace: float | None) -> Array:
    """Four taps around each place; those outside read the border."""
    read = (np.arange(out) + 0.5) * (size / out if pace is None else pace) - 0.5
    if align_corners:
        read = np.arange(out) * ((size - 1) / (out - 1) if out > 1 else 0.0)
    low = round_down(read)
    matrix = np.zeros((out, size))
    for tap in range(-1, 3):
        weights = _keys(low + tap - read, -0.75)
        np.add.at(matrix, (np.arange(out), np.clip(low + tap, 0, size - 1)), weights)
    return matrix


def _keys(distance: Array, a: float) -> Array:
    """Keys 1981, cubic convolution interpolation: the weight of a tap at a distance."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _smoothed(how: str, align_corners: bool, size: int, out: int, pace: float | None) -> Array:
    """The kernel widened to the pixels that one output covers, and normalised."""
    step = size / out if pace is None else pace
    if align_corners:
        step = (size - 1) / (out - 1) if out > 1 else 0.0
    cubic, spread = how.startswith("bicubic"), max(step, 1.0)
    centre = (np.arange(out)[:, None] + 0.5) * step
    reach = (2.0 if cubic else 1.0) * spread
    low = np.maximum(round_down(centre - reach + 0.5), 0)
    high = np.minimum(round_down(centre + reach + 0.5), size)
    pixel = np.arange(size)
    distance = (pixel - centre + 0.5) / spread
    kernel = _keys(distance, -0.5) if cubic else np.maximum(1.0 - np.abs(distance), 0.0)
    matrix = np.where((pixel >= low) & (pixel < high), kernel, 0.0)
    return np.asarray(matrix / matrix.sum(axis=1, keepdims=True))


_MODULE = ("size", "scale_factor", "mode", "align_corners", "recompute_scale_factor")
_RESIZE = ("size", "scale_factor", "mode", "align_corners")

INTERPOLATE = LayerRule(
    build=_interpolate,
    node=Interpolate,
    lower=weighted_sums,
    modules={
        "torch.nn.Upsample": _MODULE,
        "torch.nn.UpsamplingNearest2d": _RESIZE,
        "torch.nn.UpsamplingBilinear2d": _RESIZE,
    },
    functions={
        "torch.nn.functional.interpolate": ("input", *_MODULE, "antialias"),
    },
)

_VEC = ("input", "size", "factors")
_ONE = ("input", "size", "columns")
_TWO = ("input", "size", "rows", "columns")

NEAREST = LayerRule(
    build=_nearest,
    aten={
        "upsample_nearest1d.vec": _VEC,
        "upsample_nearest2d.vec": _VEC,
        "upsample_nearest1d": _ONE,
        "upsample_nearest2d": _TWO,
    },
)
NEAREST_EXACT = LayerRule(
    build=_nearest_exact,
    aten={
        "_upsample_nearest_exact1d.vec": _VEC,
        "_upsample_nearest_exact2d.vec": _VEC,
        "_upsample_nearest_exact1d": _ONE,
        "_upsample_nearest_exact2d": _TWO,
    },
)
BILINEAR = LayerRule(
    build=_bilinear,
    aten={
        "upsample_linear1d.vec": ("input", "size", "align", "factors"),
        "upsample_bilinear2d.vec": ("input", "size", "align", "factors"),
        "upsample_linear1d": ("input", "size", "align", "columns"),
        "upsample_bilinear2d": ("input", "size", "align", "rows", "columns"),
    },
)
_ALIGNED = ("input", "size", "align")
BICUBIC = LayerRule(
    build=_bicubic,
    aten={
        "upsample_bicubic2d.vec": (*_ALIGNED, "factors"),
        "upsample_bicubic2d": (*_ALIGNED, "rows", "columns"),
    },
)
SMOOTH = LayerRule(
    build=_smooth,
    aten={
        **dict.fromkeys(
            ("_upsample_bilinear2d_aa.vec", "_upsample_bicubic2d_aa.vec"), (*_ALIGNED, "factors")
        ),
        **dict.fromkeys(
            ("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"), (*_ALIGNED, "rows", "columns")
        ),
    },
)
GATHER = LayerRule(
    build=_gather,
    aten=dict.fromkeys(("index", "_unsafe_index"), ("input", "indices")),
)
RESIZE = LayerRule(build=_onnx_resize, onnx={"Resize": ("input", "roi", "scales", "sizes")})
