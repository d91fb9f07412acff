"""Conversions in which a neuron's count is the quantised activity: a staircase of L levels."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from lapilli.compiler.activations import Clip, staircase_top
from lapilli.compiler.linear import Array, frozen
from lapilli.compiler.passes.conversion import (
    ClipRule,
    check_dynamics,
    count_range,
    input_population,
    own_start,
    step_sizes,
)
from lapilli.compiler.passes.ladder import rungs
from lapilli.compiler.passes.mixed_levels import MOST_LEVELS, check_names, counting, parse
from lapilli.compiler.passes.options import (
    check_choice,
    check_count,
    check_flag,
    check_range,
    check_text,
    help_text,
)
from lapilli.compiler.populations import Population, PopulationGraph
from lapilli.compiler.spiking import Model, SpikingPopulation, pool, readout

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import PopulationRange, Ranges


ROUNDING = 1e-6
"""Of float32 activity: it ends where the activation says, but for so much."""


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
    mixed: str = field(
        default="",
        metadata=help_text("other levels of single populations: relu=4,layer1.0.relu=16"),
    )

    def __post_init__(self) -> None:
        check_count("levels", self.levels, 1, MOST_LEVELS)
        check_choice("clip", self.clip, ("least-error", "percentile"))
        check_range("percentile", self.percentile, 50, 100)
        check_flag("per_channel", self.per_channel)
        check_count("input_bits", self.input_bits, 2, 16)
        check_text("mixed", self.mixed)
        parse(self.mixed)

    def own_levels(self, graph: PopulationGraph) -> dict[str, int]:
        """Levels of every population that counts. Raises InputError for a name in `mixed`
        that is none of them."""
        mixed = parse(self.mixed)
        check_names(mixed, graph)
        return {name: mixed.get(name, self.levels) for name in counting(graph)}


def staircase_populations(
    graph: PopulationGraph, ranges: Ranges, options: Staircase, model: Model
) -> tuple[SpikingPopulation, ...]:
    """Neurons whose count is the nearest multiple of a step to their activity.

    Of `model` where the activation is a clipped line that starts at zero, or nowhere; else ladders.
    """
    levels = options.own_levels(graph)
    made: dict[str, SpikingPopulation] = {}
    for p in graph.populations:
        if p.role == "input":
            made[p.name] = input_population(p, ranges[p.name], options.input_bits, 1)
        elif p.role == "readout":
            made[p.name] = readout(p.name, p.shape, p.bias)
        elif p.role == "max":
            made[p.name] = pool(p.name, p.shape, made[graph.into(p.name)[0].source])
        else:
            made[p.name] = _counting(p, ranges[p.name], options, levels[p.name], model)
    return tuple(made.values())


def _counting(
    p: Population, seen: PopulationRange, options: Staircase, levels: int, model: Model
) -> SpikingPopulation:
    check_dynamics(p)
    trained = staircase_top(p.activation)
    if trained is not None:  # the network says it itself
        top = frozen(trained[0] / levels)
        return SpikingPopulation(
            *(p.name, p.shape, model, top, own_start(p, 0.5), top, top, p.bias), high=levels
        )
    low, high = count_range(seen, levels)
    percentile = options.percentile if options.clip == "percentile" else None
    rule = ClipRule(options.per_channel and len(p.shape) > 1, percentile)
    step = step_sizes(seen, low, high, rule)
    straight = SpikingPopulation(p.name, p.shape, model, step, 0.5, step, step, p.bias, low, high)
    if p.role == "product":
        return replace(straight, model="product")
    assert p.activation is not None
    if isinstance(p.activation, Clip) and _saturates(p.activation, high * step):
        return straight
    return replace(straight, model="ladder", rungs=rungs(p.activation, low, high, step))


def _saturates(clip: Clip, largest: Array) -> bool:
    """Does the neuron's own saturation say it all? Counts then end where the activity does.

    largest: the activity of the largest count, which may lie far above the activity's own end where
    the other side is longer: clamp(max=1) of -50 .. 1 in steps of 10.
    """
    beyond = largest > clip.high * (1 + ROUNDING)
    return clip.low in (0.0, -math.inf) and clip.high > 0 and not beyond.any()
