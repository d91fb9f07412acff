"""A placed network as one JSON file: what each core computes, stores, receives and sends.

`loihi_schema.json` is the only statement of the file's keys; `loihi_import` rebuilds the network
from it, integer for integer. docs/loihi.md describes it in words.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
from typing import Any, final

import numpy as np

from lapilli.compiler.artifact import Artifact
from lapilli.compiler.core_resources import (
    is_shared,
    neuron_values,
    on_host,
    own_axes,
    sources_of,
    synapse_words,
    synapses,
)
from lapilli.compiler.linear import Array, LinearMap, Shape
from lapilli.compiler.mapping import Core, CoreSlice, Placement
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import STATE_BITS, NeuronModel, Source
from lapilli.compiler.schedule import schedule
from lapilli.compiler.sealed_file import write_whole
from lapilli.compiler.storage import CLASS, Record, encode
from lapilli.hardware_profiles import Profile

FORMAT, FORMAT_VERSION = "lapilli-loihi", 2
NOTICE = (
    "Nothing of this was ever run on silicon. On a CPU, the network rebuilt from this file has the "
    "integers that were compiled, and gives the same spikes in Lava's simulation. Core limits and "
    "memory words are estimates by formula: the vendor's compiler may need more, or refuse."
)
Json = dict[str, Any]

STOCK_BITS = 8
"""Weights of Lava's Dense and Sparse. Mixed ones are even there: twice ours, one exponent less."""


def write(
    path: str | os.PathLike[str], artifact: Artifact, placement: Placement, profile: Profile
) -> None:
    """Write the file: all of it or nothing, the same bytes for the same input.

    Raises NetlistError where the placement is not one of this network, InputError for a path that
    is no place for a file, BackendError where the disk fails.
    """
    write_whole(path, text(configuration(artifact, placement, profile)).encode())


