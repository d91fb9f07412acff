"""A comparison as a picture: accuracy against energy, or another cost, with bands and the front.

matplotlib is the extra `plots`; without it, everything but the picture works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from lapilli import plot_files
from lapilli.compare_report import COSTS, Compared, Comparison
from lapilli.compiler.errors import InputError
from lapilli.plot_files import GREY, INK, literal, short
from lapilli.render_front import levels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 9.0, 5.6
COLOURS = (
    *(plot_files.BLUE, plot_files.RED, plot_files.GREEN, plot_files.PINK, plot_files.ORANGE),
    *(plot_files.SKY, "#000000"),
)
MARKERS = "os^DvP*"
"""Markers tell groups apart in grey."""
WIDE = 5.0
"""Costs that differ by more than this factor are drawn in logarithms."""
LEAST_SPAN = 1.0
"""Points of accuracy from bottom to top at least: less is no difference."""
NAME, NAME_ABOVE = (26.0, 9.0), 10.0
BAR, BAR_BELOW = 4.0, 8.0
"""In points: room of a name, and its height above the point; of a band, and its depth below."""
_UNITS = {"latency": "s", "cores": "", "energy-delay": "J s"}
_SCALES = {"latency": 1e-6, "cores": 1.0, "energy-delay": 1e-18}
_JOULES = 1e-12


def picture(found: Comparison, title: str = "", ending: str = ".png") -> bytes:
    """The file; the same one every time with the same matplotlib.

    Networks of one chip, method and coding are joined, by levels or steps. Raises InputError where
    there was nothing to tell right from wrong, BackendError without matplotlib.
    """
    plot_files.check_installed()
    if found.measure is None:
        raise InputError(
            "picture",
            "accuracy is drawn of images with labels",
            found="no labels",
            allowed="labels of all images",
            remedy="Give data with labels, or no picture.",
        )
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(plot_files.STYLE):
        figure = Figure(figsize=SIZE, dpi=plot_files.DPI, layout="constrained")
        axes = figure.subplots()
        _frame(axes, found)
        groups = _groups(found)
        handles = [_front(axes, found), *_lines(axes, found, groups)]
        figure.suptitle(literal(title), x=0.01, ha="left", fontsize=10)
        figure.legend(handles=handles, loc="outside right upper", frameon=False)
        figure.supxlabel(_said(found), x=0.01, ha="left", fontsize=7.5, color=GREY)
        figure.draw_without_rendering()  # from here on points have their places
        _beside_points(axes, found, groups)
        return plot_files.content(figure, ending)


def _costs(row: Compared, found: Comparison) -> tuple[float, float, float]:
    """Low, mid, high, in SI units."""
    cost, scale = row.cost(found.against), _SCALES.get(found.against, _JOULES)
    return cost.low * scale, cost.mid * scale, cost.high * scale


def _height(row: Compared) -> float:
    assert row.score is not None
    return 100 * row.score


def _group(row: Compared, rows: Sequence[Compared]) -> str:
    """Method and coding, and the chip where there are several."""
    several = len({other.profile for other in rows}) > 1
    star = "" if row.calibrated else "*"
    return f"{row.coded} on {row.profile}{star}" if several else row.coded


def _groups(found: Comparison) -> dict[str, list[Compared]]:
    """Those that are joined and have a colour, in the order of their levels or steps."""
    groups: dict[str, list[Compared]] = {}
    for row in found.networks:
        groups.setdefault(_group(row, found.networks), []).append(row)
    for rows in groups.values():
        rows.sort(key=_order)
    return groups


def _lines(axes: Axes, found: Comparison, groups: Mapping[str, list[Compared]]) -> list[Any]:
    """Points, joined; handles for the legend."""
    handles = []
    for index, (name, rows) in enumerate(groups.items()):
        (handle,) = axes.plot(
            [_costs(row, found)[1] for row in rows],
            [_height(row) for row in rows],
            color=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            # What is drawn later is smaller: points on one another both show.
            markersize=max(7.5 * 0.82**index, 4.0),
            linewidth=1.0,
            label=short(name, 48),
            zorder=3,
        )
        handles.append(handle)
    return handles


def _beside_points(axes: Axes, found: Comparison, groups: Mapping[str, list[Compared]]) -> None:
    """Names above the points, bands below; those that would hide one another keep a distance."""
    every = [
        (row, COLOURS[index % len(COLOURS)])
        for index, rows in enumerate(groups.values())
        for row in rows
    ]
    every.sort(key=lambda pair: _costs(pair[0], found)[1])
    to_points = 72 / axes.figure.dpi
    names: list[tuple[float, float]] = []
    bars: list[tuple[float, float, float]] = []
    for row, colour in every:
        low, middle, high = _costs(row, found)
        ends = [(x, _height(row)) for x in (low, middle, high)]
        (left, _), (x, y), (right, _) = (axes.transData.transform(ends) * to_points).tolist()
        up = y + NAME_ABOVE
        while any(abs(x - x_) < NAME[0] and abs(up - y_) < NAME[1] for x_, y_ in names):
            up += NAME[1]
        names.append((x, up))
        _name(axes, row, (middle, _height(row)), up - y, colour)
        if found.against != "cores":
            down = y - BAR_BELOW
            while any(
                abs(down - y_) < BAR and left < right_ and right > left_
                for left_, right_, y_ in bars
            ):
                down -= BAR
            bars.append((left, right, down))
            _bar(axes, (low, middle, high), _height(row), down - y, colour)


def _name(axes: Axes, row: Compared, place: tuple[float, float], above: float, colour: str) -> None:
    from matplotlib.patheffects import withStroke

    style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7.5}
    at: dict[str, Any] = {"xytext": (0, above), "textcoords": "offset points"}
    halo = [withStroke(linewidth=2.0, foreground="white")]  # for the lines behind it
    axes.annotate(_label(row), place, color="white", path_effects=halo, zorder=4, **at, **style)
    axes.annotate(_label(row), place, color=colour, zorder=5, **at, **style)


def _bar(
    axes: Axes, ends: tuple[float, float, float], score: float, below: float, colour: str
) -> None:
    """A band under its point, with its middle marked."""
    from matplotlib.transforms import offset_copy

    low, middle, high = ends
    figure: Any = axes.figure
    moved = offset_copy(axes.transData, fig=figure, y=below, units="points")
    style: dict[str, Any] = {"color": colour, "transform": moved, "zorder": 2, "clip_on": False}
    axes.plot([low, high], [score, score], linewidth=1.3, alpha=0.55, **style)
    axes.plot([middle], [score], marker="|", markersize=4.5, linestyle="none", **style)


def _order(row: Compared) -> tuple[float, int]:
    counts = list(row.levels.values())
    return (sum(counts) / len(counts) if counts else 0.0, row.steps)


def _label(row: Compared) -> str:
    """L=8, L=2..4, or T=32 where there are no levels."""
    if not row.levels:
        return f"T={row.steps}"
    return f"L={levels(row.levels).partition(' ')[0]}"


def _front(axes: Axes, found: Comparison) -> Any:
    """The best accuracy for every cost: steps from one network on the front to the next."""
    rows: Mapping[str, Compared] = {row.name: row for row in found.networks}
    corners = [(_costs(rows[name], found)[1], _height(rows[name])) for name in found.front]
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


def _frame(axes: Axes, found: Comparison) -> None:
    """Axes with room for all bands, scales and units."""
    bounds = [end for row in found.networks for end in _costs(row, found)]
    chips = {row.profile for row in found.networks}
    on = f", on {literal(*chips)}" if len(chips) == 1 else ""
    axes.set_xlabel(f"{COSTS[found.against].title}{on}{'' if _calibrated(found) else ' *'}")
    measure = "accuracy" if found.measure == "accuracy" else "pixels of the right class"
    axes.set_ylabel(f"{measure}, %")
    least, most = min(bounds), max(bounds)
    if least > 0 and most > WIDE * least:
        axes.set_xscale("log")
        room = (most / least) ** 0.04
        axes.set_xlim(least / room, most * room)
    else:
        spread = max(0.08 * (most - least), 1.0 if found.against == "cores" else 0.0)
        spread = spread or 0.1 * most or 1.0
        axes.set_xlim(least - spread, most + spread)
    _ticks(axes, found)
    scores = [_height(row) for row in found.networks]
    least, most = min(scores), max(scores)
    room = max(0.15 * (most - least), (LEAST_SPAN - most + least) / 2)
    axes.set_ylim(least - room, most + room)
    axes.grid(linewidth=0.4, color=plot_files.PALE)
    plot_files.quiet(axes)


def _ticks(axes: Axes, found: Comparison) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    if found.against == "cores":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter("{x:,.0f}")
    else:
        if axes.get_xscale() == "log":
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        plot_files.units(axes.xaxis, _UNITS.get(found.against, "J"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _calibrated(found: Comparison) -> bool:
    return found.against == "cores" or all(row.calibrated for row in found.networks)


def _said(found: Comparison) -> str:
    """What the eye would take wrong."""
    told = []
    if found.against != "cores":
        told.append("Bars below: 19 of 20 draws of the constants; bars of one chip move together")
    if not _calibrated(found):
        told.append("* modelled, not calibrated against silicon")
    return "; ".join(told) or " "
