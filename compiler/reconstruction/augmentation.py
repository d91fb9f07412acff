"""More images from few: mirrored and shifted ones, drawn without any state.

They carry no labels: the float network itself says what a changed image means, so nothing need be
true of them but that they resemble images. The draws of a step depend on the seed and the step
alone, so a resumed run goes on with the very images of an uninterrupted one.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 8
"""An image is shifted by up to a SHIFTth of its height and width: 4 pixels of 32."""


def order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of `count` images in an epoch."""
    return torch.randperm(count, generator=_draws(seed, 2 * epoch))


def augmented(images: Tensor, seed: int, step: int) -> Tensor:
    """Images (N, C, H, W), each mirrored or not and shifted, its border zero; others unchanged."""
    if images.ndim != 4:
        return images
    draws = _draws(seed, 2 * step + 1)
    mirrored = torch.rand(len(images), generator=draws) < 0.5
    height, width = images.shape[2:]
    down, right = height // SHIFT, width // SHIFT
    rows = _read_from(len(images), height, down, draws)
    columns = _read_from(len(images), width, right, draws)
    columns = torch.where(mirrored[:, None], width + 2 * right - 1 - columns, columns)
    padded = torch.nn.functional.pad(images, (right, right, down, down))
    index = torch.arange(len(images))[:, None, None]
    # Channels last: indices beside each other move whole pixels.
    moved = padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)


def _read_from(count: int, size: int, most: int, draws: torch.Generator) -> Tensor:
    """(count, size): the padded places that a shifted axis reads."""
    start = torch.randint(0, 2 * most + 1, (count, 1), generator=draws)
    return start + torch.arange(size)


def _draws(seed: int, number: int) -> torch.Generator:
    # A product of two primes keeps the seeds of neighbouring numbers apart.
    return torch.Generator().manual_seed((seed * 2_147_483_647 + number) % 2**63)
