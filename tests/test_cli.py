"""The command line: what each command prints, its exit codes, and that messages are messages."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from backend_presence import lava_is_missing
from safetensors.torch import save_file
from torch import nn

import lapilli
from lapilli import cli, data, method_options, models, reports
from lapilli.compiler.errors import InputError
from lapilli.compiler.neurons import Window
from lapilli.runtime.metrics import PopulationEvents

HELP_SECONDS = 0.5
Run = Callable[..., "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON object and nothing else."""
        return json.loads(self.out)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process."""

    def execute(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(a) for a in arguments])
        text = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Outcome(exit_.value.code, text.out, text.err)

    return execute


class SmallNetwork(nn.Module):
    """Two convolutions on the digits; compiles in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(torch.relu(self.conv(x)).flatten(1))
        return logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.py, weights.safetensors and model.h5, compiled with a normalisation."""
    place = tmp_path_factory.mktemp("cli")
    torch.manual_seed(1)
    network = SmallNetwork().eval()
    save_file(network.state_dict(), place / "weights.safetensors")
    images = data.normalise(data.load("digits", split="train", limit=64).images, (0.3,), (0.4,))
    artifact = lapilli.compile(
        network,
        calibration=images,
        method=lapilli.methods.Parallel(levels=4),
        preprocessing=((0.3,), (0.4,)),
    )
    artifact.save(place / "model.h5")
    return place


@pytest.fixture
def model(folder: Path) -> Path:
    """The compiled model file."""
    return folder / "model.h5"


@pytest.fixture
def small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """Arguments of `compile` without --method and its options."""
    monkeypatch.setattr(models, "load", lambda spec, weights: SmallNetwork().eval())
    return ("compile", "any:Net", "--calib", "digits", "--calib-samples", 32)


def test_help_is_quick_and_light(tmp_path: Path) -> None:
    code = (
        "import sys; from lapilli import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "print('HEAVY', {'torch', 'numpy', 'scipy', 'h5py', 'lava', 'sklearn'} & set(sys.modules))"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - start)
        assert "HEAVY set()" in done.stdout, done.stdout + done.stderr
    for command in ("demo", "compile", "run", "verify", "estimate", "inspect", "profiles"):
        assert f"  {command} " in done.stdout
    assert min(seconds) < HELP_SECONDS


def test_no_command_and_wrong_usage_exit_with_2(run: Run, model: Path) -> None:
    for arguments in ((), ("fly",), ("run",), ("run", model), ("run", model, "--limit", "0")):
        outcome = run(*arguments)
        assert outcome.code == 2
        assert "Usage:" in outcome.err
        assert outcome.out == ""


def test_version(run: Run) -> None:
    assert run("--version").out == f"lapilli, version {lapilli.__version__}\n"


def test_compile_writes_a_file_and_says_what_is_in_it(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net_of_cli_test.py").write_text(
        "import test_cli\ndef build():\n    return test_cli.SmallNetwork()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    target = tmp_path / "m.h5"
    arguments = (
        *("compile", "net_of_cli_test:build", "--weights", folder / "weights.safetensors"),
        *("--calib", "digits", "--calib-samples", 64, "--method", "parallel", "--levels", 4),
        *("--profile", "loihi2", "--mean", "0.3", "--std", "0.4", "-o", target),
    )
    outcome = run(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    report = outcome.json
    artifact = lapilli.load(target)
    assert artifact.hash == lapilli.load(folder / "model.h5").hash
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
    assert report["agreement"] == {"with": "quantised ANN", "equal": 100, "images": 100}
    spikes = sum(e.spikes for e in trace.events.values())
    assert report["events"]["spikes_per_image"] == spikes / 120
    assert report["data"] == {"source": "digits", "split": "test", "images": 120}
    text = run("run", model, "--data", "digits", "--limit", 120).out
    assert f"{correct} of 120" in text
    assert f"{spikes / 120:,.1f}" in text


def test_batches_add_up(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = lapilli.load(model)
    images = data.normalise(data.load("digits", split="test", limit=50).images, (0.3,), (0.4,))
    whole = reports.evaluate(artifact, images)
    monkeypatch.setattr(reports, "BATCH", 7)
    seen: list[tuple[int, int]] = []
    parts = reports.evaluate(artifact, images, progress=lambda *n: seen.append(n))
    assert parts.events == whole.events
    np.testing.assert_array_equal(parts.predictions, whole.predictions)
    assert seen == [(min(n, 50), 50) for n in range(7, 57, 7)]


def test_events_of_two_batches_keep_their_sizes() -> None:
    first = PopulationEvents(10, 4, 2, 5, 50, 7, 80, 90)
    assert reports._add(None, first) == first
    assert reports._add(first, replace(first, images=1)) == PopulationEvents(
        10, 4, 3, 10, 100, 14, 160, 90
    )


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
    assert "(1, 0, 2, 3)" in first
    assert f"First difference: {first}" in " ".join(outcome.out.split())


@pytest.mark.lava
def test_verify_compares_with_lava(run: Run, model: Path) -> None:
    outcome = run("verify", model, "--data", "digits", "--limit", 2, "--json")
    assert outcome.code == 0, outcome.err
    names = [row["equality"] for row in outcome.json["equalities"]]
    assert "reference == lava: spikes" in names
    assert "reference == lava: membranes" in names


@pytest.mark.lava
def test_run_on_lava_gives_the_same_classes(run: Run, model: Path) -> None:
    arguments = ("run", model, "--data", "digits", "--limit", 2, "--json")
    lava = run(*arguments, "--backend", "lava").json
    assert lava["accuracy"] == run(*arguments).json["accuracy"]
    assert lava["agreement"]["equal"] == 2


@pytest.mark.skipif(lava_is_missing() is None, reason="Lava is installed")
def test_a_missing_lava_exits_with_3(run: Run, model: Path) -> None:
    for command in (("run", model, "--data", "digits", "--limit", 1), ("verify", model)):
        more = ("--backend", "lava") if command[0] == "run" else ("--data", "digits")
        outcome = run(*command, *more)
        assert outcome.code == 3
        assert "Lava" in outcome.err
        assert "Traceback" not in outcome.err


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


def test_an_option_of_another_method_is_refused(run: Run, small: Any, tmp_path: Path) -> None:
    target = tmp_path / "m.h5"
    outcome = run(*small, "--method", "parallel", "--steps", 8, "-o", target)
    assert outcome.code == 2
    assert "--steps" in outcome.err
    assert "allowed: --method rate" in outcome.err
    assert not target.exists()


def test_options_come_from_the_fields_of_the_methods(run: Run) -> None:
    from dataclasses import fields

    text = " ".join(run("compile", "--help").out.split())
    for name, options in lapilli.methods.METHODS.items():
        for option in fields(options):
            assert f"--{option.name.replace('_', '-')}" in text
            assert name in text


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--calib", "nothing"), "data is given as SOURCE or SOURCE:PLACE"),
        (("--method", "magic"), "'magic' is not one of"),
        (("--levels", "0"), "option levels: options lie in their range"),
        (("--levels", "many"), "'many' is not a valid integer"),
        (("--coding", "loud"), "'loud' is not one of 'graded', 'unary'"),
        (("--mean", "0.5,x"), "'0.5,x' is not a list like"),
        (("--mean", "0.5,0.5", "--std", "1,1"), "one finite number per channel"),
        (("--mean", "0.5"), "--std: there is one finite number per channel"),
        (("--profile", "loihi7"), "Did you mean"),
        (("-o", "absent/m.h5"), "there is no folder 'absent'"),
        (("--calib-samples", "0"), "'--calib-samples'"),
    ],
)
def test_compile_refuses_what_it_cannot_use(
    run: Run, small: Any, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    target = tmp_path / "m.h5"
    outcome = run(*small, "--method", "parallel", "-o", target, *arguments)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unsupported_layer_is_named(
    run: Run, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    monkeypatch.setattr(models, "load", lambda spec, weights: model)
    outcome = run(*small, "--method", "parallel", "-o", tmp_path / "m.h5")
    assert outcome.code == 2
    assert "Tanh" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("command", ["run", "verify", "estimate", "inspect"])
@pytest.mark.parametrize("fault", ["absent", "foreign", "torn", "folder"])
def test_model_files_that_cannot_be_read(
    run: Run, model: Path, tmp_path: Path, command: str, fault: str
) -> None:
    path = tmp_path / "m.h5"
    if fault == "foreign":
        path.write_text("no model")
    elif fault == "torn":
        path.write_bytes(model.read_bytes()[:-100])
    elif fault == "folder":
        path.mkdir()
    outcome = run(command, path, *(() if command == "inspect" else ("--data", "digits")))
    assert outcome.code == 2
    assert outcome.err.startswith("Error: ")
    assert str(path) in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


def test_images_of_another_shape_or_range(run: Run, model: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", images=np.zeros((2, 1, 8, 9), np.float32))
    np.savez(tmp_path / "bright.npz", images=np.full((2, 1, 8, 8), 90.0, np.float32))
    for name, words in (("wide", "shape"), ("bright", "range")):
        outcome = run("run", model, "--data", f"npz:{tmp_path / name}.npz")
        assert outcome.code == 2
        assert words in outcome.err


def test_an_unknown_backend_is_refused(run: Run, model: Path) -> None:
    outcome = run("run", model, "--data", "digits", "--limit", 1, "--backend", "loihi")
    assert outcome.code == 2
    assert "reference" in outcome.err


def test_debug_shows_the_traceback(run: Run, tmp_path: Path) -> None:
    outcome = run("inspect", tmp_path / "absent.h5", "--debug")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert "Error: " in outcome.err


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (MemoryError(), 3, "memory of this machine is full"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "Free some space."),
        (PermissionError(errno.EACCES, "Permission denied", "m.h5"), 3, "Permission denied"),
        (KeyboardInterrupt(), 130, "Interrupted."),
    ],
)
def test_failures_of_the_environment(
    run: Run,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(path: object) -> None:
        raise error

    monkeypatch.setattr(lapilli, "load", fail)
    outcome = run("inspect", model)
    assert outcome.code == code
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_bugs_are_not_hidden(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(path: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(lapilli, "load", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["inspect", str(model)])


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $LAPILLI is the command."""
    lapilli_command = f"'{sys.executable}' -W error -m lapilli.cli"
    return subprocess.run(
        ["bash", "-c", line.replace("$LAPILLI", lapilli_command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    done = shell("$LAPILLI profiles loihi1 | head -n 1; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_standard_output() -> None:
    done = shell("$LAPILLI profiles > /dev/full")
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_terminals_without_unicode_are_served() -> None:
    done = shell("$LAPILLI profiles", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "loihi2" in done.stdout


def on_a_terminal(command: list[str]) -> tuple[str, str]:
    """Standard output and what was drawn on the terminal that is the command's standard error."""
    controller, terminal = pty.openpty()
    drawn = bytearray()

    def read() -> None:  # while the command draws: a full terminal would stop it
        with contextlib.suppress(OSError):  # how Linux says that the other end has closed
            while part := os.read(controller, 4096):
                drawn.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=terminal, check=True, text=True, timeout=120
    )
    os.close(terminal)
    reader.join()
    os.close(controller)
    return done.stdout, drawn.decode()


def test_progress_is_drawn_on_a_terminal_only(model: Path) -> None:
    command = [sys.executable, "-m", "lapilli.cli", "run", str(model), "--data", "digits"]
    printed, drawn = on_a_terminal([*command, "--json"])
    assert json.loads(printed)["accuracy"]["images"] == 445
    assert "running on reference" in drawn
    silent = subprocess.run(command, capture_output=True, check=False, text=True)
    assert silent.returncode == 0
    assert silent.stderr == ""


def test_names_cannot_steer_the_terminal(run: Run, model: Path, tmp_path: Path) -> None:
    artifact = lapilli.load(model)
    noted = replace(artifact, provenance=replace(artifact.provenance, notes="a [bold]b :smile:"))
    odd = tmp_path / "\x1b[2J.h5"
    noted.save(odd)
    text = run("inspect", odd).out
    assert "\x1b" not in text
    assert "a [bold]b :smile:" in text
    refused = run("inspect", tmp_path / "\x1b[3J.h5")
    assert refused.code == 2
    assert "\x1b" not in refused.err
