"""What a batch of neurons does over its window, in torch: a kernel per common model.

Kernels are tested equal to `NeuronModel.step`, as which all other models run (`stepped`). Floor
division is exact: for integers |a| < 2**24, b >= 1, the float32 quotient a / b never rounds up to
an integer that a / b does not reach, because a / b stays at least 1 / b below it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.netlist import Population
from lapilli.compiler.neurons import NeuronModel, Readout, SigmaDelta, SoftResetIF, Window

if TYPE_CHECKING:
    from lapilli.runtime.reference import Engine


@final
@dataclass(frozen=True, eq=False)
class Activity:
    """Spikes of one population in one batch.

    train (N, K, *shape): K = steps, or K = 1 for "first" (sent in the window's first step only)
    and "held" (the same in every step); count (N, *shape): spikes summed over the window.
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


def _sigma_delta(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    assert isinstance(p.neuron, SigmaDelta)
    parameters = engine.parameters[p.name]
    v = _membranes(engine, p, drives, repeat_bias=False)
    count = torch.floor_(v / parameters["threshold"]).clamp_(0, p.neuron.levels)
    if engine.one_pass:
        return Activity(count, "first", count[:, 0])
    return Activity(changes(count), "train", count[:, -1])


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


def _window(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    assert isinstance(p.neuron, Window)
    v = _membranes(engine, p, drives, repeat_bias=False)[:, -1]
    count = torch.floor_(v / engine.parameters[p.name]["threshold"]).clamp_(0, p.neuron.levels)
    steps = engine.netlist.steps
    if engine.one_pass or p.neuron.sending == "graded" or steps == 1:
        return Activity(count.unsqueeze(1), "first", count)
    ranks = torch.arange(steps, device=v.device).reshape(-1, *(1,) * len(p.shape))
    train = (count.unsqueeze(1) > ranks).to(v.dtype)  # first ones first
    return Activity(train, "train", count)


def _readout(engine: Engine, p: Population, drives: list[Activity]) -> Activity:
    v = _membranes(engine, p, drives, repeat_bias=True)
    if engine.stop is None:
        engine.keep("readouts", p, v[:, -1])
    return Activity(v, "train", v[:, -1])


def _membranes(
    engine: Engine, p: Population, drives: list[Activity], *, repeat_bias: bool
) -> Tensor:
    """v after every step, (N, steps, *shape), or in one pass after the last, (N, 1, *shape).

    Keeps v if asked for. A window's bias counts once, a readout's in every step.
    """
    parameters = engine.parameters[p.name]
    start, bias = parameters["initial"], parameters["bias"]
    if engine.one_pass:
        v = drives[0].count + (start + bias * (engine.netlist.steps if repeat_bias else 1))
        for drive in drives[1:]:
            v += drive.count
        return v.unsqueeze(1)
    drive_per_step = engine.over_time(p, drives)
    if repeat_bias:
        drive_per_step += bias
    else:
        start = start + bias
    states = drive_per_step.cumsum(1).add_(start)
    if engine.record == "states":
        engine.keep("states", p, states)
    return states


Kernel = Callable[["Engine", Population, list[Activity]], Activity]
KERNELS: dict[type[NeuronModel], Kernel] = {
    SoftResetIF: _soft_reset_if,
    Window: _window,
    SigmaDelta: _sigma_delta,
    Readout: _readout,
}
"""The batched form of the common models; tested equal to their `step`, as which others run."""
