"""Random networks that a `.net` file can hold: roads of neurons that reset to zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import netlists
import numpy as np
import scipy.sparse as sp

from lapilli.compiler.linear import Array, Conv, Dense, Diagonal, LinearMap, Shape, Sparse, frozen
from lapilli.compiler.netlist import Connection, Netlist
from lapilli.compiler.neurons import LIF, HardResetIF, NeuronModel, Readout, Source

STEPS = 8
Rng = np.random.Generator
Maker = Callable[[Rng, Shape], LinearMap]


def conv(rng: Rng, shape: Shape) -> Conv:
    """Groups, strides, dilation, kernels and padding that differ between the axes."""
    channels = shape[0]
    groups = int(rng.choice([g for g in (1, 2, channels) if channels % g == 0]))
    places: list[int] = [0]
    while min(places) < 2:
        stride, dilation = (tuple(rng.integers(1, 3, 2).tolist()) for _ in range(2))
        kernel, padding = rng.integers(1, 4, 2).tolist(), tuple(rng.integers(0, 3, 2).tolist())
        places = [
            (n + 2 * p - (k - 1) * d - 1) // s + 1
            for n, p, k, d, s in zip(shape[1:], padding, kernel, dilation, stride, strict=True)
        ]
    out = groups * int(rng.integers(1, 3))
    weight = frozen(rng.integers(-128, 128, (out, channels // groups, *kernel)), np.int8)
    return Conv(weight, shape, (out, *places), stride, padding, dilation, groups)


def cropped(rng: Rng, shape: Shape) -> Conv:
    """Padding on one side only, a row cut off, an output more or less than would fit."""
    weight = frozen(rng.integers(-128, 128, (2, shape[0], 2, 3)), np.int8)
    rows, columns = shape[1] - 1 + int(rng.integers(2)), (shape[2] + 1) // 2
    return Conv(weight, shape, (2, rows, columns), (1, 2), (int(rng.integers(-1, 1)), 1))


def pooling(rng: Rng, shape: Shape) -> Conv:
    """Sums over 2 x 2 places, channel by channel."""
    weight = frozen(np.full((shape[0], 1, 2, 2), 32), np.int8)
    out = (shape[0], shape[1] // 2, shape[2] // 2)
    return Conv(weight, shape, out, (2, 2), (0, 0), (1, 1), shape[0])


def scaling(rng: Rng, shape: Shape) -> Diagonal:
    """One weight per channel."""
    weight = rng.integers(40, 128, (shape[0],) + (1,) * (len(shape) - 1))
    return Diagonal(frozen(weight, np.int8), shape, shape)


def dense(rng: Rng, shape: Shape, low: int = -128, high: int = 127, size: int = 5) -> Dense:
    """A full matrix with weights in low .. high, both of which occur."""
    weight = rng.integers(low, high + 1, (size, int(np.prod(shape))))
    weight.flat[0], weight.flat[-1] = low, high
    return Dense(frozen(weight, np.int8), shape, (size,))


def powers_of_two(rng: Rng, shape: Shape) -> Dense:
    """Negative weights of which the least is a power of two: netx makes zeros of some of these."""
    return dense(rng, shape, -2, -1)


def never_positive(rng: Rng, shape: Shape) -> Dense:
    """Negative weights and a zero: netx takes them for mixed, Lava for inhibitory."""
    return dense(rng, shape, -4, 0)


def nothing(rng: Rng, shape: Shape) -> Dense:
    """All zero: netx overflows."""
    return dense(rng, shape, 0, 0)


def excitatory(rng: Rng, shape: Shape) -> Dense:
    """No negative weight."""
    return dense(rng, shape, 0, 127)


def sparse(rng: Rng, shape: Shape) -> Sparse:
    """A matrix that is mostly zero."""
    size = int(np.prod(shape))
    weight = rng.integers(-128, 128, (6, size)) * (rng.random((6, size)) < 0.3)
    return Sparse.from_matrix(sp.csr_matrix(weight.astype(np.int8)), shape, (6,))


ROADS: dict[str, tuple[Shape, Sequence[Maker]]] = {
    "convolutions": ((2, 7, 6), (conv, conv, dense, dense)),
    "more convolutions": ((1, 9, 5), (conv, cropped, dense, dense)),
    "pooling": ((3, 8, 6), (cropped, pooling, conv, dense)),
    "scaling": ((2, 5, 4), (scaling, conv, sparse, dense)),
    "vectors": ((7,), (dense, excitatory, dense)),
    "powers of two": ((3, 4, 2), (conv, powers_of_two, dense)),
    "one-signed matrices in a row": ((6,), (dense, never_positive, nothing, dense)),
    "a matrix first": ((2, 3, 4), (dense, dense)),
    "one-signed first": ((2, 3, 4), (powers_of_two, dense)),
    "one-signed last": ((5,), (dense, nothing)),
    "a readout at once": ((4,), (dense,)),
}


def random_road(
    rng: Rng,
    shape: Shape,
    makers: Sequence[Maker],
    steps: int = STEPS,
    timing: str = "held",
    lif: bool = False,
) -> Netlist:
    """A network of the given maps; the last one drives the readout."""
    source = Source(-3, 12, "train" if timing == "train" else "held")
    populations = [netlists.population("input", shape, source)]
    connections: list[Connection] = []
    for index, maker in enumerate(makers):
        before, name = populations[-1], f"layer{index}"
        linear = maker(rng, before.shape)
        connections.append(netlists.connection(before.name, name, linear))
        placeholder = netlists.population(name, linear.out_shape, Readout(ZERO, ZERO))
        draft = Netlist((*populations, placeholder), tuple(connections), steps)
        step, _ = draft.drive_bounds(name)
        neuron: NeuronModel = Readout(_biases(rng, linear.out_shape, -25, 50), ZERO)
        if index < len(makers) - 1:
            drive = int(step.low.min()), int(step.high.max())
            neuron = _neuron(rng, linear.out_shape, drive, lif)
        populations.append(netlists.population(name, linear.out_shape, neuron))
    netlist = netlists.proven(Netlist(tuple(populations), tuple(connections), steps))
    netlist.verify()
    return netlist


ZERO = netlists.integers(0)


def _neuron(rng: Rng, shape: Shape, drive: tuple[int, int], lif: bool) -> NeuronModel:
    low, high = drive
    threshold = max(high // 5, 6)
    bias = _biases(rng, shape, -threshold // 4, threshold // 2)
    if -low > 2 * high:  # what is mostly held back lives by its bias
        bias = _biases(rng, shape, -low // 4, -low)
    if high == low == 0:
        bias = _biases(rng, shape, 1, threshold)
    if lif:
        decays = (int(rng.integers(1, 4097)), int(rng.integers(0, 2000)))
        return LIF(netlists.integers(threshold), bias, *decays)
    return HardResetIF(netlists.integers(threshold), bias, ZERO)


def _biases(rng: Rng, shape: Shape, low: int, high: int) -> Array:
    """One for all, one per channel, or one per neuron."""
    sizes: list[Shape] = [(), (shape[0],) + (1,) * (len(shape) - 1), shape]
    return netlists.integers(rng.integers(low, high + 1, sizes[rng.integers(3)]))
