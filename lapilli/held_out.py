"""Images that a search measures on: none of them was used for calibration."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@final
@dataclass(frozen=True, eq=False)
class HeldOut:
    """images (N, ...); labels (N,) or (N, H, W), or None: the float network's classes then."""

    images: Images
    labels: Labels | None


def divided(
    images: Images, labels: npt.NDArray[Any] | None, given: HeldOut | None, seed: int
) -> tuple[Images, HeldOut]:
    """Calibration images, and held-out ones.

    given: these are held out, but for those that are calibration images; without them one half of
    `images` is, drawn by seed, with its labels. Raises InputError where nothing is left.
    """
    if given is None:
        labels = _checked(labels, images, "labels")
        order = np.random.default_rng(seed).permutation(len(images))
        out, kept = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
        if len(out) == 0:
            raise _none(f"{len(images)} images to calibrate on and to measure on")
        return images[kept], HeldOut(images[out], None if labels is None else labels[out])
    labels = _checked(given.labels, given.images, "held-out labels")
    seen = {_digest(image) for image in images}
    fresh = np.array([_digest(image) not in seen for image in given.images], bool)
    if not fresh.any():
        raise _none(f"{len(given.images)} held-out images, all of them calibration images")
    return images, HeldOut(given.images[fresh], None if labels is None else labels[fresh])


def _checked(labels: npt.NDArray[Any] | None, images: Images, where: str) -> Labels | None:
    if labels is None:
        return None
    found = np.asarray(labels)
    if len(found) != len(images) or found.ndim not in (1, 3) or found.dtype.kind not in "iu":
        raise InputError(
            where,
            "there is one class number per image, or per pixel",
            found=f"{found.dtype} of shape {found.shape} for {len(images)} images",
            allowed=f"integers ({len(images)},) or ({len(images)}, height, width)",
            remedy="Give the labels of these images, or none.",
        )
    return found.astype(np.int64)


def _digest(image: Images) -> bytes:
    return hashlib.sha256(np.asarray(image, "<f4").tobytes()).digest()


def _none(found: str) -> InputError:
    return InputError(
        "held-out images",
        "candidates are measured on images that were not used for calibration",
        found=found,
        allowed="at least one image that is no calibration image",
        remedy="Give more images, or others to measure on.",
    )
