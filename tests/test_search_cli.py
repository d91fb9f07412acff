"""`lapilli compile --target-...` and what `lapilli inspect` shows of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from artifact_samples import sample
from command_line import Run
from safetensors.torch import save_file
from search_network import images, trained

DRAWS = importlib.util.find_spec("matplotlib") is not None


def draw(path: object) -> tuple[object, ...]:
    """Options that draw the front, where something draws."""
    return ("--plot-front", path) if DRAWS else ()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in a folder."""
    folder = tmp_path_factory.mktemp("search")
    save_file(trained().state_dict(), folder / "net.safetensors")
    return folder


def test_the_command_line_searches(home: Path, run: Run) -> None:
    made = run(
        *("compile", "search_network:build", "--weights", home / "net.safetensors"),
        *("--calib", "digits", "--calib-samples", 128, "--target-accuracy", 80),
        *("--search-levels", "2,6", "--codings", "graded", "--search-samples", 100),
        *("-o", home / "net.h5", "--json", *draw(home / "made.png")),
    )
    assert made.code == 0, made.err
    told = made.json["search"]
    assert "search: parallel, graded, 6 levels" in made.err
    assert told["data"] == {"source": "digits", "split": "test", "images": 100}
    again = run("run", home / "net.h5", "--data", "digits", "--limit", 100, "--json").json
    assert again["accuracy"]["fraction"] == told["chosen"]["score"] >= 0.8
    priced = run("estimate", home / "net.h5", "--data", "digits", "--limit", 100, "--json").json
    energy = priced["estimate"]["single"]["total_pj"]["mid"]
    assert energy * 1e-12 == pytest.approx(told["chosen"]["energy_mid_j"], rel=1e-12)
    shown = run("inspect", home / "net.h5", "--json").json["provenance"]
    assert shown["front"] == told["front"]
    assert shown["search"] == told["target"]
    text = run("inspect", home / "net.h5", *draw(home / "shown.pdf")).out
    assert "Pareto front, measured on 100 held-out images" in text
    assert f"{100 * told['chosen']['score']:.2f} %" in text
    if DRAWS:
        assert (home / "made.png").read_bytes().startswith(b"\x89PNG")
        assert (home / "shown.pdf").read_bytes().startswith(b"%PDF")


def test_a_target_that_is_missed_is_one_message(home: Path, run: Run) -> None:
    missed = run(
        *("compile", "search_network:build", "--weights", home / "net.safetensors"),
        *("--calib", "digits", "--calib-samples", 64, "--target-energy", "1nJ"),
        *("--search-levels", "2", "--codings", "graded", "-o", home / "missed.h5"),
    )
    assert missed.code == 2
    assert missed.out == ""
    assert "allowed: <= 1 nJ" in missed.err
    assert not (home / "missed.h5").exists()


BAD: list[tuple[tuple[str, ...], str]] = [
    (("--target-accuracy", "80", "--target-energy", "5uJ"), "exclude each other"),
    (("--codings", "graded"), "--codings goes with --target-accuracy"),
    (("--search-seed", "1", "--method", "rate"), "--search-seed goes with"),
    (("--target-accuracy", "80", "--plot-front", "x.jpg"), "a picture ends in .png, .svg or .pdf"),
    (("--target-accuracy", "80", "--plot-front", "no/x.png"), "there is no folder 'no'"),
    (("--target-accuracy", "80", "--levels", "4"), "a search chooses levels"),
    (("--target-accuracy", "80", "--search-levels", "2;4"), "not a list like 2,4,8"),
    (("--target-accuracy", "80", "--method", "lm-ht"), "something to search"),
    (("--target-accuracy", "0.5"), "in percent"),
    (("--target-energy", "5uj"), "Did you mean 5uJ?"),
]


@pytest.mark.parametrize(("options", "said"), BAD)
def test_options_that_make_no_sense_are_told(options: tuple[str, ...], said: str, run: Run) -> None:
    found = run("compile", "search_network:build", "--calib", "digits", "-o", "x.h5", *options)
    assert found.code == 2
    assert said in found.err


def test_files_of_other_tools_are_not_searched(run: Run) -> None:
    found = run("compile", "net.net", "-o", "x.h5", "--target-accuracy", 80)
    assert found.code == 2
    assert "--target-accuracy has no use for .net files" in found.err


@pytest.mark.skipif(not DRAWS, reason="the extra plots is not installed")
def test_only_what_was_searched_has_a_front_to_draw(run: Run, tmp_path: Path) -> None:
    sample().save(tmp_path / "net.h5")
    found = run("inspect", tmp_path / "net.h5", "--plot-front", tmp_path / "x.png")
    assert found.code == 2
    assert "no front in this file" in found.err
    assert not (tmp_path / "x.png").exists()
    assert "Pareto" not in run("inspect", tmp_path / "net.h5").out
    found = run("compile", "any:thing", "--calib", "digits", "-o", "x.h5", *draw("x.png"))
    assert "--plot-front goes with" in found.err


def test_data_without_splits_is_divided(home: Path, run: Run) -> None:
    train = images("train", 300)
    np.savez(home / "some.npz", images=train.images, labels=train.labels)
    made = run(
        *("compile", "search_network:build", "--weights", home / "net.safetensors"),
        *("--calib", f"npz:{home / 'some.npz'}", "--calib-samples", 200, "--target-accuracy", 80),
        *("--search-levels", "8", "--codings", "graded", "-o", home / "npz.h5", "--json"),
    )
    assert made.code == 0, made.err
    assert made.json["search"]["chosen"]["images"] == 150
    assert made.json["provenance"]["calibration_samples"] == 150
