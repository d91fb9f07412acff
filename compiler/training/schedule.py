"""Optimisers and learning rates, as functions of how much of a stage is done."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from lapilli.compiler.training.recipe import Training


def learning_rate(training: Training, done: float) -> float:
    """The rate at the share `done` of a stage, 0 .. 1.

    >>> learning_rate(Training(rate=1.0, schedule="step", drops=(0.5,), drop=0.1), 0.5)
    0.1
    """
    if done < training.warmup:
        return training.rate * done / training.warmup
    if training.schedule == "cosine":
        left = (done - training.warmup) / (1 - training.warmup)
        return training.rate * 0.5 * (1 + math.cos(math.pi * left))
    if training.schedule == "step":
        return training.rate * training.drop ** sum(done >= share for share in training.drops)
    return training.rate


def optimiser_of(
    training: Training, parameters: Sequence[nn.Parameter], rate: float
) -> torch.optim.Optimizer:
    """Weights decay; biases, normalisations and thresholds, which have one axis, do not."""
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    start = training.rate * rate
    if training.optimiser == "sgd":
        nesterov = training.momentum > 0
        return torch.optim.SGD(groups, lr=start, momentum=training.momentum, nesterov=nesterov)
    kind = torch.optim.Adam if training.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=start)
