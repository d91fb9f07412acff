"""The command line on bad input and in a bad environment: messages and exit codes."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_presence import lava_is_missing
from command_line import Run, SmallNetwork, model_file
from torch import nn

import lapilli
from lapilli import cli, models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled model file."""
    return model_file(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """Arguments of `compile` without --method and its options."""
    monkeypatch.setattr(models, "load", lambda spec, weights: SmallNetwork().eval())
    return ("compile", "any:Net", "--calib", "digits", "--calib-samples", 32)


def test_no_command_and_wrong_usage_exit_with_2(run: Run, model: Path) -> None:
    for arguments in ((), ("fly",), ("run",), ("run", model), ("run", model, "--limit", "0")):
        outcome = run(*arguments)
        assert outcome.code == 2
        assert "Usage:" in outcome.err
        assert outcome.out == ""


def test_an_option_of_another_method_is_refused(run: Run, small: Any, tmp_path: Path) -> None:
    target = tmp_path / "m.h5"
    outcome = run(*small, "--method", "parallel", "--steps", 8, "-o", target)
    assert outcome.code == 2
    assert "--steps" in outcome.err
    allowed = next(line for line in outcome.err.splitlines() if "allowed: --method " in line)
    assert "rate" in allowed and "parallel" not in allowed
    assert not target.exists()


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
        (("--calibrate", "luck"), "none, bias, least-squares"),
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
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 2)).eval()
    monkeypatch.setattr(models, "load", lambda spec, weights: model)
    outcome = run(*small, "--method", "parallel", "-o", tmp_path / "m.h5")
    assert outcome.code == 2
    assert "2 (LayerNorm) at module 2: an operator has a lowering" in outcome.err
    assert "Traceback" not in outcome.err


def test_weights_that_are_no_numbers_are_refused(
    run: Run, small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SmallNetwork().eval()
    with torch.no_grad():
        model.fc.weight[3, 5] = float("nan")
    monkeypatch.setattr(models, "load", lambda spec, weights: model)
    outcome = run(*small, "--method", "parallel", "-o", tmp_path / "m.h5")
    assert outcome.code == 2
    assert "fc.weight" in outcome.err and "1 NaN or infinite" in outcome.err
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.skipif(lava_is_missing() is None, reason="Lava is installed")
def test_a_missing_lava_exits_with_3(run: Run, model: Path) -> None:
    for command in (("run", model, "--data", "digits", "--limit", 1), ("verify", model)):
        more = ("--backend", "lava") if command[0] == "run" else ("--data", "digits")
        outcome = run(*command, *more)
        assert outcome.code == 3
        assert "Lava" in outcome.err
        assert "Traceback" not in outcome.err


@pytest.mark.lava
def test_a_lava_run_that_takes_too_long_exits_with_3(run: Run, model: Path) -> None:
    arguments = ("run", model, "--data", "digits", "--limit", 2, "--backend", "lava")
    outcome = run(*arguments, "--timeout", "0.05")
    assert outcome.code == 3
    assert "0.05" in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.out == ""


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
