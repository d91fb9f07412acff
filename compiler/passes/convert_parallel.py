"""Parallel conversion: every ReLU becomes a window neuron of L levels.

Source: Hao et al., ICML 2025 (arXiv 2412.13610), case C (training-free); thresholds per channel by
least squared rounding error instead of the running maximum.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

from lapilli.compiler.linear import frozen
from lapilli.compiler.passes.conversion import clip_values, convert_edges, input_population
from lapilli.compiler.passes.options import (
    check_choice,
    check_count,
    check_flag,
    check_range,
    help_text,
)
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.spiking import SpikingGraph, SpikingPopulation, readout

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import Ranges


@final
@dataclass(frozen=True)
class Parallel:
    """Options of the parallel method."""

    levels: int = field(default=8, metadata=help_text("activation levels L of every neuron"))
    coding: Literal["graded", "unary"] = field(
        default="graded",
        metadata=help_text(
            "send n as one graded spike (Loihi 2, latency = depth) or as n unary spikes",
            ("graded", "unary"),
        ),
    )
    clip: Literal["least-error", "percentile"] = field(
        default="least-error",
        metadata=help_text(
            "how the largest activity is chosen: least squared rounding error, or a percentile",
            ("least-error", "percentile"),
        ),
    )
    percentile: float = field(
        default=99.9, metadata=help_text("percentile of activity for --clip percentile")
    )
    per_channel: bool = field(
        default=True, metadata=help_text("one threshold per channel of a feature map")
    )
    input_bits: int = field(default=8, metadata=help_text("bits of the quantised input"))

    def __post_init__(self) -> None:
        check_count("levels", self.levels, 1, 255)
        check_choice("coding", self.coding, ("graded", "unary"))
        check_choice("clip", self.clip, ("least-error", "percentile"))
        check_range("percentile", self.percentile, 50, 100)
        check_flag("per_channel", self.per_channel)
        check_count("input_bits", self.input_bits, 2, 16)


def convert_parallel(graph: PopulationGraph, ranges: Ranges, options: Parallel) -> SpikingGraph:
    """Window neurons of options.levels levels; the float network's ReLU becomes a staircase."""
    populations = []
    for p in graph.populations:
        if p.role == "input":
            populations.append(input_population(p, ranges[p.name], options.input_bits, 1))
            continue
        if p.role == "readout":
            populations.append(readout(p.name, p.shape, p.bias))
            continue
        clip = clip_values(
            ranges[p.name],
            per_channel=options.per_channel and len(p.shape) > 1,
            percentile=options.percentile if options.clip == "percentile" else None,
            over="all",
            levels=options.levels,
        )
        step = frozen(clip / options.levels)
        populations.append(
            SpikingPopulation(p.name, p.shape, "window", step, 0.5, step, step, p.bias)
        )
    return SpikingGraph(
        tuple(populations),
        convert_edges(graph),
        steps=1 if options.coding == "graded" else options.levels,
        levels=options.levels,
        sending=options.coding,
        hold=False,
    )
