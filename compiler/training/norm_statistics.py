"""Means and variances of BatchNorm, measured with the weights that training ends with.

While weights change, BatchNorm follows the batches by a moving average, which at the end rests on
the last few of them and on weights that are gone. Rounded activations pass such errors on. Source:
Wu and Johnson 2021 ("Rethinking 'Batch' in BatchNorm", section 3: PreciseBN).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def measured_anew(network: nn.Module, mean: Callable[[Tensor], Any]) -> Iterator[None]:
    """The plain mean over the batches that pass within, in training mode, without gradients.

    mean: over all processes. Normalisations in evaluation mode keep what they have.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and _follows(m)]
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


def _follows(norm: _BatchNorm) -> bool:
    return norm.training and norm.track_running_stats
