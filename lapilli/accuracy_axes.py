"""Accuracy against a cost: what the pictures of a comparison and of a search share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lapilli import plot_files
from lapilli.plot_files import INK
from lapilli.render_front import levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "os^DvP*"
"""They tell groups apart in grey; of points in plot_files.LINES."""
WIDE = 5.0
"""Costs that differ by more than this factor are drawn in logarithms."""
LEAST_SPAN = 1.0
"""Points of accuracy from bottom to top at least: less is no difference."""
LETTERS = 7.5
"""Of names, in points."""


def look(index: int) -> dict[str, Any]:
    """Colour and marker of a group of points."""
    return {
        "color": plot_files.LINES[index % len(plot_files.LINES)],
        "marker": MARKERS[index % len(MARKERS)],
        # What is drawn later is smaller: points on one another both show.
        "markersize": max(7.5 * 0.82**index, 4.0),
        "zorder": 3,
    }


def label(found: Mapping[str, int], steps: int) -> str:
    """A network in a few letters.

    >>> label({"a": 8, "b": 8}, 1), label({"a": 2, "b": 4}, 1), label({}, 32)
    ('L=8', 'L=2..4', 'T=32')
    """
    return f"L={levels(found).partition(' ')[0]}" if found else f"T={steps}"


def costs(axes: Axes, ends: Sequence[float], unit: str) -> None:
    """A horizontal axis with room for all ends, in the unit; without one they are numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    least, most = min(ends), max(ends)
    if least > 0 and most > WIDE * least:
        axes.set_xscale("log")
        room = (most / least) ** 0.04
        axes.set_xlim(least / room, most * room)
    else:
        spread = max(0.08 * (most - least), 0.0 if unit else 1.0)
        spread = spread or 0.1 * most or 1.0
        axes.set_xlim(least - spread, most + spread)
    if not unit:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        if axes.get_xscale() == "log":
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        plot_files.units(axes.xaxis, unit)
    axes.xaxis.set_minor_formatter(NullFormatter())


def heights(axes: Axes, percents: Sequence[float]) -> None:
    """A vertical axis with room for all of them, and the grid."""
    least, most = min(percents), max(percents)
    room = max(0.15 * (most - least), (LEAST_SPAN - most + least) / 2)
    axes.set_ylim(least - room, most + room)
    axes.grid(linewidth=0.4, color=plot_files.PALE)
    plot_files.quiet(axes)


def front(axes: Axes, corners: Sequence[tuple[float, float]]) -> Any:
    """The best accuracy for every cost: steps from one corner, cost and percent, to the next.

    The handle for the legend.
    """
    line = [corners[0]]
    for (_, low), (x, high) in pairwise(corners):
        line += [(x, low), (x, high)]
    style: dict[str, Any] = {"color": INK, "linewidth": 1.4, "linestyle": (0, (4, 2)), "zorder": 1}
    across, up = ([place[i] for place in line] for i in (0, 1))
    (handle,) = axes.plot(across, up, label="Pareto front", **style)
    axes.scatter(
        [x for x, _ in corners],
        [y for _, y in corners],
        s=110,
        facecolors="none",
        edgecolors=INK,
        linewidths=1.1,
    )
    handle.set_marker("o")
    handle.set_markersize(9)
    handle.set_markerfacecolor("none")
    handle.set_markevery([])
    return handle


def name(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    aside: tuple[float, float],
    colour: str,
    **style: Any,
) -> Any:
    """Text near a place, so many points aside, with a halo for the lines behind it."""
    from matplotlib.patheffects import withStroke

    at: dict[str, Any] = {"xytext": aside, "textcoords": "offset points"}
    shown = {"ha": "center", "va": "center", "fontsize": LETTERS, **style}
    halo = [withStroke(linewidth=2.0, foreground="white")]
    axes.annotate(text, place, color="white", path_effects=halo, zorder=4, **at, **shown)
    return axes.annotate(text, place, color=colour, zorder=5, **at, **shown)
