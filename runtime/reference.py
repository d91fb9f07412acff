"""The reference engine: batched torch, bit-exact, in the speed of the ANN.

Sums of integers below 2**24 are exact in float32, in any order, and the netlist's proven bounds
say where that holds (elsewhere float64). So convolutions run as torch runs them. Floor division is
exact too: for integers |a| < 2**24, b >= 1, the float32 quotient a / b never rounds up to an
integer that a / b does not reach, because a / b stays at least 1 / b below it.

Networks that settle (`NeuronModel.SETTLES`) need one pass, counts in and counts out; spike trains
exist only when asked for. Others fold time into the batch for the linear maps and run the neurons
over time: the common models in a kernel of their own, all others by their definition.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.execute import TorchMap, as_tensor, exact_arithmetic
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import (
    NeuronModel,
    Readout,
    SigmaDelta,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.compiler.numerics import FLOAT32_EXACT, Int64Array
from lapilli.runtime.early_stop import StopRule
from lapilli.runtime.metrics import PopulationEvents
from lapilli.runtime.trace import Progress, Record, Trace, real_outputs

IMAGES_PER_BATCH = 64
STEPS_PER_BATCH = 256
"""Batch sizes that keep a layer's activity in cache; time steps count as images."""


def run(
    netlist: Netlist,
    inputs: Int64Array,
    *,
    record: Record = "counts",
    progress: Progress | None = None,
    stop: StopRule | None = None,
    device: str = "cpu",
) -> Trace:
    """Execute a netlist on integer inputs and count every event.

    inputs: (N, *input shape), or (N, steps, *input shape) where each step has an input of its own.
    stop: counts only what each image needed, see `early_stop`.
    """
    engine = _Engine(netlist, len(inputs), record, stop, torch.device(device))
    with exact_arithmetic():
        for start in range(0, len(inputs), engine.batch):
            engine.run(inputs[start : start + engine.batch])
            if progress is not None:
                progress(min(start + engine.batch, len(inputs)), len(inputs))
    return engine.trace()


@final
@dataclass(frozen=True, eq=False)
class _Activity:
    """Spikes of one population in one batch.

    train (N, K, *shape): K = steps, or K = 1 for "first" (sent in the window's first step only)
    and "held" (the same in every step); count (N, *shape): spikes summed over the window.
    """

    train: Tensor
    timing: str
    count: Tensor


