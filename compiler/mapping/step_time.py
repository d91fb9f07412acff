"""How long a time step takes: the busiest core, the mesh, the barrier, and the chip's floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.mapping.core_graph import Cost
from lapilli.compiler.mapping.regions import Boxes, count, reshaped
from lapilli.compiler.mapping.resources import compartments_each, drives_of
from lapilli.compiler.mapping.synapse_memory import synapses
from lapilli.compiler.mapping.traffic import Traffic
from lapilli.compiler.netlist import Netlist, Population
from lapilli.hardware_profiles import Profile, Quantity

Rates = Mapping[str, float]
"""Mean spikes per neuron and step of each population; 1 where none is given."""
_US_PER_NS = 1e-3


@final
@dataclass(frozen=True)
class StepTime:
    """One mean step, in us; `decided_by`: "cores", "mesh" or "floor".

    busiest_core: its number; core_us: its synaptic events, neurons and packets; mesh_us: the
    packets on the busiest link, None where the chip states no mesh or no time of a hop.
    """

    step_us: float
    decided_by: str
    busiest_core: int
    core_us: float
    mesh_us: float | None
    barrier_us: float
    floor_us: float


class Work(NamedTuple):
    """What neurons of one core have to do in a mean step, but for packets."""

    arriving: float
    compartments: int
    spikes: float


def work(netlist: Netlist, p: Population, boxes: Boxes, profile: Profile, rates: Rates) -> Work:
    """Synaptic events, compartments to update and spikes of neurons of a population."""
    arriving = sum(
        rates.get(c.source, 1.0) * synapses(c.map, reshaped(boxes, p.shape, c.map.out_shape))
        for c in drives_of(netlist, p, profile)
    )
    neurons = count(boxes)
    return Work(arriving, neurons * compartments_each(p, profile), neurons * rates.get(p.name, 1.0))


def work_ns(netlist: Netlist, p: Population, boxes: Boxes, profile: Profile, rates: Rates) -> float:
    """How long neurons of a population keep their core busy in a step, but for packets."""
    time = profile.time
    if time is None:
        return 0.0
    todo = work(netlist, p, boxes, profile, rates)
    return (
        todo.arriving * time.synop_ns.value
        + todo.compartments * (_known(time.neuron_access_ns) + _known(time.neuron_update_ns))
        + todo.spikes * _known(time.spike_ns)
    )


def core_times_ns(
    netlist: Netlist,
    held: list[dict[str, Boxes]],
    sent: Traffic,
    profile: Profile,
    rates: Rates,
) -> npt.NDArray[np.float64]:
    """How long every core is busy in a step, packets included; (cores,)."""
    busy = np.array(
        [
            sum(work_ns(netlist, netlist[name], boxes, profile, rates) for name, boxes in h.items())
            for h in held
        ],
        np.float64,
    )
    if profile.time is not None:
        out, into = (_known(q) for q in (profile.time.axon_out_ns, profile.time.axon_in_ns))
        busy += np.bincount(sent.source, sent.packets, len(held)) * out
        busy += (np.bincount(sent.target, sent.packets, len(held)) + sent.host_packets) * into
    return busy


def step_time(
    busy_ns: npt.NDArray[np.float64], cost: Cost | None, profile: Profile
) -> StepTime | None:
    """The mean step of a placement; None for a profile without times."""
    time = profile.time
    if time is None or not len(busy_ns):
        return None
    hops = (time.hop_east_west_ns, time.hop_north_south_ns)
    hop = max((q.value for q in hops if q is not None), default=None)
    mesh = None if cost is None or hop is None else cost.worst_link * hop * _US_PER_NS
    core = float(busy_ns.max()) * _US_PER_NS
    barrier, floor = _known(time.barrier_ns) * _US_PER_NS, time.step_floor_us.value
    terms = {"cores": core + barrier, "mesh": (mesh or 0.0) + barrier, "floor": floor}
    decided = max(terms, key=lambda name: terms[name])
    return StepTime(terms[decided], decided, int(busy_ns.argmax()), core, mesh, barrier, floor)


def step_energy_uj(
    cores: int, chips: int, step_us: float, packets: float, profile: Profile
) -> float | None:
    """Energy of a step that depends on the layout: power over its time, and packets; in uJ.

    Synaptic events and neuron updates are the same wherever neurons sit, and hops are known only
    after the cores are arranged: neither is in it. None for a profile without energies.
    """
    energy = profile.energy
    if energy is None:
        return None
    per_chip = energy.chip_static_mw.value + _known(energy.chip_running_mw)
    power_mw = per_chip * chips + _known(energy.busy_core_mw) * cores
    return (power_mw * step_us * 1e-3) + packets * _known(energy.axon_out_pj) * 1e-6


def _known(quantity: Quantity[float] | None) -> float:
    return 0.0 if quantity is None else quantity.value
