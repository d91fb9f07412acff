"""A placed network and one input as one YAML file of SANA-FE, an independent simulator.

The file is JSON, which is YAML, with SANA-FE's keys `architecture`, `network` and `mappings`, and a
key `lapilli` of ours. Facts of the format: the examples and the documentation that come with the
program (2.2.9), and trial. The program is no part of this package. docs/sanafe.md says what a
simulation of the file counts, and how that relates to what we count.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, final

import numpy as np

from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.interchange.sanafe_architecture import (
    HOST_TILE,
    UNIT_NEURONS,
    Json,
    architecture,
    hardware,
    tiles_of,
)
from lapilli.compiler.interchange.sanafe_neurons import (
    ABOVE,
    Program,
    Reals,
    host_drive,
    program,
    sends_ones,
)
from lapilli.compiler.mapping import Placement
from lapilli.compiler.mapping.refusals import refuse
from lapilli.compiler.mapping.regions import indices
from lapilli.compiler.mapping.resources import compartments_each
from lapilli.compiler.netlist import Connection, Netlist
from lapilli.compiler.neurons import Source
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.schedule import schedule
from lapilli.compiler.sealed_file import write_whole
from lapilli.compiler.storage import digest, encode
from lapilli.hardware_profiles import Profile

FORMAT, FORMAT_VERSION = "lapilli-sanafe", 1
CHARGE = "charge"
"""Its group of neurons that charge others: they are no part of the network and cost nothing."""
WAITING = "waiting"
"""Its group of neurons that pass a spike on in the next step, where a connection has a delay: the
program has units for delays, but these lost spikes (2.2.9). Outside the chip as well.
"""
MOST_SYNAPSES = 2**22
"""Each is a line of the file."""


def write(
    path: str | os.PathLike[str],
    artifact: Artifact,
    placement: Placement,
    profile: Profile,
    inputs: Int64Array,
) -> Json:
    """Write the file, all of it or nothing; the document's part `lapilli`.

    inputs: integers of one input, (*shape), or (steps, *shape) where the source has a value for
    each step. Raises NetlistError for a network that the program cannot express, InputError for
    inputs of another shape and a path that is no place for a file, BackendError where the disk
    fails.
    """
    document = configuration(artifact, placement, profile, inputs)
    write_whole(path, text(document).encode())
    told: Json = document["lapilli"]
    return told


def text(document: Json) -> str:
    """JSON, one line for each neuron, edge, tile and mapping: YAML, too."""
    dump = functools.partial(json.dumps, separators=(", ", ": "), allow_nan=False)

    def lines(value: Any) -> str:
        if isinstance(value, dict):
            return "{\n" + ",\n".join(f"{dump(k)}: {lines(v)}" for k, v in value.items()) + "\n}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return "[\n" + ",\n".join(map(dump, value)) + "\n]"
        return dump(value)

    return lines(document) + "\n"


def configuration(
    artifact: Artifact, placement: Placement, profile: Profile, inputs: Int64Array
) -> Json:
    """The document: plain values. Raises as `write`."""
    netlist = placement.netlist
    programs = {
        p.name: program(p, netlist.steps)
        for p in netlist.populations
        if not isinstance(p.neuron, Source)
    }
    _check(netlist, inputs)
    if netlist is not artifact.netlist and digest(encode(netlist)) != artifact.hash:
        rule = "the placement is one of this network"
        where = (digest(encode(netlist)), artifact.hash)
        raise refuse("placement", rule, *where, "Place this network, without relays.")
    placement.verify(netlist, profile)
    return _Writer(artifact, placement, profile, programs, np.asarray(inputs)).document()


def _check(netlist: Netlist, inputs: Int64Array) -> None:
    shape = netlist.input.shape
    wanted = (netlist.steps, *shape) if netlist.source.stepwise else shape
    if np.shape(inputs) != wanted:
        raise InputError(
            "inputs",
            "one input is simulated, in integers",
            found=np.shape(inputs),
            allowed=wanted,
            remedy="Take one of what runtime.quantise_input gives.",
        )
    synapses = sum(c.map.synapses for c in netlist.connections)
    if synapses > MOST_SYNAPSES:
        raise NetlistError(
            "the network",
            "each synapse is a line of the file",
            found=f"{synapses:,} synapses",
            allowed=f"{MOST_SYNAPSES:,}",
            remedy="Export a smaller network.",
        )


@final
class _Writer:
    """One document being made."""

    def __init__(
        self,
        artifact: Artifact,
        placement: Placement,
        profile: Profile,
        programs: Mapping[str, Program],
        inputs: Int64Array,
    ):
        self._hash, self._placement, self._profile = artifact.hash, placement, profile
        self._netlist = netlist = placement.netlist
        self._inputs, self._programs = inputs, programs
        self._plan = schedule(netlist.populations, netlist.connections, netlist.steps)
        self._steps = self._plan.latency
        self._group = {p.name: f"p{i}" for i, p in enumerate(netlist.populations)}
        self._core_of: dict[str, np.ndarray[Any, np.dtype[np.int64]]] = {}
        for name in programs:
            cores = np.zeros(netlist[name].size, np.int64)
            for core, piece in placement.of(name):
                cores[indices(netlist[name].shape, (piece.box,))] = core.index
            self._core_of[name] = cores
        self._trains = [
            np.flatnonzero(train).tolist()
            for train in (inputs.reshape(netlist.steps, -1).T if self._spiking_input else ())
        ]
        self._tile = tiles_of(placement)
        self._charges = list(self._charging())
        self._chains = self._waiting()
        units = Counter(self._tile[core] for _, core, _, _ in self._charges)
        units[HOST_TILE] += len(self._trains)
        waiting = Counter(tile for tile, _ in self._chains.values())
        self._hardware = hardware(placement, profile, units, waiting)

    @property
    def _spiking_input(self) -> bool:
        return sends_ones(self._netlist.source)

    def _charging(self) -> Iterator[tuple[str, int, Reals, list[int]]]:
        """(population, core, charge of each of its neurons, steps of the simulation)"""
        for name, simulated in self._programs.items():
            p = self._netlist[name]
            due: dict[int, Reals] = dict(simulated.charges)
            for step, drive in host_drive(self._netlist, p, self._inputs).items():
                due[step] = due.get(step, np.zeros(p.size)) + drive
            # A spike of this step arrives in the next one: nothing comes before step 1.
            early = self._plan.first[name] - 1
            once: dict[bytes, tuple[Reals, list[int]]] = {}
            for step in sorted(due):
                if due[step].any() and early + step + 1 < self._steps:
                    found = once.setdefault(due[step].tobytes(), (due[step], []))
                    found[1].append(early + step)
            for core in np.unique(self._core_of[name]).tolist():
                here = self._core_of[name] == core
                for charge, steps in once.values():
                    if (charge * here).any():
                        yield name, core, charge * here, steps

    def _waiting(self) -> dict[tuple[str, int, int], tuple[int, int]]:
        """By population, neuron and how many steps it waited: tile and number of who waits."""
        longest: dict[str, Int64Array] = {}
        for c in self._connections():
            if c.delay:
                sends = np.where(c.map.fan_out().reshape(-1) > 0, c.delay, 0)
                longest[c.source] = np.maximum(longest.get(c.source, 0), sends)
        found: dict[tuple[str, int, int], tuple[int, int]] = {}
        for name, delays in longest.items():
            home = self._core_of.get(name)
            for neuron, delay in enumerate(delays.tolist()):
                tile = HOST_TILE if home is None else self._tile[int(home[neuron])]
                for waited in range(1, delay + 1):
                    found[name, neuron, waited] = tile, len(found)
        return found

    def _connections(self) -> Iterator[Connection]:
        """Those over which spikes of one are sent."""
        for c in self._netlist.connections:
            if c.source != self._netlist.input.name or self._spiking_input:
                yield c

    def document(self) -> Json:
        return {
            "lapilli": self._about(),
            "architecture": architecture(self._hardware, self._placement, self._profile),
            "network": {
                "name": "lapilli",
                "groups": list(self._groups()),
                "edges": [*self._edges(), *self._waiting_edges(), *self._charge_edges()],
            },
            "mappings": list(self._mappings()),
        }

    def _about(self) -> Json:
        netlist, plan = self._netlist, self._plan
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "lapilli_version": importlib.metadata.version("lapilli"),
            "model_hash": self._hash,
            "profile": self._profile.name,
            "steps": self._steps,
            "window": netlist.steps,
            "populations": [
                {
                    "group": self._group[p.name],
                    "name": p.name,
                    "shape": list(p.shape),
                    "first": plan.first[p.name],
                    "sends": plan.sends[p.name],
                }
                for p in netlist.populations
            ],
            "cores": list(self._hardware.address),
            "waiting_neurons": len(self._chains),
            "charge_neurons": len(self._charges),
            "charges": sum(len(steps) for *_, steps in self._charges),
            "charge_synapses": sum(
                int(np.count_nonzero(charge)) * len(steps) for _, _, charge, steps in self._charges
            ),
            "unknown_costs": list(self._hardware.unknown),
        }

    def _groups(self) -> Iterator[Json]:
        steps = self._steps
        for name, simulated in self._programs.items():
            soma: Json = {"reset_mode": simulated.reset, "leak_decay": simulated.keep}
            if simulated.reset == "hard":
                soma["reset"] = simulated.after
            yield {
                "name": self._group[name],
                "attributes": {"log_spikes": True, "log_potential": True},
                "neurons": [
                    {f"{low}..{high}": {"soma": {**soma, "threshold": value}}}
                    for low, high, value in _runs(simulated.threshold)
                ],
            }
        if self._trains:
            yield _inputs(self._group[self._netlist.input.name], self._trains, steps)
        if self._chains:
            soma = {"threshold": ABOVE, "leak_decay": 0, "reset_mode": "hard", "reset": 0.0}
            numbers = f"0..{len(self._chains) - 1}"
            yield {"name": WAITING, "attributes": {}, "neurons": [{numbers: {"soma": soma}}]}
        yield _inputs(CHARGE, [steps_of for *_, steps_of in self._charges], steps)

    def _edges(self) -> Iterator[Json]:
        """One per synapse whose weight is not zero."""
        for c in self._connections():
            matrix = c.map.to_sparse().tocoo()
            matrix.sum_duplicates()
            weights = matrix.data.astype(np.int64) * 2**c.exponent
            ends = zip(matrix.col.tolist(), matrix.row.tolist(), weights.tolist(), strict=True)
            for start, end, weight in ends:
                if weight:
                    sender = self._sender(c.source, start, c.delay)
                    yield {f"{sender} -> {self._group[c.target]}.{end}": {"weight": weight}}

    def _sender(self, name: str, neuron: int, waited: int) -> str:
        if not waited:
            return f"{self._group[name]}.{neuron}"
        return f"{WAITING}.{self._chains[name, neuron, waited][1]}"

    def _waiting_edges(self) -> Iterator[Json]:
        for (name, neuron, waited), (_, number) in self._chains.items():
            before = self._sender(name, neuron, waited - 1)
            yield {f"{before} -> {WAITING}.{number}": {"weight": 1}}

    def _charge_edges(self) -> Iterator[Json]:
        for index, (name, _, charge, _) in enumerate(self._charges):
            for neuron in np.flatnonzero(charge).tolist():
                edge = f"{CHARGE}.{index} -> {self._group[name]}.{neuron}"
                yield {edge: {"weight": float(charge[neuron])}}

    def _mappings(self) -> Iterator[Json]:
        held: Counter[str] = Counter()
        for name in self._programs:
            kind = f"neuron{compartments_each(self._netlist[name], self._profile)}"
            for first, last, core in _runs(self._core_of[name]):
                address, low = self._hardware.address[int(core)], first
                while low <= last:  # what a unit has room for at a time
                    unit, used = divmod(held[address], UNIT_NEURONS)
                    high = min(last, low + UNIT_NEURONS - used - 1)
                    where = _where(address, f"{kind}[{unit}]", unit)
                    yield {f"{self._group[name]}.{low}..{high}": where}
                    held[address] += high - low + 1
                    low = high + 1
        group = self._group[self._netlist.input.name]
        spiking = [(f"{group}.{neuron}", HOST_TILE) for neuron in range(len(self._trains))]
        charging = (self._tile[core] for _, core, _, _ in self._charges)
        spiking += [(f"{CHARGE}.{index}", tile) for index, tile in enumerate(charging)]
        for neuron, tile in spiking:
            address = self._hardware.outside[tile]
            number = held[address]
            yield {neuron: _where(address, f"input[{number}]", number // UNIT_NEURONS)}
            held[address] += 1
        for tile, number in self._chains.values():
            address = self._hardware.outside[tile]
            unit = held[address] // UNIT_NEURONS
            yield {f"{WAITING}.{number}": _where(address, f"waiting[{unit}]", unit)}
            held[address] += 1


def _where(address: str, soma: str, unit: int) -> Json:
    return {"core": address, "soma": soma, "dendrite": f"dendrite[{unit}]"}


def _runs(values: Any) -> Iterator[tuple[int, int, float]]:
    """(first, last, value) of neighbours with the same value."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    for low, high in itertools.pairwise(edges):
        yield low, high - 1, values[low].item()


def _inputs(group: str, trains: list[list[int]], steps: int) -> Json:
    """Neurons that spike in given steps."""
    neurons = []
    for index, train in enumerate(trains):
        spikes = [0] * steps
        for step in train:
            spikes[step] = 1
        neurons.append({str(index): {"soma": {"spikes": spikes}}})
    return {"name": group, "attributes": {"log_spikes": True}, "neurons": neurons}
