"""Random changes of training images, by torchvision's transforms.

What is done to an image depends on the seed, the epoch and the image's number alone: so it is the
same in a resumed run, and on however many devices.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lapilli.compiler.errors import BackendError, InputError
from lapilli.compiler.training.recipe import Augmentation

Augment = Callable[[Tensor, Sequence[int], int], Tensor]
"""augment(images (N, C, H, W) in 0..1, their numbers, number of the epoch) -> images."""


def augmenter(options: Augmentation, seed: int) -> Augment:
    """What applies the options. Raises BackendError where torchvision is missing."""
    if options == Augmentation():
        return lambda images, numbers, epoch: images
    change = _transform(options)

    def augment(images: Tensor, numbers: Sequence[int], epoch: int) -> Tensor:
        if images.ndim != 4:
            raise InputError(
                "augmentation",
                "pictures are augmented",
                found=f"inputs of shape {tuple(images.shape[1:])}",
                allowed="(C, H, W)",
                remedy="Leave the table [augmentation] out of the recipe.",
            )
        changed = []
        for image, number in zip(images, numbers, strict=True):
            torch.manual_seed(draw_seed(seed, epoch, number))
            changed.append(change(image))
        return torch.stack(changed)

    return augment


def draw_seed(seed: int, *numbers: int) -> int:
    """A seed of its own for each tuple of numbers; the same in every process."""
    text = ",".join(map(str, (seed, *numbers))).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def _transform(options: Augmentation) -> Callable[[Tensor], Tensor]:
    try:
        v2: Any = importlib.import_module("torchvision.transforms.v2")
    except (ImportError, RuntimeError) as error:  # a build for another torch
        raise BackendError(
            "augmentation",
            "torchvision changes the images",
            found=f"{type(error).__name__}: {error}",
            allowed="a torchvision that fits torch",
            remedy="pip install torchvision, or leave [augmentation] out of the recipe.",
        ) from error
    parts: list[Any] = []
    if options.policy:
        policy = v2.AutoAugmentPolicy(options.policy)
        as_bytes, as_floats = v2.ToDtype(torch.uint8, True), v2.ToDtype(torch.float32, True)
        parts += [as_bytes, v2.AutoAugment(policy), as_floats]
    if options.rotate:
        parts.append(v2.RandomRotation(options.rotate, v2.InterpolationMode.BILINEAR))
    if options.flip:
        parts.append(v2.RandomHorizontalFlip())

    def change(image: Tensor) -> Tensor:
        if options.crop:
            height, width = image.shape[-2:]
            image = v2.functional.crop(
                v2.functional.pad(image, [options.crop]),
                *torch.randint(0, 2 * options.crop + 1, (2,)).tolist(),
                height,
                width,
            )
        for part in parts:
            image = part(image)
        return _cut(image, options.cutout, v2) if options.cutout else image

    return change


def _cut(image: Tensor, size: int, v2: Any) -> Tensor:
    """A square of zeros whose centre lies anywhere in the image."""
    height, width = image.shape[-2:]
    row = int(torch.randint(0, height, ()))
    column = int(torch.randint(0, width, ()))
    top, left = max(row - size // 2, 0), max(column - size // 2, 0)
    rows = min(row - size // 2 + size, height) - top
    columns = min(column - size // 2 + size, width) - left
    black = torch.zeros((), dtype=image.dtype)
    erased: Tensor = v2.functional.erase(image, top, left, rows, columns, black)
    return erased
