"""Netlist -> the layers that a `.net` file can hold: one road of LIF layers, each conv or dense.

netx joins every layer to the one before it and knows two synapses. Its convolution takes weights
as they are; its dense layer rescales them, which loses some one-signed matrices and fails on zeros
(`netx_weights`). A matrix that would not survive is written as a convolution whose kernel covers
the whole input: (out, C, H, W) over (C, H, W) gives (out, 1, 1), with no rescaling. Then the layer
before it has to have three axes, too, so a flat one becomes such a convolution itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.interchange.netx_weights import effective, scaled_up, truncated
from lapilli.compiler.linear import (
    Array,
    Conv,
    Dense,
    Diagonal,
    LinearMap,
    Shape,
    frozen,
    per_channel,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import LIF, HardResetIF, Readout
from lapilli.compiler.numerics import Int64Array

MAX_MATRIX = 2**22
"""Largest matrix that a map without another form is written out as."""
LOW, HIGH = -256, 254
"""Weights that a synapse of both signs holds; a convolution of netx would take any, no chip."""
_NEXT = "lapilli compile MODEL --method rate --reset zero --profile netx"


@final
@dataclass(frozen=True, eq=False)
class Window:
    """A convolution as netx reads it: weight (O, C / groups, kH, kW), zeros on both sides alike."""

    weight: Int64Array
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


@final
@dataclass(frozen=True, eq=False)
class Layer:
    """One LIF layer and the synapses into it.

    synapse: a convolution, or a matrix (out, in); form: (C, H, W), or (N,) from a matrix;
    reads: the form that a convolution reads, None for a matrix;
    flatten: does what the matrix reads have three axes, to be flattened in C order?
    """

    population: Population
    synapse: Window | Int64Array
    form: Shape
    reads: Shape | None
    flatten: bool = False


@final
@dataclass(frozen=True, eq=False)
class Chain:
    """source: the input; form: of the input, as the first layer wants it; layers: in order."""

    source: Population
    form: Shape
    layers: tuple[Layer, ...]


def chain(netlist: Netlist) -> Chain:
    """The layers of a netlist that is verified.

    Raises NetlistError that names what no `.net` file can carry.
    """
    source, *others = netlist.populations
    drafts = []
    before = source
    for p in others:
        connection = _only_connection(netlist, p, before)
        drafts.append(_draft(connection, p))
        before = p
    return _joined(source, drafts)


def refuse(where: str, rule: str, found: object, allowed: object, remedy: str = "") -> NetlistError:
    """The error for what the format cannot carry."""
    rule = f"in a .net file {rule}"
    remedy = remedy or "Run it with lapilli run --backend lava, which has no such limit."
    return NetlistError(where, rule, found=found, allowed=allowed, remedy=remedy)


def _only_connection(netlist: Netlist, p: Population, before: Population) -> Connection:
    drives = netlist.into(p.name)
    if any(c.recurrent for c in drives):
        raise refuse(
            p.name, "no layer that we write drives itself", "a recurrent connection", "none"
        )
    if len(drives) > 1:
        raise refuse(
            p.name,
            "nothing is added or concatenated: netx has no second input to a layer",
            f"{len(drives)} connections, from {', '.join(c.source for c in drives)}",
            "one connection",
            "Use a network without residual sums or concatenation, or lapilli run --backend lava.",
        )
    (c,) = drives
    if c.source != before.name:
        raise refuse(
            p.name,
            "every layer is driven by the one written before it: there are no branches",
            f"driven by {c.source}",
            before.name,
        )
    if c.delay:
        raise refuse(
            f"{c.source} -> {p.name}",
            "no synapse that we write has a delay: netx ignores delays in convolutions",
            f"{c.delay} steps",
            "0",
        )
    return c


def _draft(c: Connection, p: Population) -> Layer:
    """The layer with its synapses as a convolution, if they are one, else as a matrix."""
    _check_neuron(p)
    where = f"{c.source} -> {c.target}"
    window = _window(c.map)
    if window is not None:
        scaled = replace(window, weight=_in_range(where, window.weight, c.exponent))
        return Layer(p, scaled, _three_axes(c.map.out_shape), _three_axes(c.map.in_shape))
    sizes = c.map.out_size, c.map.in_size
    if not isinstance(c.map, Dense) and math.prod(sizes) > MAX_MATRIX:
        raise refuse(
            where,
            "a map that is no convolution is written out as a full matrix",
            f"{type(c.map).__name__} of {sizes[0]} x {sizes[1]} weights",
            f"{MAX_MATRIX} weights",
            "Use convolutions with zeros outside the input and average pooling.",
        )
    matrix = c.map.weight if isinstance(c.map, Dense) else c.map.to_sparse().toarray()
    return Layer(p, _in_range(where, matrix, c.exponent), (p.size,), None)


def _check_neuron(p: Population) -> None:
    neuron = p.neuron
    model = type(neuron).__name__
    if not isinstance(neuron, (HardResetIF, LIF, Readout)):
        raise refuse(
            f"{p.name} ({model})",
            "a neuron is a leaky integrator that resets to zero and sends 0 or 1",
            model,
            "HardResetIF, LIF, and a Readout at the end",
            f"Compile again: {_NEXT}.",
        )
    if not isinstance(neuron, LIF) and np.asarray(neuron.initial).any():
        raise refuse(
            f"{p.name} ({model})",
            "a window starts with an empty membrane",
            f"starting charges up to {np.abs(neuron.initial).max()}",
            "0",
            f"Compile again: {_NEXT}.",
        )
    if not isinstance(neuron, Readout) and np.ptp(neuron.threshold):
        raise refuse(
            f"{p.name} ({model})",
            "a layer has one threshold",
            f"{neuron.threshold.min()}..{neuron.threshold.max()}",
            "the same for all neurons",
            f"Compile again without per-channel thresholds: {_NEXT}.",
        )


def _in_range(where: str, weight: Array, exponent: int) -> Int64Array:
    """The weights times 2**exponent, for which the format has no place."""
    scaled: Int64Array = weight.astype(np.int64) << exponent
    low, high = int(scaled.min(initial=0)), int(scaled.max(initial=0))
    if low < LOW or high > HIGH:
        raise refuse(
            where,
            "weights have no exponent of their own",
            f"{low}..{high}, exponent {exponent} included",
            f"{LOW}..{HIGH}",
            f"Compile again: {_NEXT}.",
        )
    return scaled


def _three_axes(shape: Shape) -> Shape:
    """A feature map of one axis of places is one row high; a flat layer is all channels."""
    return {1: (*shape, 1, 1), 2: (shape[0], 1, shape[-1])}.get(len(shape), shape)


def _window(linear: LinearMap) -> Window | None:
    """The map as a convolution of netx, or None if it is none."""
    if isinstance(linear, Conv):
        return _symmetric(linear)
    if isinstance(linear, Diagonal) and linear.in_shape == linear.out_shape != (linear.in_size,):
        channels = per_channel(linear.weight, linear.in_shape)
        if channels is not None:
            count = linear.in_shape[0]
            weight = np.broadcast_to(channels, (count,)).reshape(-1, 1, 1, 1)
            return Window(weight, (1, 1), (0, 0), (1, 1), count)
    return None


def _symmetric(conv: Conv) -> Window:
    """With as many zeros before as behind, and outputs as many as fit: by taps that weigh nothing.

    A tap in front moves the window by one dilation, a tap at the end makes the last one not fit.
    """
    axes = [_padding_and_taps(conv, axis) for axis in (0, 1)]
    if None in axes:
        conv = _undilated(conv)
        axes = [_padding_and_taps(conv, axis) for axis in (0, 1)]
    (top, rows), (left, columns) = (axis for axis in axes if axis is not None)
    weight = np.pad(conv.weight, [(0, 0), (0, 0), rows, columns])
    return Window(weight, conv.stride, (top, left), conv.dilation, conv.groups)


def _padding_and_taps(conv: Conv, axis: int) -> tuple[int, tuple[int, int]] | None:
    """Padding on both sides, and taps to add in front and behind; None where dilation forbids it.

    With f taps in front and b behind, (room + (f - b) * dilation) // stride + 1 outputs fit.
    """
    stride, dilation, padding = conv.stride[axis], conv.dilation[axis], conv.padding[axis]
    room = conv.in_shape[axis + 1] + 2 * padding - dilation * (conv.kernel[axis] - 1) - 1
    lacking = stride * (conv.out_shape[axis + 1] - 1) - room
    least, most = -(-lacking // dilation), (lacking + stride - 1) // dilation
    if least > most:
        return None
    more = min(max(least, 0), most)
    front = max(more, -(padding // dilation), 0)
    return padding + front * dilation, (front, front - more)


def _undilated(conv: Conv) -> Conv:
    """The same convolution, the gaps between its taps filled with zeros."""
    (kh, kw), (dy, dx) = conv.kernel, conv.dilation
    shape = (*conv.weight.shape[:2], (kh - 1) * dy + 1, (kw - 1) * dx + 1)
    weight = np.zeros(shape, conv.weight.dtype)
    weight[:, :, ::dy, ::dx] = conv.weight
    return replace(conv, weight=frozen(weight), dilation=(1, 1))


def survives(matrix: Int64Array) -> bool:
    """Do netx and Lava run the matrix that is written? And without a warning of numpy's?"""
    if matrix.max() == 0:  # all zero overflows, and one zero beside negatives divides by zero
        return False
    scaled = scaled_up(matrix)
    runs = effective(truncated(scaled.weight, scaled.bits), scaled.up)
    return runs is not None and np.array_equal(runs, matrix)


