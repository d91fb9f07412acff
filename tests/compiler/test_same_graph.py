"""One network, captured from every kind of input, is one netlist."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import captured_network
import numpy as np
import pytest
import torch

import lapilli
from lapilli.compiler import frontend
from lapilli.compiler.passes.legalise import legalise

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None, reason="the package onnx is not installed"
)
X = captured_network.samples()
NAMES = [
    *("input", "stem.1", "layer1.0.relu", "layer1.0.relu_1", "layer1.2.relu", "layer1.2.relu_1"),
    *("act", "act_1", "map", "fc"),
]


def _saved(folder: Path, *, dynamic: bool) -> Path:
    path = folder / "saved.pt2"
    torch.export.save(captured_network.exported(dynamic=dynamic), str(path))
    return path


def _onnx(folder: Path, **options: Any) -> Path:
    path = folder / "saved.onnx"
    captured_network.write_onnx(path, **options)
    return path


def _weights(folder: Path) -> Any:
    """As the command line reads it: a callable, and weights from a file."""
    from safetensors.torch import save_file

    from lapilli import models

    path = folder / "weights.safetensors"
    save_file(captured_network.network().state_dict(), str(path))
    return models.load("captured_network:EveryInput", path)


INPUTS: dict[str, Callable[[Path], Any]] = {
    "callable and safetensors": _weights,
    "exported program": lambda folder: captured_network.exported(),
    ".pt2": lambda folder: _saved(folder, dynamic=False),
    ".pt2, any batch": lambda folder: _saved(folder, dynamic=True),
    ".pt2 of torch 2.3": lambda folder: captured_network.INPUTS / "every_input_torch_2.3.pt2",
    ".pt2 of torch 2.13": lambda folder: captured_network.INPUTS / "every_input_torch_2.13.pt2",
}
ONNX: dict[str, Callable[[Path], Any]] = {
    "file": lambda folder: captured_network.INPUTS / "every_input.onnx",
    **{
        f"opset {opset}": lambda folder, opset=opset: _onnx(folder, opset=opset)  # type: ignore[misc]
        for opset in (11, 13, 17)
    },
    "any batch": lambda folder: _onnx(folder, opset=17, dynamic=True),
}


def _hash(model: Any) -> str:
    method = lapilli.methods.Parallel(levels=8)
    return lapilli.compile(model, calibration=X, method=method).hash


@pytest.fixture(scope="module")
def expected() -> str:
    return _hash(captured_network.network())


@pytest.mark.parametrize("kind", INPUTS)
def test_every_input_is_one_netlist(kind: str, expected: str, tmp_path: Path) -> None:
    assert _hash(INPUTS[kind](tmp_path)) == expected


@needs_onnx
@pytest.mark.parametrize("kind", ONNX)
def test_onnx_files_are_the_same_netlist(kind: str, expected: str, tmp_path: Path) -> None:
    assert _hash(ONNX[kind](tmp_path)) == expected


@needs_onnx
def test_a_batch_norm_that_the_exporter_folded_is_the_same_graph(tmp_path: Path) -> None:
    """The weights were rounded to float32 once more: the netlist may differ, the network not."""
    network = frontend.network_file(_onnx(tmp_path, opset=17, folded=True))
    graph = legalise(network.capture(X))
    assert [p.name for p in graph.populations] == NAMES
    assert len([n for n in network.capture(X) if type(n).__name__ == "Rescale"]) == 2


@pytest.mark.parametrize("kind", ["network", *INPUTS])
def test_populations_have_the_names_of_modules(kind: str, tmp_path: Path) -> None:
    model = captured_network.network() if kind == "network" else INPUTS[kind](tmp_path)
    network = (
        frontend.network_file(model) if isinstance(model, Path) else frontend.network_of(model)
    )
    graph = network.capture(X)
    assert [p.name for p in legalise(graph).populations] == NAMES
    assert [output.name for output in graph.returned] == ["map", "classes"]


@pytest.mark.parametrize("kind", [".pt2", ".pt2, any batch", ".pt2 of torch 2.3"])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_a_program_runs_on_any_number_of_images(kind: str, count: int, tmp_path: Path) -> None:
    network = frontend.network_file(INPUTS[kind](tmp_path))
    x = torch.tensor(captured_network.samples(count))
    with torch.no_grad():
        found, wanted = network.run(x), captured_network.network()(x)
    for name in ("map", "classes"):
        assert found[name].shape == wanted[name].shape
        assert np.allclose(found[name], wanted[name], atol=1e-5)
