"""The recipe's teacher: what its kinds learn from it, and that it changes nothing else."""

from __future__ import annotations

import copy
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from lapilli import training_run
from lapilli.compiler.errors import InputError
from lapilli.compiler.training.distillation_losses import response_loss
from lapilli.compiler.training.kinds import KINDS
from lapilli.compiler.training.plan import Plan
from lapilli.compiler.training.recipe import Lessons, Recipe, Training
from lapilli.compiler.training.recipe_file import recipe_of
from lapilli.zoo import networks

TAUGHT = sorted(name for name, kind in KINDS.items() if kind.taught)


def network(classes: int = 5, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, 2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64, classes)),
    )


def batch() -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(1)
    return torch.rand(12, 1, 8, 8, generator=draws), torch.arange(12) % 5


def planned(
    kind: str, teacher: nn.Module | None, *more: nn.Module, alpha: float = 0.5, **options: Any
) -> Plan:
    lessons = None if teacher is None else Lessons("a:b", alpha=alpha, temperature=2.0)
    recipe = Recipe(
        kind,
        "",
        training=Training(epochs=1, **options),
        teacher=lessons,
        options=KINDS[kind].options(),
    )
    companions = [] if teacher is None else [teacher, *more]
    return KINDS[kind].plan(network(), recipe, batch()[0], *companions)


def trained(plan: Plan, steps: int = 3) -> dict[str, Tensor]:
    objective = plan.stages[-1].objective
    plan.stages[-1].begin()
    parameters = [p for p in objective.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(parameters, lr=0.05)
    objective.train()
    for _ in range(steps):
        objective(*batch()).backward()
        optimiser.step()
        optimiser.zero_grad()
    return {name: p.detach().clone() for name, p in objective.named_parameters()}


def test_which_kinds_are_taught() -> None:
    assert TAUGHT == ["float", "lm-ht", "quantised"]


@pytest.mark.parametrize("kind", TAUGHT)
def test_the_loss_is_alpha_of_the_teachers_answers(kind: str) -> None:
    teacher = network(seed=1).eval()
    plan = planned(kind, teacher, alpha=0.3)
    x, y = batch()
    with torch.no_grad():
        outputs, wanted = plan.predict(x), teacher(x)
        plan.model.eval()  # as predict: statistics of the batch would make other outputs
        found = plan.stages[-1].objective.eval()(x, y)
    expected = 0.3 * response_loss(outputs, wanted, 2.0) + 0.7 * functional.cross_entropy(
        outputs, y
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", TAUGHT)
def test_of_several_teachers_the_mean_score_counts(kind: str) -> None:
    teachers = [network(seed=seed).eval() for seed in (1, 2, 3)]
    plan = planned(kind, *teachers, alpha=1.0)
    x, y = batch()
    with torch.no_grad():
        plan.model.eval()
        found = plan.stages[-1].objective.eval()(x, y)
        wanted = sum(teacher(x) for teacher in teachers) / 3
        torch.testing.assert_close(found, response_loss(plan.predict(x), wanted, 2.0))
    one, other = (planned(kind, *teachers[:count]).model.state_dict() for count in (1, 2))
    assert any(not torch.equal(one[key], other[key]) for key in one if "digest" in key)


def test_every_teacher_is_checked() -> None:
    with pytest.raises(InputError, match="same classes"):
        planned("quantised", network(seed=1), network(classes=7))


@pytest.mark.parametrize("kind", TAUGHT)
def test_the_teacher_changes_training_and_not_itself(kind: str) -> None:
    teacher = network(seed=1)
    before = copy.deepcopy(teacher.state_dict())
    taught, alone = trained(planned(kind, teacher)), trained(planned(kind, None))
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())
    assert teacher.training
    names = [name.replace("supervised.", "") for name in taught]
    assert names == list(alone), "a teacher has nothing to train"
    assert any(not torch.equal(a, b) for a, b in zip(taught.values(), alone.values(), strict=True))


@pytest.mark.parametrize("kind", TAUGHT)
def test_without_alpha_it_is_plain_training_bit_for_bit(kind: str) -> None:
    taught, alone = trained(planned(kind, network(seed=1), alpha=0.0)), trained(planned(kind, None))
    assert list(taught) == list(alone)
    assert all(torch.equal(taught[name], alone[name]) for name in alone)


def test_checkpoints_know_their_teacher() -> None:
    states = [planned("quantised", network(seed=seed)).model.state_dict() for seed in (1, 2)]
    digests = [state[next(key for key in state if "digest" in key)] for state in states]
    assert not torch.equal(*digests)
    assert all("teacher.network" not in key for key in states[0])


def test_other_classes_are_refused() -> None:
    with pytest.raises(InputError, match="same classes") as refused:
        planned("quantised", network(classes=7))
    assert refused.value.where == "option teacher.network"


@pytest.mark.parametrize(
    ("teacher", "why"),
    [
        (nn.Sequential(nn.Conv2d(3, 5, 8), nn.Flatten()), "to have 3 channels"),
        (network().double(), "float64|Double|double"),
    ],
)
def test_a_teacher_of_other_images_is_refused(teacher: nn.Module, why: str) -> None:
    with pytest.raises(InputError, match="takes the images") as refused:
        planned("float", teacher)
    assert refused.value.where == "option teacher.network"
    assert re.search(why, str(refused.value.found))


def test_a_teacher_whose_training_diverged_is_refused() -> None:
    """Found before training: its answers would make NaN of everything that learns from them."""
    teacher = network(seed=1)
    nn.init.constant_(teacher[4].weight, float("nan"))
    with pytest.raises(InputError, match="answers are finite"):
        planned("lm-ht", teacher)


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - set(TAUGHT)))
def test_kinds_that_take_none_say_so(kind: str) -> None:
    table = {"kind": kind, "network": "a:b", "teacher": {"network": "a:c"}}
    own = {"distilled": {"teacher": "a:c"}}.get(kind, {})
    with pytest.raises(InputError, match="learn from labels alone") as refused:
        recipe_of({**table, kind: own}, "here")
    assert (
        refused.value.where == "here: teacher"
        and refused.value.allowed == "float, quantised, lm-ht"
    )


