"""How images are changed in a reconstruction, and which changes are made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lapilli.compiler.reconstruction.augmentation import CHANGES, augmented, harmless, order


def test_augmented_images_are_mirrored_and_shifted() -> None:
    image = torch.arange(2 * 8 * 16, dtype=torch.float32).reshape(1, 2, 8, 16) + 1
    seen = set()
    for step in range(200):
        (found,) = augmented(image, 0, step)
        matches = [
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in range(-1, 2)
            for right in range(-2, 3)
            if torch.equal(found, moved(image[0], mirrored, down, right))
        ]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) == 30
    assert torch.equal(augmented(image, 0, 7), augmented(image, 0, 7))
    flat = torch.ones(3, 5)
    assert augmented(flat, 0, 0) is flat


def test_only_changes_that_keep_the_answers_are_made() -> None:
    draws = torch.Generator().manual_seed(0)
    images = torch.rand(64, 1, 8, 16, generator=draws)
    images[:, :, :2], images[:, :, -2:], images[..., :4], images[..., -4:] = 0, 0, 0, 0
    images *= torch.rand(64, 1, 1, 1, generator=draws)

    def brightness(x: torch.Tensor) -> dict[str, torch.Tensor]:  # moves with nothing
        return {"a": x.mean((2, 3)), "b": x.mean((1, 2, 3))[:, None].expand(-1, 3)}

    def left_or_right(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": x.sum((1, 2, 3))[:, None], "b": (x[..., 8:] - x[..., :8]).sum((2, 3))}

    def place(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"a": x.flatten(1)}

    def a_map(x: torch.Tensor) -> dict[str, torch.Tensor]:  # places move, their mean does not
        return {"a": torch.cat([x, x.square()], 1)}

    for batch in (7, 64):
        assert harmless(brightness, images, batch) == CHANGES["both"]
        assert harmless(a_map, images, batch) == CHANGES["both"]
        assert not harmless(left_or_right, images, batch).mirror
        assert harmless(place, images, batch) == CHANGES["none"]
        constant = harmless(lambda x: {"a": torch.ones(len(x), 2)}, images, batch)
        assert constant == CHANGES["both"]
    assert harmless(brightness, images[:1], 64) == CHANGES["none"]
    vectors = torch.ones(5, 3)
    assert harmless(lambda x: {"a": x}, vectors, 5) == CHANGES["none"]


@pytest.mark.parametrize("name", ["mirror", "shift", "none"])
def test_one_change_without_the_other(name: str) -> None:
    image = torch.arange(2 * 8 * 16, dtype=torch.float32).reshape(1, 2, 8, 16) + 1
    seen = set()
    for step in range(100):
        (found,) = augmented(image, 0, step, CHANGES[name])
        seen.update(
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in range(-1, 2)
            for right in range(-2, 3)
            if torch.equal(found, moved(image[0], mirrored, down, right))
        )
    still = {(False, 0, 0)}
    expected = {
        "mirror": still | {(True, 0, 0)},
        "shift": {(False, down, right) for down in range(-1, 2) for right in range(-2, 3)},
        "none": still,
    }
    assert seen == expected[name]


def moved(image: torch.Tensor, mirrored: bool, down: int, right: int) -> torch.Tensor:
    """By hand: mirrored first, then shifted; what comes in is zero."""
    source = (image.flip(2) if mirrored else image).numpy()
    padded = np.pad(source, [(0, 0), (2, 2), (2, 2)])
    height, width = source.shape[1:]
    return torch.from_numpy(
        padded[:, 2 - down : 2 - down + height, 2 - right : 2 - right + width].copy()
    )


def test_every_epoch_has_its_own_order() -> None:
    first, second = order(0, 0, 50), order(0, 1, 50)
    assert sorted(first.tolist()) == list(range(50)) == sorted(second.tolist())
    assert first.tolist() != second.tolist()
