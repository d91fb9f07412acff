"""What a network is trained for, and measured by: its outputs against labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.outputs import VOID
from lapilli.compiler.training.detection import average_precision, detection_loss

NO_CLASS = -1


def cross_entropy(outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Of (N, K, ...) scores and (N, ...) class numbers: per image, or per pixel."""
    ignored = VOID if outputs.shape[1] <= VOID else NO_CLASS
    return F.cross_entropy(outputs, labels, label_smoothing=smoothing, ignore_index=ignored)


def accuracy(outputs: Tensor, labels: Tensor) -> float | None:
    """Share of the images, or of the pixels that are of a class, whose highest score is right.

    None where nothing is of a class.
    """
    known = of_a_class(outputs, labels)
    right = (outputs.argmax(1) == labels) & known
    return float(right.sum() / known.sum()) if known.any() else None


def of_a_class(outputs: Tensor, labels: Tensor) -> Tensor:
    """Which labels (N, ...) count: VOID does not, unless (N, K, ...) scores know such a class."""
    return labels != (VOID if outputs.shape[1] <= VOID else NO_CLASS)


@final
@dataclass(frozen=True)
class Objective:
    """loss(outputs, labels, label smoothing) -> (), the mean over the batch; measure(outputs,
    labels) -> 0..1, the more the better; name: of what it measures; besides: channels of outputs
    that are no class."""

    loss: Callable[[Tensor, Tensor, float], Tensor]
    measure: Callable[[Tensor, Tensor], float | None]
    name: str
    besides: int = 0


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "classes": Objective(cross_entropy, accuracy, "accuracy"),
        "boxes": Objective(detection_loss, average_precision, "average precision", besides=4),
    }
)


def check_labels(loss: str, outputs: Tensor, labels: Tensor) -> None:
    """Raise InputError for a class that outputs (N, K, ...) have no score for."""
    objective = OBJECTIVES[loss]
    classes = outputs.shape[1] - objective.besides
    found = labels[..., 0] if objective.besides else labels
    if classes <= VOID:
        found = found[found != VOID]
    if found.numel() and int(found.max()) >= classes:
        raise InputError(
            "labels",
            "the network gives a score to every class",
            found=f"class {int(found.max())}, scores of {classes}",
            allowed=f"0..{classes - 1}",
            remedy="Choose a network with more outputs, or other data.",
        )


@final
class Supervised(nn.Module):
    """The loss of a network's outputs against the labels. loss: one of OBJECTIVES."""

    def __init__(self, network: nn.Module, loss: str, smoothing: float = 0.0) -> None:
        super().__init__()
        self.network, self.loss, self.smoothing = network, OBJECTIVES[loss].loss, smoothing

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (N, ...); y: labels -> ()."""
        return self.of(self.network(x), y)

    def of(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Of outputs (N, K, ...) that are there already -> ()."""
        return self.loss(outputs, y, self.smoothing)
