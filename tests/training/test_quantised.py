"""Recipes of the kind quantised: thresholds, stages of fewer bits, and what is compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import lapilli
from lapilli.compiler.errors import InputError
from lapilli.compiler.training.plan import Plan
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.quantised import (
    SMOOTH,
    Quantised,
    least_error,
    plan_quantised,
)
from lapilli.compiler.training.recipe import Recipe, Training
from lapilli.compiler.training.weight_quantisers import FLOAT

RECIPE = Recipe("quantised", "", training=Training(epochs=2))


class Block(nn.Module):
    """(N, 1, 8, 8) -> (N, 4), with a residual, functional activations and one called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))
        self.relu, self.last = nn.ReLU(), nn.Linear(4 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = self.relu(self.norm(self.first(x)))
        second = functional.relu(self.second(first))
        third = self.relu(first + self.third(second))
        logits: Tensor = self.last(functional.avg_pool2d(third, 2).flatten(1))
        return logits


def images(count: int = 16) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def planned(**options: Any) -> Plan:
    return plan_quantised(Block(), replace(RECIPE, options=Quantised(**options)), images())


def layers(plan: Plan) -> list[QCFS]:
    return [module for module in plan.model.modules() if isinstance(module, QCFS)]


def carried_out(plan: Plan, rate: float = 0.05, batches: int = 3) -> list[float]:
    """The losses of a few batches of every stage."""
    x, y = images(32), torch.arange(32) % 4
    losses = []
    for stage in plan.stages:
        stage.begin()
        trained = [p for p in stage.objective.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(trained, lr=rate * stage.rate)
        stage.objective.train()
        for _ in range(batches):
            loss = stage.objective(x, y)
            optimiser.zero_grad()
            loss.backward()
            assert all(p.grad is not None for p in trained)  # several processes rely on it
            optimiser.step()
            losses.append(float(loss.detach()))
        stage.end()
    return losses


def test_least_error_is_the_least_of_a_fine_search() -> None:
    draws = torch.Generator().manual_seed(0)
    values = torch.randn(3, 4000, generator=draws).abs() * torch.tensor([[1.0], [5.0], [0.0]])
    tops = least_error(values, 4)
    assert tops[2] == 0
    for row, top in zip(values[:2], tops[:2], strict=True):

        def error(t: float, row: Tensor = row) -> float:
            return float(
                ((t / 4 * torch.floor(row * 4 / t + 0.5).clamp(0, 4)) - row).square().mean()
            )

        best = min(error(float(t)) for t in torch.linspace(0.02, float(row.max()), 500))
        assert error(float(top)) < 1.02 * best


def test_thresholds_start_where_the_float_activity_is_rounded_best() -> None:
    """The activity is the float network's, not what earlier rounding has left of it."""
    for known in (False, True):  # is what BatchNorm normalises by
        network, seen = Block(), []
        if known:
            network.norm.num_batches_tracked.fill_(1)
            network.eval()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        recipe = replace(RECIPE, options=Quantised(levels=4))
        plan = plan_quantised(network, recipe, images())
        made = plan.model.get_submodule("objective.network").state_dict()
        assert all(torch.equal(made[name], value) for name, value in before.items())
        network.norm.register_forward_hook(lambda m, a, y, seen=seen: seen.append(y.relu()))
        with torch.no_grad():
            network(images())
        wanted = least_error(seen[0].reshape(1, -1), 4)
        assert float(layers(plan)[0].threshold.detach()) == pytest.approx(float(wanted))
    plan = planned(levels=4)
    assert [layer.levels for layer in layers(plan)] == [4, 4, 4]
    assert len(layers(planned(threshold=8.0, per_channel=True))[1].threshold) == 4
    assert all(float(layer.threshold.detach()) == 8.0 for layer in layers(planned(threshold=8.0)))


def test_thresholds_of_layers_that_are_there_already_are_kept() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), QCFS(2, 0.7), nn.Flatten(), nn.Linear(144, 4))
    plan = plan_quantised(network, replace(RECIPE, options=Quantised(levels=5)), images())
    (layer,) = layers(plan)
    assert (layer.levels, float(layer.threshold.detach())) == (5, pytest.approx(0.7))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("how", [{}, {"weight_bits": 3}])
def test_training_goes_on_from_a_trained_network(
    how: dict[str, Any], per_channel: bool, tmp_path: Path
) -> None:
    before = planned(levels=3, per_channel=per_channel, **how)
    carried_out(before)
    network, _ = before.finished()
    file = tmp_path / "q.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    for levels in (5, 3):  # more, and its own
        plan = planned(levels=levels, per_channel=not per_channel, trained=str(file))
        for ours, theirs in zip(layers(plan), layers(before), strict=True):
            assert ours.levels == levels and bool((ours.threshold == theirs.threshold).all())
    assert torch.equal(plan.predict(images()), network(images()))
    carried_out(plan)
    assert not torch.equal(plan.predict(images()), network(images()))


