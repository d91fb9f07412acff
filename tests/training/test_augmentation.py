"""Augmentation draws by seed, epoch and image alone, and changes what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lapilli.compiler.errors import InputError
from lapilli.compiler.training.augmentation import augmenter, draw_seed
from lapilli.compiler.training.recipe import Augmentation

try:
    import torchvision  # noqa: F401

    missing = False
except (ImportError, RuntimeError):  # a build for another torch
    missing = True
needs_torchvision = pytest.mark.skipif(missing, reason="no torchvision that fits this torch")


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.1


def test_nothing_is_done_where_nothing_is_asked() -> None:
    x = images()
    assert augmenter(Augmentation(), 0)(x, range(6), 0) is x


def test_seeds_of_neighbours_differ() -> None:
    seeds = {draw_seed(s, e, n) for s in range(4) for e in range(50) for n in range(50)}
    assert len(seeds) == 4 * 50 * 50


@needs_torchvision
def test_an_image_is_changed_alike_in_any_batch() -> None:
    augment = augmenter(Augmentation("cifar10", 2, True, 10.0, 3), 7)
    x = images()
    whole = augment(x, range(6), 3)
    for n in range(6):
        assert torch.equal(augment(x[n : n + 1], [n], 3)[0], whole[n])
    assert not torch.equal(augment(x, range(6), 4), whole)
    assert not torch.equal(augmenter(Augmentation(crop=2), 8)(x, range(6), 3), whole)
    assert whole.shape == x.shape and float(whole.min()) >= 0 and float(whole.max()) <= 1


@needs_torchvision
def test_crops_shift_and_flips_mirror() -> None:
    x = images(200)
    for n, found in enumerate(augmenter(Augmentation(crop=2), 1)(x, range(200), 0)):
        wide = torch.nn.functional.pad(x[n], (2, 2, 2, 2))
        shifts = [wide[:, r : r + 8, c : c + 8] for r in range(5) for c in range(5)]
        assert any(torch.equal(found, shift) for shift in shifts)
    flipped = augmenter(Augmentation(flip=True), 1)(x, range(200), 0)
    mirrored = (flipped == x.flip(3)).flatten(1).all(1)
    assert ((flipped == x).flatten(1).all(1) | mirrored).all()
    assert 70 < int(mirrored.sum()) < 130


@needs_torchvision
def test_cutout_blackens_one_square() -> None:
    found = augmenter(Augmentation(cutout=4), 1)(images(100), range(100), 0)
    black = (found == 0).all(1)
    rows, columns = black.any(2).sum(1), black.any(1).sum(1)
    assert torch.equal(black.flatten(1).sum(1), rows * columns)
    assert rows.max() == columns.max() == 4 and rows.min() >= 2


def test_vectors_are_no_pictures() -> None:
    if missing:
        pytest.skip("no torchvision that fits this torch")
    with pytest.raises(InputError, match="pictures are augmented"):
        augmenter(Augmentation(flip=True), 0)(torch.zeros(2, 5), [0, 1], 0)
