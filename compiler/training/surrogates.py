"""Surrogate gradients: what training takes for the derivative of a spike.

A spike is a step, 1 where u >= 0, with u = v / threshold - 1. Its derivative is zero everywhere, so
training goes down the slope of a smooth curve instead, which rises from 0 to 1 around the same
place. Every curve here has its slope in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, final

import torch
from torch import Tensor

from lapilli.compiler.errors import InputError


@final
@dataclass(frozen=True, eq=False)
class Surrogate:
    """curve(u): from 0 to 1; slope(u): its derivative, both elementwise; source: who used it."""

    curve: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    source: str


def _sigmoid_slope(u: Tensor) -> Tensor:
    s = torch.sigmoid(4.0 * u)
    return torch.mul(s, 1.0 - s) * 4.0


def _triangle(u: Tensor) -> Tensor:
    rising = torch.square(u.clamp(-1.0, 0.0) + 1.0) * 0.5
    return rising + 0.5 - torch.square(1.0 - u.clamp(0.0, 1.0)) * 0.5


def _exponential(u: Tensor) -> Tensor:
    tail = 0.5 * torch.exp(-2.0 * u.abs())
    return torch.where(u < 0, tail, 1.0 - tail)


SURROGATES: dict[str, Surrogate] = {
    "arctan": Surrogate(
        lambda u: torch.atan(math.pi * u) / math.pi + 0.5,
        lambda u: 1.0 / (1.0 + (math.pi * u) ** 2),
        "Fang et al., ICCV 2021, with a = 2, which knowledge distillation (KDSNN) uses",
    ),
    "sigmoid": Surrogate(
        lambda u: torch.sigmoid(4.0 * u),
        _sigmoid_slope,
        "Zenke and Vogels, Neural Computation 2021, with steepness 4",
    ),
    "rectangle": Surrogate(
        lambda u: (u + 0.5).clamp(0.0, 1.0),
        lambda u: (u.abs() <= 0.5).to(u.dtype),
        "Wu et al., Frontiers in Neuroscience 2018 (STBP), width 1",
    ),
    "triangle": Surrogate(
        _triangle,
        lambda u: (1.0 - u.abs()).clamp_min(0.0),
        "Bellec et al., NeurIPS 2018; Esser et al., PNAS 2016",
    ),
    "fast-sigmoid": Surrogate(
        lambda u: 0.5 + u / (1.0 + 2.0 * u.abs()),
        lambda u: 1.0 / (1.0 + 2.0 * u.abs()) ** 2,
        "Zenke and Ganguli, Neural Computation 2018 (SuperSpike), with beta = 2",
    ),
    "piecewise-exponential": Surrogate(
        _exponential,
        lambda u: torch.exp(-2.0 * u.abs()),
        "Shrestha and Orchard, NeurIPS 2018 (SLAYER), with a = 2",
    ),
}


def surrogate(name: str) -> Surrogate:
    """The row of SURROGATES. Raises InputError for a name that is none of them."""
    if name not in SURROGATES:
        raise InputError(
            "surrogate",
            "a spike's gradient is one of those known",
            found=repr(name),
            allowed=", ".join(SURROGATES),
            remedy="Choose one of them; arctan is the usual one.",
        )
    return SURROGATES[name]


def spike(u: Tensor, of: Surrogate) -> Tensor:
    """1 where u >= 0, else 0, elementwise; gradients pass with the surrogate's slope."""
    return cast("Tensor", _Step.apply(u, of))  # type: ignore[no-untyped-call]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, of: Surrogate) -> Tensor:
        ctx.save_for_backward(u)
        ctx.of = of
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        return gradient * ctx.of.slope(u), None
