"""Netlist -> a `.net` file that stock `lava.lib.dl.netx.hdf5.Network` runs, spike for spike.

LIF with iDecay 4096 and vDecay 0 is HardResetIF in units of 1/64: it fires where v > vThMant * 64,
which for whole units is v >= vThMant + 1. Its u and v hold 24 bits, so drives and membranes of up
to 2**17 - 1 units are exact; what the netlist proves is checked against that.
Source: lava-dl 0.6, lava/lib/dl/netx/hdf5.py; lava-nc 0.10, lava/proc/lif/models.py.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from typing import Any, final

import h5py
import numpy as np

from lapilli.compiler.interchange.netx_chain import Chain, Layer, Window, chain, refuse
from lapilli.compiler.linear import Array, Shape, per_channel
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import LIF, HardResetIF, Readout
from lapilli.compiler.numerics import signed_range
from lapilli.compiler.sealed_file import write_whole

FULL_DECAY, NO_DECAY = 4096, 0
UNIT = 64
"""Lava's v for one unit of ours."""
STATE_BITS = 18
"""24 bits of u and v in units of 1/64."""
MAX_THRESHOLD = signed_range(STATE_BITS)[1]
"""The largest vThMant of 17 bits. v saturates below (MAX_THRESHOLD + 1) * 64: it never fires."""
BIAS_BITS = 16
"""Lava's bias_mant is an int16, and wraps."""


@final
@dataclass(frozen=True)
class LayerPlace:
    """population: of the netlist; group: its number in the file; process: its place in `layers`.

    shape: of its spikes in Lava, (W, H, C) or (N,); first: Lava's time step, from 1, in which it
    works on the first step of the first window.
    """

    population: str
    group: int
    process: int
    shape: Shape
    first: int


@final
@dataclass(frozen=True)
class Instructions:
    """What `Network` has to be told, and where the network's numbers are found.

    input_shape: of the spikes to send, in Lava's order (W, H, C) or flat; timing: of the input, see
    `Source`; read_step: the time step after which the last layer's v / unit is the first image's
    readout; interval: time steps from image to image.
    """

    reset_interval: int
    reset_offset: int
    input_message_bits: int
    input_shape: Shape
    timing: str
    steps: int
    read_step: int
    interval: int
    unit: int
    layers: tuple[LayerPlace, ...]


def write(path: str | os.PathLike[str], netlist: Netlist) -> Instructions:
    """Write the network to `path`, all of it or nothing; how to run it.

    Raises NetlistError for what the format cannot carry, InputError for a path that is no place
    for a file, BackendError where the disk fails.
    """
    road = chain(netlist)
    for layer in road.layers:
        _check_numbers(netlist, layer.population)
    told = instructions(netlist, road)
    write_whole(path, _image(road, told))
    return told


def instructions(netlist: Netlist, road: Chain) -> Instructions:
    """How `Network` runs the file."""
    places, group = [], 0
    for process, layer in enumerate(road.layers):
        group += 2 if layer.flatten else 1
        # A synapse takes one step, and time starts at 1.
        first = process + 2
        places.append(LayerPlace(layer.population.name, group, process, layer.form[::-1], first))
    low, high = netlist.source.payload()
    graded = low < 0 or high > 1
    bits = max((-low - 1).bit_length() if low < 0 else 0, high.bit_length()) + (low < 0)
    return Instructions(
        netlist.steps,
        places[0].first - 1,
        bits if graded else 0,
        road.form[::-1],
        netlist.source.timing,
        netlist.steps,
        places[-1].first + netlist.steps - 1,
        netlist.steps,
        UNIT,
        tuple(places),
    )


