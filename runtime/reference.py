"""The reference engine: batched torch, bit-exact, in the speed of the ANN.

Sums of integers below 2**24 are exact in float32, in any order, and the netlist's proven bounds
say where that holds (elsewhere float64). So convolutions run as torch runs them.

Networks that settle (`NeuronModel.SETTLES`) need one pass, counts in and counts out; spike trains
exist only when asked for. Others fold time into the batch for the linear maps and run the neurons
over time (`kernels`).
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.execute import TorchMap, TorchMax, exact_arithmetic
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import NeuronModel, Readout, SignedIF, Source
from lapilli.compiler.numerics import FLOAT32_EXACT, Int64Array
from lapilli.runtime.early_stop import StopRule
from lapilli.runtime.kernels import KERNELS, Activity, changes, stepped
from lapilli.runtime.staircases import parameters
from lapilli.runtime.step_events import orders
from lapilli.runtime.tally import Tally
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
    only_readouts: bool = False,
    step_events: bool = False,
    device: str = "cpu",
) -> Trace:
    """Execute a netlist on integer inputs and count every event.

    inputs: (N, *input shape), or (N, steps, *input shape) where each step has an input of its own.
    stop: counts only what each image needed, see `early_stop`; only_readouts: keep nothing of other
    populations, whatever record says; step_events: count the events of each step, too.
    """
    place = torch.device(device)
    engine = Engine(netlist, len(inputs), record, stop, place, only_readouts, step_events)
    with exact_arithmetic():
        for start in range(0, len(inputs), engine.batch):
            engine.run(inputs[start : start + engine.batch])
            if progress is not None:
                progress(min(start + engine.batch, len(inputs)), len(inputs))
    return engine.trace()


@final
class Engine:
    """One run: what it found so far, and what kernels need to know about the network."""

    def __init__(
        self,
        netlist: Netlist,
        images: int,
        record: Record,
        stop: StopRule | None,
        device: torch.device,
        only_readouts: bool = False,
        step_events: bool = False,
    ):
        self.netlist, self.record, self.device = netlist, record, device
        self.stop, self.stopped = stop, np.full(images, netlist.steps)
        self.one_pass = record in ("outputs", "counts") and netlist.one_pass
        self.batch = IMAGES_PER_BATCH
        if not self.one_pass:
            self.batch = max(1, STEPS_PER_BATCH // _busy_steps(netlist))
        self.dtype = {p.name: _dtype(netlist, p) for p in netlist.populations}
        self.maps = {id(c): self._map(c) for c in netlist.connections}
        self.parameters = {
            p.name: parameters(p, self.dtype[p.name], device) for p in netlist.populations
        }
        self.tally = Tally(netlist, images, device, step_events)
        self.orders = orders(netlist) if step_events and self.one_pass else {}
        self.into = {p.name: netlist.into(p.name) for p in netlist.populations}
        self.steps_apart = stop is None and (netlist.steps == 1 or not netlist.one_pass)
        self.done = 0
        takes_back = any(isinstance(p.neuron, SignedIF) for p in netlist.populations)
        waits = takes_back and netlist.settling
        self.silent = np.zeros(images, np.int64) if waits else None
        self.images = images
        self.kept: dict[tuple[str, str], Array] = {}
        self.only_readouts = only_readouts

    def _map(self, c: Connection) -> TorchMap | TorchMax:
        if self.one_pass and self.netlist[c.target].neuron.POOLS:
            return TorchMax(c.map, self.device, empty=0)
        shifted = c.map.with_weight(c.map.weight.astype(np.float64) * 2.0**c.exponent)
        return TorchMap(shifted, self.dtype[c.target], self.device)

    def run(self, inputs: Int64Array) -> None:
        """One batch: every population in turn."""
        activity: dict[str, Activity] = {}
        for p in self.netlist.populations:
            if isinstance(p.neuron, Source):
                x = torch.tensor(inputs, dtype=self.dtype[p.name], device=self.device)
                activity[p.name] = self._source(p.neuron, x)
            else:
                into = [c for c in self.into[p.name] if not c.recurrent]
                drives = _joined(p, [self._drive(c, activity[c.source], p) for c in into])
                recurrent = len(into) < len(self.into[p.name])
                kernel = stepped if recurrent else KERNELS.get(type(p.neuron), stepped)
                self.tally.add_with_input(p, self._updates_with_input(p, drives))
                activity[p.name] = kernel(self, p, drives)
            if self.stop is None:
                self._count(p, activity[p.name])
        if self.stop is not None:
            self._count_until(self.stop, activity)
        self.done += len(inputs)

    def _count_until(self, stop: StopRule, activity: dict[str, Activity]) -> None:
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
            self._count(p, Activity(train, "train", train.sum(1)))
            if ("states", p.name) in self.kept:
                self.kept["states", p.name][batch] *= (
                    running.cpu().numpy().reshape(*running.shape, *(1,) * len(p.shape))
                )

    def whole(self, p: Population, activity: Activity) -> Tensor:
        """The spikes of every step, (N, steps, *shape)."""
        known = activity.train.shape[1]
        if known == self.netlist.steps:
            return activity.train
        train = activity.train.new_zeros((len(activity.train), self.netlist.steps, *p.shape))
        train[:, : None if activity.timing == "held" else known] = activity.train
        return train

    def _source(self, source: Source, x: Tensor) -> Activity:
        steps = self.netlist.steps
        if source.timing == "held":
            return Activity(x.unsqueeze(1), "held", x * steps)
        if source.timing == "first":
            return Activity(x.unsqueeze(1), "first", x)
        if source.timing == "train":
            return Activity(x, "train", x.sum(1))
        return Activity(changes(x), "train", x[:, -1])

    def _drive(self, c: Connection, sent: Activity, target: Population) -> Activity:
        """What one connection delivers, in the timing in which it was sent."""
        apply, dtype = self.maps[id(c)], self.dtype[target.name]
        if self.one_pass:
            total = apply(sent.count.to(dtype)).reshape(-1, *target.shape)
            return Activity(total.unsqueeze(1), "first", total)
        return self._delayed(c, self.delivered(c, sent, target), sent.timing)

    def delivered(self, c: Connection, sent: Activity, target: Population) -> Tensor:
        """What every step's spikes add up to at the target, (N, K, *target shape)."""
        images, steps = sent.train.shape[:2]
        folded = self.maps[id(c)](sent.train.to(self.dtype[target.name]).flatten(0, 1))
        return folded.reshape(images, steps, *target.shape)

    def _delayed(self, c: Connection, train: Tensor, timing: str) -> Activity:
        steps, late = self.netlist.steps, c.synaptic_delay
        if not late:
            return Activity(train, timing, train[:, 0])
        whole = train.new_zeros((len(train), steps, *train.shape[2:]))
        if timing == "held":
            whole[:, late:] = train
        else:
            whole[:, late : late + train.shape[1]] = train[:, : max(steps - late, 0)]
        return Activity(whole, "train", whole[:, 0])

    def over_time(self, p: Population, drives: list[Activity]) -> Tensor:
        """The summed drive of every step, (N, steps, *shape)."""
        steps = self.netlist.steps
        shape = (len(drives[0].train), steps, *p.shape)
        total = torch.zeros(shape, dtype=self.dtype[p.name], device=self.device)
        for drive in drives:
            if drive.timing == "held":
                total += drive.train  # broadcasts over the steps
            else:
                total[:, : drive.train.shape[1]] += drive.train
        return total

    def keep(self, kind: str, p: Population, values: Tensor) -> None:
        """Store one batch of counts, spikes, states or readouts as integers."""
        if self.only_readouts and not isinstance(p.neuron, Readout):
            return
        if (kind, p.name) not in self.kept:
            shape = (self.images, *values.shape[1:])
            self.kept[kind, p.name] = np.empty(shape, _stored(kind, p, self.netlist.steps))
        self.kept[kind, p.name][self.done : self.done + len(values)] = values.cpu().numpy()

    def _count(self, p: Population, activity: Activity) -> None:
        if isinstance(p.neuron, Readout):
            return
        if self.record != "outputs":
            self.keep("counts", p, activity.count)
        if self.record in ("spikes", "states"):
            self.keep("spikes", p, self.whole(p, activity))
        if self.silent is not None:
            batch = slice(self.done, self.done + len(activity.train))
            self.silent[batch] = np.maximum(self.silent[batch], _last_spike(activity.train))
        if activity.timing == "train" and self.tally.steps is not None:
            self.tally.add_steps(p, self.done, _messages_of_steps(p.neuron, activity.train))
            return
        repeats = self.netlist.steps if activity.timing == "held" else 1
        order = self.orders.get(p.name, "at once")
        self.tally.add(p, self.done, _messages(p.neuron, activity), repeats, order)

    def _updates_with_input(self, p: Population, drives: list[Activity]) -> int | None:
        """Updates of this batch whose drive is not zero; None where steps are not told apart."""
        if not self.steps_apart or any(c.recurrent for c in self.into[p.name]):
            return None
        steps = self.netlist.steps
        if len(drives) > 1:
            return _not_zero(self.over_time(p, drives))
        return _not_zero(drives[0].train) * (steps if drives[0].timing == "held" else 1)

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
            self.tally.events(self.stopped),
            stopped=stopped,
            silent=self.silent,
            image_events=self.tally.image_events(),
            step_events=self.tally.step_events(),
        )


