"""What an estimate of energy and latency consists of; `energy` makes one.

Every figure is per inference and a band (low, mid, high), see `uncertainty`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, final

from lapilli.runtime.uncertainty import Band, Figure, Uncertainty


@final
@dataclass(frozen=True)
class LayerEnergy:
    """Dynamic energy of one population per inference, in pJ.

    neuron_updates_pj includes the access to every neuron in the steps of its own window;
    spikes_pj one packet per spike, or, placed, one per spike and destination core; input_pj the
    analog input where the chip takes it; hops_pj the ways on the mesh and between chips, of the
    packets that it sends and of those that the host sends to it; zero where nothing is placed.
    dynamic_pj is the sum of these. host_pj is spent outside the chip and is in no sum.
    """

    name: str
    synops_pj: Band
    neuron_updates_pj: Band
    spikes_pj: Band
    input_pj: Band
    hops_pj: Band
    dynamic_pj: Band
    host_pj: Band


@final
@dataclass(frozen=True)
class Duration:
    """One inference of `steps` steps: its time, and the energy in pJ that time itself costs.

    idle_access_pj: access to mapped neurons in steps outside their own window. dynamic_pj: the last
    two and the dynamic energy of all layers: what a board shows as dynamic. total_pj: all of these,
    without the host. energy_delay_pj_us: that times the time. board_total_pj: the total with the
    whole board at rest in the place of its chips' static and running power; None where the profile
    is no board, or one whose power is not known.
    """

    steps: int
    time_us: Band
    chip_static_pj: Band
    chip_running_pj: Band
    busy_cores_pj: Band
    idle_access_pj: Band
    dynamic_pj: Band
    total_pj: Band
    energy_delay_pj_us: Band
    board_total_pj: Band | None


@final
@dataclass(frozen=True)
class Placed:
    """What a placement adds: traffic per inference and the parts of a mean step.

    packets: one per spike and destination core; host_packets: from the host; east_west,
    north_south, chip_crossings: steps of all of them, None where the chip states no mesh.
    decided_by: "cores", "mesh" or "floor", what makes the step long; core_us: the busiest core;
    mesh_us: the busiest link, None where the chip states no mesh or no time of a hop. relays:
    neurons that the network did not have before it was placed.
    """

    objective: str
    relays: int
    packets: float
    host_packets: float
    east_west: float | None
    north_south: float | None
    chip_crossings: float | None
    decided_by: str
    busiest_core: int
    core_us: Band
    mesh_us: Band | None
    barrier_us: Band
    floor_us: Band


@final
@dataclass(frozen=True)
class ArithmeticCost:
    """The same work on the reference processor, operations per inference, energy in pJ."""

    name: str
    macs: float
    accumulates: float
    fp32_pj: Band
    int8_pj: Band


@final
@dataclass(frozen=True)
class Used:
    """One constant that entered the estimate."""

    key: str
    value: float | str
    unit: str
    confidence: str
    source: str


@final
@dataclass(frozen=True)
class DeviceEnergy:
    """The same network on one device of keras-spiking's table, see `device_table`.

    spiking: charged by its spikes, else as the ANN; synops and neuron_updates: what was charged,
    per inference; synop_pj, neuron_pj: with which constants.
    """

    name: str
    title: str
    spiking: bool
    synops: float
    neuron_updates: float
    energy_pj: Band
    synop_pj: Used
    neuron_pj: Used


@final
@dataclass(frozen=True)
class Estimate:
    """Energy and latency of one inference.

    Wherever a figure of an estimate with `calibrated` False is printed, it is marked so.
    single: one image alone, from first step to last; streaming: images back to back.
    bottleneck: the population whose cores set step_time_us, None where the step floor does, or the
    mesh. placement: None where nothing was placed.
    ann: the original network on the reference processor; reference_snn: the spiking one there.
    devices: the two on those of keras-spiking's table.
    uncertainty: how bands were made, and which constants make them wide.
    draws: of the main figures, by names such as "single.total_pj", every draw of the constants, so
    that estimates with the same constants can be compared draw by draw; `as_dict` leaves them out.
    """

    profile: str
    title: str
    calibrated: bool
    reference: str
    images: int
    cores: int
    chips: int
    layers: tuple[LayerEnergy, ...]
    total: LayerEnergy
    step_time_us: Band
    bottleneck: str | None
    placement: Placed | None
    single: Duration
    streaming: Duration
    ann: tuple[ArithmeticCost, ...]
    ann_total: ArithmeticCost
    reference_snn: tuple[ArithmeticCost, ...]
    reference_snn_total: ArithmeticCost
    devices: tuple[DeviceEnergy, ...]
    uncertainty: Uncertainty
    sources: tuple[Used, ...]
    assumptions: tuple[str, ...]
    not_counted: tuple[str, ...]
    draws: Mapping[str, Figure] = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers with the field names as keys, for JSON."""
        kept = (f.name for f in fields(self) if f.name != "draws")
        return {name: _plain(getattr(self, name)) for name in kept}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
