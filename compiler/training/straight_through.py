"""Functions with steps whose gradients pass as if the steps were not there."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from lapilli.compiler.activations import evaluate_qcfs


def floor(x: Tensor) -> Tensor:
    """floor(x), elementwise; gradient 1."""
    return cast("Tensor", _Floor.apply(x))  # type: ignore[no-untyped-call]


def qcfs(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """`evaluate_qcfs`, with the gradients that autograd finds there with `floor`, sooner.

    threshold: of a shape that x can be divided by. Counted in float32 at least.
    """
    return cast("Tensor", _Qcfs.apply(x, threshold, levels))  # type: ignore[no-untyped-call]


def thresholds_passed(m: Tensor, step: Tensor, levels: int) -> Tensor:
    """step * clip(floor(m / step), 0, levels); gradient 1 for 1/2 <= m / step <= levels + 1/2.

    step: of a shape that m can be divided by; its gradient passes the floor, too.
    Source: Hao et al., NeurIPS 2024 (LM-HT), the surrogate below equation 6.
    """
    return cast("Tensor", _Passed.apply(m, step, levels))  # type: ignore[no-untyped-call]


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


class _Qcfs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, levels: int) -> Tensor:
        value = evaluate_qcfs(single_precision(x), threshold, levels, torch.floor)
        ctx.save_for_backward(x, threshold, value)
        ctx.levels = levels
        own = threshold.ndim == 0 or threshold.dtype == x.dtype  # as torch promotes types
        return value.to(x.dtype) if own and value.dtype != x.dtype else value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        x, threshold, value = ctx.saved_tensors
        exact, learned = single_precision(x), ctx.needs_input_grad[1]
        counts = (exact * ctx.levels).div_(threshold).add_(0.5).floor_()
        inside = (-0.5, ctx.levels + 0.5)
        by_x, by_step = _gradients(gradient, exact, threshold, value, counts, inside, learned)
        return by_x.to(x.dtype), by_step, None


class _Passed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, step: Tensor, levels: int) -> Tensor:
        value = (m / step).floor_().clamp_(0, levels).mul_(step)
        ctx.save_for_backward(m, step, value)
        ctx.levels = levels
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None]:
        m, step, value = ctx.saved_tensors
        ends = torch.tensor([0.5, ctx.levels + 0.5], dtype=m.dtype)  # which belong to the range
        low, high = torch.nextafter(ends, torch.tensor([0, torch.inf], dtype=m.dtype)).tolist()
        learned = ctx.needs_input_grad[1]
        return *_gradients(gradient, m, step, value, m / step, (low, high), learned), None


def _gradients(
    gradient: Tensor,
    x: Tensor,
    step: Tensor,
    value: Tensor,
    measured: Tensor,
    inside: tuple[float, float],
    learned: bool,
) -> tuple[Tensor, Tensor | None]:
    """By x and, where it is learned, by step, of value = step * c(x / step), whose slope is 1 where
    `measured` lies strictly `inside`.

    Elementwise operations on tensors of different layouts or types, and with bools, are much slower
    than others on a CPU: here are none.
    """
    if gradient.dtype != value.dtype or gradient.stride() != value.stride():
        gradient = torch.empty_like(value).copy_(gradient)
    aten: Any = torch.ops.aten  # type: ignore[attr-defined, unused-ignore]
    by_x: Tensor = aten.hardtanh_backward(gradient, measured, *inside)
    if not learned:
        return by_x, None
    by_step = (gradient * value).addcmul_(by_x, x, value=-1).sum_to_size(step.shape)
    return by_x, by_step / step


def single_precision(x: Tensor) -> Tensor:
    """x in float32, or wider as it is."""
    return x if x.dtype.itemsize >= 4 else x.float()


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
