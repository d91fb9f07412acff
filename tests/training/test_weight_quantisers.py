"""Weights of few bits: their grids, their gradients, and what is left when training is over."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lapilli.compiler.errors import InputError
from lapilli.compiler.training.weight_quantisers import (
    FLOAT,
    FullRange,
    LowBitWeights,
    check_bits,
    leave_rounded,
    magnitudes,
    quantise_weights,
)

CASES = [("uniform", bits) for bits in (2, 3, 4, 8)] + [("apot", bits) for bits in range(2, 7)]


def weights(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(40, 30, generator=generator) + 0.02


def test_additive_powers_of_two_are_the_published_levels() -> None:
    """Li et al.: sums of one power, or none, of each term; with two terms, of four bits each."""
    assert magnitudes("apot", 2) == (0, 1)
    assert magnitudes("apot", 3) == (0, 1, 2, 4)
    powers = {0.0, 2.0**-1, 2.0**-3, 2.0**-5}, {0.0, 2.0**-2, 2.0**-4, 2.0**-6}
    sums = sorted(64 * (a + b) for a in powers[0] for b in powers[1])
    assert list(magnitudes("apot", 5)) == sums
    for bits in range(2, 7):
        found = magnitudes("apot", bits)
        assert len(found) == 2 ** (bits - 1)  # every code is another level
        assert found[-1] <= 127  # on the chip they are integers


@pytest.mark.parametrize(("family", "bits"), CASES)
def test_rounded_weights_are_the_nearest_of_their_grid(family: str, bits: int) -> None:
    w = weights()
    quantiser = LowBitWeights(family, bits, clip=2.0)  # type: ignore[arg-type]
    found = quantiser(w).double()
    grid = torch.tensor(magnitudes(family, bits), dtype=torch.float64)  # type: ignore[arg-type]
    grid = torch.cat([-grid[1:].flip(0), grid])
    levels = 2.0 * grid / grid.max() * w.std(correction=0).double()
    centred = w.double() - w.double().mean()
    distances = (centred[..., None] - levels).abs()
    assert torch.allclose((found - centred).abs(), distances.amin(-1), atol=1e-6)
    assert (found[..., None] - levels).abs().amin() < 1e-6
    assert len(found.unique()) > 0.9 * len(levels)


def test_float_weights_pass_untouched() -> None:
    w = weights()
    assert LowBitWeights("uniform", FLOAT)(w) is w
    assert FullRange(FLOAT)(w) is w


def test_eight_bits_span_all_weights() -> None:
    w = weights()
    step = float(w.abs().max()) / 127
    found = FullRange()(w) / step
    assert torch.allclose(found, torch.floor(w / step + 0.5), atol=1e-4)
    assert FullRange()(torch.zeros(2, 2)).abs().sum() == 0


def test_the_gradient_passes_to_all_weights() -> None:
    w = weights().requires_grad_()
    arriving = weights(1)
    (LowBitWeights("apot", 4, clip=0.5)(w) * arriving).sum().backward()
    assert w.grad is not None
    assert torch.allclose(w.grad, arriving)  # also where it was cut


@pytest.mark.parametrize("family", ["uniform", "apot"])
def test_the_gradient_of_the_clip_is_the_published_one(family: str) -> None:
    """d clip = sum g (sign(x) where |x| > 1, else q - x), x = normalised weight / clip."""
    w, arriving = weights(), weights(1)
    quantiser = LowBitWeights(family, 3, clip=1.5)  # type: ignore[arg-type]
    found = quantiser(w)
    (found * arriving).sum().backward()
    deviation = w.std(correction=0)
    x = (w - w.mean()) / deviation / 1.5
    q = found.detach() / deviation / 1.5
    slope = torch.where(x.abs() > 1, x.sign(), q - x)
    wanted = (arriving * deviation * slope).sum().detach()
    assert quantiser.clip.grad is not None
    assert float(quantiser.clip.grad) == pytest.approx(float(wanted), rel=1e-4)


def test_the_clip_is_learned() -> None:
    w = weights()
    quantiser = LowBitWeights("uniform", 4, clip=8.0)
    optimiser = torch.optim.SGD(quantiser.parameters(), lr=1.0)

    def error() -> Tensor:
        return (quantiser(w) - (w - w.mean())).square().mean()

    first = float(error().detach())
    for _ in range(300):
        optimiser.zero_grad()
        (error() / w.var()).backward()
        optimiser.step()
    assert 1.5 < float(quantiser.clip.detach()) < 4.0
    assert float(error().detach()) < first / 4


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, bias=False), nn.Flatten(), nn.Linear(4 * 5 * 5, 3)),
    )


def test_first_and_last_layer_keep_eight_bits_and_rounded_weights_are_left() -> None:
    made, x = network(), torch.rand(2, 1, 8, 8)
    plain = {name: value.clone() for name, value in made.state_dict().items()}
    quantisers = quantise_weights(made, LowBitWeights("uniform", 2), 8, x)
    assert [type(q) for q in quantisers] == [FullRange, LowBitWeights, LowBitWeights, FullRange]
    assert [len(made[i].weight.unique()) <= 3 for i in (0, 2, 4, 6)] == [False, True, True, False]
    before = made(x)
    leave_rounded(made)
    assert not any(parametrize.is_parametrized(module) for module in made.modules())
    assert made.state_dict().keys() == plain.keys()
    assert torch.equal(made(x), before)
    assert torch.equal(
        made[4].weight.unique(), made[4].weight.abs().max() * torch.tensor([-1, 0, 1])
    )


def test_weights_of_two_networks_are_rounded_apart() -> None:
    """Parametrised classes are the module's own: taking one off leaves the other."""
    x = torch.rand(2, 1, 8, 8)
    both = [network(), network()]
    for made in both:
        quantise_weights(made, LowBitWeights("apot", 3), 8, x)
    leave_rounded(both[0])
    assert parametrize.is_parametrized(both[1][2], "weight")
    assert torch.equal(both[0](x), both[1](x))


@pytest.mark.parametrize(
    ("family", "bits"), [("apot", 7), ("apot", 1), ("uniform", 9), ("uniform", True), ("apot", 2.0)]
)
def test_bits_that_no_grid_has_are_refused(family: str, bits: object) -> None:
    with pytest.raises(InputError, match="option weight_bits"):
        check_bits("weight_bits", family, bits)


def test_silent_layers_stay_finite() -> None:
    quantiser = LowBitWeights("uniform", 4)
    w = torch.zeros(3, 3, requires_grad=True)
    found = quantiser(w)
    found.sum().backward()
    assert found.abs().sum() == 0
    assert math.isfinite(float(quantiser.clip.grad))  # type: ignore[arg-type]
