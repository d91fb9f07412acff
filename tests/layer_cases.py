"""Calls on layers that move numbers about: joins, splits, permutations, other sizes, sequences.

As in tests/compiler/test_layers.py: by name in the table of layers, on what a convolution makes,
(N, 4, 6, 5), and on what a linear layer makes, (N, 8).
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

Call = Callable[[Any], Any]
PLANE = torch.linspace(-1, 1, 30).reshape(1, 1, 6, 5)
TAPS = torch.linspace(-1, 1, 24).reshape(4, 2, 3)


def constants(x: Any) -> Tensor:
    """Two channels that are the same for every image."""
    return PLANE.expand(len(x), 2, 6, 5)


class StochasticDepth(nn.Module):
    """torchvision's, where that is installed."""

    p, mode = 0.5, "row"

    def forward(self, x: Tensor) -> Tensor:
        try:
            library = importlib.import_module("torchvision.ops")
        except (ImportError, RuntimeError) as error:  # built for another torch
            pytest.skip(f"torchvision does not import: {error}")
        result: Tensor = library.StochasticDepth.forward(self, x)
        return result


def shuffled(x: Any) -> Any:
    """Channel shuffle as ShuffleNet writes it."""
    n, channels, height, width = x.size()
    x = x.view(n, 2, channels // 2, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(n, channels, height, width)


def sequence(x: Any) -> Any:
    """(N, 8) as (N, 2, 4)."""
    return x.reshape(-1, 2, 4)


def weighed(parts: Any) -> Any:
    """A sum that tells the parts apart."""
    return sum(index * part for index, part in enumerate(parts, 1))


JOINS: dict[str, list[Call | nn.Module]] = {
    "torch.cat": [
        lambda x: torch.cat([x, F.relu(x)], 1),
        lambda x: torch.cat((F.relu(x), x, 2 * x), dim=-3),
        lambda x: torch.cat([x, F.relu(x)[:, :, :2]], 2),
        lambda x: torch.cat(tensors=[x[..., 1:], F.relu(x)], dim=-1),
        lambda x: torch.cat([x, constants(x), F.relu(x) + 1], 1),
        lambda x: torch.cat([x.flatten(1), x.mean((2, 3))], 1),
        lambda x: torch.cat([x.flatten(2), F.relu(x).flatten(2)[..., :7]], axis=2),
        lambda x: torch.cat([x], 1),
        lambda x: torch.cat(x.chunk(2, 1), 2),
        lambda x: torch.cat([x[:, :1], torch.cat([F.relu(x), x], 1)], 1),
    ],
    "torch.concat": [lambda x: torch.concat([x, F.relu(x)], 1)],
    "torch.concatenate": [lambda x: torch.concatenate([x, F.relu(x)], dim=3)],
    "torch.hstack": [lambda x: torch.hstack((x, F.relu(x)))],
    "torch.stack": [
        lambda x: torch.stack([x, F.relu(x)], 1),
        lambda x: torch.stack((x, F.relu(x), constants(x).repeat(1, 2, 1, 1)), dim=-1),
        lambda x: torch.stack([x, F.relu(x)], 2).flatten(1, 2),
        lambda x: torch.stack([x.mean(3), F.relu(x).mean(3)], 3),
    ],
    "torch.split": [
        lambda x: weighed(torch.split(x, 2, 1)),
        lambda x: torch.split(x, [1, 3], dim=1)[1],
        lambda x: torch.split(x, split_size_or_sections=2, dim=-1)[2],
    ],
    "split": [
        lambda x: weighed(x.split(2, dim=2)),
        lambda x: x.split([3, 1], 1)[0] * 2,
        lambda x: weighed(part for part in x.split(split_size=1, dim=1)),
    ],
    "split_with_sizes": [lambda x: x.split_with_sizes([1, 2, 1], 1)[1]],
    "torch.chunk": [lambda x: weighed(torch.chunk(x, 2, 1)), lambda x: torch.chunk(x, 4, -1)[-1]],
    "chunk": [
        lambda x: weighed(x.chunk(2, dim=1)),
        lambda x: torch.cat(F.relu(x).chunk(3, 2)[1:], 2),
        lambda x: operator.sub(*x.chunk(2, 1)),
    ],
    "torch.tensor_split": [lambda x: torch.tensor_split(x, 4, 2)[0]],
    "tensor_split": [lambda x: x.tensor_split((1, 2), dim=1)[2]],
    "torch.unbind": [lambda x: weighed(torch.unbind(x, 1))],
    "unbind": [lambda x: x.unbind(dim=-1)[2], lambda x: x.mean((2, 3)).unbind(1)[3]],
}
MOVES: dict[str, list[Call | nn.Module]] = {
    "torch.permute": [lambda x: torch.permute(x, (0, 2, 3, 1))],
    "permute": [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.permute((0, 3, 1, 2)),
        lambda x: x.permute(0, 2, 3, 1).permute(0, -1, 1, 2),
        lambda x: x.permute(dims=(0, 1, -1, 2)),
        lambda x: x.mean((2, 3), True).permute(0, 2, 3, 1),
        lambda x: x.view(-1, 2, 2, 6, 5).permute(0, 2, 1, 3, 4),
        lambda x: x.view(-1, 2, 2, 30).permute(0, 2, 1, 3),
        lambda x: x.unsqueeze(3).permute(0, 3, 1, 4, 2),
    ],
    "torch.transpose": [
        lambda x: torch.transpose(x, 1, 2),
        shuffled,
        lambda x: shuffled(F.relu(x)) + x,
    ],
    "transpose": [
        lambda x: x.transpose(2, 3),
        lambda x: x.flatten(2).transpose(1, 2),
        lambda x: x.transpose(dim0=-1, dim1=-3),
        lambda x: x.transpose(1, 1),
    ],
    "torch.swapaxes": [lambda x: torch.swapaxes(x, 1, 3)],
    "torch.swapdims": [lambda x: torch.swapdims(x, 1, 3)],
    "swapaxes": [lambda x: x.swapaxes(3, 2)],
    "swapdims": [lambda x: x.swapdims(1, 2)],
    "torch.nn.ChannelShuffle": [nn.ChannelShuffle(2)],
    "torch.nn.functional.channel_shuffle": [lambda x: F.channel_shuffle(x, 2)],
    "torch.nn.PixelShuffle": [nn.PixelShuffle(2)],
    "torch.nn.functional.pixel_shuffle": [lambda x: F.pixel_shuffle(x, 2)],
    "torch.nn.PixelUnshuffle": [nn.Sequential(nn.ZeroPad2d((0, 1, 0, 0)), nn.PixelUnshuffle(2))],
    "torch.nn.functional.pixel_unshuffle": [lambda x: F.pixel_unshuffle(x[..., 1:], 2)],
}
SIZES: dict[str, list[Call | nn.Module]] = {
    "torch.nn.Upsample": [
        nn.Upsample(scale_factor=2),
        nn.Upsample((7, 9)),
        nn.Upsample(scale_factor=(3.0, 1.5), mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Upsample(scale_factor=1.3, mode="bilinear", recompute_scale_factor=True),
        nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3, padding=1)),
    ],
    "torch.nn.UpsamplingNearest2d": [nn.UpsamplingNearest2d(scale_factor=3)],
    "torch.nn.UpsamplingBilinear2d": [nn.UpsamplingBilinear2d((5, 11))],
    "torch.nn.functional.interpolate": [
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, (12, 11), None, "bilinear", False),
        lambda x: F.interpolate(x, size=x.shape[-2:], mode="bilinear", align_corners=False),
        lambda x: F.interpolate(x, scale_factor=0.7, mode="nearest-exact"),
        lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=True),
        lambda x: F.interpolate(x.mean((2, 3), True), size=(6, 5), mode="bilinear") + x,
        lambda x: F.interpolate(x.flatten(2), size=44, mode="linear"),
        lambda x: F.interpolate(x.flatten(2), scale_factor=2),
    ],
}
ARITHMETIC: dict[str, list[Call | nn.Module]] = {
    "torch.subtract": [lambda x: torch.subtract(x, F.relu(x), alpha=2)],
    "subtract": [lambda x: x.subtract(PLANE)],
    "torch.rsub": [lambda x: torch.rsub(x, 1), lambda x: torch.rsub(x, F.relu(x), alpha=3)],
    "torch.multiply": [lambda x: torch.multiply(2, x)],
    "multiply": [lambda x: x.multiply(-3)],
    "torch.divide": [lambda x: torch.divide(x, 4)],
    "torch.true_divide": [lambda x: torch.true_divide(x, 4)],
    "divide": [lambda x: x.divide(4)],
    "true_divide": [lambda x: x.true_divide(4)],
    "torch.negative": [torch.negative],
    "negative": [lambda x: x.negative()],
    "neg_": [lambda x: (2 * x).neg_()],
}
OFF: dict[str, list[Call | nn.Module]] = {
    "torch.nn.AlphaDropout": [nn.AlphaDropout()],
    "torch.nn.FeatureAlphaDropout": [nn.FeatureAlphaDropout()],
    "torch.nn.functional.alpha_dropout": [F.alpha_dropout],
    "torch.nn.functional.feature_alpha_dropout": [F.feature_alpha_dropout],
    "torchvision.ops.stochastic_depth.stochastic_depth": [StochasticDepth()],
}
ON_IMAGES = JOINS | MOVES | SIZES | ARITHMETIC | OFF

