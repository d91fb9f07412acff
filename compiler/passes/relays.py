"""Relays: neurons that hand on what they get, where spikes wait longer than the chip can delay.

A branch that joins one that is deeper by more layers than the chip has steps of delay (DenseNet-169
joins across 64 on a chip that delays by 62) is led through neurons that count what they get, one
spike by one spike, and send the same count a window later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lapilli.compiler.linear import (
    frozen,
    identity,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import OrGate, SigmaDelta, Source, Window
from lapilli.compiler.neurons.staircase import Staircase
from lapilli.compiler.numerics import smallest_integer
from lapilli.compiler.schedule import schedule
from lapilli.compiler.spiking import SpikingGraph

_ONE, _ZERO = frozen(1, np.int64), frozen(0, np.int64)


def relayed(netlist: Netlist, graph: SpikingGraph, limit: int) -> Netlist:
    """The netlist in which no connection has to wait more than `limit` steps, where relays exist.

    They do for counts that a window has settled: not for rates, nor for spikes that are taken back.
    Relays are named `SOURCE.relay0`, `SOURCE.relay1`, ...; targets that wait long share them.
    """
    if graph.hold or graph.takes_back:
        return netlist
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    populations: list[Population] = []
    made: list[Connection] = []
    moved: dict[int, Connection] = {}
    for p in netlist.populations:
        populations.append(p)
        relay = _relay(p, graph, netlist.steps)
        if relay is None:
            continue
        lag = relay.neuron.emission_lag(netlist.steps) + 1
        late = [c for c in netlist.connections if c.source == p.name and plan.delay(c) > limit]
        hops = {id(c): -((limit - plan.delay(c)) // lag) for c in late}
        if not late or lag > limit:
            continue
        chain = list(_chain(p, relay, max(hops.values())))
        populations += [population for population, _ in chain]
        made += [connection for _, connection in chain]
        for c in late:
            moved[id(c)] = replace(c, source=chain[hops[id(c)] - 1][0].name)
    kept = [moved.get(id(c), c) for c in netlist.connections]
    return replace(netlist, populations=tuple(populations), connections=(*kept, *made))


def _relay(p: Population, graph: SpikingGraph, steps: int) -> Population | None:
    """A population that sends what p sends; None where no neuron model does."""
    low, high = p.neuron.window_total(steps)
    settles = isinstance(p.neuron, (Staircase, OrGate, Source))
    if graph.hold or graph.takes_back or not settles or high <= low:
        return None  # rates, spikes that are taken back, several thresholds, readouts
    if graph.sending == "unary" and isinstance(p.neuron, Source):
        return None  # spikes of one cannot say what an input sends
    neuron: SigmaDelta | Window
    if graph.coding == "changes":
        neuron = SigmaDelta(_ONE, _ZERO, _ZERO, high, low)
    else:
        neuron = Window(_ONE, _ZERO, _ZERO, high, graph.coding, low)
    return replace(
        p,
        neuron=neuron,
        state_scale=p.count_scale,
        state_low=min(low, 0),
        state_high=max(high, 0),
    )


def _chain(
    p: Population, relay: Population, length: int
) -> Iterator[tuple[Population, Connection]]:
    """Relays one after the other, each with the connection into it."""
    one = identity(p.shape)
    copied = one.with_weight(smallest_integer(one.weight))
    source = p.name
    for index in range(length):
        name = f"{p.name}.relay{index}"
        yield replace(relay, name=name), Connection(source, name, copied, 0, 0, frozen(1.0))
        source = name
