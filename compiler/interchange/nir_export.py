"""Netlist -> NIR graph: the same integers as exact floats, the rest as metadata.

Every population is one node, every connection a linear node with an edge on either side; NIR adds
up what several edges bring. A tool that ignores the metadata gets the connectivity, the weights,
biases and thresholds; the reset by subtraction, the membrane at the start and the units of the
integers are in the metadata, from which `nir_import` rebuilds the netlist exactly. docs/nir.md
says what is expressible.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np

from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import NetlistError
from lapilli.compiler.interchange import nir_file
from lapilli.compiler.interchange.nir_file import Edge, Tree
from lapilli.compiler.linear import Array, Conv, Diagonal, LinearMap, Shape, per_channel
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import (
    LIF,
    STATE_BITS,
    HardResetIF,
    NeuronModel,
    Readout,
    SoftResetIF,
    Source,
)
from lapilli.compiler.neurons.lif import UNITY
from lapilli.compiler.numerics import smallest_integer
from lapilli.compiler.storage import Text, encode, fields_of

FORMAT = "lapilli-nir 1"
"""Under the key `lapilli` of the graph's metadata."""
NOTICE = (
    "Tools that read NIR take the weights, biases, delays and thresholds. NIR has no word for the "
    "reset by subtraction and for the membrane at the start: these are in the metadata, with the "
    "units of the integers, and Lapilli reads them back. docs/nir.md says what is exact."
)
MAX_MATRIX = 2**24
"""Entries of a full matrix that stands for a map without a node of its own: 64 MB as float32."""

REASONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Window": "it sends after its window, and up to `levels` spikes as one: no node of NIR "
        "waits, or sends more than one spike a step; compile with --method rate",
        "SigmaDelta": "it sends differences of any sign: NIR's neurons send 0 or 1",
        "LavaSigmaDelta": "it sends differences of any sign: NIR's neurons send 0 or 1",
        "LavaDelta": "it sends differences of any sign: NIR's neurons send 0 or 1",
        "SignedIF": "it sends negative spikes and counts them: NIR's neurons do neither",
        "MultiThreshold": "it sends several spikes at once: NIR's neurons send 0 or 1",
        "Ladder": "it has many thresholds: NIR's neurons have one",
        "GradedMax": "it sends counts as one spike: NIR's neurons send 0 or 1",
        "Product": "it multiplies two counts: no node of NIR does",
        "OrGate": "it keeps no state: NIR's Threshold reads `>` and has no reset, and no tool that "
        "reads NIR runs it as a neuron",
        "Relay": "it sends a sum as one spike: NIR's neurons send 0 or 1",
        "RateGate": "it compares running counts: no node of NIR keeps any",
        "RateMax": "it compares running counts: no node of NIR keeps any",
    }
)
"""Models that NIR cannot say, and why. Models in neither table are refused, too."""


