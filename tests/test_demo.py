"""The demo: the network learns, every equality holds, one table and one JSON object say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_presence import lava_is_missing
from rich.console import Console

import lapilli
from lapilli import cli, data, demo, digits, models, render, reports


def accuracy(network: torch.nn.Module) -> float:
    """On the whole test split."""
    test = data.load("digits", split="test")
    with torch.no_grad():
        scores = network(torch.from_numpy(test.images))
    found = reports.accuracy(reports.predicted(scores.numpy()), test.labels)
    assert found is not None
    return float(found["fraction"])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """One run of the demo: its report, its tables as text, and the folder with what it kept."""
    folder = tmp_path_factory.mktemp("demo") / "kept"
    report = demo.run(lambda title: lambda done, total: None, folder)
    screen = Console(width=120, markup=False, highlight=False, emoji=False)
    with screen.capture() as text:
        for part in demo.tables(report):
            screen.print(part)
    return report, text.get(), folder


def test_training_leaves_the_random_state_and_threads_alone() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    epochs: list[tuple[int, int]] = []
    first = digits.train(progress=lambda *n: epochs.append(n))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert epochs[-1] == (digits.EPOCHS, digits.EPOCHS)
    assert accuracy(first) >= 0.98
    again = digits.train().state_dict()
    assert all(torch.equal(value, again[key]) for key, value in first.state_dict().items())
    assert not first.training


def test_the_spiking_networks_are_as_good_as_the_ann(shown: Any) -> None:
    report, _, _ = shown
    assert report["data"] == {"source": "digits", "split": "test", "images": 445}
    assert report["ann"]["fraction"] >= 0.98
    rows = {row["name"]: row for row in report["methods"]}
    assert set(rows) == {"parallel", "parallel-unary", "rate"}
    for row in rows.values():
        assert row["snn"]["images"] == row["quantised_ann"]["images"] == 445
        assert abs(row["snn"]["fraction"] - report["ann"]["fraction"]) <= 0.01
    parallel = rows["parallel"]
    assert parallel["options"]["levels"] == 8
    assert abs(parallel["snn"]["fraction"] - report["ann"]["fraction"]) <= 0.005
    assert parallel["snn"] == parallel["quantised_ann"]
    assert (parallel["steps"], rows["rate"]["steps"]) == (1, 64)
    assert parallel["latency_steps"] < rows["parallel-unary"]["latency_steps"]


def test_every_equality_holds(shown: Any) -> None:
    report, text, _ = shown
    assert report["ok"] is True
    for row in report["methods"]:
        assert row["verification"]["ok"] is True
        for check in row["verification"]["equalities"]:
            assert check["equal"] == check["compared"] > 0
    assert "quantised ANN == reference" in text


def test_one_table_says_it_all(shown: Any) -> None:
    report, text, _ = shown
    assert "Handwritten digits, whole test split (445 images)" in text
    assert f"{100 * report['ann']['fraction']:.2f} %" in text
    for row in report["methods"]:
        line = next(part for part in text.splitlines() if f"SNN {row['name']} " in part)
        assert f"{100 * row['snn']['fraction']:.2f} %" in line
        assert f"{row['events']['synops_per_image']:,.0f}" in line
        assert " uJ" in line or " nJ" in line
        assert [str(row["steps"]), str(row["latency_steps"])] == line.split()[6:8]
    assert "energy*" in text
    assert max(len(line) for line in text.splitlines()) <= 120
    table = text.partition(render.UNCALIBRATED)[0].splitlines()
    assert len(table) == 9, "title, header and four networks: no cell is folded"
    assert "not calibrated against silicon" in text


@pytest.mark.lava
def test_lava_equals_the_reference_in_every_method(shown: Any) -> None:
    report, text, _ = shown
    assert report["lava_missing"] is None
    assert report["lava_images"] == 16
    for row in report["methods"]:
        names = [check["equality"] for check in row["verification"]["equalities"]]
        assert "Lava == reference: spikes" in names
        assert "Lava == reference: membranes" in names
    checks = [c for row in report["methods"] for c in row["verification"]["equalities"]]
    spikes = sum(c["compared"] for c in checks if c["equality"] == "Lava == reference: spikes")
    assert f"Lava == reference: {spikes:,} of {spikes:,} spikes" in text


@pytest.mark.skipif(lava_is_missing() is None, reason="Lava is installed")
def test_a_missing_lava_is_said(shown: Any) -> None:
    report, text, _ = shown
    assert report["lava_missing"] == demo.NO_LAVA
    assert f"Lava: not run. {demo.NO_LAVA}" in text


def test_what_is_kept_can_be_used(shown: Any) -> None:
    report, _, folder = shown
    network = models.load("lapilli.digits:DigitsNetwork", folder / "digits.safetensors")
    assert accuracy(network) == report["ann"]["fraction"]
    for row in report["methods"]:
        artifact = lapilli.load(folder / f"{row['name']}.h5")
        assert dict(artifact.provenance.options) == row["options"]
    assert len(list(folder.iterdir())) == 4


def test_the_command_prints_the_report_and_its_exit_code(
    shown: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report, _, _ = shown
    broken = {**report, "ok": False}
    for outcome, code in ((report, 0), (broken, 1)):
        monkeypatch.setattr(demo, "run", lambda bar, keep, outcome=outcome: outcome)
        with pytest.raises(SystemExit) as exit_:
            cli.main(["demo", "--json"])
        assert exit_.value.code == code
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(outcome))
