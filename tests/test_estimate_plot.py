"""The picture of an estimate: bars of an inference and of every layer, few or many."""

from __future__ import annotations

import copy
import importlib.util
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, model_file, runner
from PIL import Image

import lapilli
from lapilli import estimate_plot, plot_files
from lapilli.render import joules

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the extra plots is not installed"
)
Report = dict[str, Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled network on the digits."""
    return model_file(tmp_path_factory.mktemp("drawn"))


@pytest.fixture(scope="module")
def found(model: Path) -> Report:
    """What it costs, on images of noise."""
    pixels = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    return lapilli.estimate(lapilli.load(model), pixels).as_dict()


def texts(found: Report, title: str = "") -> list[str]:
    """Every text of the picture: an SVG has them as comments beside their outlines."""
    content = estimate_plot.picture(found, title, ".svg").decode()
    return re.findall(r"<!-- (.*?) -->", content, flags=re.DOTALL)


def test_terms_and_parts_add_up_to_their_bars(found: Report) -> None:
    """Bars show the middle of a sum: else the picture would be wrong."""
    for layer in [*found["layers"], found["total"]]:
        terms = sum(layer[term]["mid"] for term in estimate_plot.TERMS)
        assert terms == pytest.approx(layer["dynamic_pj"]["mid"])
    for key in ("single", "streaming"):
        parts = estimate_plot._parts(found, found[key])
        assert sum(parts.values()) == pytest.approx(found[key]["total_pj"]["mid"])


def test_the_picture_of_a_board(model: Path) -> None:
    pixels = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    on_board = lapilli.estimate(lapilli.load(model), pixels, profile="oheo-gulch").as_dict()
    for bar in estimate_plot._totals(on_board):
        assert sum(bar.parts.values()) == pytest.approx(bar.whole["mid"])
    shown = texts(on_board)
    assert "one image alone, whole board" in shown and "the board at rest" in shown


def test_what_is_written(found: Report) -> None:
    shown = texts(found, "a $small_ network")
    names = [layer["name"] for layer in found["layers"] if layer["dynamic_pj"]["mid"] > 0]
    for text in (
        *names,
        *("one image alone", "back to back", "An inference *", "Dynamic energy of every layer *"),
        *("synaptic operations", "neuron updates", "analog input", "chips, static"),
        f"{joules(found['single']['total_pj']['mid'])}*",
    ):
        assert text in shown, text
    assert "hops of packets" not in shown and "the board at rest" not in shown
    said = " ".join(shown)
    assert "a $small_ network on Intel Loihi 2" in said
    assert "4 images; " in said and "not placed" in said
    assert "* modelled: these constants are not calibrated against silicon" in said


def test_a_calibrated_estimate_has_no_star(found: Report) -> None:
    shown = texts({**found, "calibrated": True})
    assert not any("*" in text or "calibrated" in text for text in shown)


def test_a_placed_estimate_says_so(found: Report) -> None:
    placed = copy.deepcopy(found)
    placed["placement"] = {"objective": "cores"}
    for term in ("hops_pj", "spikes_pj"):
        placed["layers"][1][term] = {"low": 4.0, "mid": 5.0, "high": 6.0}
    shown = texts(placed)
    assert "hops of packets" in shown and "spikes and packets" in shown
    assert any("placed for cores" in text for text in shown)


def deep(found: Report, layers: int) -> Report:
    """The same with many layers."""
    made, costly = copy.deepcopy(found), found["layers"][1]
    made["layers"] = [{**costly, "name": f"layer{i}.{'x' * 30}.relu"} for i in range(layers)]
    return made


@pytest.mark.parametrize("layers", [1, 3, 60])
def test_every_layer_has_its_row(found: Report, layers: int) -> None:
    drawn = deep(found, layers)
    with Image.open(io.BytesIO(estimate_plot.picture(drawn))) as image:
        assert image.width == estimate_plot.WIDTH * plot_files.DPI
        assert image.height > layers * estimate_plot.ROW * plot_files.DPI
    content = estimate_plot.picture(drawn, "", ".svg").decode()
    # One part of a bar per layer, and the legend's square.
    assert content.count(f"fill: {plot_files.ORANGE.lower()}") == layers + 1
    assert len({text for text in texts(drawn) if text.startswith("layer")}) == layers


def test_nothing_to_draw_is_drawn(found: Report) -> None:
    empty = deep(found, 0)
    assert "Dynamic energy of every layer *" in texts(empty)


@pytest.mark.parametrize("ending", plot_files.ENDINGS)
def test_the_same_file_every_time(found: Report, ending: str) -> None:
    content = estimate_plot.picture(found, "x", ending)
    assert content == estimate_plot.picture(found, "x", ending)
    begins = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[ending]
    assert content.startswith(begins)


def test_the_command_writes_it(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    run: Run = runner(capsys)
    given = ("estimate", model, "--data", "digits", "--limit", 5)
    target = tmp_path / "cost.png"
    outcome = run(*given, "--plot", target, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["estimate"]["images"] == 5
    assert f"wrote {target}" in outcome.err
    with Image.open(target) as image:
        assert image.format == "PNG"
    refused = run(*given, "--plot", tmp_path / "cost.gif")
    assert refused.code == 2 and "'.gif'" in refused.err
