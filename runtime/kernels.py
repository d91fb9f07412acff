"""What a batch of neurons does over its window, in torch: a kernel per common model.

Kernels are tested equal to `NeuronModel.step`, as which all other models run (`stepped`). Floor
division is exact: for integers |a| < 2**24, b >= 1, the float32 quotient a / b never rounds up to
an integer that a / b does not reach, because a / b stays at least 1 / b below it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.netlist import Population
from lapilli.compiler.neurons import (
    MultiThreshold,
    NeuronModel,
    OrGate,
    RateGate,
    RateMax,
    Readout,
    Relay,
    SignedIF,
    SoftResetIF,
    Staircase,
)
from lapilli.compiler.neurons.multi_threshold import UNITY
from lapilli.runtime.staircases import STAIRCASES, counts

if TYPE_CHECKING:
    from lapilli.runtime.reference import Engine


@final
@dataclass(frozen=True, eq=False)
class Activity:
    """Spikes of one population in one batch.

    train (N, K, *shape): K = 1 for "first" (sent in the window's first step only) and "held" (the
    same in every step); else as many steps as there is anything to send, often all; count (N,
    *shape): spikes summed over the window.
    """

    train: Tensor
    timing: str
    count: Tensor


def stepped(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    """Any model, by its definition, one step after the other; self-driven ones, too."""
    steps, neuron = engine.netlist.steps, p.neuron
    lag = neuron.emission_lag(steps)
    dtype = engine.dtype[p.name]
    if engine.one_pass:  # everything settles: the whole drive says it all
        drive = np.sum([d.count.cpu().numpy().astype(np.int64) for d in drives], axis=0)
        count = torch.as_tensor(neuron.quantised(drive, steps), dtype=dtype, device=engine.device)
        return Activity(count.unsqueeze(1), "first", count)
    loops = [c for c in engine.netlist.into(p.name) if c.recurrent]
    total = engine.over_time(p, drives).cpu().numpy().astype(np.int64)
    state = neuron.start((len(total), *p.shape))
    train, states = np.zeros_like(total), np.zeros_like(total)
    for tau in range(steps + lag):  # beyond the window: what its neurons still have to send
        drive = total[:, tau] if tau < steps else np.zeros_like(total[:, 0])
        state, spikes = neuron.step(state, drive, tau % steps, steps)
        if tau < steps:
            states[:, tau] = state["v"]
        if tau >= lag:
            train[:, tau - lag] = spikes
        for c in loops:
            arrival = tau + 1 + c.synaptic_delay
            if arrival < steps:
                sent = torch.as_tensor(spikes, dtype=dtype, device=engine.device).unsqueeze(1)
                reached = engine.delivered(c, Activity(sent, "train", sent[:, 0]), p)
                total[:, arrival] += reached[:, 0].cpu().numpy().astype(np.int64)
    if engine.record == "states":
        engine.keep("states", p, torch.as_tensor(states))
    spikes_sent = torch.as_tensor(train, dtype=dtype, device=engine.device)
    return Activity(spikes_sent, "train", spikes_sent.sum(1))


def changes(values: Tensor) -> Tensor:
    """(N, steps, ...): differences from the step before, the first one from zero."""
    return torch.diff(values, dim=1, prepend=torch.zeros_like(values[:, :1]))


def _staircase(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    neuron, steps = p.neuron, engine.netlist.steps
    assert isinstance(neuron, Staircase)
    v = _membranes(engine, p, drives, engine.parameters[p.name]["beginning"])
    at_the_end = neuron.coding() != "changes"
    count = counts(p, engine.parameters[p.name], v[:, -1:] if at_the_end else v)
    if engine.one_pass:
        return Activity(count, "first", count[:, 0])
    if not at_the_end:
        return Activity(changes(count), "train", count[:, -1])
    if neuron.coding() == "graded" or steps == 1:
        return Activity(count, "first", count[:, 0])
    ranks = torch.arange(steps, device=v.device)  # the k-th step sends where more than that count
    if neuron.coding() == "unary-last":
        ranks = ranks.flip(0)
    ranks = ranks.reshape(-1, *(1,) * len(p.shape))
    return Activity((count > ranks).to(v.dtype), "train", count[:, 0])


def _relay(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    if engine.one_pass:  # at most one spike a window, as `Netlist.one_pass` has it
        count = sum((drive.count for drive in drives[1:]), drives[0].count)
        return Activity(count.unsqueeze(1), "first", count)
    v = engine.over_time(p, drives)
    if engine.record == "states":
        engine.keep("states", p, v)
    return Activity(v, "train", v.sum(1))


def _or_gate(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    if engine.one_pass:  # the longest of sorted trains; drives are maxima already
        count = drives[0].count
        for drive in drives[1:]:
            count = torch.maximum(count, drive.count)
        return Activity(count.unsqueeze(1), "first", count)
    v = engine.over_time(p, drives)
    if engine.record == "states":
        engine.keep("states", p, v)
    spikes = (v >= 1).to(v.dtype)
    return Activity(spikes, "train", spikes.sum(1))


def _rate_max(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    if engine.one_pass:
        return stepped(engine, p, drives)
    assert isinstance(p.neuron, RateMax)
    v = engine.over_time(p, drives)
    if engine.record == "states":
        engine.keep("states", p, v)
    largest = torch.zeros_like(v)  # of the running counts, after every step
    for bits in _bits(v, p.neuron.inputs):
        torch.maximum(largest, bits.cumsum(1), out=largest)
    return Activity(changes(largest), "train", largest[:, -1])


def _rate_gate(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    if engine.one_pass:
        return stepped(engine, p, drives)
    assert isinstance(p.neuron, RateGate)
    v = engine.over_time(p, drives)
    if engine.record == "states":
        engine.keep("states", p, v)
    largest, spikes = torch.full_like(v, -1), torch.zeros_like(v)
    for bits in _bits(v, p.neuron.inputs):
        counts = bits.cumsum(1)
        leads = counts > largest  # the first one among equals
        largest, spikes = torch.where(leads, counts, largest), torch.where(leads, bits, spikes)
    return Activity(spikes, "train", spikes.sum(1))


def _bits(v: Tensor, count: int) -> Iterator[Tensor]:
    """The lowest bits of v, which may be negative, from the lowest on."""
    for k in range(count):
        yield torch.floor(v * 2.0**-k).remainder_(2)


def _soft_reset_if(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    parameters = engine.parameters[p.name]
    drive = engine.over_time(p, drives).add_(parameters["bias"])
    threshold = parameters["threshold"]
    v = parameters["initial"].expand(drive[:, 0].shape).clone()
    states = torch.empty_like(drive) if engine.record == "states" else None
    for tau in range(engine.netlist.steps):  # a recursion: each step needs the one before
        v += drive[:, tau]
        spikes = (v >= threshold).to(v.dtype)
        v -= threshold * spikes
        if states is not None:
            states[:, tau] = v
        drive[:, tau] = spikes  # the drive of this step is not needed any more
    if states is not None:
        engine.keep("states", p, states)
    return Activity(drive, "train", drive.sum(1))


def _signed_if(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    """Steps until no drive and no spike is left: what follows is silence."""
    parameters, steps, neuron = engine.parameters[p.name], engine.netlist.steps, p.neuron
    assert isinstance(neuron, SignedIF)
    threshold, current = parameters["threshold"], parameters["current"]
    drive = _in_its_time(engine, p, drives)
    v = (parameters["initial"] + parameters["bias"]).expand(drive[:, 0].shape).clone()
    n = torch.zeros_like(v)
    train, states = [], []
    for tau in range(steps):
        v += drive[:, tau] + current if tau < drive.shape[1] else current
        spikes = ((v >= threshold) & (n < neuron.levels)).to(v.dtype)
        spikes -= ((v < 0) & (n > 0)).to(v.dtype)
        v -= threshold * spikes
        n += spikes
        train.append(spikes)
        if engine.record == "states":
            states.append(v.clone())
        elif tau + 1 >= drive.shape[1] and not spikes.any() and not current.any():
            break
    if engine.record == "states":
        engine.keep("states", p, torch.stack(states, 1))
    return Activity(torch.stack(train, 1), "train", n)


def _in_its_time(engine: Engine, p: Population, drives: list[Activity]) -> Tensor:
    """The summed drive of the steps in which there is any, (N, K, *shape)."""
    if any(drive.timing == "held" for drive in drives):
        return engine.over_time(p, drives)
    longest = max(drive.train.shape[1] for drive in drives)
    first = drives[0].train
    total = first.new_zeros((len(first), longest, *first.shape[2:]))
    for drive in drives:
        total[:, : drive.train.shape[1]] += drive.train
    return total


def _multi_threshold(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    if engine.one_pass:
        return stepped(engine, p, drives)
    parameters, neuron = engine.parameters[p.name], p.neuron
    assert isinstance(neuron, MultiThreshold)
    drive = engine.over_time(p, drives).add_(parameters["bias"])
    threshold = parameters["threshold"]
    v = parameters["initial"].expand(drive[:, 0].shape).clone()
    states = torch.empty_like(drive) if engine.record == "states" else None
    for tau in range(engine.netlist.steps):
        if neuron.decay:  # 24 bits times 12: exact in float64
            v = (v.double() * (UNITY - neuron.decay) / UNITY).trunc_().to(v.dtype)
        v = v + drive[:, tau]
        spikes = torch.floor_(v / threshold).clamp_(0, neuron.levels)
        v = v - threshold * spikes
        if states is not None:
            states[:, tau] = v
        drive[:, tau] = spikes  # the drive of this step is not needed any more
    if states is not None:
        engine.keep("states", p, states)
    return Activity(drive, "train", drive.sum(1))


def _readout(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    parameters = engine.parameters[p.name]
    v = _membranes(engine, p, drives, parameters["initial"], parameters["bias"])
    if engine.stop is None:
        engine.keep("readouts", p, v[:, -1])
    return Activity(v, "train", v[:, -1])


def _membranes(
    engine: Engine,
    p: Population,
    drives: list[Activity],
    start: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """v after every step, (N, steps, *shape), or in one pass after the last, (N, 1, *shape).

    Keeps v if asked for. start: v before a window; bias: what every step adds.
    """
    if engine.one_pass:
        v = drives[0].count + (start if bias is None else start + bias * engine.netlist.steps)
        for drive in drives[1:]:
            v += drive.count
        return v.unsqueeze(1)
    drive_per_step = engine.over_time(p, drives)
    if bias is not None:
        drive_per_step += bias
    states = drive_per_step.cumsum(1).add_(start)
    if engine.record == "states":
        engine.keep("states", p, states)
    return states


Kernel = Callable[["Engine", Population, list[Activity]], Activity]
KERNELS: dict[type[NeuronModel], Kernel] = {
    SoftResetIF: _soft_reset_if,
    SignedIF: _signed_if,
    MultiThreshold: _multi_threshold,
    Relay: _relay,
    OrGate: _or_gate,
    RateMax: _rate_max,
    RateGate: _rate_gate,
    Readout: _readout,
    **dict.fromkeys(STAIRCASES, _staircase),
}
"""The batched form of the common models; tested equal to their `step`, as which others run."""
