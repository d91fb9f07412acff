"""Staircases whose gradients are written out: the same numbers as autograd finds, only sooner."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lapilli.compiler.activations import evaluate_qcfs
from lapilli.compiler.training import straight_through
from lapilli.layers import QCFS

SHAPES = {"pictures": (5, 3, 4, 6), "signals": (5, 3, 7), "vectors": (9, 3)}


def by_autograd(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    """The definition, step by step."""
    return evaluate_qcfs(x, threshold, levels, straight_through.floor)


def wide(threshold: Tensor, axes: int) -> Tensor:
    """In a shape that goes with (N, C, ...) of so many axes."""
    return threshold.reshape(-1, *(1,) * (axes - 2)) if threshold.ndim else threshold


def drives(shape: tuple[int, ...], levels: int, threshold: Tensor, seed: int) -> Tensor:
    """Of both signs, beyond both ends, and a share of them exactly where a step begins."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draws, dtype=torch.float64) * 2
    steps = torch.randint(-2, levels + 3, shape, generator=draws)
    on_steps = (steps - 0.5) * (wide(threshold, len(shape)) / levels)
    return torch.where(torch.rand(shape, generator=draws) < 0.3, on_steps, x)


def tops(per_channel: bool) -> Tensor:
    return torch.tensor([0.3, 1.0, 2.7] if per_channel else 1.3, dtype=torch.float64)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("levels", [1, 3, 4, 15])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_are_those_of_the_definition(
    shape: tuple[int, ...], levels: int, per_channel: bool
) -> None:
    found, expected = [], []
    for results, of in ((found, straight_through.qcfs), (expected, by_autograd)):
        threshold = tops(per_channel).requires_grad_()
        x = drives(shape, levels, threshold.detach(), seed=levels).requires_grad_()
        value = of(x, wide(threshold, x.ndim), levels)
        value.backward(torch.randn(shape, generator=torch.Generator().manual_seed(0)).double())
        results += [value.detach(), x.grad, threshold.grad]
    assert torch.equal(found[0], expected[0])
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert a is not None and b is not None and a.abs().sum() > 0
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_the_layout_in_memory_changes_nothing() -> None:
    threshold = tops(per_channel=True).float()
    x = drives((5, 3, 4, 6), 4, threshold, seed=0).float()
    gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    plain, last = torch.contiguous_format, torch.channels_last
    found = []
    for mine, theirs in ((plain, plain), (last, last), (last, plain), (plain, last)):
        drive = x.detach().clone(memory_format=mine).requires_grad_()
        value = QCFS(4, threshold)(drive)
        value.backward(gradient.contiguous(memory_format=theirs))
        assert drive.grad is not None
        assert value.is_contiguous(memory_format=mine)
        found.append((value.detach(), drive.grad))
    for value, passed in found[1:]:
        assert torch.equal(value, found[0][0])
        assert torch.equal(passed, found[0][1])


@pytest.mark.parametrize("per_channel", [False, True])
def test_sixteen_bits_are_counted_in_single_precision(per_channel: bool) -> None:
    levels, layer = 3, QCFS(3, tops(per_channel))
    x = drives((64, 3, 4, 4), levels, tops(per_channel), seed=2).bfloat16().requires_grad_()
    value = layer(x)
    exact = by_autograd(x.detach().float(), wide(layer.threshold, x.ndim), levels)
    assert value.dtype == torch.result_type(x, tops(per_channel).float())
    assert torch.equal(value, exact.to(value.dtype))
    value.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.bfloat16
    assert layer.threshold.grad is not None
    assert layer.threshold.grad.dtype == torch.float32
    assert layer.bfloat16()(x).dtype == torch.bfloat16