def write(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Write the network as a NIR file: all of it or nothing, the same bytes every time.

    Raises NetlistError naming what NIR cannot express, InputError for a path that is no place for
    a file, BackendError where `nir` is missing or the disk fails.
    """
    nir_file.write(path, *graph(artifact))


def graph(artifact: Artifact) -> tuple[Tree, list[Edge], Tree]:
    """Nodes of package `nir` by name, edges, metadata of the graph. Raises as `write` does."""
    return _Writer(artifact.netlist).graph(artifact)


def unsayable(population: str, model: str, reason: str) -> NetlistError:
    """The refusal of a population that no node of NIR stands for."""
    return NetlistError(
        f"{population} ({model})",
        "NIR has a node that computes what the neuron computes",
        found=model,
        allowed=", ".join(model.__name__ for model in NODES),
        remedy=f"Keep it as a Lapilli model: {reason}.",
    )


def stored(value: object) -> Any:
    """A field as metadata hold it: arrays and numbers as they are, tuples as JSON text."""
    if isinstance(value, np.ndarray):
        return value if value.ndim else value.item()
    return json.dumps(value) if isinstance(value, tuple) else value


def is_conv2d(m: LinearMap) -> bool:
    """Can NIR's Conv2d say this map: equal padding on both sides, as many outputs as fit?"""
    if not isinstance(m, Conv) or min(m.padding) < 0:
        return False
    reach = [(k - 1) * d + 1 for k, d in zip(m.kernel, m.dilation, strict=True)]
    room = [n + 2 * p - r for n, p, r in zip(m.in_shape[1:], m.padding, reach, strict=True)]
    fits = tuple(n // s + 1 for n, s in zip(room, m.stride, strict=True))
    return min(room) >= 0 and m.out_shape[1:] == fits


def floats(integers: Array, exponent: int = 0) -> Array:
    """Integers * 2**exponent as floats of the smallest exact kind."""
    exact = integers.astype(np.float64) * 2.0**exponent
    small = exact.astype(np.float32)
    return small if np.array_equal(small, exact) else exact


@final
class _Writer:
    def __init__(self, netlist: Netlist):
        self.nir = nir_file.nir_package()
        self.netlist = netlist
        self.nodes: Tree = {}
        self.edges: list[Edge] = []
        for p in netlist.populations:
            _check_model(p)
        self.kept: dict[str, bool] = {}
        for p in netlist.populations:
            self.kept[p.name] = True
            self.kept[p.name] = len(p.shape) == 1 or self._keeps_shape(p)
        names = [p.name for p in netlist.populations]
        self.named = {name: self._free(name.replace("/", "_")[:200]) for name in names}

    def graph(self, artifact: Artifact) -> tuple[Tree, list[Edge], Tree]:
        """Everything, in the order of the netlist."""
        for index, p in enumerate(self.netlist.populations):
            bias = getattr(p.neuron, "bias", None)
            metadata = {"lapilli": "population", "index": index, **_common(p)}
            node = self.named[p.name]
            self.nodes[node] = NODES[type(p.neuron)](self.nir, p, self.shape(p), metadata)
            bearer = None if bias is None or type(p.neuron) is LIF else self._bearer(p)
            for c in self.netlist.into(p.name):
                self._connect(c, bias if c is bearer else None)
            if isinstance(p.neuron, Readout):
                output = self._free(f"{node}.output")
                self.nodes[output] = self.nir.Output(np.array(self.shape(p)))
                self.edges.append((node, output))
        provenance = encode(artifact.provenance)
        assert isinstance(provenance, dict)
        metadata = {
            "lapilli": FORMAT,
            "netlist_hash": artifact.hash,
            "steps": self.netlist.steps,
            "dt": 1.0,
            "provenance": json.dumps(
                {k: v.json if isinstance(v, Text) else v for k, v in provenance.items()}
            ),
        }
        return self.nodes, self.edges, metadata

    def shape(self, p: Population) -> Shape:
        """The population's shape in NIR, which cannot turn a list back into an image."""
        return p.shape if self.kept[p.name] else (p.size,)

    def _free(self, name: str) -> str:
        taken = {*self.nodes, *getattr(self, "named", {}).values(), "", ".", ".."}
        free, count = name, 1
        while free in taken:
            free, count = f"{name}~{count}", count + 1
        self.nodes.setdefault(free, None)  # taken from now on; filled in by the caller
        return free

    def _keeps_shape(self, p: Population) -> bool:
        """Do all connections deliver the population's own shape, and a bias that they can carry?"""
        into = self.netlist.into(p.name)
        bias = getattr(p.neuron, "bias", None)
        carried = type(p.neuron) is LIF or bias is None or not bias.any()
        if not carried:
            channels = per_channel(np.asarray(bias), p.shape)
            carried = channels is not None and any(
                self._is_conv(c) for c in into if not c.recurrent
            )
        return carried and all(self._is_conv(c) or self._is_scale(c) for c in into)

    def _is_conv(self, c: Connection) -> bool:
        source = self.netlist[c.source]
        reads = self.kept[c.source] and c.map.in_shape == source.shape
        writes = c.map.out_shape == self.netlist[c.target].shape or self._is_flat(c.target)
        return reads and writes and is_conv2d(c.map)

    def _is_flat(self, name: str) -> bool:
        return not self.kept[name] or len(self.netlist[name].shape) == 1

    def _is_scale(self, c: Connection) -> bool:
        """Does a diagonal map keep the shape that its source has in NIR, or may it be flat?"""
        source, target = self.netlist[c.source], self.netlist[c.target]
        alike = self.kept[c.source] and source.shape == target.shape
        return isinstance(c.map, Diagonal) and (alike or self._is_flat(c.target))

    def _bearer(self, p: Population) -> Connection | None:
        """The connection whose node carries the population's bias, if it has one."""
        into = [c for c in self.netlist.into(p.name) if not c.recurrent]
        if not getattr(p.neuron, "bias", np.zeros(())).any():
            return None
        fitting = [c for c in into if self._is_conv(c) and not self._is_flat(p.name)]
        matrices = [c for c in into if not self._is_conv(c) and not self._is_scale(c)]
        return (fitting or matrices or into)[0]

    def _connect(self, c: Connection, bias: Array | None) -> None:
        source, target = self.netlist[c.source], self.netlist[c.target]
        base = f"{self.named[c.target]}.in{sum(e[1] == self.named[c.target] for e in self.edges)}"
        chain: list[tuple[str, Any]] = []
        shape = self.shape(source)
        if c.synaptic_delay:
            delay = np.full(shape, float(c.synaptic_delay))
            chain.append((f"{base}.delay", self.nir.Delay(delay)))
        metadata = _connection_metadata(self.netlist.connections.index(c), c)
        conv = self._is_conv(c) and (bias is None or not self._is_flat(c.target))
        if not conv and not (bias is None and self._is_scale(c)) and len(shape) > 1:
            chain.append((f"{base}.flatten", self._flatten(shape)))
        if conv:
            node, shape = self._conv(c, bias, metadata), c.map.out_shape
        elif bias is None and self._is_scale(c):
            assert isinstance(c.map, Diagonal)
            full = np.broadcast_to(c.map.weight, c.map.in_shape).reshape(shape)
            metadata["weight_shape"] = stored(c.map.weight.shape)
            node = self.nir.Scale(floats(full, c.exponent), metadata=metadata)
        else:
            node, shape = self._matrix(c, bias, metadata), (c.map.out_size,)
        chain.append((base, node))
        if shape != self.shape(target):
            chain.append((f"{base}.flatten", self._flatten(shape)))
        before = self.named[c.source]
        for wanted, link in chain:
            name = self._free(wanted)
            self.nodes[name] = link
            self.edges.append((before, name))
            before = name
        self.edges.append((before, self.named[c.target]))

    def _flatten(self, shape: Shape) -> Any:
        return self.nir.Flatten({"input": np.array(shape)}, start_dim=0, end_dim=-1)

    def _conv(self, c: Connection, bias: Array | None, metadata: Tree) -> Any:
        m = c.map
        assert isinstance(m, Conv)
        values = np.zeros((), np.int64) if bias is None else per_channel(bias, m.out_shape)
        assert values is not None
        return self.nir.Conv2d(
            input_shape=m.in_shape[1:],
            weight=floats(m.weight, c.exponent),
            stride=m.stride,
            padding=m.padding,
            dilation=m.dilation,
            groups=m.groups,
            bias=floats(np.broadcast_to(values, m.out_shape[:1])),
            metadata=metadata,
        )

    def _matrix(self, c: Connection, bias: Array | None, metadata: Tree) -> Any:
        """The map as a full matrix; where that is not its own form, the form is in the metadata."""
        entries = c.map.out_size * c.map.in_size
        if entries > MAX_MATRIX:
            raise NetlistError(
                f"{c.source} -> {c.target}",
                "NIR has a node for the map, or a full matrix for it is small",
                found=f"{c.map.pretty()} of {c.map.in_shape}, {entries:,} entries",
                allowed=f"Conv, Diagonal, Dense, or {MAX_MATRIX:,} entries",
                remedy="Keep it as a Lapilli model: NIR has no sparse matrix, no transposed "
                "convolution, no padding on one side, no bias per neuron of an image, and no node "
                "that turns a list back into an image.",
            )
        dense = type(c.map).__name__ == "Dense"
        matrix = c.map.weight if dense else c.map.to_sparse().toarray()
        if not dense:
            arrays = {f.name: getattr(c.map, f.name) for f in fields(c.map)}
            metadata |= {k: v for k, v in arrays.items() if isinstance(v, np.ndarray) and v.ndim}
            if c.map.weight.ndim == 0:
                metadata["weight"] = c.map.weight.item()
        weight = floats(matrix, c.exponent)
        if bias is None:
            return self.nir.Linear(weight, metadata=metadata)
        values = np.broadcast_to(bias, self.netlist[c.target].shape).reshape(-1)
        return self.nir.Affine(weight, floats(values), metadata=metadata)


def _common(p: Population) -> Tree:
    """What is told of every population."""
    return {
        "name": p.name,
        "shape": stored(p.shape),
        "model": type(p.neuron).__name__,
        "state_scale": stored(p.state_scale),
        "count_scale": stored(p.count_scale),
        "count_offset": stored(p.count_offset),
        "state_bits": STATE_BITS,
        "state_low": p.state_low,
        "state_high": p.state_high,
    }


def _connection_metadata(index: int, c: Connection) -> Tree:
    """What is told of every connection; geometry is repeated where NIR's node cannot hold it."""
    geometry = {name: getattr(c.map, name) for name in fields_of(type(c.map))}
    return {
        "lapilli": "connection",
        "index": index,
        "source": c.source,
        "target": c.target,
        "form": type(c.map).__name__,
        "exponent": c.exponent,
        "delay": c.delay,
        "synaptic_delay": c.synaptic_delay,
        "weight_scale": stored(c.weight_scale),
        "bits": 8 * smallest_integer(c.map.weight).dtype.itemsize,
        **{k: stored(v) for k, v in geometry.items() if not isinstance(v, np.ndarray)},
    }


def _check_model(p: Population) -> None:
    model = type(p.neuron)
    if model not in NODES:
        name = model.__name__
        raise unsayable(p.name, name, REASONS.get(name, "NIR has no node that computes it"))
    if isinstance(p.neuron, Source) and p.neuron.timing not in ("held", "train"):
        reason = "NIR's inputs bring values in every step; compile with --method rate"
        raise unsayable(p.name, f"Source, timing {p.neuron.timing}", reason)
    if isinstance(p.neuron, LIF) and p.neuron.current_decay == 0:
        raise unsayable(
            p.name, "LIF, current_decay 0", "a current without leak has no time constant"
        )
    if (
        isinstance(p.neuron, LIF)
        and p.neuron.voltage_decay == 0
        and (p.neuron.current_decay < UNITY or p.neuron.bias.any())
    ):
        raise unsayable(
            p.name, "LIF, voltage_decay 0", "a membrane without leak has no time constant"
        )


def _source(nir: Any, p: Population, shape: Shape, metadata: Tree) -> Any:
    neuron = p.neuron
    assert isinstance(neuron, Source)
    metadata |= {"low": neuron.low, "high": neuron.high, "timing": neuron.timing}
    return nir.Input({"input": np.array(shape)}, metadata=metadata)


def _integrate_and_fire(nir: Any, p: Population, shape: Shape, metadata: Tree) -> Any:
    """NIR fires where v > v_threshold and sets v_reset; these are integers, and fire at theta.

    For the reset to zero, theta - 1/2 says the same in NIR's words. NIR has no word for the reset
    by subtraction: tools that do it subtract v_threshold, so that is theta.
    """
    neuron = p.neuron
    assert isinstance(neuron, (SoftResetIF, HardResetIF))
    hard = isinstance(neuron, HardResetIF)
    metadata |= {
        "reset": "zero" if hard else "subtract",
        "initial": stored(neuron.initial),
        "threshold_shape": stored(neuron.threshold.shape),
        "bias_shape": stored(neuron.bias.shape),
    }
    theta = _full(neuron.threshold, p, shape)
    return nir.IF(
        r=np.ones(shape),
        v_threshold=theta - 0.5 if hard else theta,
        v_reset=np.zeros(shape),
        metadata=metadata,
    )


def _leaky(nir: Any, p: Population, shape: Shape, metadata: Tree) -> Any:
    """Lava's LIF as CubaLIF with dt = 1, as LIF where currents last one step, as IF without leak.

    Currents and membranes are in the units of the drive, Lava's divided by 64. The bias is the
    potential to which the membrane leaks.
    """
    neuron = p.neuron
    assert isinstance(neuron, LIF)
    metadata |= {
        "reset": "zero",
        "current_decay": neuron.current_decay,
        "voltage_decay": neuron.voltage_decay,
        "threshold_shape": stored(neuron.threshold.shape),
        "bias": stored(neuron.bias),
    }
    theta = _full(neuron.threshold, p, shape)
    zeros = np.zeros(shape)
    if neuron.voltage_decay == 0:
        return nir.IF(np.ones(shape), theta, zeros, metadata=metadata)
    tau = np.full(shape, UNITY / neuron.voltage_decay)
    leak = _full(neuron.bias, p, shape) * tau
    if neuron.current_decay == UNITY:
        return nir.LIF(tau, tau, leak, theta, zeros, metadata=metadata)
    current = np.full(shape, UNITY / neuron.current_decay)
    return nir.CubaLIF(current, tau, tau, leak, theta, zeros, current, metadata=metadata)


def _readout(nir: Any, p: Population, shape: Shape, metadata: Tree) -> Any:
    neuron = p.neuron
    assert isinstance(neuron, Readout)
    metadata |= {"initial": stored(neuron.initial), "bias_shape": stored(neuron.bias.shape)}
    return nir.I(np.ones(shape), metadata=metadata)


def _full(values: Array, p: Population, shape: Shape) -> Array:
    full = np.broadcast_to(values, p.shape).reshape(shape).astype(np.float64)
    assert math.prod(shape) == full.size
    return full


NODES: Final[Mapping[type[NeuronModel], Callable[[Any, Population, Shape, Tree], Any]]] = (
    MappingProxyType(
        {
            Source: _source,
            SoftResetIF: _integrate_and_fire,
            HardResetIF: _integrate_and_fire,
            LIF: _leaky,
            Readout: _readout,
        }
    )
)
"""Models that NIR can say, and their nodes."""
