"""A small network trained on the digits, searched in Python and by command (`build`)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import lapilli
from lapilli import data, digits
from lapilli.search_run import Search

LEVELS = (2, 3, 4, 6, 8, 12)
TARGET = 90
Images = Any


def build() -> nn.Module:
    """Two convolutions, one of them pooled, and two layers; (N, 1, 8, 8) -> (N, 10)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(128, 16), nn.ReLU(), nn.Linear(16, 10)),
    )


def network() -> nn.Module:
    """Two convolutions and two layers, trained for a moment on the digits."""
    torch.manual_seed(3)
    model = build()
    train = data.load("digits", split="train")
    images, labels = torch.from_numpy(train.images), torch.from_numpy(np.array(train.labels))
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    with digits.one_thread():
        for step in range(150):
            part = slice(step % 14 * 96, step % 14 * 96 + 96)
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
            optimiser.step()
    return model.eval()


trained = functools.cache(network)


@functools.cache
def images(split: data.Split, limit: int | None = None) -> data.Dataset:
    """The digits."""
    return data.load("digits", split=split, limit=limit)


def files(folder: Path, methods: Mapping[str, object], **profiles: str) -> dict[str, Path]:
    """A model file of each method, named like it; profiles: chips of some, else loihi2."""
    found = {name: folder / f"{name}.h5" for name in methods}
    calibration = images("train", 64).images
    for name, method in methods.items():
        lapilli.compile(
            trained(),
            calibration=calibration,
            method=method,
            profile=profiles.get(name, "loihi2"),
        ).save(found[name])
    return found


def search(model: nn.Module | None = None, **wanted: Any) -> Search:
    """A quick search on the test images, with other arguments where `wanted` has them."""
    test = images("test")
    given: dict[str, Any] = {
        "calibration": images("train", 128).images,
        "held_out": (test.images, test.labels),
        "levels": LEVELS,
        "codings": ("graded",),
    }
    return lapilli.search(trained() if model is None else model, **{**given, **wanted})


def few() -> tuple[Any, Any]:
    """Some test images, with their labels."""
    test = images("test", 80)
    return test.images, test.labels


found = functools.cache(lambda: search(target_accuracy=TARGET))
"""Of a search for TARGET, made once."""
