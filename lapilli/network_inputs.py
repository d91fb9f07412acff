"""Test images as a compiled network takes them, for the commands that run one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

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
    return replace(dataset, images=normalised(artifact, dataset.images))


def normalised(artifact: Artifact, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The images (N, ...) with the normalisation that the network was compiled with, if any."""
    from lapilli import data

    p = artifact.provenance
    return data.normalise(pixels, p.input_mean, p.input_std) if p.input_mean else pixels


def integers(artifact: Artifact, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """What the network's input sends for images, as `lapilli.run` makes it of them (seed 0)."""
    from lapilli.runtime import poisson, quantise_input

    if poisson.encodes(artifact, pixels):
        pixels = poisson.spikes(artifact.netlist, pixels, 0)
    return quantise_input(artifact.netlist, pixels)[0]
