"""A call without a lowering, three modules deep: one message that says where, what and what to do.

The same network as a callable, as an exported program and as an ONNX file, through the command
line as a user meets it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Outcome, Run, runner

from lapilli.compiler.layers.catalogue import LISTED
from lapilli.compiler.layers.refused import remedy

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None, reason="the package onnx is not installed"
)
SOURCE = """\
import torch
import torch.nn.functional as F
from torch import nn


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return F.layer_norm(self.scale(x), x.shape[1:])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.attend = Attend()

    def forward(self, x):
        return torch.relu(self.attend(self.conv(x)) + x)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.layers = nn.Sequential(Block(), Block())

    def forward(self, x):
        return self.layers(self.stem(x)).flatten(1)
"""
LINE = "return F.layer_norm(self.scale(x), x.shape[1:])"
NUMBER = SOURCE.splitlines().index(f"        {LINE}") + 1


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the user's module and images in it."""
    (tmp_path / "deep_network.py").write_text(SOURCE, encoding="utf-8")
    images = np.random.default_rng(0).normal(size=(8, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", images=images, labels=np.zeros(8, np.int64))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "deep_network", raising=False)
    return tmp_path


def _model() -> Any:
    return importlib.import_module("deep_network").Network().eval()


def _callable(folder: Path) -> str:
    return "deep_network:Network"


def _exported(folder: Path) -> str:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(_model(), (torch.ones(3, 1, 8, 8),))
    torch.export.save(program, str(folder / "net.pt2"))
    return "net.pt2"


def _onnx(folder: Path) -> str:
    older = {} if torch.__version__ < "2.5" else {"dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _model(), (torch.ones(3, 1, 8, 8),), "net.onnx", opset_version=17, **older
        )
    return "net.onnx"


def _compile(run: Run, model: str) -> Outcome:
    return run(
        *("compile", model, "--calib", "npz:data.npz", "--method", "parallel", "-o", "net.h5")
    )


@pytest.mark.parametrize(
    ("made", "calls", "of"),
    [
        (_callable, ("layer_norm",), ""),
        (_exported, ("layer_norm", "native_layer_norm"), " of net.pt2"),
        pytest.param(_onnx, ("LayerNormalization",), " at node '", marks=needs_onnx),
    ],
)
def test_a_call_three_modules_deep_is_one_message(
    made: Any, calls: tuple[str, ...], of: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = made(folder)
    capsys.readouterr()
    outcome = _compile(runner(capsys), model)
    assert outcome.code == 2
    assert outcome.out == ""
    assert not (folder / "net.h5").exists()
    first, found, allowed, advice = outcome.err.splitlines()
    called = next(c for c in calls if f" ({c})" in first)
    assert first.startswith("Error: layers.0.attend.")
    assert f" ({called}){of}" in first
    assert first.endswith(": an operator has a lowering")
    if made is _onnx:
        assert " of net.onnx" in first  # and no line of code: TorchScript's exporter keeps none
    else:
        assert f"deep_network.py:{NUMBER} in forward: {LINE}" in first
    assert found.removeprefix("  found:   ") in (called, f"aten.{called}.default")
    assert allowed == f"  allowed: {LISTED}"
    assert advice == f"  {remedy(called)}"
    assert "BatchNorm" in advice
