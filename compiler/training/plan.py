"""A plan: what a training run optimises, stage by stage, and what comes out. `loop` carries it out.

A kind of recipe is a function that makes a plan; it knows nothing of devices, data or files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn


def _nothing() -> None:
    pass


@final
@dataclass(frozen=True, eq=False)
class Stage:
    """Some epochs with one objective.

    objective: forward(x (N, ...), y (N, ...)) -> loss (), the mean over the batch; its parameters
    that need a gradient are trained. The loop calls train() on it: what must stay in evaluation
    mode, a teacher for example, overrides that. rate: factor of the recipe's; weight_decay: instead
    of the recipe's, None for that one. begin: called before the first batch, and again where a run
    is resumed in this stage, before its state is read: it sets what no tensor says (bits, which
    parameters need gradients), and tensors if it likes, but adds and removes none. end: after the
    last batch.
    """

    name: str
    objective: nn.Module
    epochs: int
    rate: float = 1.0
    begin: Callable[[], None] = field(default=_nothing)
    end: Callable[[], None] = field(default=_nothing)
    weight_decay: float | None = None


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """model: holds every tensor that training changes, and is what checkpoints hold.

    predict: x (N, ...) -> outputs, of the network in evaluation mode as it stands. finished: the
    network to compile, and the options of the method that computes what was trained.
    """

    model: nn.Module
    stages: tuple[Stage, ...]
    predict: Callable[[Tensor], Tensor]
    finished: Callable[[], tuple[nn.Module, object]]


def evaluated(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """Calls of the module in evaluation mode, which leave its mode as it was."""

    def call(x: Tensor) -> Tensor:
        before = module.training
        module.eval()
        try:
            outputs: Tensor = module(x)
            return outputs
        finally:
            module.train(before)

    return call


def channels_last(network: nn.Module) -> None:
    """Put weights where convolutions of pictures are computed faster; other networks stay."""
    if any(p.ndim == 4 for p in network.parameters()):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
