"""Exact counts of what happens in a run of the reference engine, made while it runs.

A message is a spike that is not zero, whatever it carries. Each one arrives over every synapse of
its neuron whose weight is not zero: messages times true fan-outs, borders included. Per image that
is one product of a matrix with a few columns, summed in a type in which it is exact.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import Source
from lapilli.compiler.numerics import FLOAT32_EXACT, Int64Array
from lapilli.runtime.metrics import ImageEvents, PopulationEvents
from lapilli.runtime.step_events import Order, StepEvents, StepTally


@final
class Tally:
    """Counts of one run over `images` images; populations and connections are the netlist's.

    by_step: count each step's events, too (`steps`).
    """

    def __init__(self, netlist: Netlist, images: int, device: torch.device, by_step: bool = False):
        self.netlist, self.images = netlist, images
        self.with_input: dict[str, int] | None = {p.name: 0 for p in netlist.populations[1:]}
        leaving: dict[str, list[Connection]] = {p.name: [] for p in netlist.populations}
        self._place: dict[int, int] = {}
        for c in netlist.connections:
            self._place[id(c)] = 1 + 2 * len(leaving[c.source])
            leaving[c.source].append(c)
        self.steps = StepTally(netlist, images, self._place) if by_step else None
        self._columns = {
            p.name: self._reached_by(p, leaving[p.name], device) for p in netlist.populations
        }
        self._rows = {
            name: np.zeros((images, len(columns)), np.int64)
            for name, columns in self._columns.items()
        }

    def _reached_by(self, p: Population, leaving: list[Connection], device: torch.device) -> Tensor:
        """(1 + 2 * connections, size): a message, the synapses it reaches, those excitatory."""
        rows = [np.ones(p.size, np.int64)]
        for c in leaving:
            positive = c.map.with_weight(np.maximum(c.map.weight, 0))
            rows += [c.map.fan_out().reshape(-1), positive.fan_out().reshape(-1)]
        stacked = np.stack(rows)
        # A neuron sends no more than one message in a step.
        largest = int(stacked.sum(1).max()) * self.netlist.steps
        dtype = torch.float32 if largest <= FLOAT32_EXACT else torch.float64
        return torch.as_tensor(stacked).to(device=device, dtype=dtype)

    def add(
        self,
        p: Population,
        first_image: int,
        messages: Tensor,
        repeats: int = 1,
        order: Order | None = "at once",
    ) -> None:
        """Count messages (N, *shape) of each neuron of so many images, made `repeats` times.

        order: in which steps they are sent, see `step_events`; those that repeat, in every step.
        """
        columns = self._columns[p.name]
        # In this order a few times as fast as messages times columns.
        counted = columns @ messages.flatten(1).to(columns.dtype).t()
        rows = counted.t().to(torch.int64).cpu().numpy()
        images = slice(first_image, first_image + len(rows))
        self._rows[p.name][images] = rows * repeats
        if self.steps is None:
            return
        if order is None:
            self.steps.unknown(p)
        elif order == "at once" or len(rows) == 0:
            self.steps.add(p, images, np.repeat(rows[:, np.newaxis], repeats, axis=1))
        else:
            self.steps.add(p, images, self._sorted(p, messages, order))

    def add_steps(self, p: Population, first_image: int, train: Tensor) -> None:
        """The same for messages (N, K, *shape) of each of the first steps of the window."""
        rows = self._by_step(p, train)
        images = slice(first_image, first_image + len(rows))
        self._rows[p.name][images] = rows.sum(1)
        if self.steps is not None:
            self.steps.add(p, images, rows)

    def _sorted(self, p: Population, count: Tensor, order: Order) -> Int64Array:
        """Rows of `count` (N, *shape) messages each, one in each first or last step."""
        ranks = range(int(count.max()))
        rows = [self._by_step(p, (count > k).unsqueeze(1)) for k in ranks]
        none = np.zeros((len(count), 1, len(self._columns[p.name])), np.int64)
        rows += [none] * (self.netlist.steps - len(rows))
        return np.concatenate(rows[::-1] if order == "last" else rows, axis=1)

    def _by_step(self, p: Population, train: Tensor) -> Int64Array:
        """(N, K, 1 + 2 * connections)"""
        columns = self._columns[p.name]
        counted = columns @ train.flatten(2).flatten(0, 1).to(columns.dtype).t()
        rows: Int64Array = counted.t().to(torch.int64).cpu().numpy()
        return rows.reshape(*train.shape[:2], len(columns))

    def add_with_input(self, p: Population, updates: int | None) -> None:
        """Count updates with input; None: nobody knows, of this population or any other."""
        if updates is None:
            self.with_input = None
        elif self.with_input is not None:
            self.with_input[p.name] += updates

    def events(self, stopped: Int64Array) -> dict[str, PopulationEvents]:
        """Sums over all images; stopped: the steps that each of them took, (N,)."""
        return {
            p.name: self._population(p, stopped)
            for p in self.netlist.populations
            if not isinstance(p.neuron, Source)
        }

    def step_events(self) -> dict[str, StepEvents | None]:
        """Sums of each step, see `StepTally.events`; empty unless they were asked for."""
        if self.steps is None:
            return {}
        return self.steps.events(
            {
                p.name: [c for c in self.netlist.into(p.name) if self._spikes(c)]
                for p in self.netlist.populations
                if not isinstance(p.neuron, Source)
            }
        )

    def image_events(self) -> dict[str, ImageEvents]:
        """The same for each image."""
        found = {}
        for p in self.netlist.populations:
            if isinstance(p.neuron, Source):
                continue
            arriving = {kind: np.zeros(self.images, np.int64) for kind in (True, False)}
            for c in self.netlist.into(p.name):
                arriving[self._spikes(c)] += self._rows[c.source][:, self._place[id(c)]]
            found[p.name] = ImageEvents(self._rows[p.name][:, 0], arriving[True], arriving[False])
        return found

    def _population(self, p: Population, stopped: Int64Array) -> PopulationEvents:
        synops = input_macs = excitatory = graded = synapses = 0
        for c in self.netlist.into(p.name):
            place = self._place[id(c)]
            operations, exciting = self._rows[c.source][:, place : place + 2].sum(0).tolist()
            synapses += c.map.synapses
            if not self._spikes(c):
                input_macs += operations
                continue
            synops += operations
            excitatory += exciting
            low, high = self.netlist[c.source].neuron.payload()
            graded += operations if low < -1 or high > 1 else 0
        return PopulationEvents(
            neurons=p.size,
            steps=self.netlist.steps,
            images=self.images,
            spikes=int(self._rows[p.name][:, 0].sum()),
            synops=synops,
            input_macs=input_macs,
            neuron_updates=p.size * int(stopped.sum()),
            synapses=synapses,
            synops_excitatory=excitatory,
            synops_inhibitory=synops - excitatory,
            synops_graded=graded,
            updates_with_input=None if self.with_input is None else self.with_input[p.name],
        )

    def _spikes(self, c: Connection) -> bool:
        """Does it bring spikes? An input that comes as a train of them costs what they cost."""
        neuron = self.netlist[c.source].neuron
        return not isinstance(neuron, Source) or neuron.timing == "train"
