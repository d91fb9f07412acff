"""What the tests of training share: networks without normalisation, and runs in this process."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Small(nn.Module):
    """(N, 1, 8, 8) -> (N, 10); with dropout, so that random draws matter."""

    def __init__(self, dropout: float = 0.25) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.dropout(torch.relu(self.conv(x)).flatten(1)))
        return logits


def steady() -> nn.Module:
    """Without dropout: what several processes do is what one does."""
    return Small(dropout=0.0)
