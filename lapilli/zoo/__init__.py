"""Recipes that come with Lapilli: a TOML file each, and their networks in `networks`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The recipes, by the names that `lapilli train` knows."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))
