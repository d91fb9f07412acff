"""Noise on images: what a camera, a lens cap and a file format do to them.

Images are float32 (N, C, H, W), or (N, ...) where a kind needs no plane, with values in 0..1, as
`lapilli.data` gives them: before any normalisation. Results have the same shape, type and range; a
strength of 0 gives back the very same values. The same random numbers serve every strength, so that
a stronger corruption is the same one, only stronger.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from lapilli.compiler.errors import InputError
from lapilli.compiler.numerics import half_up, round_down

Images = npt.NDArray[np.float32]
Corrupt = Callable[[Images, float, np.random.Generator], Images]

GREY = 0.5
JPEG_BEST = 100


def gaussian(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """x + strength * z, z standard normal per value."""
    noise = rng.standard_normal(images.shape, np.float32)
    return _clipped(images + np.float32(strength) * noise)


def speckle(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """x + x * strength * z, z standard normal per value: noise that grows with the signal."""
    noise = rng.standard_normal(images.shape, np.float32)
    return _clipped(images + images * (np.float32(strength) * noise))


def poisson(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Photons counted: Poisson(x * n) / n with n = 1 / strength**2 photons for a white value.

    So strength is the standard deviation at x = 1, and the variance at x is x * strength**2.
    """
    if strength == 0:
        return images
    photons = 1 / strength**2
    return _clipped(rng.poisson(images * photons) / photons)


def salt_and_pepper(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """A share of the pixels, all channels together, becomes white or black, with equal chances."""
    place = (len(images), 1, *images.shape[2:]) if images.ndim > 2 else images.shape
    hit, white = rng.random(place), rng.random(place) < 0.5
    return np.where(hit < strength, white.astype(np.float32), images)


def occlusion(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """A grey rectangle, about as wide as high, covers a share of the area, anywhere within."""
    size = np.array(images.shape[-2:])
    area = strength * size.prod()
    high = half_up(size[0] * math.sqrt(strength))
    side = np.array([high, np.minimum(half_up(area / np.maximum(high, 1)), size[1])])
    first = round_down(rng.random((len(images), 2)) * (size - side + 1))
    covered = np.ones((len(images), 1, 1, 1), bool)
    for axis, shape in enumerate(((-1, 1), (1, -1))):
        place = np.arange(size[axis])
        start = first[:, axis, None]
        within = (place >= start) & (place < start + side[axis])
        covered = covered & within.reshape(len(images), 1, *shape)
    return np.where(covered, np.float32(GREY), images)


def jpeg(images: Images, strength: float, rng: np.random.Generator) -> Images:
    """Compressed and opened again, quality 100 - strength; one image at a time."""
    if strength == 0:
        return images
    quality = int(half_up(JPEG_BEST - strength))
    pixels = half_up(255 * images.astype(np.float64)).astype(np.uint8).transpose(0, 2, 3, 1)
    found = np.empty_like(pixels)
    for picture, target in zip(pixels, found, strict=True):
        file = io.BytesIO()
        Image.fromarray(picture.squeeze(-1) if picture.shape[-1] == 1 else picture).save(
            file, "JPEG", quality=quality
        )
        with Image.open(file) as opened:
            target[...] = np.asarray(opened).reshape(target.shape)
    back = found.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(back)


@final
@dataclass(frozen=True)
class Corruption:
    """One kind of noise. strengths: five, of which the middle one is the usual; unit: of strength.

    most: the largest strength; source: where the kind and its strengths come from. random: is it
    drawn, so that seeds differ? plane: does it need images (N, C, H, W)? channels: those that it
    takes, or any.
    """

    apply: Corrupt
    strengths: tuple[float, ...]
    unit: str
    source: str
    most: float = math.inf
    random: bool = True
    plane: bool = False
    channels: tuple[int, ...] = ()


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian": Corruption(
            gaussian,
            (0.02, 0.05, 0.1, 0.15, 0.2),
            "standard deviation, of 0..1",
            "sensor noise; CIFAR-10-C has 0.04 to 0.1",
        ),
        "salt-and-pepper": Corruption(
            salt_and_pepper,
            (0.01, 0.02, 0.05, 0.07, 0.1),
            "share of the pixels",
            "defective pixels; CIFAR-10-C has 0.01 to 0.07, of single values",
            most=1.0,
        ),
        "speckle": Corruption(
            speckle,
            (0.06, 0.15, 0.25, 0.35, 0.5),
            "standard deviation, of the value",
            "coherent light; CIFAR-10-C has 0.06 to 0.2",
        ),
        "poisson": Corruption(
            poisson,
            (0.05, 0.1, 0.15, 0.2, 0.3),
            "standard deviation at white",
            "photons counted, 400 to 11 for a white pixel; CIFAR-10-C has 0.045 to 0.14",
        ),
        "occlusion": Corruption(
            occlusion,
            (0.05, 0.1, 0.2, 0.3, 0.4),
            "share of the area",
            "something in front; a grey square as in Zeiler and Fergus 2014",
            most=1.0,
            plane=True,
        ),
        "jpeg": Corruption(
            jpeg,
            (20, 50, 70, 80, 90),
            "100 - quality",
            "file format; CIFAR-10-C has 20 to 60",
            most=JPEG_BEST - 1,
            random=False,
            plane=True,
            channels=(1, 3),
        ),
    }
)
"""Every kind; the tests are total over it.

CIFAR-10-C: Hendrycks and Dietterich 2019, as the code of its authors makes it; our strengths go
further, so that something is lost."""


def corrupt(kind: str, images: Images, strength: float, seed: int) -> Images:
    """Images (N, ...) in 0..1 with noise of one kind; the same seed gives the same noise.

    Raises InputError for an unknown kind, a strength out of range, and images that the kind cannot
    be applied to (`unsuitable`).
    """
    if kind not in CORRUPTIONS:
        raise InputError(
            "corruption",
            "the kind is known",
            found=kind,
            allowed=", ".join(CORRUPTIONS),
            remedy="Choose one of these.",
        )
    corruption = CORRUPTIONS[kind]
    wrong = unsuitable(kind, images.shape)
    if wrong is not None:
        raise InputError(
            f"corruption {kind}",
            wrong,
            found=images.shape,
            allowed="(N, C, H, W)" if not corruption.channels else "(N, 1 or 3, H, W)",
            remedy=f"Leave {kind} out.",
        )
    if not 0 <= strength <= corruption.most or not math.isfinite(strength):
        raise InputError(
            f"corruption {kind}",
            "the strength is within its range",
            found=strength,
            allowed="0 or more" if math.isinf(corruption.most) else f"0..{corruption.most:g}",
            remedy=f"It is the {corruption.unit}.",
        )
    return corruption.apply(images, strength, generator(kind, seed))


def unsuitable(kind: str, shape: tuple[int, ...]) -> str | None:
    """The rule that images of this shape break, or None."""
    corruption = CORRUPTIONS[kind]
    if corruption.plane and len(shape) != 4:
        return "this kind needs images with a height and a width"
    if corruption.channels and shape[1] not in corruption.channels:
        return "this kind needs grey or colour images"
    return None


def generator(kind: str, seed: int) -> np.random.Generator:
    """Random numbers of one kind: no kind moves when another one is left out."""
    return np.random.default_rng((seed, zlib.crc32(kind.encode())))


def _clipped(images: npt.NDArray[np.floating[Any]]) -> Images:
    kept: Images = np.clip(images, 0, 1).astype(np.float32)
    return kept
