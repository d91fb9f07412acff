"""A placement as tables: every layer, the totals, what was not checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from lapilli.render import UNCALIBRATED, table
from lapilli.terminal import plain

Report = dict[str, Any]
_PIECES = 2
"""So many boxes of a core are shown."""


def placement(report: Report) -> Iterator[RenderableType]:
    """What `lapilli map` found."""
    yield _layers(report)
    yield _totals(report)
    yield _rates(report)
    if report["unchecked"]:
        reasons: dict[str, list[str]] = {}
        for item in report["unchecked"]:
            reasons.setdefault(item["reason"], []).append(item["limit"])
        lines = (f"  - {', '.join(limits)}: {why}" for why, limits in reasons.items())
        yield "Limits that were not checked:\n" + "\n".join(lines)


def limit_words(limit: str) -> str:
    """A limit as people say it.

    >>> limit_words("synapse_words_per_core"), limit_words("none")
    ('synapse words', 'none')
    """
    return limit.removesuffix("_per_core").replace("_", " ")


def piece_words(boxes: Sequence[Sequence[int]]) -> str:
    """Extents of the boxes that a core holds: channels x rows x columns.

    >>> piece_words([[16, 7, 14], [16, 1, 3]]), piece_words([[8], [4], [2], [1]])
    ('16x7x14 + 16x1x3', '8 + 4 + 2 more')
    """
    shown = [extents(box) for box in boxes[:_PIECES]]
    more = len(boxes) - _PIECES
    return " + ".join([*shown, *([f"{more} more"] if more > 0 else [])])


def extents(shape: Sequence[int]) -> str:
    """64x8x8."""
    return "x".join(str(n) for n in shape) or "1"


def _layers(report: Report) -> Table:
    columns = (
        "population",
        "shape",
        "neurons",
        "cores",
        "usual piece",
        "most used limit",
        "in use",
    )
    made = table(f"{report['artifact']['path']} on {report['profile']}", columns)
    made.columns[4].justify = made.columns[5].justify = "left"
    for p in report["populations"]:
        limit = p["binding"]
        made.add_row(
            plain(p["population"]) + (" (relay)" if p["relay"] else ""),
            extents(p["shape"]),
            f"{p['neurons']:,}",
            f"{p['cores']:,}",
            piece_words(p["piece"]),
            "-" if limit is None else limit_words(limit),
            "-" if limit is None else f"{100 * p['use'][limit]:.1f} %",
        )
    made.caption = "in use: mean over the cores with neurons of the population, all they hold"
    return made


def _totals(report: Report) -> Table:
    timed = report["step"] is not None
    star = "" if report["calibrated"] or not timed else "*"
    made = table("In all", ("", "value"), text=2, caption=UNCALIBRATED if star else "")
    for name, value in _rows(report, star):
        made.add_row(name, plain(value))
    return made


def _rows(report: Report, star: str) -> Iterator[tuple[str, str]]:
    bound, cost, step = report["bound"], report["mesh_cost"], report["step"]
    yield "objective", report["objective"]
    yield "neurons", f"{report['neurons']:,}"
    yield "cores", f"{report['cores']:,}"
    decided = "" if bound["limit"] == "none" else f", decided by {limit_words(bound['limit'])}"
    yield "lower bound", f"{bound['cores']:,}{decided}"
    if report["cores_over_bound"] is not None:
        yield "cores over lower bound", f"{report['cores_over_bound']:.3f}"
    yield "chips", f"{report['chips']:,}"
    yield "relays added", _relays(report["relays"])
    yield (
        "packets per step",
        f"{report['packets']:,.1f}, from the host {report['host_packets']:,.1f}",
    )
    if cost is None:
        yield "mesh", "the profile states none"
    else:
        mean = cost["packet_hops"] / cost["packets"] if cost["packets"] else 0.0
        yield "packets x hops", f"{cost['packet_hops']:,.1f}, {mean:.2f} hops on average"
        yield "packets on the busiest link", f"{cost['worst_link']:,.1f}"
        yield "crossings between chips", f"{cost['chip_crossings']:,.1f}"
    if step is None:
        yield "step time", "the profile states no times"
        return
    yield f"step time{star}", f"{step['step_us']:,.4g} us, set by {_decider(report)}"
    yield f"  busiest core{star}", f"{step['core_us']:,.4g} us"
    link = step["mesh_us"]
    yield f"  busiest link{star}", "not known" if link is None else f"{link:,.4g} us"
    yield f"  barrier{star}", f"{step['barrier_us']:,.4g} us"
    yield f"  shortest step{star}", f"{step['floor_us']:,.4g} us"


def _decider(report: Report) -> str:
    step = report["step"]
    return {
        "cores": f"core {step['busiest_core']}",
        "mesh": "the busiest link",
        "floor": "the shortest step observed",
    }[step["decided_by"]]


def _relays(relays: Sequence[Report]) -> str:
    layers: dict[str, int] = {}
    for relay in relays:
        layers[relay["layer"]] = layers.get(relay["layer"], 0) + relay["neurons"]
    return ", ".join(f"{n:,} neurons for {layer}" for layer, n in layers.items()) or "none"


def _rates(report: Report) -> str:
    measured = [name for name, rate in report["rates"].items() if rate["measured"]]
    bounds = [name for name, rate in report["rates"].items() if not rate["measured"]]
    if not measured:
        return "Rates: at most one spike per neuron and step, the bound; --data measures them."
    where = report["data"]
    text = f"Rates: measured on {where['source']}, {where['split']} split, {where['images']} images"
    if bounds:
        text += f"; bounds of one spike per neuron and step for {plain(', '.join(bounds))}"
    return f"{text}."
