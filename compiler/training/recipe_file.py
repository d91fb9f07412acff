"""Recipes as TOML files, checked key by key before anything runs."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from lapilli.compiler.errors import InputError
from lapilli.compiler.training.kinds import KINDS
from lapilli.compiler.training.recipe import Recipe

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_BYTES = 1_000_000


def read_recipe(path: Path, changes: Mapping[str, str] | None = None) -> Recipe:
    """The recipe in a file, with some of its values replaced.

    changes: dotted key -> value in TOML's notation, or plain text. Raises InputError that names
    the key, what it may be, and the key that was meant where that can be told.
    """
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise _unreadable(path, f"more than {MAX_BYTES} bytes")
        table = tomllib.loads(text.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # bad text, huge numbers, deep tables
        raise _unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    for key, value in (changes or {}).items():
        _replace(table, key, value)
    return recipe_of(table, str(path))


def recipe_of(table: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that a table says. Raises InputError as `read_recipe` does."""
    given = dict(table)
    kind = str(given.get("kind"))
    if kind not in KINDS:
        close = difflib.get_close_matches(kind, KINDS, n=1)
        raise InputError(
            f"{where}: kind",
            "a recipe is of a known kind",
            found=kind,
            allowed=", ".join(KINDS),
            remedy=f"Did you mean {close[0]}?" if close else "Choose one of these.",
        )
    own = given.pop(kind, {})
    if others := [name for name in KINDS if name in given]:
        raise InputError(
            f"{where}: {others[0]}",
            "a recipe has the options of its own kind",
            found=f"kind {kind}, and the table [{others[0]}]",
            allowed=f"[{kind}], or none",
            remedy=f"Remove the table, or choose the kind {others[0]}.",
        )
    options = _validated(KINDS[kind].options, own, where, (kind,))
    recipe: Recipe = _validated(Recipe, given, where, (), tables=(kind,))
    if recipe.teacher is not None and not KINDS[kind].taught:
        raise InputError(
            f"{where}: teacher",
            "the recipe's teacher is for kinds that learn from labels alone otherwise",
            found=f"kind {kind}",
            allowed=", ".join(name for name, known in KINDS.items() if known.taught),
            remedy="Leave the table out; the kind distilled has options for its own teacher.",
        )
    return replace(recipe, options=options)


def _validated(
    kind: type[Any],
    given: Any,
    where: str,
    prefix: tuple[str, ...],
    tables: tuple[str, ...] = (),
) -> Any:
    """The dataclass that the given table says; tables: further ones that could be meant in it."""
    from pydantic import TypeAdapter, ValidationError

    try:
        # As JSON: strict checks then take its arrays for tuples, its objects for dataclasses.
        return TypeAdapter(kind).validate_json(json.dumps(given, default=str))
    except ValidationError as error:
        raise _refused(error, kind, where, prefix, tables) from error


def _refused(
    error: ValidationError,
    kind: type[Any],
    where: str,
    prefix: tuple[str, ...],
    tables: tuple[str, ...],
) -> InputError:
    first: ErrorDetails = error.errors()[0]
    place = ".".join([*prefix, *_key(kind, first["loc"])])
    unknown = first["type"] in ("unexpected_keyword_argument", "extra_forbidden")
    known = _keys(kind, [str(part) for part in first["loc"][:-1]])
    if not unknown:
        return InputError(
            f"{where}: {place}",
            "every value of a recipe has its type",
            found=repr(first["input"]),
            allowed=first["msg"],
            remedy="Correct the value, or leave the key out: most have a default.",
        )
    if len(first["loc"]) == 1:
        known += tables
    meant = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
    return InputError(
        f"{where}: {place}",
        "a recipe has known keys",
        found=str(first["loc"][-1]),
        allowed=", ".join(known),
        remedy=f"Did you mean {meant[0]}?" if meant else "Remove the key.",
    )


def _key(kind: type[Any], path: Sequence[str | int]) -> list[str]:
    """The key, and places in its list; not which of several types was tried on the value."""
    found: list[str] = []
    table: type[Any] | None = kind
    for part in path:
        if table is not None or isinstance(part, int):
            found.append(str(part))
        table = None if table is None else _table(table, str(part))
    return found


def _keys(kind: type[Any], path: list[str]) -> list[str]:
    """The keys of the table at `path` inside a dataclass."""
    for part in path:
        table = _table(kind, part)
        if table is None:
            break
        kind = table
    return [f.name for f in fields(kind) if f.name != "options"]


def _table(kind: type[Any], key: str) -> type[Any] | None:
    """The dataclass that is the value of a key, None where the value is no table."""
    hint = get_type_hints(kind).get(key)
    found = [t for t in (hint, *get_args(hint)) if isinstance(t, type) and is_dataclass(t)]
    return found[0] if found else None


def _replace(table: dict[str, Any], key: str, value: str) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = table.setdefault(part, {})
        if not isinstance(inner, dict):
            raise InputError(
                f"option --set {key}",
                "a key lies in a table",
                found=f"{part} = {inner!r}",
                allowed="for example training.epochs=3",
                remedy="Correct the key.",
            )
        table = inner
    try:
        table[last] = tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):
        table[last] = _number_or_text(value)


def _number_or_text(value: str) -> float | str:
    """What TOML does not take: numbers like .5, and text, which need not be quoted."""
    try:
        return float(value)
    except ValueError:
        return value


def _unreadable(path: Path, found: str) -> InputError:
    return InputError(
        str(path),
        "a recipe is a TOML file",
        found=found,
        allowed="a text file as docs/training.md describes",
        remedy="Name one of `lapilli train --list`, or a file.",
    )
