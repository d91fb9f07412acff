"""Max pooling of spike trains as published: the spikes of the input with the highest rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.counted_inputs import CountedInputs


@final
@dataclass(frozen=True, eq=False)
class RateGate(CountedInputs):
    """counts[k] += s[k]; s = s[k] of the largest count, of the first one among equals.

    Source: Rueckauer et al. 2016: only the spikes of the input with the highest rate estimate pass,
    here its count so far, this step included. Where the lead changes, too many or too few pass: 64
    for two inputs that fire 32 times each, in turns. `RateMax` is exact. The unit of the quantised
    ANN is the limit of long windows. See `CountedInputs` for how spikes arrive.
    """

    def sent(self, counts: Array, bits: Array) -> Array:
        leader = np.argmax(counts, axis=0)[np.newaxis]
        return np.asarray(np.take_along_axis(bits, leader, axis=0)[0])
