"""Rungs are where the nearest count changes: on every curve, for every step, on both sides."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from lapilli.compiler.activations import CURVES, Activation, Clip, Curve, evaluate
from lapilli.compiler.linear import Array, along_channels
from lapilli.compiler.passes.ladder import rungs
from lapilli.compiler.spiking import Rungs

PARAMETERS: dict[str, tuple[object, ...]] = {
    "softplus": (2.0, 20.0),
    "leaky_relu": ([0.25, -0.5, 0.0],),
    "elu": (0.7, 1.2, 0.8),
    "softshrink": (0.5,),
    "hardshrink": (0.5,),
    "threshold": (0.25, -0.5),
    "qcfs": (1.5, 4.0),
    "clip": ([-1.0, -0.5, 0.0], [0.25, 1.0, 2.0]),
}
CASES: dict[str, Activation] = {
    name: Curve(name, tuple(np.asarray(p, float) for p in PARAMETERS.get(name, ())))
    for name in CURVES
}
CASES |= {"hardtanh": Clip(-1.0, 1.0), "identity": Clip(), "above": Clip(0.5, 2.0)}


def counted(r: Rungs, x: Array) -> Array:
    """The staircase at drives (N, C)."""
    passed = x >= r.at.reshape(len(r.at), 1, -1)
    return np.asarray(r.start + (passed * r.rises.reshape(len(r.rises), 1, -1)).sum(axis=0))


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0, 8, 0.3), (-3, 5, [0.1, 0.25, 0.4]), (-1, 0, 0.5), (-7, 8, 0.05), (0, 1, 1.0)],
)
@pytest.mark.parametrize("name", CASES)
def test_rungs_round_the_activation_to_the_nearest_count(
    name: str, low: int, high: int, step: object
) -> None:
    steps = np.asarray(step, float)
    found = rungs(CASES[name], low, high, steps)
    assert len(found.at) == len(found.rises) >= 1
    assert (found.at[1:] >= found.at[:-1]).all(), "they do not fall"
    x = np.random.default_rng(0).normal(scale=3.0, size=(4000, 3))
    y = evaluate(CASES[name], x) / along_channels(steps, (3,))
    sure = np.abs(y - 0.5 - np.round(y - 0.5)) > 1e-9  # not on the edge between two counts
    expected = np.clip(np.floor(y + 0.5), low, high)
    assert sure.mean() > 0.3
    assert np.array_equal(counted(found, x)[sure], expected[sure])
    partial = found.start + np.cumsum(found.rises, axis=0)
    assert low <= found.start.min() <= found.start.max() <= high
    assert low <= partial.min() <= partial.max() <= high


def test_a_relu_has_the_rungs_of_a_window_neuron() -> None:
    found = rungs(Clip(0.0), 0, 5, np.asarray(0.5))
    assert np.allclose(found.at, [0.25, 0.75, 1.25, 1.75, 2.25], rtol=0, atol=1e-9)
    assert found.rises.tolist() == [1] * 5
    assert found.start == 0


def test_silu_falls_before_it_rises() -> None:
    found = rungs(CASES["silu"], -3, 5, np.asarray(0.1))
    assert found.rises.tolist() == [-1, -1, -1, *[1] * 8]
    assert found.start == 0, "far below zero it is silent"


def test_counts_out_of_reach_have_no_rung() -> None:
    assert len(rungs(CASES["sigmoid"], 0, 9, np.asarray(0.3)).at) == 3  # 0.15, 0.45, 0.75
    never = rungs(CASES["sigmoid"], 0, 2, np.asarray(10.0))
    assert never.at.tolist() == [math.inf]
    assert never.rises.tolist() == [0]


@pytest.mark.parametrize("name", CASES)
def test_turns_are_where_the_slope_changes_its_sign(name: str) -> None:
    """Between them the activation is monotone: no sample contradicts its neighbours."""
    activation = CASES[name]
    ends = [-20.0, *activation.turns, 20.0]
    assert ends == sorted(ends)
    for first, last in pairwise(ends):
        x = np.linspace(first, last, 5001)
        slopes = np.diff(evaluate(activation, np.broadcast_to(x[:, None], (5001, 3))), axis=0)
        for channel in range(3):
            slope = slopes[:, channel]
            assert (slope >= -1e-12).all() or (slope <= 1e-12).all(), (first, last)
    if activation.monotone:
        assert not activation.turns


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_activations_keep_the_type_and_stay_finite(dtype: torch.dtype) -> None:
    x = torch.tensor([[-1e4, -90.0, 0.0], [1e-30, 90.0, 1e4]], dtype=dtype)
    for name, activation in CASES.items():
        y = activation(x)
        assert y.dtype == dtype, name
        assert torch.isfinite(y).all(), name
