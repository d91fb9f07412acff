"""Rate coding: every ReLU becomes an integrate-and-fire neuron.

Source: Rueckauer et al. 2016 (arXiv 1612.04052): percentile normalisation of weights and biases,
analog input, reset by subtraction or to zero. The normalisation W~ = W lambda_in / lambda_out,
b~ = b / lambda_out is carried by the spike amplitude lambda_in and the threshold lambda_out.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from lapilli.compiler.linear import frozen
from lapilli.compiler.passes.conversion import (
    ClipRule,
    check_dynamics,
    clipped_line,
    convert_edges,
    depths,
    input_population,
    line_steps,
    own_start,
)
from lapilli.compiler.passes.options import (
    check_choice,
    check_count,
    check_flag,
    check_range,
    help_text,
)
from lapilli.compiler.populations import Population, PopulationGraph
from lapilli.compiler.spiking import Model, SpikingGraph, SpikingPopulation, pool, readout

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import PopulationRange, Ranges


@final
@dataclass(frozen=True)
class Rate:
    """Options of the rate method."""

    steps: int = field(default=64, metadata=help_text("time steps T per image"))
    percentile: float = field(
        default=99.9, metadata=help_text("percentile of activity that maps to the full rate")
    )
    percentile_step: float = field(
        default=0.0,
        metadata=help_text("the percentile falls by so much from layer to layer (down to 50)"),
    )
    over: Literal["all", "positive"] = field(
        default="all",
        metadata=help_text("take the percentile over all or positive values", ("all", "positive")),
    )
    initial: Literal["half", "even", "zero"] = field(
        default="half",
        metadata=help_text(
            "half a threshold, so that rates are rounded to the nearest: at the start; or, but for "
            "the first layer, in equal parts with every step; or none",
            ("half", "even", "zero"),
        ),
    )
    reset: Literal["subtract", "zero"] = field(
        default="subtract",
        metadata=help_text(
            "what a spike takes: the threshold, or all charge (Loihi's stock neuron; the membrane "
            "then starts at zero)",
            ("subtract", "zero"),
        ),
    )
    headroom: float = field(
        default=1.0,
        metadata=help_text(
            "full rate in multiples of the percentile's activity; with reset to zero, low rates "
            "lose less: 2 to 4"
        ),
    )
    per_channel: bool = field(
        default=False, metadata=help_text("one threshold per channel of a feature map")
    )
    input: Literal["analog", "poisson"] = field(
        default="analog",
        metadata=help_text(
            "an image as a constant current, or as spikes drawn at random (run's seed)",
            ("analog", "poisson"),
        ),
    )
    max_pool: Literal["exact", "gated"] = field(
        default="exact",
        metadata=help_text(
            "max pools send as many spikes as their busiest input; or, as published, pass on the "
            "spikes of the input that has sent most so far",
            ("exact", "gated"),
        ),
    )
    input_bits: int = field(default=8, metadata=help_text("bits of the quantised input"))

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 1, 65535)
        check_range("percentile", self.percentile, 50, 100)
        check_range("percentile_step", self.percentile_step, 0, 50)
        check_choice("over", self.over, ("all", "positive"))
        check_choice("initial", self.initial, ("half", "even", "zero"))
        check_choice("reset", self.reset, ("subtract", "zero"))
        check_range("headroom", self.headroom, 1, 1024)
        check_flag("per_channel", self.per_channel)
        check_choice("input", self.input, ("analog", "poisson"))
        check_choice("max_pool", self.max_pool, ("exact", "gated"))
        check_count("input_bits", self.input_bits, 2, 16)


def convert_rate(graph: PopulationGraph, ranges: Ranges, options: Rate) -> SpikingGraph:
    """Neurons whose rate over options.steps steps stands for the activity.

    A reset to zero loses what a spike leaves above the threshold: under a constant drive of a
    thresholds the rate tends to 1 / ceil(1 / a) instead of a, a loss that more steps do not make
    good (Rueckauer et al. 2016). It is small for small a: `headroom` divides every a. Half a
    threshold at the start would not help, so there is none.

    With a reset by subtraction a neuron's count is the largest that any start of its window earns:
    spikes that come unevenly make it too large, above all where the drive is about nothing, and
    early, when little has come. Half a threshold that comes evenly ("even") rounds the whole
    window's drive as one at the start does, but helps no early spike. A constant drive is not
    uneven: what the image itself drives starts with half a threshold.
    """
    subtract = options.reset == "subtract"
    model: Model = "soft_reset_if" if subtract else "hard_reset_if"
    half = 0.5 if options.initial != "zero" and subtract else 0.0
    made: dict[str, SpikingPopulation] = {}
    depth = depths(graph)
    for p in graph.populations:
        if p.role == "input":
            bits = 1 if options.input == "poisson" else options.input_bits
            made[p.name] = input_population(p, ranges[p.name], bits, options.steps)
        elif p.role == "readout":
            made[p.name] = readout(p.name, p.shape, p.bias)
        elif p.role == "max":
            made[p.name] = pool(p.name, p.shape, made[graph.into(p.name)[0].source])
        else:
            own = max(options.percentile - depth[p.name] * options.percentile_step, 50.0)
            firing = _firing(p, ranges[p.name], replace(options, percentile=own), model, half)
            steady = depth[p.name] == 0 and options.input == "analog"
            made[p.name] = replace(firing, spread=options.initial == "even" and not steady)
    return SpikingGraph(
        tuple(made.values()),
        convert_edges(graph),
        steps=options.steps,
        levels=options.steps,
        sending="unary",
        timing="train" if options.input == "poisson" else "held",
        pools=options.max_pool,
    )


def _firing(
    p: Population, seen: PopulationRange, options: Rate, model: Model, initial: float
) -> SpikingPopulation:
    """Rates from 0 to 1 stand for the activity between its least, or zero, and the percentile."""
    check_dynamics(p, uneven="zero" if model == "hard_reset_if" else None)
    initial = own_start(p, initial) if model == "soft_reset_if" else initial
    rule = ClipRule(options.per_channel and len(p.shape) > 1, options.percentile, options.over)
    bottom, reach = line_steps(p, seen, 1, rule)
    most = clipped_line(p).high - bottom  # where the neuron saturates, too
    clip = frozen(np.minimum(reach * options.headroom, most))
    rate = frozen(clip / options.steps)
    return SpikingPopulation(
        *(p.name, p.shape, model, clip, initial, clip, rate, p.bias),
        low=0,
        high=options.steps,
        offset=bottom,
    )
