"""Checks and help texts of options: their dataclass fields are the command line's options."""

from __future__ import annotations

from typing import Any

from lapilli.compiler.errors import InputError


def help_text(text: str, choices: tuple[str, ...] = ()) -> dict[str, Any]:
    """Metadata of an option's field: `help` and, where they are closed, `choices`."""
    return {"help": text, "choices": choices}


def check_range(option: str, value: float, low: float, high: float) -> None:
    """Raise InputError unless low <= value <= high."""
    if not (isinstance(value, (int, float)) and low <= value <= high):
        raise InputError(
            f"option {option}",
            "options lie in their range",
            found=value,
            allowed=f"{low:g}..{high:g}",
            remedy=f"Choose {option} within the range.",
        )


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise InputError unless value is one of choices."""
    if value not in choices:
        raise InputError(
            f"option {option}",
            "options take a listed value",
            found=value,
            allowed=", ".join(choices),
            remedy=f"Choose one of {', '.join(choices)}.",
        )
