"""What a network is trained for: losses of its outputs against labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor, nn

from lapilli.compiler.outputs import VOID

Loss = Callable[[Tensor, Tensor, float], Tensor]
"""loss(outputs, labels, label smoothing) -> (), the mean over the batch."""


def classes(outputs: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of (N, K, ...) scores and (N, ...) class numbers: per image, or per pixel."""
    return F.cross_entropy(outputs, labels, label_smoothing=smoothing, ignore_index=VOID)


LOSSES: Mapping[str, Loss] = {"classes": classes}


class Supervised(nn.Module):
    """The loss of a network's outputs against the labels."""

    def __init__(self, network: nn.Module, loss: str, smoothing: float = 0.0) -> None:
        super().__init__()
        self.network, self.loss, self.smoothing = network, LOSSES[loss], smoothing

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (N, ...); y: labels -> ()."""
        return self.loss(self.network(x), y, self.smoothing)
