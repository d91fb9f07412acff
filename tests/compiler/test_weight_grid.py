"""Weights that are multiples of a step become these multiples, exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import lapilli
from lapilli import methods
from lapilli.compiler.linear import ConvTransposed, Dense, frozen, identity
from lapilli.compiler.passes.weight_grid import grid_steps, on_grid
from lapilli.compiler.training.qcfs import QCFS

TOP = 127


def dense(weight: np.ndarray) -> Dense:
    return Dense(frozen(weight), (weight.shape[1],), (weight.shape[0],))


@given(
    counts=st.lists(st.integers(-TOP, TOP), min_size=1, max_size=40),
    step=st.floats(1e-6, 1e6),
)
def test_the_step_is_found_in_single_precision(counts: list[int], step: float) -> None:
    weights = np.array([counts], np.float32) * np.float32(step)
    (found,) = grid_steps(dense(weights.astype(np.float64)), TOP)
    several = np.count_nonzero(counts) > 1
    assert found == pytest.approx(step * np.gcd.reduce(counts) if several else 0.0, rel=1e-4)


def test_weights_on_no_grid_have_no_step() -> None:
    weights = np.random.default_rng(0).normal(size=(20, 27))
    assert not grid_steps(dense(weights), TOP).any()
    assert not grid_steps(dense(np.zeros((2, 3))), TOP).any()
    assert not grid_steps(dense(np.arange(TOP + 2.0)[None]), TOP).any()  # a step too many


def test_every_output_channel_has_its_own_step() -> None:
    counts = np.random.default_rng(0).integers(-3, 4, (2, 2, 2, 3, 3)).astype(float)
    counts[0, 0, :, 0, 0] = counts[1, 0, :, 0, 0] = 1.0  # so that no channel is 2 or 3 times some
    steps = np.array([[0.5, 0.25], [3.0, 0.125]])
    weight = (counts * steps[:, None, :, None, None]).reshape(4, 2, 3, 3)
    linear = ConvTransposed(frozen(weight), (4, 4, 4), (4, 6, 6), groups=2)
    assert grid_steps(linear, TOP).tolist() == steps.ravel().tolist()


def test_a_single_weight_has_no_say() -> None:
    assert not grid_steps(identity((3, 2, 2)), TOP).any()
    assert grid_steps(dense(np.array([[0.0, 0.3], [0.2, 0.3]])), TOP) == pytest.approx([0.0, 0.1])


def test_units_divide_the_step_and_are_less_than_twice_as_coarse() -> None:
    unit, step = np.array([0.3, 0.3, 0.3, 0.3]), np.array([1.0, 0.5, 0.2, 0.0])
    found = on_grid(unit, step, shared=False)
    assert found == pytest.approx([1 / 3, 0.5, 0.3, 0.3])  # finer steps, and none, change nothing
    assert on_grid(unit, step, shared=True).tolist() == unit.tolist()
    assert on_grid(np.array(0.3), np.array([0.7, 0.7]), shared=True) == pytest.approx(0.35)
    assert on_grid(np.array(0.3), np.array([0.7, 0.0]), shared=True) == 0.3


def network(bits: int, seed: int) -> nn.Sequential:
    """Weights of so many bits on a grid of one step per layer, and BatchNorm that has seen data."""
    generator = torch.Generator().manual_seed(seed)

    def on(layer: nn.Module, step: float) -> nn.Module:
        most = 2 ** (bits - 1) - 1
        counts = torch.randint(-most, most + 1, layer.weight.shape, generator=generator)
        layer.weight.data = counts * torch.tensor(step)
        return layer

    def norm(channels: int) -> nn.BatchNorm2d:
        made = nn.BatchNorm2d(channels)
        for name in ("weight", "running_var"):
            getattr(made, name).data = 0.5 + torch.rand(channels, generator=generator)
        for name in ("bias", "running_mean"):
            getattr(made, name).data = torch.randn(channels, generator=generator) * 0.1
        return made

    return nn.Sequential(
        *(on(nn.Conv2d(1, 6, 3, bias=False), 0.0137), norm(6), QCFS(4, 1.7)),
        *(on(nn.Conv2d(6, 8, 3, bias=False), 0.0071), norm(8), QCFS(4, 0.9)),
        *(nn.AvgPool2d(2), nn.Flatten(), on(nn.Linear(32, 5), 0.3)),
    ).eval()


@pytest.mark.parametrize("method", [methods.Parallel(levels=4), methods.FastSNN(levels=4)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_network_with_weights_of_few_bits_has_no_rounding_of_weights(
    bits: int, method: object
) -> None:
    trained = network(bits, seed=bits)
    images = np.random.default_rng(0).random((16, 1, 8, 8), np.float32)
    made = lapilli.compile(
        trained, calibration=images, method=method, profile="loihi2", calibrate="none"
    )
    steps = {"2": 0.0137, "5": 0.0071, "readout": 0.3}
    layers = [m for m in trained if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert len(made.netlist.connections) == len(layers) == len(steps)
    for c, layer, step in zip(made.netlist.connections, layers, steps.values(), strict=True):
        found = c.map.weight.reshape(len(layer.weight), -1).astype(np.int64)
        wanted = np.rint(layer.weight.detach().numpy().reshape(len(found), -1) / step)
        if found.shape[1] != wanted.shape[1]:  # the average pool lies in front of it
            wanted = np.repeat(wanted, 4, axis=1).reshape(5, 8, 2, 2, 2, 2)
            wanted = wanted.transpose(0, 1, 2, 4, 3, 5).reshape(found.shape)
        for row, counts in zip(found, wanted.astype(np.int64), strict=True):
            assert (row * np.abs(counts).max() == counts * np.abs(row).max()).all()
