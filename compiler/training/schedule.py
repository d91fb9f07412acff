"""Optimisers and learning rates, as functions of how much of a stage is done."""

from __future__ import annotations

import math
from typing import Any

import torch

from lapilli.compiler.training.muon import Muon
from lapilli.compiler.training.plan import Stage
from lapilli.compiler.training.recipe import Training
from lapilli.compiler.training.spiking_layers import SpikingLayer


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


def optimiser_of(training: Training, stage: Stage) -> torch.optim.Optimizer:
    """Of what the stage trains. Weights decay; biases, normalisations, thresholds and leaks, which
    have one axis, do not, nor what else is a spiking layer's own: a matrix that mixes steps would
    decay to their mean."""
    layers = (m for m in stage.objective.modules() if isinstance(m, SpikingLayer))
    own = {id(p) for layer in layers for p in layer.parameters()}
    trained = [p for p in stage.objective.parameters() if p.requires_grad]
    decaying = [p for p in trained if p.ndim > 1 and id(p) not in own]
    others = [p for p in trained if p.ndim <= 1 or id(p) in own]
    decay = training.weight_decay if stage.weight_decay is None else stage.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": decaying, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    start, momentum = training.rate * stage.rate, training.momentum
    if training.optimiser == "muon":
        groups[0]["orthogonal"] = True
    groups = [group for group in groups if group["params"]]
    if training.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=start, momentum=momentum, nesterov=momentum > 0)
    if training.optimiser == "muon":
        return Muon(groups, lr=start, momentum=momentum)
    kind = torch.optim.Adam if training.optimiser == "adam" else torch.optim.AdamW
    return kind(groups, lr=start)
