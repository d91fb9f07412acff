"""What a netlist computes, told once more as naively as possible: the oracle of the engines' tests.

Nested loops over Python integers from the definitions in the docstrings and in DESIGN section 3.
Nothing here calls `NeuronModel.step`, `LinearMap.apply` or numpy arithmetic on values.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from oracle_neurons import neurons

from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Sparse,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import Source
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.schedule import schedule

Synapse = tuple[int, int, int]
"""Output index, input index (both in C order), weight."""


def synapses(m: LinearMap) -> list[Synapse]:
    """Every synapse of a map that is not zero, one by one."""
    if isinstance(m, Conv):
        found = _conv_synapses(m)
    elif isinstance(m, ConvTransposed):
        found = _conv_transposed_synapses(m)
    elif isinstance(m, (Dense, DensePart)):
        rows, columns = m.weight.shape
        first = m.first if isinstance(m, DensePart) else 0
        found = [(i, first + j, int(m.weight[i, j])) for i in range(rows) for j in range(columns)]
    elif isinstance(m, Diagonal):
        weights = np.broadcast_to(m.weight, m.in_shape).reshape(-1).tolist()
        found = [(i, i, weight) for i, weight in enumerate(weights)]
    else:
        assert isinstance(m, Sparse)
        found = [
            (row, int(m.columns[k]), int(m.weight[k]))
            for row in range(m.out_size)
            for k in range(int(m.starts[row]), int(m.starts[row + 1]))
        ]
    return [synapse for synapse in found if synapse[2]]


def _conv_synapses(m: Conv) -> list[Synapse]:
    found = []
    channels, height, width = m.in_shape
    out_channels, out_height, out_width = m.out_shape
    per_group, (kernel_h, kernel_w) = channels // m.groups, m.kernel
    for o, oy, ox in itertools.product(*map(range, m.out_shape)):
        group = o // (out_channels // m.groups)
        for c, i, j in itertools.product(range(per_group), range(kernel_h), range(kernel_w)):
            y = oy * m.stride[0] - m.padding[0] + i * m.dilation[0]
            x = ox * m.stride[1] - m.padding[1] + j * m.dilation[1]
            if 0 <= y < height and 0 <= x < width:
                source = ((group * per_group + c) * height + y) * width + x
                target = (o * out_height + oy) * out_width + ox
                found.append((target, source, int(m.weight[o, c, i, j])))
    return found


def _conv_transposed_synapses(m: ConvTransposed) -> list[Synapse]:
    found = []
    channels, height, width = m.in_shape
    out_channels, out_height, out_width = m.out_shape
    per_group, (kernel_h, kernel_w) = out_channels // m.groups, m.kernel
    for c, y, x in itertools.product(*map(range, m.in_shape)):
        group = c // (channels // m.groups)
        for o, i, j in itertools.product(range(per_group), range(kernel_h), range(kernel_w)):
            oy = y * m.stride[0] - m.padding[0] + i * m.dilation[0]
            ox = x * m.stride[1] - m.padding[1] + j * m.dilation[1]
            if 0 <= oy < out_height and 0 <= ox < out_width:
                target = ((group * per_group + o) * out_height + oy) * out_width + ox
                source = (c * height + y) * width + x
                found.append((target, source, int(m.weight[c, o, i, j])))
    return found


def mapped(found: list[Synapse], exponent: int, x: list[int], outputs: int) -> list[int]:
    """(map . x) * 2**exponent."""
    result = [0] * outputs
    for target, source, weight in found:
        result[target] += weight * x[source]
    return [value * 2**exponent for value in result]


@dataclass(frozen=True)
class Result:
    """Spikes and membranes, (N, steps, *shape), aligned as in `Trace`; of every population."""

    spikes: dict[str, Array]
    states: dict[str, Array]


def simulate(netlist: Netlist, inputs: Int64Array) -> Result:
    """Step the whole network, all images back to back, one global step after the other."""
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    window, images = netlist.steps, len(inputs)
    interval = plan.interval
    total = max(plan.sends.values()) + (images + 1) * interval
    state = {p.name: neurons(p) for p in netlist.populations}
    into: dict[str, list[tuple[Connection, list[Synapse]]]] = {
        p.name: [(c, synapses(c.map)) for c in netlist.into(p.name)] for p in netlist.populations
    }
    sent: dict[str, list[list[int]]] = {p.name: [] for p in netlist.populations}
    membranes: dict[str, list[list[int]]] = {p.name: [] for p in netlist.populations}
    for t in range(total):
        for p in netlist.populations:
            local = t - plan.first[p.name]
            image, tau = divmod(local, interval)
            if not 0 <= image <= images or tau >= window:
                sent[p.name].append([0] * p.size)
                membranes[p.name].append([0] * p.size)
                continue
            drive = [0] * p.size
            if isinstance(p.neuron, Source) and image < images:
                shown = inputs[image, tau] if p.neuron.stepwise else inputs[image]
                drive = shown.reshape(-1).tolist()
            for c, found in into[p.name]:
                then = t - 1 - c.delay
                if then >= 0:
                    arriving = mapped(found, c.exponent, sent[c.source][then], p.size)
                    drive = [a + b for a, b in zip(drive, arriving, strict=True)]
            spikes = [
                neuron.step(a, tau, window) for neuron, a in zip(state[p.name], drive, strict=True)
            ]
            sent[p.name].append(spikes)
            membranes[p.name].append([neuron.v for neuron in state[p.name]])

    def aligned(rows: list[list[int]], start: int, p: Population) -> Any:
        shown = [rows[start + i * interval : start + i * interval + window] for i in range(images)]
        return np.array(shown).reshape(images, window, *p.shape)

    return Result(
        {p.name: aligned(sent[p.name], plan.sends[p.name], p) for p in netlist.populations},
        {p.name: aligned(membranes[p.name], plan.first[p.name], p) for p in netlist.populations},
    )


@dataclass(frozen=True)
class Events:
    """Counted one by one, over all images: see `PopulationEvents`."""

    spikes: int
    synops: int
    input_macs: int
    neuron_updates: int
    synapses: int


def events(netlist: Netlist, result: Result) -> dict[str, Events]:
    """Events of every population but the input. A message is a spike other than 0."""
    messages = {
        name: [sum(int(s != 0) for s in neuron) for neuron in _per_neuron(spikes)]
        for name, spikes in result.spikes.items()
    }
    found = {}
    for p in netlist.populations:
        if isinstance(p.neuron, Source):
            continue
        spike_synapses = input_synapses = arriving = 0
        for c in netlist.into(p.name):
            for _, source, _ in synapses(c.map):
                arriving += 1
                sender = netlist[c.source].neuron
                if isinstance(sender, Source) and sender.timing != "train":
                    input_synapses += messages[c.source][source]
                else:
                    spike_synapses += messages[c.source][source]
        images, steps = result.spikes[p.name].shape[:2]
        found[p.name] = Events(
            sum(messages[p.name]),
            spike_synapses,
            input_synapses,
            images * steps * p.size,
            arriving,
        )
    return found


def _per_neuron(spikes: Array) -> list[list[int]]:
    """(N, steps, *shape) as one list per neuron."""
    images, steps = spikes.shape[:2]
    flat: list[list[int]] = (
        np.moveaxis(spikes, (0, 1), (-2, -1)).reshape(-1, images * steps).tolist()
    )
    return flat
