"""QCFS in exported programs and ONNX files: one network is one netlist, whatever it is read from.

And what is no such staircase is refused, never taken for one.
"""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import capturing
import numpy as np
import pytest
import torch
from capturing import Net
from torch import Tensor, nn

import lapilli
from lapilli.compiler import frontend
from lapilli.compiler.activations import staircase_top
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.layers.activation import Activate
from lapilli.compiler.training.qcfs import QCFS

needs_onnx = pytest.mark.skipif(
    importlib.util.find_spec("onnx") is None, reason="the package onnx is not installed"
)
X = capturing.images(2, 8, 8)


class Trained(nn.Module):
    """A threshold per channel, one shared layer used twice, a residual, a batch norm before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem: Any = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), QCFS(5, torch.rand(4) + 0.3)
        )
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.act = QCFS(3, 0.7)
        self.fc = nn.Linear(4 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.act(self.conv(x) + x)
        x = self.act(nn.functional.avg_pool2d(self.conv(x), 2))
        result: Tensor = self.fc(x.flatten(1))
        return result


def model() -> nn.Module:
    torch.manual_seed(0)
    made = Trained()
    norm = made.stem[1]
    norm.running_mean.uniform_(-0.1, 0.1)
    norm.running_var.uniform_(0.5, 2)
    return made.eval()


def program(network: nn.Module) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network.eval(), (torch.tensor(X[:5]),))


def pt2(network: nn.Module, folder: Path) -> Path:
    torch.export.save(program(network), str(folder / "net.pt2"))
    return folder / "net.pt2"


def onnx_file(network: nn.Module, folder: Path) -> Path:
    options: dict[str, Any] = {"opset_version": 17}
    options["training"] = torch.onnx.TrainingMode.PRESERVE  # else it folds the batch norm
    if "dynamo" in torch.onnx.export.__code__.co_varnames:
        options["dynamo"] = False
    data = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(network.eval(), (torch.tensor(X[:5]),), data, **options)
    (folder / "net.onnx").write_bytes(data.getvalue())
    return folder / "net.onnx"


@pytest.mark.parametrize(
    "kind", [program, pt2, pytest.param(onnx_file, marks=needs_onnx)], ids=lambda k: k.__name__
)
def test_one_network_is_one_netlist(kind: Callable[..., Any], tmp_path: Path) -> None:
    method = lapilli.methods.Parallel(levels=8)
    expected = lapilli.compile(model(), calibration=X, method=method)
    assert {p.name for p in expected.netlist.populations} >= {"stem.2", "act", "act_1"}
    given = program(model()) if kind is program else kind(model(), tmp_path)
    assert lapilli.compile(given, calibration=X, method=method).hash == expected.hash


WRITTEN: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "as the paper": lambda m, x: (x * 4 / 0.7 + 0.5).floor().clamp(0, 4) * (0.7 / 4),
    "clipped before": lambda m, x: torch.floor((x / 0.7).clamp(0, 1) * 4 + 0.5) / 4 * 0.7,
    "clipped twice": lambda m, x: ((x / 0.7).clamp(0, 9) * 4 + 0.5).floor().clamp_max(4) * 0.175,
    "clipped last": lambda m, x: ((x * 4 / 0.7 + 0.5).floor() * 0.175).clamp(0, 0.7),
    "ReLU in front": lambda m, x: (m.relu(x / 0.175) + 0.5).floor_().clamp(max=4).mul_(0.175),
    "steps of one": lambda m, x: (x.clamp(0, 4) + 0.5).floor(),
    "behind a scaling": lambda m, x: (x * 3 * 4 / 0.7 + 0.5).floor().clamp(0, 4) * (0.7 / 4),
    "per channel": lambda m, x: (x / m.steps + 0.5).floor().clamp(0, 4) * m.steps,
}


def written(name: str) -> nn.Module:
    model = Net(WRITTEN[name], relu=nn.ReLU())
    model.register_buffer("steps", torch.tensor([0.3, 0.1]).reshape(2, 1, 1))
    return model


@pytest.mark.parametrize("name", WRITTEN)
def test_other_ways_to_write_it(name: str) -> None:
    model = written(name)
    for kind in (lambda m: m, program):
        graph = frontend.network_of(kind(model)).capture(X)
        (activate,) = (node for node in graph if isinstance(node, Activate))
        found = staircase_top(activate.activation)
        assert found is not None
        top, levels = found
        per_channel = [1.2, 0.4] if name == "per channel" else 4.0 if "one" in name else 0.7
        assert levels == 4
        assert np.allclose(top, per_channel, rtol=1e-7)
        assert len(graph.nodes) == 2 + (name == "behind a scaling")
    capturing.assert_computes_the_same(model, X)


# A staircase of counts, and what follows on it.
COUNTED: dict[str, Callable[[Any, Tensor], Any]] = {
    "another slope": lambda m, x: (x * 4 + 0.5).floor().clamp(0, 4) / 5,
    "falling": lambda m, x: (x * -4 + 0.5).floor().clamp(0, 4) / -4,
    "raised": lambda m, x: (x * 4 + 0.5).floor().clamp(0, 4) / 4 + 0.1,
    "read half-way": lambda m, x: (
        (n := (x * 4 + 0.5).floor().clamp(0, 4)) / 4 + n.flatten(1)[:, :1, None, None]
    ),
    "returned half-way": lambda m, x: ((n := (x * 4 + 0.5).floor().clamp(0, 4)), n / 4),
}


@pytest.mark.parametrize("name", COUNTED)
def test_other_uses_of_its_counts_compute_the_same(name: str) -> None:
    model = Net(COUNTED[name])
    (activate,) = (n for n in capturing.captured(model, X) if isinstance(n, Activate))
    found = staircase_top(activate.activation)
    assert found is not None
    assert found[1] == 4
    capturing.assert_computes_the_same(model, X)


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class Own(nn.Module):
    """As people write it themselves, with a gradient of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.top = nn.Parameter(torch.tensor([0.9]))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.clamp(x / self.top, 0, 1)
        steps: Tensor = _Step.apply(x * 8 + 0.5)  # type: ignore[no-untyped-call]
        return steps / 8 * self.top


