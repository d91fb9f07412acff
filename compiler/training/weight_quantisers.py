"""Weights of few bits, trained in float: parametrisations that round them on the way into a layer.

What comes out are integer multiples k of one step per layer, with the k of `magnitudes`. So rows of
weights stay on a grid when BatchNorm is folded into them, and `passes.weight_grid` finds the k
again. Sources: uniform and additive powers of two (APoT), Li et al., ICLR 2020; ends in 8 bits.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lapilli.compiler.errors import InputError

Family = Literal["uniform", "apot"]
FLOAT = 32
"""Bits of weights that are not rounded."""
ENDS = 8
"""Most bits of uniform weights, and those of the first and the last layer: the chip's."""
_LAYERS = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)
_TERMS: Mapping[int, tuple[tuple[int, ...], ...]] = MappingProxyType(
    {
        2: ((1,),),
        3: ((4, 2, 1),),
        4: ((8, 4, 1), (2,)),
        5: ((32, 8, 2), (16, 4, 1)),
        6: ((64, 16, 2), (32, 8, 1), (4,)),
    }
)
"""Bits with the sign -> a magnitude adds one power of each row, or none. Source: Li et al., section
2.2, and their published choice where the bits do not share equally."""
APOT_BITS = (min(_TERMS), max(_TERMS))


def magnitudes(family: Family, bits: int) -> tuple[int, ...]:
    """The |k| of weights of so many bits with the sign, ascending from 0.

    >>> magnitudes("apot", 4)
    (0, 1, 2, 3, 4, 6, 8, 10)
    """
    if family == "uniform":
        return tuple(range(2 ** (bits - 1)))
    sums = {sum(chosen) for chosen in itertools.product(*((0, *row) for row in _TERMS[bits]))}
    return tuple(sorted(sums))


def check_bits(option: str, family: str, bits: object) -> None:
    """Raise InputError unless weights of that family can have so many bits, or are float."""
    low, high = APOT_BITS if family == "apot" else (2, ENDS)
    if not isinstance(bits, int) or isinstance(bits, bool) or not (low <= bits <= high):
        if bits == FLOAT and not isinstance(bits, bool):
            return
        raise InputError(
            f"option {option}",
            "weights have as many bits as their grid knows",
            found=f"{bits!r} with {family} weights",
            allowed=f"{low}..{high}, or {FLOAT} for none",
            remedy=f"Choose another value of {option}.",
        )


class WeightQuantiser(nn.Module, ABC):
    """A parametrisation of `weight`; bits: FLOAT lets it pass as it is."""

    bits: int

    @abstractmethod
    def forward(self, weight: Tensor) -> Tensor:
        """Rounded, of the same shape; gradients pass to the weight as if it were not."""


@final
class LowBitWeights(WeightQuantiser):
    """deviation * clip * (nearest of +-magnitudes / their largest) of the normalised weights.

    (w - mean) / deviation over the layer is what is rounded, and cut at +-`clip`, which is learned.
    The deviation comes back as a factor, unlike in the paper, so that a network without BatchNorm
    keeps its scale; mean and deviation pass no gradient. Source: Li et al., sections 2.3 and 2.4;
    gradient of the clip: equation 7.
    """

    def __init__(self, family: Family, bits: int, clip: float = 3.0) -> None:
        super().__init__()
        check_bits("bits", family, bits)
        self.family, self.bits = family, bits
        self.clip = nn.Parameter(torch.tensor(float(clip)))

    def forward(self, weight: Tensor) -> Tensor:
        if self.bits == FLOAT:
            return weight
        with torch.no_grad():
            mean, deviation = weight.mean(), weight.std(correction=0)
            deviation = deviation.clamp(min=torch.finfo(weight.dtype).tiny)
        grid = torch.tensor(
            magnitudes(self.family, self.bits), dtype=weight.dtype, device=weight.device
        )
        rounded = _Rounded.apply((weight - mean) / deviation, self.clip, grid)  # type: ignore[no-untyped-call]
        return cast("Tensor", deviation * rounded)

    def extra_repr(self) -> str:
        return f"{self.family}, bits={self.bits}"


@final
class FullRange(WeightQuantiser):
    """Uniform from the largest magnitude to its negative: the first and the last layer's."""

    def __init__(self, bits: int = ENDS) -> None:
        super().__init__()
        check_bits("bits", "uniform", bits)
        self.bits = bits

    def forward(self, weight: Tensor) -> Tensor:
        if self.bits == FLOAT:
            return weight
        largest = weight.detach().abs().max().clamp(min=torch.finfo(weight.dtype).tiny)
        grid = torch.tensor(
            magnitudes("uniform", self.bits), dtype=weight.dtype, device=weight.device
        )
        return cast("Tensor", _Rounded.apply(weight, largest, grid))  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        return f"bits={self.bits}"


class _Rounded(torch.autograd.Function):
    """The nearest of +-grid * clip / grid[-1], ties away from zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, clip: Tensor, grid: Tensor) -> Tensor:
        relative = x / clip
        midway = (grid[1:] + grid[:-1]) / 2
        apart = (relative.abs() * grid[-1]).contiguous()  # channels last would be copied, loudly
        nearest = torch.bucketize(apart, midway, right=True)
        count = grid[nearest] * relative.sign()
        ctx.save_for_backward(relative, count / grid[-1])
        return count * (clip / grid[-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        relative, rounded = ctx.saved_tensors
        slope = torch.where(relative.abs() > 1, relative.sign(), rounded - relative)
        return gradient, (gradient * slope).sum(), None


def quantise_weights(
    network: nn.Module, quantiser: LowBitWeights, ends: int, images: Tensor
) -> list[WeightQuantiser]:
    """Parametrise the weights of all linear layers that are called, by one like `quantiser` each.

    ends: bits of the layers that are called first and last. images: (N, ...), one is enough.
    """
    called: list[nn.Module] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        if module not in called:
            called.append(module)

    hooks = [m.register_forward_hook(note) for m in network.modules() if isinstance(m, _LAYERS)]
    before = network.training
    with torch.no_grad():
        network.eval()(images[:1])
    network.train(before)
    for hook in hooks:
        hook.remove()
    made: list[WeightQuantiser] = []
    for module in called:
        if module in (called[0], called[-1]):
            made.append(FullRange(ends))
        else:
            made.append(
                LowBitWeights(quantiser.family, quantiser.bits, float(quantiser.clip.detach()))
            )
        parametrize.register_parametrization(module, "weight", made[-1])
    return made


def leave_rounded(network: nn.Module) -> None:
    """Take the parametrisations off; rounded weights stay as plain parameters."""
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrised: Any = module
            kept = [isinstance(p, WeightQuantiser) for p in parametrised.parametrizations["weight"]]
            if all(kept):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
