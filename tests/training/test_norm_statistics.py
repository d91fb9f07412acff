"""Means and variances of BatchNorm, measured with the weights that training ends with."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from lapilli.compiler.training.norm_statistics import following, measured_anew


def network() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
    made(torch.randn(8, 2, 6, 6) + 4)  # statistics of before
    return made


def batches(count: int) -> list[Tensor]:
    return [torch.randn(8, 2, 6, 6) * (1 + k) for k in range(count)]


def same(x: Tensor) -> Tensor:
    return x


def by_hand(layers: nn.Sequential, parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Of the first normalisation."""
    with torch.no_grad():
        drives = [layers[0](part).transpose(0, 1).flatten(1) for part in parts]
    means, spreads = ([getattr(d, f)(1) for d in drives] for f in ("mean", "var"))
    return torch.stack(means).mean(0), torch.stack(spreads).mean(0)


@pytest.mark.parametrize("count", [1, 5])
def test_statistics_are_the_mean_over_all_batches(count: int) -> None:
    layers, parts = network(), batches(count)
    with measured_anew(following(layers), same):
        for part in parts:
            layers(part)
    mean, spread = by_hand(layers, parts)
    torch.testing.assert_close(layers[1].running_mean, mean)
    torch.testing.assert_close(layers[1].running_var, spread)
    assert layers[1].momentum == layers[3].momentum == 0.1


def test_the_mean_over_processes_is_taken_of_every_statistic() -> None:
    layers, parts = network(), batches(2)
    with measured_anew(following(layers), lambda measured: 2 * measured):
        for part in parts:
            layers(part)
    mean, spread = by_hand(layers, parts)
    torch.testing.assert_close(layers[1].running_mean, 2 * mean)
    torch.testing.assert_close(layers[1].running_var, 2 * spread)


def test_what_does_not_follow_batches_is_left_alone() -> None:
    layers = network()
    layers[1].eval()
    layers[3] = nn.BatchNorm2d(3, track_running_stats=False)
    before = layers[1].running_mean.clone()
    with measured_anew(following(layers), same):
        assert not layers(batches(1)[0]).requires_grad
    assert torch.equal(layers[1].running_mean, before) and layers[3].running_mean is None


def test_an_interruption_leaves_the_momentum() -> None:
    layers = network()
    with pytest.raises(KeyboardInterrupt), measured_anew(following(layers), same):
        raise KeyboardInterrupt
    assert layers[1].momentum == layers[3].momentum == 0.1 and torch.is_grad_enabled()
