"""The quantised ANN that a netlist stands for: one pass of integer counts, in numpy.

Every unit computes clip(floor((v0 + its whole input) / theta), 0, L), as if its input arrived
evenly. For window neurons this is what the spiking network computes, unit for unit; for rate
coding it is the limit that the spike trains approach. It shares no code with the engines.
"""

from __future__ import annotations

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Connection, Netlist
from lapilli.compiler.numerics import Int64Array, shift_left
from lapilli.runtime.trace import Progress, Trace, real_outputs

BATCH = 16


def run(netlist: Netlist, inputs: Int64Array, *, progress: Progress | None = None) -> Trace:
    """Counts and readouts of the quantised ANN for integer inputs (N, *input shape)."""
    maps = {id(c): c.map.with_weight(c.map.weight.astype(np.float64)) for c in netlist.connections}
    parts: list[dict[str, Array]] = []
    for start in range(0, len(inputs), BATCH):
        batch = inputs[start : start + BATCH]
        values: dict[str, Array] = {}
        for p in netlist.populations:
            total: Int64Array = np.zeros((len(batch), *p.shape), np.int64)
            if p is netlist.input:
                total = batch.reshape(total.shape)
            for c in netlist.into(p.name):
                total = total + _drive(c, maps[id(c)].apply, values[c.source], p.shape)
            values[p.name] = p.neuron.quantised(total, netlist.steps)
        parts.append(values)
        if progress is not None:
            progress(start + len(batch), len(inputs))
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    readouts = {p.name: whole.pop(p.name) for p in netlist.outputs}
    return Trace("quantised ANN", real_outputs(netlist, readouts), whole, readouts)


def _drive(c: Connection, apply: object, source: Array, shape: tuple[int, ...]) -> Int64Array:
    assert callable(apply)
    # Sums of integers: exact in float64 far beyond the 24 bits of a state.
    total = apply(source.reshape(len(source), *c.map.in_shape).astype(np.float64))
    return shift_left(total.reshape(len(source), *shape).astype(np.int64), c.exponent)
