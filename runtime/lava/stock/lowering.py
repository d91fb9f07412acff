"""From a netlist to stock processes that compute exactly the same, or a refusal that says why.

Nothing has run, and Lava is not even imported, when a network is refused. `cells` says what each
neuron model becomes; here the cells are put in their place in time, fed, wired and tapped.
"""

from __future__ import annotations

import numpy as np

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.schedule import schedule
from lapilli.runtime.lava.stock import cells, synapses
from lapilli.runtime.lava.stock.cell import Cell
from lapilli.runtime.lava.stock.plan import Clear, Plan, Stage, Tap, Wire


def lower(netlist: Netlist, inputs: Int64Array) -> Plan:
    """The stock network for these inputs, all images streaming through.

    inputs: as `reference.run` takes them. Raises NetlistError, naming the population, for what
    stock processes cannot compute exactly.
    """
    _refuse_gaps(netlist)
    built = {p.name: cells.cell(netlist, p) for p in netlist.populations}
    enters, sends = _timing(netlist, built)
    source = netlist.input
    stages = [_ring(source.name, _sent(netlist, inputs))]
    wires: list[Wire] = []
    clears: list[Clear] = []
    taps = [Tap(source.name, source.name, 0)]
    for p in netlist.populations[1:]:
        cell, first = built[p.name], enters[p.name]
        stages += cell.stages
        wires += cell.wires
        for constant in cell.constants:
            # The buffer repeats; what belongs to tau = 0 has to be read in the stage's first step.
            values = np.broadcast_to(constant.values, (constant.period, p.size)).T
            name = f"{constant.stage}\tconstant"
            stages.append(_ring(name, np.roll(values, first + constant.lag, axis=1)))
            wires.append(Wire(name, constant.stage, None))
        clears += [clear.at(first, netlist.steps) for clear in cell.restarts]
        for c in netlist.into(p.name):
            delay = first - sends[c.source] - 1
            wire = synapses.lowered(c, netlist[c.source], p, delay)
            leaves = c.source if c.source == source.name else built[c.source].exit
            wires.append(Wire(leaves, cell.entry, wire.matrix, wire.exponent, wire.delay))
        taps.append(Tap(p.name, cell.exit, sends[p.name]))
    steps = max(tap.first for tap in taps) + len(inputs) * netlist.steps
    return Plan(tuple(stages), tuple(wires), tuple(clears), tuple(taps), netlist.steps, steps)


def _refuse_gaps(netlist: Netlist) -> None:
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    late = [c for c in netlist.connections if c.recurrent or c.synaptic_delay]
    if plan.gap and late:
        raise NetlistError(
            f"{late[0].source} -> {late[0].target}",
            "stock processes work in every step: no spike may outlive its window",
            found=f"{plan.gap} steps between windows, because of synaptic delays or recurrence",
            allowed="none",
            remedy="Run it with processes='lapilli'.",
        )


def _timing(netlist: Netlist, built: dict[str, Cell]) -> tuple[dict[str, int], dict[str, int]]:
    """Steps in which each population's window begins, and in which its first spikes leave."""
    enters = {netlist.input.name: 0}
    sends = {netlist.input.name: 0}
    for p in netlist.populations[1:]:
        enters[p.name] = max(sends[c.source] + 1 for c in netlist.into(p.name))
        sends[p.name] = enters[p.name] + built[p.name].latency
    return enters, sends


def _sent(netlist: Netlist, inputs: Int64Array) -> Array:
    """What the source sends, (input size, steps of all images and a silent one after them)."""
    source, steps = netlist.source, netlist.steps
    state = source.start((len(inputs), *netlist.input.shape))
    sent = np.zeros((len(inputs) + 1, steps, netlist.input.size), np.int64)
    for tau in range(steps):
        shown = inputs[:, tau] if source.stepwise else inputs
        shown = shown.reshape(len(inputs), *netlist.input.shape)
        state, spikes = source.step(state, shown, tau, steps)
        sent[:-1, tau] = spikes.reshape(len(inputs), -1)
    return sent.reshape(-1, netlist.input.size).T


def _ring(name: str, data: Array) -> Stage:
    return Stage(name, "RingBuffer", len(data), {"data": np.ascontiguousarray(data, np.int32)})
