"""What a core still holds, beside what it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.linear import Diagonal
from lapilli.compiler.mapping.arrivals import Arrivals
from lapilli.compiler.mapping.cuts import MOST_PIECES, Cut
from lapilli.compiler.mapping.regions import Boxes, count
from lapilli.compiler.mapping.resources import LIMITS, Usage, on_host, usage
from lapilli.compiler.mapping.synapse_memory import is_native
from lapilli.compiler.netlist import Netlist, Population
from lapilli.hardware_profiles import Profile

Busy = Callable[[Population, Boxes], float]
"""How long neurons keep their core busy in a step, in ns."""


@final
@dataclass
class OpenCore:
    """A core while it is filled."""

    pieces: dict[str, Boxes] = field(default_factory=dict)
    taken: dict[str, Usage] = field(default_factory=dict)
    used: Usage = field(default_factory=Usage)
    busy_ns: float = 0.0

    @classmethod
    def reserved(cls, kept: Usage) -> OpenCore:
        """A core without neurons of which so much is not to be used."""
        return cls({}, {"": kept}, kept)

    def without(self, name: str) -> Usage:
        """What all but one population take."""
        return sum((taken for other, taken in self.taken.items() if other != name), Usage())


@final
class Room:
    """The limits of one core for the neurons of a netlist.

    Where the chip limits output axons they are counted to the cores that have been taken so far.
    """

    def __init__(
        self, netlist: Netlist, profile: Profile, busy: Busy | None = None, limit_ns: float = 0.0
    ):
        self.netlist, self.profile = netlist, profile
        self._busy, self._limit_ns = busy, limit_ns
        limits = {n: q.value for n in LIMITS if (q := getattr(profile.limits, n)) is not None}
        self.names = tuple(limits)
        self._limits = [(attrgetter(LIMITS[n]), int(v)) for n, v in limits.items()]
        self._into: dict[str, list[Arrivals]] = {p.name: [] for p in netlist.populations}
        self._from: dict[str, list[Arrivals]] = {p.name: [] for p in netlist.populations}
        self._loops = {
            p.name: sum(c.recurrent and isinstance(c.map, Diagonal) for c in netlist.into(p.name))
            for p in netlist.populations
        }
        self.ordered = profile.limits.output_axons_per_core is not None
        if self.ordered:
            self._watch_axons()

    def _watch_axons(self) -> None:
        shared = is_native(self.profile)
        for c in self.netlist.connections:
            looped = c.recurrent and isinstance(c.map, Diagonal)
            if not looped and not on_host(self.netlist, c, self.profile):
                source, target = self.netlist[c.source].shape, self.netlist[c.target].shape
                arrivals = Arrivals(c, source, target, shared)
                self._into[c.target].append(arrivals)
                self._from[c.source].append(arrivals)

    def usage(self, p: Population, boxes: Boxes) -> Usage:
        """What neurons take of a core."""
        taken = usage(self.netlist, p, boxes, self.profile)
        sent = sum(a.total(boxes) for a in self._from[p.name]) if self.ordered else 0
        # Its own pieces are not placed yet; a neuron that drives only itself has one axon for it.
        sent += count(boxes) * self._loops[p.name] if self.ordered else 0
        return taken + Usage(output_axons=sent) if sent else taken

    def fits(self, used: Usage) -> bool:
        """Does a core have so much?"""
        return all(of(used) <= allowed for of, allowed in self._limits)

    def in_time(self, p: Population, boxes: Boxes, busy_ns: float = 0.0) -> bool:
        """Is a core done in time with these neurons, beside what keeps it busy? One alone is."""
        alone = count(boxes) == 1 and not busy_ns  # no cut makes it faster
        return self._busy is None or alone or busy_ns + self._busy(p, boxes) <= self._limit_ns

    def shares(self, used: Usage) -> dict[str, float]:
        """Limit -> the part of it that is used."""
        return {
            name: of(used) / allowed if allowed else 0.0
            for name, (of, allowed) in zip(self.names, self._limits, strict=True)
        }

    def vector(self, used: Usage) -> npt.NDArray[np.float64]:
        """What is used of each limit, in the order of `names`."""
        return np.array([of(used) for of, _ in self._limits], np.float64)

    def left(self, used: Usage) -> npt.NDArray[np.float64]:
        """What is left of each limit."""
        return np.array([allowed - of(used) for of, allowed in self._limits], np.float64)

    def most(
        self,
        p: Population,
        cut: Cut,
        group: tuple[int, int],
        start: int,
        core: OpenCore,
        wanted: int,
    ) -> int:
        """How many strip-rows from `start` on, `wanted` at most, the core holds beside its own."""
        there = core.pieces.get(p.name, ())
        allowed = MOST_PIECES - len(there)
        if allowed <= 0:
            return 0
        # What the population has there is counted anew: pieces share rows of weights.
        others = core.used if not there else core.without(p.name)

        def fits(units: int) -> bool:
            boxes = cut.boxes(group, start, start + units)
            return self.in_time(p, boxes, core.busy_ns) and self.fits(
                others + self.usage(p, there + boxes)
            )

        return _largest(min(cut.reach(start, allowed) - start, wanted), fits)

    def take(self, core: OpenCore, index: int, p: Population, boxes: Boxes) -> None:
        """Put neurons on the core of that number."""
        there = core.pieces.get(p.name, ()) + boxes
        others = core.without(p.name)
        core.pieces[p.name] = there
        core.taken[p.name] = self.usage(p, there)
        core.used = others + core.taken[p.name]
        if self._busy is not None:
            core.busy_ns += self._busy(p, boxes)
        for arrivals in self._into[p.name]:
            arrivals.add(index, boxes)


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `most` that fits, given that smaller ones do; 0 if none."""
    if most <= 0 or fits(most):
        return max(most, 0)
    low, high = 0, most - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
