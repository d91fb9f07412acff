"""Noise on images: what each kind is, measured."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from lapilli.compiler.errors import InputError
from lapilli.compiler.numerics import half_up
from lapilli.corruptions import CORRUPTIONS, corrupt

Images = npt.NDArray[np.float32]
SEED = 5


def flat(value: float, images: int = 64) -> Images:
    return np.full((images, 3, 16, 16), value, np.float32)


@pytest.fixture(scope="module")
def pictures() -> Images:
    """Coloured images over the whole range, the extremes included."""
    images = np.random.default_rng(0).random((8, 3, 16, 16)).astype(np.float32)
    images[0, :, 0, :2] = 0, 1
    return images


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_keeps_shape_type_range_and_seed(kind: str, pictures: Images) -> None:
    strongest = CORRUPTIONS[kind].strengths[-1]
    before = pictures.copy()
    found = corrupt(kind, pictures, strongest, SEED)
    assert (found.shape, found.dtype) == (pictures.shape, np.float32)
    assert 0 <= found.min() < found.max() <= 1
    assert not np.array_equal(found, pictures)
    assert np.array_equal(pictures, before)
    assert found.tobytes() == corrupt(kind, pictures, strongest, SEED).tobytes()
    other = corrupt(kind, pictures, strongest, SEED + 1)
    assert np.array_equal(found, other) != CORRUPTIONS[kind].random


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_no_strength_is_no_corruption(kind: str, pictures: Images) -> None:
    assert corrupt(kind, pictures, 0, SEED).tobytes() == pictures.tobytes()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_stronger_is_further_away(kind: str, pictures: Images) -> None:
    strengths = CORRUPTIONS[kind].strengths
    assert len(strengths) == 5
    away = [np.abs(corrupt(kind, pictures, s, SEED) - pictures).mean() for s in strengths]
    assert away == sorted(away)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("gaussian", 0.5, 0.1),
        ("gaussian", 0.25, 0.05),
        ("speckle", 0.25, 0.25 * 0.4),
        ("speckle", 0.5, 0.5 * 0.2),
        ("poisson", 0.25, 0.1 * 0.5),
        ("poisson", 0.64, 0.05 * 0.8),
    ],
)
def test_noise_has_the_deviation_that_it_says(kind: str, value: float, expected: float) -> None:
    strength = {"gaussian": expected, "speckle": expected / value}.get(kind, expected / value**0.5)
    noise = corrupt(kind, flat(value), strength, SEED).astype(np.float64) - value
    n = noise.size
    assert abs(noise.mean()) < 5 * expected / n**0.5
    assert abs(noise.std() / expected - 1) < 5 / (2 * n) ** 0.5
    # Every value has noise of its own: neighbours and channels know nothing of each other.
    assert abs((noise[:, 0] * noise[:, 1]).mean()) < 5 * expected**2 / (n / 3) ** 0.5


def test_photons_are_counted() -> None:
    found = corrupt("poisson", flat(0.3), 0.1, SEED).astype(np.float64)
    counts = found * 100
    assert np.abs(counts - half_up(counts)).max() < 1e-4
    assert abs(counts.var() / counts.mean() - 1) < 0.05
    assert not corrupt("poisson", flat(0), 0.3, SEED).any()


def test_salt_and_pepper_hit_whole_pixels_equally() -> None:
    share, value = 0.1, 0.25
    found = corrupt("salt-and-pepper", flat(value), share, SEED)
    assert set(np.unique(found)) == {0, np.float32(value), 1}
    assert (found == found[:, :1]).all()
    n = found[:, 0].size
    white, black = ((found[:, 0] == level).mean() for level in (1, 0))
    slack = 5 * (share / 2 / n) ** 0.5
    assert abs(white - share / 2) < slack
    assert abs(black - share / 2) < slack
    assert (found[:, 0] != value).any((1, 2)).mean() > 0.9


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 1.0])
def test_a_rectangle_covers_its_share(share: float) -> None:
    found = corrupt("occlusion", np.full((200, 1, 16, 12), 1, np.float32), share, SEED)
    hidden = found[:, 0] == 0.5
    areas = hidden.sum((1, 2))
    assert (areas == areas[0]).all()
    assert abs(areas[0] / (16 * 12) - share) < 0.025
    rows, columns = hidden.any(2).sum(1), hidden.any(1).sum(1)
    assert (rows * columns == areas).all()
    # Anywhere, up to the borders.
    assert hidden.any((0, 1)).all()
    assert hidden.any((0, 2)).all()
    assert len({plane.tobytes() for plane in hidden}) > (1 if share == 1 else 30) - 1


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_pillows_own(channels: int, pictures: Images) -> None:
    images = pictures[:2, :channels]
    for found, image in zip(corrupt("jpeg", images, 70, SEED), images, strict=True):
        pixels = half_up(255.0 * image).astype(np.uint8).transpose(1, 2, 0)
        file = io.BytesIO()
        Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(file, "JPEG", quality=30)
        opened = np.asarray(Image.open(file)).reshape(pixels.shape).transpose(2, 0, 1)
        assert np.array_equal(found, opened.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    ("kind", "shape", "strength", "rule"),
    [
        ("fog", (2, 1, 8, 8), 0.1, "kind is known"),
        ("jpeg", (2, 64), 50, "height and a width"),
        ("occlusion", (2, 1, 64), 0.1, "height and a width"),
        ("jpeg", (2, 2, 8, 8), 50, "grey or colour"),
        ("jpeg", (2, 1, 8, 8), 100, "strength is within"),
        ("gaussian", (2, 64), -0.1, "strength is within"),
        ("salt-and-pepper", (2, 64), 1.1, "strength is within"),
        ("speckle", (2, 64), float("nan"), "strength is within"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(
    kind: str, shape: tuple[int, ...], strength: float, rule: str
) -> None:
    with pytest.raises(InputError, match=rule):
        corrupt(kind, np.zeros(shape, np.float32), strength, SEED)


def test_a_row_of_numbers_takes_noise_but_no_occlusion() -> None:
    rows = np.full((4, 64), 0.5, np.float32)
    for kind in ("gaussian", "salt-and-pepper", "speckle", "poisson"):
        assert not np.array_equal(corrupt(kind, rows, 0.2, SEED), rows)
