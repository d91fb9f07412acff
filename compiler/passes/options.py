"""Checks and help texts of options: their dataclass fields are the command line's options."""

from __future__ import annotations

from typing import Any

from lapilli.compiler.errors import InputError


def help_text(text: str, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    """Metadata of an option's field: `help` and, where they are closed, `choices`."""
    return {"help": text, "choices": choices}


def check_count(option: str, value: object, low: int, high: int) -> None:
    """Raise InputError unless value is an integer with low <= value <= high."""
    # True is an int in Python, but no count.
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _refuse(option, _RANGE, value, f"whole numbers {low}..{high}")


def check_range(option: str, value: object, low: float, high: float) -> None:
    """Raise InputError unless value is a number with low <= value <= high."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise _refuse(option, _RANGE, value, f"{low:g}..{high:g}")


def check_choice(option: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise InputError unless value is one of choices."""
    if value not in choices:
        raise _refuse(option, _LISTED, value, ", ".join(choices))


def check_flag(option: str, value: object) -> None:
    """Raise InputError unless value is True or False."""
    if not isinstance(value, bool):
        raise _refuse(option, _LISTED, value, "True, False")


def check_text(option: str, value: object) -> None:
    """Raise InputError unless value is text."""
    if not isinstance(value, str):
        raise _refuse(option, "options have their type", value, "text")


_RANGE = "options lie in their range"
_LISTED = "options take a listed value"


def _refuse(option: str, rule: str, value: object, allowed: str) -> InputError:
    remedy = f"Choose another value of {option}."
    return InputError(f"option {option}", rule, found=repr(value), allowed=allowed, remedy=remedy)
