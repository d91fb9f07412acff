"""Means and variances of BatchNorm, measured with the weights that training ends with.

While weights change, BatchNorm follows the batches by a moving average, which at the end rests on
the last few of them and on weights that are gone. Source: Wu and Johnson 2021 ("Rethinking 'Batch'
in BatchNorm": PreciseBN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def following(network: nn.Module) -> list[_BatchNorm]:
    """Its normalisations whose statistics follow the batches: those in training mode."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    return [norm for norm in norms if norm.training and norm.track_running_stats]


@contextmanager
def measured_anew(norms: Sequence[_BatchNorm], mean: Callable[[Tensor], Any]) -> Iterator[None]:
    """The plain mean over the batches that pass within, without gradients.

    mean: over all processes.
    """
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # type: ignore[assignment, unused-ignore]  # the plain mean
    try:
        with torch.no_grad():
            yield
            for norm in norms:
                for measured in (norm.running_mean, norm.running_var):
                    if measured is not None:
                        measured.copy_(mean(measured))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
