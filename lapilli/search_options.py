"""What a search is asked for: a goal, codings, levels, and options that all candidates share."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, final

from lapilli import methods
from lapilli.compiler.errors import InputError
from lapilli.compiler.pareto import FrontPoint
from lapilli.compiler.passes.options import check_count
from lapilli.render import joules

LEVELS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
RATE_STEPS = (8, 16, 32, 64, 128)
SEARCHED = ("levels", "mixed", "steps", "coding")
"""Options that the search chooses itself."""
_UNITS = {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "μJ": 1e-6, "nJ": 1e-9, "pJ": 1e-12}
_ENERGY = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([a-zA-Zµμ]+)\s*")
_J_PER_PJ = 1e-12


@final
@dataclass(frozen=True)
class Coding:
    """How activity is sent. chosen: options that make it so; mixes: may levels differ?

    levels: what it has instead of the search's levels: steps of rates.
    """

    method: str
    chosen: Mapping[str, Any]
    mixes: bool = True
    levels: tuple[int, ...] = ()

    def options(self, level: int, shared: Mapping[str, Any]) -> Any:
        """The method's options with this level everywhere."""
        kind = methods.METHODS[self.method]
        known = {field.name for field in fields(kind)}
        own = {name: value for name, value in shared.items() if name in known}
        return kind(**own, **self.chosen, **{"steps" if self.levels else "levels": level})


CODINGS: Mapping[str, Coding] = {
    "graded": Coding("parallel", {"coding": "graded"}),
    "unary": Coding("parallel", {"coding": "unary"}),
    "sigma-delta": Coding("sigma-delta", {}),
    "rate": Coding("rate", {}, mixes=False, levels=RATE_STEPS),
}
"""In the order in which they are searched."""


@final
@dataclass(frozen=True)
class Goal:
    """The share of images that is to be right, or the energy that an inference may take, in J.

    Exactly one of them.
    """

    score: float | None = None
    energy_j: float | None = None

    def met(self, point: FrontPoint) -> bool:
        """Is this network good, or cheap, enough?"""
        if self.score is not None:
            return point.score >= self.score
        assert self.energy_j is not None
        return point.energy_mid_j <= self.energy_j

    def better(self, point: FrontPoint, other: FrontPoint) -> bool:
        """Is `point` to be chosen rather than `other`?"""
        return self._rank(point) < self._rank(other)

    def _rank(self, point: FrontPoint) -> tuple[bool, float, float]:
        # What misses the goal is ranked by how near it comes.
        by_score = (self.score is None) == self.met(point)
        first, second = -point.score, point.energy_mid_j
        return (not self.met(point), *((first, second) if by_score else (second, first)))

    def wants_more(self, point: FrontPoint) -> bool:
        """Does the goal lie at networks that cost more than this one?"""
        return not self.met(point) if self.score is not None else self.met(point)

    def recorded(self) -> dict[str, float]:
        """As provenance keeps it."""
        if self.score is not None:
            return {"target_accuracy": 100 * self.score}
        assert self.energy_j is not None
        return {"target_energy_j": self.energy_j}

    def missed(self, best: FrontPoint, count: int, of_float: float, limit: str) -> InputError:
        """The refusal that names the best that was reached."""
        what = "accuracy" if best.measure == "accuracy" else "agreement with the float network"
        reached = f"{100 * best.score:.2f} % at {energy(best.energy_mid_j)}"
        found = f"{reached} ({described(best)}), the best of {count} candidates{limit}"
        longer = ", more --search-seconds" if limit else ""
        if self.score is not None:
            return InputError(
                "option target_accuracy",
                f"a network reaches the {what} on {best.images} held-out images",
                found=found,
                allowed=f">= {100 * self.score:g} % (the float network: {100 * of_float:.2f} %)",
                remedy=f"Lower the target, allow more levels{longer}, or use "
                "--calibrate reconstruct.",
            )
        assert self.energy_j is not None
        return InputError(
            "option target_energy",
            "a network keeps to the energy of an inference, one image alone",
            found=found,
            allowed=f"<= {energy(self.energy_j)}",
            remedy=f"Allow more energy, fewer levels{longer}, or choose another profile: time "
            "costs energy, too (`lapilli estimate` shows how much).",
        )


