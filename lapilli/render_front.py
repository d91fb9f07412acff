"""A Pareto front as a table: accuracy against energy of the networks that a search found."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from lapilli.render import band, table
from lapilli.terminal import plain

Report = Mapping[str, Any]
_PJ_PER_J = 1e12
_MEASURES = {"accuracy": "accuracy", "agreement": "same class as the float network"}


def front(points: Sequence[Report]) -> Iterator[RenderableType]:
    """Points as `dataclasses.asdict` gives them; nothing where there are none."""
    if not points:
        return
    measure, images = points[0]["measure"], points[0]["images"]
    columns = ("", "method", "coding", "levels", "steps", _MEASURES[measure], "energy", "band")
    made = table(
        f"Pareto front, measured on {images:,} held-out images", (*columns, "latency"), text=4
    )
    for p in points:
        middle, bounds = band({key: p[f"energy_{key}_j"] * _PJ_PER_J for key in _BAND})
        made.add_row(
            "->" if p["chosen"] else "",
            *(plain(p[key]) for key in ("method", "coding")),
            levels(p["levels"]),
            f"{p['steps']:,}",
            f"{100 * p['score']:.2f} %",
            *(middle, bounds),
            f"{1e3 * p['latency_s']:.3g} ms",
        )
    yield made
    score = next((p["score"] for p in points if p["chosen"]), points[-1]["score"])
    error = 100 * math.sqrt(score * (1 - score) / images)
    yield (
        "Energy of one image alone, as `lapilli estimate` has it; -> is this network. One standard "
        f"error of its {measure} is {error:.2f} points."
    )


_BAND = ("low", "mid", "high")


def levels(found: Mapping[str, int]) -> str:
    """8, or 2..16 (mean 5.3) where populations differ.

    >>> levels({"a": 8, "b": 8}), levels({"a": 2, "b": 4}), levels({})
    ('8', '2..4 (mean 3)', '-')
    """
    counts = sorted(found.values())
    if not counts or counts[0] == counts[-1]:
        return str(counts[0]) if counts else "-"
    return f"{counts[0]}..{counts[-1]} (mean {sum(counts) / len(counts):.3g})"


def found(report: Report) -> Iterator[RenderableType]:
    """What `lapilli compile` says of a search: the front, and what levels cost and were chosen."""
    yield from front(report["front"])
    chosen, sensitivity = report["chosen"]["levels"], report["sensitivity"]
    if chosen and sensitivity:
        offered = list(next(iter(sensitivity.values())))
        columns = ("population", "levels", *(f"L={level}" for level in offered))
        made = table("Error of the outputs with so many levels in this population alone", columns)
        for name, errors in sensitivity.items():
            cells = (f"{errors[level]:.2g}" for level in offered)
            made.add_row(plain(name), str(chosen.get(name, "-")), *cells)
        yield made
    for coding, why in report["dropped"].items():
        yield f"{coding}: {plain(why)}."
    where, count = report["data"], len(report["candidates"])
    yield (
        f"{count} candidates compiled and measured in {report['seconds']:.0f} s on "
        f"{plain(where['source'])} ({where['split']} split); the float network: "
        f"{100 * report['float_score']:.2f} %."
    )
    if not report["complete"]:
        yield "The time ended the search: more --search-seconds may find something better."
