"""What a search found: networks none of which is both cheaper and better than another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar, final

Measure = Literal["accuracy", "agreement"]
_Point = TypeVar("_Point")


@final
@dataclass(frozen=True)
class FrontPoint:
    """One network that was compiled and measured.

    coding: how counts are sent; levels: of every population that counts (empty for rates); steps:
    of a window; score: share of `images` images whose class is right (measure "accuracy"), or that
    of the float network ("agreement"). Energy in J, latency in s per inference, one image alone:
    the estimate's middle between its bounds. chosen: the network of this file.
    """

    method: str
    coding: str
    levels: Mapping[str, int] = field(hash=False)
    steps: int
    score: float
    measure: Measure
    images: int
    energy_low_j: float
    energy_mid_j: float
    energy_high_j: float
    latency_steps: int
    latency_s: float
    chosen: bool = False

    @property
    def uniform(self) -> int | None:
        """The level of all populations, where they have the same."""
        return next(iter(self.levels.values())) if len(set(self.levels.values())) == 1 else None


def front_of(points: Iterable[FrontPoint]) -> tuple[FrontPoint, ...]:
    """The points that no other one equals or beats in both energy and score, cheapest first."""
    return undominated(points, lambda p: p.energy_mid_j, lambda p: p.score)


def undominated(
    points: Iterable[_Point], cost: Callable[[_Point], float], score: Callable[[_Point], float]
) -> tuple[_Point, ...]:
    """The same by any cost and any score; of points that are equal in both, the first."""
    found: list[_Point] = []
    for point in sorted(points, key=lambda p: (cost(p), -score(p))):
        if not found or score(point) > score(found[-1]):
            found.append(point)
    return tuple(found)


def flaw(front: Sequence[FrontPoint]) -> tuple[str, str, object, object] | None:
    """What keeps points from being a front of one search: place, rule, found, allowed; or None."""
    for index, p in enumerate(front):
        where = f"front/{index:04d}"
        if not 0 <= p.score <= 1:
            return f"{where}/score", "is a share", p.score, "0..1"
        if not 0 <= p.energy_low_j <= p.energy_mid_j <= p.energy_high_j:
            found = f"{p.energy_low_j}, {p.energy_mid_j}, {p.energy_high_j}"
            allowed = "0 <= low <= mid <= high"
            return f"{where}/energy_mid_j", "lies between its bounds", found, allowed
        if not p.latency_s >= 0:
            return f"{where}/latency_s", "is a time", p.latency_s, ">= 0"
        for name in ("images", "steps", "latency_steps"):
            if getattr(p, name) < 1:
                return f"{where}/{name}", "is counted from one", getattr(p, name), ">= 1"
        for name, levels in p.levels.items():
            if levels < 1:
                return f"{where}/levels ({name})", "is a level", levels, ">= 1"
    return _together(front)


def _together(front: Sequence[FrontPoint]) -> tuple[str, str, object, object] | None:
    """The same of the points beside each other."""
    measured = {(p.measure, p.images) for p in front}
    if len(measured) > 1:
        found = "; ".join(f"{measure} on {images}" for measure, images in sorted(measured))
        return "front", "is measured alike everywhere", found, "one measure, as many images"
    for index in range(1, len(front)):
        before, p = front[index - 1], front[index]
        if p.energy_mid_j <= before.energy_mid_j or p.score <= before.score:
            found = " after ".join(f"{q.score} at {q.energy_mid_j} J" for q in (p, before))
            rule = "costs more than the one before, and is better"
            return f"front/{index:04d}", rule, found, "more of both"
    chosen = sum(p.chosen for p in front)
    if chosen != bool(front):
        return "front", "has one chosen point", f"{chosen}", "one"
    return None
