"""Sigma-delta conversion: every ReLU becomes a neuron that sends only what its activity changed by.

On a still image the network settles to the quantised ANN as the image passes through, one step per
layer; on a video each frame is one step, and what does not change costs nothing.
Source: O'Connor and Welling, ICLR 2017 (arXiv 1611.02024), in integers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

from lapilli.compiler.passes.conversion import convert_edges
from lapilli.compiler.passes.options import check_count, help_text
from lapilli.compiler.passes.staircase import Staircase, staircase_populations
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.spiking import SpikingGraph

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import Ranges


@final
@dataclass(frozen=True)
class SigmaDelta(Staircase):
    """Options of the sigma-delta method."""

    steps: int = field(default=1, metadata=help_text("frames of one video; 1: single images"))

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("steps", self.steps, 1, 65535)


def convert_sigma_delta(
    graph: PopulationGraph, ranges: Ranges, options: SigmaDelta
) -> SpikingGraph:
    """Sigma-delta neurons of their levels, and an input that sends its changes."""
    return SpikingGraph(
        staircase_populations(graph, ranges, options, "sigma_delta"),
        convert_edges(graph),
        steps=options.steps,
        levels=max(options.own_levels(graph).values(), default=options.levels),
        sending="changes",
        timing="changes",
    )
