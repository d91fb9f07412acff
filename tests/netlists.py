"""Small random netlists, and their inputs, for every test that executes one.

They have what real ones have in little space: every form of linear map, strides, dilation, groups,
padding of both signs, residual sums (from the same source, too), exponents, thresholds shared, per
channel and per neuron, several outputs. `verify` holds for each.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import scipy.sparse as sp
from netlist_neurons import TIMINGS, Coding, Drive, random_neuron

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import (
    FORMS,
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
    frozen,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import NeuronModel, OrGate, Readout, Relay, SoftResetIF, Source
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.schedule import schedule

CODINGS: tuple[Coding, ...] = ("graded", "unary", "rate")
"""What the compiler makes."""
ALL_CODINGS: tuple[Coding, ...] = get_args(Coding)
"""One or more per neuron model, "train": several models, delays, a population that drives itself;
"sorted or": gates between neurons that send sorted ones."""
SHARED = frozen(1.0)


def proven(netlist: Netlist) -> Netlist:
    """The netlist with its delays as the schedule wants them and its reaches recorded."""
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    connections = tuple(dataclasses.replace(c, delay=plan.delay(c)) for c in netlist.connections)
    netlist = dataclasses.replace(netlist, connections=connections)
    populations = []
    for p in netlist.populations:
        low, high = netlist.reach(p.name)
        populations.append(dataclasses.replace(p, state_low=low, state_high=high))
    return dataclasses.replace(netlist, populations=tuple(populations))


def population(name: str, shape: Shape, neuron: NeuronModel) -> Population:
    """A population whose units are the network's own; `proven` records its reach."""
    return Population(name, shape, neuron, SHARED, SHARED, 0, 0)


def connection(
    source: str, target: str, linear_map: LinearMap, exponent: int = 0, synaptic_delay: int = 0
) -> Connection:
    """A connection whose units are the network's own; `proven` sets its delay."""
    return Connection(source, target, linear_map, exponent, 0, SHARED, synaptic_delay)


def integers(values: Any) -> Array:
    """Parameters of a neuron."""
    return frozen(values, np.int64)


def random_inputs(rng: np.random.Generator, netlist: Netlist, images: int) -> Int64Array:
    """Inputs over the whole range of the source, (images, *shape), or (images, steps, *shape)."""
    source = netlist.source
    stepwise = (netlist.steps,) if source.stepwise else ()
    shape = (images, *stepwise, *netlist.input.shape)
    return rng.integers(source.low, source.high + 1, shape)


def random_netlist(
    rng: np.random.Generator,
    coding: Coding = "graded",
    forms: Sequence[type[LinearMap]] = FORMS,
) -> Netlist:
    """Five populations besides the input, two of them with a residual sum, and two readouts.

    Each of `forms` (up to five, and the `DensePart`) is used for at least one connection. The few
    draws whose states do not fit 24 bits are drawn again.
    """
    for _ in range(9):
        netlist = proven(_drawn(rng, coding, forms))
        with contextlib.suppress(NetlistError):
            netlist.verify()
            return netlist
    raise AssertionError(f"{coding}: no draw fits")


