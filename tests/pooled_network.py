"""A small network with every kind of max pool, branches, groups, strides and clipped lines."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.numerics import FloatArray


class Pooled(nn.Module):
    """Residual, grouped, strided; max pools with and without overlap and border; clipped lines."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.strided = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.last = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        x = functional.relu6(x + self.branch(x))
        x = functional.max_pool2d(functional.hardtanh(self.strided(x), -0.3, 0.5), 3, 1, 1)
        x = functional.adaptive_max_pool2d(x, 2)
        logits: Tensor = self.last(x.flatten(1))
        return logits


def images(count: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).random((count, 2, 10, 10)).astype(np.float32)


@functools.cache
def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Pooled().eval()


@functools.cache
def compiled(method: object) -> Artifact:
    return lapilli.compile(network(), calibration=images(40), method=method)
