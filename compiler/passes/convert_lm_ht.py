"""LM-HT: neurons with several thresholds, which send how many of them they passed in a step.

Source: Hao et al., NeurIPS 2024 (arXiv 2402.00411), equations 5 to 7 and theorem 4.4, inference.
L thresholds and T steps tell L * T levels apart. A spike is worth the threshold, a current flows in
real units: so biases are right as they are, which is the rule "biases times L" that the public code
of the hybrid training lacks. Thresholds per channel by least squared rounding error stand for those
of a quantised network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, final

import numpy as np

from lapilli.compiler.activations import Dynamics, dynamics_of
from lapilli.compiler.errors import InputError, UnsupportedOperatorError
from lapilli.compiler.linear import Array, frozen
from lapilli.compiler.neurons.multi_threshold import UNITY
from lapilli.compiler.numerics import half_up
from lapilli.compiler.passes.conversion import (
    ClipRule,
    check_dynamics,
    convert_edges,
    input_population,
    line_steps,
)
from lapilli.compiler.passes.options import (
    check_choice,
    check_count,
    check_flag,
    check_range,
    help_text,
)
from lapilli.compiler.passes.staircase import Staircase
from lapilli.compiler.populations import Population, PopulationGraph
from lapilli.compiler.spiking import SpikingGraph, SpikingPopulation, pool, readout

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import PopulationRange, Ranges

MOST_MIXED = 16
"""Steps of a network that is unrolled in time: it has as many copies of every layer."""


@final
@dataclass(frozen=True)
class LMHT(Staircase):
    """Options of the lm-ht method."""

    levels: int = field(default=4, metadata=help_text("activation levels L of every neuron"))
    steps: int = field(default=2, metadata=help_text("time steps T per image"))
    keep: float = field(
        default=1.0, metadata=help_text("what a step leaves of the membrane (lambda), 0 to 1")
    )
    mixing: Literal["none", "causal", "full"] = field(
        default="none",
        metadata=help_text(
            "a step gets its own spikes, the mean of all up to it, or the mean of all steps "
            "(temporal-global information matrix); the latter two unroll the network in time",
            ("none", "causal", "full"),
        ),
    )

    single_threshold: bool = field(
        default=False,
        metadata=help_text(
            "neurons of one threshold in L times as many steps, whose spikes are binary"
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("single_threshold", self.single_threshold)
        check_count("steps", self.steps, 1, 65535)
        check_range("keep", self.keep, 0, 1)
        check_choice("mixing", self.mixing, ("none", "causal", "full"))
        others = {
            "keep": self.keep != 1,
            "mixing": self.mixing != "none",
            "mixed": self.mixed != "",
        }
        if self.single_threshold and any(others.values()):
            raise InputError(
                "option single_threshold",
                "steps of one threshold count as those of several where all neurons are alike",
                found=", ".join(name for name, given in others.items() if given),
                allowed="keep=1, mixing='none', the same levels everywhere",
                remedy="Leave single_threshold out, or these.",
            )
        if self.mixing != "none" and self.steps > MOST_MIXED:
            raise InputError(
                "option mixing",
                "a network that is unrolled in time has a copy of every layer for each step",
                found=f"{self.steps} steps",
                allowed=f"1..{MOST_MIXED}",
                remedy="Use fewer steps and more levels: only their product matters then.",
            )


def convert_lm_ht(graph: PopulationGraph, ranges: Ranges, options: LMHT) -> SpikingGraph:
    """Multi-threshold neurons; their count over T steps stands for the activity.

    The threshold is such that L * T spikes are the largest activity, and half of it is there at the
    start. A leak loses charge, so that counts then only come near the quantised activity's.
    Layers that were trained with spikes (MultiThreshold) bring their leak and mixing along.
    Raises UnsupportedOperatorError for curves, products, and max pools of several steps; InputError
    for layers that mix another number of steps.
    """
    steps, levels = options.steps, options.own_levels(graph)
    made: dict[str, SpikingPopulation] = {}
    for p in graph.populations:
        if p.role == "input":
            made[p.name] = input_population(p, ranges[p.name], options.input_bits, steps)
        elif p.role == "readout":
            made[p.name] = readout(p.name, p.shape, p.bias)
        elif p.role == "max":
            _check_pool(p, steps)
            made[p.name] = pool(p.name, p.shape, made[graph.into(p.name)[0].source])
        else:
            made[p.name] = _firing(p, ranges[p.name], options, levels[p.name])
    return SpikingGraph(
        tuple(made.values()),
        convert_edges(graph),
        steps=steps,
        levels=max(levels.values(), default=options.levels) * steps,
        sending="graded",
        timing="first" if steps == 1 and not options.single_threshold else "held",
        single_threshold=options.single_threshold,
    )


def _dynamics(p: Population, options: LMHT) -> Dynamics:
    """The layer's own where it was trained with spikes; else the options' leak and mixing."""
    check_dynamics(p, uneven="subtract")
    trained = dynamics_of(p.activation)
    plain = trained is None or (trained.mixing is None and trained.keep == 1)
    if options.single_threshold and not plain:
        raise InputError(
            "option single_threshold",
            "layers that were trained to leak, or to mix their steps, keep their thresholds",
            found=f"{trained}, in {p.name}",
            allowed="layers that do neither",
            remedy="Leave single_threshold out.",
        )
    if trained is None:
        return Dynamics(options.steps, keep=options.keep, mixing=_shares(options))
    if trained.mixing is not None and trained.steps != options.steps:
        raise InputError(
            "option steps",
            "a layer mixes the steps that it was trained with",
            found=f"{options.steps} steps",
            allowed=f"{trained.steps}, for {p.name}",
            remedy="Use the method that SpikingNetwork.method() says.",
        )
    return trained


def _shares(options: LMHT) -> Array | None:
    """Omega: rows of which each has the sum 1. Source: initialised at 1 / T in the paper."""
    if options.mixing == "none" or options.steps == 1:
        return None
    ones = np.ones((options.steps, options.steps))
    seen = np.tril(ones) if options.mixing == "causal" else ones
    return frozen(seen / seen.sum(axis=1, keepdims=True))


def _check_pool(p: Population, steps: int) -> None:
    if steps > 1:
        raise UnsupportedOperatorError(
            f"{p.name} at {p.where}",
            "the largest count of several steps is known after the last one only",
            found=f"max pooling, {steps} steps",
            allowed="1 step, in which a graded spike is the count",
            remedy="Use one step and more levels, or the methods parallel or fast-snn.",
        )


def _firing(p: Population, seen: PopulationRange, options: LMHT, own: int) -> SpikingPopulation:
    percentile = options.percentile if options.clip == "percentile" else None
    rule = ClipRule(options.per_channel and len(p.shape) > 1, percentile)
    levels = own * options.steps
    bottom, step = line_steps(p, seen, levels, rule)
    dynamics = _dynamics(p, options)
    if bottom.any() and dynamics.mixing is not None:
        raise UnsupportedOperatorError(
            f"{p.name} at {p.where}",
            "layers that mix their steps send nothing for the activity zero",
            found=f"activity from {bottom.min():g} on",
            allowed="ReLU and others that end at zero",
            remedy="Use mixing='none'.",
        )
    threshold = frozen(step * options.steps)
    return SpikingPopulation(
        *(p.name, p.shape, "multi_threshold", threshold, dynamics.initial, threshold, step, p.bias),
        high=levels,
        offset=bottom,
        decay=int(half_up(np.asarray((1.0 - dynamics.keep) * UNITY))),
        mixing=None if dynamics.mixing is None else frozen(dynamics.mixing),
    )
