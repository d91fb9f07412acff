"""Which image a population works on, and which step of its window: the same clock for everybody.

Images follow each other at a fixed interval, or, with early stopping, as soon as one is done. Then
the readout writes into a table that all processes share, and the source begins the next image in
the step after. The others begin it when it reaches them, `Schedule.first` steps later, and until
then finish what is still on its way. No Lava in here.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, final

import numpy as np

from lapilli.compiler.linear import Array, Shape
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.schedule import schedule
from lapilli.runtime.early_stop import StopRule


class Place(NamedTuple):
    """Step tau (from 0) of the window of an image (from 0)."""

    image: int
    tau: int


class Clock(Protocol):
    """Tells a population where it is; `local` counts its own steps from 0."""

    def at(self, local: int) -> Place | None:
        """The place, or None while the population rests; asked for rising steps."""

    def update(self, place: Place, v: Array) -> bool:
        """A population holds v after this step; does the step still count for the image?"""


@final
class FixedClock:
    """Windows of `window` steps with `gap` idle steps between them, for ever."""

    def __init__(self, window: int, gap: int = 0):
        self._window, self._interval = window, window + gap

    def at(self, local: int) -> Place | None:
        """See Clock."""
        image, tau = divmod(local, self._interval)
        return Place(image, tau) if local >= 0 and tau < self._window else None

    def update(self, place: Place, v: Array) -> bool:
        """Every step counts."""
        return True


UNKNOWN = -1
COLUMNS = 2
"""Of the table: steps that an image ran; step of the source in which it began."""


@final
class StoppingClock:
    """Images end when `rule` says so. table: (images, COLUMNS), UNKNOWN at first, shared by all.

    decides: is this the clock of the readout that compares? depth: its `Schedule.first`.
    """

    def __init__(self, rule: StopRule, table: Array, depth: int, decides: bool):
        self._rule, self._table, self._depth, self._decides = rule, table, depth, decides
        self._image, self._began = 0, 0

    def at(self, local: int) -> Place | None:
        """See Clock."""
        while self._image < len(self._table) and local >= (after := self._next()):
            self._image, self._began = self._image + 1, after
        tau = local - self._began
        resting = local < 0 or tau >= self._rule.steps or self._image >= len(self._table)
        return None if resting else Place(self._image, tau)

    def _next(self) -> int:
        """Step in which the image after the present one begins, as far as is known."""
        latest = self._began + self._rule.steps
        following = self._image + 1
        if following >= len(self._table) or self._table[following, 1] == UNKNOWN:
            return latest
        return min(int(self._table[following, 1]), latest)

    def update(self, place: Place, v: Array) -> bool:
        """See Clock; the readout's notes that an image is done, once."""
        image, tau = place
        if self._table[image, 0] != UNKNOWN:
            return False
        if self._decides and self._rule.decided(v, tau):
            # Before the steps: who sees the decision sees what follows from it.
            if image + 1 < len(self._table):
                self._table[image + 1, 1] = self._began + tau + self._depth + 1
            self._table[image, 0] = tau + 1
        return True


def empty_table(images: int) -> Array:
    """The table before the first step."""
    table = np.full((images, COLUMNS), UNKNOWN, np.int64)
    table[0, 1] = 0
    return table


def clocks(netlist: Netlist, rule: StopRule | None, table: Array | None) -> dict[str, Clock]:
    """One for each population."""
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    if rule is None or table is None:
        return {p.name: FixedClock(netlist.steps, plan.gap) for p in netlist.populations}
    decider, *_ = netlist.outputs
    depth = plan.first[decider.name]
    return {p.name: StoppingClock(rule, table, depth, p is decider) for p in netlist.populations}


def until_stopped(values: Array, stopped: Array, shape: Shape) -> Array:
    """values (N, steps, *shape), zero in the steps that an image did not run."""
    running = np.arange(values.shape[1]) < stopped[:, np.newaxis]
    return np.asarray(values * running.reshape(*running.shape, *(1,) * len(shape)))
