"""NIR files that Lapilli exported, back to the integer.

They carry the meaning of their integers as metadata. The netlist is rebuilt from the numbers in
NIR's own fields and these words, exported once more, and compared with the file: so what comes
back is what a tool that ignores the metadata sees, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, final

import numpy as np

from lapilli.compiler import soundness
from lapilli.compiler.artifact import Artifact, Provenance, check_outputs
from lapilli.compiler.errors import InputError, LapilliError
from lapilli.compiler.interchange import nir_export
from lapilli.compiler.interchange.nir_file import NirFile, refuse
from lapilli.compiler.linear import FORMS, Array, Shape
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import FLOAT64_EXACT, half_up
from lapilli.compiler.storage import (
    CLASS,
    Record,
    Text,
    Value,
    canonical_json,
    decode,
    fields_of,
)

KEY = "lapilli"
REMEDY = (
    "The file was exported by Lapilli and altered since: export it again, or remove the "
    f"metadata entry `{KEY}` of the graph to have it read as another tool's network."
)


def restored(file: NirFile, where: str) -> Artifact:
    """The artifact that was exported into this file.

    Raises InputError naming the node whose metadata are lost or do not fit its fields.
    """
    if file.metadata[KEY] != nir_export.FORMAT:
        found = file.metadata[KEY]
        remedy = "Install the version of Lapilli that wrote it, or a later one."
        raise refuse(where, "the export is of a known format", found, nir_export.FORMAT, remedy)
    try:
        record, provenance = _Reader(file).records()
        netlist = decode(Netlist, record, "netlist")
        soundness.check(netlist, "netlist")
        reaches = [netlist.reach(p.name) for p in netlist.populations]
        populations = tuple(
            replace(p, state_low=low, state_high=high)
            for p, (low, high) in zip(netlist.populations, reaches, strict=True)
        )
        netlist = replace(netlist, populations=populations)
        netlist.verify()
        artifact = Artifact(netlist, decode(Provenance, provenance, "provenance"))
        check_outputs(artifact, "provenance")
    except InputError:
        raise
    except LapilliError as error:
        raise InputError(
            f"{where}: {error.where}",
            error.rule,
            found=error.found,
            allowed=error.allowed,
            remedy=REMEDY,
        ) from error
    _compare(file, artifact)
    return artifact


def _compare(file: NirFile, artifact: Artifact) -> None:
    """Raise InputError unless a new export is this file, node by node."""
    nodes, edges, _ = nir_export.graph(artifact)
    if set(edges) != set(file.edges) or set(nodes) != set(file.nodes):
        changed = [*({*edges} ^ {*file.edges}), *({*nodes} ^ {*file.nodes})]
        rule = "nodes and edges are those that the metadata describe"
        raise refuse("the graph", rule, sorted(map(str, changed))[:3], "an unaltered graph", REMEDY)
    for name, node in nodes.items():
        wanted, found = _fields(node), _fields(file.nodes[name])
        for field in sorted({*wanted, *found}):
            if not _alike(wanted.get(field), found.get(field)):
                raise refuse(
                    f"{name} ({type(node).__name__})",
                    f"{field} is what the metadata describe",
                    str(found.get(field))[:80],
                    str(wanted.get(field))[:80],
                    REMEDY,
                )


def _fields(node: Any) -> dict[str, Any]:
    fields: dict[str, Any] = node.to_dict()
    return {k: v for k, v in fields.items() if k != "metadata"}


def _alike(a: Any, b: Any) -> bool:
    return a is not None and b is not None and np.array_equal(np.asarray(a), np.asarray(b))


@final
class _Reader:
    """Takes records, as `storage.decode` wants them, out of a graph's nodes and metadata."""

    def __init__(self, file: NirFile):
        self.file = file
        self.into: dict[str, list[str]] = {}
        for source, target in file.edges:
            self.into.setdefault(target, []).append(source)

    def records(self) -> tuple[Record, Record]:
        """Of the netlist and of its provenance."""
        populations = self._listed("population", self._population)
        record: Record = {
            "populations": populations,
            "connections": self._listed("connection", self._connection),
            "steps": _integer(self.file.metadata, "steps", "the graph"),
        }
        return record, _provenance(_text(self.file.metadata, "provenance", "the graph"))

    def _listed(self, kind: str, make: Callable[[str, Any, Mapping[str, Any]], Record]) -> Record:
        found = {}
        for name, node in self.file.nodes.items():
            if node.metadata.get(KEY) == kind:
                index = _integer(node.metadata, "index", name)
                if not 0 <= index < 10**4 or index in found:
                    raise refuse(name, "has a place of its own", index, "0, 1, ...", REMEDY)
                found[index] = make(name, node, node.metadata)
        return {f"{i:04d}": found[i] for i in sorted(found)}

    def _population(self, name: str, node: Any, metadata: Mapping[str, Any]) -> Record:
        model = _text(metadata, "model", name)
        if model not in FIELDS:
            raise refuse(name, "is a model that is exported to NIR", model, ", ".join(FIELDS))
        shape = _numbers(metadata, "shape", name)
        neuron: Record = {CLASS: model, **FIELDS[model](self, name, node, shape)}
        return {
            "name": _text(metadata, "name", name),
            "shape": shape,
            "neuron": neuron,
            "state_scale": _scale(metadata, "state_scale", name),
            "count_scale": _scale(metadata, "count_scale", name),
            "count_offset": _scale(metadata, "count_offset", name),
            "state_low": 0,
            "state_high": 0,
        }

    def bias(self, name: str, shape: Shape) -> Array:
        """What the linear nodes before a population add in each step."""
        total = np.zeros(shape)
        for node in self._linear_nodes(name):
            values = np.asarray(getattr(node, "bias", 0.0), np.float64)
            if values.shape not in ((), shape, shape[:1], (total.size,)):
                raise refuse(name, "a bias fits its population", values.shape, shape, REMEDY)
            if values.size == total.size:
                total = total + values.reshape(shape)
            else:
                total = total + values.reshape((-1,) + (1,) * (len(shape) - 1))
        return total

    def _linear_nodes(self, name: str) -> list[Any]:
        found = []
        for source in self.into.get(name, ()):
            node = self.file.nodes[source]
            if type(node).__name__ == "Flatten":
                before = self.into.get(source, [])
                node = self.file.nodes[before[0]] if before else node
            found.append(node)
        return found

    def _connection(self, name: str, node: Any, metadata: Mapping[str, Any]) -> Record:
        form = _text(metadata, "form", name)
        forms = {cls.__name__: cls for cls in FORMS}
        if form not in forms:
            raise refuse(name, "is a known form of map", form, ", ".join(forms), REMEDY)
        exponent = _integer(metadata, "exponent", name)
        if not 0 <= exponent <= 60:
            raise refuse(name, "exponents are small", exponent, "0..60", REMEDY)
        linear: Record = {CLASS: form}
        for field, hint in fields_of(forms[form]).items():
            if field == "weight" and field not in metadata:
                linear[field] = _weight(name, node, exponent, metadata)
            elif field in ("weight", "columns", "starts"):
                linear[field] = _array(metadata, field, name)
            elif hint is int:
                linear[field] = _integer(metadata, field, name)
            else:
                linear[field] = _numbers(metadata, field, name)
        return {
            "source": _text(metadata, "source", name),
            "target": _text(metadata, "target", name),
            "map": linear,
            "exponent": exponent,
            "delay": _integer(metadata, "delay", name),
            "weight_scale": _scale(metadata, "weight_scale", name),
            "synaptic_delay": _integer(metadata, "synaptic_delay", name),
        }


