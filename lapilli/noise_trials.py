"""How much accuracy networks keep under noise and on imperfect hardware, side by side.

All networks see the same corrupted images, so that differences between them are those of the
networks: beside accuracies stands how often one was right where the other was wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError
from lapilli.contestants import Classes, Contestant, Images, contestant
from lapilli.corruptions import CORRUPTIONS, corrupt, unsuitable
from lapilli.robustness_report import KINDS, Cell, Duel, Robustness, about

Progress = Callable[[int, int], None]

SEEDS = 3


def robustness(
    models: Mapping[str, object],
    images: Images,
    labels: npt.NDArray[np.int64] | None,
    *,
    kinds: Sequence[str] | None = None,
    strengths: Mapping[str, Sequence[float]] | None = None,
    seeds: int = SEEDS,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    progress: Progress | None = None,
) -> Robustness:
    """Measure every network under every kind of noise at every strength.

    models: name -> Artifact or torch.nn.Module. images: (N, ...) in 0..1, before normalisation:
    artifacts apply the one they were compiled with, float networks mean and std. labels: (N,).
    kinds: of KINDS; None takes those that fit the images. strengths: per kind; others have their
    usual five. seeds: 0, 1, ... for kinds that are drawn; the same arguments give the same numbers.
    progress is called with (networks asked, in all). Raises InputError.
    """
    _check_images(images, labels)
    assert labels is not None
    chosen = _strengths(_kinds(kinds, images.shape), strengths or {}, kinds is None)
    if not models or seeds < 1:
        raise InputError(
            "robustness",
            "there are networks and seeds",
            found=f"{len(models)} networks, {seeds} seeds",
            allowed="one or more of each",
            remedy="Name a network.",
        )
    contestants = [contestant(name, model, mean, std) for name, model in models.items()]
    rounds = [
        (kind, strength, seed)
        for kind, values in chosen.items()
        for strength in values
        for seed in range(seeds if _random(kind) else 1)
    ]
    told = _Told(progress, len(contestants) * (len(rounds) + 1))
    clean = {}
    for asked in contestants:
        clean[asked.name] = int((asked.classify(images, strict=True) == labels).sum())
        told.one_more()
    right = {
        done: {
            name: found == labels
            for name, found in _classes(contestants, *done, images, told.one_more)
        }
        for done in rounds
    }
    return Robustness(
        len(images),
        seeds,
        clean,
        chosen,
        tuple(_cells(right, tuple(clean), chosen)),
        tuple(_duels(right, tuple(clean), chosen)),
    )


Right = dict[tuple[str, float, int], dict[str, npt.NDArray[np.bool_]]]


def _classes(
    contestants: Sequence[Contestant],
    kind: str,
    strength: float,
    seed: int,
    images: Images,
    done: Callable[[], None],
) -> Iterator[tuple[str, Classes]]:
    """What each network makes of the same images, or of images on hardware with the same fault."""
    seen = corrupt(kind, images, strength, seed) if kind in CORRUPTIONS else images
    for asked in contestants:
        if kind in CORRUPTIONS:
            yield asked.name, asked.classify(seen)
        else:
            yield asked.name, asked.classify_with(kind, strength, seed, images)
        done()


def _cells(
    right: Right, models: Sequence[str], chosen: Mapping[str, tuple[float, ...]]
) -> Iterator[Cell]:
    for model, kind, strength, found in (
        (model, kind, strength, _of(right, kind, strength))
        for model in models
        for kind, values in chosen.items()
        for strength in values
    ):
        correct = tuple(int(hits[model].sum()) for hits in found)
        yield Cell(model, kind, strength, len(found[0][model]), correct)


def _duels(
    right: Right, models: Sequence[str], chosen: Mapping[str, tuple[float, ...]]
) -> Iterator[Duel]:
    for kind, values in chosen.items():
        for strength in values:
            found = _of(right, kind, strength)
            for first, second in itertools.combinations(models, 2):
                only_first = sum(int((hits[first] & ~hits[second]).sum()) for hits in found)
                only_second = sum(int((hits[second] & ~hits[first]).sum()) for hits in found)
                yield Duel(kind, strength, first, second, only_first, only_second)


def _of(right: Right, kind: str, strength: float) -> list[dict[str, npt.NDArray[np.bool_]]]:
    return [hits for done, hits in right.items() if done[:2] == (kind, strength)]


def _random(kind: str) -> bool:
    return kind not in CORRUPTIONS or CORRUPTIONS[kind].random


class _Told:
    """Counts, and tells whoever wants to know."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress, self.total, self.done = progress, total, 0

    def one_more(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _check_images(images: Images, labels: npt.NDArray[np.int64] | None) -> None:
    if labels is None or labels.shape != images.shape[:1] or not len(images):
        raise InputError(
            "labels",
            "every image has a class",
            found="no labels" if labels is None else f"{labels.shape} for {images.shape[:1]}",
            allowed=f"({len(images)},), one or more",
            remedy="Use data with one label per image.",
        )
    if images.ndim < 2 or not (images.min() >= 0 and images.max() <= 1):
        raise InputError(
            "images",
            "noise is added to values in 0..1, before normalisation",
            found=f"{images.min():g}..{images.max():g} of shape {images.shape}",
            allowed="0..1 of shape (N, ...)",
            remedy="Scale the data; give the normalisation with --mean and --std.",
        )


def _kinds(kinds: Sequence[str] | None, shape: tuple[int, ...]) -> tuple[str, ...]:
    if kinds is None:
        return tuple(k for k in KINDS if k not in CORRUPTIONS or unsuitable(k, shape) is None)
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise InputError(
            "kinds",
            "every kind of noise is known",
            found=", ".join(unknown) or "none",
            allowed=", ".join(KINDS),
            remedy="Choose from these.",
        )
    return tuple(dict.fromkeys(kinds))


def _strengths(
    kinds: Sequence[str], given: Mapping[str, Sequence[float]], usual: bool
) -> dict[str, tuple[float, ...]]:
    unused = [kind for kind in given if kind not in kinds]
    if unused:
        raise InputError(
            "strengths",
            "strengths are given for kinds that are measured",
            found=", ".join(unused),
            allowed=", ".join(kinds),
            remedy="Correct the name." if usual else "Add the kind, or leave its strengths out.",
        )
    chosen = {}
    for kind in kinds:
        most = about(kind).most
        values = tuple(sorted(set(given.get(kind, about(kind).strengths))))
        if not values or not all(0 <= value <= most and np.isfinite(value) for value in values):
            raise InputError(
                f"strengths of {kind}",
                "a strength is within its range",
                found=", ".join(f"{value:g}" for value in values) or "none",
                allowed="0 or more" if np.isinf(most) else f"0..{most:g}",
                remedy=f"It is the {about(kind).unit}.",
            )
        chosen[kind] = values
    return chosen
