"""Float networks on imperfect hardware: dead units and noisy weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lapilli import float_faults
from lapilli.compiler.errors import InputError
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.spiking_layers import IF
from lapilli.compiler.training.spiking_network import SpikingNetwork


class Functional(nn.Module):
    """Activations as functions, methods and in place; 20 units each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n, 20) for n in (64, 20, 20))
        self.relu, self.last = nn.ReLU(inplace=True), nn.Linear(20, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = []
        x = x.flatten(1)
        for layer, activation in zip(
            self.layers, (functional.relu, torch.Tensor.sigmoid, self.relu), strict=True
        ):
            x = activation(layer(x) + 1)
            self.seen.append(x)
        result: torch.Tensor = self.last(x)
        return result


def test_dead_units_of_a_float_network_are_silent_in_every_batch() -> None:
    torch.manual_seed(0)
    network, images = Functional().eval(), torch.rand(40, 1, 8, 8)
    with torch.no_grad():
        healthy = network(images)
        alive = [(x != 0).any(0) for x in network.seen]
        rng = np.random.default_rng(0)
        with float_faults.dead_neurons(network, 0.3, rng) as forward:
            whole = forward(images)
            silent = [(x == 0).all(0) for x in network.seen]
            parts = torch.cat([forward(images[:13]), forward(images[13:])])
        assert torch.equal(network(images), healthy)
    assert [int(x.sum()) for x in alive] == [20, 20, 20]
    assert [int(x.sum()) for x in silent] == [6, 6, 6]
    assert torch.allclose(whole, parts)
    assert not torch.allclose(whole, healthy)


def test_layers_of_our_own_have_dead_units_too() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), QCFS(8, 0.1)).eval()
    torch.nn.init.constant_(network[1].bias, 1.0)
    images = torch.rand(5, 1, 8, 8)
    with float_faults.dead_neurons(network, 0.25, np.random.default_rng(0)) as forward:
        assert int((forward(images) == 0).all(0).sum()) == 5
    assert int((network(images) == 0).all(0).sum()) == 0


def test_a_dead_neuron_is_dead_in_every_step() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), IF(4, 0.1))
    torch.nn.init.constant_(inner[1].bias, 1.0)
    network = SpikingNetwork(inner, steps=4).eval()
    images = torch.rand(5, 1, 8, 8)
    with float_faults.dead_neurons(network, 0.25, np.random.default_rng(0)) as forward:
        assert int((forward(images) == 0).all(0).sum()) == 5
    assert int((network(images) == 0).all(0).sum()) == 0


def test_a_network_without_activations_has_nothing_to_die() -> None:
    with (
        float_faults.dead_neurons(nn.Linear(4, 2), 0.5, np.random.default_rng(0)) as forward,
        pytest.raises(InputError, match="activations that are known"),
    ):
        forward(torch.zeros(1, 4))


def test_noise_on_float_weights_is_relative_and_leaves_the_network_alone() -> None:
    network = nn.Linear(200, 100)
    before = network.weight.detach().clone()
    noisy = float_faults.noisy_weights(network, 0.1, np.random.default_rng(0))
    assert torch.equal(network.weight, before)
    assert isinstance(noisy, nn.Linear)
    assert torch.equal(noisy.bias, network.bias)
    ratio = (noisy.weight / before).detach().numpy().astype(np.float64) - 1
    assert abs(ratio.mean()) < 5 * 0.1 / ratio.size**0.5
    assert abs(ratio.std() / 0.1 - 1) < 5 / (2 * ratio.size) ** 0.5
