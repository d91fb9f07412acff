"""Accuracy against strength as small multiples: one panel per kind of noise, one line per network.

matplotlib is the extra `plots`; without it, everything but the picture works.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lapilli import plot_files
from lapilli.corruptions import CORRUPTIONS
from lapilli.plot_files import GREY, LINES, PALE, literal
from lapilli.robustness_report import Robustness, about, middle

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = 4
PANEL = (2.75, 2.3)
"""Width and height of one, in inches."""
LEAST_WIDTH, HEAD = 4.6, 0.75
DPI = 150
LEAST_SPAN = 4.0
"""Points of accuracy from the bottom to the top of a panel: less is no difference."""
MARKERS = "osD^vP*"
"""They tell networks apart in grey."""
BAND = 0.18
OWN_RANGES = "; panels have ranges of their own"
MIDDLE: dict[str, Any] = {"color": GREY, "linewidth": 0.8, "linestyle": (0, (2, 2))}


def picture(found: Robustness, title: str = "", ending: str = ".png") -> bytes:
    """The picture; the same one every time with the same matplotlib. Raises BackendError."""
    plot_files.check_installed()
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    kinds = list(found.strengths)
    columns = min(COLUMNS, len(kinds))
    rows = math.ceil(len(kinds) / columns)
    with rc_context(plot_files.STYLE | {"font.size": 8, "axes.titlesize": 9}):
        size = (max(PANEL[0] * columns, LEAST_WIDTH), PANEL[1] * rows + HEAD)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flat
        for kind, axes in zip(kinds, panels, strict=False):
            _panel(found, kind, axes)
        for axes in panels[len(kinds) :]:
            axes.set_visible(False)
        for index in range(0, len(kinds), columns):
            panels[index].set_ylabel("accuracy, %")
        handles: list[Any] = [
            Line2D([], [], **_style(index), label=literal(model))
            for index, model in enumerate(found.models)
        ]
        band = "\N{PLUS-MINUS SIGN} standard deviation"
        handles.append(Patch(color=GREY, alpha=BAND, label=band))
        handles.append(Line2D([], [], **MIDDLE, label="middle strength"))
        figure.legend(
            handles=handles,
            title=literal(title + OWN_RANGES * (len(kinds) > 1)) or None,
            loc="outside upper left",
            ncols=min(len(handles), int(1.4 * columns) + 1),
            alignment="left",
            frameon=False,
        )
        return plot_files.content(figure, ending)


def _style(index: int) -> dict[str, Any]:
    above = 0.75**index  # what is drawn later is thinner: equal lines show one another
    return {
        "color": LINES[index % len(LINES)],
        "linewidth": max(2.4 * above, 1.0),
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": max(5.5 * above, 2.6),
    }


def _panel(found: Robustness, kind: str, axes: Axes) -> None:
    strengths = [x for x in found.strengths[kind] if x > 0]
    for index, model in enumerate(found.models):
        cells = [found.cell(model, kind, x) for x in strengths]
        clean = 100 * found.clean[model] / found.images
        x = [0, *strengths]
        y = [clean, *(100 * c.mean for c in cells)]
        spread = [0, *(100 * c.std for c in cells)]
        style = _style(index)
        axes.plot(x, y, zorder=3, **style)
        low = [max(a - b, 0) for a, b in zip(y, spread, strict=True)]
        high = [min(a + b, 100) for a, b in zip(y, spread, strict=True)]
        axes.fill_between(x, low, high, color=style["color"], alpha=BAND, linewidth=0)
    if strengths:
        axes.axvline(middle(strengths), **MIDDLE, zorder=1)
    axes.set_title(kind if kind in CORRUPTIONS else f"{kind} (hardware)", loc="left")
    axes.set_xlabel(about(kind).unit)
    axes.set_xlim(left=0)
    bottom, top = axes.get_ylim()
    axes.set_ylim(min(bottom, top - LEAST_SPAN), top)
    axes.locator_params(nbins=5)
    axes.grid(axis="y", linewidth=0.4, color=PALE)
    plot_files.quiet(axes)
