"""The picture of a search: what it names, that names keep apart, the same file every time."""

from __future__ import annotations

import importlib.util
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lapilli import front_plot, plot_files
from lapilli.compiler.errors import BackendError, InputError
from lapilli.compiler.pareto import FrontPoint, front_of

drawn = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the extra plots is not installed"
)


def point(levels: dict[str, int], score: float, energy_uj: float, coding: str) -> FrontPoint:
    """A network whose energy is known within a factor of three."""
    middle = 1e-6 * energy_uj
    return FrontPoint(
        method="parallel",
        coding=coding,
        levels=levels,
        steps=1 if levels else 32,
        score=score,
        measure="accuracy",
        images=1000,
        energy_low_j=middle / 3,
        energy_mid_j=middle,
        energy_high_j=3 * middle,
        latency_steps=4,
        latency_s=1e-4,
    )


POINTS = (
    point({"a": 2, "b": 2}, 0.80, 4.0, "graded"),
    point({"a": 2, "b": 6}, 0.90, 4.2, "graded"),
    point({"a": 4, "b": 4}, 0.88, 4.4, "graded"),
    point({"a": 3, "b": 3}, 0.85, 9.0, "unary"),
    point({}, 0.95, 30.0, "rate"),
)
FRONT = tuple(replace(p, chosen=p.score == 0.9) for p in front_of(POINTS))


def texts(
    front: Sequence[FrontPoint] = FRONT, points: Sequence[FrontPoint] = POINTS, profile: str = ""
) -> list[str]:
    """Every text of the picture: an SVG has them as comments beside their outlines."""
    content = front_plot.picture(front, points, profile, ".svg").decode()
    return re.findall(r"<!-- (.*?) -->", content, flags=re.DOTALL)


@drawn
def test_the_front_is_named_and_every_coding_told_apart() -> None:
    found = texts(profile="a$chip")
    for text in ("L=2", "L=2..6", "T=32"):
        assert found.count(text) == 1, text
    assert "L=4" not in found
    for text in ("L=2: 80.00 %", "L=2..6 (mean 4): 90.00 %", "T=32: 95.00 %"):
        assert found.count(text) == 1, text
    for text in ("graded", "unary", "rate", "Pareto front", "the chosen network", "accuracy, %"):
        assert found.count(text) == 1, text
    assert "sigma-delta" not in found
    assert "total energy of one image alone, on a$chip" in found
    assert any("1,000 held-out images" in text for text in found)
    assert any("19 of 20 draws of the constants" in text for text in found)
    assert {"10 uJ", "20 uJ", "  4.2 uJ"} <= set(found)


@drawn
def test_agreement_is_not_called_accuracy() -> None:
    found = texts([replace(p, measure="agreement") for p in FRONT])
    assert "same class as the float network, %" in found and "accuracy, %" not in found


@drawn
def test_every_network_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen one is among the candidates without its mark."""
    seen: list[list[FrontPoint]] = []
    real = front_plot._measured

    def measured(axes: Any, front: Any, every: Any) -> Any:
        seen.append(list(every))
        return real(axes, front, every)

    monkeypatch.setattr(front_plot, "_measured", measured)
    front_plot.picture(FRONT, POINTS)
    front_plot.picture(FRONT, FRONT)
    assert [len(every) for every in seen] == [len(POINTS), len(FRONT)]


@drawn
def test_names_do_not_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    close = [point({"a": n, "b": 2 * n}, 0.9 + n * 1e-4, 5 + n * 1e-3, "graded") for n in range(9)]
    far = point({"a": 40}, 0.5, 1.0, "graded")
    from matplotlib.text import Text

    boxes: list[Any] = []
    inside: list[Any] = []
    real = front_plot._names

    def names(axes: Any, front: Any) -> None:
        before = set(axes.texts)
        real(axes, front)
        for text in set(axes.texts) - before:
            text.get_window_extent()  # of the line to its point, too; finds its place
            boxes.append(Text.get_window_extent(text))
        inside.append(axes.bbox)

    monkeypatch.setattr(front_plot, "_names", names)
    front_plot.picture((far, *close), (far, *close))
    places = {tuple(np.rint(box.extents).astype(int)): box for box in boxes}
    assert 4 <= len(places) < 10  # those that leave the panel are named below it only
    assert all(inside[0].contains(*corner) for box in boxes for corner in (box.min, box.max))
    for one, other in itertools.combinations(places.values(), 2):
        assert not one.overlaps(other)


@drawn
def test_a_single_network_and_no_energy() -> None:
    assert texts(FRONT[:1], FRONT[:1]).count("L=2") == 1
    free = replace(FRONT[0], energy_low_j=0.0, energy_mid_j=0.0, energy_high_j=0.0)
    assert texts([free], [free]).count("L=2") == 1


@drawn
@pytest.mark.parametrize("ending", plot_files.ENDINGS)
def test_the_same_file_every_time(ending: str) -> None:
    content = front_plot.picture(FRONT, POINTS, "loihi2", ending)
    assert content == front_plot.picture(FRONT, POINTS, "loihi2", ending)
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[ending]
    assert content.startswith(begins)


@drawn
def test_colours_of_codings_and_of_the_chosen_one() -> None:
    def pixels(front: Sequence[FrontPoint], colour: str) -> int:
        with Image.open(io.BytesIO(front_plot.picture(front, POINTS))) as image:
            found = np.asarray(image.convert("RGB")).reshape(-1, 3)
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        return int((found == wanted).all(1).sum())

    for coding in ("graded", "unary", "rate"):
        assert pixels(FRONT, front_plot.COLOURS[coding]) > 20, coding
    assert pixels(FRONT, front_plot.COLOURS["sigma-delta"]) == 0
    assert pixels(FRONT, plot_files.RED) > 40
    assert pixels([replace(p, chosen=False) for p in FRONT], plot_files.RED) == 0


@drawn
def test_without_a_search_there_is_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="no front in this file"):
        front_plot.picture((), POINTS)


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"--plot-front: matplotlib draws.*lapilli\[plots\]"):
        front_plot.picture(FRONT, POINTS)
