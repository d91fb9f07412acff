"""A search as a picture: accuracy against energy of every network measured, the front, the bands.

matplotlib is the extra `plots`; without it, everything but the picture works.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lapilli import accuracy_axes, plot_files
from lapilli.compiler.errors import InputError
from lapilli.compiler.pareto import FrontPoint
from lapilli.plot_files import BLUE, GREEN, GREY, INK, ORANGE, PALE, PINK, RED, literal
from lapilli.render_front import levels
from lapilli.search_options import energy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, ABOVE, ROW, FOOT = 9.0, 4.6, 0.22, 0.95
"""Inches: the width; heights of the panel above, of a row of that below, of what stands around."""
COLOURS = {"graded": BLUE, "unary": GREEN, "sigma-delta": PINK, "rate": ORANGE}
"""Of each coding, whichever of them were searched."""
ASIDE, LINE, ROOM = 7.0, 9.0, 0.07
"""In points: a name beside its point, a line of text; share of the panel left and above."""
SMALL = 0.75
"""Points are so much smaller than in a comparison: there are many."""
_LEAST_J = 1e-15
"""Where there is no energy at all: logarithms are drawn."""


def picture(
    front: Sequence[FrontPoint],
    points: Sequence[FrontPoint],
    profile: str = "",
    ending: str = ".png",
) -> bytes:
    """The file; the same one every time with the same matplotlib. points: all that were measured.

    Raises InputError where there is no front, BackendError without matplotlib.
    """
    plot_files.check_installed("--plot-front")
    if not front:
        raise InputError(
            "option plot_front",
            "the front of a search is drawn",
            found="no front in this file",
            allowed="a network compiled with a target",
            remedy="Compile with --target-accuracy or --target-energy.",
        )
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    known = [replace(p, chosen=False) for p in front]
    every = [*front, *(p for p in points if replace(p, chosen=False) not in known)]
    below = ROW * len(front) + FOOT
    with rc_context(plot_files.STYLE):
        figure = Figure(figsize=(WIDTH, ABOVE + below), dpi=plot_files.DPI, layout="constrained")
        axes, bands = figure.subplots(2, 1, height_ratios=(ABOVE, below))
        handles = _measured(axes, front, every)
        _bands(bands, front)
        images = f"{front[0].images:,} held-out images"
        title = f"Networks that a search found, measured on {images}"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        on = f", on {literal(profile)}" if profile else ""
        axes.set_xlabel(f"total energy of one image alone{on}")
        kind = "accuracy" if front[0].measure == "accuracy" else "same class as the float network"
        axes.set_ylabel(f"{kind}, %")
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles), frameon=False)
        figure.draw_without_rendering()  # from here on points have their places
        _names(axes, front)
        return plot_files.content(figure, ending)


def _place(p: FrontPoint) -> tuple[float, float]:
    return max(p.energy_mid_j, _LEAST_J), 100 * p.score


def _look(coding: str) -> dict[str, Any]:
    look = accuracy_axes.look([*COLOURS, coding].index(coding))
    size = SMALL * look["markersize"]
    return {**look, "color": COLOURS.get(coding, INK), "markersize": size, "linestyle": "none"}


def _measured(axes: Axes, front: Sequence[FrontPoint], every: Sequence[FrontPoint]) -> list[Any]:
    """Points, the front, and the chosen one; handles for the legend."""
    accuracy_axes.costs(axes, [_place(p)[0] for p in every], "J")
    accuracy_axes.heights(axes, [_place(p)[1] for p in every])
    corner = axes.transAxes.transform((-ROOM, 1 + ROOM))
    left, top = axes.transData.inverted().transform(corner).tolist()
    axes.set_xlim(left=left)
    axes.set_ylim(top=top)
    handles = []
    for coding in dict.fromkeys([*COLOURS, *(p.coding for p in every)]):
        if some := [_place(p) for p in every if p.coding == coding]:
            across, up = zip(*some, strict=True)
            handles += axes.plot(across, up, label=literal(coding), **_look(coding))
    handles.append(accuracy_axes.front(axes, [_place(p) for p in front]))
    ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 15}
    for p in front:
        if p.chosen:
            x, y = ([value] for value in _place(p))
            style = {"color": RED, "linestyle": "none", "marker": "o", **ring}
            handles += axes.plot(x, y, label="the chosen network", **style)
    return handles


def _names(axes: Axes, front: Sequence[FrontPoint]) -> None:
    """Left of and above their points: no network lies there, or these were not the front.

    A name that would hide one of a cheaper network goes up until it does not; where it would leave
    the panel, the one below has to do.
    """
    to_points = 72 / axes.figure.dpi
    least, most = axes.bbox.x0 * to_points + 2, axes.bbox.y1 * to_points - LINE
    taken: list[tuple[float, float, float]] = []
    for p in front:
        text = accuracy_axes.label(p.levels, p.steps)
        style: dict[str, Any] = {"weight": "bold" if p.chosen else "normal"}
        sample = axes.text(*_place(p), text, fontsize=accuracy_axes.LETTERS, **style)
        wide = sample.get_window_extent().width * to_points
        sample.remove()
        x, y = (axes.transData.transform(_place(p)) * to_points).tolist()
        left, up = max(x - ASIDE - wide, least), y + ASIDE
        while any(
            abs(up - up_) < LINE and left < right_ and left_ < left + wide
            for left_, right_, up_ in taken
        ):
            up += LINE
        if up > most:
            continue
        taken.append((left, left + wide, up))
        if up > y + ASIDE:
            style["arrowprops"] = {"arrowstyle": "-", "color": GREY, "linewidth": 0.6}
        style |= {"ha": "left", "va": "bottom"}
        colour = _look(p.coding)["color"]
        accuracy_axes.name(axes, text, _place(p), (left - x, up - y), colour, **style)


def _bands(axes: Axes, front: Sequence[FrontPoint]) -> None:
    """What the energy of every network on the front may be; the best is on top."""
    rows = list(reversed(front))
    bands = [(p.energy_low_j, p.energy_mid_j, p.energy_high_j) for p in rows]
    ends = [[max(end, _LEAST_J) for end in band] for band in bands]
    for y, (p, (low, middle, high)) in enumerate(zip(rows, ends, strict=True)):
        style: dict[str, Any] = {"color": _look(p.coding)["color"]}
        axes.barh(y, high - low, 0.7, low, alpha=0.3, **style)
        axes.plot([middle], [y], marker="|", markersize=11, linestyle="none", **style)
        text = f"  {energy(p.energy_mid_j)}"
        axes.text(middle, y, text, va="center", fontsize=accuracy_axes.LETTERS, color=INK)
    axes.set_yticks(range(len(rows)), [_described(p) for p in rows])
    for tick, p in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if p.chosen else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    accuracy_axes.costs(axes, [end for row in ends for end in row], "J")
    axes.grid(axis="x", linewidth=0.4, color=PALE)
    plot_files.quiet(axes)
    title = "The front: bands of these energies, 19 of 20 draws of the constants"
    axes.set_title(title, loc="left")


def _described(p: FrontPoint) -> str:
    """Levels or steps, and accuracy."""
    shown = f"L={levels(p.levels)}" if p.levels else f"T={p.steps}"
    return f"{shown}: {100 * p.score:.2f} %"
