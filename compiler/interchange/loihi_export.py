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
import os
from typing import Any, NamedTuple, final

import numpy as np

from lapilli.compiler.artifact import Artifact
from lapilli.compiler.linear import Array, LinearMap, Shape
from lapilli.compiler.mapping import Core, CoreSlice, Placement
from lapilli.compiler.mapping.fan_in import as_placed
from lapilli.compiler.mapping.placement import pieces
from lapilli.compiler.mapping.refusals import refuse
from lapilli.compiler.mapping.regions import Box, Boxes, reshaped, slices
from lapilli.compiler.mapping.resources import on_host, own_axes, values_of
from lapilli.compiler.mapping.synapse_memory import (
    is_native,
    is_shared,
    sources_of,
    synapses,
    words,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import STATE_BITS, NeuronModel, Source
from lapilli.compiler.schedule import schedule
from lapilli.compiler.sealed_file import write_whole
from lapilli.compiler.storage import CLASS, Record, digest, encode
from lapilli.hardware_profiles import Profile

FORMAT, FORMAT_VERSION = "lapilli-loihi", 3
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
    _check_is_of(artifact, placement, profile)
    placement.verify(placement.netlist, profile)
    return _Writer(artifact, placement, profile).document()


def _check_is_of(artifact: Artifact, placement: Placement, profile: Profile) -> None:
    """Raise NetlistError unless the placement is one of this network, or of it with relays."""
    if placement.netlist is artifact.netlist:
        return
    wanted = digest(encode(as_placed(artifact.netlist, profile)))
    found = digest(encode(placement.netlist))
    if found != wanted:
        rule = "the placement is one of this network on this chip"
        raise refuse("placement", rule, found, wanted, "Place this network on this chip.")


class _Group(NamedTuple):
    """Synapses of one connection in one memory of a core, by the connection's index.

    boxes: the targets, in their population's shape: all of the core where rows of weights are
    native; where synapses are kept in lists, every box has its own.
    """

    connection: int
    boxes: Boxes


@final
class _Writer:
    """One document being made."""

    def __init__(self, artifact: Artifact, placement: Placement, profile: Profile):
        self._hash = artifact.hash
        self._netlist, self._placement, self._profile = placement.netlist, placement, profile
        netlist = self._netlist
        self._plan = schedule(netlist.populations, netlist.connections, netlist.steps)
        self._tensors: dict[str, Json] = {}
        record = encode(netlist)
        self._placed_hash = digest(record)
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
            "model_hash": self._hash,
            "netlist_hash": self._placed_hash,
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
        cores = {core.index for i in host for core, _ in self._at(netlist.connections[i].target)}
        for core, axons in self._axons_in.items():
            cores |= {core for axon in axons if axon["core"] is None}
        return {
            "population": p.name,
            "delivery": "drives" if host else "spikes",
            "connections": ours,
            "cores": sorted(cores),
        }

    def _output(self, p: Population) -> Json:
        return {
            "population": p.name,
            "read": "v",
            "read_after_step": self._plan.first[p.name] + self._netlist.steps - 1,
            "every": self._plan.interval,
            "slices": [{"core": core.index, "box": _edges(s.box)} for core, s in self._at(p.name)],
        }

    def _core(self, core: Core, connections: list[Json]) -> Json:
        groups = self._synapse_groups[core.index]
        return {
            "index": core.index,
            "chip": core.chip,
            "tile": list(core.tile) if core.tile else None,
            "neuron_groups": [self._neuron_group(s) for s in core.slices],
            "synapse_groups": [self._synapse_group(group, connections) for group in groups],
            "axons_in": self._axons_in[core.index],
            "axons_out": self._axons_out[core.index],
            "usage": vars(core.usage),
        }

    def _neuron_group(self, s: CoreSlice) -> Json:
        p = self._netlist[s.population]
        record = encode(p.neuron, NeuronModel)
        assert isinstance(record, dict)
        settings, arrays = _parameters(record)
        return {
            "population": p.name,
            "box": _edges(s.box),
            "program": type(p.neuron).__name__,
            "settings": settings,
            "arrays": {
                name: compact(values, p.shape, s.box, own_axes(p.neuron, name))
                for name, values in arrays.items()
            },
        }

    @functools.cached_property
    def _places(self) -> dict[str, list[tuple[Core, CoreSlice]]]:
        """Where the neurons of each population are."""
        found: dict[str, list[tuple[Core, CoreSlice]]] = {}
        for core in self._placement.cores:
            for s in core.slices:
                found.setdefault(s.population, []).append((core, s))
        return found

    def _at(self, population: str) -> list[tuple[Core, CoreSlice]]:
        return self._places.get(population, [])

    @functools.cached_property
    def _synapse_groups(self) -> dict[int, list[_Group]]:
        """By core."""
        native = is_native(self._profile)
        return {
            core.index: [
                _Group(i, memory)
                for name, boxes in pieces(core).items()
                for memory in ([boxes] if native else [(box,) for box in boxes])
                for i, c in enumerate(self._netlist.connections)
                if c.target == name and not on_host(self._netlist, c, self._profile)
            ]
            for core in self._placement.cores
        }

    def _targets(self, group: _Group) -> Boxes:
        """The targets of a group as outputs of its connection's map."""
        c = self._netlist.connections[group.connection]
        return reshaped(group.boxes, self._netlist[c.target].shape, c.map.out_shape)

    def _synapse_group(self, group: _Group, connections: list[Json]) -> Json:
        c, here = self._netlist.connections[group.connection], self._targets(group)
        memory, _ = words(c, here, self._profile)
        word_bits = self._profile.limits.memory_word_bits
        synapse = connections[group.connection]["synapse"]
        return {
            "connection": group.connection,
            "source": c.source,
            "target": c.target,
            "boxes": [_edges(box) for box in group.boxes],
            "kind": synapse["kind"],
            "weights": connections[group.connection]["weights"],
            "weight_bits": synapse["weight_bits"],
            "sign_mode": synapse["sign_mode"],
            "exponent": c.exponent,
            "delay": c.delay,
            "synapses": synapses(c.map, here),
            "words": memory if memory else None,
            "bits": memory * word_bits.value if memory and word_bits else None,
        }

    @functools.cached_property
    def _axons_in(self) -> dict[int, list[Json]]:
        """By receiving core: for each of its synapse groups, the slices that send to it."""
        return {
            core: [axon for i, g in enumerate(groups) for axon in self._axons_into(i, g)]
            for core, groups in self._synapse_groups.items()
        }

    def _axons_into(self, index: int, group: _Group) -> list[Json]:
        """Where the spikes of one synapse group come from; core null: from the input port."""
        c = self._netlist.connections[group.connection]
        source = self._netlist[c.source]
        mask = sources_of(c.map, self._targets(group)).reshape(source.shape)
        origins: list[tuple[int | None, Box]] = [(d.index, s.box) for d, s in self._at(c.source)]
        if isinstance(source.neuron, Source):
            origins = [(None, tuple((0, size) for size in source.shape))]
        axons = []
        for core, box in origins:
            reached = np.nonzero(mask[slices(box)])
            if reached[0].size:
                hull = [
                    [low + int(axis.min()), low + int(axis.max()) + 1]
                    for (low, _), axis in zip(box, reached, strict=True)
                ]
                ends = {"connection": group.connection, "core": core, "synapse_group": index}
                axons.append({**ends, "box": hull, "neurons": int(reached[0].size)})
        return axons

    @functools.cached_property
    def _axons_out(self) -> dict[int, list[Json]]:
        """By sending core: what arrives, seen from there; by connection, then receiving core."""
        sent: dict[int, list[Json]] = {core.index: [] for core in self._placement.cores}
        for receiver, axons in self._axons_in.items():
            for axon in axons:
                if axon["core"] is not None:
                    c = self._netlist.connections[axon["connection"]]
                    carried = {"delay": c.delay, "spikes": _spikes(self._netlist[c.source].neuron)}
                    sent[axon["core"]].append({**axon, "core": receiver, **carried})
        for axons in sent.values():
            axons.sort(key=lambda a: (a["connection"], a["core"], a["synapse_group"], a["box"]))
        return sent


def compact(values: Array, shape: Shape, box: Box, own: int = 0) -> Json:
    """A parameter of the neurons in a box: once, once per channel (first axis) of it, or each.

    Values are nested lists: axes of the parameter's own first, then channels or neurons.
    """
    places: Any = (..., *slices(box))
    here = values_of(values, shape, own)[places]
    leading, channels = here.shape[:own], here.shape[own]
    by_channel = here.reshape(*leading, channels, -1)
    first = by_channel[..., :1]
    if (by_channel == first[..., :1, :]).all():
        return {"per": "group", "values": first[..., 0, 0].tolist()}
    if by_channel.shape[-1] > 1 and (by_channel == first).all():
        return {"per": "channel", "values": first[..., 0].tolist()}
    return {"per": "neuron", "values": here.reshape(*leading, -1).tolist()}


def _edges(box: Box) -> list[list[int]]:
    """A box as the file has it."""
    return [list(axis) for axis in box]


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