def _check_numbers(netlist: Netlist, p: Population) -> None:
    where = f"{p.name} ({type(p.neuron).__name__})"
    low, high = signed_range(STATE_BITS)
    remedy = "Compile again with --profile netx, fewer steps or fewer input bits."
    step = netlist.drive_bounds(p.name)[0]
    reaches = {"drives": (int(step.low.min()), int(step.high.max()))}
    if not isinstance(p.neuron, LIF):  # whose reach is Lava's own
        reaches["membranes"] = (p.state_low, p.state_high)
    for what, (lowest, highest) in reaches.items():
        if lowest < low or highest > high:
            found = f"{lowest}..{highest}"
            rule = f"{what} have {STATE_BITS} bits: 24 in units of 1/{UNIT}"
            raise refuse(where, rule, found, f"{low}..{high}", remedy)
    bias: Array = p.neuron.bias  # type: ignore[attr-defined]
    limit = 2 ** (BIAS_BITS - 1)
    if bias.min() < -limit or bias.max() >= limit:
        found = f"{bias.min()}..{bias.max()}"
        rule = f"biases have {BIAS_BITS} bits"
        raise refuse(where, rule, found, f"{-limit}..{limit - 1}", remedy)


def _image(road: Chain, told: Instructions) -> bytes:
    """The HDF5 image: the layers, and beside them, where netx does not look, how to run them."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        _layer(file, 0, "input", road.form)
        for layer, place in zip(road.layers, told.layers, strict=True):
            if layer.flatten:
                size = layer.synapse.shape[1]  # type: ignore[union-attr]
                _layer(file, place.group - 1, "flatten", (size, 1, 1))
            _write_layer(file, layer, place.group)
        for name in ("reset_interval", "reset_offset", "input_message_bits", "read_step", "unit"):
            file[f"lapilli/{name}"] = getattr(told, name)
        file["lapilli/timing"] = told.timing
    return memory.getvalue()


def _layer(file: h5py.File, group: int, kind: str, shape: Shape) -> h5py.Group:
    made = file.create_group(f"layer/{group}")
    made.create_dataset("type", (1,), "S10", [kind.encode("ascii")])
    made["shape"] = np.array(shape, np.int64)
    return made


def _write_layer(file: h5py.File, layer: Layer, index: int) -> None:
    convolution = isinstance(layer.synapse, Window)
    group = _layer(file, index, "conv" if convolution else "dense", layer.form)
    if isinstance(layer.synapse, Window):
        window = layer.synapse
        outputs, inputs, *kernel = window.weight.shape
        group["inChannels"], group["outChannels"] = inputs * window.groups, outputs
        group["kernelSize"] = np.array(kernel)
        for name in ("stride", "padding", "dilation"):
            group[name] = np.array(getattr(window, name))
        group["groups"] = window.groups
        group["weight"] = window.weight.astype(np.int32)
    else:
        group["outFeatures"], group["inFeatures"] = layer.synapse.shape
        group["weight"] = layer.synapse.astype(np.int32)
    bias = _bias(layer)
    if bias is not None:
        group["bias"] = bias.astype(np.int32)
    for name, value in _neuron(layer.population).items():
        group[f"neuron/{name}"] = value


def _bias(layer: Layer) -> Array | None:
    """(N,), (C,) or (W, H, C), as netx tells them apart; None where all are zero."""
    p = layer.population
    full = np.broadcast_to(p.neuron.bias, p.shape).reshape(layer.form)  # type: ignore[attr-defined]
    if not full.any():
        return None
    channels = per_channel(full, layer.form)
    if channels is None:
        return np.asarray(full.transpose(2, 1, 0))
    return np.broadcast_to(channels, layer.form[:1])


def _neuron(p: Population) -> dict[str, Any]:
    decays, threshold = (FULL_DECAY, NO_DECAY), MAX_THRESHOLD
    if isinstance(p.neuron, LIF):
        decays = p.neuron.current_decay, p.neuron.voltage_decay
        threshold = int(p.neuron.threshold.max())
    elif isinstance(p.neuron, HardResetIF):
        threshold = int(p.neuron.threshold.max()) - 1
    else:
        assert isinstance(p.neuron, Readout), p.neuron
    return {
        "type": "CUBA",
        "iDecay": decays[0],
        "vDecay": decays[1],
        "vThMant": threshold,
        "refDelay": 1,
        "gradedSpike": False,
    }