def _weight(name: str, node: Any, exponent: int, metadata: Mapping[str, Any]) -> Array:
    values = getattr(node, "weight", None)
    if values is None:
        values = getattr(node, "scale", None)
    if not isinstance(values, np.ndarray):
        raise refuse(name, "has weights", type(node).__name__, "Conv2d, Linear, Affine, Scale")
    whole = _whole(np.asarray(values, np.float64) / 2.0**exponent, name)
    if "weight_shape" not in metadata:
        return whole
    shape = _numbers(metadata, "in_shape", name)
    return _shrunk(whole, shape, _numbers(metadata, "weight_shape", name), name)


def _source(reader: _Reader, name: str, node: Any, shape: Shape) -> Record:
    return {
        "low": _integer(node.metadata, "low", name),
        "high": _integer(node.metadata, "high", name),
        "timing": _text(node.metadata, "timing", name),
    }


def _integrate_and_fire(reader: _Reader, name: str, node: Any, shape: Shape) -> Record:
    theta = _field(node, "v_threshold", name)
    if node.metadata.get("reset") == "zero":
        theta = theta + 0.5
    return {
        "threshold": _parameter(theta, node, "threshold_shape", shape, name),
        "bias": _parameter(reader.bias(name, shape), node, "bias_shape", shape, name),
        "initial": _array(node.metadata, "initial", name),
    }


def _leaky(reader: _Reader, name: str, node: Any, shape: Shape) -> Record:
    theta = _field(node, "v_threshold", name)
    return {
        "threshold": _parameter(theta, node, "threshold_shape", shape, name),
        "bias": _array(node.metadata, "bias", name),
        "current_decay": _integer(node.metadata, "current_decay", name),
        "voltage_decay": _integer(node.metadata, "voltage_decay", name),
    }


