"""Dense layers behind a pooled plane: the plane is summed once, not by every neuron.

`legalise` makes one matrix of a global pooling and the dense layer behind it, in which a channel's
positions weigh the same: 2,048 channels of 7x7 and 1,000 classes make 100 million synapses of
2 million weights. A relay per channel that sums its plane makes two small layers of it again, with
the same sums, bit by bit, one step later.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from lapilli.compiler.linear import Array, Conv, Dense, frozen
from lapilli.compiler.mapping.relays import free_name, sums, unfit
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.schedule import schedule
from lapilli.hardware_profiles import Profile


def pool_with_relays(netlist: Netlist, profile: Profile) -> Netlist:
    """The netlist in which relays sum up planes whose positions a dense layer weighs alike.

    Relays are named `TARGET.pooled0`, ... The same netlist on a chip without relays, where sums do
    not fit a spike, and where there is nothing to gain.
    """
    if not profile.features.relay_populations.value:
        return netlist
    relays: dict[str, list[Population]] = {p.name: [] for p in netlist.populations}
    connections: list[Connection] = []
    taken = set(relays)
    for c in netlist.connections:
        weights = _per_channel(netlist, c)
        relay = None if weights is None else _relay(netlist, c, taken)
        if weights is None or relay is None or unfit(relay, netlist.steps, profile):
            connections.append(c)
            continue
        relays[c.target].append(relay)
        taken.add(relay.name)
        summed = _plane_sum(netlist[c.source])
        onward = Dense(frozen(weights), relay.shape, c.map.out_shape)
        unit = frozen(1.0)
        connections += [
            Connection(c.source, relay.name, summed, 0, 0, unit),
            replace(c, source=relay.name, map=onward),
        ]
    populations = tuple(q for p in netlist.populations for q in (*relays[p.name], p))
    if len(populations) == len(netlist.populations):
        return netlist
    plan = schedule(populations, tuple(connections), netlist.steps)
    delayed = tuple(replace(c, delay=plan.delay(c)) for c in connections)
    return replace(netlist, populations=populations, connections=delayed)


def _per_channel(netlist: Netlist, c: Connection) -> Array | None:
    """(outputs, channels) where all positions of a channel weigh the same, else None."""
    shape = netlist[c.source].shape
    usable = isinstance(c.map, Dense) and not c.recurrent and not netlist[c.target].neuron.POOLS
    if not usable or len(shape) != 3 or math.prod(shape[1:]) == 1:
        return None
    if c.map.out_size * (math.prod(shape) - shape[0]) <= math.prod(shape):
        return None  # summing takes as many synapses as it saves
    weights = c.map.weight.reshape(c.map.out_size, shape[0], -1)
    alike = all((weights[:, :, i] == weights[:, :, 0]).all() for i in range(weights.shape[2]))
    return np.ascontiguousarray(weights[:, :, 0]) if alike else None


def _plane_sum(source: Population) -> Conv:
    channels, *plane = source.shape
    ones = frozen(np.ones((channels, 1, *plane)), np.int8)
    return Conv(ones, source.shape, (channels, 1, 1), groups=channels)


def _relay(netlist: Netlist, c: Connection, taken: set[str]) -> Population:
    source = netlist[c.source]
    shape = (source.shape[0], 1, 1)
    whole = replace(c, map=_plane_sum(source), exponent=0)
    name = free_name(f"{c.target}.pooled", taken)
    return sums(netlist, whole, name, shape, source.count_scale)