def test_a_users_own_layer_is_named_after_itself(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), Own(), nn.Conv2d(3, 2, 3), Own()).eval()
    method, given = lapilli.methods.Parallel(levels=8), [model, pt2(model, tmp_path)]
    if importlib.util.find_spec("onnx") is not None:
        given.append(onnx_file(model, tmp_path))
    found = [lapilli.compile(net, calibration=X, method=method) for net in given]
    assert [p.name for p in found[0].netlist.populations] == ["input", "1", "3", "3.readout"]
    assert len({net.hash for net in found}) == 1


REFUSED: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "no clip above": lambda m, x: m.relu((x * 4 + 0.5).floor()) / 4,
    "no clip below": lambda m, x: (x * 4 + 0.5).floor().clamp_max(4) / 4,
    "not shifted": lambda m, x: (x * 4).floor().clamp(0, 4) / 4,
    "shifted too far": lambda m, x: (x * 4 + 0.501).floor().clamp(0, 4) / 4,
    "negative counts": lambda m, x: (x * 4 + 0.5).floor().clamp(-1, 4) / 4,
    "half a count": lambda m, x: (x * 4 + 0.5).floor().clamp(0, 3.5) / 4,
    "as many levels as the channel": lambda m, x: (
        torch.minimum((x * 4 + 0.5).floor().clamp_min(0), m.levels) / 4
    ),
    "alone": lambda m, x: torch.floor(x),
    "a remainder": lambda m, x: x - torch.floor(x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_such_staircase_is_refused(name: str) -> None:
    model = Net(REFUSED[name], relu=nn.ReLU())
    model.register_buffer("levels", torch.tensor([4.0, 3.0]).reshape(2, 1, 1))
    for kind in (lambda m: m, program):
        with pytest.raises(UnsupportedOperatorError) as refused:
            frontend.network_of(kind(model)).capture(X)
        if name != "as many levels as the channel":
            assert refused.value.rule == "a floor is part of a trained staircase (QCFS)"
            assert refused.value.where.startswith("floor (floor) at ")
            assert ".py:" in refused.value.where