@pytest.mark.parametrize(
    ("table", "where", "says"),
    [
        ({"weights": "x"}, "teacher.network", "required"),
        ({"network": "a:b", "alhpa": 1}, "teacher.alhpa", "Did you mean alpha"),
        ({"network": "a:b", "alpha": 1.5}, "teacher.alpha", "1.5"),
        ({"network": "a:b", "temperature": 0}, "teacher.temperature", "0"),
        ({"network": "a:b", "weights": []}, "teacher.weights", "an empty list"),
        ({"network": "a:b", "weights": [1]}, "teacher.weights", "valid string"),
    ],
)
def test_faults_are_named(table: dict[str, object], where: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        recipe_of({"kind": "float", "network": "a:b", "teacher": table}, "here")
    assert refused.value.where.endswith(where)
    assert says.lower() in str(refused.value).lower()


def test_a_recipe_with_a_teacher_end_to_end(tmp_path: Path) -> None:
    """The teacher is read from its file, and a file that is not there is named before training."""
    pytest.importorskip(
        "lightning_fabric", reason="lightning-fabric, of the extra train, is missing"
    )
    weights = tmp_path / "teacher.safetensors"
    recipe = training_run.find_recipe(
        "digits",
        {
            "training.epochs": "2",
            "artifact.verify": "1",
            "artifact.test": "20",
            "teacher.network": "lapilli.zoo.networks:digits_cnn",
            "teacher.weights": str(weights),
        },
    )
    with pytest.raises(InputError, match=r"teacher\.safetensors"):
        training_run.train(recipe, limit=256)
    save_file(networks.digits_cnn().state_dict(), weights)
    found = training_run.train(recipe, limit=256)
    assert found is not None and found.verification.ok
    alone = training_run.train(replace(recipe, teacher=None), limit=256)
    assert alone is not None and alone.epochs[0].loss != found.epochs[0].loss
    files = (str(weights), str(weights))
    same = replace(recipe.teacher, weights=files) if recipe.teacher is not None else None
    twice = training_run.train(replace(recipe, teacher=same), limit=256)
    assert twice is not None and twice.epochs[1].loss == found.epochs[1].loss
