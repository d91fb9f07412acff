"""A network for the tests of the search: what the command line builds by name."""

from __future__ import annotations

from torch import nn


def build() -> nn.Module:
    """Two convolutions, one of them pooled, and two layers; (N, 1, 8, 8) -> (N, 10)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 10)),
    )
