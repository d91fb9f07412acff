"""L thresholds in T steps as one threshold in L * T steps, and back: integer for integer.

Source: LM-HT (Hao et al., NeurIPS 2024), section 4.4: what a step of L thresholds gets, L steps of
one threshold get in equal parts, so that they send the same number of spikes. The paper, and its
code, divide biases by L; integers do not allow that. Here the membranes of the finer network count
in Ls of the coarser one's: thresholds, starts and synapses that carry spikes are multiplied by L,
and what flows in every step, biases and the input, stays. So nothing is rounded. The windows'
sums agree exactly where drive comes evenly and leaves 0 .. L thresholds on one side at most, and
where no step of the finer network is driven below zero or by more than its threshold. Spikes of
earlier layers come unevenly: with signed weights other units may differ, as the paper's theorem
allows (the tests have counterexamples).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array, frozen
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import (
    MultiThreshold,
    NeuronModel,
    Readout,
    SoftResetIF,
    Source,
)
from lapilli.compiler.numerics import exponent_below, smallest_integer
from lapilli.compiler.spiking import SpikingGraph
from lapilli.hardware_profiles import Profile


def single_threshold(netlist: Netlist) -> Netlist:
    """Every neuron of L thresholds as one of a single threshold, in L times as many steps.

    Raises NetlistError for other neurons, for a leak, where neurons differ in L, and where a
    membrane L times as large does not fit its bits: `quantise` uses all that a profile has, so
    compile for `with_room`.
    """
    levels = _levels(netlist)

    def finer(neuron: NeuronModel) -> NeuronModel:
        if isinstance(neuron, MultiThreshold):
            parameters = levels * neuron.threshold, neuron.bias, levels * neuron.initial
            return SoftResetIF(*map(frozen, parameters))
        if isinstance(neuron, Readout):
            return Readout(neuron.bias, frozen(levels * neuron.initial))
        return neuron

    connections = [
        c if isinstance(netlist[c.source].neuron, Source) else _times(c, levels)
        for c in netlist.connections
    ]
    return _made(netlist, finer, connections, netlist.steps * levels, 1 / levels)


def with_room(profile: Profile, graph: SpikingGraph) -> Profile:
    """A chip for the several thresholds of `graph`, such that `single_threshold` fits `profile`.

    Membranes grow by the levels, and by half as much again for what large drives leave over;
    synapses by an exponent, and by weight bits where the levels are no power of two. Between the
    two forms, neurons may be what the chip does not have.
    Raises NetlistError for a chip that keeps resets apart from its membranes.
    """
    if profile.features.soft_reset.value != "subtracted":
        rule = "a membrane L times as large has its reset subtracted"
        found = profile.features.soft_reset.value
        raise _refuse(f"profile {profile.name}", rule, found, "subtracted")
    levels = graph.levels // graph.steps
    shift = exponent_below(levels & -levels)
    yes = replace(profile.features.graded_spikes, value=True)
    return replace(
        profile,
        limits=replace(
            profile.limits,
            state_bits=_less(profile.limits.state_bits, levels.bit_length() + 1),
            weight_bits=_less(profile.limits.weight_bits, ((levels >> shift) - 1).bit_length()),
            weight_exponent_max=_less(profile.limits.weight_exponent_max, shift),
            payload_bits=None,
        ),
        features=replace(profile.features, graded_spikes=yes, programmable_neurons=yes),
    )


def _less(limit: Any, by: int) -> Any:
    return None if limit is None else replace(limit, value=max(limit.value - by, 0))


def several_thresholds(netlist: Netlist, levels: int) -> Netlist:
    """`levels` steps of neurons with a soft reset as one step of neurons with `levels` thresholds.

    What flows in every step, biases and the input, is multiplied by `levels`: the rule that makes a
    network of several thresholds start as the quantised network that it is made of.
    Raises NetlistError for other neurons, and unless levels divides the steps.
    """
    _check_held(netlist)
    if levels < 1 or netlist.steps % levels:
        raise _refuse("netlist", "steps are taken together L at a time", netlist.steps, levels)

    def coarser(neuron: NeuronModel) -> NeuronModel:
        if isinstance(neuron, SoftResetIF):
            bias = frozen(levels * neuron.bias)
            return MultiThreshold(neuron.threshold, bias, neuron.initial, levels, 0)
        if isinstance(neuron, Readout):
            return Readout(frozen(levels * neuron.bias), neuron.initial)
        return neuron

    allowed = (Source, SoftResetIF, Readout)
    _check_neurons(netlist, allowed)
    connections = [
        _times(c, levels) if isinstance(netlist[c.source].neuron, Source) else c
        for c in netlist.connections
    ]
    return _made(netlist, coarser, connections, netlist.steps // levels, 1.0)


def _levels(netlist: Netlist) -> int:
    _check_held(netlist)
    _check_neurons(netlist, (Source, MultiThreshold, Readout))
    found = {
        (p.neuron.levels, p.neuron.decay)
        for p in netlist.populations
        if isinstance(p.neuron, MultiThreshold)
    }
    if len(found) != 1 or next(iter(found))[1]:
        rule = "all neurons have the same number of thresholds and keep their charge"
        shown = ", ".join(f"{n} thresholds, decay {decay}" for n, decay in sorted(found))
        raise _refuse("netlist", rule, shown, "one number of thresholds, decay 0")
    return next(iter(found))[0]


def _check_held(netlist: Netlist) -> None:
    if netlist.source.timing != "held":
        rule = "the input flows in every step"
        raise _refuse(netlist.input.name, rule, f"timing {netlist.source.timing}", "timing held")
    late = [c for c in netlist.connections if c.recurrent or c.synaptic_delay]
    if late:
        where = f"{late[0].source} -> {late[0].target}"
        raise _refuse(where, "spikes arrive in the step in which they are sent", "a delay", "none")


def _check_neurons(netlist: Netlist, allowed: tuple[type[NeuronModel], ...]) -> None:
    for p in netlist.populations:
        if not isinstance(p.neuron, allowed):
            names = ", ".join(model.__name__ for model in allowed)
            rule = "every neuron has its counterpart"
            raise _refuse(p.name, rule, type(p.neuron).__name__, names)


def _times(c: Connection, factor: int) -> Connection:
    """Synapses that count `factor` times: by the exponent, as far as it is a power of two."""
    shift = exponent_below(factor & -factor)
    weight = smallest_integer(c.map.weight.astype(np.int64) * (factor >> shift))
    return replace(
        c,
        map=c.map.with_weight(weight),
        exponent=c.exponent + shift,
        weight_scale=_scaled(c.weight_scale, 2.0**shift),
    )


def _scaled(values: Array, factor: float) -> Array:
    return frozen(values * factor)


def _made(
    netlist: Netlist,
    counterpart: Callable[[NeuronModel], NeuronModel],
    connections: list[Connection],
    steps: int,
    unit: float,
) -> Netlist:
    """The netlist with other neurons; unit: of its membranes, in those of the old one."""

    def of(p: Population) -> Population:
        share = netlist.steps / steps if isinstance(p.neuron, Source) else 1.0
        state = 1.0 if isinstance(p.neuron, Source) else unit
        return replace(
            p,
            neuron=counterpart(p.neuron),
            state_scale=_scaled(p.state_scale, state),
            count_scale=_scaled(p.count_scale, share),
        )

    wired = (replace(c, weight_scale=_scaled(c.weight_scale, unit)) for c in connections)
    made = Netlist(tuple(of(p) for p in netlist.populations), tuple(wired), steps)
    reaches = [made.reach(p.name) for p in made.populations]
    populations = (
        replace(p, state_low=low, state_high=high)
        for p, (low, high) in zip(made.populations, reaches, strict=True)
    )
    made = replace(made, populations=tuple(populations))
    made.verify()
    return made


def _refuse(where: str, rule: str, found: object, allowed: object) -> NetlistError:
    remedy = "Compile with the method lm-ht or rate, with a reset by subtraction and no leak."
    return NetlistError(where, rule, found=found, allowed=allowed, remedy=remedy)
