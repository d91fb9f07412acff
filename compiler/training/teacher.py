"""A teacher that does not change, and a network that learns from its answers besides the labels.

Source: Hinton et al. 2015 (response-based distillation). The kind `distilled` builds on the same
teacher, for students with spikes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.training import distillation_losses as losses
from lapilli.compiler.training.checkpoint import run_digest
from lapilli.compiler.training.feature_taps import check_names, tapped
from lapilli.compiler.training.objectives import Supervised
from lapilli.compiler.training.plan import channels_last, evaluated
from lapilli.compiler.training.recipe import Recipe
from lapilli.compiler.training.substitution import substituted


@final
class Teacher:
    """A frozen copy of a network, in evaluation mode, without gradients.

    It is no nn.Module, so that whoever holds it can neither train it, nor change its mode, nor keep
    it in a checkpoint. features: its places; images: what the features' margins are measured on.
    Raises InputError for names of no place, CaptureError where activations cannot be found.
    """

    def __init__(self, network: nn.Module, features: tuple[str, ...], images: Tensor) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.features, self.margins = features, tuple[Tensor, ...]()
        self.activations: list[str] = []
        if features:
            self.network = _with_places(self.network, images, self.activations)
            check_names(self.network, features, "teacher")
            self.margins = tuple(losses.negative_means(f) for f in self(images)[1])
        channels_last(self.network)

    def __call__(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs for x (N, ...), and features (N, C, ...), on the device of x."""
        network = self.network.to(x.device)
        with torch.no_grad(), tapped(network, self.features, self.activations) as seen:
            outputs = network(x)
        return outputs, tuple(seen[name] for name in self.features)

    def digest(self) -> Tensor:
        """Of its weights, (32,), so that a checkpoint is not resumed with another teacher."""
        found = run_digest(*self.network.state_dict().values())
        return torch.tensor(list(found), dtype=torch.uint8)


@final
class Taught(nn.Module):
    """alpha of the loss is how far the outputs are from the teacher's, the rest is `supervised`."""

    teacher_digest: Tensor

    def __init__(
        self, supervised: Supervised, teacher: Teacher, alpha: float, temperature: float
    ) -> None:
        super().__init__()
        self.supervised, self.teacher = supervised, teacher
        self.alpha, self.temperature = alpha, temperature
        self.register_buffer("teacher_digest", teacher.digest())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (N, ...); y: labels -> ()."""
        outputs = self.supervised.network(x)
        apart = losses.response_loss(outputs, self.teacher(x)[0], self.temperature)
        return self.alpha * apart + (1 - self.alpha) * self.supervised.of(outputs, y)


@final
class Ensemble(nn.Module):
    """Several networks: x (N, ...) -> the mean of their scores, (N, K, ...).

    Its softmax is the geometric mean of theirs, normalised: one of the two means of Hinton et al.
    2015, section 1.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([network(x) for network in self.networks]).mean(0)


def objective_of(
    network: nn.Module, recipe: Recipe, images: Tensor, teachers: Sequence[nn.Module]
) -> Supervised | Taught:
    """The recipe's loss of the network's outputs; with teachers, of their answers, too.

    images: (N, ...), on which all must give scores of the same shape, else InputError.
    """
    loss = Supervised(network, recipe.loss, recipe.training.smoothing)
    if not teachers or recipe.teacher is None or recipe.teacher.alpha == 0:
        return loss
    for teacher in teachers:
        check_outputs("teacher.network", network, teacher, images, recipe.loss)
    frozen = Teacher(teachers[0] if len(teachers) == 1 else Ensemble(teachers), (), images)
    return Taught(loss, frozen, recipe.teacher.alpha, recipe.teacher.temperature)


def check_outputs(
    option: str, student: nn.Module, teacher: nn.Module, images: Tensor, loss: str
) -> None:
    """Raise InputError unless a response-based loss has what to compare; images: (N, ...)."""
    with torch.no_grad():
        answers = evaluated(student)(images)
        try:
            lessons = evaluated(teacher)(images)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise InputError(
                f"option {option}",
                "the teacher takes the images that the student takes",
                found=f"images {tuple(images.shape)} of {images.dtype}: "
                f"{type(error).__name__}: {error}",
                allowed="a network of the same images, in the same type",
                remedy="Choose a teacher of the same data; .float() makes one of float32.",
            ) from error
    found = [answers, lessons]
    shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in found]
    if loss != "classes" or shapes[0] != shapes[1] or not isinstance(found[0], Tensor):
        raise InputError(
            f"option {option}",
            "student and teacher give scores to the same classes",
            found=f"loss {loss}, student's outputs {shapes[0]}, teacher's {shapes[1]}",
            allowed="loss classes, outputs of the same shape (N, K, ...)",
            remedy="Choose a teacher of the same task, or alpha = 0.",
        )
    if not torch.isfinite(lessons).all():
        raise InputError(
            f"option {option}",
            "the teacher's answers are finite numbers",
            found="NaN or infinite scores of the first calibration images",
            allowed="finite numbers only",
            remedy="Choose another checkpoint: the teacher's training diverged.",
        )


def _with_places(network: nn.Module, images: Tensor, places: list[str]) -> nn.Module:
    """The network with a module for each of its activations, whose paths go to `places`."""
    own = dict(network.named_modules())

    def same(place: str, channels: int, largest: Tensor) -> nn.Module:
        places.append(place)
        found = own.get(place)
        if found is None or isinstance(found, nn.ReLU):
            return nn.ReLU()  # not in place, which would spoil what is taken before it
        return nn.ReLU6() if isinstance(found, nn.ReLU6) else copy.deepcopy(found)

    made = substituted(network, same, images.cpu().numpy())
    with torch.no_grad():
        equal = torch.equal(made(images), network(images))
    if not equal:
        raise InputError(
            "option distilled.features",
            "features of a teacher are taken at its activations",
            found="activations that are no ReLU, called as functions",
            allowed="nn.ReLU, nn.ReLU6 and QCFS modules, and ReLU functions",
            remedy="Write nn.ReLU6() instead of calling F.relu6, or leave features out.",
        )
    return made.eval().requires_grad_(False)
