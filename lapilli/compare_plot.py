"""A comparison as a picture: accuracy against energy, or another cost, with bands and the front.

matplotlib is the extra `plots`; without it, everything but the picture works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lapilli import accuracy_axes, plot_files
from lapilli.compare_report import COSTS, Compared, Comparison
from lapilli.compiler.errors import InputError
from lapilli.plot_files import GREY, literal, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = 9.0, 5.6
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
        rows = {row.name: row for row in found.networks}
        corners = [(_costs(rows[name], found)[1], _height(rows[name])) for name in found.front]
        handles = [accuracy_axes.front(axes, corners), *_lines(axes, found, groups)]
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
            linewidth=1.0,
            label=short(name, 48),
            **accuracy_axes.look(index),
        )
        handles.append(handle)
    return handles


def _beside_points(axes: Axes, found: Comparison, groups: Mapping[str, list[Compared]]) -> None:
    """Names above the points, bands below; those that would hide one another keep a distance."""
    every = [
        (row, accuracy_axes.look(index)["color"])
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
        text, aside = accuracy_axes.label(row.levels, row.steps), (0.0, up - y)
        accuracy_axes.name(axes, text, (middle, _height(row)), aside, colour)
        if found.against != "cores":
            down = y - BAR_BELOW
            while any(
                abs(down - y_) < BAR and left < right_ and right > left_
                for left_, right_, y_ in bars
            ):
                down -= BAR
            bars.append((left, right, down))
            _bar(axes, (low, middle, high), _height(row), down - y, colour)


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


def _frame(axes: Axes, found: Comparison) -> None:
    """Axes with room for all bands, scales and units."""
    bounds = [end for row in found.networks for end in _costs(row, found)]
    chips = {row.profile for row in found.networks}
    on = f", on {literal(*chips)}" if len(chips) == 1 else ""
    axes.set_xlabel(f"{COSTS[found.against].title}{on}{'' if _calibrated(found) else ' *'}")
    measure = "accuracy" if found.measure == "accuracy" else "pixels of the right class"
    axes.set_ylabel(f"{measure}, %")
    accuracy_axes.costs(axes, bounds, _UNITS.get(found.against, "J"))
    accuracy_axes.heights(axes, [_height(row) for row in found.networks])


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
