"""Dataclasses to records and back: what a file holds is derived from the fields' types.

A record is a tree of named values and knows nothing of files; `artifact` puts it into HDF5. Reading
a record trusts nothing: names, types, sizes and ranges are checked against the fields, and what is
wrong is named. Array fields that end in `_scale` hold positive, finite float64, those that end in
`_offset` finite float64, all others signed integers. A class that is one of several is stored under
its name.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, TypeAlias, TypeVar, Union, get_args, get_origin
from typing import get_type_hints as resolved_types

import numpy as np

from lapilli.compiler.errors import ArtifactError
from lapilli.compiler.linear import FORMS, Array, LinearMap, frozen
from lapilli.compiler.neurons import MODELS, NeuronModel
from lapilli.compiler.numerics import smallest_integer


@dataclasses.dataclass(frozen=True)
class Text:
    """Canonical JSON: sorted keys, no spaces, ASCII, no NaN."""

    json: str


Value: TypeAlias = (
    "bool | int | float | str | tuple[int, ...] | tuple[float, ...] | Text | Array | Record"
)
Record: TypeAlias = "dict[str, Value]"
Option = bool | int | float | str | list[Any] | None
"""The value of an option: JSON without objects."""

CLASS = "class"
"""The name beside the fields under which the class is kept; no field can have it."""
FAMILIES: Final[dict[type, tuple[type, ...]]] = {NeuronModel: MODELS, LinearMap: FORMS}
"""Abstract classes and the classes that a file may name in their place."""

MAX_TEXT = 4096
MAX_JSON = 2**20
MAX_ITEMS = 8192
"""Longest string and JSON text in characters, longest tuple: far above use, far below harm."""

REMEDY = "The file was altered or written by a faulty tool: compile the network again."

T = TypeVar("T")


def refuse(where: str, rule: str, found: object, allowed: object) -> ArtifactError:
    """The error for a value in a file that breaks `rule`."""
    shown = str(found)
    shown = shown if len(shown) <= 200 else shown[:200] + "..."
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)
    where = where.removesuffix(":")  # the file itself rather than a place inside
    return ArtifactError(where, rule, found=shown, allowed=allowed, remedy=REMEDY)


def encode(value: object, hint: Any = None) -> Value:
    """The record of a dataclass, or the stored value of a field whose type is `hint`.

    Does not check ranges: `decode` of the result does, so that a file that could not be read is
    never written.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        record: Record = {} if hint not in FAMILIES else {CLASS: type(value).__name__}
        for name, field_hint in fields_of(type(value)).items():
            record[name] = encode(getattr(value, name), field_hint)
        return record
    origin = get_origin(hint)
    if origin is np.ndarray:
        return _little_endian(np.asarray(value))
    if origin is Mapping or hint == tuple[str, ...]:
        return Text(canonical_json(value))
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return {_index(i): encode(v, get_args(hint)[0]) for i, v in enumerate(value)}
    if isinstance(value, tuple) and not value and dataclasses.is_dataclass(get_args(hint)[0]):
        return {}
    if isinstance(value, (bool, int, float, str, tuple)):
        return value
    raise TypeError(f"{type(value).__name__} as {hint} has no storage: add it to encode and decode")


def decode(cls: type[T], record: Value, where: str) -> T:
    """The dataclass that `record` describes; ArtifactError names what is wrong and its path."""
    result: T = _decode(cls, record, where, "")
    return result


@functools.cache
def fields_of(cls: type) -> Mapping[str, Any]:
    """Field names of a dataclass, in order, with their resolved types."""
    types_by_name = resolved_types(cls)
    return types.MappingProxyType(
        {f.name: types_by_name[f.name] for f in dataclasses.fields(cls) if f.init}
    )


def canonical_json(value: object) -> str:
    """One text per value. Raises ValueError where a number is not finite."""
    plain = dict(value) if isinstance(value, Mapping) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Value) -> str:
    """SHA-256 of a record: independent of integer types, field order, platform and file."""
    sha = hashlib.sha256()
    _feed(sha.update, value)
    return sha.hexdigest()


