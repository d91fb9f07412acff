"""The quantised ANN that a netlist stands for: one pass of integer counts, in numpy.

Every unit computes clip(floor((v0 + its whole input) / theta), 0, L), or what else its model makes
of its whole input, as if that arrived evenly; units that pool take the maximum. For window neurons
this is what the spiking network computes, unit for unit; for rate coding it is the limit that the
spike trains approach. It shares no code with the engines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import final

import numpy as np

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Array, LinearMap
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.numerics import Int64Array, shift_left
from lapilli.runtime.trace import Progress, Trace, real_outputs

BATCH = 16
SYNAPSES = 2**20
"""Synapses of a pool that are looked at together."""
NAME = "quantised-ann"


def run(netlist: Netlist, inputs: Int64Array, *, progress: Progress | None = None) -> Trace:
    """Counts and readouts of the quantised ANN for integer inputs, as `run` takes them.

    Raises NetlistError for neurons whose count does not follow from their whole drive, and for
    populations that drive themselves.
    """
    _check_forward(netlist)
    drives = Drives(netlist)
    parts: list[dict[str, Array]] = []
    for start in range(0, len(inputs), BATCH):
        batch = inputs[start : start + BATCH]
        values: dict[str, Array] = {}
        for p in netlist.populations:
            if p is netlist.input:
                total = netlist.source.whole(batch)
            else:
                total = (drives.largest if p.neuron.POOLS else drives.total)(p, values)
            values[p.name] = p.neuron.quantised(total, netlist.steps)
        parts.append(values)
        if progress is not None:
            progress(start + len(batch), len(inputs))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    readouts = {p.name: whole.pop(p.name) for p in netlist.outputs}
    return Trace(NAME, real_outputs(netlist, readouts), whole, readouts)


def _check_forward(netlist: Netlist) -> None:
    looped = next((c for c in netlist.connections if c.recurrent), None)
    if looped is not None:
        raise NetlistError(
            f"{looped.source} -> {looped.target}",
            "the quantised ANN is one pass from input to outputs",
            found="a population that drives itself",
            allowed="drive from populations before it",
            remedy="Run the network on the reference engine.",
        )


def _maxima(linear: LinearMap, counts: Array) -> Iterator[tuple[Int64Array, Array]]:
    """Outputs that have synapses, some at a time, and their largest inputs (N, that many)."""
    matrix = linear.to_sparse().copy()  # its arrays may be the map's own
    matrix.eliminate_zeros()
    ends = matrix.indptr.astype(np.int64)
    rows = np.flatnonzero(np.diff(ends))
    first = 0
    while first < len(rows):
        begin = ends[rows[first]]
        last = max(int(np.searchsorted(ends[rows + 1], begin + SYNAPSES, "right")), first + 1)
        part = rows[first:last]
        inputs = counts[:, matrix.indices[begin : ends[part[-1] + 1]]]
        yield part, np.maximum.reduceat(inputs, ends[part] - begin, axis=1)
        first = last


@final
class Drives:
    """The linear half of a netlist: what whole windows of spikes add up to."""

    def __init__(self, netlist: Netlist):
        self._netlist = netlist
        self._into: dict[str, list[tuple[str, Callable[[Array], Array], int]]] = {
            p.name: [
                # Sums of integers: exact in float64 far beyond the 24 bits of a state.
                (c.source, c.map.with_weight(c.map.weight.astype(np.float64)).apply, c.exponent)
                for c in netlist.into(p.name)
            ]
            for p in netlist.populations
        }

    def largest(self, p: Population, counts: Mapping[str, Array]) -> Int64Array:
        """The largest count that reaches p over synapses that are not zero, or 0, (N, *shape)."""
        images = len(next(iter(counts.values())))
        result: Int64Array = np.zeros((images, p.size), np.int64)
        reached = np.zeros(p.size, bool)
        for c in self._netlist.into(p.name):
            for rows, found in _maxima(c.map, counts[c.source].reshape(images, -1)):
                best = np.where(reached[rows], np.maximum(result[:, rows], found), found)
                result[:, rows] = best
                reached[rows] = True
        return result.reshape(images, *p.shape)

    def total(self, p: Population, counts: Mapping[str, Array]) -> Int64Array:
        """Drive of p summed over a window, (N, *shape), for the counts of the populations."""
        total: Int64Array = np.zeros((len(next(iter(counts.values()))), *p.shape), np.int64)
        for source, apply, exponent in self._into[p.name]:
            drive = apply(counts[source].astype(np.float64)).reshape(total.shape)
            total = total + shift_left(drive.astype(np.int64), exponent)
        return total
