"""Levels of single populations: "relu=4,layer1.0.relu=16" beside the level of all others."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from lapilli.compiler.errors import InputError
from lapilli.compiler.passes.options import check_count
from lapilli.compiler.populations import PopulationGraph

MOST_LEVELS = 255
_PART = re.compile(r"\s*([^=]+?)\s*=\s*([0-9]{1,9})\s*(?:,|$)")
"""One part: names of modules may contain commas, but end at a sign of equality."""


def parse(text: str) -> dict[str, int]:
    """Population name -> levels. Raises InputError for anything but a list of name=levels."""
    found: dict[str, int] = {}
    place = 0
    while place < len(text):
        part = _PART.match(text, place)
        if part is None or part[1] in found:
            rest = text[place : place + 80]
            raise _refuse(rest if part is None else f"{part[1]} twice")
        check_count(f"mixed ({part[1]})", int(part[2]), 1, MOST_LEVELS)
        found[part[1]] = int(part[2])
        place = part.end()
    return found


def written(levels: Mapping[str, int]) -> str:
    """The text that `parse` reads as these levels."""
    return ",".join(f"{name}={count}" for name, count in levels.items())


def parts(text: str) -> list[str]:
    """The text in its parts, of one population each."""
    return [written({name: count}) for name, count in parse(text).items()]


def counting(graph: PopulationGraph) -> list[str]:
    """The populations that have levels, in order: pools have those of what they read."""
    return [p.name for p in graph.populations if p.role in ("activation", "product")]


def check_names(mixed: Mapping[str, int], graph: PopulationGraph) -> None:
    """Raise InputError for the first name that is no population with levels."""
    known = counting(graph)
    for name in mixed:
        if name not in known:
            raise _unknown(name, known)


def _unknown(name: str, known: Sequence[str]) -> InputError:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return InputError(
        "option mixed",
        "levels are given to populations that count",
        found=repr(name),
        allowed=", ".join(known) or "none in this network",
        remedy=f"Did you mean {close[0]!r}?" if close else "Choose some of these, or leave it out.",
    )


def _refuse(found: str) -> InputError:
    return InputError(
        "option mixed",
        "levels of single populations are name=levels, separated by commas, each name once",
        found=repr(found),
        allowed="for example relu=4,layer1.0.relu=16",
        remedy="Take the names of populations from `lapilli inspect` on a model file.",
    )
