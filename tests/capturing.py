"""Capture a network, legalise it, and compare what it computes with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from lapilli.compiler import outputs
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.execute import FloatExecutor
from lapilli.compiler.frontend import capture, evaluation_copy
from lapilli.compiler.ir import Graph
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.populations import PopulationGraph

TOLERANCE = 1e-5
"""Relative to the largest output: float32 sums in another order, through a few layers."""
LEAST_SCALE = 0.1
"""Outputs smaller than this are differences of larger numbers, as inputs have size 1."""


class Net(nn.Module):
    """A network from layers and a forward: Net(lambda m, x: m.conv(x).relu(), conv=...)."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **layers: nn.Module):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = run

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def images(*shape: int, count: int = 4, seed: int = 0) -> npt.NDArray[np.float32]:
    """Samples (count, *shape), of both signs."""
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in evaluation mode with statistics and affine parameters unlike the defaults."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            low, high = (0.5, 1.5) if name.endswith("running_var") else (-0.6, 0.6)
            values = torch.rand(tensor.shape, generator=generator) * (high - low) + low
            tensor.data.copy_(values)
    return model.eval()


def captured(model: nn.Module, x: npt.NDArray[np.float32]) -> Graph:
    """The graph of a network for inputs like x (N, ...)."""
    return capture(evaluation_copy(model), x)


def refusal(model: nn.Module, x: npt.NDArray[np.float32]) -> UnsupportedOperatorError:
    """Why a network with inputs like x (N, ...) cannot be captured; fails where it can."""
    with pytest.raises(UnsupportedOperatorError) as refused:
        captured(model, x)
    return refused.value


def legalised(model: nn.Module, x: npt.NDArray[np.float32]) -> PopulationGraph:
    """The verified populations of a network for inputs like x (N, ...)."""
    graph = legalise(captured(model, x))
    graph.verify()
    return graph


def assert_computes_the_same(model: nn.Module, x: npt.NDArray[np.float32]) -> PopulationGraph:
    """Fail unless the legalised network's outputs, with their heads, are torch's; return it.

    Largest values must not be close: argmax is compared as it is.
    """
    captured_graph = captured(model, x)
    graph = legalise(captured_graph)
    graph.verify()
    with torch.no_grad():
        found = FloatExecutor(graph, torch.device("cpu")).run(torch.tensor(x))
        expected = outputs.leaves(model.eval()(torch.tensor(x)))
    assert [output.name for output in captured_graph.returned] == [name for name, _ in expected]
    for output, (name, theirs) in zip(captured_graph.returned, expected, strict=True):
        readout = found[graph.outputs[output.readout]].double().numpy()
        ours, wanted = outputs.returned(output, readout), theirs.double().numpy()
        assert ours.shape == wanted.shape, name
        scale = max(float(np.abs(wanted).max()), LEAST_SCALE)
        assert float(np.abs(ours - wanted).max()) <= TOLERANCE * scale, name
    return graph


def maps_into(graph: PopulationGraph, target: str) -> list[str]:
    """What the maps into a population are, each with its source."""
    return [f"{c.map.pretty()} <- {c.source}" for c in graph.into(target)]
