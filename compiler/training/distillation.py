"""Knowledge distillation: a spiking student learns from a teacher that does not change.

Source: Xu et al., CVPR 2023 (KDSNN). The student is the recipe's network with integrate-and-fire
layers in the place of its activations; its artifact computes in integers what was trained. Average
pooling or strides, no max pooling, belong in a student (`pools_of_spikes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, final

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor, nn

from lapilli.compiler.passes.options import check_choice, check_count, check_flag, check_range
from lapilli.compiler.training import distillation_losses as losses
from lapilli.compiler.training.feature_taps import check_names, tapped
from lapilli.compiler.training.objectives import OBJECTIVES
from lapilli.compiler.training.plan import Plan, Stage, evaluated
from lapilli.compiler.training.pools_of_spikes import check_pools
from lapilli.compiler.training.quantised import PositiveThresholds, calibrated_tops
from lapilli.compiler.training.recipe import MOST, Recipe
from lapilli.compiler.training.spiking_layers import IF
from lapilli.compiler.training.spiking_network import SpikingNetwork
from lapilli.compiler.training.substitution import substituted
from lapilli.compiler.training.surrogates import SURROGATES
from lapilli.compiler.training.teacher import Teacher, check_outputs


@final
@dataclass(frozen=True)
class Distilled:
    """Options of the kind distilled.

    teacher: package.module:callable, and teacher_weights its checkpoint, "" where the callable
    loads its own; steps: T; surrogate, initial, reset, detach_reset: of `spiking_layers.IF`;
    threshold: at the start, 0 for those with which T spikes round the activity on the calibration
    images best; learn_thresholds: train them. alpha: share of the response-based loss, at
    `temperature`, of the whole; the rest is the recipe's own loss. features: (place in the
    teacher, place in the student), from first to last; of an activation, that is what the
    teacher's gets and the student's sends. feature_weight: factor of the feature-based loss, whose
    terms are sums over features. warm_epochs: before those with spikes, epochs in which every layer
    is the staircase that its spikes approximate, at the cost of one step; warm_rate: their learning
    rate, in multiples of the recipe's.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid", "strict": True}

    teacher: str
    teacher_weights: str = ""
    steps: int = 4
    surrogate: str = "arctan"
    initial: Literal["half", "zero"] = "half"
    reset: Literal["subtract", "zero"] = "subtract"
    detach_reset: bool = True
    threshold: float = 1.0
    learn_thresholds: bool = False
    temperature: float = 4.0
    alpha: float = 0.9
    response: losses.Response = "kl"
    features: tuple[tuple[str, str], ...] = ()
    feature_weight: float = 1e-3
    warm_epochs: int = 0
    warm_rate: float = 1.0

    def __post_init__(self) -> None:
        check_count("distilled.steps", self.steps, 1, 1024)
        check_choice("distilled.surrogate", self.surrogate, tuple(SURROGATES))
        check_choice("distilled.initial", self.initial, ("half", "zero"))
        check_choice("distilled.reset", self.reset, ("subtract", "zero"))
        check_flag("distilled.detach_reset", self.detach_reset)
        check_range("distilled.threshold", self.threshold, 0, 1e6)
        check_flag("distilled.learn_thresholds", self.learn_thresholds)
        check_range("distilled.temperature", self.temperature, 1e-3, 1e6)
        check_range("distilled.alpha", self.alpha, 0, 1)
        check_choice("distilled.response", self.response, ("kl", "cross-entropy"))
        check_range("distilled.feature_weight", self.feature_weight, 0, 1e6)
        check_count("distilled.warm_epochs", self.warm_epochs, 0, MOST)
        check_range("distilled.warm_rate", self.warm_rate, 0, 1e3)

    def layer(self, threshold: float | Tensor) -> IF:
        """A layer of the student."""
        return IF(
            self.steps,
            threshold,
            initial=self.initial,
            reset=self.reset,
            surrogate=self.surrogate,
            learn_threshold=self.learn_thresholds,
            detach_reset=self.detach_reset,
        )