ON_VECTORS: dict[str, list[Call | nn.Module]] = {
    "torch.nn.Conv1d": [
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Conv1d(2, 3, 3, 2, 1)),
        nn.Sequential(nn.Unflatten(1, (4, 2)), nn.Conv1d(4, 4, 2, padding="same", groups=4)),
        nn.Sequential(
            nn.Unflatten(1, (1, 8)),
            nn.Conv1d(1, 4, 3, dilation=2, bias=False),
            nn.BatchNorm1d(4),
            nn.Conv1d(4, 2, 2, padding="valid"),
        ),
    ],
    "torch.nn.functional.conv1d": [
        lambda x: F.conv1d(sequence(x), TAPS, padding=1),
        lambda x: F.conv1d(sequence(x), TAPS[:2, :1], torch.ones(2), 2, (2,), 2, 2),
    ],
    "torch.nn.AvgPool1d": [
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.AvgPool1d(2)),
        nn.Sequential(nn.Unflatten(1, (1, 8)), nn.AvgPool1d(3, 2, 1, True, False)),
    ],
    "torch.nn.functional.avg_pool1d": [lambda x: F.avg_pool1d(sequence(x), 3, 1, padding=1)],
    "torch.nn.AdaptiveAvgPool1d": [
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.AdaptiveAvgPool1d(3)),
    ],
    "torch.nn.functional.adaptive_avg_pool1d": [
        lambda x: F.adaptive_avg_pool1d(sequence(x), 1).flatten(1)
    ],
    "torch.nn.functional.dropout1d": [lambda x: F.dropout1d(sequence(x), training=False)],
    "torch.cat": [
        lambda x: torch.cat([x, F.relu(x)], 1),
        lambda x: torch.cat([x[:, 2:5], torch.ones(len(x), 2), F.relu(x)], -1),
    ],
    "torch.stack": [
        lambda x: torch.stack([x, F.relu(x)], 1),
        lambda x: torch.stack([x[:, 0], x[:, 3]], 1),
        lambda x: torch.stack([x, F.relu(x)], -1),
    ],
    "torch.hstack": [lambda x: torch.hstack([x, F.relu(x)])],
    "chunk": [lambda x: weighed(x.chunk(2, 1)), lambda x: sequence(x).chunk(2, 2)[1]],
    "unbind": [lambda x: weighed(sequence(x).unbind(1))],
    "transpose": [lambda x: sequence(x).transpose(1, 2)],
}
