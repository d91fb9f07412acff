"""A placement as one picture: cores by population, how full they are, the links, every layer.

matplotlib is the extra `plots`; without it, everything but the picture works. Names follow the
network from the input on, and so do their colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lapilli import plot_files
from lapilli.map_report import members, own_use, utilisation
from lapilli.map_seats import MOST_CORES, Reals, Seats, loads, seats
from lapilli.plot_files import AREAS, INK, PALE, literal, number, short
from lapilli.render_map import limit_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lapilli.compiler.mapping import Placement
    from lapilli.hardware_profiles import Profile

DPI, FINE, MANY = 120, 200, 600
"""FINE for more than MANY cores."""
WIDTH, BAR, HEAD = 15.0, 0.85, 1.0
"""Inches: of the whole, of a row of bars, of what is said above."""
MAPS = 1.7, 5.4
"""Least and most height of the maps, in inches."""
MOST_STRIPES, FEW_CHIPS = 8, 40
"""So many populations of a core are shown on it, and of a chip where there are few chips."""
LIMITS_SHOWN = 4
BESIDE, SIDE, FEWEST = 9, 2.6, 5
"""Bars of so many populations stand side by side, in a row of that height; room for so many."""
SHARED = "Every population on its cores; pale: what others on the same cores take"
WHOLE = "The cores of every population, and how full they are with all that they hold"
NAMED = 45
"""Of more populations than that, not every name is written."""
FREE, EDGE, FAINT = "#ECECEC", "#9A9A9A", 0.25
ARROWS = 400
"""On more links, directions are not marked: packets keep to the right."""
ARROW = 0.17


class _Bars(NamedTuple):
    """One value for every population: what it takes itself, and what all on its cores take."""

    title: str
    own: list[float]
    whole: list[float]


def picture(
    placement: Placement,
    profile: Profile,
    *,
    title: str = "",
    most_cores: int = MOST_CORES,
    ending: str = ".png",
) -> bytes:
    """The picture; the same one every time with the same matplotlib. Raises BackendError.

    most_cores: of more cores, only chips are drawn; ending: one of plot_files.ENDINGS.
    """
    plot_files.check_installed()
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    where = seats(placement, profile, most_cores)
    held = {name: len(cores) for name, cores in members(placement).items()}
    colours = _colours(list(held))
    rows = _bars(placement, profile, where.by_chip)
    maps = min(max((WIDTH / 3 - 0.9) * where.area[1] / where.area[0], MAPS[0]), MAPS[1]) + 0.9
    beside = len(held) <= BESIDE
    bars = SIDE if beside else BAR * len(rows) + 1.2
    with rc_context(plot_files.STYLE | {"font.size": 8}):
        figure = Figure(
            figsize=(WIDTH, HEAD + maps + bars),
            dpi=FINE if len(placement.cores) > MANY else DPI,
            layout=ConstrainedLayoutEngine(h_pad=0.08, wspace=0.03),
        )
        # Stubs of different versions of matplotlib disagree on what comes back.
        halves: Any = figure.subfigures(2, 1, height_ratios=(maps, bars))
        above, below = halves
        panels = above.subplots(1, 3)
        _populations(panels[0], where, colours)
        _fullness(panels[1], where)
        _traffic(panels[2], placement, where)
        below.suptitle(WHOLE if where.by_chip else SHARED, x=0.008, ha="left", fontsize=9.5)
        grid = (1, len(rows)) if beside else (len(rows), 1)
        _layers(below.subplots(*grid, sharex=True, squeeze=False).ravel(), rows, colours)
        said = "\n".join(_said(placement, profile, title))
        figure.suptitle(said, x=0.008, ha="left", fontsize=11, linespacing=1.5)
        return plot_files.content(figure, ending)


def _said(placement: Placement, profile: Profile, title: str) -> tuple[str, str]:
    count, chips, bound = len(placement.cores), placement.chips, placement.bound.cores
    on = f"{literal(title)} on {placement.profile}" if title else f"On {placement.profile}"
    first = f"{on}: {number(count, 'core')} on {number(chips, 'chip')}, lower bound {bound:,}"
    sent = placement.traffic
    told = [f"{float(sent.packets.sum() + sent.host_packets.sum()):,.0f} packets per step"]
    if placement.cost is not None:
        told.append(f"{placement.cost.mean_hops:.2f} hops each")
        told.append(f"{placement.cost.worst_link:,.0f} on the busiest link")
    if placement.step is not None:
        star = "" if profile.calibrated else "*"
        took = placement.step.step_us
        told.append(
            f"{took:,.0f} us per step{star}" if took >= 100 else f"{took:.3g} us per step{star}"
        )
        if star:
            told.append("* modelled, not calibrated against silicon")
    return first, "; ".join(told)


def _colours(names: list[str]) -> dict[str, Any]:
    """One colour each; of many, neighbours in the network have similar hues, light and dark."""
    if len(names) <= len(AREAS):
        return dict(zip(names, AREAS, strict=False))
    from matplotlib import colormaps

    hues = colormaps["turbo"](np.linspace(0.06, 0.94, len(names)))
    hues[1::2, :3] *= 0.72
    return {name: tuple(hue) for name, hue in zip(names, hues.tolist(), strict=True)}


def _boxes(corner: Reals, width: float, height: float) -> Reals:
    """(n, 4, 2): the corners of rectangles."""
    outline = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    corners: Reals = corner[:, None, :] + outline
    return corners


def _ground(axes: Axes, where: Seats, title: str, squares: Reals) -> None:
    """Chips, and grey squares on them."""
    from matplotlib.collections import PolyCollection

    pad = 0.12 if not where.by_chip else 0.06 * where.chip_width
    axes.add_collection(PolyCollection(list(squares), facecolors=FREE, edgecolors="none"))
    chips = _boxes(where.chips - 0.08, where.chip_width + 0.16, where.chip_height + 0.16)
    axes.add_collection(
        PolyCollection(list(chips), facecolors="none", edgecolors=EDGE, linewidths=0.8)
    )
    axes.set_xlim(-pad - 0.3, where.area[0] + pad + 0.3)
    axes.set_ylim(where.area[1] + pad + 0.3, -pad - 0.3)
    axes.set_aspect("equal", anchor="NW")
    axes.set_axis_off()
    axes.set_title(title, loc="left")


def _populations(axes: Axes, where: Seats, colours: Mapping[str, Any]) -> None:
    from matplotlib.collections import PolyCollection

    kind = "Chips" if where.by_chip else "Cores"
    _ground(axes, where, f"{kind}, in the colours of their populations, named below", _free(where))
    parts: list[Reals] = []
    filled: list[Any] = []
    # Of a thousand chips the population with most cores is what the eye can see.
    most = max(1, MOST_STRIPES * FEW_CHIPS // len(where.held)) if where.by_chip else MOST_STRIPES
    for corner, names in zip(where.corner, where.held, strict=True):
        shown = names[: min(most, MOST_STRIPES)]
        height = where.height * 0.94 / len(shown)
        starts = corner + np.array([[0.0, height * i] for i in range(len(shown))])
        parts.extend(_boxes(starts, where.width * 0.94, height))
        filled.extend(colours[name] for name in shown)
    axes.add_collection(PolyCollection(parts, facecolors=filled, edgecolors="none"))


def _fullness(axes: Axes, where: Seats) -> None:
    from matplotlib.collections import PolyCollection

    what = "How full chips are: mean of their cores" if where.by_chip else "How full cores are"
    _ground(axes, where, f"{what}, % of the most used limit", _free(where))
    if where.full is None:
        _note(axes, "the profile states no limits")
        return
    drawn = PolyCollection(
        list(_boxes(where.corner, where.width * 0.94, where.height * 0.94)),
        edgecolors="none",
        cmap="YlGnBu",
    )
    drawn.set_array(100 * where.full)
    drawn.set_clim(0, 100)
    axes.add_collection(drawn)
    _scale(axes, drawn)


def _scale(axes: Axes, drawn: Any) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    bar: Any = axes.figure.colorbar(
        drawn, ax=axes, location="bottom", shrink=0.6, aspect=40, pad=0.02, anchor=(0.0, 1.0)
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(width=0.5, length=2)
    bar.locator, bar.formatter = MaxNLocator(5), EngFormatter(sep="")
    bar.update_ticks()


def _traffic(axes: Axes, placement: Placement, where: Seats) -> None:
    found = loads(placement, where.by_chip)
    if found is None:
        _pairs(axes, placement)
        return
    ends = "chips" if where.by_chip else "tiles"
    title = f"Packets per step on the links between {ends}"
    _ground(axes, where, title, _nodes(where))
    segments, load = _roads(where, found)
    if not load.max(initial=0.0):
        _note(axes, f"no packet leaves its {ends[:-1]}")
        return
    from matplotlib.collections import LineCollection

    order = np.argsort(load)
    segments, load = segments[order], load[order]
    pitch = min(float(np.ptp(ends[:2])) or 1.0 for ends in (where.columns, where.rows))
    points = 72 * (WIDTH / 3 - 1) / max(where.area) * pitch
    widths = min(0.22 * points, 7.0) * (0.15 + 0.85 * load / load.max())
    drawn = LineCollection(list(segments), cmap="YlOrRd", linewidths=widths, capstyle="butt")
    drawn.set_array(load)
    drawn.set_clim(0, float(load.max()))
    axes.add_collection(drawn)
    if len(load) <= ARROWS:
        middle, way = segments.mean(axis=1), np.diff(segments, axis=1)[:, 0]
        for marker, (x, y) in {">": (1, 0), "<": (-1, 0), "v": (0, 1), "^": (0, -1)}.items():
            chosen = (np.sign(way) == (x, y)).all(axis=1)
            x_at, y_at = middle[chosen].T
            axes.scatter(x_at, y_at, s=(ARROW * points) ** 2, marker=marker, c=INK, zorder=3)
    _scale(axes, drawn)


def _free(where: Seats) -> Reals:
    return _boxes(where.free, where.width * 0.94, where.height * 0.94)


def _note(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=INK)


def _nodes(where: Seats) -> Reals:
    """Squares for the tiles, or the chips, that links join."""
    wide, high = (where.chip_width, where.chip_height) if where.by_chip else (1.0, 1.0)
    middle = np.stack(np.meshgrid(where.columns, where.rows), axis=-1).reshape(-1, 2)
    return _boxes(middle - np.array([0.3 * wide, 0.3 * high]), 0.6 * wide, 0.6 * high)


def _roads(where: Seats, found: Any) -> tuple[Reals, Reals]:
    """Segments (links, 2, 2) and their loads; those without packets are left out."""
    x, y = np.meshgrid(where.columns, where.rows)
    at = np.stack([x, y], axis=-1)
    aside = 0.13 * (where.chip_height if where.by_chip else 1.0)
    ways = (
        (at[:, :-1], at[:, 1:], (0.0, aside), found.east),
        (at[:, 1:], at[:, :-1], (0.0, -aside), found.west),
        (at[:-1], at[1:], (-aside, 0.0), found.south),
        (at[1:], at[:-1], (aside, 0.0), found.north),
    )
    segments = [
        np.stack([start + np.array(off), stop + np.array(off)], axis=-2).reshape(-1, 2, 2)
        for start, stop, off, _ in ways
    ]
    load = np.concatenate([values.ravel() for *_, values in ways])
    return np.concatenate(segments)[load > 0], load[load > 0]


def _pairs(axes: Axes, placement: Placement) -> None:
    """Without a mesh: who sends to whom."""
    count, sent = len(placement.cores), placement.traffic
    if count == 1:
        axes.set_axis_off()
        _note(axes, "everything is on one core")
        return
    bins = min(count, 200)
    packets, _, _ = np.histogram2d(
        sent.source, sent.target, bins, [[-0.5, count - 0.5]] * 2, weights=sent.packets
    )
    span = (-0.5, count - 0.5, count - 0.5, -0.5)
    drawn = axes.imshow(packets, cmap="YlOrRd", extent=span, interpolation="nearest", vmin=0)
    axes.set_title("Packets per step; this profile states no mesh", loc="left")
    axes.set_xlabel("to core")
    axes.set_ylabel("from core")
    axes.locator_params(integer=True, nbins=6)
    _scale(axes, drawn)


def _bars(placement: Placement, profile: Profile, by_chip: bool) -> list[_Bars]:
    """Number of cores of every population, and mean use of the limits that matter most."""
    names, used = utilisation(placement, profile)
    held = members(placement)
    row = {core.index: i for i, core in enumerate(placement.cores)}
    cores = [float(len(boxes)) for boxes in held.values()]
    mean = np.array([used[[row[i] for i in boxes]].mean(axis=0) for boxes in held.values()])
    own = mean if by_chip else own_use(placement, profile)
    most = mean.max(axis=0) if names else np.zeros(0)
    shown = [i for i in np.argsort(-most, kind="stable")[:LIMITS_SHOWN] if most[i] >= 0.01]
    found = [_Bars("cores", cores, cores)]
    for i in shown:
        title = f"{limit_words(names[i])}, % in use"
        found.append(_Bars(title, (100 * own[:, i]).tolist(), (100 * mean[:, i]).tolist()))
    return found


def _layers(panels: Any, rows: list[_Bars], colours: Mapping[str, Any]) -> None:
    names, filled = list(colours), list(colours.values())
    at = np.arange(len(names))
    for index, (axes, bars) in enumerate(zip(panels, rows, strict=True)):
        axes.bar(at, bars.whole, color=filled, width=0.8, alpha=FAINT)
        axes.bar(at, bars.own, color=filled, width=0.8)
        axes.set_title(bars.title, loc="left", fontsize=8, pad=3)
        axes.set_ylim(0, 100 if index else None)
        axes.locator_params(axis="y", nbins=3, integer=True)
        axes.grid(axis="y", linewidth=0.4, color=PALE)
        plot_files.quiet(axes)
        axes.tick_params(width=0.5, length=2)
        axes.set_xlim(-0.6, max(len(names), FEWEST) - 0.4)
    every = -(-len(names) // NAMED)
    style: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    named = panels if len(names) <= BESIDE else panels[-1:]
    for axes in named:
        axes.set_xticks(at[::every], [short(name, 24) for name in names[::every]], **style)
