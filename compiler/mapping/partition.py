"""Which neurons share a core, such that every limit holds and the cores are few.

Each population has a plan (`plans`): how it is cut. Then cores are filled. Where a chip limits
output axons, from the outputs to the input, so that it is known to how many cores a neuron sends,
and only the core opened last is shared. Elsewhere first what takes most memory, then the others
into the room that is left; or, where large matrices make that wasteful, these last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from lapilli.compiler.mapping.bound import Prices
from lapilli.compiler.mapping.open_core import Busy, OpenCore, Room
from lapilli.compiler.mapping.plans import Plan, Planner
from lapilli.compiler.mapping.refusals import too_large
from lapilli.compiler.mapping.regions import Box, Boxes, count
from lapilli.compiler.mapping.resources import Usage, compartments_each
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import Source
from lapilli.hardware_profiles import Profile

Pieces = Mapping[str, Boxes]
"""What a core holds: boxes by population."""
Progress = Callable[[int, int], None]
"""(neurons placed, neurons in all)"""
_GOOD = 1.05
"""Times the bound is good enough not to try another order."""
_SPARE = 1.1
"""Times the memory that vectors take where they have a core of their own, which they will not."""
_WORTHWHILE = 16
"""A piece on a core that others use is a this-th of what an empty core would take, at least."""


@final
@dataclass(frozen=True)
class Rules:
    """How cores may be filled.

    share: may populations share a core? vectors_last: in which order they are placed, if they may.
    whole: populations that stay on one core. busy, limit_ns: what keeps a core busy in a step, and
    for how long it may.
    """

    share: bool = True
    vectors_last: bool = False
    whole: frozenset[str] = frozenset()
    busy: Busy | None = None
    limit_ns: float = math.inf


def partition(
    netlist: Netlist,
    profile: Profile,
    prices: Prices,
    rules: Rules,
    progress: Progress | None = None,
) -> list[Pieces]:
    """What each core holds, in the order of the populations.

    Raises NetlistError for a neuron that no core holds, and for a whole population that none does.
    """
    found = _Filling(netlist, profile, prices, rules, progress).fill()
    if not rules.share or len(found) <= prices.bound.cores * _GOOD:
        return found
    rules = replace(rules, vectors_last=True)
    other = _Filling(netlist, profile, prices, rules, progress).fill()
    return min(found, other, key=len)


@final
class _Filling:
    """Cores being filled."""

    def __init__(
        self,
        netlist: Netlist,
        profile: Profile,
        prices: Prices,
        rules: Rules,
        progress: Progress | None,
    ):
        self._profile, self._rules, self._progress = profile, rules, progress
        self._room = Room(netlist, profile, rules.busy, rules.limit_ns)
        self._planner = Planner(self._room, prices, rules.share)
        self._here = [p for p in netlist.populations if not isinstance(p.neuron, Source)]
        self._cores: list[OpenCore] = []
        self._kept = Usage()
        self._free = np.zeros((64, len(self._room.names)))

    def fill(self) -> list[Pieces]:
        """All populations."""
        if self._room.ordered:
            self._fill((p, None) for p in reversed(self._here))
        elif not self._rules.vectors_last:
            plans = {p.name: self._plan(p) for p in self._here}
            order = sorted(self._here, key=lambda p: -plans[p.name].words_per_neuron)
            self._fill((p, plans[p.name]) for p in order)
        else:
            self._fill(self._vectors_last())
        rank = {p.name: i for i, p in enumerate(self._here)}

        def place(core: OpenCore) -> tuple[int, list[Any]]:
            name = min(core.pieces, key=lambda n: (-count(core.pieces[n]), rank[n]))
            return rank[name], list(core.pieces[name])

        return [core.pieces for core in sorted(self._cores, key=place)]

    def _fill(self, order: Iterable[tuple[Population, Plan | None]]) -> None:
        done, everything = 0, sum(p.size for p in self._here)
        for p, plan in order:
            self._place(p, plan or self._plan(p))
            done += p.size
            if self._progress:
                self._progress(done, everything)

    def _plan(self, p: Population) -> Plan:
        return self._planner.whole(p) if p.name in self._rules.whole else self._planner.plan(p)

    def _vectors_last(self) -> Iterator[tuple[Population, Plan]]:
        """Vectors, which can be cut anywhere, come last, into the memory that others left.

        Therefore as many of the others as it takes are cut so that they leave much, and no core is
        so full of neurons that none of a vector would fit.
        """
        plans = {p.name: self._plan(p) for p in self._here}
        vectors = [p for p in self._here if self._is_heavy_vector(p, plans[p.name])]
        others = [p for p in self._here if p not in vectors]
        wanted = sum(plans[p.name].words_per_neuron * p.size for p in vectors) * _SPARE
        room = self._profile.limits.pool_words_per_core
        memory = room.value if room else 0
        self._kept = Usage(compartments=self._neurons_for(vectors, others))
        lean = {
            p.name: self._planner.plan(p, self._kept, lean=True)
            for p in others
            if p.name not in self._rules.whole
        }
        size = {p.name: p.size for p in others}
        for name, plan in sorted(lean.items(), key=lambda item: item[1].full.pool_words):
            left = (memory - plan.full.pool_words) * size[name] / max(plan.full.compartments, 1)
            if wanted > 0 and left > 0:
                wanted -= left
                plans[name] = plan
        for p in sorted(others, key=lambda p: -plans[p.name].words_per_neuron):
            yield p, plans[p.name]
        self._kept = Usage()
        for p in sorted(vectors, key=lambda p: -plans[p.name].words_per_neuron):
            yield p, plans[p.name]

    def _neurons_for(self, vectors: Sequence[Population], others: Sequence[Population]) -> int:
        """Neurons of every core that stay free for vectors, were they spread over all cores."""
        each = {p.name: compartments_each(p, self._profile) for p in (*vectors, *others)}
        kept, taken = (sum(p.size * each[p.name] for p in some) for some in (vectors, others))
        room = self._profile.limits.neurons_per_core
        return (
            min(math.ceil(room.value * kept / max(kept + taken, 1)), room.value // 2) if room else 0
        )

    def _is_heavy_vector(self, p: Population, plan: Plan) -> bool:
        """Would a core of its own run out of memory long before it runs out of neurons?"""
        if len(p.shape) > 1:
            return False
        shares = self._room.shares(plan.full)
        neurons = shares.pop("neurons_per_core", 0.0)
        return max(shares.values(), default=0.0) > 2 * neurons

    def _place(self, p: Population, plan: Plan) -> None:
        """All neurons of a population: into the room that others left, then on cores of its own."""
        size = plan.alone if self._rules.share else plan.balanced
        for group in plan.cut.groups:
            start = 0
            for index in self._candidates(p, plan):
                left = min(plan.cut.units - start, size)
                units = self._room.most(p, plan.cut, group, start, self._cores[index], left)
                some = plan.alone if p.name in self._rules.whole else -(-plan.alone // _WORTHWHILE)
                if units and units >= min(left, some):
                    self._take(index, p, plan.cut.boxes(group, start, start + units))
                    start += units
                if start == plan.cut.units:
                    break
            while start < plan.cut.units:
                start += self._alone_on_core(p, plan, group, start, size)

    def _alone_on_core(
        self, p: Population, plan: Plan, group: tuple[int, int], start: int, size: int
    ) -> int:
        """Put strip-rows from `start` on a core that is empty; how many."""
        left = min(plan.cut.units - start, size)
        units = 0
        for kept in (self._kept, Usage()):
            empty = OpenCore.reserved(kept)
            units = units or self._room.most(p, plan.cut, group, start, empty, left)
        units = left if p.name in self._rules.whole else units  # whatever its time
        if units == 0:
            (box,) = plan.cut.boxes(group, start, start + 1)
            self._split(p, box)
            return 1
        self._cores.append(OpenCore())
        self._take(len(self._cores) - 1, p, plan.cut.boxes(group, start, start + units))
        return units

    def _split(self, p: Population, box: Box) -> None:
        """A strip-row that no core holds, as some places send to more cores: in halves."""
        if self._room.fits(self._room.usage(p, (box,))) and self._room.in_time(p, (box,)):
            self._cores.append(OpenCore())
            self._take(len(self._cores) - 1, p, (box,))
            return
        axis = max(range(len(box)), key=lambda i: (min(box[i][1] - box[i][0], 2), i))
        low, high = box[axis]
        if high - low < 2:
            raise too_large(p, (box,), self._room.usage(p, (box,)), self._profile)
        for edges in ((low, (low + high) // 2), ((low + high) // 2, high)):
            self._split(p, (*box[:axis], edges, *box[axis + 1 :]))

    def _candidates(self, p: Population, plan: Plan) -> list[int]:
        """Cores in use on which a piece of some size should fit, the roomiest first."""
        if not self._rules.share or not self._cores:
            return []
        if self._room.ordered:
            return [len(self._cores) - 1]
        free = self._free[: len(self._cores)]
        once, full = self._room.vector(plan.first), self._room.vector(plan.full)
        each = (full - once) / max(plan.alone - 1, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(each > 0, (free - once) / each + 1, np.where(free >= once, np.inf, 0))
        units = np.minimum(np.floor(room.min(axis=1, initial=np.inf)), plan.alone)
        able = np.flatnonzero(units >= min(-(-plan.alone // _WORTHWHILE), plan.cut.units))
        roomiest: list[int] = able[np.argsort(-units[able], kind="stable")].tolist()
        return roomiest

    def _take(self, index: int, p: Population, boxes: Boxes) -> None:
        self._room.take(self._cores[index], index, p, boxes)
        if index >= len(self._free):
            self._free = np.concatenate([self._free, np.zeros_like(self._free)])
        self._free[index] = self._room.left(self._cores[index].used)
