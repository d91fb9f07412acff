"""Muon: stochastic gradient descent whose steps of weight matrices are orthogonal.

Source: Jordan 2024 (kellerjordan.github.io/posts/muon). What is no matrix takes steps of SGD, where
libraries take AdamW's: docs/decisions/0025-muon.md says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from torch import Tensor

ITERATIONS = 5
LINEAR, CUBIC, QUINTIC = 3.4445, -4.7750, 2.0315
"""Coefficients that bring all singular values from 0.01 .. 1 to about 0.7 .. 1.2 in so few."""


@final
class Muon(torch.optim.Optimizer):
    """groups: of parameters, (out, ...) each in those with "orthogonal": True.

    lr: length of a step in every direction of a matrix; of all other parameters the rate of plain
    SGD with Nesterov's momentum. weight_decay is decoupled: a share `lr * weight_decay` a step.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, momentum: float = 0.95) -> None:
        plain = {"lr": lr, "momentum": momentum, "weight_decay": 0.0, "orthogonal": False}
        super().__init__(groups, plain)

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters that have a gradient; closure: computes these, and a loss."""
        loss = None if closure is None else closure()
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step(parameter, parameter.grad, group)
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, rate, momentum = self.state[parameter], group["lr"], group["momentum"]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        speed = state["momentum_buffer"].mul_(momentum).add_(gradient)
        change = torch.add(gradient, speed, alpha=momentum)
        if group["orthogonal"]:
            change = orthogonal(change)
        parameter.mul_(1 - rate * group["weight_decay"]).add_(change, alpha=-rate)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix with orthogonal rows, or columns where these are fewer; (out, ...).

    All but the first axis together are its columns. Tall ones are longer by the root of how much
    taller they are than wide, so that outputs change alike. Newton-Schulz iterations: singular
    values come to about 1, but those below a hundredth of the root of their squares' sum.
    """
    flat = matrix.reshape(len(matrix), -1)
    rows, columns = flat.shape
    x = flat.T if rows > columns else flat
    x = x / x.norm().clamp(min=torch.finfo(x.dtype).tiny)
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = LINEAR * x + (CUBIC * square + QUINTIC * square @ square) @ x
    x = x.T if rows > columns else x
    found: Tensor = (x * math.sqrt(max(1.0, rows / columns))).reshape(matrix.shape)
    return found
