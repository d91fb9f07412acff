"""Events of each time step, from the same counts as those of an image.

Step k is the k-th step of the window in which a population sends (`Schedule.sends` says when that
begins). A synaptic operation belongs to the step in which its spike was sent; unless the connection
has a delay of its own, that is also the k-th step of the window in which the target works.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np

from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import NeuronModel, OrGate, Source, Staircase
from lapilli.compiler.numerics import Int64Array

Order = Literal["at once", "first", "last"]
"""When a window's spikes are sent, where only their number is computed: in its first step, or one
in each of its first steps, or of its last ones."""
MOST_ROWS = 2**20
"""So many numbers are kept of single images: populations times steps times images."""
_PERCENTILES = (5, 50, 95)


@final
@dataclass(frozen=True, eq=False)
class StepEvents:
    """Events of one population in each step of its window, (steps,): sums over the images.

    spikes: that it sends; synops: that spikes of the step bring to it. spikes_percentiles,
    synops_percentiles: (3, steps), the 5th, 50th and 95th over the images, counts that occurred;
    None for so many images that they were not kept one by one.
    """

    images: int
    spikes: Int64Array
    synops: Int64Array
    spikes_percentiles: Int64Array | None
    synops_percentiles: Int64Array | None


def orders(netlist: Netlist) -> dict[str, Order | None]:
    """How each population sends; None where the number of its spikes does not say."""
    found: dict[str, Order | None] = {}
    for p in netlist.populations:
        before = {found[c.source] for c in netlist.into(p.name) if not c.recurrent}
        found[p.name] = _order(p.neuron, before)
    return found


def _order(neuron: NeuronModel, before: set[Order | None]) -> Order | None:
    if isinstance(neuron, Source) or (before == {"at once"} and not isinstance(neuron, Staircase)):
        return "at once"
    if isinstance(neuron, Staircase) and neuron.coding() != "changes":
        sending: dict[str, Order] = {"unary": "first", "unary-last": "last"}
        return sending.get(neuron.coding(), "at once")
    if isinstance(neuron, OrGate) and None not in before:  # the longest of trains in one order
        return "first" if "last" not in before else "last" if before == {"last"} else None
    return "at once" if before == {"at once"} else None


@final
class StepTally:
    """Counts of one run by step; rows as `Tally` has them: messages, and two per connection."""

    def __init__(self, netlist: Netlist, images: int, place: Mapping[int, int]):
        self._netlist, self._images, self._place = netlist, images, place
        self._sums: dict[str, Int64Array | None] = {}
        self._rows: dict[str, Int64Array] = {}
        size = len(netlist.connections) + len(netlist.populations)
        self._each = images * netlist.steps * size <= MOST_ROWS

    def add(self, p: Population, images: slice, rows: Int64Array) -> None:
        """rows (N, K, 1 + 2 * connections): what so many images send in the first K steps."""
        steps, (_, known, columns) = self._netlist.steps, rows.shape
        sums = self._sums.setdefault(p.name, np.zeros((steps, columns), np.int64))
        if sums is None:
            return
        sums[:known] += rows.sum(0)
        if self._each:
            kept = self._rows.setdefault(p.name, np.zeros((self._images, steps, columns), np.int64))
            kept[images, :known] = rows

    def unknown(self, p: Population) -> None:
        """Nobody knows in which steps it sends."""
        self._sums[p.name] = None

    def events(self, spiking: Mapping[str, list[Connection]]) -> dict[str, StepEvents | None]:
        """Of every population but the input; spiking: the connections that bring it spikes.

        None where the steps of its spikes, or of those that reach it, are not known.
        """
        found: dict[str, StepEvents | None] = {}
        for name, connections in spiking.items():
            sources = [name, *(c.source for c in connections)]
            if any(self._sums.get(source, 0) is None for source in sources):
                found[name] = None
                continue
            spikes, synops = self._two(self._sums, name, connections, (self._netlist.steps,))
            spread: tuple[Int64Array | None, ...] = (None, None)
            if self._each:
                shape = (self._images, self._netlist.steps)
                each = self._two(self._rows, name, connections, shape)
                spread = tuple(
                    np.percentile(rows, _PERCENTILES, axis=0, method="inverted_cdf").astype(
                        np.int64
                    )
                    for rows in each
                )
            found[name] = StepEvents(self._images, spikes, synops, *spread)
        return found

    def _two(
        self,
        kept: Mapping[str, Int64Array | None],
        name: str,
        connections: list[Connection],
        shape: tuple[int, ...],
    ) -> tuple[Int64Array, Int64Array]:
        """Spikes that it sends, synaptic operations that reach it."""

        def column(source: str, place: int) -> Int64Array:
            rows = kept.get(source)
            return np.zeros(shape, np.int64) if rows is None else rows[..., place]

        synops = np.zeros(shape, np.int64)
        for c in connections:
            synops += column(c.source, self._place[id(c)])
        return column(name, 0), synops
