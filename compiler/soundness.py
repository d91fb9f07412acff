"""What a netlist from a file must hold before anything computes with it.

`netlist.verify` proves the integer contract, but it computes with the arrays, so their shapes,
their indices and the magnitudes of their numbers come first. Everything here is cheap: nothing is
allocated that is larger than the file's own arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import numpy as np

from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import Source
from lapilli.compiler.storage import refuse

MAX_NEURONS = 2**26
"""Neurons of one population, and values of one padded plane: 512 MB as int64."""
MAX_STEPS = 2**20
MAX_INTEGER = 2**32
"""Magnitude of weights and parameters; states have 24 bits, so this is far above use."""
MAX_DRIVE = 2**61
"""Magnitudes that sum up to less than this cannot wrap in the proof's int64 arithmetic."""
MAX_TAPS = 2**16
MAX_RANK = 8


def check(netlist: Netlist, where: str) -> None:
    """Raise ArtifactError unless `netlist.verify` can compute with every number of `netlist`."""
    _bounded(netlist.steps, 1, MAX_STEPS, f"{where}/steps")
    populations = {}
    for i, population in enumerate(netlist.populations):
        place = f"{where}/populations/{i:04d}"
        _check_population(population, place)
        populations[population.name] = population
    drives = dict.fromkeys(populations, 0)
    for i, connection in enumerate(netlist.connections):
        place = f"{where}/connections/{i:04d}"
        for end in (connection.source, connection.target):
            if end not in populations:
                raise refuse(place, "joins populations that exist", end, "a population's name")
        _check_connection(connection, populations[connection.target], place)
        source = populations[connection.source]
        drives[connection.target] += _largest_drive(connection, source, netlist.steps)
        if drives[connection.target] > MAX_DRIVE:
            raise refuse(
                place, "drives fit 61 bits", f"up to {drives[connection.target]}", MAX_DRIVE
            )


def _check_population(p: Population, where: str) -> None:
    if not p.name or not p.name.isprintable():
        raise refuse(f"{where}/name", "is a name", ascii(p.name), "printable, not empty")
    where = f"{where} ({p.name})"
    _check_shape(p.shape, f"{where}/shape")
    for name in ("state_scale", "count_scale", "count_offset"):
        _broadcasts(getattr(p, name), p.shape, f"{where}/{name}")
    for field in fields(p.neuron):
        value = getattr(p.neuron, field.name)
        place = f"{where}/neuron/{field.name}"
        if isinstance(value, np.ndarray):
            if value.dtype != np.int64:
                raise refuse(place, "parameters are 64-bit", value.dtype, "int64")
            if field.name in p.neuron.LEADING:
                if not value.shape[:1] or not value.size:
                    raise refuse(place, "has an axis of its own first", value.shape, "(1.., ...)")
                _broadcasts(value[0], p.shape, place)
            else:
                _broadcasts(value, p.shape, place)
            value = (int(value.min()), int(value.max()))
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int):
                _bounded(number, -MAX_INTEGER, MAX_INTEGER, place)
    source = p.neuron if isinstance(p.neuron, Source) else None
    low, high = p.neuron.payload() if source is None else (source.low, source.high)
    if low > high:
        raise refuse(f"{where}/neuron", "sends an interval of payloads", (low, high), "low <= high")


def _check_connection(c: Connection, target: Population, where: str) -> None:
    where = f"{where} ({c.source} -> {c.target})"
    _bounded(c.exponent, 0, 60, f"{where}/exponent")
    _bounded(c.delay, 0, MAX_INTEGER, f"{where}/delay")
    _bounded(c.synaptic_delay, 0, MAX_INTEGER, f"{where}/synaptic_delay")
    _check_shape(c.map.in_shape, f"{where}/map/in_shape")
    _check_shape(c.map.out_shape, f"{where}/map/out_shape")
    FORM_CHECKS[type(c.map)](c.map, f"{where}/map")
    if c.map.weight.size:
        low, high = int(c.map.weight.min()), int(c.map.weight.max())
        for number in (low, high):
            _bounded(number, -MAX_INTEGER, MAX_INTEGER, f"{where}/map/weight")
    channels = {(), (1,), target.shape[:1], c.map.out_shape[:1]}
    if c.weight_scale.shape not in channels:
        raise refuse(
            f"{where}/weight_scale",
            "is shared or one per channel of the outputs",
            c.weight_scale.shape,
            sorted(channels),
        )


def _largest_drive(c: Connection, source: Population, steps: int) -> int:
    """An upper bound, in Python integers, of what the connection adds up to in one window."""
    weight = c.map.weight
    peak = max(abs(int(weight.min())), abs(int(weight.max()))) if weight.size else 0
    payload = max(abs(bound) for bound in source.neuron.payload()) * steps
    total = max(abs(bound) for bound in source.neuron.window_total(steps))
    return (peak * c.map.in_size * max(payload, total)) << c.exponent


def _check_diagonal(m: Diagonal, where: str) -> None:
    _broadcasts(m.weight, m.in_shape, f"{where}/weight")
    _sizes(m.out_size, m.in_size, where, "a diagonal map has as many outputs as inputs")


def _check_dense(m: Dense, where: str) -> None:
    _sizes(m.weight.shape, (m.out_size, m.in_size), f"{where}/weight", "(outputs, inputs)")


def _check_dense_part(m: DensePart, where: str) -> None:
    if m.weight.ndim != 2 or not m.weight.size:
        raise refuse(f"{where}/weight", "is (outputs, inputs read)", m.weight.shape, "two axes")
    _bounded(m.first, 0, m.in_size - 1, f"{where}/first")
    _bounded(m.run.stop, 1, m.in_size, f"{where}/first: the last input read and one more")
    _sizes(m.weight.shape[0], m.out_size, f"{where}/weight", "one row per output")