def text(document: Json) -> str:
    """The document, one line for each core, connection, ..."""
    dump = functools.partial(json.dumps, separators=(", ", ": "), allow_nan=False)
    lines = []
    for key, value in document.items():
        listed = isinstance(value, list) and value
        body = "[\n" + ",\n".join(map(dump, value)) + "\n]" if listed else dump(value)
        lines.append(f"{dump(key)}: {body}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def configuration(artifact: Artifact, placement: Placement, profile: Profile) -> Json:
    """The document: plain values, as in `loihi_schema.json`. Raises NetlistError; see `write`."""
    netlist = artifact.netlist
    placement.verify(netlist, profile)
    return _Writer(artifact, placement, profile).document()


@final
class _Writer:
    """One document being made."""

    def __init__(self, artifact: Artifact, placement: Placement, profile: Profile):
        self._hash = artifact.hash
        self._netlist, self._placement, self._profile = artifact.netlist, placement, profile
        netlist = artifact.netlist
        self._plan = schedule(netlist.populations, netlist.connections, netlist.steps)
        self._tensors: dict[str, Json] = {}
        record = encode(netlist)
        self._populations = _children(record, "populations")
        self._connections = _children(record, "connections")

    def document(self) -> Json:
        netlist, plan = self._netlist, self._plan
        connections = [self._connection(i) for i in range(len(netlist.connections))]
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "lapilli_version": importlib.metadata.version("lapilli"),
            "run_on_silicon": False,
            "notice": NOTICE,
            "netlist_hash": self._hash,
            "profile": {
                "name": self._profile.name,
                "title": self._profile.title,
                "calibrated": self._profile.calibrated,
            },
            "timing": {
                "window": netlist.steps,
                "interval": plan.interval,
                "latency": plan.latency,
            },
            "programs": [_program(p.neuron) for p in _one_of_each_model(netlist)],
            "populations": [self._population(i) for i in range(len(netlist.populations))],
            "connections": connections,
            "inputs": [self._input(netlist.input)],
            "outputs": [self._output(p) for p in netlist.outputs],
            "cores": [self._core(core, connections) for core in self._placement.cores],
            "weights": list(self._tensors.values()),
            "unchecked": [unchecked._asdict() for unchecked in self._placement.unchecked],
        }

    def _population(self, index: int) -> Json:
        p, record, plan = self._netlist.populations[index], self._populations[index], self._plan
        settings, arrays = _parameters(record["neuron"])
        return {
            "name": p.name,
            "shape": list(p.shape),
            "program": type(p.neuron).__name__,
            "settings": settings,
            "arrays": {
                name: {"shape": list(values.shape), "own_axes": own_axes(p.neuron, name)}
                for name, values in arrays.items()
            },
            "resets": {"first_step": plan.first[p.name], "every": plan.interval},
            "sends_from_step": plan.sends[p.name],
            "spikes": _spikes(p.neuron),
            "state_low": p.state_low,
            "state_high": p.state_high,
            "state_scale": _numbers(record["state_scale"]),
            "count_scale": _numbers(record["count_scale"]),
            "count_offset": _numbers(record["count_offset"]),
        }

    def _connection(self, index: int) -> Json:
        c, record = self._netlist.connections[index], self._connections[index]
        settings, arrays = _parameters(record["map"])
        plain = {k: v for k, v in record.items() if k not in ("map", "weight_scale")}
        return {
            **plain,
            "form": type(c.map).__name__,
            "geometry": settings,
            "weights": {name: self._tensor(values) for name, values in arrays.items()},
            "weight_scale": _numbers(record["weight_scale"]),
            "synapse": self._synapse(c),
            "computed_by": "host" if on_host(self._netlist, c, self._profile) else "cores",
        }

    def _tensor(self, values: Array) -> str:
        """The id of an array that the file holds once, whoever refers to it."""
        exact = np.ascontiguousarray(values, "<i8")
        sha = hashlib.sha256(exact.tobytes()).hexdigest()
        key = f"{sha} {values.shape} {values.dtype}"
        if key not in self._tensors:
            self._tensors[key] = {
                "id": f"w{len(self._tensors)}",
                "sha256": sha,
                "type": values.dtype.name,
                **_numbers(values),
            }
        return str(self._tensors[key]["id"])

    def _synapse(self, c: Connection) -> Json:
        low, high = int(c.map.weight.min(initial=0)), int(c.map.weight.max(initial=0))
        sign = "excitatory" if low >= 0 else "inhibitory" if high <= 0 else "mixed"
        needed = _magnitude_bits(low, high) + 1
        fits = needed <= STOCK_BITS
        factor = 2 if sign == "mixed" else 1
        stock = {"weight_factor": factor, "weight_exp": c.exponent - factor + 1}
        return {
            "kind": _kind(c.map),
            "weight_low": low,
            "weight_high": high,
            "weight_bits": needed,
            "sign_mode": sign,
            "stock": {"num_weight_bits": STOCK_BITS, **stock} if fits else None,
        }

    def _input(self, p: Population) -> Json:
        netlist = self._netlist
        ours = [i for i, c in enumerate(netlist.connections) if c.source == p.name]
        host = [i for i in ours if on_host(netlist, netlist.connections[i], self._profile)]
        targets = {netlist.connections[i].target for i in ours}
        return {
            "population": p.name,
            "delivery": "drives" if host else "spikes",
            "connections": ours,
            "cores": sorted({core.index for t in targets for core, _ in self._placement.of(t)}),
        }

    def _output(self, p: Population) -> Json:
        return {
            "population": p.name,
            "read": "v",
            "read_after_step": self._plan.first[p.name] + self._netlist.steps - 1,
            "every": self._plan.interval,
            "ranges": [
                {"core": core.index, "start": s.start, "stop": s.stop}
                for core, s in self._placement.of(p.name)
            ],
        }

    def _core(self, core: Core, connections: list[Json]) -> Json:
        groups = [self._neuron_group(s) for s in core.slices]
        into = [
            (i, c, s)
            for s in core.slices
            for i, c in enumerate(self._netlist.connections)
            if c.target == s.population and not on_host(self._netlist, c, self._profile)
        ]
        return {
            "index": core.index,
            "chip": core.chip,
            "neuron_groups": groups,
            "synapse_groups": [self._synapse_group(i, c, s, connections) for i, c, s in into],
            "axons_in": [axon for i, c, s in into for axon in self._axons_in(i, c, s)],
            "axons_out": self._axons_out(core),
            "usage": vars(core.usage),
        }

    def _neuron_group(self, s: CoreSlice) -> Json:
        p = self._netlist[s.population]
        record = encode(p.neuron, NeuronModel)
        assert isinstance(record, dict)
        settings, arrays = _parameters(record)
        return {
            "population": p.name,
            "start": s.start,
            "stop": s.stop,
            "program": type(p.neuron).__name__,
            "settings": settings,
            "arrays": {
                name: compact(values, p.shape, s.start, s.stop, own_axes(p.neuron, name))
                for name, values in arrays.items()
            },
        }

    def _synapse_group(self, i: int, c: Connection, s: CoreSlice, connections: list[Json]) -> Json:
        words, _ = synapse_words(c, s.start, s.stop, self._profile)
        word_bits = self._profile.limits.memory_word_bits
        synapse = connections[i]["synapse"]
        return {
            "connection": i,
            "source": c.source,
            "target": c.target,
            "start": s.start,
            "stop": s.stop,
            "kind": synapse["kind"],
            "weights": connections[i]["weights"],
            "weight_bits": synapse["weight_bits"],
            "sign_mode": synapse["sign_mode"],
            "exponent": c.exponent,
            "delay": c.delay,
            "synapses": synapses(c.map, s.start, s.stop),
            "words": words if words else None,
            "bits": words * word_bits.value if words and word_bits else None,
        }

    def _axons_in(self, i: int, c: Connection, s: CoreSlice) -> list[Json]:
        """Where the spikes of one connection into a slice come from; null: from the input port."""
        mask = sources_of(c.map, s.start, s.stop)
        origins: list[tuple[int | None, int, int]] = [
            (core.index, sent.start, sent.stop) for core, sent in self._placement.of(c.source)
        ]
        if isinstance(self._netlist[c.source].neuron, Source):
            origins = [(None, 0, mask.size)]
        axons = []
        for core, start, stop in origins:
            reached = np.flatnonzero(mask[start:stop]) + start
            if reached.size:
                ends = {"start": int(reached[0]), "stop": int(reached[-1]) + 1}
                axons.append({"connection": i, "core": core, **ends, "neurons": reached.size})
        return axons

    def _axons_out(self, core: Core) -> list[Json]:
        sent = self._sent.get(core.index, {})
        return [sent[key] for key in sorted(sent)]

    @functools.cached_property
    def _sent(self) -> dict[int, dict[tuple[int, int], Json]]:
        """By sending core, then connection and receiving core: what arrives, seen from there."""
        sent: dict[int, dict[tuple[int, int], Json]] = {}
        for i, c in enumerate(self._netlist.connections):
            if isinstance(self._netlist[c.source].neuron, Source):
                continue
            spikes = _spikes(self._netlist[c.source].neuron)
            for core, s in self._placement.of(c.target):
                for axon in self._axons_in(i, c, s):
                    out = {**axon, "core": core.index, "delay": c.delay, "spikes": spikes}
                    sent.setdefault(axon["core"], {})[i, core.index] = out
        return sent