class _Engine:
    def __init__(
        self,
        netlist: Netlist,
        images: int,
        record: Record,
        stop: StopRule | None,
        device: torch.device,
    ):
        self.netlist, self.record, self.device = netlist, record, device
        self.stop, self.stopped = stop, np.full(images, netlist.steps)
        self.one_pass = record in ("outputs", "counts") and netlist.one_pass
        self.batch = IMAGES_PER_BATCH if self.one_pass else max(1, STEPS_PER_BATCH // netlist.steps)
        self.dtype = {p.name: _dtype(netlist, p) for p in netlist.populations}
        self.maps = {id(c): self._map(c) for c in netlist.connections}
        self.parameters = {
            p.name: {
                key: as_tensor(value, self.dtype[p.name], device)
                for key, value in vars(p.neuron).items()
                if isinstance(value, np.ndarray)
            }
            for p in netlist.populations
        }
        self.sent = {p.name: np.zeros(p.size, np.int64) for p in netlist.populations}
        self.done = 0
        self.images = images
        self.kept: dict[tuple[str, str], Array] = {}

    def _map(self, c: Connection) -> TorchMap:
        shifted = c.map.with_weight(c.map.weight.astype(np.float64) * 2.0**c.exponent)
        return TorchMap(shifted, self.dtype[c.target], self.device)

    def run(self, inputs: Int64Array) -> None:
        """One batch: every population in turn."""
        activity: dict[str, _Activity] = {}
        for p in self.netlist.populations:
            if isinstance(p.neuron, Source):
                x = torch.tensor(inputs, dtype=self.dtype[p.name], device=self.device)
                activity[p.name] = self._source(p.neuron, x)
            else:
                into = [c for c in self.netlist.into(p.name) if not c.recurrent]
                drives = [self._drive(c, activity[c.source], p) for c in into]
                recurrent = len(into) < len(self.netlist.into(p.name))
                kernel = _stepped if recurrent else _KERNELS.get(type(p.neuron), _stepped)
                activity[p.name] = kernel(self, p, drives)
            if self.stop is None:
                self._count(p, activity[p.name])
        if self.stop is not None:
            self._count_until(self.stop, activity)
        self.done += len(inputs)

    def _count_until(self, stop: StopRule, activity: dict[str, _Activity]) -> None:
        """Count what happened in the steps that each image of this batch needed."""
        decider, *_ = self.netlist.outputs
        stopped = stop.stopped(activity[decider.name].train.cpu().numpy())
        batch = slice(self.done, self.done + len(stopped))
        self.stopped[batch] = stopped
        last = torch.as_tensor(stopped - 1, device=self.device)
        images = torch.arange(len(stopped), device=self.device)
        for readout in self.netlist.outputs:
            self.keep("readouts", readout, activity[readout.name].train[images, last])
        running = torch.arange(self.netlist.steps, device=self.device) <= last.unsqueeze(1)
        for p in self.netlist.populations:
            train = self.whole(p, activity[p.name])
            train = train * running.reshape(*running.shape, *(1,) * len(p.shape))
            self._count(p, _Activity(train, "train", train.sum(1)))
            if ("states", p.name) in self.kept:
                self.kept["states", p.name][batch] *= (
                    running.cpu().numpy().reshape(*running.shape, *(1,) * len(p.shape))
                )

    def whole(self, p: Population, activity: _Activity) -> Tensor:
        """The spikes of every step, (N, steps, *shape)."""
        if activity.timing == "train":
            return activity.train
        train = activity.train.new_zeros((len(activity.train), self.netlist.steps, *p.shape))
        train[:, : None if activity.timing == "held" else 1] = activity.train
        return train

    def _source(self, source: Source, x: Tensor) -> _Activity:
        steps = self.netlist.steps
        if source.timing == "held":
            return _Activity(x.unsqueeze(1), "held", x * steps)
        if source.timing == "first":
            return _Activity(x.unsqueeze(1), "first", x)
        if source.timing == "train":
            return _Activity(x, "train", x.sum(1))
        return _Activity(_changes(x), "train", x[:, -1])

    def _drive(self, c: Connection, sent: _Activity, target: Population) -> _Activity:
        """What one connection delivers, in the timing in which it was sent."""
        apply, dtype = self.maps[id(c)], self.dtype[target.name]
        if self.one_pass:
            total = apply(sent.count.to(dtype)).reshape(-1, *target.shape)
            return _Activity(total.unsqueeze(1), "first", total)
        return self._delayed(c, self.delivered(c, sent, target), sent.timing)

    def delivered(self, c: Connection, sent: _Activity, target: Population) -> Tensor:
        """What every step's spikes add up to at the target, (N, K, *target shape)."""
        images, steps = sent.train.shape[:2]
        folded = self.maps[id(c)](sent.train.to(self.dtype[target.name]).flatten(0, 1))
        return folded.reshape(images, steps, *target.shape)

    def _delayed(self, c: Connection, train: Tensor, timing: str) -> _Activity:
        steps, late = self.netlist.steps, c.synaptic_delay
        if not late:
            return _Activity(train, timing, train[:, 0])
        whole = train.new_zeros((len(train), steps, *train.shape[2:]))
        if timing == "held":
            whole[:, late:] = train
        else:
            whole[:, late : late + train.shape[1]] = train[:, : max(steps - late, 0)]
        return _Activity(whole, "train", whole[:, 0])

    def over_time(self, p: Population, drives: list[_Activity]) -> Tensor:
        """The summed drive of every step, (N, steps, *shape)."""
        steps = self.netlist.steps
        shape = (len(drives[0].train), steps, *p.shape)
        total = torch.zeros(shape, dtype=self.dtype[p.name], device=self.device)
        for drive in drives:
            if drive.timing == "first":
                total[:, :1] += drive.train
            else:
                total += drive.train  # "held" broadcasts over the steps
        return total

    def keep(self, kind: str, p: Population, values: Tensor) -> None:
        """Store one batch of counts, spikes, states or readouts as integers."""
        if (kind, p.name) not in self.kept:
            shape = (self.images, *values.shape[1:])
            self.kept[kind, p.name] = np.empty(shape, _stored(kind, p, self.netlist.steps))
        self.kept[kind, p.name][self.done : self.done + len(values)] = values.cpu().numpy()

    def _count(self, p: Population, activity: _Activity) -> None:
        if isinstance(p.neuron, Readout):
            return
        if self.record != "outputs":
            self.keep("counts", p, activity.count)
        if self.record in ("spikes", "states"):
            self.keep("spikes", p, self.whole(p, activity))
        self.sent[p.name] += _messages(p.neuron, activity, self.netlist.steps)

    def trace(self) -> Trace:
        """Everything recorded so far."""
        kept: dict[str, dict[str, Array]] = {kind: {} for kind in _KINDS}
        for (kind, name), values in self.kept.items():
            kept[kind][name] = values
        stopped = None if self.stop is None else self.stopped
        return Trace(
            "reference",
            real_outputs(self.netlist, kept["readouts"], stopped),
            kept["counts"],
            kept["readouts"],
            kept["spikes"],
            kept["states"],
            self._events(),
            stopped=stopped,
        )

    def _events(self) -> dict[str, PopulationEvents]:
        # An input that comes as a train of spikes costs what spikes cost.
        spiking = {
            p.name: not isinstance(p.neuron, Source) or p.neuron.timing == "train"
            for p in self.netlist.populations
        }
        events = {}
        for p in self.netlist.populations:
            if isinstance(p.neuron, Source):
                continue
            arriving = {True: 0, False: 0}
            synapses = 0
            for c in self.netlist.into(p.name):
                fan_out = c.map.fan_out().reshape(-1)
                arriving[spiking[c.source]] += int(self.sent[c.source] @ fan_out)
                synapses += int(fan_out.sum())
            events[p.name] = PopulationEvents(
                neurons=p.size,
                steps=self.netlist.steps,
                images=self.images,
                spikes=int(self.sent[p.name].sum()),
                synops=arriving[True],
                input_macs=arriving[False],
                neuron_updates=p.size * int(self.stopped.sum()),
                synapses=synapses,
            )
        return events


_KINDS = ("counts", "spikes", "states", "readouts")


def _stored(kind: str, p: Population, steps: int) -> type[np.signedinteger[Any]]:
    """A small integer type that holds every value: counts of a whole data set fill memory."""
    if kind in ("states", "readouts"):
        return np.int32 if kind == "states" else np.int64
    bounds = p.neuron.window_total(steps) if kind == "counts" else p.neuron.payload()
    return np.int16 if max(-bounds[0], bounds[1]) < 2**15 else np.int32


def _dtype(netlist: Netlist, p: Population) -> torch.dtype:
    """float32 where the proven bounds make it exact, else float64."""
    step, total = netlist.drive_bounds(p.name)
    bounds = [*step, *total, np.array([p.state_low, p.state_high, *p.neuron.payload()])]
    largest = max(int(np.abs(bound).max()) for bound in bounds)
    return torch.float32 if largest <= FLOAT32_EXACT else torch.float64


def _messages(neuron: NeuronModel, activity: _Activity, steps: int) -> Array:
    """Spikes sent by each neuron, summed over the batch; a graded spike is one message."""
    if neuron.payload() == (0, 1):
        sent = activity.count
    else:
        single = activity.timing != "train"
        sent = activity.train[:, 0].sign().abs() if single else activity.train.sign().abs().sum(1)
    repeats = steps if activity.timing == "held" else 1
    # Sums over a batch stay far below 2**24: exact in float32.
    messages: Array = sent.sum(0).reshape(-1).to(torch.int64).cpu().numpy() * repeats
    return messages


def _stepped(engine: _Engine, p: Population, drives: list[_Activity]) -> _Activity:
    """Any model, by its definition, one step after the other; self-driven ones, too."""
    steps, neuron = engine.netlist.steps, p.neuron
    lag = neuron.emission_lag(steps)
    dtype = engine.dtype[p.name]
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
                reached = engine.delivered(c, _Activity(sent, "train", sent[:, 0]), p)
                total[:, arrival] += reached[:, 0].cpu().numpy().astype(np.int64)
    if engine.record == "states":
        engine.keep("states", p, torch.as_tensor(states))
    spikes_sent = torch.as_tensor(train, dtype=dtype, device=engine.device)
    return _Activity(spikes_sent, "train", spikes_sent.sum(1))


def _changes(values: Tensor) -> Tensor:
    """(N, steps, ...): differences from the step before, the first one from zero."""
    return torch.diff(values, dim=1, prepend=torch.zeros_like(values[:, :1]))


def _sigma_delta(engine: _Engine, p: Population, drives: list[_Activity]) -> _Activity:
    assert isinstance(p.neuron, SigmaDelta)
    parameters = engine.parameters[p.name]
    v = _membranes(engine, p, drives, repeat_bias=False)
    count = torch.floor_(v / parameters["threshold"]).clamp_(0, p.neuron.levels)
    if engine.one_pass:
        return _Activity(count, "first", count[:, 0])
    return _Activity(_changes(count), "train", count[:, -1])


def _soft_reset_if(engine: _Engine, p: Population, drives: list[_Activity]) -> _Activity:
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
    return _Activity(drive, "train", drive.sum(1))


def _window(engine: _Engine, p: Population, drives: list[_Activity]) -> _Activity:
    assert isinstance(p.neuron, Window)
    v = _membranes(engine, p, drives, repeat_bias=False)[:, -1]
    count = torch.floor_(v / engine.parameters[p.name]["threshold"]).clamp_(0, p.neuron.levels)
    steps = engine.netlist.steps
    if engine.one_pass or p.neuron.sending == "graded" or steps == 1:
        return _Activity(count.unsqueeze(1), "first", count)
    ranks = torch.arange(steps, device=v.device).reshape(-1, *(1,) * len(p.shape))
    train = (count.unsqueeze(1) > ranks).to(v.dtype)  # first ones first
    return _Activity(train, "train", count)


def _readout(engine: _Engine, p: Population, drives: list[_Activity]) -> _Activity:
    v = _membranes(engine, p, drives, repeat_bias=True)
    if engine.stop is None:
        engine.keep("readouts", p, v[:, -1])
    return _Activity(v, "train", v[:, -1])


def _membranes(
    engine: _Engine, p: Population, drives: list[_Activity], *, repeat_bias: bool
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


_Kernel = Callable[[_Engine, Population, list[_Activity]], _Activity]
_KERNELS: dict[type[NeuronModel], _Kernel] = {
    SoftResetIF: _soft_reset_if,
    Window: _window,
    SigmaDelta: _sigma_delta,
    Readout: _readout,
}
"""The batched form of the common models; tested equal to their `step`, as which others run."""
