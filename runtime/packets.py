"""Packets of a placed network, counted neuron by neuron from the messages that each one sent.

An estimate takes the neurons of a population to spike equally often (`placed_layout`); here it
counts which ones did. A message goes once to every core that has an axon for it, once per piece of
the target where synapses are kept in lists (`compiler.mapping.traffic`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping import Placement
from lapilli.compiler.mapping.core_graph import HOST_SLOT
from lapilli.compiler.mapping.placement import pieces
from lapilli.compiler.mapping.regions import indices, reshaped
from lapilli.compiler.mapping.resources import on_host
from lapilli.compiler.mapping.synapse_memory import is_native, sources_of
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import NeuronModel, Readout, Source, Staircase
from lapilli.compiler.numerics import Int64Array
from lapilli.hardware_profiles import Profile
from lapilli.runtime.placed_layout import slots_of
from lapilli.runtime.trace import Trace

Bools = npt.NDArray[np.bool_]


@final
@dataclass(frozen=True, eq=False)
class Packets:
    """Sums over the images. between (cores + 1, cores): packets from each core to each core, the
    last row from the host; hops of all of them, None where the placement has no mesh.
    """

    between: Int64Array
    east_west: int | None
    north_south: int | None
    chip_crossings: int | None

    @property
    def arriving(self) -> Int64Array:
        """Packets at every destination core, those of the host included, (cores,)."""
        return np.asarray(self.between.sum(axis=0))

    @property
    def sent(self) -> int:
        """Packets that cores send."""
        return int(self.between[:-1].sum())

    @property
    def from_host(self) -> int:
        """Packets that the host sends."""
        return int(self.between[-1].sum())


class _Entry(NamedTuple):
    """One axon of each neuron of `source` where `read` (size,), to a core."""

    source: str
    core: int
    read: Bools


def messages(netlist: Netlist, trace: Trace) -> dict[str, Int64Array]:
    """Messages that every neuron sent, (size,), summed over the images of a run.

    Raises InputError where the trace does not tell: counts are messages for spikes of one, and for
    neurons that send one graded spike a window; else it takes record="spikes".
    """
    found = {}
    for p in netlist.populations:
        if isinstance(p.neuron, Readout):
            continue
        low, high = p.neuron.payload()
        if p.name in trace.spikes:
            sent = np.count_nonzero(trace.spikes[p.name], axis=(0, 1))
        elif p.name in trace.counts and (low, high) == (0, 1):
            sent = trace.counts[p.name].sum(axis=0)
        elif p.name in trace.counts and _alike(netlist, p.neuron):
            held = isinstance(p.neuron, Source) and p.neuron.timing == "held"
            sent = np.count_nonzero(trace.counts[p.name], axis=0) * (netlist.steps if held else 1)
        else:
            raise InputError(
                f"messages of {p.name}",
                "the run tells how many messages each neuron sent",
                found="sums of payloads" if p.name in trace.counts else "nothing of it",
                allowed="spikes of every step",
                remedy="Run with record='spikes'.",
            )
        found[p.name] = np.asarray(sent, np.int64).reshape(-1)
    return found


def _alike(netlist: Netlist, neuron: NeuronModel) -> bool:
    """Does it send the same in each step in which it may send, or in one step only?"""
    if isinstance(neuron, Source):
        return netlist.steps == 1 or neuron.timing in ("first", "held")
    return isinstance(neuron, Staircase) and neuron.coding() == "graded"


def count(placement: Placement, profile: Profile, sent: Mapping[str, Int64Array]) -> Packets:
    """Where the messages go; sent: as `messages` has them, of a run of placement.netlist."""
    netlist, cores = placement.netlist, len(placement.cores)
    between = np.zeros((cores + 1, cores), np.int64)
    home = {p.name: np.full(p.size, cores, np.int64) for p in netlist.populations}
    for core in placement.cores:
        for name, boxes in pieces(core).items():
            home[name][indices(netlist[name].shape, boxes)] = core.index
    for entry in _entries(placement, profile):
        reached = np.where(entry.read, sent[entry.source], 0)
        carried = np.zeros(cores + 1, np.int64)
        np.add.at(carried, home[entry.source], reached)
        between[:, entry.core] += carried
    slots = slots_of(placement)
    if slots is None or placement.mesh is None:
        return Packets(between, None, None, None)
    start, stop = np.nonzero(between)
    packets = between[start, stop]
    ends = (np.append(slots, HOST_SLOT)[start], slots[stop])
    east_west, north_south = placement.mesh.hops(*ends)
    crossings = placement.mesh.crossings(*ends)
    return Packets(between, *(int(packets @ far) for far in (east_west, north_south, crossings)))


def _entries(placement: Placement, profile: Profile) -> Iterator[_Entry]:
    netlist, native = placement.netlist, is_native(profile)
    for c in netlist.connections:
        if on_host(netlist, c, profile):
            continue
        for core in placement.cores:
            boxes = pieces(core).get(c.target, ())
            for part in [boxes] if native else [(box,) for box in boxes]:
                if part:
                    here = reshaped(part, netlist[c.target].shape, c.map.out_shape)
                    yield _Entry(c.source, core.index, sources_of(c.map, here))
