"""Capture a network, legalise it, and compare what it computes with torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

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


def legalised(model: nn.Module, x: npt.NDArray[np.float32]) -> PopulationGraph:
    """The verified populations of a network for inputs like x (N, ...)."""
    graph = legalise(captured(model, x))
    graph.verify()
    return graph


def tensors(value: Any) -> list[Tensor]:
    """All tensors of a network's result, in order."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items for tensor in tensors(item)]


def assert_computes_the_same(model: nn.Module, x: npt.NDArray[np.float32]) -> PopulationGraph:
    """Fail unless the legalised network's outputs are torch's; return it."""
    graph = legalised(model, x)
    with torch.no_grad():
        found = FloatExecutor(graph, torch.device("cpu")).run(torch.tensor(x))
        expected = tensors(model.eval()(torch.tensor(x)))
    assert len(graph.outputs) == len(expected)
    for name, theirs in zip(graph.outputs, expected, strict=True):
        ours = found[name].reshape(theirs.shape)
        scale = max(float(theirs.abs().max()), LEAST_SCALE)
        assert float((ours - theirs).abs().max()) <= TOLERANCE * scale, name
    return graph


def maps_into(graph: PopulationGraph, target: str) -> list[str]:
    """What the maps into a population are, each with its source."""
    return [f"{c.map.pretty()} <- {c.source}" for c in graph.into(target)]
