"""On which cores a network is, as far as energy and time depend on it.

`spread` is what is assumed of a network that was not placed; `placed_layout` reads a placement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from lapilli.runtime.metrics import PopulationEvents

WORK = (
    "time.synop_ns",
    "time.neuron_access_ns",
    "time.neuron_update_ns",
    "time.spike_ns",
    "time.axon_out_ns",
    "time.axon_in_ns",
)
"""What keeps a core busy, by the constant that each costs."""

Reals = npt.NDArray[np.float64]


@final
@dataclass(frozen=True)
class Journeys:
    """Packets, and how far they go: steps between tiles, and borders between chips."""

    packets: float = 0.0
    east_west: float = 0.0
    north_south: float = 0.0
    chip_crossings: float = 0.0

    def __add__(self, other: Journeys) -> Journeys:
        return Journeys(
            self.packets + other.packets,
            self.east_west + other.east_west,
            self.north_south + other.north_south,
            self.chip_crossings + other.chip_crossings,
        )


@final
@dataclass(frozen=True, eq=False)
class OnCores:
    """What a placement says of a mean inference, and of a mean step.

    sent: by each population, from_host: to each population, both per inference; core, population
    (parts,): which neurons are where, work (parts, len(WORK)): what these do in a step; worst_link:
    packets on the busiest link in a step, None where the chip states no mesh; relays: neurons that
    the network did not have before; board_chips: of the system, None for a chip; unchecked: limits.
    """

    objective: str
    sent: Mapping[str, Journeys]
    from_host: Mapping[str, Journeys]
    core: npt.NDArray[np.int64]
    population: tuple[str, ...]
    work: Reals
    worst_link: float | None
    relays: int
    board_chips: int | None
    unchecked: tuple[str, ...]

    @property
    def sent_in_all(self) -> Journeys:
        """Of an inference, from cores."""
        return sum(self.sent.values(), Journeys())

    @property
    def from_host_in_all(self) -> Journeys:
        """Of an inference, from the host."""
        return sum(self.from_host.values(), Journeys())


@final
@dataclass(frozen=True)
class Layout:
    """On how many cores each population is, and how many cores and chips are in use.

    compartments: what a neuron of each population takes; placed: None where nothing was placed.
    """

    cores: Mapping[str, int]
    all_cores: int
    chips: int
    compartments: Mapping[str, int]
    placed: OnCores | None = None

    def packets(self, name: str, spikes: float) -> float:
        """Packets that so many spikes of a population become; one each where nothing is placed."""
        return spikes if self.placed is None else self.placed.sent[name].packets

    def ways(self, name: str) -> Journeys:
        """Of what a population sends, and of what the host sends to it, per inference."""
        if self.placed is None:
            return Journeys()
        return self.placed.sent[name] + self.placed.from_host[name]


def spread(
    events: Mapping[str, PopulationEvents],
    compartments: int,
    neurons_per_core: int,
    cores_per_chip: int,
) -> Layout:
    """Each population on the fewest cores that hold its neurons: what is, unplaced, assumed."""
    cores = {name: -(-e.neurons * compartments // neurons_per_core) for name, e in events.items()}
    every = sum(cores.values())
    return Layout(cores, every, -(-every // cores_per_chip), dict.fromkeys(events, compartments))
