"""The network in a file that `loihi_export` wrote, rebuilt from what its cores hold.

Nothing in the file is trusted: the rebuilt netlist passes the checks of a model file, and its hash
is the one that the file states.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from lapilli.compiler import soundness
from lapilli.compiler.errors import LapilliError
from lapilli.compiler.interchange.loihi_export import FORMAT, FORMAT_VERSION
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.sealed_file import MAX_FILE_BYTES
from lapilli.compiler.storage import CLASS, Record, Value, decode, digest, encode, refuse

Json = dict[str, Any]
_FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)
"""What Python and numpy raise where a value is not of the kind that the schema wants."""
_NUMBERS = ("int8", "int16", "int32", "int64")


def read(path: str | os.PathLike[str]) -> tuple[Json, Netlist]:
    """The document in a file and the network that it holds. Raises ArtifactError."""
    where = str(path)
    try:
        if not Path(path).is_file() or Path(path).stat().st_size > MAX_FILE_BYTES:
            raise refuse(where, "is a file of this format", "no file, or too large", "a JSON file")
        document = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refuse(where, "is JSON in UTF-8", error, "a file of `lapilli export`") from error
    return document, rebuild(document, where)


def rebuild(document: Json, where: str = "configuration") -> Netlist:
    """The netlist, from the parameters of the cores' neurons and the weights of the file.

    Raises ArtifactError where anything is missing, malformed, or not what was exported.
    """
    try:
        _check_format(document, where)
        weights = {w["id"]: _weights(w, where) for w in document["weights"]}
        populations = document["populations"]
        record: Record = {
            "populations": _listed([_population(document, p, where) for p in populations]),
            "connections": _listed([_connection(c, weights) for c in document["connections"]]),
            "steps": document["timing"]["window"],
        }
    except _FAULTS as error:
        found = f"{type(error).__name__}: {error}"
        raise refuse(where, "follows loihi_schema.json", found, "a valid file") from error
    netlist = decode(Netlist, record, where)
    soundness.check(netlist, where)
    try:
        netlist.verify()
    except LapilliError as error:
        place = f"{where}: {error.where}"
        raise refuse(place, error.rule, error.found, error.allowed) from error
    found = digest(encode(netlist))
    if found != document["netlist_hash"]:
        raise refuse(where, "holds the network of its hash", found, document["netlist_hash"])
    return netlist


def _check_format(document: Json, where: str) -> None:
    found = document["format"], document["format_version"]
    if found != (FORMAT, FORMAT_VERSION):
        raise refuse(where, "is of this format", found, f"{FORMAT} {FORMAT_VERSION}")


def _population(document: Json, p: Json, where: str) -> Value:
    shape = tuple(p["shape"])
    neurons = math.prod(shape)
    if not 0 < neurons <= soundness.MAX_NEURONS:
        raise refuse(f"{where}: {p['name']}", "has neurons", neurons, f"1..{soundness.MAX_NEURONS}")
    groups = [g for c in document["cores"] for g in c["neuron_groups"] if _same(g, p, where)]
    arrays = {
        name: _assembled(groups, name, shape, stated, f"{where}: {p['name']}/{name}")
        for name, stated in p["arrays"].items()
    }
    return {
        "name": p["name"],
        "shape": shape,
        "neuron": {CLASS: p["program"], **_plain(p["settings"]), **arrays},
        "state_scale": _array(p["state_scale"], "float64"),
        "count_scale": _array(p["count_scale"], "float64"),
        "count_offset": _array(p["count_offset"], "float64"),
        "state_low": p["state_low"],
        "state_high": p["state_high"],
    }


def _same(group: Json, p: Json, where: str) -> bool:
    """Is the group one of this population? Then it says the same of its program."""
    if group["population"] != p["name"]:
        return False
    for key in ("program", "settings"):
        if group[key] != p[key]:
            place = f"{where}: {p['name']}"
            raise refuse(place, f"has one {key} on all cores", group[key], p[key])
    return True


def _assembled(
    groups: list[Json], name: str, shape: tuple[int, ...], stated: Json, where: str
) -> Array:
    """A parameter in the shape that it was compiled in, from what each core holds of it."""
    wanted = tuple(stated["shape"])
    own, behind = wanted[: stated["own_axes"]], wanted[stated["own_axes"] :]
    if math.prod(own) * math.prod(shape) > soundness.MAX_NEURONS:
        raise refuse(where, "is not too large", wanted, f"{soundness.MAX_NEURONS} values")
    full = np.zeros((*own, *shape), np.int64)
    held = np.zeros(shape, np.int64)
    for group in groups:
        box, stored = _box(group["box"], shape, where), group["arrays"][name]
        sizes = [high - low for low, high in box]
        places = tuple(slice(low, high) for low, high in box)
        kept = {"group": 0, "channel": 1, "neuron": len(sizes)}[stored["per"]]
        broadcast = (*sizes[:kept], *(1,) * (len(sizes) - kept))
        within: Any = (..., *places)
        full[within] = _integers(stored["values"]).reshape(*own, *broadcast)
        held[places] += 1
    if (held != 1).any():
        raise refuse(where, "each neuron is on one core", int(held[held != 1][0]), 1)
    axes = (*own, *(1,) * (len(shape) - len(behind)), *behind)
    result = full[tuple(slice(None) if n > 1 else slice(0, 1) for n in axes)]
    if (np.broadcast_to(result, full.shape) != full).any():
        raise refuse(where, "is shared as it was compiled", "other values", f"shape {wanted}")
    return result.reshape(wanted)


def _box(stored: Any, shape: tuple[int, ...], where: str) -> list[tuple[int, int]]:
    """The edges of a box along each axis of the shape."""
    box = [(low, high) for (low, high), _ in zip(stored, shape, strict=True)]
    for (low, high), size in zip(box, shape, strict=True):
        if type(low) is not int or type(high) is not int or not 0 <= low < high <= size:
            raise refuse(where, "is of neurons of the population", stored, f"within {shape}")
    return box


def _connection(c: Json, weights: dict[str, Array]) -> Value:
    arrays = {name: weights[key] for name, key in c["weights"].items()}
    scale = _array(c["weight_scale"], "float64")
    kept = {k: v for k, v in c.items() if k not in _DERIVED}
    return {
        **_plain(kept),
        "map": {CLASS: c["form"], **_plain(c["geometry"]), **arrays},
        "weight_scale": scale,
    }


_DERIVED = ("form", "geometry", "weights", "weight_scale", "synapse", "computed_by")


def _weights(entry: Json, where: str) -> Array:
    if entry["type"] not in _NUMBERS:
        raise refuse(
            f"{where}: {entry['id']}", "is of integers", entry["type"], ", ".join(_NUMBERS)
        )
    values = _array(entry, "int64")
    found = hashlib.sha256(values.astype("<i8").tobytes()).hexdigest()
    if found != entry["sha256"]:
        raise refuse(where, "has its hash", found, entry["sha256"])
    narrow = values.astype(entry["type"])
    if (narrow != values).any():
        raise refuse(where, "fits its type", "larger values", entry["type"])
    return narrow


def _array(stored: Json, dtype: str) -> Array:
    values = stored["values"] if dtype == "float64" else _integers(stored["values"])
    return np.array(values, dtype).reshape(stored["shape"])


def _integers(values: Any) -> Array:
    """As int64; numpy would silently cut fractions off and take truth values."""
    result = np.array(values)
    if result.size and result.dtype.kind != "i":
        raise TypeError(f"{result.dtype} instead of integers")
    return result.astype(np.int64)


def _plain(values: Json) -> Record:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}


def _listed(records: list[Value]) -> Record:
    return {f"{i:04d}": record for i, record in enumerate(records)}
