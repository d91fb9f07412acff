"""Muon: orthogonal steps of matrices, those of SGD for everything else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lapilli.compiler.training.muon import Muon, orthogonal
from lapilli.compiler.training.plan import Stage
from lapilli.compiler.training.recipe import Training
from lapilli.compiler.training.schedule import optimiser_of
from lapilli.layers import MultiThreshold


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 30), (16, 3, 3, 3), (30, 8), (64, 64), (1, 5), (7, 1)])
def test_singular_values_come_to_about_one(shape: tuple[int, ...]) -> None:
    """The directions stay; the scale of what comes does not matter."""
    matrix = drawn(*shape)
    found = orthogonal(matrix).flatten(1)
    u, values, v = torch.linalg.svd(matrix.flatten(1).double(), full_matrices=False)
    length = max(1.0, found.shape[0] / found.shape[1]) ** 0.5
    along = (u.T @ found.double() @ v.T) / length
    known = values > 0.02 * values.square().sum().sqrt()
    assert known.sum() >= 0.8 * len(known)
    assert (along.diagonal()[known] > 0.6).all() and (along.diagonal() < 1.25).all()
    torch.testing.assert_close(along, along.diagonal().diag(), atol=1e-4, rtol=0)
    for scale in (1e-12, 1e6):
        torch.testing.assert_close(orthogonal(matrix * scale).flatten(1), found, atol=1e-3, rtol=0)


def test_where_no_gradient_comes_nothing_moves() -> None:
    assert torch.equal(orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4))


def taken(optimiser: Any, parameters: list[nn.Parameter], steps: int = 4) -> list[Tensor]:
    for step in range(steps):
        for k, parameter in enumerate(parameters):
            parameter.grad = drawn(*parameter.shape, seed=10 * step + k)
        optimiser.step()
    return [parameter.detach().clone() for parameter in parameters]


def test_what_is_no_matrix_takes_the_steps_of_sgd() -> None:
    ours, theirs = ([nn.Parameter(drawn(5)), nn.Parameter(drawn(3, 3))] for _ in range(2))
    found = taken(Muon([{"params": ours}], lr=0.1, momentum=0.8), ours)
    expected = taken(torch.optim.SGD(theirs, lr=0.1, momentum=0.8, nesterov=True), theirs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_a_step_is_as_long_as_the_rate_in_every_direction() -> None:
    """And weights decay by their own share, whatever the gradient is."""
    matrix, still = nn.Parameter(drawn(4, 9)), nn.Parameter(drawn(4, 9))
    before = matrix.detach().clone()
    groups: list[dict[str, Any]] = [
        {"params": [matrix, still], "weight_decay": 0.5, "orthogonal": True}
    ]
    optimiser = Muon(groups, lr=0.01)
    matrix.grad = drawn(4, 9, seed=1)
    kept = still.detach().clone()
    optimiser.step()
    change = matrix.detach() - before * (1 - 0.01 * 0.5)
    values = torch.linalg.svdvals(change)
    assert (values > 0.006).all() and (values < 0.0125).all()
    assert torch.equal(still.detach(), kept)  # it has no gradient


def test_weights_are_matrices_and_what_mixes_steps_is_none() -> None:
    own = MultiThreshold(2, 3, 1.0, mixing="full", learn_keep=True, learn_threshold=True)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), own)
    made = optimiser_of(Training(optimiser="muon", momentum=0.9), Stage("all", network, 1))
    assert isinstance(made, Muon)
    weights, others = made.param_groups
    assert weights["orthogonal"] and [p.shape for p in weights["params"]] == [(2, 3, 3, 3)]
    assert not others["orthogonal"]
    assert {p.shape for p in others["params"]} == {(2,), (), (3, 3)}
    assert weights["momentum"] == others["momentum"] == 0.9


def test_badly_scaled_inputs_are_learned_in_few_steps() -> None:
    """Where SGD at the best of many rates is slow: inputs a thousand times as large as others."""
    x = drawn(256, 8) * torch.logspace(0, -3, 8)
    wanted = drawn(4, 8, seed=1)

    def loss_after(make: Any, steps: int = 100) -> float:
        weights = nn.Parameter(torch.zeros(4, 8))
        optimiser = make(weights)
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = group["start"] * (1 - step / steps)
            optimiser.zero_grad()
            (weights - wanted).matmul(x.T).square().mean().backward()
            optimiser.step()
        return float((weights.detach() - wanted).square().mean())

    def muon(weights: nn.Parameter, rate: float) -> Any:
        group = {"params": [weights], "orthogonal": True, "start": rate}
        return Muon([group], lr=rate)

    def sgd(weights: nn.Parameter, rate: float) -> Any:
        group = {"params": [weights], "start": rate}
        return torch.optim.SGD([group], lr=rate, momentum=0.95, nesterov=True)

    rates = [2.0**k for k in range(-10, 3)]
    best = [min(loss_after(lambda w, m=m, r=r: m(w, r)) for r in rates) for m in (muon, sgd)]
    assert best[0] < 0.5 * best[1]