def test_a_file_that_is_no_trained_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fits the recipe's network"):
        planned(trained=str(tmp_path / "missing.safetensors"))
    with pytest.raises(InputError, match=r"quantised\.trained"):
        Quantised(trained=3)  # type: ignore[arg-type]


def test_stages_have_fewer_and_fewer_bits_and_go_on_from_each_other() -> None:
    plan = planned(levels=3, weight_bits=2, weights="apot", progressive=(32, 4), threshold=2.0)
    assert [(stage.name, stage.epochs) for stage in plan.stages] == [
        ("32 bits", 2),
        ("4 bits", 2),
        ("3 levels", 2),
    ]
    made, values = plan.model, []
    for stage, levels, bits in zip(plan.stages, (SMOOTH, 15, 3), (FLOAT, 4, 2), strict=True):
        before = {name: value.clone() for name, value in made.state_dict().items()}
        stage.begin()
        assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
        assert {layer.levels for layer in layers(plan)} == {levels}
        found = made.get_submodule("objective.network.second").weight.unique()
        values.append(len(found))
        assert len(found) <= (2**bits if bits != FLOAT else 1000)
    assert values[0] > values[1] > values[2]
    assert planned(progressive=(4,), progressive_epochs=(5,)).stages[0].epochs == 5
    own = planned(progressive=(32, 4), progressive_weight_decay=(1e-3, 0.0)).stages
    assert [stage.weight_decay for stage in own] == [1e-3, 0.0, None]
    assert {stage.weight_decay for stage in planned(progressive=(32, 4)).stages} == {None}


def test_every_stage_trains_all_that_it_uses() -> None:
    losses = carried_out(
        planned(levels=3, weight_bits=3, weights="apot", progressive=(32, 4)), batches=8
    )
    assert losses[7] < losses[0]
    assert losses[-1] < losses[16]


def test_thresholds_are_learned_unless_they_are_not() -> None:
    for learn in (True, False):
        plan = planned(learn=learn)
        before = [float(layer.threshold.detach()) for layer in layers(plan)]
        carried_out(plan)
        after = [float(layer.threshold.detach()) for layer in layers(plan)]
        assert [a != b for a, b in zip(after, before, strict=True)] == [learn] * 3


def test_a_threshold_never_falls_to_zero() -> None:
    plan = planned()
    (first, *_) = layers(plan)
    start = float(first.threshold.detach())
    with torch.no_grad():
        first.threshold.fill_(-1.0)
    plan.stages[0].objective(images(), torch.arange(16) % 4)
    assert 0 < float(first.threshold.detach()) < start / 10
    with torch.no_grad():
        first.threshold.fill_(-1.0)
    plan.stages[0].end()  # the last step may have gone too far, too
    assert 0 < float(first.threshold.detach()) < start / 10


@pytest.mark.parametrize("method", ["parallel", "fast-snn", "sigma-delta"])
def test_the_netlist_is_the_quantised_network(method: str) -> None:
    """Weights of few bits are integers already: only biases and thresholds are rounded."""
    plan = planned(levels=4, weight_bits=3, weights="apot", method=method)
    carried_out(plan)
    x = images(64)
    wanted = plan.predict(x).detach()
    network, options = plan.finished()
    assert not network.training
    assert torch.equal(plan.predict(x), wanted)  # the same when weights are left rounded
    made = lapilli.compile(network, calibration=x.numpy(), method=options, calibrate="none")
    assert lapilli.verify(made, x[:4].numpy(), backends=("reference",)).ok
    found = lapilli.run(made, x.numpy()).outputs
    assert np.abs(found - wanted.numpy()).mean() < 0.05 * float(wanted.abs().mean())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 0}, "levels"),
        ({"weights": "ternary"}, "weights"),
        ({"weights": "apot", "weight_bits": 8}, "weight_bits"),
        ({"first_last_bits": 12}, "first_last_bits"),
        ({"progressive": (33,)}, "progressive"),
        ({"progressive": (4, 3), "progressive_epochs": (1,)}, "progressive_epochs"),
        ({"progressive": (4,), "progressive_weight_decay": (0.1, 0.1)}, "weight_decay"),
        ({"progressive": (4,), "progressive_weight_decay": (-0.1,)}, "weight_decay"),
        ({"threshold": 0.0}, "threshold"),
        ({"method": "lm-ht"}, "method"),
        ({"settings": {"stpes": 3}}, "settings"),
        ({"settings": {"levels": 3}}, "levels"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Quantised(**options)
