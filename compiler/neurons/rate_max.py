"""Max pooling of spike trains in any order: as many spikes as the busiest input has sent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons.counted_inputs import CountedInputs


@final
@dataclass(frozen=True, eq=False)
class RateMax(CountedInputs):
    """counts[k] += s[k]; s = 1 where the largest of the counts has grown.

    A maximum grows by one at most, so that at every step as many spikes have been sent as the
    busiest input had: the count of a window is the maximum, exactly. See `CountedInputs` for how
    spikes arrive, and `RateGate` for the published rule.
    """

    def sent(self, counts: Array, bits: Array) -> Array:
        return np.asarray(counts.max(axis=0) > (counts - bits).max(axis=0))
