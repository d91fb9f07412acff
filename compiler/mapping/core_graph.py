"""Who sends how many packets to whom: the graph that is laid on a mesh, and what a layout costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping.mesh import Floats, Ints, Mesh

HOST_SLOT = 0
"""Assumption: the host's packets enter the mesh at the first core of chip 0, on tile (0, 0)."""


@final
@dataclass(frozen=True, eq=False)
class CoreGraph:
    """Traffic between cores.

    source, target: cores, shape (edges,), in 0 .. cores - 1; packets: per step on each edge, shape
    (edges,); host_packets: per step from the host to each core, shape (cores,).

    Errors: InputError where shapes differ, a core does not exist, or packets are negative or not
    finite.
    """

    source: Ints
    target: Ints
    packets: Floats
    host_packets: Floats

    def __post_init__(self) -> None:
        shapes = (self.source.shape, self.target.shape, self.packets.shape)
        if len(set(shapes)) > 1 or self.source.ndim != 1 or self.host_packets.ndim != 1:
            raise _refusal("edges are three vectors of one length", shapes, "(edges,) each")
        for ends in (self.source, self.target):
            if ends.size and (int(ends.min()) < 0 or int(ends.max()) >= self.cores):
                found = f"{int(ends.min())} .. {int(ends.max())}"
                raise _refusal("edges join cores of the graph", found, f"0 .. {self.cores - 1}")
        for packets in (self.packets, self.host_packets):
            if not bool(np.all(np.isfinite(packets) & (packets >= 0))):
                raise _refusal("packets are counted", "negative or not finite", "0 or more")

    @property
    def cores(self) -> int:
        """Number of cores."""
        return len(self.host_packets)


def _refusal(rule: str, found: object, allowed: object) -> InputError:
    return InputError(
        "traffic between cores",
        rule,
        found=found,
        allowed=allowed,
        remedy="Give the traffic of this very partition.",
    )


@final
@dataclass(frozen=True)
class Cost:
    """What a layout costs per step.

    packets: all packets, the host's included; packet_hops: packets x steps between tiles, of which
    host_packet_hops from the host; chip_crossings: packets x borders between chips; worst_link:
    packets on the busiest link; farthest: hops of the longest way.
    """

    packets: float
    packet_hops: float
    host_packet_hops: float
    east_west: float
    north_south: float
    chip_crossings: float
    worst_link: float
    farthest: int

    @property
    def mean_hops(self) -> float:
        """Hops of a packet on average; 0 where there are no packets."""
        return self.packet_hops / self.packets if self.packets else 0.0


def cost(graph: CoreGraph, mesh: Mesh, slots: Ints) -> Cost:
    """Cost of the layout that has core i on slot slots[i]."""
    hosted = np.flatnonzero(graph.host_packets)
    source = np.concatenate((slots[graph.source], np.full(len(hosted), HOST_SLOT, np.int64)))
    target = np.concatenate((slots[graph.target], slots[hosted]))
    packets = np.concatenate((graph.packets, graph.host_packets[hosted]))
    east_west, north_south = mesh.hops(source, target)
    hops = east_west + north_south
    host = len(graph.packets)
    return Cost(
        packets=float(packets.sum()),
        packet_hops=float(packets @ hops),
        host_packet_hops=float(packets[host:] @ hops[host:]),
        east_west=float(packets @ east_west),
        north_south=float(packets @ north_south),
        chip_crossings=float(packets @ mesh.crossings(source, target)),
        worst_link=mesh.link_loads(source, target, packets).worst,
        farthest=int(hops[packets > 0].max(initial=0)),
    )
