"""Fast-SNN: signed spikes tuned layer by layer towards the quantised network."""

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
from two_processes import judge

import lapilli
from lapilli.compiler.errors import InputError
from lapilli.compiler.passes.convert_fast_snn import FastSNN
from lapilli.compiler.training.fast_snn import FastSnn, TunedNetwork, plan_fast_snn
from lapilli.compiler.training.plan import Plan, Stage, evaluated
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.quantised import Quantised, plan_quantised
from lapilli.compiler.training.recipe import Recipe, Training
from lapilli.compiler.training.spiking_layers import SignedIF

RECIPE = Recipe("fast-snn", "", training=Training(epochs=1, rate=0.1))
LEVELS = 3


class Branches(nn.Module):
    """(N, 1, 8, 8) -> (N, 4), with a residual, a concatenation and a layer without spikes in."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second, self.third = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.beside, self.relu = nn.Conv2d(1, 4, 1), nn.ReLU()
        self.deep, self.last = nn.Conv2d(8, 4, 3, padding=1), nn.Linear(4 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        first = self.relu(self.norm(self.first(x)))
        second = functional.relu(self.second(first))
        third = self.relu(first + self.third(second))
        both = torch.cat([third, functional.relu(self.beside(x))], dim=1)
        deep = functional.relu(self.deep(both))
        logits: Tensor = self.last(functional.avg_pool2d(deep, 2).flatten(1))
        return logits


def images(count: int = 32) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


LABELS = torch.arange(32) % 4


def planned(quantised: dict[str, Any] | None = None, **options: Any) -> Plan:
    how = Quantised(levels=LEVELS, **(quantised or {}))
    recipe = replace(RECIPE, options=FastSnn(quantised=how, **options))
    return plan_fast_snn(Branches(), recipe, images())


def tuned_network(plan: Plan) -> TunedNetwork:
    assert isinstance(plan.model, TunedNetwork)
    return plan.model


def carry_out(stage: Stage, batches: int = 3, rate: float = 0.1) -> list[float]:
    stage.begin()
    trained = [p for p in stage.objective.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(trained, lr=rate * stage.rate, momentum=0.9)
    stage.objective.train()
    losses = []
    for _ in range(batches):
        loss = stage.objective(images(), LABELS)
        optimiser.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in trained)  # several processes rely on it
        optimiser.step()
        losses.append(float(loss.detach()))
    stage.end()
    return losses


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_layers_are_tuned_in_order_with_what_leads_to_them() -> None:
    """Not the first, nor any other that only the image reaches: constant currents are exact."""
    found = tuned_network(planned()).parameters_of
    assert list(found.values()) == [
        {"second.weight", "second.bias"},
        {"third.weight", "third.bias"},
        {"deep.weight", "deep.bias"},
    ]
    names = [stage.name.split()[0] for stage in planned().stages]
    assert names == ["3", *["tune", "judge"] * 3]
    forced = planned(keep_if_better=False)
    assert [stage.name.split()[0] for stage in forced.stages] == ["3", *["tune"] * 3]
    assert len(planned(epochs=0).stages) == 1


def test_what_was_trained_is_taken_over() -> None:
    plan = planned({"weight_bits": 4})
    made = tuned_network(plan)
    carry_out(plan.stages[0])
    for spiking in (made.spiking, made.kept):
        assert spiking is not None
        assert all(
            torch.equal(value, made.ann.state_dict()[name])
            for name, value in spiking.network.state_dict().items()
        )


def test_several_processes_judge_by_the_images_of_all(tmp_path: Path) -> None:
    """Buffers are the first process's before every step: what others counted must not be lost."""
    spawn: Any = torch.multiprocessing.spawn
    spawn(judge, (str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    for rank in range(2):
        sums, kind = torch.load(tmp_path / str(rank), weights_only=True)
        assert sums.tolist() == [6, 12] and kind == 1


def test_a_stage_changes_its_layer_alone_and_never_a_threshold() -> None:
    """I3.6: fine-tuning never changes theta; layers before, bit for bit what they were."""
    plan = planned(keep_if_better=False, rate=0.5)
    made = tuned_network(plan)
    carry_out(plan.stages[0])
    ann = state(made.ann)
    for stage, names in zip(plan.stages[1:], made.parameters_of.values(), strict=True):
        before = state(made.spiking.network)
        carry_out(stage)
        after = state(made.spiking.network)
        changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert changed == names
    assert all(torch.equal(value, ann[name]) for name, value in state(made.ann).items())
    thresholds = {n: v for n, v in after.items() if n.endswith("threshold")}
    assert len(thresholds) == 5
    assert all(torch.equal(value, ann[name]) for name, value in thresholds.items())


def test_the_loss_has_the_value_of_spikes_and_the_gradient_of_the_quantised_layer() -> None:
    plan = planned(keep_if_better=False)
    made = tuned_network(plan)
    carry_out(plan.stages[0])
    stage = plan.stages[1]
    stage.begin()
    with torch.no_grad():  # not the weights of the quantised network any more
        made.spiking.network.second.weight.add_(0.05)
    stage.objective.train()  # as the loop does; it stays in evaluation mode
    loss = stage.objective(images(), LABELS)
    loss.backward()
    found = made.spiking.network.second.weight.grad

    ann, spiking, place = made.ann, made.spiking, stage.name.split()[1]
    seen: dict[str, Tensor] = {}
    hooks = [
        ann.get_submodule(place).register_forward_hook(lambda *a: seen.update(wanted=a[2])),
        spiking.network.get_submodule(place).register_forward_hook(
            lambda *a: seen.update(spikes=a[2], drive=a[1][0])
        ),
        spiking.network.second.register_forward_hook(lambda *a: seen.update(before=a[1][0])),
    ]
    with torch.no_grad():
        ann.eval()(images())
        spiking.eval()(images())
    for hook in hooks:
        hook.remove()
    sent = seen["spikes"].unflatten(0, (LEVELS, -1)).mean(0)
    assert float(loss.detach()) == pytest.approx(float((sent - seen["wanted"]).square().mean()))
    mean = seen["before"].unflatten(0, (LEVELS, -1)).mean(0)  # what the layer before sent
    conv = spiking.network.second
    weight = conv.weight.detach().clone().requires_grad_()
    layer = QCFS(LEVELS, float(ann.get_submodule(place).threshold.detach()))
    y = layer(functional.conv2d(mean, weight, conv.bias, padding=1))
    y.backward(2 * (sent - seen["wanted"]) / sent.numel())
    assert torch.allclose(found, weight.grad, atol=1e-8)
    assert (sent != y).any()  # else spikes and levels could not be told apart


def test_tuning_brings_layers_nearer() -> None:
    plan = planned(keep_if_better=False, rate=1.0)
    made = tuned_network(plan)
    carry_out(plan.stages[0])
    for stage, name in zip(plan.stages[1:], ("second", "third", "deep"), strict=True):
        with torch.no_grad():
            made.spiking.network.get_submodule(name).weight.add_(0.05)
        losses = carry_out(stage, batches=25)
        assert min(losses[-5:]) < losses[0]


@pytest.mark.parametrize("better", [True, False])
def test_weights_are_kept_only_if_they_are_better(better: bool) -> None:
    plan = planned()
    made = tuned_network(plan)
    carry_out(plan.stages[0], batches=1)
    assert made.kept is not None
    good, spoilt = (made.spiking, made.kept) if better else (made.kept, made.spiking)
    wanted = evaluated(good)(images()).argmax(1)
    with torch.no_grad():
        spoilt.network.last.bias[wanted[0]] -= 100.0
    before, other = state(good), state(spoilt)
    stage = plan.stages[2]
    stage.begin()
    stage.objective.train()  # as the loop does; it stays in evaluation mode
    stage.objective(images(), wanted)
    assert made.scores.sums.tolist()[0 if better else 1] == len(wanted)
    stage.end()
    for network in (made.spiking, made.kept):
        assert all(torch.equal(value, before[name]) for name, value in state(network).items())
    assert any(not torch.equal(value, other[name]) for name, value in before.items())
    stage.begin()
    assert made.scores.sums.tolist() == [0, 0]


def test_judging_trains_nothing() -> None:
    plan = planned()
    carry_out(plan.stages[0])
    before = state(tuned_network(plan).spiking)
    carry_out(plan.stages[2])
    after = state(tuned_network(plan).spiking)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_predictions_are_the_quantised_networks_then_the_spiking_ones() -> None:
    plan = planned()
    made = tuned_network(plan)
    plan.stages[0].begin()
    with torch.no_grad():
        assert torch.equal(plan.predict(images()), made.ann.eval()(images()))
        plan.stages[0].end()
        plan.stages[1].begin()
        assert torch.equal(plan.predict(images()), made.spiking.eval()(images()))


def test_the_netlist_sends_the_spikes_that_were_trained() -> None:
    plan = planned({"weight_bits": 4, "weights": "apot"}, keep_if_better=False, rate=0.01)
    for stage in plan.stages:
        carry_out(stage)
    x = images()
    wanted = plan.predict(x).detach()
    network, method = plan.finished()
    assert method == FastSNN(levels=LEVELS, settle=False)
    assert torch.equal(plan.predict(x), wanted)
    assert not any(isinstance(m, SignedIF) and not m.analog for m in network.modules())
    made = lapilli.compile(network, calibration=x.numpy(), method=method, calibrate="none")
    assert lapilli.verify(made, x[:3].numpy(), backends=("reference",)).ok
    found = lapilli.run(made, x.numpy()).outputs
    # Only inputs, biases and thresholds are rounded: few images get another spike.
    alike = np.abs(found - wanted.numpy()).max(axis=1) < 1e-4 * float(wanted.abs().max())
    assert alike.mean() > 0.5


def test_a_quantised_network_of_another_run_is_tuned(tmp_path: Path) -> None:
    recipe = replace(RECIPE, options=Quantised(levels=LEVELS))
    before = plan_quantised(Branches(), recipe, images())
    carry_out(before.stages[0])
    network, _ = before.finished()
    file = tmp_path / "quantised.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)
    plan = planned(trained=str(file))
    assert plan.stages[0].name.startswith("tune")
    made = tuned_network(plan)
    with torch.no_grad():
        assert torch.equal(made.ann.eval()(images()), network(images()))
        assert torch.equal(made.spiking.analog()(images()), network(images()))
    with pytest.raises(InputError, match="fits the recipe's network"):
        planned(trained=str(tmp_path / "missing.safetensors"))


@pytest.mark.parametrize(
    "options", [{"epochs": -1}, {"rate": -1.0}, {"keep_if_better": 1}, {"trained": 3}]
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"fast-snn.{name}"):
        FastSnn(**options)


@pytest.mark.parametrize("how", [{"method": "sigma-delta"}, {"settings": {"clip": "percentile"}}])
def test_a_method_that_would_be_ignored_is_refused(how: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="compiled as it was tuned"):
        FastSnn(quantised=Quantised(levels=3, **how))
