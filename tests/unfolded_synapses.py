"""A linear map as single synapses, unfolded by loops over its plain data: for small maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lapilli.compiler.linear import (
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
)

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Synapses:
    """Targets and sources by flat index; taps: which place of the kernel, -1 where there is none.

    Stored zeros are synapses. Borders are not: what lies outside is no neuron.
    """

    targets: Integers
    sources: Integers
    taps: Integers

    def into(self, neurons: list[int]) -> Synapses:
        """Those of some targets."""
        here = np.isin(self.targets, neurons)
        return Synapses(self.targets[here], self.sources[here], self.taps[here])


def unfold(m: LinearMap) -> Synapses:
    """Every synapse of a map, found from its plain data alone."""
    found: list[tuple[int, int, int]]
    if isinstance(m, Diagonal):
        found = [(n, n, -1) for n in range(m.in_size)]
    elif isinstance(m, (Dense, DensePart)):
        first = m.first if isinstance(m, DensePart) else 0
        read = range(first, first + m.weight.shape[1])
        found = [(o, i, -1) for o in range(m.out_size) for i in read]
    elif isinstance(m, Sparse):
        found = [
            (o, int(m.columns[k]), -1)
            for o in range(m.out_size)
            for k in range(m.starts[o], m.starts[o + 1])
        ]
    elif isinstance(m, Conv):
        found = list(_stamps(m, m.in_shape, m.out_shape))
    elif isinstance(m, ConvTransposed):
        # The transpose of a convolution from its outputs to its inputs.
        found = [(i, o, tap) for o, i, tap in _stamps(m, m.out_shape, m.in_shape)]
    else:
        raise AssertionError(f"no rule for {type(m).__name__}")
    table = np.array(found, np.int64).reshape(-1, 3)
    return Synapses(table[:, 0], table[:, 1], table[:, 2])


def _stamps(
    m: Conv | ConvTransposed, read: Shape, written: Shape
) -> Iterator[tuple[int, int, int]]:
    """(output, input, tap) of a convolution from `read` to `written`, both (C, H, W)."""
    kh, kw = m.weight.shape[2:]
    ins, outs = read[0] // m.groups, written[0] // m.groups
    for y, x in np.ndindex(*written[1:]):
        for i, j in np.ndindex(kh, kw):
            row = y * m.stride[0] - m.padding[0] + i * m.dilation[0]
            column = x * m.stride[1] - m.padding[1] + j * m.dilation[1]
            if not (0 <= row < read[1] and 0 <= column < read[2]):
                continue
            for o in range(written[0]):
                for c in range(o // outs * ins, (o // outs + 1) * ins):
                    target = (o * written[1] + y) * written[2] + x
                    yield target, (c * read[1] + row) * read[2] + column, i * kw + j
