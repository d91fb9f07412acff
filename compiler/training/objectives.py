"""What a network is trained for, and measured by: its outputs against labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor, nn

from lapilli.compiler.outputs import VOID
from lapilli.compiler.training.detection import average_precision, detection_loss


def cross_entropy(outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Of (N, K, ...) scores and (N, ...) class numbers: per image, or per pixel."""
    return F.cross_entropy(outputs, labels, label_smoothing=smoothing, ignore_index=VOID)


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Share of the images, or of the pixels that are of a class, whose highest score is right."""
    known = labels != VOID
    right = (outputs.argmax(1) == labels) & known
    return float(right.sum() / known.sum())


@final
@dataclass(frozen=True)
class Objective:
    """loss(outputs, labels, label smoothing) -> (), the mean over the batch; measure(outputs,
    labels) -> 0..1, the more the better; name: of what it measures."""

    loss: Callable[[Tensor, Tensor, float], Tensor]
    measure: Callable[[Tensor, Tensor], float]
    name: str


OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "classes": Objective(cross_entropy, accuracy, "accuracy"),
        "boxes": Objective(detection_loss, average_precision, "average precision"),
    }
)


@final
class Supervised(nn.Module):
    """The loss of a network's outputs against the labels. loss: one of OBJECTIVES."""

    def __init__(self, network: nn.Module, loss: str, smoothing: float = 0.0) -> None:
        super().__init__()
        self.network, self.loss, self.smoothing = network, OBJECTIVES[loss].loss, smoothing

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (N, ...); y: labels -> ()."""
        return self.loss(self.network(x), y, self.smoothing)