_KINDS = ("counts", "spikes", "states", "readouts")


def _stored(kind: str, p: Population, steps: int) -> type[np.signedinteger[Any]]:
    """A small integer type that holds every value: counts of a whole data set fill memory."""
    if kind in ("states", "readouts"):
        return np.int32 if kind == "states" else np.int64
    bounds = p.neuron.window_total(steps) if kind == "counts" else p.neuron.payload()
    return np.int16 if max(-bounds[0], bounds[1]) < 2**15 else np.int32


def _busy_steps(netlist: Netlist) -> int:
    """About how many steps of a window have spikes: signed ones settle long before they must."""
    levels = [p.neuron.levels for p in netlist.populations if isinstance(p.neuron, SignedIF)]
    settling = netlist.source.timing == "first" and levels
    return min(netlist.steps, max(levels) + len(netlist.populations) if settling else netlist.steps)


def _dtype(netlist: Netlist, p: Population) -> torch.dtype:
    """float32 where the proven bounds make it exact, else float64."""
    step, total = netlist.drive_bounds(p.name)
    sent = (*p.neuron.payload(), *p.neuron.window_total(netlist.steps))
    # A readout's bias may count in every step at once.
    times = netlist.steps if isinstance(p.neuron, Readout) else 1
    parameters = [v * times for v in vars(p.neuron).values() if isinstance(v, np.ndarray)]
    bounds = [*step, *total, *parameters, np.array([p.state_low, p.state_high, *sent])]
    largest = max(int(np.abs(bound).max()) for bound in bounds)
    return torch.float32 if largest <= FLOAT32_EXACT else torch.float64


