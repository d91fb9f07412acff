"""What the reader of a comparison should know, in words: chance, bands, chips, twins."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from lapilli.compare_report import COSTS, Compared


def notes(
    rows: Sequence[Compared],
    chips: Mapping[str, Sequence[str]],
    images: int,
    measure: str | None,
    against: str,
    without: Sequence[str],
) -> Iterator[str]:
    """What a reader should know; chips: names of the networks that each one's constants price."""
    if without:
        yield f"Left out on request: {', '.join(without)}."
    if measure is None:
        yield "Without labels there is no accuracy, and so no front."
    elif measure == "accuracy":
        yield _chance(max(row.correct or 0 for row in rows), images)
    if measure is not None and COSTS[against].figure is not None:
        yield (
            "The front is that of the mid figures; the share beside it says in how many draws of "
            "the constants a network is on it."
        )
    if any(len(names) > 1 for names in chips.values()):
        yield (
            "Bands of networks on one chip overlap because they rest on the same constants; "
            "ratios and shares take the same draw for all of them."
        )
    if len(chips) > 1:
        several = "; ".join(f"{name}: {', '.join(names)}" for name, names in chips.items())
        yield f"Constants of different chips err independently ({several})."
    twins: dict[str, list[str]] = {}
    for row in rows:
        twins.setdefault(row.hash, []).append(row.name)
    for names in twins.values():
        if len(names) > 1:
            yield f"The same network in several files: {', '.join(names)}."


def _chance(correct: int, images: int) -> str:
    """How far so many images leave the accuracy open.

    >>> _chance(90, 100)
    'One standard error of the best accuracy is 3.00 points on 100 images.'
    >>> _chance(100, 100)
    'The best network is right on all 100 images; so is one of 97.05 %, one time in 20.'
    >>> _chance(0, 100)
    'No network is right on any of 100 images; so is one of 2.95 %, one time in 20.'
    """
    far = 100 * 0.05 ** (1 / images)
    if correct == 0:
        return (
            f"No network is right on any of {images:,} images; so is one of {100 - far:.2f} %, "
            "one time in 20."
        )
    if correct == images:
        return (
            f"The best network is right on all {images:,} images; so is one of {far:.2f} %, "
            "one time in 20."
        )
    score = correct / images
    error = 100 * math.sqrt(score * (1 - score) / images)
    return f"One standard error of the best accuracy is {error:.2f} points on {images:,} images."