def _check_conv(m: Conv, where: str) -> None:
    _check_geometry(m, "(O, C / groups, kH, kW)", where)
    expected = (m.out_shape[0], m.in_shape[0] // m.groups, *m.kernel)
    _sizes(m.weight.shape, expected, f"{where}/weight", "(O, C / groups, kH, kW)")
    # An engine pads the input by these margins, so a stride is bounded by the plane it spans.
    plane = m.in_shape[0]
    for axis, (before, after) in enumerate(m.margins()):
        plane *= m.in_shape[axis + 1] + max(before, 0) + max(after, 0)
    _bounded(plane, 1, MAX_NEURONS, f"{where}: input values, padding included")


def _check_conv_transposed(m: ConvTransposed, where: str) -> None:
    _check_geometry(m, "(C, O / groups, kH, kW)", where)
    expected = (m.in_shape[0], m.out_shape[0] // m.groups, *m.kernel)
    _sizes(m.weight.shape, expected, f"{where}/weight", "(C, O / groups, kH, kW)")
    # An engine writes the whole plane before it cuts.
    plane = m.out_shape[0] * m.extent(0) * m.extent(1)
    _bounded(plane, 1, MAX_NEURONS, f"{where}: output values, those cut off included")


def _check_geometry(m: Conv | ConvTransposed, axes: str, where: str) -> None:
    if len(m.in_shape) != 3 or len(m.out_shape) != 3:
        raise refuse(where, "shapes are (C, H, W)", (m.in_shape, m.out_shape), "three axes each")
    for name, low in (("stride", 1), ("dilation", 1), ("padding", -MAX_NEURONS)):
        for number in getattr(m, name):
            _bounded(number, low, MAX_NEURONS, f"{where}/{name}")
    _bounded(m.groups, 1, m.in_shape[0], f"{where}/groups")
    if m.in_shape[0] % m.groups or m.out_shape[0] % m.groups:
        found = f"{m.groups} groups, channels {m.in_shape[0]} -> {m.out_shape[0]}"
        raise refuse(f"{where}/groups", "groups divide the channels", found, "a divisor of both")
    if m.weight.ndim != 4:
        raise refuse(f"{where}/weight", f"is {axes}", m.weight.shape, "four axes")
    _bounded(math.prod(m.kernel), 1, MAX_TAPS, f"{where}/weight: kernel taps")


def _check_sparse(m: Sparse, where: str) -> None:
    for name in ("columns", "starts"):
        if getattr(m, name).dtype not in (np.int32, np.int64):
            raise refuse(
                f"{where}/{name}", "indices are int32 or int64", getattr(m, name).dtype, "either"
            )
    _sizes(m.starts.shape, (m.out_size + 1,), f"{where}/starts", "one per output and one more")
    _sizes(m.columns.shape, (m.weight.size,), f"{where}/columns", "one per weight")
    _sizes(m.weight.shape, (m.weight.size,), f"{where}/weight", "a list")
    ends = (int(m.starts[0]), int(m.starts[-1]))
    _sizes(ends, (0, m.weight.size), f"{where}/starts", "the first and the last row's end")
    if (m.starts[1:] < m.starts[:-1]).any():
        row = int(np.argmax(m.starts[1:] < m.starts[:-1]))
        raise refuse(f"{where}/starts", "rows follow each other", f"row {row} ends early", "order")
    if not m.columns.size:
        return
    low, high = int(m.columns.min()), int(m.columns.max())
    if low < 0 or high >= m.in_size:
        raise refuse(f"{where}/columns", "name inputs", f"{low}..{high}", f"0..{m.in_size - 1}")
    falls = m.columns[1:] <= m.columns[:-1]
    inner = m.starts[1:-1]
    falls[inner[(inner > 0) & (inner < m.columns.size)] - 1] = False
    if falls.any():
        raise refuse(
            f"{where}/columns",
            "are sorted and unique in each row",
            f"entry {int(np.argmax(falls)) + 1} does not rise",
            "rising columns",
        )


FORM_CHECKS: Final[dict[type[LinearMap], Callable[[Any, str], None]]] = {
    Diagonal: _check_diagonal,
    Dense: _check_dense,
    DensePart: _check_dense_part,
    Conv: _check_conv,
    ConvTransposed: _check_conv_transposed,
    Sparse: _check_sparse,
}
"""One check per form, total over linear.FORMS."""


def _check_shape(shape: Shape, where: str) -> None:
    good = len(shape) <= MAX_RANK and all(size >= 1 for size in shape)
    if not good or math.prod(shape) > MAX_NEURONS:
        raise refuse(where, "is a shape", shape, f"up to {MAX_RANK} sizes, {MAX_NEURONS} in all")


def _broadcasts(values: Array, shape: Shape, where: str) -> None:
    aligned = zip(values.shape[::-1], shape[::-1], strict=False)
    if values.ndim > len(shape) or any(have not in (1, want) for have, want in aligned):
        raise refuse(where, "broadcasts to the population's shape", values.shape, shape)


def _sizes(found: object, expected: object, where: str, rule: str) -> None:
    if found != expected:
        raise refuse(where, f"has the right size: {rule}", found, expected)


def _bounded(number: int, low: int, high: int, where: str) -> None:
    if not low <= number <= high:
        raise refuse(where, "is in range", number, f"{low}..{high}")
