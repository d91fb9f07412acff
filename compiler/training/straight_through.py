"""Functions with steps whose gradients pass as if the steps were not there."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor


def floor(x: Tensor) -> Tensor:
    """floor(x), elementwise; gradient 1."""
    return cast("Tensor", _Floor.apply(x))  # type: ignore[no-untyped-call]


def thresholds_passed(u: Tensor, levels: int) -> Tensor:
    """clip(floor(u), 0, levels); gradient 1 for 1/2 <= u <= levels + 1/2, else 0.

    Source: Hao et al., NeurIPS 2024 (LM-HT), the surrogate below equation 6.
    """
    return cast("Tensor", _Passed.apply(u, levels))  # type: ignore[no-untyped-call]


def replaced(x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
    """`value`, exactly; gradients go to x where `inside`."""
    return cast("Tensor", _Replaced.apply(x, value, inside))  # type: ignore[no-untyped-call]


def in_parts(x: Tensor, parts: int) -> Tensor:
    """The nearest multiple of 1 / parts in 0 .. 1; gradient 1, but none that leads further out."""
    return cast("Tensor", _InParts.apply(x, parts))  # type: ignore[no-untyped-call]


class _Floor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.floor()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Passed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, levels: int) -> Tensor:
        ctx.save_for_backward((u >= 0.5) & (u <= levels + 0.5))
        return u.floor().clamp(0, levels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None


class _Replaced(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, inside: Tensor) -> Tensor:
        ctx.save_for_backward(inside)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None


class _InParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, parts: int) -> Tensor:
        ctx.save_for_backward(x)
        return torch.floor(x.clamp(0, 1) * parts + 0.5) / parts

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        outwards = ((x >= 1) & (gradient < 0)) | ((x <= 0) & (gradient > 0))
        return gradient * ~outwards, None
