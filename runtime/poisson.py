"""Images as trains of random spikes, drawn from a seed: the same for every backend.

Source: Rueckauer et al. 2016, Poisson input: in each step, a spike with a probability in proportion
to the pixel. (At most one in a step: counts are binomial.) A negative pixel's spikes are -1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import FloatArray

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact

OPTION, CHOSEN = "input", "poisson"
"""The option of a method that asks for it, as provenance keeps it."""


def encodes(artifact: Artifact, images: FloatArray) -> bool:
    """Was the network compiled for Poisson input, and are these images, not trains already?"""
    asked = dict(artifact.provenance.options).get(OPTION) == CHOSEN
    return asked and np.asarray(images).shape[1:] == artifact.netlist.input.shape


def spikes(netlist: Netlist, images: FloatArray, seed: int) -> FloatArray:
    """Trains (N, steps, *shape) for images (N, *shape); a spike is as large as the largest pixel.

    Pixels beyond the calibrated range spike in every step, so values that are not finite are left
    to `quantise_input` to refuse.
    """
    images = np.asarray(images)
    one = float(np.max(netlist.input.state_scale))
    rng = np.random.default_rng(seed)
    trains = np.empty((len(images), netlist.steps, *netlist.input.shape), np.float32)
    for image, train in zip(images.astype(np.float64), trains, strict=True):
        fired = rng.random(train.shape) < np.abs(image) / one
        train[...] = np.where(np.isfinite(image), np.sign(image) * fired * one, image)
    return trains
