"""How far outputs are from the float network's: the loss of the reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 2.0
"""Classes are compared at logits divided by this, so that the unlikely ones count, too."""
FLAT = 1e-3
"""Outputs that vary less than this fraction of the most varying one count as varying so much."""


def spread(wanted: Tensor) -> Tensor:
    """Standard deviation of each channel (N, C, ...), shaped to broadcast against an image's."""
    rows = wanted.transpose(0, 1).flatten(1)
    size = rows.std(1, correction=0)
    floor = FLAT * size.max()
    size = torch.maximum(size, floor if floor > 0 else torch.ones_like(floor))
    return size.reshape((-1,) + (1,) * (wanted.ndim - 2))


def distance(found: Tensor, wanted: Tensor, size: Tensor) -> Tensor:
    """Mean squared difference in units of `size`, and divergence of the classes; () >= 0.

    Outputs (N, C, ...) with several channels may be logits: the Kullback-Leibler divergence of
    their distributions over axis 1, at TEMPERATURE, is added. Where they are not, it still is a
    distance of the outputs, though one that leaves a common offset free.
    """
    result = ((found - wanted) / size).square().mean()
    if found.shape[1] > 1:
        theirs, ours = (
            functional.log_softmax(values / TEMPERATURE, dim=1) for values in (wanted, found)
        )
        divergence = (theirs.exp() * (theirs - ours)).sum(1).mean()
        result = result + TEMPERATURE**2 * divergence
    return result
