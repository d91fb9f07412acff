"""The same network by the table of keras-spiking: two constants per device, nothing else.

keras-spiking 0.3.0, `ModelEnergy.devices` and its docstring: energy = synaptic operations times one
constant plus neuron updates times another. Devices without spikes run the ANN once: every
connection, every neuron. Devices with spikes pay for events, and for every neuron in every step.
It knows no static power, no memory, no traffic, no host; it is here because many papers quote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from lapilli.hardware_profiles import Quantity
from lapilli.runtime.estimates import DeviceEnergy, Used
from lapilli.runtime.metrics import PopulationEvents
from lapilli.runtime.uncertainty import band, drawn

_TABLE = "keras-spiking 0.3.0 (ModelEnergy.devices), which cites "
_DEGNAN = f"{_TABLE}Degnan, Marr and Hasler 2015: one multiply-accumulate"
_DAVIES = f"{_TABLE}Davies et al. 2018"
_HOEPPNER = f"{_TABLE}Hoeppner et al. 2019 (arXiv 1903.08941)"


@final
@dataclass(frozen=True)
class Device:
    """One row; spiking: does it pay for spikes, or for everything once?"""

    name: str
    title: str
    spiking: bool
    synop_pj: float
    neuron_pj: float
    synop_source: str
    neuron_source: str


DEVICES = (
    Device("cpu", "Intel i7-4960X", False, 8600.0, 8600.0, _DEGNAN, _DEGNAN),
    Device("gpu", "Nvidia GTX Titan Black", False, 300.0, 300.0, _DEGNAN, _DEGNAN),
    Device("arm", "ARM Cortex-A", False, 900.0, 900.0, _DEGNAN, _DEGNAN),
    Device(
        "loihi",
        "Intel Loihi 1",
        True,
        27.1,
        81.0,
        f"{_DAVIES}: 23.6, and 3.5 for a hop",
        _DAVIES,
    ),
    Device("spinnaker", "SpiNNaker", True, 13_300.0, 26_000.0, _HOEPPNER, _HOEPPNER),
    Device("spinnaker2", "SpiNNaker 2", True, 450.0, 2190.0, _HOEPPNER, _HOEPPNER),
)


def by_device(
    events: Mapping[str, PopulationEvents], ann_macs: Mapping[str, int]
) -> tuple[DeviceEnergy, ...]:
    """Every device of the table, per inference.

    Devices with spikes: one operation for each spike and synapse, whatever a spike carries, and for
    each input value that is not zero; those without: `ann_macs`, and one update for each neuron.
    """
    images = next(iter(events.values())).images
    operations = sum(e.synops + e.input_macs for e in events.values()) / images
    updates = sum(e.neuron_updates for e in events.values()) / images
    neurons = sum(e.neurons for e in events.values())
    found = []
    for device in DEVICES:
        if device.spiking:
            synops, neuron_updates = operations, updates
        else:
            synops, neuron_updates = float(sum(ann_macs.values())), float(neurons)
        constants = {
            "synop_pj": (device.synop_pj, device.synop_source),
            "neuron_pj": (device.neuron_pj, device.neuron_source),
        }
        used = [
            Used(f"keras-spiking.{device.name}.{key}", value, "pJ", "quoted", source)
            for key, (value, source) in constants.items()
        ]
        synop, neuron = (
            drawn(u.key, Quantity(value, u.unit, u.source, "quoted"))
            for u, (value, _) in zip(used, constants.values(), strict=True)
        )
        energy = band(synop * synops + neuron * neuron_updates)
        found.append(
            DeviceEnergy(
                device.name, device.title, device.spiking, synops, neuron_updates, energy, *used
            )
        )
    return tuple(found)