@final
class Distillation(nn.Module):
    """The student's loss, from its labels and from the teacher.

    Students' features are means over the steps, brought to the teacher's channels by adapters that
    are trained here and belong to no student. Of two features, the finer one is average-pooled to
    the size of the coarser one.
    """

    teacher_digest: Tensor

    def __init__(
        self,
        student: SpikingNetwork,
        teacher: Teacher,
        options: Distilled,
        loss: str = "classes",
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.student, self.options = student, options
        self.loss, self.smoothing = OBJECTIVES[loss].loss, smoothing
        self.teacher, self.spiking = teacher, True
        self.adapters = nn.ModuleList()
        self.register_buffer("teacher_digest", teacher.digest())

    @property
    def places(self) -> tuple[str, ...]:
        """Of the features in the student."""
        return tuple(theirs for _, theirs in self.options.features)

    def adapt(self, images: Tensor) -> None:
        """Make the adapters, for the channels that the images show. Raises InputError."""
        check_names(self.student.network, self.places, "student")
        features = self.teacher(images)[1]
        with torch.no_grad():
            self.student.eval()  # statistics of a BatchNorm stay as they are
            _, own = self._run(self.student, images)
        for mine, wanted in zip(own, features, strict=True):
            self.adapters.append(
                nn.Sequential(
                    nn.Conv2d(mine.shape[1], wanted.shape[1], 1, bias=False),
                    nn.BatchNorm2d(wanted.shape[1]),
                )
            )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (N, ...); y: labels -> ()."""
        options = self.options
        outputs, features = self._run(self.student, x)
        total = self.loss(outputs, y, self.smoothing)
        if options.alpha == 0 and not self.adapters:
            return total
        wanted, targets = self.teacher(x)
        if options.alpha > 0:
            softened = losses.response_loss(outputs, wanted, options.temperature, options.response)
            total = options.alpha * softened + (1 - options.alpha) * total
        if self.adapters:
            total = total + options.feature_weight * self.apart(features, targets)
        return total

    def apart(self, features: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
        """The feature-based loss: (N, C, ...) each, of the student and the teacher -> ()."""
        terms = []
        weights = losses.stage_weights(len(targets))
        for weight, adapter, own, target, margin in zip(
            weights, self.adapters, features, targets, self.teacher.margins, strict=True
        ):
            wanted = losses.margin_relu(target.float(), margin.to(target.device))
            mine, wanted = _of_one_size(_as_map(own), _as_map(wanted))
            terms.append(weight * losses.partial_l2(adapter(mine).float(), wanted))
        return torch.stack(terms).sum()

    def set_spiking(self, spiking: bool) -> None:
        """With spikes in T steps, or with the staircases that these approximate, in one pass."""
        self.spiking = spiking
        for layer in self.student.layers().values():
            layer.analog = not spiking

    def _run(self, student: SpikingNetwork, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        with tapped(student.network, self.places) as seen:
            outputs = student(x) if self.spiking else student.network(x)
        features = tuple(seen[name] for name in self.places)
        if self.spiking:
            features = tuple(f.reshape(student.steps, -1, *f.shape[1:]).mean(0) for f in features)
        return outputs, features


def student_of(network: nn.Module, options: Distilled, images: Tensor) -> SpikingNetwork:
    """The network with spiking layers, as training starts from it; images: (N, ...)."""
    tops = calibrated_tops(network, options.steps, images) if options.threshold == 0 else {}
    made = substituted(
        network,
        lambda place, *_: options.layer(tops.get(place, options.threshold)),
        images.cpu().numpy(),
    )
    return SpikingNetwork(made, options.steps)


def plan_distilled(network: nn.Module, recipe: Recipe, images: Tensor, teacher: nn.Module) -> Plan:
    """Spikes, after staircases if there are any. teacher: what the options name, with weights."""
    options: Distilled = recipe.options
    student = student_of(network, options, images)
    check_pools(student, images)
    if options.alpha > 0:
        check_outputs("distilled.teacher", student, teacher, images[:2], recipe.loss)
    frozen = Teacher(teacher, tuple(mine for mine, _ in options.features), images)
    objective = Distillation(student, frozen, options, recipe.loss, recipe.training.smoothing)
    if options.features and options.feature_weight > 0:
        objective.adapt(images[:2])
    guarded = PositiveThresholds(objective, list(student.layers().values()))
    spikes = Stage(
        *("spikes", guarded, recipe.training.epochs),
        begin=partial(objective.set_spiking, True),
        end=guarded.lift,
    )
    warm = Stage(
        "staircases",
        guarded,
        options.warm_epochs,
        options.warm_rate,
        begin=partial(objective.set_spiking, False),
    )
    return Plan(
        objective,
        (warm, spikes) if options.warm_epochs else (spikes,),
        predict=evaluated(student),
        finished=lambda: (student.analog(), student.method()),
    )


def _as_map(x: Tensor) -> Tensor:
    """(N, C), (N, C, L) or (N, C, H, W) -> (N, C, H, W)."""
    return x.reshape(*x.shape, *(1,) * (4 - x.ndim))


def _of_one_size(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    size = min(a.shape[2], b.shape[2]), min(a.shape[3], b.shape[3])
    first, second = (
        x if tuple(x.shape[2:]) == size else F.adaptive_avg_pool2d(x, size) for x in (a, b)
    )
    return first, second
