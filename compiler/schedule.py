"""When each population works: the one owner of alignment in time.

A spike sent at step t arrives at t + 1. So a population one connection deeper works one step later
(a window neuron, which sends after its window, a whole window later), and a short branch that
joins a longer one is delayed. Images follow each other without a gap, one window apart, unless
spikes travel longer than that: then populations rest until the last ones of an image are gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

from lapilli.compiler.neurons import NeuronModel


class _Population(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def neuron(self) -> NeuronModel: ...


class _Connection(Protocol):
    @property
    def source(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def synaptic_delay(self) -> int: ...


@final
@dataclass(frozen=True)
class Schedule:
    """first: global step (from 0) of each population's local step 0 for image 0.

    sends: global step in which its first spikes for image 0 leave; interval: steps between images;
    gap: steps of these in which a population ignores what arrives;
    latency: steps until every population has seen the whole of image 0, readouts included.
    """

    first: Mapping[str, int]
    sends: Mapping[str, int]
    interval: int
    gap: int
    latency: int

    def delay(self, connection: _Connection) -> int:
        """Steps that a connection waits beyond the one of every synapse."""
        if connection.source == connection.target:
            return connection.synaptic_delay
        ahead = self.first[connection.target] - self.sends[connection.source] - 1
        return ahead + connection.synaptic_delay

    def total_steps(self, images: int) -> int:
        """Steps to stream `images` images through the whole network."""
        return self.latency + (images - 1) * self.interval


def schedule(
    populations: tuple[_Population, ...], connections: tuple[_Connection, ...], steps: int
) -> Schedule:
    """Earliest start of every population, each in step with all that drive it."""
    first: dict[str, int] = {}
    sends: dict[str, int] = {}
    for p in populations:
        arrivals = [sends[c.source] + 1 for c in connections if c.target == p.name != c.source]
        first[p.name] = max(arrivals, default=0)
        sends[p.name] = first[p.name] + p.neuron.emission_lag(steps)
    # The last spike of a window arrives so many steps after the window of its target has ended.
    gap = max((c.synaptic_delay + (c.source == c.target) for c in connections), default=0)
    return Schedule(first, sends, steps + gap, gap, max(first.values()) + steps)
