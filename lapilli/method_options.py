"""Options of the conversion methods on the command line, made from their dataclasses' fields.

Nothing here knows a method: a new field of a method is a new option of `lapilli compile`.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

import click

from lapilli.compiler.errors import InputError

Methods = Mapping[str, type[Any]]


def options(methods: Methods) -> list[click.Option]:
    """One click option per field name; given where the user gave it, else None."""
    return [_option(name, owners) for name, owners in _fields(methods).items()]


def build(methods: Methods, method: str, given: Mapping[str, Any]) -> Any:
    """The options object of `method`. Raises InputError for an option of another method."""
    owners = _fields(methods)
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if method not in owners.get(name, {}):
            others = " or ".join(owners.get(name, {}))
            raise InputError(
                f"option {_flag(name)}",
                "an option belongs to the chosen method",
                found=f"--method {method}",
                allowed=f"--method {others}" if others else "files of other tools",
                remedy=f"Leave {_flag(name)} out, or choose another method.",
            )
    return methods[method](**chosen)


def _fields(methods: Methods) -> dict[str, dict[str, Field[Any]]]:
    """Field name -> method name -> field, in the order of declaration."""
    found: dict[str, dict[str, Field[Any]]] = {}
    for method, cls in methods.items():
        hints = typing.get_type_hints(cls)
        for field in fields(cls):
            field.type = hints[field.name]
            found.setdefault(field.name, {})[method] = field
    return found


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _option(name: str, owners: Mapping[str, Field[Any]]) -> click.Option:
    kinds = {_kind(field) for field in owners.values()}
    assert len(kinds) == 1, f"option {name} has one type in all methods"
    kind = kinds.pop()
    flag = f"{_flag(name)}/--no-{_flag(name)[2:]}" if kind is bool else _flag(name)
    choices = dict.fromkeys(c for f in owners.values() for c in f.metadata.get("choices", ()))
    texts = dict.fromkeys(str(field.metadata["help"]) for field in owners.values())
    defaults = ", ".join(f"{method}: {_default(field)}" for method, field in owners.items())
    return click.Option(
        [flag, name],
        type=click.Choice(list(choices)) if choices else kind,
        default=None,
        help=f"{'; '.join(texts)}  [{defaults}]",
    )


def _kind(field: Field[Any]) -> type[Any]:
    """The plain type of a field: that of the values of a Literal, that of X in X | None."""
    hint: Any = field.type
    if typing.get_origin(hint) is typing.Literal:
        return type(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    assert hint in (bool, int, float, str), f"{field.name} has a type for the command line"
    return typing.cast("type[Any]", hint)


def _default(field: Field[Any]) -> str:
    if field.default is MISSING:
        return "required"
    return str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
