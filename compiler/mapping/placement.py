"""A network on cores: which neurons each core holds, what they take of it, and where it sits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from lapilli.compiler.mapping.core_graph import Cost
from lapilli.compiler.mapping.mesh import Mesh
from lapilli.compiler.mapping.refusals import Unchecked, exceeds, refuse
from lapilli.compiler.mapping.regions import Box, Boxes, volume, whole
from lapilli.compiler.mapping.resources import Usage, excess, usage
from lapilli.compiler.mapping.step_time import StepTime
from lapilli.compiler.mapping.traffic import Traffic, traffic
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Source
from lapilli.hardware_profiles import Profile


@final
@dataclass(frozen=True)
class CoreSlice:
    """Neurons of a population: a range of indices along every axis of its shape."""

    population: str
    box: Box

    @property
    def size(self) -> int:
        """Number of neurons."""
        return volume(self.box)


@final
@dataclass(frozen=True)
class Core:
    """One core: its neurons, at most `MOST_PIECES` boxes of a population, and what they take.

    chip: its number; tile: (x, y) on the mesh of all chips, None where the chip states no mesh.
    """

    index: int
    chip: int
    tile: tuple[int, int] | None
    slices: tuple[CoreSlice, ...]
    usage: Usage


@final
@dataclass(frozen=True)
class Bound:
    """Fewer cores than this cannot hold the network; `limit` names what decides it."""

    cores: int
    limit: str


@final
@dataclass(frozen=True)
class Placement:
    """Cores in order; the input is on none, for the host sends it. profile: the chip or system.

    netlist: what is placed; where fan-in had to be split it has relays that the given one has not.
    bound: of cores; cost: of the traffic on the mesh, None where the chip states no mesh; step:
    how long one takes, None where the profile has no times; objective: what was made small.
    """

    profile: str
    netlist: Netlist = field(repr=False, compare=False)
    cores: tuple[Core, ...]
    unchecked: tuple[Unchecked, ...]
    bound: Bound
    objective: str
    cost: Cost | None
    step: StepTime | None
    mesh: Mesh | None = field(repr=False)
    traffic: Traffic = field(repr=False, compare=False)

    @property
    def chips(self) -> int:
        """Number of chips in use."""
        return len({core.chip for core in self.cores})

    def of(self, population: str) -> tuple[tuple[Core, CoreSlice], ...]:
        """Where the neurons of a population are."""
        return tuple((c, s) for c in self.cores for s in c.slices if s.population == population)

    def verify(self, netlist: Netlist, profile: Profile) -> None:
        """Raise NetlistError unless each neuron is on one core and no core exceeds a limit."""
        _verify_cover(self, netlist)
        _verify_cores(self, netlist, profile)

    def pretty(self) -> str:
        """One line per core."""
        lines = [f"{len(self.cores)} cores on {self.chips} chips of {self.profile}"]
        for core in self.cores:
            held = ", ".join(f"{s.population} {_box(s.box)}" for s in core.slices)
            lines.append(f"core {core.index} (chip {core.chip}): {held}")
        return "\n".join(lines)


def _box(box: Box) -> str:
    return "x".join(f"{low}..{high}" for low, high in box)


def pieces(core: Core) -> dict[str, Boxes]:
    """The boxes of a core by population."""
    found: dict[str, Boxes] = {}
    for s in core.slices:
        found[s.population] = (*found.get(s.population, ()), s.box)
    return found


def usages(
    netlist: Netlist, cores: list[dict[str, Boxes]], profile: Profile, sent: Traffic
) -> list[Usage]:
    """What the neurons of each core take of it, output axons included."""
    return [
        sum(
            (usage(netlist, netlist[name], boxes, profile) for name, boxes in held.items()),
            Usage(output_axons=int(sent.output_axons[index])),
        )
        for index, held in enumerate(cores)
    ]


def _verify_cover(placement: Placement, netlist: Netlist) -> None:
    """Boxes of the right total size that do not overlap cover everything once."""
    held: dict[str, list[Box]] = {p.name: [] for p in netlist.populations}
    for core in placement.cores:
        for s in core.slices:
            held.setdefault(s.population, []).append(s.box)
    for name, boxes in held.items():
        known = name in {p.name for p in netlist.populations}
        p = netlist[name] if known else None
        size = 0 if p is None or isinstance(p.neuron, Source) else p.size
        inside = p is not None and all(_within(box, whole(p.shape)) for box in boxes)
        if sum(volume(b) for b in boxes) != size or (boxes and not inside) or _overlap(boxes):
            raise refuse(
                name,
                "each neuron is on one core, and the input on none",
                ", ".join(_box(b) for b in boxes[:8]) or "no core",
                f"{size} neurons, each once",
                "Place the network again.",
            )


def _within(box: Box, of: Box) -> bool:
    return len(box) == len(of) and all(
        least <= low <= high <= most for (low, high), (least, most) in zip(box, of, strict=True)
    )


def _overlap(boxes: list[Box]) -> bool:
    """Do any two boxes meet? Swept along the axis on which they differ most."""
    if len(boxes) < 2:
        return False
    edges = np.array(boxes, np.int64)
    edges = edges[(edges[:, :, 0] < edges[:, :, 1]).all(axis=1)]
    axis = max(range(edges.shape[1]), key=lambda i: len(np.unique(edges[:, i, 0])))
    edges = edges[np.argsort(edges[:, axis, 0], kind="stable")]
    stops = np.searchsorted(edges[:, axis, 0], edges[:, axis, 1])
    for i, one in enumerate(edges[:-1]):
        others = edges[i + 1 : max(int(stops[i]), i + 1)]
        if ((others[:, :, 0] < one[:, 1]) & (others[:, :, 1] > one[:, 0])).all(axis=1).any():
            return True
    return False


def _verify_cores(placement: Placement, netlist: Netlist, profile: Profile) -> None:
    held = [pieces(core) for core in placement.cores]
    sent = traffic(netlist, held, profile, {})
    for core, taken in zip(placement.cores, usages(netlist, held, profile, sent), strict=True):
        found = excess(taken, profile)
        where = f"core {core.index}"
        if found is not None:
            names = ", ".join(pieces(core))
            raise exceeds(f"{where} ({names})", "a core", *found, profile)
        if core.usage != taken:
            rule = "the recorded usage is the true one"
            raise refuse(where, rule, core.usage, taken, "Place the network again.")
