"""Packets between cores in one time step, from rates of spikes, and the axons that send them.

One packet per spike and destination core where a core's rows of weights serve all its neurons
(Loihi 2); per axon, that is per piece of a population, where synapses are kept in lists (Loihi 1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.mapping.arrivals import Arrivals
from lapilli.compiler.mapping.regions import Boxes
from lapilli.compiler.mapping.resources import on_host
from lapilli.compiler.mapping.synapse_memory import is_native
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Source
from lapilli.hardware_profiles import Profile

Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False)
class Traffic:
    """source, target (E,): cores, each pair once; axons (E,): neurons that send from one to the
    other, once per connection; packets (E,): of them in a mean step; host_packets (cores,): what
    the host sends to each core in a step, output_axons (cores,): all axons of each core.
    """

    source: Integers
    target: Integers
    axons: Integers
    packets: Reals
    host_packets: Reals
    output_axons: Integers


@final
@dataclass(frozen=True, eq=False)
class Flow:
    """Neurons of a population on one core, or of the input (core None), that send to cores.

    source, target: populations; ends, axons (n,): cores, and how many of the neurons send to each;
    a core may stand more than once, some of its numbers negative: their sum counts.
    """

    source: str
    target: str
    core: int | None
    ends: Integers
    axons: Integers


def flows(
    netlist: Netlist, cores: Sequence[Mapping[str, Boxes]], profile: Profile
) -> Iterator[Flow]:
    """Who can send to whom, one connection after the other."""
    places: dict[str, list[tuple[int, Boxes]]] = {p.name: [] for p in netlist.populations}
    for index, pieces in enumerate(cores):
        for name, boxes in pieces.items():
            places[name].append((index, boxes))
    for c in netlist.connections:
        if on_host(netlist, c, profile):
            continue
        source, target = netlist[c.source], netlist[c.target]
        arrivals = Arrivals(c, source.shape, target.shape, is_native(profile))
        for index, boxes in places[c.target]:
            arrivals.add(index, boxes)
        ends = np.array(arrivals.cores, np.int64)
        if isinstance(source.neuron, Source):
            everything = tuple((0, size) for size in source.shape)
            yield Flow(c.source, c.target, None, ends, arrivals.counts(everything))
            continue
        for index, boxes in places[c.source]:
            axons = sum((arrivals.counts(box) for box in boxes), np.zeros(len(ends), np.int64))
            met = np.flatnonzero(axons)
            yield Flow(c.source, c.target, index, ends[met], axons[met])


def traffic(
    netlist: Netlist,
    cores: Sequence[Mapping[str, Boxes]],
    profile: Profile,
    rates: Mapping[str, float],
) -> Traffic:
    """Who sends to whom, and how much; rates: mean spikes per neuron and step, 1 if not given."""
    found: list[tuple[Integers, Integers, Integers, Reals]] = []
    host = np.zeros(len(cores))
    for flow in flows(netlist, cores, profile):
        rate = rates.get(flow.source, 1.0)
        packets = np.asarray(flow.axons * rate, np.float64)
        if flow.core is None:
            np.add.at(host, flow.ends, packets)
        else:
            sending = np.full(len(flow.ends), flow.core, np.int64)
            found.append((sending, flow.ends, flow.axons, packets))
    return _merged(found, host)


def _merged(found: list[tuple[Integers, Integers, Integers, Reals]], host: Reals) -> Traffic:
    """Pairs of cores once each, in order."""
    cores = len(host)
    source, target, axons, packets = (
        np.concatenate([part[i] for part in found]) if found else np.zeros(0, np.int64)
        for i in range(4)
    )
    pairs, where = np.unique(source * cores + target, return_inverse=True)
    sent: Integers = np.bincount(where, axons, len(pairs)).astype(np.int64)
    carried: Reals = np.bincount(where, packets, len(pairs)).astype(np.float64)
    source, target = pairs // max(cores, 1), pairs % max(cores, 1)
    every: Integers = np.bincount(source, sent, cores).astype(np.int64)
    return Traffic(source, target, sent, carried, host, every)
