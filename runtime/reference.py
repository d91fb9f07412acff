"""The reference engine: batched torch, bit-exact, in the speed of the ANN.

Sums of integers below 2**24 are exact in float32, in any order, and the netlist's proven bounds
say where that holds (elsewhere float64). So convolutions run as torch runs them. Floor division is
exact too: for integers |a| < 2**24, b >= 1, the float32 quotient a / b never rounds up to an
integer that a / b does not reach, because a / b stays at least 1 / b below it.

Window networks need one pass, counts in and counts out; spike trains exist only when asked for.
Other networks fold time into the batch for the linear maps and run the neurons over time.
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
from lapilli.compiler.neurons import NeuronModel, Readout, SoftResetIF, Source, Window
from lapilli.compiler.numerics import FLOAT32_EXACT, Int64Array
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
    device: str = "cpu",
) -> Trace:
    """Execute a netlist on integer inputs (N, *input shape) and count every event."""
    engine = _Engine(netlist, len(inputs), record, torch.device(device))
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
    def __init__(self, netlist: Netlist, images: int, record: Record, device: torch.device):
        self.netlist, self.record, self.device = netlist, record, device
        neurons = [p.neuron for p in netlist.populations]
        windows = all(isinstance(n, (Source, Window, Readout)) for n in neurons)
        held = any(isinstance(n, Source) and n.hold for n in neurons)
        self.one_pass = record in ("outputs", "counts") and windows and not held
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
                drives = [self._drive(c, activity[c.source], p) for c in self.netlist.into(p.name)]
                kernel = _KERNELS[type(p.neuron)]
                activity[p.name] = kernel(self, p, drives)
            self._count(p, activity[p.name])
        self.done += len(inputs)

    def _source(self, source: Source, x: Tensor) -> _Activity:
        if source.hold:
            return _Activity(x.unsqueeze(1), "held", x * self.netlist.steps)
        return _Activity(x.unsqueeze(1), "first", x)

    def _drive(self, c: Connection, sent: _Activity, target: Population) -> _Activity:
        """What one connection delivers, in the timing in which it was sent."""
        apply, dtype = self.maps[id(c)], self.dtype[target.name]
        if self.one_pass:
            total = apply(sent.count.to(dtype)).reshape(-1, *target.shape)
            return _Activity(total.unsqueeze(1), "first", total)
        images, steps = sent.train.shape[:2]
        folded = apply(sent.train.to(dtype).flatten(0, 1))
        train = folded.reshape(images, steps, *target.shape)
        return _Activity(train, sent.timing, train[:, 0])

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
            train = activity.train
            if activity.timing != "train":
                whole = train.new_zeros((len(train), self.netlist.steps, *p.shape))
                whole[:, : None if activity.timing == "held" else 1] = train
                train = whole
            self.keep("spikes", p, train)
        self.sent[p.name] += _messages(p.neuron, activity, self.netlist.steps)

    def trace(self) -> Trace:
        """Everything recorded so far."""
        kept: dict[str, dict[str, Array]] = {kind: {} for kind in _KINDS}
        for (kind, name), values in self.kept.items():
            kept[kind][name] = values
        return Trace(
            "reference",
            real_outputs(self.netlist, kept["readouts"]),
            kept["counts"],
            kept["readouts"],
            kept["spikes"],
            kept["states"],
            self._events(),
        )

    def _events(self) -> dict[str, PopulationEvents]:
        spiking = {p.name: not isinstance(p.neuron, Source) for p in self.netlist.populations}
        events = {}
        for p in self.netlist.populations:
            if not spiking[p.name]:
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
                neuron_updates=p.size * self.netlist.steps * self.images,
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
    binary = neuron.payload() == (0, 1)
    sent = activity.count if binary else activity.count.sign().abs()
    repeats = steps if activity.timing == "held" else 1
    # Sums over a batch stay far below 2**24: exact in float32.
    messages: Array = sent.sum(0).reshape(-1).to(torch.int64).cpu().numpy() * repeats
    return messages


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
    v = _integrated(engine, p, drives, repeat_bias=False)
    count = torch.floor_(v / engine.parameters[p.name]["threshold"]).clamp_(0, p.neuron.levels)
    steps = engine.netlist.steps
    if engine.one_pass or p.neuron.sending == "graded" or steps == 1:
        return _Activity(count.unsqueeze(1), "first", count)
    ranks = torch.arange(steps, device=v.device).reshape(-1, *(1,) * len(p.shape))
    train = (count.unsqueeze(1) > ranks).to(v.dtype)  # first ones first
    return _Activity(train, "train", count)


def _readout(engine: _Engine, p: Population, drives: list[_Activity]) -> _Activity:
    v = _integrated(engine, p, drives, repeat_bias=True)
    engine.keep("readouts", p, v)
    return _Activity(v.unsqueeze(1), "first", v)


def _integrated(
    engine: _Engine, p: Population, drives: list[_Activity], *, repeat_bias: bool
) -> Tensor:
    """v after the window's last step; keeps v of every step if asked for.

    A window's bias counts once, a readout's in every step.
    """
    parameters = engine.parameters[p.name]
    start, bias = parameters["initial"], parameters["bias"]
    if engine.one_pass:
        v = drives[0].count + (start + bias * (engine.netlist.steps if repeat_bias else 1))
        for drive in drives[1:]:
            v += drive.count
        return v
    drive_per_step = engine.over_time(p, drives)
    if repeat_bias:
        drive_per_step += bias
    else:
        start = start + bias
    states = drive_per_step.cumsum(1).add_(start)
    if engine.record == "states":
        engine.keep("states", p, states)
    last: Tensor = states[:, -1]
    return last


_Kernel = Callable[[_Engine, Population, list[_Activity]], _Activity]
_KERNELS: dict[type[NeuronModel], _Kernel] = {
    SoftResetIF: _soft_reset_if,
    Window: _window,
    Readout: _readout,
}
"""The batched form of every neuron model but the source; tested equal to its `step`."""
