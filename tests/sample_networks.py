"""Small torch networks with random weights that use, between them, every supported layer.

Written as users write them: modules and functional calls, in-place sums, views, several outputs.
`images` gives inputs on which they are neither silent nor saturated.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

import lapilli
from lapilli.compiler.artifact import Artifact


class Residual(nn.Module):
    """BatchNorm, an option-A shortcut (slice, pad), in-place sums, pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(6)
        self.conv3 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(6)
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        branch = functional.relu(self.bn2(self.conv2(x)))
        branch = self.bn3(self.conv3(branch))
        branch += functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))
        x = functional.relu(branch)
        x = functional.avg_pool2d(x, int(x.shape[-1]))
        logits: Tensor = self.linear(x.view(x.size(0), -1))
        return logits


class Chain(nn.Sequential):
    """Modules only: groups, dilation, odd kernels, padding, overlapping pooling, dense layers."""

    def __init__(self) -> None:
        super().__init__(
            nn.Identity(),
            nn.ZeroPad2d((1, 0, 2, 1)),
            nn.Conv2d(2, 4, (3, 2), stride=(2, 1), dilation=(1, 2), groups=2),
            nn.ReLU(),
            nn.AvgPool2d(3, stride=2, padding=1),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(24, 7),
            nn.BatchNorm1d(7),
            nn.ReLU(inplace=True),
            nn.Linear(7, 3),
        )


class Arithmetic(nn.Module):
    """Constants, differences, a ReLU on a flattened map, uneven pooling, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.side = nn.Linear(3, 2)
        self.head = nn.Linear(27, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.conv(2.0 * x - 0.5))
        small = functional.adaptive_avg_pool2d(x, 3)
        flat = (torch.neg(small) + 0.75).flatten(1).relu()
        difference = torch.relu((x[:, 1:] - 0.5 * x[:, :-1]) / 1.5)
        mean = difference.mean((2, 3))
        side = self.side(functional.pad(mean, (0, 1)))
        return self.head(flat), side


class Vectors(nn.Module):
    """Nothing but vectors, with a residual sum of unequal depth."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 8)
        self.second = nn.Linear(8, 8)
        self.third = nn.Linear(8, 8, bias=False)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        branch = self.third(self.second(x).relu())
        logits: Tensor = self.last(functional.relu(x + branch))
        return logits


class Decoder(nn.Sequential):
    """A matrix into a map, whose channels are not those of the matrix; larger; back again."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(6, 36),
            nn.Unflatten(1, (4, 3, 3)),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 3, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(3, 3, 2, 2),
            nn.Flatten(),
            nn.ReLU(),
            nn.Linear(12, 2),
        )


class DenselyConnected(nn.Module):
    """As DenseNet: every layer reads all before it, joined along the channels; a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(n) for n in (3, 5, 7))
        self.growths = nn.ModuleList(nn.Conv2d(n, 2, 3, padding=1, bias=False) for n in (3, 5))
        self.transition = nn.Conv2d(7, 4, 1, bias=False)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, growth in zip(self.norms, self.growths, strict=False):
            joined = torch.cat(features, 1)
            features.append(growth(functional.relu(norm(joined), inplace=True)))
        x = functional.relu(self.norms[2](torch.cat(features, dim=1)))
        x = functional.relu(functional.avg_pool2d(self.transition(x), 2))
        logits: Tensor = self.classifier(functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


class Shuffled(nn.Module):
    """As ShuffleNet: half of the channels passes by, both halves are mixed; depthwise layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 1)
        self.units = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(4, 4, 1),
                nn.ReLU(inplace=True),
                nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 4, 1),
                nn.ReLU(inplace=True),
            )
            for _ in range(2)
        )
        for layer in self.units.modules():
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.constant_(layer.bias, 0.4)  # few channels: none of them may be dead
        self.classifier = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(functional.pixel_unshuffle(x, 2)))
        for unit in self.units:
            kept, worked = x.chunk(2, dim=1)
            x = torch.cat((kept, unit(worked)), dim=1)
            n, channels, height, width = x.size()
            x = x.view(n, 2, channels // 2, height, width)
            x = torch.transpose(x, 1, 2).contiguous().view(n, channels, height, width)
        logits: Tensor = self.classifier(x.mean([2, 3]))
        return logits


class UShaped(nn.Module):
    """As U-Net: down and up again, joined with what was there before; maps as outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(2, 3, 3, padding=1)
        self.bottom = nn.Conv2d(3, 4, 3, padding=1)
        self.up = nn.Conv2d(7, 3, 3, padding=1)
        self.head = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skip = functional.relu(self.down(x))
        deep = functional.relu(self.bottom(functional.avg_pool2d(skip, 2)))
        coarse = functional.interpolate(deep[:, :1], size=x.shape[-2:], mode="bilinear")
        joined = torch.cat([functional.interpolate(deep, scale_factor=2), skip], dim=1)
        fine = self.head(functional.relu(self.up(joined)))
        return functional.pixel_shuffle(fine, 2), coarse


Shape = tuple[int, ...]
NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], Shape]] = {
    "residual": (Residual, (2, 6, 6)),
    "chain": (Chain, (2, 7, 6)),
    "arithmetic": (Arithmetic, (2, 6, 7)),
    "vectors": (Vectors, (10,)),
    "decoder": (Decoder, (6,)),
    "dense": (DenselyConnected, (2, 4, 4)),
    "shuffled": (Shuffled, (2, 6, 6)),
    "u-shaped": (UShaped, (2, 4, 4)),
}
"""Name -> network, shape of one image."""


def network(name: str, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, weights and statistics drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[name][0]()
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(std=0.2)
                module.running_var.uniform_(0.2, 1.0)
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(std=0.3)
    return model.eval()


def images(
    name: str, count: int, *, seed: int = 0, signed: bool = False
) -> npt.NDArray[np.float32]:
    """Random images for a network, (count, *shape), in 0..1 or around 0."""
    rng = np.random.default_rng(seed)
    shape = (count, *NETWORKS[name][1])
    values = rng.normal(size=shape) if signed else rng.random(shape)
    return values.astype(np.float32)


METHODS: Mapping[str, tuple[Any, str]] = {
    "graded": (lapilli.methods.Parallel(levels=5), "loihi2"),
    "unary": (lapilli.methods.Parallel(levels=4, coding="unary"), "loihi1"),
    "rate": (lapilli.methods.Rate(steps=7), "loihi1"),
    "rate per channel": (lapilli.methods.Rate(steps=6, initial="zero", per_channel=True), "loihi2"),
    "fast-snn": (lapilli.methods.FastSNN(levels=5), "loihi2"),
    "fast-snn as published": (lapilli.methods.FastSNN(levels=7, settle=False), "loihi2"),
    "lm-ht": (lapilli.methods.LMHT(levels=3, steps=2, keep=0.9), "loihi2"),
    "sigma-delta": (lapilli.methods.SigmaDelta(levels=6, steps=3), "loihi2"),
}
"""Every coding, each with a chip that has it."""


@functools.cache
def compiled(name: str, method: str, *, signed: bool = False) -> Artifact:
    """The network compiled on 40 of its images."""
    options, profile = METHODS[method]
    calibration = images(name, 40, signed=signed)
    return lapilli.compile(network(name), calibration=calibration, method=options, profile=profile)
