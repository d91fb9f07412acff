"""NIR's linear nodes, applied to affine forms: each says what its node computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from lapilli.compiler.compose import Affine, compose
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.interchange.nir_file import refuse
from lapilli.compiler.linear import Array, Conv, Dense, Diagonal, LinearMap, Shape, frozen
from lapilli.compiler.numerics import half_up

MAX_DELAY = 2**12
MAX_DELAYS = 64
"""Different delays within one node; each becomes a connection of its own."""
MAX_OUTPUTS = 2**26
LARGEST = 1e30
"""Magnitude of any number in a network: far above use, and products of ten stay finite."""
ON_GRID = 1e-3
"""Steps that a delay may lie beside a whole number of steps."""
Pair = tuple[int, int]


def through(form: Affine, outer: LinearMap, where: str) -> Affine:
    """The form after a linear map. Raises InputError, naming the node, where it grows too large."""
    try:
        return form.through(outer)
    except UnsupportedOperatorError as error:
        raise refuse(where, error.rule, error.found, error.allowed, error.remedy) from error


def delayed(form: Affine, node: Any, dt: float, where: str) -> Affine:
    """The form some steps later; terms carry their delay before the population's name."""
    delay = _array(node, "delay", where) / dt
    steps = half_up(np.clip(delay, -1, MAX_DELAY + 1))
    if steps.min() < 0 or steps.max() > MAX_DELAY or len(np.unique(steps)) > MAX_DELAYS:
        found = f"{steps.min()}..{steps.max()}, {len(np.unique(steps))} different"
        allowed = f"0..{MAX_DELAY}, {MAX_DELAYS} different"
        raise refuse(where, "delays are few and not too long", found, allowed)
    if (np.abs(steps - delay) > ON_GRID).any():
        rule = "delays are whole numbers of time steps"
        bad = delay[np.abs(steps - delay) > ON_GRID].flat[0]
        raise refuse(where, rule, f"{bad:g} steps of {dt:g} s", "whole", "Choose another dt.")
    if form.bias.any():
        rule = "what is delayed are spikes"
        remedy = "Put the bias behind the delay."
        raise refuse(where, rule, "a constant is added before the delay", "no bias", remedy)
    full = _fitted(steps, form.shape, "delay", where)
    terms = []
    for value in np.unique(steps).tolist():
        mask = Diagonal(frozen((full == value).astype(np.float64)), form.shape, form.shape)
        for key, linear in form.terms:
            before, _, name = key.partition(" ")
            part = linear if steps.min() == steps.max() else compose(mask, linear)
            terms.append((f"{int(before) + value} {name}", part))
    return replace(form, terms=tuple(terms))


def _affine(form: Affine, node: Any, where: str) -> Affine:
    weight = _array(node, "weight", where)
    if weight.ndim != 2:
        rule = "a linear layer has one matrix"
        raise refuse(where, rule, f"weight of shape {weight.shape}", "(out, in)")
    _check_size(form, weight.shape[1], where)
    result = through(form, Dense(frozen(weight), form.shape, (len(weight),)), where)
    return _biased(result, node, where)


def _scale(form: Affine, node: Any, where: str) -> Affine:
    scale = _fitted(_array(node, "scale", where), form.shape, "scale", where)
    return through(form, Diagonal(frozen(scale), form.shape, form.shape), where)


def _flatten(form: Affine, node: Any, where: str) -> Affine:
    rank = len(form.shape)
    start, end = (_integer(node, name, where) for name in ("start_dim", "end_dim"))
    first, last = start % rank if -rank <= start < rank else 0, end % rank
    if not -rank <= end < rank or first > last:
        raise refuse(where, "the axes exist", f"{start}..{end} of {form.shape}", f"{rank} axes")
    middle = math.prod(form.shape[first : last + 1])
    return form.viewed((*form.shape[:first], middle, *form.shape[last + 1 :]))


def _conv2d(form: Affine, node: Any, where: str) -> Affine:
    weight = _array(node, "weight", where)
    return _conv(form, node, weight, where, 2)


def _conv1d(form: Affine, node: Any, where: str) -> Affine:
    """As a convolution of one row; what it writes has two axes again."""
    weight = _array(node, "weight", where)
    if weight.ndim == 3:
        weight = weight[:, :, np.newaxis]
    result = _conv(form, node, weight, where, 1)
    return result.viewed((result.shape[0], result.shape[2]))


def _conv(form: Affine, node: Any, weight: Array, where: str, axes: int) -> Affine:
    groups = _integer(node, "groups", where)
    if weight.ndim != 4 or groups < 1 or weight.shape[0] % groups or not weight.size:
        found = f"weight of shape {weight.shape}, {groups} groups"
        raise refuse(where, "kernels are (out, in / groups, ...)", found, "a convolution")
    channels = weight.shape[1] * groups
    form = _image(form, node, channels, where, axes)
    stride, dilation = (_pair(node, name, where, axes, 1) for name in ("stride", "dilation"))
    kernel = int(weight.shape[2]), int(weight.shape[3])
    padding, outputs = _padding(node, form.shape, kernel, stride, dilation, where, axes)
    _check_outputs(form, (weight.shape[0], *outputs), where)
    shape = (int(weight.shape[0]), *outputs)
    conv = Conv(frozen(weight), form.shape, shape, stride, padding, dilation, groups)
    return _biased(through(form, conv, where), node, where)


