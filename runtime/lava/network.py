"""From a netlist to connected Lava processes: one per population, one per connection.

All images stream through back to back. The offsets of the populations come from `Schedule`, the
one owner of alignment; the delays are the netlist's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lava.magma.core.process.process import AbstractProcess

from lapilli.compiler import neurons
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import NeuronModel
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.schedule import schedule
from lapilli.runtime.lava import processes
from lapilli.runtime.lava.clock import Clock
from lapilli.runtime.lava.neuron_process import Neurons, Observer, Recorder

PROCESSES: dict[type[NeuronModel], type[Neurons]] = {
    model: getattr(processes, model.__name__) for model in neurons.MODELS
}
"""The process of every neuron model has its name; its keywords are the model's fields."""


def build(
    netlist: Netlist,
    inputs: Int64Array,
    observers: Sequence[Observer],
    arrays: Mapping[str, dict[str, Array]],
    times: Mapping[str, Clock],
) -> list[AbstractProcess]:
    """Connected processes: of the populations, then of the connections, in the netlist's order.

    inputs: as `reference.run` takes them. observers: one per process, in that order; arrays: what
    each population records, by kind (see `Recorder`); times: the clock of each population.
    """
    follow = iter(observers)
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    built: dict[str, AbstractProcess] = {}
    for p in netlist.populations:
        lag = p.neuron.emission_lag(netlist.steps)
        built[p.name] = PROCESSES[type(p.neuron)](
            **_parameters(p, inputs),
            window=netlist.steps,
            offset=plan.first[p.name],
            gap=plan.gap,
            clock=times[p.name],
            name=p.name,
            observer=next(follow),
            recorder=Recorder(arrays[p.name], netlist.steps, lag),
        )
    synapses = []
    for c in netlist.connections:
        source, target = built[c.source], built[c.target]
        synapse = processes.Synapse(
            map=c.map,
            exponent=c.exponent,
            delay=c.delay,
            in_shape=source.s_out.shape,
            out_shape=target.a_in.shape,
            name=f"{c.source} -> {c.target}",
            observer=next(follow),
        )
        source.s_out.connect(synapse.s_in)
        synapse.a_out.connect(target.a_in)
        synapses.append(synapse)
    return [*built.values(), *synapses]


def _parameters(p: Population, inputs: Int64Array) -> dict[str, Any]:
    if isinstance(p.neuron, neurons.Source):
        return {**vars(p.neuron), "inputs": inputs}
    return {**vars(p.neuron), "shape": p.shape}