def _joined(source: Population, drafts: list[Layer]) -> Chain:
    """The layers with forms that fit each other, from the last one back to the input."""
    layers: list[Layer] = []
    wanted: Shape | None = None  # the form that the layer behind needs; None: any
    before = [_three_axes(source.shape), *(_three_axes(draft.form) for draft in drafts[:-1])]
    for draft, form in zip(reversed(drafts), reversed(before), strict=True):
        layer = draft
        if isinstance(layer.synapse, np.ndarray) and (wanted or not survives(layer.synapse)):
            layer = _covering(layer, layer.synapse, form)
        if wanted is not None and layer.form != wanted:
            raise refuse(
                layer.population.name,
                "no layer reshapes: what a full matrix computes is flat, and a convolution needs "
                "rows and columns",
                f"{layer.form} where the next layer reads {wanted}",
                f"{wanted}, from a convolution",
                "Use dense layers behind the convolutions only.",
            )
        layers.insert(0, layer)
        wanted = layer.reads
    form = wanted or (source.size,)
    behind = [form, *(layer.form for layer in layers[:-1])]
    flattened = [
        replace(layer, flatten=layer.reads is None and len(shape) > 1)
        for layer, shape in zip(layers, behind, strict=True)
    ]
    return Chain(source, form, tuple(flattened))


def _covering(layer: Layer, matrix: Int64Array, form: Shape) -> Layer:
    """The same layer with its matrix as a convolution whose kernel covers the input."""
    window = Window(matrix.reshape(-1, *form), (1, 1), (0, 0), (1, 1), 1)
    return replace(layer, synapse=window, reads=form, form=(len(matrix), 1, 1))
