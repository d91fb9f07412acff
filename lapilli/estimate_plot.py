"""An estimate as a picture: what an inference costs, by kind; below it every layer, by event.

matplotlib is the extra `plots`; without it, everything but the picture works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lapilli import plot_files
from lapilli.plot_files import INK, PALE, literal, number, short
from lapilli.render import joules

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Report = Mapping[str, Any]
TERMS = {
    "synops_pj": ("synaptic operations", plot_files.BLUE),
    "neuron_updates_pj": ("neuron updates", plot_files.ORANGE),
    "spikes_pj": ("spikes", plot_files.GREEN),
    "input_pj": ("analog input", plot_files.PINK),
    "hops_pj": ("hops of packets", plot_files.RED),
}
"""Fields of `LayerEnergy` that add up to dynamic_pj."""
PARTS = {
    "events": ("events of all layers", plot_files.BLUE),
    "idle_access_pj": ("waiting neurons", plot_files.YELLOW),
    "busy_cores_pj": ("cores in use", plot_files.SKY),
    "chip_running_pj": ("chips running", "#8C8C8C"),
    "chip_static_pj": ("chips, static", "#C4C4C4"),
    "board": ("the board at rest", "#7A5C8A"),
}
WIDTH, HEAD, FOOT = 10.0, 0.75, 0.95
ROW = 0.23
"""Inches: of the whole, of what is said above; of the words around a panel; of one bar."""
FEWEST = 2
"""Bars that there is room for, should there be fewer."""
_JOULES = 1e-12


class _Bar(NamedTuple):
    """Parts of one bar in pJ, and the band of their sum."""

    name: str
    parts: Mapping[str, float]
    whole: Report


def picture(found: Report, title: str = "", ending: str = ".png") -> bytes:
    """The file, of `Estimate.as_dict`; the same one every time with the same matplotlib.

    Bars, and the number beside them, are the middle of each part; whiskers are the band of the sum,
    which is narrower than its parts' bands together. Raises BackendError without matplotlib.
    """
    plot_files.check_installed()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    totals, layers = _totals(found), _layers(found)
    heights = [ROW * max(len(bars), FEWEST) + FOOT for bars in (totals, layers)]
    with rc_context(plot_files.STYLE):
        figure = Figure(
            figsize=(WIDTH, sum(heights) + HEAD), dpi=plot_files.DPI, layout="constrained"
        )
        above, below = figure.subplots(2, 1, height_ratios=heights)
        _stacked(above, totals, PARTS, "An inference", found)
        placed = {"spikes_pj": ("spikes and packets", plot_files.GREEN)}
        terms = TERMS if found["placement"] is None else {**TERMS, **placed}
        _stacked(below, layers, terms, "Dynamic energy of every layer", found)
        figure.suptitle(_said(found, title), x=0.01, ha="left", fontsize=10, linespacing=1.4)
        return plot_files.content(figure, ending)


def _said(found: Report, title: str) -> str:
    """Which network on which chip, and how far to trust it."""
    first = f"{literal(title)} on {literal(found['title'])}" if title else literal(found["title"])
    placed = found["placement"]
    told = (
        number(found["images"], "image"),
        f"{number(found['cores'], 'core')}, {number(found['chips'], 'chip')}",
        "not placed" if placed is None else f"placed for {placed['objective']}",
        "whiskers: 19 of 20 draws of the constants",
    )
    lines = [first, "; ".join(told)]
    if not found["calibrated"]:
        lines.append("* modelled: these constants are not calibrated against silicon")
    return "\n".join(lines)


def _totals(found: Report) -> list[_Bar]:
    """One image alone and of many; and on the board, where its power is known."""
    bars = []
    ways = {"one image alone": found["single"], "back to back": found["streaming"]}
    for name, duration in ways.items():
        bars.append(_Bar(name, _parts(found, duration), duration["total_pj"]))
    for name, duration in ways.items():
        if duration["board_total_pj"] is not None:
            parts = _parts(found, duration)
            parts["board"] = duration["board_total_pj"]["mid"] - duration["dynamic_pj"]["mid"]
            parts["chip_running_pj"] = parts["chip_static_pj"] = 0.0
            bars.append(_Bar(f"{name}, whole board", parts, duration["board_total_pj"]))
    return bars


def _parts(found: Report, duration: Report) -> dict[str, float]:
    keys = ("idle_access_pj", "busy_cores_pj", "chip_running_pj", "chip_static_pj")
    return {
        "events": found["total"]["dynamic_pj"]["mid"],
        **{key: duration[key]["mid"] for key in keys},
        "board": 0.0,
    }


def _layers(found: Report) -> list[_Bar]:
    """Those that cost something: an input of the chip's host, for one, does not."""
    return [
        _Bar(layer["name"], {term: layer[term]["mid"] for term in TERMS}, layer["dynamic_pj"])
        for layer in found["layers"]
        if layer["dynamic_pj"]["high"] > 0
    ]


def _stacked(
    axes: Axes,
    bars: Sequence[_Bar],
    kinds: Mapping[str, tuple[str, str]],
    title: str,
    found: Report,
) -> None:
    """Bars from left to right, the first one on top; only kinds that occur are in the legend."""
    at = list(range(len(bars)))
    ends = [0.0] * len(bars)
    for kind, (name, colour) in kinds.items():
        widths = [bar.parts[kind] * _JOULES for bar in bars]
        if any(widths):
            axes.barh(at, widths, left=ends, height=0.72, color=colour, label=name)
            ends = [end + width for end, width in zip(ends, widths, strict=True)]
    star = "" if found["calibrated"] else "*"
    most = max((bar.whole["high"] for bar in bars), default=0.0) * _JOULES
    for y, bar in enumerate(bars):
        low, high = bar.whole["low"] * _JOULES, bar.whole["high"] * _JOULES
        style: dict[str, Any] = {"color": INK, "linewidth": 0.8, "zorder": 4}
        axes.plot([low, high], [y, y], **style)
        axes.plot([low, high], [y, y], marker="|", markersize=5, linestyle="none", **style)
        middle = f"{joules(bar.whole['mid'])}{star}"
        axes.text(high + 0.012 * most, y, middle, va="center", fontsize=7.5, color=plot_files.GREY)
    axes.set_yticks(at, [short(bar.name) for bar in bars])
    axes.set_ylim(max(len(bars), FEWEST) - 0.4, -0.6)
    axes.set_xlim(0, 1.1 * most or None)
    plot_files.units(axes.xaxis, "J")
    axes.set_title(f"{title} {star}", loc="left", pad=21)
    axes.grid(axis="x", linewidth=0.4, color=PALE)
    plot_files.quiet(axes)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            ncols=len(kinds),
            frameon=False,
            borderaxespad=0.2,
            borderpad=0.1,
            handlelength=1.0,
            columnspacing=1.3,
        )