def goal(target_accuracy: float | None, target_energy: float | str | None) -> Goal:
    """target_accuracy: in percent; target_energy: J, or text such as 5uJ. Raises InputError."""
    if (target_accuracy is None) == (target_energy is None):
        raise InputError(
            "search",
            "there is one target",
            found="none" if target_accuracy is None else "two",
            allowed="target_accuracy or target_energy",
            remedy="Give one of them.",
        )
    if target_accuracy is None:
        assert target_energy is not None
        return Goal(energy_j=parse_energy(target_energy))
    if not isinstance(target_accuracy, (int, float)) or not 1 <= target_accuracy <= 100:
        raise InputError(
            "option target_accuracy",
            "accuracy is given in percent",
            found=repr(target_accuracy),
            allowed="1..100",
            remedy="Write for example 80 for 80 %.",
        )
    return Goal(score=target_accuracy / 100)


def parse_energy(given: float | str) -> float:
    """J, from a number of J or from text with its unit. Raises InputError.

    >>> parse_energy("5uJ"), parse_energy("0.25 mJ"), parse_energy(1e-3)
    (5e-06, 0.00025, 0.001)
    """
    value = given if isinstance(given, (int, float)) else math.nan
    match = _ENERGY.fullmatch(given) if isinstance(given, str) else None
    if match is not None and match[2] in _UNITS:
        value = float(f"{float(match[1]) * _UNITS[match[2]]:.12g}")
    if not 0 < value < math.inf:
        unit = match[2] if match is not None else ""
        close = difflib.get_close_matches(unit, _UNITS, n=1, cutoff=0.3)
        raise InputError(
            "option target_energy",
            "energy of one inference is a positive number with its unit",
            found=repr(given),
            allowed="for example 800nJ, 5uJ, 2.5mJ, 1e-3J",
            remedy=f"Did you mean {match[1]}{close[0]}?" if match and close else "Add the unit.",
        )
    return float(value)


def checked_time(seconds: float) -> float:
    """Raises InputError."""
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise InputError(
            "option search_seconds",
            "there is some time",
            found=repr(seconds),
            allowed="a positive number of seconds",
            remedy="Give more.",
        )
    return float(seconds)


def checked_levels(levels: Sequence[int]) -> tuple[int, ...]:
    """In rising order. Raises InputError."""
    for level in levels:
        check_count("search levels", level, 1, 255)
    if not levels:
        raise _few("search levels", "no level", "at least one")
    return tuple(sorted(set(levels)))


def checked_codings(codings: Sequence[str] | None, method: str | None = None) -> tuple[str, ...]:
    """In the order of CODINGS; method: those of one method alone. Raises InputError."""
    for name in codings or ():
        if name not in CODINGS:
            close = difflib.get_close_matches(name, CODINGS, n=1)
            remedy = f"Did you mean {close[0]!r}?" if close else "Choose some of these."
            raise InputError(
                "option codings",
                "codings are known ones",
                found=repr(name),
                allowed=", ".join(CODINGS),
                remedy=remedy,
            )
    chosen = tuple(
        name
        for name, coding in CODINGS.items()
        if (codings is None or name in codings) and method in (None, coding.method)
    )
    if not chosen:
        found = f"method {method}" if codings is None else f"{', '.join(codings)}; {method}"
        known = ", ".join(f"{name} of {coding.method}" for name, coding in CODINGS.items())
        raise _few("option codings", found, known)
    return chosen


def checked_options(options: Mapping[str, Any], codings: Sequence[str]) -> dict[str, Any]:
    """Options that every candidate has, where its method knows them. Raises InputError."""
    kinds = {CODINGS[name].method for name in codings}
    known = {field.name for kind in kinds for field in fields(methods.METHODS[kind])}
    for name in options:
        if name in SEARCHED or name not in known:
            raise InputError(
                f"option {name}",
                "a search chooses levels, steps and coding; other options are those of its methods",
                found=name,
                allowed=", ".join(sorted(known - set(SEARCHED))),
                remedy="Leave it out; --search-levels and --codings bound the search.",
            )
    for coding in codings:  # their values, too, are checked before anything is computed
        made = CODINGS[coding]
        made.options((made.levels or LEVELS)[0], options)
    return dict(options)


def energy(value_j: float) -> str:
    """In the unit that reads best.

    >>> energy(4.2e-6)
    '4.2 uJ'
    """
    return joules(value_j / _J_PER_PJ)


def described(point: FrontPoint) -> str:
    """Method, coding and levels in a few words: parallel, unary, 2..4 levels."""
    coding = point.method if point.method == point.coding else f"{point.method}, {point.coding}"
    if not point.levels:
        return f"{coding}, {point.steps} steps"
    few, many = min(point.levels.values()), max(point.levels.values())
    return f"{coding}, {few if few == many else f'{few}..{many}'} levels"


def _few(where: str, found: str, allowed: str) -> InputError:
    return InputError(
        where, "there is something to search", found=found, allowed=allowed, remedy="Give more."
    )
