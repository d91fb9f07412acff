"""What outputs say about labels: classes of images and of pixels, how many are right, overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError
from lapilli.compiler.outputs import VOID, Output

Report = dict[str, Any]
Array = npt.NDArray[Any]
Classes = npt.NDArray[np.int64]


def classes(values: Array, sigmoid: bool = False) -> Classes | None:
    """The class of each image (N,) or of each pixel (N, H, W), or None.

    values: scores (N, classes) or (N, classes, H, W), of which the largest counts, or class numbers
    (argmax). sigmoid: a single score between 0 and 1 per image or pixel is class 1 from one half.
    """
    if values.ndim in (2, 4) and values.shape[1] == 1:
        values = values[:, 0]
    elif values.ndim in (2, 4) and values.dtype.kind == "f":
        return np.asarray(values.argmax(1), np.int64)
    if values.ndim not in (1, 3):
        return None
    if values.dtype.kind == "i":
        return np.asarray(values, np.int64)
    return np.asarray(values >= 0.5, np.int64) if sigmoid else None


@final
@dataclass(frozen=True, eq=False)
class Scored:
    """Classes from one output. output: its name; else both None, and reason says why."""

    classes: Classes | None
    output: str | None
    reason: str | None = None


NOTHING = Scored(None, None)


def choose(
    outputs: Sequence[Output],
    values: Mapping[str, Array],
    labels: npt.NDArray[np.int64] | None = None,
    wanted: str | None = None,
) -> Scored:
    """The output whose classes can be compared with the labels (any, where there are none).

    wanted: its name; without it there must be one only, or several that agree. Raises InputError
    for an output that is not there.
    """
    if wanted is not None and wanted not in values:
        raise InputError(
            "score",
            "the output that is compared with the labels exists",
            found=wanted,
            allowed=", ".join(values),
            remedy="Choose one of these.",
        )
    found = {}
    for output in outputs:
        made = classes(values[output.name], output.head.kind == "sigmoid")
        fits = made is not None and (labels is None or made.shape == labels.shape)
        if made is not None and fits and wanted in (None, output.name):
            found[output.name] = made
    shapes = ", ".join(f"{name} {v.shape[1:]}" for name, v in values.items())
    if not found:
        what = "no output gives classes"
        if labels is not None:
            what += " of an image" if labels.ndim == 1 else f" of {labels.shape[1:]} pixels"
        return Scored(None, None, f"{what}: {shapes}")
    name, first = next(iter(found.items()))
    if any(not np.array_equal(first, other) for other in found.values()):
        return Scored(None, None, f"several outputs give classes ({', '.join(found)}): choose one")
    return Scored(first, name)


def accuracy(predictions: Classes | None, labels: Classes | None) -> Report | None:
    """{"correct", "images", "fraction"}, or None without labels or classes of whole images."""
    if predictions is None or labels is None or predictions.shape != labels.shape:
        return None
    if labels.ndim != 1:
        return None
    correct = int((predictions == labels).sum())
    return {"correct": correct, "images": len(labels), "fraction": correct / len(labels)}


def segmentation(predictions: Classes | None, labels: Classes | None) -> Report | None:
    """Pixels that are right, and the intersection over union, as mean over the classes that occur.

    {"correct", "pixels", "fraction", "mean_iou", "classes"}; None without maps of both. Pixels
    labelled VOID count nowhere, unless there is such a class.
    """
    if predictions is None or labels is None or predictions.shape != labels.shape:
        return None
    if labels.ndim != 3:
        return None
    known = (labels != VOID) | (predictions.max(initial=0) >= VOID)
    truth, guess = labels[known], predictions[known]
    right = truth == guess
    size = int(max(truth.max(initial=0), guess.max(initial=0))) + 1
    both = np.bincount(truth[right], minlength=size)
    either = np.bincount(truth, minlength=size) + np.bincount(guess, minlength=size) - both
    occurs = either > 0
    return {
        "correct": int(right.sum()),
        "pixels": int(right.size),
        "fraction": float(right.mean()) if right.size else 0.0,
        "mean_iou": float((both[occurs] / either[occurs]).mean()) if right.size else 0.0,
        "classes": int(occurs.sum()),
    }


def summary(outputs: Sequence[Output], values: Mapping[str, Array]) -> list[Report]:
    """Name, head, shape of one image, smallest and largest value of every output."""
    return [
        {
            "name": output.name,
            "head": output.head.kind,
            "shape": list(values[output.name].shape[1:]),
            "min": values[output.name].min().item(),
            "max": values[output.name].max().item(),
        }
        for output in outputs
    ]
