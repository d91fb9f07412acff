"""Exported programs and ONNX files on the command line and in `lapilli.compile`."""

from __future__ import annotations

import sys
from pathlib import Path

import captured_network
import numpy as np
import pytest
from command_line import Run

import lapilli
from lapilli import data, methods
from lapilli.compiler.errors import BackendError

METHOD = methods.Parallel(levels=4)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    x = captured_network.samples(12)
    np.savez(tmp_path / "data.npz", images=x, labels=np.zeros(12, np.int64))
    return tmp_path / "data.npz"


@pytest.mark.parametrize("name", ["every_input_torch_2.3.pt2", "every_input.onnx"])
def test_a_file_is_compiled_and_runs(run: Run, images: Path, name: str, tmp_path: Path) -> None:
    if name.endswith(".onnx"):
        pytest.importorskip("onnx")
    output = tmp_path / "m.h5"
    given = ("--calib", f"npz:{images}", "--method", "parallel", "--levels", "4", "-o", output)
    done = run("compile", captured_network.INPUTS / name, *given, "--json")
    assert done.code == 0, done.err
    artifact = lapilli.load(output)
    assert artifact.hash == done.json["artifact"]["hash"]
    x = data.load(f"npz:{images}", split="train").images
    same = lapilli.compile(captured_network.network(), calibration=x, method=METHOD)
    assert artifact.hash == same.hash
    assert run("verify", output, "--data", f"npz:{images}", "--limit", "2").code in (0, 3)


def test_weights_beside_a_file_that_has_its_own_are_refused(run: Run, images: Path) -> None:
    path = captured_network.INPUTS / "every_input_torch_2.3.pt2"
    given = ("--calib", f"npz:{images}", "--method", "parallel", "-o", images.parent / "m.h5")
    done = run("compile", path, "--weights", images, *given)
    assert done.code == 2
    assert "hold their own weights" in done.err


def test_a_damaged_file_is_one_message(run: Run, images: Path) -> None:
    path = images.parent / "damaged.pt2"
    path.write_bytes(b"PK")
    given = ("--calib", f"npz:{images}", "--method", "parallel", "-o", images.parent / "m.h5")
    done = run("compile", path, *given)
    assert (done.code, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert str(path) in done.err


def test_without_the_library_the_extra_is_named(
    run: Run, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    path = captured_network.INPUTS / "every_input.onnx"
    with pytest.raises(BackendError) as refused:
        lapilli.compile(path, calibration=captured_network.samples(), method=METHOD)
    assert refused.value.allowed == "lapilli[onnx]"
    given = ("--calib", f"npz:{images}", "--method", "parallel", "-o", images.parent / "m.h5")
    assert run("compile", path, *given).code == 3


def test_a_file_needs_calibration_and_a_method() -> None:
    with pytest.raises(TypeError, match="compiled with calibration and method"):
        lapilli.compile(captured_network.INPUTS / "every_input.onnx")