def _feed(update: Callable[[Any], None], value: Value) -> None:
    """Every value begins with its kind and length, so no two records give the same bytes."""
    if isinstance(value, dict):
        update(b"{%d" % len(value))
        for name in sorted(value):
            _feed(update, name)
            _feed(update, value[name])
    elif isinstance(value, np.ndarray):
        exact = value.astype("<f8") if value.dtype.kind == "f" else smallest_integer(value)
        exact = _little_endian(exact)
        _feed(update, (*exact.shape,))
        update(exact.dtype.str.encode())
        update(exact.reshape(-1).view(np.uint8))
    elif isinstance(value, tuple):
        update(b"(%d" % len(value))
        for item in value:
            _feed(update, item)
    elif isinstance(value, Text):
        update(b"j")
        _feed(update, value.json)
    elif isinstance(value, str):
        data = value.encode()
        update(b"s%d:" % len(data))
        update(data)
    elif isinstance(value, float):
        update(b"f" + np.float64(value).astype("<f8").tobytes())
    else:
        update(b"b%d;" % value if isinstance(value, bool) else b"i%d;" % value)


def _little_endian(array: Array) -> Array:
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _index(i: int) -> str:
    return f"{i:04d}"


def _decode(hint: Any, value: Value, where: str, name: str) -> Any:
    if hint in _SCALARS:
        return _SCALARS[hint](value, where)
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where)
    if hint == tuple[str, ...]:
        return _texts(value, where)
    if get_origin(hint) not in _GENERICS:
        raise TypeError(f"{hint} has no storage: add it to encode and decode")
    return _GENERICS[get_origin(hint)](get_args(hint), value, where, name)


def _boolean(value: Value, where: str) -> bool:
    if not isinstance(value, bool):
        raise refuse(where, "is a truth value", _kind(value), "a boolean")
    return value


