"""Test images as a compiled network takes them, for the commands that run one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact
    from lapilli.data import Dataset, Split
    from lapilli.terminal import Count


def images(
    artifact: Artifact, spec: str, limit: int | None, bar: Callable[[str], Count]
) -> Dataset:
    """Test images, normalised as those that the network was compiled with."""
    from lapilli import data

    split: Split = "test"
    dataset = data.load(spec, split=split, limit=limit, progress=bar("reading images"))
    p = artifact.provenance
    if not p.input_mean:
        return dataset
    return replace(dataset, images=data.normalise(dataset.images, p.input_mean, p.input_std))
