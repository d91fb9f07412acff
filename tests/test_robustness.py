"""The comparison of networks under noise and faults: what is measured, printed, written, drawn."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run, SmallNetwork
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

import lapilli
from lapilli import data, models, plot_files, robustness_plot
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import BackendError, InputError
from lapilli.contestants import FAULTS
from lapilli.corruptions import corrupt
from lapilli.noise_trials import robustness
from lapilli.robustness_report import KINDS, Cell, middle


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that knows digits, its weights, and its model file, which normalises."""
    folder = tmp_path_factory.mktemp("robustness")
    torch.manual_seed(1)
    train = data.load("digits", split="train")
    normal = data.normalise(train.images, (0.3,), (0.4,))
    images, labels = torch.from_numpy(normal), torch.tensor(train.labels)
    network = SmallNetwork()
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        functional.cross_entropy(network(images), labels).backward()
        optimiser.step()
    save_file(network.state_dict(), folder / "weights.safetensors")
    method = lapilli.methods.Parallel(levels=8)
    compiled = lapilli.compile(
        network.eval(), calibration=normal, method=method, preprocessing=((0.3,), (0.4,))
    )
    compiled.save(folder / "model.h5")
    return folder


@pytest.fixture(scope="module")
def artifact(folder: Path) -> Artifact:
    return lapilli.load(folder / "model.h5")


@pytest.fixture(scope="module")
def network(folder: Path) -> Any:
    return models.load("command_line:SmallNetwork", folder / "weights.safetensors")


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", split="test", limit=150)


FEW: dict[str, Any] = {"kinds": ("gaussian", "jpeg", "weights", "dead"), "seeds": 2}


def test_networks_are_compared_on_the_same_images(
    artifact: Artifact, network: Any, digits: data.Dataset
) -> None:
    compared = {"float": network, "file": artifact, "again": artifact}
    told: list[tuple[int, int]] = []
    found = lapilli.robustness(
        compared,
        digits.images,
        digits.labels,
        mean=(0.3,),
        std=(0.4,),
        progress=lambda done, total: told.append((done, total)),
        **FEW,
    )
    normal = data.normalise(digits.images, (0.3,), (0.4,))
    right = lapilli.run(artifact, normal).outputs.argmax(1) == digits.labels
    assert found.clean["file"] == right.sum() > 100
    cells = 5 * (2 + 1 + 2 + 2)
    assert told[-1] == (3 * (cells + 1), 3 * (cells + 1))
    assert len(told) == told[-1][1]
    for kind in found.strengths:
        assert len(found.cell("file", kind, middle(found.strengths[kind])).correct) == (
            1 if kind == "jpeg" else 2
        )
    # The same network sees the same: nobody wins, whatever is random.
    same = [d for d in found.duels if (d.first, d.second) == ("file", "again")]
    assert len(same) == 20
    assert all(d.only_first == d.only_second == 0 for d in same)
    strong = corrupt("gaussian", digits.images, 0.2, 1)
    noisy = lapilli.run(artifact, data.normalise(strong, (0.3,), (0.4,)).clip(-0.75, 1.75))
    expected = int((noisy.outputs.argmax(1) == digits.labels).sum())
    assert found.cell("file", "gaussian", 0.2).correct[1] == expected
    assert found.overall("float") == pytest.approx(
        np.mean([c.mean for c in found.cells if c.model == "float"])
    )
    for duel in found.duels:
        names = duel.first, duel.second
        first, second = (sum(found.cell(n, duel.kind, duel.strength).correct) for n in names)
        assert first - second == duel.only_first - duel.only_second


def test_the_same_arguments_give_the_same_report(artifact: Artifact, digits: data.Dataset) -> None:
    compared = {"file": artifact}
    given: dict[str, Any] = {"kinds": ("salt-and-pepper", "dead"), "seeds": 2}
    first, second = (robustness(compared, digits.images, digits.labels, **given) for _ in range(2))
    assert first.report() == second.report()
    alone = robustness(compared, digits.images, digits.labels, kinds=("dead",), seeds=2)
    assert alone.cells == tuple(c for c in first.cells if c.kind == "dead")
    weak = robustness(
        compared,
        digits.images,
        digits.labels,
        kinds=("dead",),
        seeds=2,
        strengths={"dead": (0.1, 0)},
    )
    assert weak.strengths == {"dead": (0, 0.1)}
    assert weak.cells[1] == alone.cell("file", "dead", 0.1)
    assert weak.cells[0].correct == (weak.clean["file"],) * 2


def test_mean_and_deviation_are_of_the_sample() -> None:
    cell = Cell("m", "gaussian", 0.1, 10, (5, 7, 9))
    assert (cell.mean, cell.std) == (pytest.approx(0.7), pytest.approx(0.2))
    assert Cell("m", "jpeg", 50, 10, (5,)).std == 0


