"""More images from few: mirrored and shifted ones, drawn without any state.

They carry no labels: the float network itself says what a changed image means, so nothing need be
true of them but that they resemble images. The draws of a step depend on the seed and the step
alone, so a resumed run goes on with the very images of an uninterrupted one.

A mirrored digit is no digit, a mirrored frog is a frog: which changes serve, the float network says
as well (`harmless`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

SHIFT = 8
"""An image is shifted by up to a SHIFTth of its height and width: 4 pixels of 32."""


def order(seed: int, epoch: int, count: int) -> Tensor:
    """The order of `count` images in an epoch."""
    return torch.randperm(count, generator=_draws(seed, 2 * epoch))


@final
@dataclass(frozen=True)
class Changes:
    """What is done to images."""

    mirror: bool
    shift: bool


CHANGES = {
    "none": Changes(mirror=False, shift=False),
    "shift": Changes(mirror=False, shift=True),
    "mirror": Changes(mirror=True, shift=False),
    "both": Changes(mirror=True, shift=True),
}
ALIKE = 0.7
"""Least correlation of outputs before and after a change that is harmless (decision 19)."""
Answer = Callable[[Tensor], dict[str, Tensor]]
"""answer(images (N, ...)) -> the float network's outputs (N, ...) by name."""


def harmless(answer: Answer, images: Tensor, batch: int) -> Changes:
    """The changes after which the float network still answers as before, `batch` images at once."""
    if images.ndim != 4 or len(images) < 2:
        return CHANGES["none"]
    mirror, shift = (likeness(answer, images, batch, CHANGES[n]) for n in ("mirror", "shift"))
    return Changes(mirror=mirror >= ALIKE, shift=shift >= ALIKE)


def likeness(answer: Answer, images: Tensor, batch: int, changes: Changes) -> float:
    """The least correlation, over the outputs, of answers before and after every image is changed.

    Of maps their means over places are compared, which move neither with a shift nor with a mirror.
    """
    before = _means(answer, images, batch)
    after = _means(answer, augmented(images, 0, 0, changes, every=True), batch)
    return min(_correlation(before[name], after[name]) for name in before)


def _means(answer: Answer, images: Tensor, batch: int) -> dict[str, Tensor]:
    """Outputs as (N, C)."""
    parts = [answer(part) for part in torch.split(images, batch)]
    wholes = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return {
        name: v.reshape(len(v), v.shape[1] if v.ndim > 1 else 1, -1).mean(2)
        for name, v in wholes.items()
    }


def _correlation(a: Tensor, b: Tensor) -> float:
    """1 - (mean square of the difference) / (sum of both variances); of equal constants 1."""
    spread = ((a - a.mean(0)) ** 2).mean() + ((b - b.mean(0)) ** 2).mean()
    apart = ((a - b) ** 2).mean()
    return float(1 - apart / spread) if spread > 0 else float(apart == 0)


def augmented(
    images: Tensor, seed: int, step: int, changes: Changes = CHANGES["both"], every: bool = False
) -> Tensor:
    """Images (N, C, H, W), each mirrored or not and shifted, its border zero; others unchanged.

    every: mirror all of them.
    """
    if images.ndim != 4 or changes == CHANGES["none"]:
        return images
    draws = _draws(seed, 2 * step + 1)
    mirrored = torch.rand(len(images), generator=draws) < (1.0 if every else 0.5)
    height, width = images.shape[2:]
    down, right = (height // SHIFT, width // SHIFT) if changes.shift else (0, 0)
    rows = _read_from(len(images), height, down, draws)
    columns = _read_from(len(images), width, right, draws)
    if changes.mirror:
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
