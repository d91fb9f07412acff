"""The picture of a comparison: what it shows, of which costs, the same file every time."""

from __future__ import annotations

import importlib.util
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, model_file, runner
from PIL import Image

from lapilli import compare_plot, plot_files
from lapilli.compare_report import Compared, Comparison
from lapilli.compiler.errors import BackendError, InputError
from lapilli.runtime.uncertainty import Band

drawn = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the extra plots is not installed"
)


def row(
    name: str, coding: str, levels: dict[str, int], score: float, cost: float, steps: int = 1
) -> Compared:
    """A network that costs 0.4 to 3 times `cost` uJ."""
    band = Band(0.4e6 * cost, 1e6 * cost, 3e6 * cost)
    some = Band(1.0, 2.0, 3.0)
    return Compared(
        name=name,
        path=None,
        hash=name,
        file_bytes=None,
        method="parallel" if levels else coding,
        coding=coding,
        levels=levels,
        steps=steps,
        profile="loihi2",
        calibrated=False,
        correct=None,
        score=score,
        neurons=10,
        synapses=20,
        cores=3,
        chips=1,
        synops=5.0,
        spikes=6.0,
        input_macs=7.0,
        dynamic_pj=some,
        single_total_pj=band,
        streaming_total_pj=some,
        latency_steps=4,
        latency_us=some,
        images_per_second=some,
        energy_delay_pj_us=some,
    )


ROWS = (
    row("a", "graded", {"x": 8, "y": 8}, 0.95, 20.0),
    row("b", "graded", {"x": 2, "y": 4}, 0.90, 10.0),
    row("c", "unary", {"x": 4}, 0.93, 80.0, 4),
    row("d", "rate", {}, 0.94, 400.0, 32),
)
FOUND = Comparison(500, "accuracy", "energy", ("b", "a"), ROWS, ())


def texts(found: Comparison, title: str = "") -> list[str]:
    """Every text of the picture: an SVG has them as comments beside their outlines."""
    content = compare_plot.picture(found, title, ".svg").decode()
    return re.findall(r"<!-- (.*?) -->", content, flags=re.DOTALL)


@drawn
def test_points_are_named_by_levels_or_steps() -> None:
    found = texts(FOUND, "digits")
    for text in ("L=8", "L=2..4", "L=4", "T=32", "parallel, graded", "parallel, unary", "rate"):
        assert found.count(text) == 1, text
    assert "Pareto front" in found and "digits" in found and "accuracy, %" in found
    assert "total energy of one image alone, on loihi2 *" in found
    assert "100 uJ" in found
    assert any("not calibrated against silicon" in text for text in found)


@drawn
def test_nothing_is_starred_that_silicon_confirmed() -> None:
    sure = replace(FOUND, networks=tuple(replace(r, calibrated=True) for r in ROWS))
    found = texts(sure)
    assert "total energy of one image alone, on loihi2" in found
    assert not any("calibrated" in text for text in found)


@drawn
def test_chips_are_told_apart() -> None:
    rows = (ROWS[0], replace(ROWS[2], profile="loihi1", calibrated=True))
    found = texts(replace(FOUND, networks=rows, front=("a",)))
    assert "parallel, graded on loihi2*" in found
    assert "parallel, unary on loihi1" in found
    assert "total energy of one image alone *" in found


@drawn
def test_words_of_a_file_leave_room_for_the_points() -> None:
    """pytest would turn matplotlib's warning about it into an error."""
    long = replace(ROWS[0], coding="word " * 3000)
    found = texts(replace(FOUND, networks=(long,), front=("a",)))
    (name,) = [text for text in found if "word" in text]
    assert len(name) < 50 and "parallel, word word" in name


@drawn
@pytest.mark.parametrize(
    ("against", "words"),
    [
        ("cores", "cores, on loihi2"),
        ("latency", "latency of one image alone, on loihi2 *"),
        ("dynamic", "dynamic energy of an image, all layers, on loihi2 *"),
        ("energy-delay", "energy times time of one image alone, on loihi2 *"),
    ],
)
def test_other_costs(against: str, words: str) -> None:
    found = texts(replace(FOUND, against=against))
    assert words in found
    assert any("draws of the constants" in text for text in found) == (against != "cores")
    unit = {"cores": "3", "latency": " us", "dynamic": " pJ", "energy-delay": " aJ s"}[against]
    assert any(text.endswith(unit) for text in found), found


@drawn
def test_a_single_point_and_equal_points() -> None:
    alone = replace(FOUND, networks=ROWS[:1], front=("a",))
    assert texts(alone).count("L=8") == 1
    same = tuple(replace(ROWS[0], name=f"n{i}") for i in range(5))
    assert texts(replace(FOUND, networks=same, front=tuple(r.name for r in same))).count("L=8") == 5


@drawn
@pytest.mark.parametrize("ending", plot_files.ENDINGS)
def test_the_same_file_every_time(ending: str) -> None:
    content = compare_plot.picture(FOUND, "a $small_ network\x1b[2J", ending)
    assert content == compare_plot.picture(FOUND, "a $small_ network\x1b[2J", ending)
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[ending]
    assert content.startswith(begins)


@drawn
def test_colours_of_groups_are_in_the_picture() -> None:
    with Image.open(io.BytesIO(compare_plot.picture(FOUND))) as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    for colour in plot_files.LINES[:3]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == wanted).all(1).sum() > 40, colour
    unused = [int(plot_files.LINES[3][i : i + 2], 16) for i in (1, 3, 5)]
    assert not (pixels == unused).all(1).any()


@drawn
def test_without_labels_there_is_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="labels"):
        compare_plot.picture(replace(FOUND, measure=None, front=()))


@drawn
def test_the_command_writes_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run: Run = runner(capsys)
    model, target = model_file(tmp_path), tmp_path / "front.svg"
    given = ("compare", model, "--data", "digits", "--limit", 5)
    outcome = run(*given, "--plot", target, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["front"] == ["model"]
    assert f"wrote {target}" in outcome.err
    assert target.read_bytes().startswith(b"<?xml")
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 1, 8, 8), np.float32))
    unlabelled = ("compare", model, "--data", f"npz:{tmp_path / 'x.npz'}")
    refused = run(*unlabelled, "--plot", tmp_path / "p.png")
    assert refused.code == 2 and "needs data with labels" in refused.err
    for wrong in ("p.jpg", "nowhere/p.png"):
        refused = run(*given, "--plot", tmp_path / wrong)
        assert refused.code == 2 and "--plot" in refused.err
    assert not (tmp_path / "p.png").exists()


@pytest.mark.parametrize("command", ["compare", "estimate"])
def test_without_matplotlib_the_extra_is_named(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name)
    )
    given = ("--data", "digits", "--plot", tmp_path / "p.png")
    outcome = runner(capsys)(command, tmp_path / "absent.h5", *given)
    assert outcome.code == BackendError.exit_code
    assert "lapilli[plots]" in outcome.err
    assert not list(tmp_path.iterdir())
