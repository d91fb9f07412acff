"""How each population is cut before cores are filled: the cut at which a neuron is cheapest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from lapilli.compiler.mapping.bound import Prices
from lapilli.compiler.mapping.cuts import Cut, Plane, groupings, parts, unit_of, width
from lapilli.compiler.mapping.open_core import OpenCore, Room
from lapilli.compiler.mapping.refusals import too_large
from lapilli.compiler.mapping.regions import Boxes, count, reshaped
from lapilli.compiler.mapping.resources import Usage, compartments_each, drives_of
from lapilli.compiler.mapping.synapse_memory import reads
from lapilli.compiler.netlist import Population
from lapilli.compiler.neurons import Source

_LEAN = 0.97
"""Share of the neurons that a core could hold that a cut may leave it with, to save memory."""
_SAME = 1.01
"""Times the least price is no higher price."""
_MOST_GROUPS = 6
"""Times the fewest groups of channels, to save memory: every input spike goes to all groups."""


@final
@dataclass(frozen=True)
class Plan:
    """A population's cut; alone: strip-rows of a group that an empty core holds.

    first, full: what one strip-row and so many take.
    """

    cut: Cut
    alone: int
    first: Usage
    full: Usage

    @property
    def words_per_neuron(self) -> float:
        """Of a core's pool."""
        return self.full.pool_words / max(self.full.compartments, 1)

    @property
    def balanced(self) -> int:
        """Strip-rows such that all cores of a group get about the same number."""
        return -(-self.cut.units // -(-self.cut.units // self.alone))


@final
class Planner:
    """Plans for the populations of a netlist; shared: may populations share a core?"""

    def __init__(self, room: Room, prices: Prices, shared: bool):
        self._room, self._prices = room, prices
        self._shared = shared and not room.ordered
        self._empty = OpenCore()

    def plan(self, p: Population, kept: Usage | None = None, lean: bool = False) -> Plan:
        """The cut at which a neuron is cheapest, or, if `lean`, takes the least memory.

        kept: what is not to be used of a core, if a core has enough without. Raises NetlistError
        for a neuron that no core holds.
        """
        self._empty = OpenCore() if kept is None else OpenCore.reserved(kept)
        found = self._found(p)
        if not found and kept is not None:
            return self.plan(p, None, lean)
        if not found:
            found = [self._by_neuron(p)]
        return _leanest(found) if lean else self._cheapest(p, found)

    def _by_neuron(self, p: Population) -> Plan:
        """A plan whose strip-rows no core holds, though it holds a neuron: they are cut later."""
        plane, one = Plane.of(p.shape), (tuple((0, 1) for _ in p.shape),)
        taken = self._room.usage(p, one)
        if not self._room.fits(taken):
            raise too_large(p, one, taken, self._room.profile)
        return Plan(Cut(plane, parts(plane.channels, plane.channels), 1), 1, taken, taken)

    def whole(self, p: Population) -> Plan:
        """All of a population on one core. Raises NetlistError where none holds it."""
        plane = Plane.of(p.shape)
        cut = Cut(plane, ((0, plane.channels),), plane.columns)
        boxes = cut.boxes(cut.groups[0], 0, cut.units)
        taken = self._room.usage(p, boxes)
        if not self._room.fits(taken):
            plan = self.plan(p)
            needs = len(plan.cut.groups) * -(-plan.cut.units // plan.alone)
            raise too_large(p, boxes, taken, self._room.profile, needs)
        return Plan(cut, cut.units, taken, taken)

    def _found(self, p: Population) -> list[Plan]:
        plane, netlist, profile = Plane.of(p.shape), self._room.netlist, self._room.profile
        unit = unit_of(netlist, p, profile)
        every = [parts(plane.channels, n, unit) for n in groupings(netlist, p, profile)]
        found = [plan for groups in every if (plan := self._measured(p, plane, groups))]
        if not found:  # not even one channel at one place: cut groups that share inputs
            plan = self._measured(p, plane, parts(plane.channels, plane.channels))
            found = [plan] if plan else []
        return found

    def _cheapest(self, p: Population, found: list[Plan]) -> Plan:
        costs = [self._cost(p, plan) for plan in found]
        least = [min(cost[i] for cost in costs) for i in range(2)]

        def price(i: int) -> float:
            shared, alone = (costs[i][j] / least[j] if least[j] else 1.0 for j in range(2))
            return (shared + alone) / 2 if self._shared else alone

        prices = [price(i) for i in range(len(found))]
        # Of those that cost about the same, the fewest groups: inputs go to fewest cores.
        return next(
            plan for plan, cost in zip(found, prices, strict=True) if cost <= min(prices) * _SAME
        )

    def _cost(self, p: Population, plan: Plan) -> tuple[float, float]:
        """What a neuron costs: at the prices of the bound, and in cores that nobody shares."""
        boxes = plan.cut.boxes(plan.cut.groups[0], 0, plan.alone)
        neurons = count(boxes)
        worth = sum(
            self._prices.of_limit.get(name, 0.0) * share
            for name, share in self._room.shares(plan.full).items()
        )
        before = self._cores_before(p, boxes) if self._room.ordered else 0.0
        return worth / neurons, 1 / neurons + before / p.size

    def _cores_before(self, p: Population, boxes: Boxes) -> float:
        """Cores that the sources need to reach all pieces like this one: by neurons or by axons."""
        limits, cores = self._room.profile.limits, 0.0
        assert limits.output_axons_per_core
        for c in drives_of(self._room.netlist, p, self._room.profile):
            source = self._room.netlist[c.source]
            if isinstance(source.neuron, Source):
                continue
            here = reshaped(boxes, p.shape, c.map.out_shape)
            read = sum(count(reads(c.map, (box,))) for box in here) * p.size / count(boxes)
            neurons = source.size * compartments_each(source, self._room.profile)
            room = limits.neurons_per_core.value if limits.neurons_per_core else neurons
            cores += max(neurons / room, read / limits.output_axons_per_core.value)
        return cores

    def _measured(
        self, p: Population, plane: Plane, groups: Sequence[tuple[int, int]]
    ) -> Plan | None:
        """The best strips for groups of channels; None if a core does not hold one strip-row."""
        most = room = self._positions(groups[0])
        best = None
        for _ in range(3):
            columns = width(
                self._room.netlist, p, max(min(room, plane.size), 1), self._room.profile
            )
            cut = Cut(plane, tuple(groups), columns)
            alone = self._alone(p, cut, groups[0], min(-(-most // columns), cut.units))
            positions = min(alone * columns, plane.size)
            if alone and (best is None or positions > best[0]):
                best = positions, cut, alone
            if alone and positions * 1.1 >= min(room, plane.size):
                break
            room = max(positions, 1) if alone else min(room, columns) // 2
            most = min(most, 2 * room)
            if room == 0:
                break
        if best is None:
            return None
        _, cut, alone = best
        first, full = (self._room.usage(p, cut.boxes(groups[0], 0, n)) for n in (1, alone))
        return Plan(cut, alone, first, full)

    def _alone(self, p: Population, cut: Cut, group: tuple[int, int], wanted: int) -> int:
        """How many strip-rows an empty core holds, in a corner of the plane and in its middle.

        The middle reads more inputs; where axons are limited, its neurons also send to more cores.
        """
        corner = self._room.most(p, cut, group, 0, self._empty, wanted)
        if not self._room.ordered or corner == cut.units:
            return corner
        rows = cut.plane.rows
        middle = cut.units // rows // 2 * rows + max(rows // 2 - corner // 2, 0)
        return min(corner, self._room.most(p, cut, group, middle, self._empty, corner))

    def _positions(self, group: tuple[int, int]) -> int:
        """Of a group of channels, as far as neurons are what limits them."""
        limit = self._room.profile.limits.neurons_per_core
        return limit.value // (group[1] - group[0]) if limit else 2**40


def _leanest(found: list[Plan]) -> Plan:
    """The least memory, with nearly all the neurons that a core could hold."""
    most = max(plan.full.compartments for plan in found)
    full = [plan for plan in found if plan.full.compartments >= _LEAN * most]
    fewest = min(len(plan.cut.groups) for plan in full)
    full = [plan for plan in full if len(plan.cut.groups) <= _MOST_GROUPS * fewest]
    return min(full, key=lambda plan: (plan.words_per_neuron, len(plan.cut.groups)))
