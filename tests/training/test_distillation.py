"""Knowledge distillation: the properties of its losses, of teachers, students and adapters."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import grid_networks
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import lapilli
from lapilli.compiler.errors import InputError
from lapilli.compiler.training import distillation_losses as losses
from lapilli.compiler.training.checkpoint import run_digest
from lapilli.compiler.training.distillation import (
    Distillation,
    Distilled,
    plan_distilled,
    student_of,
)
from lapilli.compiler.training.feature_taps import tapped
from lapilli.compiler.training.kinds import KINDS
from lapilli.compiler.training.objectives import Supervised
from lapilli.compiler.training.plan import Plan, channels_last
from lapilli.compiler.training.recipe import Recipe, Training

RECIPE = Recipe("distilled", "", training=Training(epochs=2))
PAIRS = (("norm", "relu"), ("relu_1", "relu_1"))
KINDS_OF_RESPONSE = ("kl", "cross-entropy")


class Net(nn.Module):
    """(N, 1, 8, 8) -> (N, classes): functional activations, one of a residual sum."""

    def __init__(self, width: int = 4, stride: int = 1, classes: int = 5, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Conv2d(1, width, 3, stride, padding=1, bias=False)
        self.norm, self.dropout = nn.BatchNorm2d(width), nn.Dropout(0.5)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        first = functional.relu(self.norm(self.first(x)))
        second = functional.relu(first + self.second(self.dropout(first)))
        logits: Tensor = self.last(functional.adaptive_avg_pool2d(second, 1).flatten(1))
        return logits


class Plain(Net):
    """Without random draws."""

    def __init__(self, **options: int) -> None:
        super().__init__(**options)
        self.dropout = nn.Identity()  # type: ignore[assignment]


def batch(count: int = 12) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.rand(count, 1, 8, 8, generator=draws), torch.arange(count) % 5


def scores(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planned(teacher: nn.Module | None = None, **options: Any) -> Plan:
    own = Distilled("", **{"steps": 3, **options})
    network = Plain(width=4)
    return plan_distilled(
        network, replace(RECIPE, options=own), batch()[0], teacher or Net(width=6, seed=1)
    )


def objective_of(plan: Plan) -> Distillation:
    assert isinstance(plan.model, Distillation)
    return plan.model


def trained(objective: nn.Module, steps: int = 3) -> None:
    """As the loop does it: in training mode, every parameter that needs a gradient."""
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.05, momentum=0.9)
    objective.train()
    x, y = batch()
    for _ in range(steps):
        objective(x, y).backward()
        optimiser.step()
        optimiser.zero_grad()


def gradient(temperature: float, kind: losses.Response, found: Tensor, wanted: Tensor) -> Tensor:
    found = found.clone().requires_grad_(True)
    loss = losses.response_loss(found, wanted, temperature, kind)
    return torch.autograd.grad(loss, found)[0]


@pytest.mark.parametrize("kind", KINDS_OF_RESPONSE)
def test_hot_softmax_is_logit_matching(kind: losses.Response) -> None:
    found, wanted = scores(0, 6, 5), scores(1, 6, 5)
    apart = (found - found.mean(1, keepdim=True)) - (wanted - wanted.mean(1, keepdim=True))
    torch.testing.assert_close(
        gradient(1e3, kind, found, wanted), apart / 5 / 6, rtol=0.02, atol=1e-4
    )


def test_the_temperature_leaves_the_gradient_its_size() -> None:
    found, wanted = scores(0, 6, 5), scores(1, 6, 5)
    sizes = [float(gradient(t, "kl", found, wanted).norm()) for t in (8, 20, 100)]
    assert max(sizes) < 1.1 * min(sizes)


def test_divergence_and_cross_entropy_teach_the_same() -> None:
    found, wanted = scores(0, 6, 5, 2, 2), scores(1, 6, 5, 2, 2)
    both = [gradient(3.0, kind, found, wanted) for kind in ("kl", "cross-entropy")]  # type: ignore[arg-type]
    torch.testing.assert_close(both[0], both[1], rtol=1e-5, atol=1e-7)
    values = [
        float(losses.response_loss(found, wanted, 3.0, kind)) for kind in ("kl", "cross-entropy")
    ]  # type: ignore[arg-type]
    own = (functional.softmax(wanted / 3, 1) * functional.log_softmax(wanted / 3, 1)).sum(1).mean()
    assert values[1] - values[0] == pytest.approx(-9 * float(own), rel=1e-5)


def test_an_equal_student_has_nothing_to_learn() -> None:
    same = scores(0, 6, 5)
    assert float(losses.response_loss(same, same, 4.0)) == 0.0
    assert float(gradient(4.0, "kl", same, same).abs().max()) < 1e-7


def test_the_margin_is_the_mean_of_negative_responses() -> None:
    """Against the closed form for a normal distribution (Heo et al. 2019, equation 3)."""
    x = torch.randn(400, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    mean, deviation = torch.tensor([0.5, -1.0, 0.0]), torch.tensor([1.0, 2.0, 0.3])
    x = x * deviation.reshape(-1, 1, 1) + mean.reshape(-1, 1, 1)
    ratio = mean / deviation
    density = torch.exp(-(ratio**2) / 2) / math.sqrt(2 * math.pi)
    below = 0.5 * torch.erfc(ratio / math.sqrt(2))
    torch.testing.assert_close(
        losses.negative_means(x), mean - deviation * density / below, rtol=0.02, atol=0.0
    )
    assert losses.negative_means(torch.ones(2, 3)).tolist() == [0.0, 0.0, 0.0]
    found = losses.margin_relu(
        torch.tensor([[2.0, -3.0], [-0.5, -1.0]]), torch.tensor([-1.0, -2.0])
    )
    assert found.tolist() == [[2.0, -2.0], [-0.5, -1.0]]


def test_what_a_relu_hides_counts_nothing() -> None:
    teacher = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [0.0, 0.0, 2.0, -2.0]])
    student = torch.tensor([[-3.0, 0.5, 3.0, -1.0], [-1.0, 1.0, 2.0, -2.0]], requires_grad=True)
    loss = losses.partial_l2(student, teacher)
    assert float(loss.detach()) == (2.25 + 4 + 4 + 1) / 2
    loss.backward()
    assert student.grad is not None
    assert student.grad.tolist() == [[0.0, 1.5, 2.0, -2.0], [0.0, 1.0, 0.0, 0.0]]


@pytest.mark.parametrize("features", [(), PAIRS])
def test_the_teacher_does_not_change(features: tuple[tuple[str, str], ...]) -> None:
    network = Net(width=6, seed=1).train()
    before = copy.deepcopy(network.state_dict())
    plan = planned(network, features=features, feature_weight=0.1)
    teacher = objective_of(plan).teacher
    digest = run_digest(*teacher.network.state_dict().values())
    first = teacher(batch()[0])[0]
    trained(plan.stages[0].objective)
    assert run_digest(*teacher.network.state_dict().values()) == digest
    assert all(p.grad is None and not p.requires_grad for p in teacher.network.parameters())
    assert not any(module.training for module in teacher.network.modules())
    assert torch.equal(teacher(batch()[0])[0], first)
    owned = {id(p) for p in plan.model.parameters()}
    assert not owned & {id(p) for p in teacher.network.parameters()}
    assert network.training and all(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_without_alpha_it_is_plain_training_bit_for_bit() -> None:
    plan = planned(alpha=0.0)
    student = student_of(Plain(width=4), Distilled("", steps=3), batch()[0])
    trained(plan.stages[0].objective)
    trained(Supervised(student, "classes"))
    found = objective_of(plan).student.state_dict()
    assert found.keys() == student.state_dict().keys()
    assert all(torch.equal(found[key], value) for key, value in student.state_dict().items())
    other = planned(alpha=0.5)
    trained(other.stages[0].objective)
    changed = objective_of(other).student.state_dict()
    assert not torch.equal(changed["network.last.weight"], found["network.last.weight"])


def test_adapters_vanish() -> None:
    """Nothing of them, nor of the taps, is left in what is compiled; they did learn, though."""
    plan = planned(features=PAIRS, feature_weight=0.1)
    objective = objective_of(plan)
    before = copy.deepcopy(objective.adapters.state_dict())
    trained(plan.stages[0].objective)
    assert not torch.equal(before["0.0.weight"], objective.adapters.state_dict()["0.0.weight"])
    network, _ = plan.finished()
    thresholds = {"relu.threshold", "relu_1.threshold"}
    assert set(network.state_dict()) == set(Plain(width=4).state_dict()) | thresholds
    assert set(planned().finished()[0].state_dict()) == set(network.state_dict())
    student = objective.student.network
    for name in ("relu", "relu_1"):
        assert not student.get_submodule(name)._forward_hooks
    for name in ("norm", "relu", "relu_1"):
        assert not objective.teacher.network.get_submodule(name)._forward_hooks
        assert not objective.teacher.network.get_submodule(name)._forward_pre_hooks


def test_features_are_means_over_the_steps_and_the_teachers_before_its_relu() -> None:
    objective = objective_of(planned(features=PAIRS)).eval()
    x = batch()[0]
    _, features = objective._run(objective.student, x)
    with tapped(objective.student.network, ("relu", "relu_1")) as sent:
        objective.student(x)
    for feature, each in zip(features, sent.values(), strict=True):
        assert len(each) == 3 * len(x)
        assert torch.equal(feature, each.unflatten(0, (3, len(x))).mean(0))
        assert feature.max() > 0
    teacher = Net(width=6, seed=1).eval()
    channels_last(teacher)  # as Teacher has it; in another layout sums come in another order
    normal = teacher.norm(teacher.first(x))
    first = functional.relu(normal)
    wanted, (output, summed) = objective.teacher(x)
    assert torch.equal(wanted, teacher(x))
    assert torch.equal(output, normal)
    assert torch.equal(summed, first + teacher.second(first))
    assert float(summed.min()) < 0


def test_the_finer_feature_is_pooled() -> None:
    plan = planned(Net(width=6, stride=2, seed=1), features=PAIRS, alpha=0.0, feature_weight=1.0)
    objective = objective_of(plan).eval()
    x, _ = batch()
    _, own = objective._run(objective.student, x)
    targets = objective.teacher(x)[1]
    assert (own[0].shape[2:], targets[0].shape[2:]) == ((8, 8), (4, 4))
    by_hand = torch.zeros(())
    for weight, mine, wanted, margin, adapter in zip(
        (0.5, 1.0), own, targets, objective.teacher.margins, objective.adapters, strict=True
    ):
        target = losses.margin_relu(wanted, margin)
        by_hand = by_hand + weight * losses.partial_l2(
            adapter(functional.avg_pool2d(mine, 2)), target
        )
    torch.testing.assert_close(objective.apart(own, targets), by_hand)


def test_features_of_dense_layers() -> None:
    class Dense(nn.Sequential):
        def __init__(self, hidden: int) -> None:
            torch.manual_seed(0)
            parts = (nn.Linear(64, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 5))
            super().__init__(nn.Flatten(), *parts)

    own = Distilled("", features=(("2", "2"),), feature_weight=0.1)
    plan = plan_distilled(Dense(6), replace(RECIPE, options=own), batch()[0], Dense(9))
    assert objective_of(plan).adapters[0][0].weight.shape == (9, 6, 1, 1)  # type: ignore[index, union-attr]
    assert float(objective_of(plan).teacher(batch()[0])[1][0].min()) < 0  # not what in-place left
    trained(plan.stages[0].objective)


def test_staircases_first_then_spikes() -> None:
    plan = planned(warm_epochs=3, warm_rate=0.5, learn_thresholds=True)
    assert [(s.name, s.epochs, s.rate) for s in plan.stages] == [
        ("staircases", 3, 0.5),
        ("spikes", 2, 1.0),
    ]
    objective, (x, y) = objective_of(plan), batch()
    objective.eval()
    spikes = objective.student(x)
    plan.stages[0].begin()
    assert torch.equal(objective._run(objective.student, x)[0], objective.student.network(x))
    assert torch.equal(plan.finished()[0](x), objective.student.network(x))
    trained(plan.stages[0].objective)
    assert not torch.equal(objective.student.network.relu.threshold, torch.tensor(1.0))
    plan.stages[1].begin()
    assert objective.eval().student(x).shape == spikes.shape
    with torch.no_grad():
        objective.student.network.relu.threshold.fill_(-1.0)
    plan.stages[1].objective(x, y)
    assert float(objective.student.network.relu.threshold.detach()) > 0


def test_measured_thresholds() -> None:
    student = objective_of(planned(threshold=0.0)).student
    found = [float(layer.threshold) for layer in student.layers().values()]
    assert len(set(found)) == 2 and min(found) > 0
    assert 1.0 not in found


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_the_netlist_sends_the_students_spikes(reset: str) -> None:
    """Of weights on a grid, which eight bits do not change: in every step of every layer."""
    network = grid_networks.on_grid(grid_networks.Residual(lambda name: nn.ReLU(), 127 / 128), 0)
    x = grid_networks.images(6)
    own = Distilled("", steps=5, threshold=2.0, reset=reset)  # type: ignore[arg-type]
    plan = plan_distilled(
        network, replace(RECIPE, options=own), torch.from_numpy(x), copy.deepcopy(network)
    )
    sent = grid_networks.assert_same_spikes(objective_of(plan).student, x)
    assert all(spikes.any() for spikes in sent.values())
    finished, method = plan.finished()
    assert method == lapilli.methods.Rate(steps=5, reset=reset)  # type: ignore[arg-type]
    artifact = lapilli.compile(finished, calibration=x, method=method)
    assert lapilli.verify(artifact, x[:2], backends=("reference",)).ok


def test_checkpoints_know_their_teacher() -> None:
    first, second = (planned(Net(width=6, seed=seed)).model.state_dict() for seed in (1, 2))
    assert not torch.equal(first["teacher_digest"], second["teacher_digest"])
    assert not any(key.startswith("teacher.") for key in first)
    own = Distilled("some.module:teacher", "file")
    assert KINDS["distilled"].companions(own) == (("some.module:teacher", "file"),)
    assert KINDS["float"].companions(KINDS["float"].options()) == ()


def test_a_checkpoint_holds_all_that_training_changes() -> None:
    options: dict[str, Any] = {
        "features": PAIRS,
        "feature_weight": 0.1,
        "learn_thresholds": True,
        "warm_epochs": 1,
    }
    first, second = planned(**options), planned(**options)
    first.stages[0].begin()
    trained(first.stages[0].objective)
    second.stages[1].begin()  # as a run that is resumed in that stage does
    second.model.load_state_dict(first.model.state_dict())
    first.stages[1].begin()
    values = []
    for plan in (first, second):
        trained(plan.stages[1].objective, 2)
        values.append(plan.stages[1].objective(*batch()).detach())
    assert torch.equal(values[0], values[1])


class Cut(Plain):
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(functional.relu6(9 * self.first(x)).mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("teacher", "options", "where", "says"),
    [
        (Net(classes=7), {}, "option distilled.teacher", "(2, 7)"),
        (Net(), {"features": (("relu_2", "relu"),)}, "option distilled.features", "relu_1?"),
        (Net(), {"features": (("relu", "rleu"),)}, "option distilled.features", "relu?"),
        (Cut(), {"features": (("relu6", "relu"),)}, "option distilled.features", "nn.ReLU6()"),
        (Net(), {"alpha": 1.5}, "option distilled.alpha", "1.5"),
        (Net(), {"surrogate": "box"}, "option distilled.surrogate", "arctan"),
        (Net(), {"temperature": 0}, "option distilled.temperature", "0"),
        (Net(), {"reset": "half"}, "option distilled.reset", "subtract"),
        (Net(), {"warm_epochs": -1}, "option distilled.warm_epochs", "-1"),
    ],
)
def test_refused(teacher: nn.Module, options: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        planned(teacher, **options)
    assert refused.value.where == where
    assert says in str(refused.value)


def test_features_alone_need_no_common_classes() -> None:
    plan = planned(Net(classes=7), alpha=0.0, features=PAIRS)
    trained(plan.stages[0].objective, 1)
    assert len(objective_of(plan).adapters) == 2
