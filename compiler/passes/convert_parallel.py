"""Parallel conversion: every ReLU becomes a window neuron of L levels.

Source: Hao et al., ICML 2025 (arXiv 2412.13610), case C (training-free); thresholds per channel by
least squared rounding error instead of the running maximum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

from lapilli.compiler.passes.conversion import convert_edges
from lapilli.compiler.passes.options import check_choice, help_text
from lapilli.compiler.passes.staircase import Staircase, staircase_populations
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.spiking import SpikingGraph

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import Ranges


@final
@dataclass(frozen=True)
class Parallel(Staircase):
    """Options of the parallel method."""

    coding: Literal["graded", "unary"] = field(
        default="graded",
        metadata=help_text(
            "send n as one graded spike (Loihi 2, latency = depth) or as n unary spikes",
            ("graded", "unary"),
        ),
    )

    order: Literal["first", "last"] = field(
        default="first",
        metadata=help_text(
            "with unary spikes: in the first steps of a window, or in the last ones as published",
            ("first", "last"),
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("order", self.order, ("first", "last"))
        check_choice("coding", self.coding, ("graded", "unary"))


def convert_parallel(graph: PopulationGraph, ranges: Ranges, options: Parallel) -> SpikingGraph:
    """Window neurons of their levels; the float network's ReLU becomes a staircase.

    A window of unary spikes has as many steps as the largest level.
    """
    most = max(options.own_levels(graph).values(), default=options.levels)
    return SpikingGraph(
        staircase_populations(graph, ranges, options, "window"),
        convert_edges(graph),
        steps=1 if options.coding == "graded" else most,
        levels=most,
        sending=options.coding,
        timing="first",
        order=options.order,
    )
