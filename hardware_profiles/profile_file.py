"""Files of profiles: reading them, and saying by key where one departs from schema.json."""

from __future__ import annotations

import difflib
import errno
import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn, final

HOME = Path(__file__).parent
MAX_BYTES = 1_000_000
SCHEMA = "schema"


@final
class ProfileError(ValueError):
    """A profile that does not exist, cannot be used, or breaks the schema (exit code 2)."""

    exit_code: ClassVar[int] = 2

    def __init__(self, where: str, rule: str, *, found: object, allowed: object, remedy: str):
        self.where = where
        self.rule = rule
        self.found = str(found)
        self.allowed = str(allowed)
        self.remedy = remedy
        super().__init__(where, rule)

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.rule}; found {self.found}, allowed {self.allowed}. {self.remedy}"
        )


def built_in() -> tuple[str, ...]:
    """The names of the files that come with the package, in alphabetical order."""
    return tuple(sorted(p.stem for p in HOME.glob("*.json") if p.stem != SCHEMA))


def read(path: Path) -> dict[str, Any]:
    """A file that obeys schema.json. Raises ProfileError, naming the key that does not."""
    data = _parse(path)
    _check(data, _schema(), path.name, "")
    checked: dict[str, Any] = data
    return checked


@lru_cache(maxsize=1)
def _schema() -> Any:
    return _parse(HOME / f"{SCHEMA}.json")


def _parse(path: Path) -> Any:
    """The file as JSON; a key given twice is refused, for JSON would silently keep the last."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"key {twice[0]!r} given twice")
        return dict(items)

    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "no file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return json.loads(content.decode("utf-8"), object_pairs_hook=pairs)
    except OSError as error:
        found = error.strerror or str(error)
        rule, allowed, remedy = "the profile can be read", "a file", "Check the path."
    except (ValueError, RecursionError) as error:
        found, rule, allowed = str(error), "a profile is JSON", "JSON with each key once, in UTF-8"
        remedy = "Correct the file, or begin with a copy of a built-in profile."
    raise ProfileError(str(path), rule, found=found, allowed=allowed, remedy=remedy)


_TYPES: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "object": (dict,),
        "null": (type(None),),
        "string": (str,),
        "boolean": (bool,),
        "integer": (int,),
        "number": (int, float),
    }
)


def _check(value: Any, rule: Mapping[str, Any], file: str, key: str) -> None:
    """Raise unless `value` obeys `rule`: the part of JSON Schema that schema.json uses.

    Stricter than JSON Schema in one point: 1.0 is not an integer.
    """
    if "$ref" in rule:
        beside = {name: law for name, law in rule.items() if name != "$ref"}
        rule = {**_schema()["$defs"][rule["$ref"].rpartition("/")[2]], **beside}
    if "if" in rule:
        _check(value, rule["then" if _obeys(value, rule["if"]) else "else"], file, key)
    _check_value(value, rule, file, key)
    if isinstance(value, dict):
        _check_keys(value, rule, file, key)
        for name, inner in rule.get("properties", {}).items():
            if name in value:
                _check(value[name], inner, file, f"{key}.{name}".lstrip("."))


def _check_value(value: Any, rule: Mapping[str, Any], file: str, key: str) -> None:
    refuse = _refusal(file, key)
    if "const" in rule and value != rule["const"]:
        refuse("the unit is fixed by the key's name", _brief(value), rule["const"], "Convert it.")
    if "enum" in rule and value not in rule["enum"]:
        refuse("the value is one of a list", _brief(value), ", ".join(rule["enum"]), "Choose one.")
    if "type" in rule:
        kinds = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        if not any(_is(value, kind) for kind in kinds):
            remedy = "Give an object with value, unit, source and confidence."
            remedy = remedy if "object" in kinds else "Correct the value."
            refuse("the type is right", _brief(value), " or ".join(kinds), remedy)
    if "pattern" in rule and not re.search(rule["pattern"], value):
        refuse("the text is not empty", repr(value), "a text", "Say where the value comes from.")
    if "minimum" in rule and not rule["minimum"] <= value <= rule["maximum"]:
        allowed = f"{rule['minimum']}..{rule['maximum']}"
        refuse("the value is in range", value, allowed, "Correct the value.")


def _check_keys(value: Mapping[str, Any], rule: Mapping[str, Any], file: str, key: str) -> None:
    refuse = _refusal(file, key)
    known = rule.get("properties", {})
    unknown = next((k for k in value if k not in known), None)
    if unknown is not None and "additionalProperties" in rule:
        close = difflib.get_close_matches(unknown, known, n=1)
        remedy = f"Did you mean {close[0]!r}?" if close else "Remove the key."
        refuse("every key is known", f"key {unknown!r}", ", ".join(known), remedy)
    missing = [k for k in rule.get("required", ()) if k not in value]
    if missing:
        remedy = "Add it; null where nothing is known."
        remedy = "Add it: no number stands alone." if "unit" in known else remedy
        refuse("no key is missing", f"no {missing[0]!r}", ", ".join(rule["required"]), remedy)


def _refusal(file: str, key: str) -> Callable[[str, object, object, str], NoReturn]:
    def refuse(law: str, found: object, allowed: object, remedy: str) -> NoReturn:
        where = f"{file} {key}".rstrip()
        raise ProfileError(where, law, found=found, allowed=allowed, remedy=remedy)

    return refuse


def _obeys(value: Any, rule: Mapping[str, Any]) -> bool:
    try:
        _check(value, rule, "", "")
    except ProfileError:
        return False
    return True


def _is(value: Any, kind: str) -> bool:
    # bool is an int in Python, but not in JSON.
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
