"""What a network is in stock processes, before any exists: plain data, without Lava.

All tensors are flat, in C order. Positions in time are global steps, from 0; a process further down
a population's chain works one step later for each synapse between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import scipy.sparse as sp

Kind = Literal[
    "ATRLIF", "Delta", "GradedReluVec", "GradedVec", "LIF", "RingBuffer", "Sigma", "SigmaDelta"
]
"""Stock processes that send; all but RingBuffer have an input port."""


@final
@dataclass(frozen=True, eq=False)
class Stage:
    """One stock process of `size` values; parameters: its keywords beside the shape."""

    name: str
    kind: Kind
    size: int
    parameters: Mapping[str, Any]


@final
@dataclass(frozen=True, eq=False)
class Wire:
    """From one stage to another: a stock synapse, or port to port in the same step.

    matrix: (target size, source size) int32, even, -256..254, or None for no synapse; the current
    is (matrix . spikes) shifted left by `exponent`, or right (floor) where that is negative, and
    arrives 1 + delay steps after its spikes.
    """

    source: str
    target: str
    matrix: sp.csr_matrix | None
    exponent: int = 0
    delay: int = 0


@final
@dataclass(frozen=True)
class Clear:
    """A variable of a stage is set to `value` at the end of the steps offset + k * interval."""

    stage: str
    variable: str
    value: int
    offset: int


@final
@dataclass(frozen=True)
class Tap:
    """Where a population's spikes (a readout's membrane) are seen; first: step of image 0."""

    population: str
    stage: str
    first: int


@final
@dataclass(frozen=True, eq=False)
class Plan:
    """A whole network, its inputs included. interval: steps from image to image; steps: to run."""

    stages: tuple[Stage, ...]
    wires: tuple[Wire, ...]
    clears: tuple[Clear, ...]
    taps: tuple[Tap, ...]
    interval: int
    steps: int

    @property
    def processes(self) -> int:
        """Operating-system processes that a run starts, one per Lava process."""
        synapses = sum(wire.matrix is not None for wire in self.wires)
        return len(self.stages) + synapses + len(self.clears) + len(self.taps)

    @property
    def synapses(self) -> int:
        """Stored weights."""
        return sum(wire.matrix.nnz for wire in self.wires if wire.matrix is not None)
