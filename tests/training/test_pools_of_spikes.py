"""Max pools in networks that are trained over time steps: exact, or refused before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grid_networks
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lapilli
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.training.distillation import Distilled, plan_distilled
from lapilli.compiler.training.fast_snn import FastSnn, plan_fast_snn
from lapilli.compiler.training.lm_ht import LmHt, plan_lm_ht
from lapilli.compiler.training.plan import Plan
from lapilli.compiler.training.quantised import Quantised
from lapilli.compiler.training.recipe import Recipe
from lapilli.layers import IF, SignedIF, SpikingLayer, SpikingNetwork

STEPS = 5
THRESHOLDS = {"act": 2.0 * STEPS, "between": 1.0 * STEPS}
LAYERS: list[Callable[[str], SpikingLayer]] = [
    lambda name: IF(STEPS, THRESHOLDS[name]),
    lambda name: IF(STEPS, THRESHOLDS[name], initial="zero", reset="zero"),
    lambda name: SignedIF(STEPS, THRESHOLDS[name]),
]


class Pooled(nn.Module):
    """(N, 1, 4, 4) -> (N, 3), with a max pool of the image, of drives, or of spikes."""

    def __init__(self, make: Callable[[str], nn.Module], place: str) -> None:
        super().__init__()
        self.place = place
        self.first, self.act = nn.Conv2d(1, 4, 3, padding=1), make("act")
        self.second, self.between = nn.Conv2d(4, 4, 3, padding=1), make("between")
        self.pool, self.out = nn.MaxPool2d(2), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.pool(x) if self.place == "image" else x)
        x = self.act(self.pool(x) if self.place == "drives" else x)
        x = self.second(self.pool(x) if self.place == "spikes" else x)
        y: Tensor = self.out(self.between(x).flatten(1))
        return y


def both(make: Callable[[str], SpikingLayer], place: str) -> tuple[Any, Any]:
    """Spikes of the last layer and outputs, as trained and as compiled."""
    spiking = SpikingNetwork(grid_networks.on_grid(Pooled(make, place), 0, times=STEPS), STEPS)
    x = grid_networks.images(6, 0, STEPS)
    trained, outputs = grid_networks.counts_per_step(spiking, x)
    trace = lapilli.run(grid_networks.compiled(spiking, x), x, record="spikes")
    return (trained["between"], outputs), (trace.spikes["between"], trace.outputs)


@pytest.mark.parametrize("make", LAYERS)
def test_a_max_pool_of_the_first_drives_is_compiled_as_it_was_trained(
    make: Callable[[str], SpikingLayer],
) -> None:
    (sent, outputs), (found, scores) = both(make, "drives")
    np.testing.assert_array_equal(found, sent)
    np.testing.assert_allclose(scores, outputs, rtol=1e-6)
    assert np.ptp(sent) > 0


@pytest.mark.parametrize("make", LAYERS)
@pytest.mark.parametrize("place", ["image", "spikes"])
def test_other_max_pools_are_compiled_otherwise(
    make: Callable[[str], SpikingLayer], place: str
) -> None:
    """Which is why recipes refuse them."""
    (sent, _), (found, _) = both(make, place)
    assert (found != sent).any()


def planned(kind: str, steps: int, place: str) -> Plan:
    network = Pooled(lambda name: nn.ReLU(), place).eval()
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    if kind == "distilled":
        recipe = Recipe(kind, "", options=Distilled("", steps=steps))
        return plan_distilled(network, recipe, images, network)
    if kind == "lm-ht":
        return plan_lm_ht(network, Recipe(kind, "", options=LmHt(2, steps)), images)
    options = FastSnn(Quantised(levels=steps))
    return plan_fast_snn(network, Recipe(kind, "", options=options), images)


KINDS = ["distilled", "lm-ht", "fast-snn"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["image", "spikes"])
def test_recipes_refuse_them_before_they_train(kind: str, place: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match="pools counts") as refused:
        planned(kind, 2, place)
    assert refused.value.where.startswith("pool at ")
    assert "AvgPool2d" in refused.value.remedy
    assert planned(kind, 1, place).stages and planned(kind, 2, "drives").stages
