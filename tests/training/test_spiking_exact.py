"""A netlist sends, step by step, what the layers that were trained send."""

from __future__ import annotations

import itertools

import grid_networks
import numpy as np
import pytest
import torch

import lapilli
from lapilli.compiler.numerics import FloatArray
from lapilli.layers import IF, MultiThreshold, SignedIF, SpikingNetwork

SHAPES = [(1, 4), (2, 2), (4, 2), (3, 3)]
THRESHOLDS = {
    "act": 2.0,
    "between": torch.tensor([2.0, 1.0, 0.5, 1.0]),
    "summed": 2.0,
    "hidden": 1.0,
}


def threshold(name: str, steps: int) -> torch.Tensor:
    return grid_networks.odd(steps) * torch.as_tensor(THRESHOLDS[name])


def images(trained: SpikingNetwork, seed: int) -> FloatArray:
    return grid_networks.images(6, seed, grid_networks.odd(trained.steps))


KEPT = dict.fromkeys(THRESHOLDS, 1.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("initial", "reset"), [("half", "subtract"), ("zero", "subtract"), ("zero", "zero")]
)
def test_integrate_and_fire(initial: str, reset: str, seed: int) -> None:
    trained = grid_networks.network(
        lambda name: IF(5, threshold(name, 5), initial=initial, reset=reset),  # type: ignore[arg-type]
        *(5, seed),
    )
    assert trained.method() == lapilli.methods.Rate(steps=5, initial=initial, reset=reset)  # type: ignore[arg-type]
    sent = grid_networks.assert_same_spikes(trained, images(trained, seed))
    assert all(0 < spikes.mean() < 1 for spikes in sent.values())


@pytest.mark.parametrize("seed", range(3))
def test_signed_integrate_and_fire(seed: int) -> None:
    trained = grid_networks.network(lambda name: SignedIF(7, threshold(name, 7)), 7, seed)
    assert trained.method() == lapilli.methods.FastSNN(levels=7, settle=False)
    sent = grid_networks.assert_same_spikes(trained, images(trained, seed))
    assert any((spikes < 0).any() for spikes in sent.values())
    for spikes in sent.values():
        assert (spikes.cumsum(1) >= 0).all()


@pytest.mark.parametrize(("levels", "steps"), SHAPES)
@pytest.mark.parametrize("keep", [1.0, 0.75, 0.5])
@pytest.mark.parametrize("initial", ["half", "zero"])
def test_several_thresholds(levels: int, steps: int, keep: float, initial: str) -> None:
    trained = grid_networks.network(
        lambda name: MultiThreshold(
            levels,
            steps,
            levels * threshold(name, steps),
            keep=keep,
            initial=initial,  # type: ignore[arg-type]
        ),
        *(steps, levels),
    )
    sent = grid_networks.assert_same_spikes(trained, images(trained, 1))
    assert any(spikes.max() == levels for spikes in sent.values())
    assert all(np.ptp(spikes) > 0 for spikes in sent.values())


def mixed(
    seed: int, levels: int, steps: int, mixing: str, keeps: dict[str, float]
) -> SpikingNetwork:
    """Every layer mixes in its own way: what is learned is 0, 1 or 2 shares of a mean."""
    rng = np.random.default_rng(seed)

    def make(name: str) -> MultiThreshold:
        layer = MultiThreshold(levels, steps, 1.0 * levels, mixing, keeps[name])  # type: ignore[arg-type]
        if layer.logits is not None:
            logits = rng.choice([-200.0, 0.0, 0.0, 200.0], layer.logits.shape)
            np.fill_diagonal(logits, 0.0)
            with torch.no_grad():
                layer.logits.copy_(torch.from_numpy(logits))
        return layer

    return grid_networks.network(make, steps, seed, single=True)


@pytest.mark.parametrize(
    ("levels", "steps", "mixing"),  # a causal mean of three has a third, which is rounded
    [(n, 2, mixing) for n in (2, 3, 4) for mixing in ("causal", "full")] + [(1, 4, "full")],
)
@pytest.mark.parametrize("leaky", [False, True])
def test_mixed_steps_with_a_matrix_and_a_leak_of_each_layers_own(
    levels: int, steps: int, mixing: str, leaky: bool
) -> None:
    """omega in powers of two and a leak of a half, so that no weight is rounded."""
    keeps = {"act": 1.0, "between": 0.5, "summed": 1.0, "hidden": 0.5} if leaky else KEPT
    trained = mixed(steps + levels, levels, steps, mixing, keeps)
    matrices = [layer.dynamics.mixing for layer in trained.layers().values()]
    assert any((a != b).any() for a, b in itertools.pairwise(matrices))
    sent = grid_networks.assert_same_spikes(trained, images(trained, 1))
    assert all(np.ptp(spikes) > 0 for spikes in sent.values())
