"""Conversions in which a neuron's count is the quantised activity: a staircase of L levels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from lapilli.compiler.linear import frozen
from lapilli.compiler.passes.conversion import clip_values, input_population
from lapilli.compiler.passes.options import (
    check_choice,
    check_count,
    check_flag,
    check_range,
    help_text,
)
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.spiking import Model, SpikingPopulation, readout

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import Ranges


@dataclass(frozen=True)
class Staircase:
    """Options of every method whose neurons count to L."""

    levels: int = field(default=8, metadata=help_text("activation levels L of every neuron"))
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
        check_choice("clip", self.clip, ("least-error", "percentile"))
        check_range("percentile", self.percentile, 50, 100)
        check_flag("per_channel", self.per_channel)
        check_count("input_bits", self.input_bits, 2, 16)


def staircase_populations(
    graph: PopulationGraph, ranges: Ranges, options: Staircase, model: Model
) -> tuple[SpikingPopulation, ...]:
    """Neurons of `model` whose threshold is a level's height and whose count is the level."""
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
        populations.append(SpikingPopulation(p.name, p.shape, model, step, 0.5, step, step, p.bias))
    return tuple(populations)