def _padding(
    node: Any, shape: Shape, kernel: Pair, stride: Pair, dilation: Pair, where: str, axes: int
) -> tuple[Pair, Pair]:
    """Padding (top, left) and the size of the output."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    if isinstance(node.padding, (str, bytes)):
        if node.padding in ("valid", b"valid"):
            before = (0, 0)
        elif stride == (1, 1):  # "same": an odd zero goes behind, as in PyTorch
            return ((reach[0] - 1) // 2, (reach[1] - 1) // 2), (shape[1], shape[2])
        else:
            raise refuse(where, "padding 'same' has a stride of 1", stride, "(1, 1)")
    else:
        before = _pair(node, "padding", where, axes, 0)
    room = [n + 2 * p - r for n, p, r in zip(shape[1:], before, reach, strict=True)]
    if min(room) < 0:
        raise refuse(where, "the kernel fits the image", f"{reach} on {shape[1:]}", "smaller")
    return before, (room[0] // stride[0] + 1, room[1] // stride[1] + 1)


def _pool(average: bool) -> Callable[[Affine, Any, str], Affine]:
    def apply(form: Affine, node: Any, where: str) -> Affine:
        """A convolution per channel; an average counts the padding, as PyTorch's default does."""
        if len(form.shape) != 3:
            raise refuse(where, "pooling reads (C, H, W)", form.shape, "three axes")
        kernel, stride = (_pair(node, name, where, 2, 1) for name in ("kernel_size", "stride"))
        padding, outputs = _padding(node, form.shape, kernel, stride, (1, 1), where, 2)
        channels = form.shape[0]
        _check_outputs(form, (channels, *outputs), where)
        value = 1.0 / math.prod(kernel) if average else 1.0
        if math.prod(kernel) * channels > MAX_OUTPUTS:
            raise refuse(where, "windows are not too large", kernel, MAX_OUTPUTS)
        weight = frozen(np.full((channels, 1, *kernel), value))
        conv = Conv(weight, form.shape, (channels, *outputs), stride, padding, groups=channels)
        return through(form, conv, where)

    return apply


LINEAR: Final[Mapping[str, Callable[[Affine, Any, str], Affine]]] = MappingProxyType(
    {
        "Affine": _affine,
        "Linear": _affine,
        "Scale": _scale,
        "Flatten": _flatten,
        "Conv1d": _conv1d,
        "Conv2d": _conv2d,
        "SumPool2d": _pool(average=False),
        "AvgPool2d": _pool(average=True),
    }
)
"""Linear nodes without a time."""


def _image(form: Affine, node: Any, channels: int, where: str, axes: int) -> Affine:
    """The form as (C, H, W); the node's input_shape says how to read another view."""
    shape = form.shape
    if len(shape) != axes + 1:
        declared = np.atleast_1d(
            np.asarray(node.input_shape if node.input_shape is not None else [])
        )
        shape = (channels, *(int(n) for n in declared)) if declared.dtype.kind in "iu" else ()
        if len(shape) != axes + 1 or math.prod(shape) != math.prod(form.shape):
            shape = form.shape
    if len(shape) != axes + 1 or shape[0] != channels:
        rule = "a convolution reads its channels, then its axes"
        raise refuse(where, rule, form.shape, f"({channels}, {'N' if axes == 1 else 'H, W'})")
    image = (shape[0], 1, shape[1]) if axes == 1 else shape
    return form if form.shape == image else form.viewed(image)


def _biased(form: Affine, node: Any, where: str) -> Affine:
    if not hasattr(node, "bias"):
        return form
    bias = _array(node, "bias", where)
    if bias.shape != form.shape[:1]:
        raise refuse(where, "there is a bias for each channel", bias.shape, form.shape[:1])
    return form.shifted(bias.reshape((-1,) + (1,) * (len(form.shape) - 1)))


def _check_size(form: Affine, size: int, where: str) -> None:
    if math.prod(form.shape) != size:
        raise refuse(where, "the matrix fits what it reads", form.shape, f"{size} values")


def _check_outputs(form: Affine, shape: Shape, where: str) -> None:
    if math.prod(shape) > MAX_OUTPUTS:
        raise refuse(where, "a layer is not larger", f"{shape} values", MAX_OUTPUTS)


def _array(node: Any, field: str, where: str) -> Array:
    values = np.asarray(getattr(node, field))
    if values.dtype.kind not in "fiub" or not values.size:
        raise refuse(where, f"{field} is numbers", f"{values.dtype} {values.shape}", "numbers")
    if not (np.abs(values) <= LARGEST).all():  # NaN is not
        raise refuse(where, f"{field} is finite", "NaN, or too large", f"up to {LARGEST:g}")
    return values.astype(np.float64)


def _fitted(values: Array, shape: Shape, field: str, where: str) -> Array:
    if values.size == math.prod(shape):
        return values.reshape(shape)
    try:
        return np.broadcast_to(values, shape)
    except ValueError as error:
        raise refuse(where, f"{field} fits what it scales", values.shape, shape) from error


def _integer(node: Any, field: str, where: str) -> int:
    return _integers(node, field, where, 1)[0]


def _pair(node: Any, field: str, where: str, axes: int, least: int) -> Pair:
    """(rows, columns); a single number holds for both, or for the columns of a 1-D layer."""
    values = _integers(node, field, where, axes)
    if min(values) < least or max(values) > 2**20:
        raise refuse(where, f"{field} is a size", values, f"{least} .. 2**20")
    if axes == 1:
        return (0 if field == "padding" else 1), values[0]
    return values[0], values[-1]


def _integers(node: Any, field: str, where: str, most: int) -> list[int]:
    values = np.atleast_1d(np.asarray(getattr(node, field)))
    whole = values.dtype.kind in "iu" or (
        values.dtype.kind == "f" and np.isfinite(values).all() and (values % 1 == 0).all()
    )
    if not whole or values.ndim != 1 or not 1 <= len(values) <= most:
        raise refuse(where, f"{field} is whole numbers", values, f"up to {most}")
    return [int(v) for v in values]