def _last_spike(train: Tensor) -> Array:
    """Steps of each image up to its last spike, (N,), for a train (N, K, *shape)."""
    steps = torch.arange(1, train.shape[1] + 1, device=train.device)
    last: Array = (train.flatten(2).any(2) * steps).amax(1).cpu().numpy()
    return last


def _joined(p: Population, drives: list[Activity]) -> list[Activity]:
    """Drives that add up and come in the same steps as a single one."""
    one, *others = drives
    if not others or p.neuron.POOLS:
        return drives
    if any((d.timing, d.train.shape) != (one.timing, one.train.shape) for d in others):
        return drives
    total = one.train + others[0].train
    for other in others[1:]:
        total += other.train
    return [Activity(total, one.timing, total[:, 0])]


def _not_zero(values: Tensor) -> int:
    # Several times as fast as torch.count_nonzero.
    return int(np.count_nonzero(values.bool().cpu().numpy()))


def _messages(neuron: NeuronModel, activity: Activity) -> Tensor:
    """Messages sent by each neuron, (N, *shape), in one step where activity is held."""
    if activity.timing != "held" and neuron.payload() == (0, 1):
        return activity.count
    if activity.timing == "train":
        return _messages_of_steps(neuron, activity.train).sum(1)
    return _messages_of_steps(neuron, activity.train[:, :1])[:, 0]


def _messages_of_steps(neuron: NeuronModel, train: Tensor) -> Tensor:
    """Messages in each step, like the train: a message is a spike that is not zero."""
    low, high = neuron.payload()
    if (low, high) == (0, 1):
        return train
    sent = train.sign()
    return sent if low >= 0 else sent.abs_()
