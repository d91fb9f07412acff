"""The command line: what each command prints and writes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from command_line import Run, SmallNetwork, model_file

import lapilli
from lapilli import data, method_options, models, reports
from lapilli.compiler.compensate import CALIBRATIONS
from lapilli.compiler.errors import InputError
from lapilli.compiler.neurons import Window


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled model file."""
    return model_file(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """Arguments of `compile` without --method and its options."""
    monkeypatch.setattr(models, "load", lambda spec, weights: SmallNetwork().eval())
    return ("compile", "any:Net", "--calib", "digits", "--calib-samples", 32)


@pytest.mark.parametrize("given", [("--low", 3), ("--dt", 0.1), ("--timing", "held")])
def test_options_of_files_are_refused_for_a_network(
    run: Run, small: tuple[object, ...], given: tuple[object, ...], tmp_path: Path
) -> None:
    outcome = run(*small, "--method", "sigma-delta", *given, "-o", tmp_path / "m.h5")
    assert outcome.code == 2
    assert f"option {given[0]}: an option belongs to the chosen method" in outcome.err
    assert "files of other tools" in outcome.err


def test_stop_after_alone_is_refused(run: Run, model: Path) -> None:
    outcome = run("run", model, "--data", "digits", "--stop-after", 3)
    assert outcome.code == 2
    assert "--stop-margin" in outcome.err


def test_version(run: Run) -> None:
    assert run("--version").out == f"lapilli, version {lapilli.__version__}\n"


def test_compile_writes_a_file_and_says_what_is_in_it(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net_of_cli_test.py").write_text(
        "import command_line\ndef build():\n    return command_line.SmallNetwork()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    target = tmp_path / "m.h5"
    arguments = (
        *("compile", "net_of_cli_test:build", "--weights", model.parent / "weights.safetensors"),
        *("--calib", "digits", "--calib-samples", 64, "--method", "parallel", "--levels", 4),
        *("--profile", "loihi2", "--calibrate", "bias", "--mean", "0.3", "--std", "0.4"),
        *("-o", target),
    )
    outcome = run(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    report = outcome.json
    artifact = lapilli.load(target)
    assert artifact.hash == lapilli.load(model).hash
    assert report["artifact"] == {"path": str(target), "hash": artifact.hash}
    assert report["provenance"]["options"]["levels"] == 4
    assert artifact.provenance.calibration_samples == 64
    assert (artifact.provenance.input_mean, artifact.provenance.input_std) == ((0.3,), (0.4,))
    assert artifact.provenance.labels == tuple("0123456789")
    for stage in ("capture", "legalise", "calibrate", "convert_parallel", "quantise"):
        assert f"compile: {stage}" in outcome.err
    before = target.read_bytes()
    again = run(*arguments)
    assert again.code == 0
    assert target.read_bytes() == before
    assert "Compiled" in again.out and artifact.hash in again.out
    assert "2, of which 2 compact and 0 sparse" in again.out


def test_inspect_shows_what_is_in_the_file(run: Run, model: Path) -> None:
    artifact = lapilli.load(model)
    report = run("inspect", model, "--json").json
    hidden = artifact.netlist.populations[1]
    assert isinstance(hidden.neuron, Window)
    shown = report["populations"][1]
    assert (shown["name"], shown["model"], shown["shape"]) == (hidden.name, "Window", [4, 4, 4])
    assert shown["threshold"] == [
        int(hidden.neuron.threshold.min()),
        int(hidden.neuron.threshold.max()),
    ]
    assert shown["v"] == [hidden.state_low, hidden.state_high]
    assert 2 ** (shown["v_bits"] - 2) <= max(-shown["v"][0], shown["v"][1] + 1)
    assert max(-shown["v"][0], shown["v"][1] + 1) <= 2 ** (shown["v_bits"] - 1)
    assert shown["weight_bits"] <= 8
    assert (report["steps"], report["latency_steps"]) == (1, 3)
    assert report["totals"]["neurons"] == 64 + 64 + 10
    # 3x3 taps at stride 2 and padding 1 on 8x8: the first row and column lack one tap each.
    assert report["totals"]["synapses"] <= 4 * 11 * 11 + 640
    text = run("inspect", model).out
    for word in (artifact.hash, hidden.name, "Window", "Readout", "calibration_hash", "loihi2"):
        assert word in text


def test_run_reports_accuracy_agreement_and_events(run: Run, model: Path) -> None:
    artifact = lapilli.load(model)
    test = data.load("digits", split="test", limit=120)
    trace = lapilli.run(artifact, data.normalise(test.images, (0.3,), (0.4,)))
    correct = int((np.asarray(trace.outputs).argmax(1) == test.labels).sum())
    report = run("run", model, "--data", "digits", "--limit", 120, "--json").json
    assert report["accuracy"]["correct"] == correct
    assert report["accuracy"]["images"] == 120
    agreement = {"with": "quantised ANN", "of": "classes", "equal": 100, "images": 100}
    assert report["agreement"] == agreement
    spikes = sum(e.spikes for e in trace.events.values())
    assert report["events"]["spikes_per_image"] == spikes / 120
    assert report["data"] == {"source": "digits", "split": "test", "images": 120}
    text = run("run", model, "--data", "digits", "--limit", 120).out
    assert f"{correct} of 120" in text
    assert f"{spikes / 120:,.1f}" in text


def test_data_without_labels_has_no_accuracy(run: Run, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", images=data.load("digits", split="test", limit=3).images)
    report = run("run", model, "--data", f"npz:{tmp_path / 'bare.npz'}", "--json").json
    assert report["accuracy"] is None
    text = run("run", model, "--data", f"npz:{tmp_path / 'bare.npz'}").out
    assert [line.split() for line in text.splitlines() if "accuracy" in line] == [["accuracy", "-"]]


def test_outputs_that_are_no_scores_have_no_classes() -> None:
    assert reports.predicted([np.zeros((2, 3)), np.zeros((2, 3))]) is None
    assert reports.predicted(np.zeros((2, 3, 4))) is None
    found = reports.predicted(np.array([[0.0, 2.0, 1.0]]))
    assert found is not None
    assert found.tolist() == [1]


def test_verify_exits_with_0_and_lists_every_equality(run: Run, model: Path) -> None:
    arguments = ("verify", model, "--data", "digits", "--limit", 3, "--backend", "reference")
    outcome = run(*arguments, "--json")
    assert outcome.code == 0
    assert outcome.json["ok"] is True
    rows = outcome.json["equalities"]
    assert rows
    assert all(row["equal"] == row["compared"] > 0 for row in rows)
    text = run(*arguments)
    assert text.code == 0
    assert "Every equality holds." in text.out
    assert text.out.count("holds") == len(rows) + 1


def test_verify_exits_with_1_and_the_first_difference(
    run: Run, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lapilli.runtime import quantised_ann

    honest = quantised_ann.run

    def faulty(*arguments: Any, **options: Any) -> Any:
        trace = honest(*arguments, **options)
        name = next(n for n, c in trace.counts.items() if c.shape[1:] == (4, 4, 4))
        trace.counts[name][1, 0, 2, 3] += 1
        return trace

    monkeypatch.setattr(quantised_ann, "run", faulty)
    arguments = ("verify", model, "--data", "digits", "--limit", 3, "--backend", "reference")
    outcome = run(*arguments)
    assert outcome.code == 1
    assert "BROKEN" in outcome.out
    assert "An equality is broken." in outcome.out
    first = run(*arguments, "--json").json["first_difference"]
    assert "image 1" in first and "(0, 2, 3)" in first
    assert f"First difference: {first}" in " ".join(outcome.out.split())


@pytest.mark.lava
def test_verify_compares_with_lava(run: Run, model: Path) -> None:
    outcome = run("verify", model, "--data", "digits", "--limit", 2, "--json")
    assert outcome.code == 0, outcome.err
    names = [row["equality"] for row in outcome.json["equalities"]]
    assert "Lava == reference: spikes" in names
    assert "Lava == reference: membranes" in names


@pytest.mark.lava
def test_run_on_lava_gives_the_same_classes(run: Run, model: Path) -> None:
    arguments = ("run", model, "--data", "digits", "--limit", 2, "--json")
    lava = run(*arguments, "--backend", "lava").json
    assert lava["accuracy"] == run(*arguments).json["accuracy"]
    assert lava["agreement"]["equal"] == 2


def test_images_end_early_once_their_answer_is_clear(run: Run, small: Any, tmp_path: Path) -> None:
    file = tmp_path / "m.h5"
    assert run(*small, "--method", "rate", "--steps", 16, "-o", file).code == 0
    arguments = ("run", file, "--data", "digits", "--limit", 30)
    whole = run(*arguments, "--json").json
    assert whole["early_stop"] is None
    stopping = (*arguments, "--stop-margin", 0.02, "--stop-after", 3)
    report = run(*stopping, "--json").json
    stop = report["early_stop"]
    assert 3 <= stop["least_steps"] < stop["mean_steps"] < stop["most_steps"] <= 16
    assert report["events"]["synops_per_image"] < whole["events"]["synops_per_image"]
    assert f"{stop['mean_steps']:.1f} ({stop['least_steps']} to " in run(*stopping).out
    assert run(*arguments, "--stop-margin", -1).code == 2


def test_networks_that_answer_at_once_do_not_end_early(run: Run, model: Path) -> None:
    outcome = run("run", model, "--data", "digits", "--limit", 2, "--stop-margin", 1)
    assert outcome.code == 2
    assert "builds up over a window" in outcome.err


def test_estimate_gives_bands_and_marks_what_is_modelled(run: Run, model: Path) -> None:
    arguments = ("estimate", model, "--data", "digits", "--limit", 5)
    report = run(*arguments, "--json").json
    estimate = report["estimate"]
    total = estimate["single"]["total_pj"]
    assert 0 < total["low"] < total["mid"] < total["high"]
    assert (estimate["profile"], estimate["calibrated"]) == ("loihi2", False)
    assert report["data"]["images"] == estimate["images"] == 5
    text = run(*arguments).out
    assert "mid*" in text and "not calibrated against silicon" in text
    for words in ("Not counted:", "Assumed:", "Constants", "the ANN", "loihi2.energy.synop_pj"):
        assert words in text


def test_estimate_on_another_chip(run: Run, model: Path) -> None:
    refused = run("estimate", model, "--data", "digits", "--limit", 2, "--profile", "loihi1")
    assert refused.code == 2
    assert "graded" in refused.err
    unknown = run("estimate", model, "--data", "digits", "--profile", "loihi9")
    assert unknown.code == 2
    assert "Did you mean" in unknown.err


def test_a_calibrated_estimate_bears_no_star(run: Run, small: Any, tmp_path: Path) -> None:
    options = ("--method", "rate", "--steps", 8, "--profile", "loihi1", "-o", tmp_path / "m.h5")
    assert run(*small, *options).code == 0
    text = run("estimate", tmp_path / "m.h5", "--data", "digits", "--limit", 2).out
    assert "Intel Loihi 1" in text
    assert "*" not in text.partition("Constants")[0]


def test_profiles_are_listed_and_shown(run: Run) -> None:
    listed = run("profiles", "--json").json["profiles"]
    assert {"loihi1", "loihi2", "cmos45"} <= {p["name"] for p in listed}
    assert all(p["name"] in run("profiles").out for p in listed)
    shown = run("profiles", "loihi1", "--json").json
    synop = shown["quantities"]["energy.synop_pj"]
    assert synop["unit"] == "pJ" and synop["source"] and synop["confidence"]
    assert str(synop["value"]) in run("profiles", "loihi1").out
    assert run("profiles", "loihi9").code == 2


def test_options_come_from_the_fields_of_the_methods(run: Run) -> None:
    text = " ".join(run("compile", "--help").out.split())
    for name, options in lapilli.methods.METHODS.items():
        for option in fields(options):
            assert f"--{option.name.replace('_', '-')}" in text
            assert name in text
    for calibration in CALIBRATIONS:
        assert calibration in text.partition("--calibrate")[2]


@dataclass(frozen=True)
class _Fast:
    level: int = field(default=3, metadata={"help": "how fast"})
    mode: Literal["a", "b"] = field(default="a", metadata={"help": "mode", "choices": ("a", "b")})
    tidy: bool = field(default=True, metadata={"help": "tidy"})
    bound: float | None = field(default=None, metadata={"help": "bound"})


@dataclass(frozen=True)
class _Slow:
    level: int = field(default=9, metadata={"help": "how slow"})
    mode: Literal["c"] = field(default="c", metadata={"help": "mode", "choices": ("c",)})


def test_fields_become_options() -> None:
    methods = {"fast": _Fast, "slow": _Slow}
    made = {option.name: option for option in method_options.options(methods)}
    assert list(made) == ["level", "mode", "tidy", "bound"]
    assert made["level"].help == "how fast; how slow  [fast: 3, slow: 9]"
    assert made["mode"].type.choices == ("a", "b", "c")  # type: ignore[attr-defined]
    assert made["tidy"].secondary_opts == ["--no-tidy"]
    given = {"level": 5, "mode": None, "tidy": False, "bound": 0.5}
    assert method_options.build(methods, "fast", given) == _Fast(5, "a", False, 0.5)
    with pytest.raises(InputError, match="allowed --method fast"):
        method_options.build(methods, "slow", given)