def _integer(value: Value, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise refuse(where, "is an integer", _kind(value), "a 64-bit integer")
    return value


def _float(value: Value, where: str) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        found = value if isinstance(value, float) else _kind(value)
        raise refuse(where, "is a finite number", found, "a finite float64")
    return value


def _text(value: Value, where: str) -> str:
    if not isinstance(value, str):
        raise refuse(where, "is a string", _kind(value), "UTF-8 text")
    if len(value) > MAX_TEXT:
        raise refuse(where, "is not too long", len(value), f"{MAX_TEXT} characters")
    # A name reaches terminals and reports: escape sequences and half characters stop here.
    if not all(c.isprintable() or c in "\n\t" for c in value):
        raise refuse(where, "is printable text", ascii(value[:80]), "printable characters")
    return value


_SCALARS: Final[dict[type, Callable[[Value, str], Any]]] = {
    bool: _boolean,
    int: _integer,
    float: _float,
    str: _text,
}


def _literal(arguments: tuple[Any, ...], value: Value, where: str, name: str) -> str:
    if not isinstance(value, str) or value not in arguments:
        raise refuse(where, "is one of the known words", value, ", ".join(arguments))
    return value


def _array(arguments: tuple[Any, ...], value: Value, where: str, name: str) -> Array:
    scale, real = name.endswith("_scale"), name.endswith(("_scale", "_offset"))
    if not isinstance(value, np.ndarray):
        raise refuse(where, "is an array", _kind(value), "an array")
    if value.dtype.kind != ("f" if real else "i"):
        allowed = "float64" if real else "signed integers"
        raise refuse(where, "has the right number type", value.dtype, allowed)
    if scale and not (np.isfinite(value) & (value > 0)).all():
        bad = value[~(np.isfinite(value) & (value > 0))].flat[0]
        raise refuse(where, "scales are positive and finite", bad, "> 0 and finite")
    if real and not np.isfinite(value).all():
        bad = value[~np.isfinite(value)].flat[0]
        raise refuse(where, "offsets are finite", bad, "finite")
    return frozen(value, np.float64) if real else frozen(value)


def _tuple(arguments: tuple[Any, ...], value: Value, where: str, name: str) -> tuple[Any, ...]:
    variable = arguments[-1] is Ellipsis
    if dataclasses.is_dataclass(arguments[0]):
        if not isinstance(value, dict) or sorted(value) != [_index(i) for i in range(len(value))]:
            raise refuse(where, "is a numbered list", _kind(value), "0000, 0001, ...")
        if len(value) > MAX_ITEMS:
            raise refuse(where, "is not too long", len(value), MAX_ITEMS)
        items = [(f"{where}/{_index(i)}", value[_index(i)]) for i in range(len(value))]
        return tuple(_decode(arguments[0], item, at, "") for at, item in items)
    if not isinstance(value, tuple) or len(value) > MAX_ITEMS:
        found = f"{len(value)} items" if isinstance(value, tuple) else _kind(value)
        raise refuse(where, "is a short list", found, f"at most {MAX_ITEMS} numbers")
    if not variable and len(value) != len(arguments):
        raise refuse(where, "has the right length", len(value), len(arguments))
    return tuple(_decode(arguments[0], item, where, "") for item in value)


def _mapping(arguments: tuple[Any, ...], value: Value, where: str, name: str) -> dict[str, Any]:
    result = _parse(value, where)
    if not isinstance(result, dict):
        raise refuse(where, "is a JSON object", type(result).__name__, "an object")
    for key, item in result.items():
        _text(key, where)
        _option(arguments[1], item, f"{where} ({key})")
    return result


_GENERICS: Final[dict[Any, Callable[[tuple[Any, ...], Value, str, str], Any]]] = {
    Literal: _literal,
    np.ndarray: _array,
    Mapping: _mapping,
    tuple: _tuple,
}


def _option(hint: Any, value: object, where: str) -> None:
    allowed = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    kinds = [get_origin(a) or a for a in allowed]
    if type(value) not in kinds:
        words = ", ".join(k.__name__ for k in kinds)
        raise refuse(where, "has the right type", type(value).__name__, words)
    if isinstance(value, list):
        for item in value:
            _option(hint, item, where)
    elif isinstance(value, str):
        _text(value, where)
    elif isinstance(value, int):
        _integer(int(value), where)


def _texts(value: Value, where: str) -> tuple[str, ...]:
    result = _parse(value, where)
    if not isinstance(result, list):
        raise refuse(where, "is a JSON list", type(result).__name__, "a list of strings")
    return tuple(_text(item, where) for item in result)


def _parse(value: Value, where: str) -> object:
    if not isinstance(value, Text):
        raise refuse(where, "is JSON text", _kind(value), "a string dataset")
    if len(value.json) > MAX_JSON:
        raise refuse(where, "is not too long", len(value.json), f"{MAX_JSON} characters")
    try:
        result: object = json.loads(value.json)
        # Catches repeated keys too, of which a parser silently keeps the last.
        canonical = canonical_json(result) == value.json
    except (ValueError, RecursionError) as error:
        raise refuse(where, "is JSON", error, "JSON without NaN") from error
    if not canonical:
        raise refuse(where, "is canonical JSON", value.json, "sorted unique keys, no spaces")
    return result


def _dataclass(cls: Any, value: Value, where: str) -> Any:
    if not isinstance(value, dict):
        raise refuse(where, "is a group", _kind(value), "a group")
    if cls in FAMILIES:
        known = {c.__name__: c for c in FAMILIES[cls]}
        name = value.get(CLASS)
        if not isinstance(name, str) or name not in known:
            raise refuse(f"{where}/{CLASS}", "is a known class", name, ", ".join(known))
        cls, value = known[name], {k: v for k, v in value.items() if k != CLASS}
    hints = fields_of(cls)
    if set(value) != set(hints):
        missing, unknown = sorted(set(hints) - set(value)), sorted(set(value) - set(hints))
        found = f"missing {missing or 'none'}, unknown {unknown or 'none'}"
        raise refuse(where, f"has the fields of {cls.__name__}", found, ", ".join(hints))
    return cls(**{n: _decode(h, value[n], f"{where}/{n}", n) for n, h in hints.items()})


def _kind(value: object) -> str:
    return f"{type(value).__name__} {value}" if not isinstance(value, dict) else "a group"