def _drawn(rng: np.random.Generator, coding: Coding, forms: Sequence[type[LinearMap]]) -> Netlist:
    levels = int(rng.integers(2, 6))
    steps = {"graded": int(rng.integers(1, 4)), "unary": levels + int(rng.integers(2))}
    whole = ("relays", "signed window", "curve", "graded max", "product")
    steps.update(dict.fromkeys(whole, steps["graded"]))
    ones = ("ladder", "curve, unary", "product, unary", "sorted or", "unary-last")
    ones += ("sorted or, last", "relays, unary")
    steps.update(dict.fromkeys(ones, steps["unary"]))
    builder = _Builder(rng, coding, levels, steps.get(coding, 7))
    layers = [form for form in forms if form is not DensePart] or [DensePart]
    order = [layers[i % len(layers)] for i in rng.permutation(max(len(layers), 5))][:5]
    for index, form in enumerate(order):
        sources = [builder.names[-1]]
        if index in (2, 4):  # a branch from far behind; one beside the main road
            sources.append(builder.names[-1 - index // 2] if index == 2 else sources[0])
        builder.add(f"layer{index}.{form.__name__.lower()}", form, sources)
    *_, side, last = builder.names
    builder.read("head", [last])
    builder.read("side", [last, side], part=DensePart in forms)
    return builder.netlist()


class _Builder:
    def __init__(self, rng: np.random.Generator, coding: Coding, levels: int, steps: int):
        self.rng, self.coding, self.levels, self.steps = rng, coding, levels, steps
        shape = (int(rng.integers(1, 4)) * 2, int(rng.integers(6, 9)), int(rng.integers(6, 9)))
        timing = TIMINGS.get(coding, "first")
        low = int(rng.integers(-9, 1))
        # Now and then an input that is never zero: what is not there, at a border, is all the same.
        low = 3 if low == -9 else low
        most = 10 if coding == "lif" else 30  # Lava's LIF takes drives of 18 bits
        source = Source(low, int(rng.integers(5, most)), timing)
        self.populations = [population("input", shape, source)]
        self.connections: list[Connection] = []

    @property
    def names(self) -> list[str]:
        return [p.name for p in self.populations if not isinstance(p.neuron, Relay)]

    def netlist(self) -> Netlist:
        return Netlist(tuple(self.populations), tuple(self.connections), self.steps)

    def add(self, name: str, form: type[LinearMap], sources: Sequence[str]) -> None:
        """A spiking population: its first source through `form`, others through what fits."""
        first = random_map(self.rng, form, self.netlist()[sources[0]].shape)
        if self.coding.startswith("relays"):
            first = self._relay(f"{name}.sum", first, sources[0])
            sources = [f"{name}.sum", *sources[1:]]
        gate = self.coding.startswith("sorted or") and len(self.populations) % 2 == 0
        self._connect(name, first, sources, gate)
        if gate:
            self.populations.append(population(name, first.out_shape, OrGate()))
            return
        self.populations.append(population(name, first.out_shape, SoftResetIF(*[integers(1)] * 3)))
        shape = first.out_shape
        if self.coding == "train" and len(self.populations) == 3:  # it drives itself, too
            loop = _diagonal(self.rng, shape, shape)
            self.connections.append(connection(name, name, loop, synaptic_delay=1))
        step, total = self.netlist().drive_bounds(name)
        drive = Drive(shape, int(step.high.max()), int(total.high.max()), self.levels)
        neuron = random_neuron(self.rng, self.coding, drive)
        self.populations[-1] = population(name, shape, neuron)

    def _relay(self, name: str, m: LinearMap, source: str) -> LinearMap:
        """A relay behind the map, of all inputs or of a part; the map to who reads it."""
        part = self.coding == "relays, unary" and isinstance(m, Dense)
        self.connections.append(connection(source, name, _part(m) if part else m))
        self.populations.append(population(name, m.out_shape, SoftResetIF(*[integers(1)] * 3)))
        relay = Relay.of(*self.netlist().drive_bounds(name))
        self.populations[-1] = population(name, m.out_shape, relay)
        return Diagonal(frozen(1, np.int8), m.out_shape, m.out_shape)

    def read(self, name: str, sources: Sequence[str], part: bool = False) -> None:
        """A readout, of all that its first source sends or of a part."""
        shape = (int(self.rng.integers(2, 5)),)
        source = self.netlist()[sources[0]].shape
        full = _dense(self.rng, source, shape)
        self._connect(name, _part(full) if part else full, sources)
        bias, initial = self.rng.integers(-9, 10, (2, *shape))
        self.populations.append(population(name, shape, Readout(integers(bias), integers(initial))))

    def _connect(
        self, name: str, first: LinearMap, sources: Sequence[str], positive: bool = False
    ) -> None:
        maps = [first]
        for source in sources[1:]:
            shape = self.netlist()[source].shape
            same = shape == first.out_shape
            maps.append((_diagonal if same else _sparse)(self.rng, shape, first.out_shape))
        if positive:
            sizes = [np.abs(m.weight.astype(np.int64)).clip(max=127) for m in maps]
            maps = [m.with_weight(s.astype(np.int8)) for m, s in zip(maps, sizes, strict=True)]
        for source, linear_map in zip(sources, maps, strict=True):
            exponent = int(self.rng.integers(0, 3))
            delay = int(self.rng.integers(0, 3)) if self.coding == "train" else 0
            self.connections.append(connection(source, name, linear_map, exponent, delay))


def random_map(rng: np.random.Generator, form: type[LinearMap], in_shape: Shape) -> LinearMap:
    """A map of the given form out of `in_shape`, with 8-bit weights, into a shape that it likes."""
    if form is Conv:
        return _conv(rng, in_shape)
    if form is ConvTransposed:
        return _conv_transposed(rng, in_shape)
    if form is Diagonal:
        return _diagonal(rng, in_shape, in_shape)
    out_shape = (int(rng.integers(1, 4)) * 2, *(int(rng.integers(4, 7)) for _ in range(2)))
    return {Dense: _dense, DensePart: _dense_part, Sparse: _sparse}[form](rng, in_shape, out_shape)


def _weights(rng: np.random.Generator, shape: Shape) -> Array:
    values = rng.integers(-128, 128, shape) * (rng.random(shape) < 0.8)
    return frozen(values, np.int8)


def _conv(rng: np.random.Generator, in_shape: Shape) -> Conv:
    channels, *size = in_shape
    groups = int(rng.choice([g for g in (1, 2, channels) if channels % g == 0]))
    out_channels = groups * int(rng.integers(1, 4))
    stride, dilation = rng.integers(1, 3, 2).tolist(), rng.integers(1, 3, 2).tolist()
    kernel, padding = rng.integers(1, 4, 2).tolist(), rng.integers(-1, 3, 2).tolist()
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    # Any number of outputs is a convolution; some here read beyond the lower and right border.
    outputs = [
        max((n + 2 * p - r) // s + 1 + int(rng.integers(0, 2)), 1)
        for n, p, r, s in zip(size, padding, reach, stride, strict=True)
    ]
    weight = _weights(rng, (out_channels, channels // groups, *kernel))
    return Conv(
        weight,
        in_shape,
        (out_channels, *outputs),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
    )


def _conv_transposed(rng: np.random.Generator, in_shape: Shape) -> ConvTransposed:
    channels, *size = in_shape
    groups = int(rng.choice([g for g in (1, 2, channels) if channels % g == 0]))
    per_group = int(rng.integers(1, 3))
    stride, dilation = rng.integers(1, 3, 2).tolist(), rng.integers(1, 3, 2).tolist()
    kernel, padding = rng.integers(1, 4, 2).tolist(), rng.integers(-1, 3, 2).tolist()
    # Any number of outputs is one; some here are cut off, some beyond the last stamp.
    outputs = [
        max((n - 1) * s + (k - 1) * d + 1 - 2 * p + int(rng.integers(-1, 2)), 1)
        for n, s, k, d, p in zip(size, stride, kernel, dilation, padding, strict=True)
    ]
    return ConvTransposed(
        _weights(rng, (channels, per_group, *kernel)),
        in_shape,
        (groups * per_group, *outputs),
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
    )


def _diagonal(rng: np.random.Generator, in_shape: Shape, out_shape: Shape) -> Diagonal:
    sizes: list[Shape] = [(), (in_shape[0],) + (1,) * (len(in_shape) - 1), in_shape]
    weight = rng.integers(1, 100, sizes[rng.integers(3)])
    return Diagonal(frozen(weight, np.int8), in_shape, out_shape)


def _dense(rng: np.random.Generator, in_shape: Shape, out_shape: Shape) -> Dense:
    sizes = int(np.prod(out_shape)), int(np.prod(in_shape))
    return Dense(_weights(rng, sizes), in_shape, out_shape)


def _dense_part(rng: np.random.Generator, in_shape: Shape, out_shape: Shape) -> DensePart:
    return _part(_dense(rng, in_shape, out_shape))


def _part(m: LinearMap) -> DensePart:
    """Without the first inputs, and the last: as many as the number of inputs says."""
    first, last = m.in_size // 4, m.in_size - m.in_size // 5
    return DensePart(frozen(m.weight[:, first:last]), m.in_shape, m.out_shape, first)


def _sparse(rng: np.random.Generator, in_shape: Shape, out_shape: Shape) -> Sparse:
    sizes = int(np.prod(out_shape)), int(np.prod(in_shape))
    values = _weights(rng, sizes) * (rng.random(sizes) < 0.1)
    return Sparse.from_matrix(sp.csr_matrix(values.astype(np.int8)), in_shape, out_shape)
