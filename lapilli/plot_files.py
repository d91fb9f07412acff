"""Pictures as PNG, SVG or PDF files, and what they share. matplotlib is the extra `plots`."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lapilli import cli_options
from lapilli.compiler.errors import BackendError
from lapilli.terminal import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
DPI = 130
STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.linewidth": 0.6,
    "svg.hashsalt": "lapilli",
}
"""For matplotlib.rc_context; with the salt an SVG is the same every time."""
# Okabe and Ito 2008: told apart by every kind of colour vision.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PINK, YELLOW = "#56B4E9", "#CC79A7", "#F0E442"
INK, GREY, PALE = "#303030", "#808080", "#E0E0E0"
LINES = (BLUE, RED, GREEN, PINK, ORANGE, SKY, "#000000")
AREAS = (BLUE, ORANGE, GREEN, RED, SKY, PINK, YELLOW)
"""One after the other; YELLOW is too faint for lines and points."""
_UNDATED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}


def option(text: str, name: str = "--plot") -> cli_options.Decorator:
    """--plot FILE: refused before the work where the file or matplotlib would fail after it."""
    right = cli_options.ends_in("a picture", *ENDINGS)

    def check(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
        right(context, parameter, path)
        if path is not None:
            check_installed(name)
        return path

    return click.option(
        name, metavar="FILE.png|svg|pdf", type=cli_options.FILE, callback=check, help=text
    )


def check_installed(option: str = "--plot") -> None:
    """Raise BackendError unless matplotlib is there."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BackendError(
            option,
            "matplotlib draws",
            found="no matplotlib",
            allowed="the extra plots",
            remedy=f"pip install 'lapilli[plots]', or leave {option} out.",
        )


def content(figure: Figure, ending: str) -> bytes:
    """The file: the same bytes every time with the same matplotlib. ending: one of ENDINGS."""
    made = io.BytesIO()
    figure.savefig(made, format=ending[1:], metadata=_UNDATED[ending])
    return made.getvalue()


def literal(text: str) -> str:
    """Text that is no formula, and prints on one line."""
    return " ".join(plain(text).split()).replace("$", r"\$")


def short(name: str, most: int = 28) -> str:
    """A long name loses its middle.

    >>> short("layer1.0.relu"), short("abcdefghijklmnop", 10)
    ('layer1.0.relu', 'abcd...nop')
    """
    text = literal(name)
    return text if len(text) <= most else f"{text[: most // 2 - 1]}...{text[-most // 2 + 2 :]}"


def number(count: int, what: str) -> str:
    """A count with its noun.

    >>> number(1, "core"), number(2000, "image")
    ('1 core', '2,000 images')
    """
    return f"{count:,} {what}" + "s" * (count != 1)


def units(axis: Any, unit: str) -> None:
    """Ticks such as 50 uJ, as tables have them."""
    from matplotlib.ticker import EngFormatter, FuncFormatter

    shown = EngFormatter(unit=unit)
    axis.set_major_formatter(
        FuncFormatter(lambda value, place: shown(value, place).replace("\N{MICRO SIGN}", "u"))
    )


def quiet(axes: Axes) -> None:
    """Frames and ticks that leave the eye to the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(width=0.6, length=2.5)
    axes.set_axisbelow(True)
