"""Fast-SNN: integrate-and-fire neurons that take back spikes which came too early.

Source: Hu et al., TPAMI 2023 (arXiv 2305.19868), inference: signed spikes; an image of T steps; the
unsigned variant. Beyond it: with a cap on the count, the lower threshold at zero, and a window that
goes on until the network is silent, every layer equals the quantised ANN (`settle`). Thresholds per
channel by least squared rounding error stand for those that the paper trains.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, final

from lapilli.compiler.errors import InputError
from lapilli.compiler.linear import frozen
from lapilli.compiler.passes.conversion import (
    ClipRule,
    check_dynamics,
    convert_edges,
    input_population,
    line_steps,
    own_start,
)
from lapilli.compiler.passes.options import check_count, check_flag, help_text
from lapilli.compiler.passes.signed_pools import lower_signed_pools
from lapilli.compiler.passes.staircase import Staircase
from lapilli.compiler.populations import Population, PopulationGraph
from lapilli.compiler.spiking import Model, SpikingGraph, SpikingPopulation, pool, readout

if TYPE_CHECKING:
    from lapilli.compiler.calibrate import PopulationRange, Ranges

MAX_STEPS = 65535


@final
@dataclass(frozen=True)
class FastSNN(Staircase):
    """Options of the fast-snn method."""

    steps: int | None = field(
        default=None,
        metadata=help_text(
            "time steps of a window; if left out: as many as are proven to be enough to settle, or "
            "as many as levels without --settle"
        ),
    )
    settle: bool = field(
        default=True,
        metadata=help_text(
            "the whole image at once, then go on until the network is silent: exactly the "
            "quantised ANN; without it, as published: an image in every step, no more steps"
        ),
    )
    signed: bool = field(
        default=True,
        metadata=help_text("spikes of -1 take back what came too early (not without --settle)"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("settle", self.settle)
        check_flag("signed", self.signed)
        if self.mixed and not self.settle:
            raise InputError(
                "option mixed",
                "without settling, neurons tell as many levels apart as there are steps",
                found=f"mixed={self.mixed!r} without settle",
                allowed="mixed with settle",
                remedy="Leave mixed out, or settle on.",
            )
        if self.steps is not None:
            check_count("steps", self.steps, 1, MAX_STEPS)
        if self.settle and not self.signed:
            raise InputError(
                "option settle",
                "only neurons that take spikes back settle",
                found="settle with unsigned spikes",
                allowed="signed spikes, or no settling",
                remedy="Leave signed on, or switch settle off.",
            )


def convert_fast_snn(graph: PopulationGraph, ranges: Ranges, options: FastSNN) -> SpikingGraph:
    """Signed neurons of their levels, or plain ones with a reset by subtraction.

    Without settling, a spike is worth the clip value and T steps tell T levels apart, as a rate
    does; the clip value is the one that suits options.levels levels. Max pools of signed spikes are
    exact once settled (`lower_signed_pools`); those of unsigned ones pass on the spikes of whoever
    has fired most. Raises UnsupportedOperatorError for curves and products, InputError where no
    window is long enough.
    """
    steps = options.levels if options.steps is None else options.steps
    levels = options.own_levels(graph)
    most = max(levels.values(), default=options.levels)
    made: dict[str, SpikingPopulation] = {}
    for p in graph.populations:
        if p.role == "input":
            repeats = 1 if options.settle else steps
            made[p.name] = input_population(p, ranges[p.name], options.input_bits, repeats)
        elif p.role == "readout":
            made[p.name] = readout(p.name, p.shape, p.bias)
        elif p.role == "max":
            made[p.name] = pool(p.name, p.shape, made[graph.into(p.name)[0].source])
        else:
            made[p.name] = _firing(p, ranges[p.name], options, levels[p.name], steps)
    result = SpikingGraph(
        tuple(made.values()),
        convert_edges(graph),
        steps=1 if options.settle else steps,
        levels=most if options.settle else steps,
        sending="unary",
        timing="first" if options.settle else "held",
    )
    return _long_enough(result, options.steps) if options.settle else result


def _firing(
    p: Population, seen: PopulationRange, options: FastSNN, levels: int, steps: int
) -> SpikingPopulation:
    check_dynamics(p)
    percentile = options.percentile if options.clip == "percentile" else None
    rule = ClipRule(options.per_channel and len(p.shape) > 1, percentile)
    bottom, step = line_steps(p, seen, levels, rule)
    threshold, high = (step, levels) if options.settle else (step * levels, steps)
    model: Model = "signed_if" if options.signed else "soft_reset_if"
    return SpikingPopulation(
        *(p.name, p.shape, model, frozen(threshold), own_start(p, 0.5), frozen(threshold)),
        count_scale=frozen(step if options.settle else threshold / steps),
        bias=p.bias,
        high=high,
        offset=bottom,
    )


def _long_enough(graph: SpikingGraph, steps: int | None) -> SpikingGraph:
    """The graph with a window in which it settles for every input; or with the one asked for.

    Source: when all drive of a neuron is there, each step takes its count one nearer to the one at
    which it stays, and counts lie in 0 .. levels. So every population falls silent at most
    levels - 1 steps after the last one before it.
    """
    lowered = lower_signed_pools(graph)
    end: dict[str, int] = {}
    for p in lowered.populations:
        before = max((end[c.source] for c in lowered.into(p.name)), default=0)
        end[p.name] = before + (p.high if p.model == "signed_if" else 1) - 1
    proven = max(end.values()) + 1
    if steps is None and proven > MAX_STEPS:
        raise InputError(
            "option steps",
            "a window is long enough for the network to settle",
            found=f"{proven} steps",
            allowed=MAX_STEPS,
            remedy="Use fewer levels, or choose steps.",
        )
    return replace(graph, steps=proven if steps is None else steps)
