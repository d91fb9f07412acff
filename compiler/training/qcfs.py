"""The quantised clip-floor-shift activation, with which a network is trained to be converted.

Source: Bu et al., ICLR 2022 (QCFS); case A of Hao et al., ICML 2025: a network of such layers of L
levels becomes, with the same L, a spiking one that computes the same.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from lapilli.compiler.errors import InputError
from lapilli.compiler.training.straight_through import qcfs


@final
class QCFS(nn.Module):
    """threshold / L * clip(floor(x * L / threshold + 1/2), 0, L), elementwise.

    threshold: positive, one for all or one per channel (C,) of what comes, (N, C, ...); it is
    learned, as the paper's lambda. Gradients pass the floor as if it were not there.
    Raises InputError for levels or thresholds that are not positive.
    """

    def __init__(self, levels: int, threshold: float | Tensor = 8.0) -> None:
        super().__init__()
        start = torch.as_tensor(threshold, dtype=torch.float32).detach().clone()
        if levels < 1 or start.ndim > 1 or not bool((start > 0).all()):
            raise InputError(
                "QCFS",
                "a staircase has steps, of a positive height",
                found=f"{levels} levels, threshold {start.tolist()}",
                allowed="levels >= 1, one positive threshold or one per channel",
                remedy="Correct the layer's parameters.",
            )
        self.levels = levels
        self.threshold = nn.Parameter(start)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) of any shape."""
        channels = (-1, *(1,) * (x.ndim - 2)) if self.threshold.ndim else ()
        return qcfs(x, self.threshold.reshape(channels), self.levels)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"
