"""Small networks with activations of every kind, max pools and gates, for exactness tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

import lapilli
from lapilli.compiler.artifact import Artifact


class Pooled(nn.Module):
    """Max pools: overlapping, before a ReLU, over a concatenation, of a sum, to one pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.left = nn.Conv2d(4, 3, 1)
        self.right = nn.Conv2d(4, 2, 3, padding=1)
        self.mixed = nn.Conv2d(5, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.max_pool2d(self.first(x), 2))
        joined = torch.cat([functional.relu(self.left(x)), functional.relu6(self.right(x))], 1)
        y = functional.max_pool2d(joined, 3, 1, 1)
        y = functional.max_pool2d(self.mixed(y) - 0.2, 2, ceil_mode=True)  # signed, no ReLU
        logits: Tensor = self.head(functional.adaptive_max_pool2d(y, 1).flatten(1))
        return logits


class Gated(nn.Module):
    """Squeeze and excitation after SiLU, hard-swish with a hard-sigmoid gate, a square."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)
        self.second = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.gate = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.first(x))
        squeezed = functional.relu(self.squeeze(functional.adaptive_avg_pool2d(x, 1)))
        x = x * torch.sigmoid(self.excite(squeezed))
        y = functional.hardswish(self.second(x))
        y = y * functional.hardsigmoid(self.gate(y))
        return self.head(torch.cat([y.mean((2, 3)), (y**2).mean((2, 3))], 1))  # type: ignore[no-any-return]


class Curved(nn.Module):
    """Curves of every kind, per channel and shared, on maps, one mirrored, and on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3)
        self.prelu = nn.PReLU(4)
        self.second = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.third = nn.Linear(16, 8)
        self.fourth = nn.Linear(8, 8)
        self.head = nn.Linear(8, 2)
        self.prelu.weight.data = torch.tensor([0.25, -0.3, 0.0, 0.6])

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.first(x))
        x = x + torch.tanh(self.second(x)).flip(3)
        x = functional.leaky_relu(functional.avg_pool2d(x, 3), 0.1)
        y = functional.mish(self.third(x.flatten(1)))
        y = functional.gelu(3 * self.fourth(y)) - functional.softplus(y) + 0.7
        return self.head(functional.hardtanh(y, -0.25, 0.5))  # type: ignore[no-any-return]


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "pooled": (Pooled, (2, 9, 8)),
    "gated": (Gated, (2, 6, 6)),
    "curved": (Curved, (2, 8, 8)),
}
METHODS: Mapping[str, tuple[Any, str]] = {
    "graded": (lapilli.methods.Parallel(levels=6), "loihi2"),
    "graded, one level": (lapilli.methods.Parallel(levels=1), "loihi2"),
    "graded, many levels": (lapilli.methods.Parallel(levels=120), "loihi2"),
    "unary": (lapilli.methods.Parallel(levels=5, coding="unary"), "loihi2"),
    "sigma-delta": (lapilli.methods.SigmaDelta(levels=6, steps=3), "loihi2"),
}
"""Methods whose neurons count any function of their drive."""


def network(name: str, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, weights drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name][0]().eval()


def images(name: str, count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Random images of both signs, (count, *shape)."""
    shape = (count, *NETWORKS[name][1])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def compiled(name: str, method: Any, profile: str = "loihi2", seed: int = 0) -> Artifact:
    """The network compiled on 40 of its images."""
    return lapilli.compile(
        network(name, seed), calibration=images(name, 40), method=method, profile=profile
    )