def test_one_dimensional_inputs_leave_out_what_needs_a_plane() -> None:
    rows = np.random.default_rng(0).random((20, 64)).astype(np.float32)
    labels = np.arange(20) % 10
    network = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    found = robustness({"mlp": network}, rows, labels, seeds=1)
    assert list(found.strengths) == [k for k in KINDS if k not in ("occlusion", "jpeg")]
    assert network.training  # the caller's network is left as it was
    with pytest.raises(InputError, match="corruption jpeg: this kind needs images"):
        robustness({"mlp": network}, rows, labels, kinds=("jpeg",))


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ({"kinds": ("fog",)}, "every kind of noise is known"),
        ({"kinds": ()}, "every kind of noise is known"),
        ({"kinds": ("dead",), "strengths": {"jpeg": (10,)}}, "kinds that are measured"),
        ({"strengths": {"dead": (1.5,)}}, "strengths of dead"),
        ({"strengths": {"gaussian": ()}}, "strengths of gaussian"),
        ({"strengths": {"weights": (float("inf"),)}}, "strengths of weights"),
        ({"seeds": 0}, "networks and seeds"),
        ({"models": {}}, "networks and seeds"),
        ({"models": {"x": 3}}, "a model file or a network of torch"),
        ({"models": {"x": nn.Identity()}}, "gives each image a class"),
        ({"labels": None}, "every image has a class"),
        ({"labels": np.zeros(3, np.int64)}, "every image has a class"),
        ({"images": np.full((4, 1, 8, 8), 1.5, np.float32)}, "values in 0..1"),
    ],
)
def test_what_cannot_be_compared_is_refused(given: dict[str, Any], rule: str) -> None:
    usual: dict[str, Any] = {
        "models": {"x": nn.Flatten()},
        "images": np.zeros((4, 1, 8, 8), np.float32),
        "labels": np.zeros(4, np.int64),
        **given,
    }
    compared, images, labels = (usual.pop(key) for key in ("models", "images", "labels"))
    with pytest.raises(InputError, match=rule):
        robustness(compared, images, labels, **usual)


@pytest.fixture
def command(folder: Path) -> tuple[object, ...]:
    """Two networks that fit one another, few images, few kinds."""
    weights = folder / "weights.safetensors"
    return (
        *("robustness", f"command_line:SmallNetwork={weights}", folder / "model.h5"),
        *("--name", "float", "--name", "8 levels", "--data", "digits", "--limit", 40),
        *("--mean", 0.3, "--std", 0.4, "--seeds", 2),
    )


def test_the_command_prints_and_writes(
    run: Run, command: tuple[object, ...], tmp_path: Path
) -> None:
    kinds = ("--kinds", "gaussian,dead", "--strengths", "gaussian=0.1,0.3")
    outcome = run(*command, *kinds, "-o", tmp_path / "t.csv")
    assert outcome.code == 0, outcome.err
    assert "0.1*" in outcome.out
    assert "float : 8 levels" in outcome.out
    assert "mean over the kinds" in outcome.out
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 + 2 * 2 * (2 + 5)
    report = run(*command, *kinds, "--json", "-o", tmp_path / "t.json").json
    assert json.loads((tmp_path / "t.json").read_text()) == report
    assert report["data"] == {"source": "digits", "split": "test", "images": 40}
    assert [kind["kind"] for kind in report["kinds"]] == ["gaussian", "dead"]
    assert report["kinds"][1]["middle"] == FAULTS["dead"].strengths[2]
    counted = [int(row["correct"]) for row in rows if row["kind"] != "none"]
    assert counted == [right for cell in report["cells"] for right in cell["correct"]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--name", "third"), "3 labels for 2 networks"),
        (("--strengths", "gaussian"), "is not like gaussian=0.05,0.1"),
        (("--strengths", "gaussian=a"), "no number"),
        (("-o", "table.txt"), "a table ends in .csv or .json"),
        (("--plot", "picture.jpg"), "a picture ends in"),
        (("--plot", "nowhere/picture.png"), "there is no folder"),
        (("--kinds", "fog"), "every kind of noise is known"),
    ],
)
def test_the_command_refuses(
    run: Run, command: tuple[object, ...], given: tuple[str, ...], message: str
) -> None:
    outcome = run(*command, *given)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())


def test_networks_need_names_of_their_own(run: Run, folder: Path) -> None:
    model = folder / "model.h5"
    outcome = run("robustness", model, model, "--data", "digits")
    assert outcome.code == 2
    assert "Two networks are called model" in outcome.err


def test_the_picture_is_a_png_of_small_multiples(
    run: Run, command: tuple[object, ...], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="the extra plots is not installed")
    target = tmp_path / "picture.png"
    few = ("--strengths", "gaussian=0,0.1", "--strengths", "speckle=0.2")
    kinds = ("--kinds", "gaussian,speckle,salt-and-pepper,dead,jpeg")
    outcome = run(*command, *kinds, *few, "--plot", target, "--json")
    assert outcome.code == 0, outcome.err
    with Image.open(target) as picture:
        assert picture.format == "PNG"
        assert 1200 < picture.width < 2400
        assert 500 < picture.height < 1200
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in plot_files.LINES[:2]:
        wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == wanted).all(1).sum() > 200


def test_names_are_text_in_the_picture(artifact: Artifact, digits: data.Dataset) -> None:
    pytest.importorskip("matplotlib", reason="the extra plots is not installed")
    compared = {"_hidden": artifact, r"$\nonsense{": artifact}
    found = robustness(compared, digits.images[:5], digits.labels[:5], kinds=("jpeg",))
    for ending, begin in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        drawing = robustness_plot.picture(found, "a$b", ending)
        assert drawing.startswith(begin)
        assert robustness_plot.picture(found, "a$b", ending) == drawing


def test_without_matplotlib_the_extra_is_named(
    run: Run, command: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name)
    )
    outcome = run(*command, "--plot", tmp_path / "p.png")
    assert outcome.code == BackendError.exit_code
    assert "lapilli[plots]" in outcome.err
    assert not list(tmp_path.iterdir())
