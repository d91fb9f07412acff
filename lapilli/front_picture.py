"""Accuracy against energy as a picture: every network measured, the front, the chosen one."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from lapilli.compiler.errors import InputError
from lapilli.compiler.numerics import half_up
from lapilli.compiler.pareto import FrontPoint
from lapilli.compiler.sealed_file import write_whole
from lapilli.search_options import energy

SIZE = 960, 640
LEFT, TOP, RIGHT, BOTTOM = 110, 50, 40, 80
TICKS = 5
INK, GREY, LINE, MARK = (20, 20, 20), (215, 215, 215), (120, 120, 120), (200, 30, 30)
COLOURS = {
    "graded": (31, 119, 180),
    "unary": (44, 160, 44),
    "sigma-delta": (148, 103, 189),
    "rate": (230, 120, 20),
}
FINE = 2
"""Drawn so many times as large, then made smaller: edges are smooth."""
Place = Callable[[FrontPoint], tuple[float, float]]


def save(path: Path, front: Sequence[FrontPoint], points: Sequence[FrontPoint]) -> None:
    """Write a PNG. Raises InputError where there is no front, or for another kind of file."""
    if not front or path.suffix.lower() != ".png":
        raise InputError(
            "option plot_front",
            "the front of a search is drawn as a PNG file",
            found=f"a file {path.suffix or 'without ending'}" if front else "no front in this file",
            allowed="FILE.png, of a network compiled with a target",
            remedy="Compile with --target-accuracy or --target-energy, and name a .png file.",
        )
    content = io.BytesIO()
    drawn(front, points).save(content, "PNG")
    write_whole(path, content.getvalue())


def drawn(front: Sequence[FrontPoint], points: Sequence[FrontPoint]) -> Image.Image:
    """The picture: energy from left to right, in logarithms where it varies much."""
    every = [*points, *front]
    picture = Image.new("RGB", (SIZE[0] * FINE, SIZE[1] * FINE), "white")
    pen = ImageDraw.Draw(picture)
    place = _axes(pen, every)
    corner = [place(p) for p in front]
    for start, end in pairwise(corner):
        pen.line([start, (end[0], start[1]), end], fill=LINE, width=2 * FINE)
    for p in every:
        x, y = place(p)
        size = (7 if p in front else 4) * FINE
        pen.ellipse((x - size, y - size, x + size, y + size), fill=COLOURS.get(p.coding, INK))
    for p in front:
        if p.chosen:
            x, y = place(p)
            pen.ellipse((x - 26, y - 26, x + 26, y + 26), outline=MARK, width=3 * FINE)
    used = [name for name in COLOURS if any(p.coding == name for p in every)]
    for index, name in enumerate(used):
        _text(pen, (LEFT + 130 * index, 14), name, COLOURS[name])
    return picture.resize(SIZE, Image.Resampling.LANCZOS)


def _axes(pen: Any, points: Sequence[FrontPoint]) -> Place:
    """Draw the frame with its numbers; where a point lies."""
    costs, shares = [p.energy_mid_j for p in points], [100 * p.score for p in points]
    least, most = max(min(costs), 1e-15), max(*costs, 1e-15)
    scale = math.log10 if most > 5 * least else float
    left, right = _wider(scale(least), scale(most))
    low, high = _wider(min(shares), max(shares))
    width, height = SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM

    def spot(x: float, y: float) -> tuple[float, float]:
        across, up = (x - left) / (right - left), (y - low) / (high - low)
        return (LEFT + across * width) * FINE, (TOP + (1 - up) * height) * FINE

    for tick in range(TICKS):
        share = tick / (TICKS - 1)
        x, y = left + share * (right - left), low + share * (high - low)
        value = 10**x if scale is math.log10 else x
        pen.line([spot(x, low), spot(x, high)], fill=GREY, width=FINE)
        pen.line([spot(left, y), spot(right, y)], fill=GREY, width=FINE)
        _text(pen, (spot(x, low)[0] / FINE - 28, SIZE[1] - BOTTOM + 10), energy(value), INK)
        _text(pen, (20, spot(left, y)[1] / FINE - 8), f"{y:6.2f} %", INK)
    kind = "accuracy" if points[0].measure == "accuracy" else "agreement with the float network"
    title = f"{kind} on {points[0].images:,} held-out images, against energy of one image alone"
    _text(pen, (LEFT, SIZE[1] - 36), title, INK)
    return lambda p: spot(scale(max(p.energy_mid_j, 1e-15)), 100 * p.score)


def _wider(low: float, high: float) -> tuple[float, float]:
    """Five per cent of room on both sides; some room where there is none at all."""
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _text(pen: Any, place: tuple[float, float], text: str, colour: tuple[int, int, int]) -> None:
    """Text at a place in units of the finished picture."""
    try:
        font: Any = ImageFont.load_default(size=15 * FINE)
    except (TypeError, ImportError):  # Pillow before 10.1, or without FreeType: letters of one size
        font = ImageFont.load_default()
    x, y = (int(half_up(part * FINE)) for part in place)
    pen.text((x, y), text, fill=colour, font=font)