def compact(values: Array, shape: Shape, start: int, stop: int, own: int = 0) -> Json:
    """A parameter of the neurons start .. stop: once, once per channel that they touch, or each.

    Values are nested lists: axes of the parameter's own first, then channels or neurons.
    """
    here = neuron_values(values, shape, own)[..., start:stop]
    if (here == here[..., :1]).all():
        return {"per": "group", "values": here[..., 0].tolist()}
    plane = math.prod(shape[1:])
    channel = np.arange(start, stop) // plane - start // plane
    first = np.unique(channel, return_index=True)[1]
    if plane > 1 and (here == here[..., first][..., channel]).all():
        return {"per": "channel", "values": here[..., first].tolist()}
    return {"per": "neuron", "values": here.tolist()}


def _children(record: Any, name: str) -> list[Record]:
    return list(record[name].values())


def _parameters(record: Any) -> tuple[Json, dict[str, Array]]:
    """The fields of a neuron model or map without its class: plain ones, and arrays."""
    fields = {name: value for name, value in record.items() if name != CLASS}
    arrays = {name: value for name, value in fields.items() if isinstance(value, np.ndarray)}
    plain = {name: value for name, value in fields.items() if name not in arrays}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in plain.items()}, arrays


def _numbers(values: Any) -> Json:
    return {"shape": list(values.shape), "values": values.reshape(-1).tolist()}


def _spikes(neuron: NeuronModel) -> Json:
    """What one spike carries; 0 bits: that it is one, and nothing else."""
    low, high = neuron.payload()
    bits = _magnitude_bits(low, high) + (low < 0)
    binary = low == 0 and high <= 1
    return {"low": low, "high": high, "payload_bits": 0 if binary else bits}


def _magnitude_bits(low: int, high: int) -> int:
    """Bits of the integers low .. high in two's complement, without the sign."""
    return max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0)


def _kind(m: LinearMap) -> str:
    name = type(m).__name__.lower()
    return f"{name}-shared" if is_shared(m) else name


def _one_of_each_model(netlist: Netlist) -> list[Population]:
    return list({type(p.neuron).__name__: p for p in netlist.populations}.values())


def _program(neuron: NeuronModel) -> Json:
    """The definition in words, from the one place where a model is defined."""
    cls = type(neuron)
    definition = inspect.getdoc(cls) or cls.__name__
    return {
        "name": cls.__name__,
        "equation": " ".join(definition.partition("\n\n")[0].split()),
        "definition": definition,
        "variables": list(getattr(cls, "VARIABLES", ("v",))),
        "state_bits": STATE_BITS,
    }