def _readout(reader: _Reader, name: str, node: Any, shape: Shape) -> Record:
    return {
        "bias": _parameter(reader.bias(name, shape), node, "bias_shape", shape, name),
        "initial": _array(node.metadata, "initial", name),
    }


FIELDS: Final[Mapping[str, Callable[[_Reader, str, Any, Shape], Record]]] = MappingProxyType(
    {
        "Source": _source,
        "SoftResetIF": _integrate_and_fire,
        "HardResetIF": _integrate_and_fire,
        "LIF": _leaky,
        "Readout": _readout,
    }
)
"""How the fields of each model are read; a test holds it to `nir_export.NODES`."""


def _field(node: Any, field: str, where: str) -> Array:
    values = getattr(node, field, None)
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        raise refuse(where, f"has {field}", type(node).__name__, "an array of floats", REMEDY)
    return values


def _parameter(values: Array, node: Any, key: str, shape: Shape, where: str) -> Array:
    return _shrunk(_whole(values, where), shape, _numbers(node.metadata, key, where), where)


def _shrunk(full: Array, shape: Shape, small: Shape, where: str) -> Array:
    """`full` as an array of shape `small` that broadcasts to it."""
    try:
        full = full.reshape(shape)
        ends = (1,) * (len(shape) - len(small)) + small
        corner = full[tuple(slice(0, 1 if n == 1 else None) for n in ends)].reshape(small)
        same = np.array_equal(np.broadcast_to(corner, shape), full)
    except (ValueError, IndexError) as error:
        raise refuse(where, "parameters fit the population", small, shape, REMEDY) from error
    if not same:
        raise refuse(where, "parameters are shared as the metadata say", "others", small, REMEDY)
    return np.array(corner)


def _whole(values: Array, where: str) -> Array:
    if not (np.isfinite(values) & (np.abs(values) < FLOAT64_EXACT)).all():
        raise refuse(where, "numbers are integers of ours", "too large or NaN", "< 2**53", REMEDY)
    whole = half_up(values)
    if not np.array_equal(whole, values):
        bad = values[whole != values].flat[0]
        raise refuse(where, "numbers are integers of ours", bad, "whole numbers", REMEDY)
    return whole


def _entry(metadata: Mapping[str, Any], key: str, where: str) -> Any:
    if key not in metadata:
        raise refuse(where, "has the metadata of the export", f"no {key}", key, REMEDY)
    return metadata[key]


def _text(metadata: Mapping[str, Any], key: str, where: str) -> str:
    value = _entry(metadata, key, where)
    if not isinstance(value, str):
        raise refuse(f"{where}: {key}", "is a text", type(value).__name__, "a text", REMEDY)
    return value


def _integer(metadata: Mapping[str, Any], key: str, where: str) -> int:
    value = _entry(metadata, key, where)
    if not isinstance(value, np.integer):
        raise refuse(f"{where}: {key}", "is an integer", value, "an integer", REMEDY)
    return int(value)


def _array(metadata: Mapping[str, Any], key: str, where: str) -> Array:
    value = np.asarray(_entry(metadata, key, where))
    if value.dtype.kind != "i":
        raise refuse(f"{where}: {key}", "holds integers", value.dtype, "signed integers", REMEDY)
    return value


def _scale(metadata: Mapping[str, Any], key: str, where: str) -> Array:
    value = np.asarray(_entry(metadata, key, where))
    if value.dtype.kind != "f":
        raise refuse(f"{where}: {key}", "holds units", value.dtype, "floats", REMEDY)
    return value


def _numbers(metadata: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
    text = _text(metadata, key, where)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, list) or not all(type(v) is int for v in values):
        raise refuse(f"{where}: {key}", "is a list of integers", text, "[1, 2]", REMEDY)
    return tuple(values)


def _value(value: Any) -> Value:
    """What JSON made of a record: its lists are tuples."""
    if isinstance(value, dict):
        return {name: _value(item) for name, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _provenance(text: str) -> Record:
    """The record of a provenance: strings that hold JSON become texts again, lists tuples."""
    try:
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("no object")
        record: Record = {}
        for field, hint in fields_of(Provenance).items():
            value = values.get(field)
            stored_as_json = isinstance(value, str) and hint is not str
            if stored_as_json:
                record[field] = Text(canonical_json(json.loads(str(value))))
            elif isinstance(value, (str, int, float, list, dict)):
                record[field] = _value(value)
    except (ValueError, RecursionError, TypeError) as error:
        raise refuse("the graph: provenance", "is JSON", error, "an object", REMEDY) from error
    return record
