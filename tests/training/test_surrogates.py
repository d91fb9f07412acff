"""Surrogate gradients: slopes against their curves, and what passes through a spike."""

from __future__ import annotations

import pytest
import torch

from lapilli.compiler.errors import InputError
from lapilli.compiler.training.surrogates import SURROGATES, spike, surrogate

KINKS = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=torch.float64)
"""Where a curve of the table bends or its slope jumps."""
WIDTH = 1e-5


@pytest.mark.parametrize("name", SURROGATES)
def test_the_slope_is_the_derivative_of_the_curve(name: str) -> None:
    row = SURROGATES[name]
    u = torch.linspace(-4.0, 4.0, 4001, dtype=torch.float64) + 0.0003
    u = u[(u[:, None] - KINKS).abs().amin(1) > 2 * WIDTH]
    assert len(u) > 3900
    found = (row.curve(u + WIDTH) - row.curve(u - WIDTH)) / (2 * WIDTH)
    torch.testing.assert_close(row.slope(u), found, rtol=1e-7, atol=1e-8)
    assert (row.slope(u) >= 0).all()


@pytest.mark.parametrize("name", SURROGATES)
def test_the_curve_rises_from_zero_to_one_around_the_threshold(name: str) -> None:
    row = SURROGATES[name]
    ends = row.curve(torch.tensor([-1e9, 0.0, 1e9], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    near = torch.tensor([0.2, 0.4], dtype=torch.float64)
    torch.testing.assert_close(row.slope(near), row.slope(-near))
    assert row.source


def test_the_slopes_of_the_published_ones() -> None:
    """KDSNN: (a / 2) / (1 + (pi a u / 2)^2) with a = 2; SuperSpike: 1 / (1 + beta |u|)^2."""
    u = torch.tensor([-0.5, 0.0, 0.25])
    squares = (torch.pi * u) ** 2
    torch.testing.assert_close(SURROGATES["arctan"].slope(u), 1 / (1 + squares))
    expected = torch.tensor([1 / 4, 1.0, 1 / 2.25])
    torch.testing.assert_close(SURROGATES["fast-sigmoid"].slope(u), expected)
    assert SURROGATES["rectangle"].slope(u).tolist() == [1.0, 1.0, 1.0]
    assert SURROGATES["triangle"].slope(u).tolist() == [0.5, 1.0, 0.75]


@pytest.mark.parametrize("name", SURROGATES)
def test_a_spike_is_a_step_whose_gradient_is_the_slope(name: str) -> None:
    u = torch.tensor([-0.75, -1e-7, 0.0, 0.75], requires_grad=True)
    spikes = spike(u, surrogate(name))
    assert spikes.tolist() == [0.0, 0.0, 1.0, 1.0]
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5])
    (gradient,) = torch.autograd.grad((weights * spikes).sum(), u)
    torch.testing.assert_close(gradient, weights * SURROGATES[name].slope(u.detach()))


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(InputError) as caught:
        surrogate("arctangent")
    assert caught.value.found == "'arctangent'"
    assert "arctan" in caught.value.allowed
