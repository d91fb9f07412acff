"""How far outputs are from the float network's: the loss of the reconstruction."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torch.nn import functional

TEMPERATURE = 0.3
"""Classes are compared at outputs divided by this part of their spread: logits of trained networks
spread by 4 to 7, so that it comes to the usual temperature of 2."""
DIVERGENCE = 4.0
"""Weight of the divergence: the square of the usual temperature (Hinton et al. 2015)."""
DIFFERENCE = 0.1
"""Weight of the squared difference beside the divergence."""
FLAT = 1e-3
"""Outputs that vary less than this fraction of the most varying one count as varying so much."""


@final
class Spread:
    """Standard deviation of outputs per channel, from batches of them."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: tuple[Tensor, Tensor] | None = None
        self._shape: tuple[int, ...] = ()

    def add(self, outputs: Tensor) -> None:
        """Outputs (N, C, ...), N >= 1."""
        rows = outputs.transpose(0, 1).flatten(1).double()
        first, second = self._sums or (0.0, 0.0)
        self._sums = first + rows.sum(1), second + rows.square().sum(1)
        self._count += rows.shape[1]
        self._shape = (-1,) + (1,) * (outputs.ndim - 2)

    def size(self) -> Tensor:
        """The deviations, positive, in the shape that broadcasts against one image's outputs."""
        assert self._sums is not None, "there is at least one batch"
        mean, square = (values / self._count for values in self._sums)
        size = (square - mean.square()).clamp_min(0).sqrt()
        floor = FLAT * size.max()
        size = torch.maximum(size, floor if floor > 0 else torch.ones_like(floor))
        return size.float().reshape(self._shape)


def distance(found: Tensor, wanted: Tensor, size: Tensor) -> Tensor:
    """Mean squared difference in units of `size`, and divergence of the classes; () >= 0.

    Outputs (N, C, ...) with several channels may be logits: the Kullback-Leibler divergence of
    their distributions over axis 1 is added. Where they are not, it still is a distance of the
    outputs, though one that leaves a common offset free. The unit of the outputs plays no part.
    """
    result = ((found - wanted) / size).square().mean()
    if found.shape[1] > 1:
        unit = TEMPERATURE * size.mean()
        theirs, ours = (functional.log_softmax(v / unit, dim=1) for v in (wanted, found))
        divergence = (theirs.exp() * (theirs - ours)).sum(1).mean()
        result = DIFFERENCE * result + DIVERGENCE * divergence
    return result
