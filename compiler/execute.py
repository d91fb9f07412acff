"""Linear maps and population graphs in torch: batched, on any device, exact where it must be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor

from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Sparse,
)
from lapilli.compiler.populations import Connection, Population, PopulationGraph

GATHERED = 2**18
"""Synapses whose inputs are gathered at a time."""
KEPT = 2**26
"""Weights of a float network up to which torch's copies are kept (256 MiB), not made anew."""


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Switch off everything that computes float32 sums inexactly: TF32, bfloat16, Winograd."""
    precision = torch.get_float32_matmul_precision()
    tf32 = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.no_grad(), torch.backends.nnpack.flags(enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32


@final
class TorchMap:
    """A LinearMap ready to be applied to batches (N, *in_shape) in one dtype on one device."""

    def __init__(self, linear: LinearMap, dtype: torch.dtype, device: torch.device):
        self._map = linear
        self._apply = _APPLY[type(linear)](linear, as_tensor(linear.weight, dtype, device))

    def __call__(self, x: Tensor) -> Tensor:
        """(N, *in_shape) -> (N, *out_shape)."""
        x = x.reshape(len(x), *self._map.in_shape)
        return self._apply(x).reshape(len(x), *self._map.out_shape)


def apply_map(linear: LinearMap, weight: Tensor, x: Tensor) -> Tensor:
    """`linear` with another weight, like its own, applied to (N, *in_shape); differentiable.

    The gradient of a Sparse map's weight would be a full matrix: it has none.
    """
    x = x.reshape(len(x), *linear.in_shape)
    return _APPLY[type(linear)](linear, weight)(x).reshape(len(x), *linear.out_shape)


_Apply = Callable[[Tensor], Tensor]


def as_tensor(values: Array, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor with its own memory; parameters of the compiler are read-only."""
    return torch.tensor(np.asarray(values), dtype=dtype, device=device)


def _diagonal(linear: Diagonal, weight: Tensor) -> _Apply:
    return lambda x: x * weight


def _dense(linear: Dense, weight: Tensor) -> _Apply:
    return lambda x: F.linear(x.flatten(1), weight)


def _dense_part(linear: DensePart, weight: Tensor) -> _Apply:
    return lambda x: F.linear(x.flatten(1)[:, linear.run], weight)


def _sparse(linear: Sparse, weight: Tensor) -> _Apply:
    coo = linear.to_sparse().tocoo()
    index = torch.tensor(np.stack([coo.row, coo.col]), dtype=torch.int64, device=weight.device)
    size = (linear.out_size, linear.in_size)
    matrix = torch.sparse_coo_tensor(index, weight, size, check_invariants=True).coalesce()
    return lambda x: torch.sparse.mm(matrix, x.flatten(1).t()).t()


def _conv(linear: Conv, weight: Tensor) -> _Apply:
    # Channels last: the layout in which torch convolves fastest on CPUs; results are the same.
    layout = torch.channels_last
    weight = weight.contiguous(memory_format=layout)
    (top, bottom), (left, right) = linear.margins()
    symmetric = top == bottom >= 0 and left == right >= 0
    # oneDNN of torch 2.3 crashes on padded 1x1 kernels with a stride, channels last, width 1.
    symmetric = symmetric and not (linear.kernel == (1, 1) and (top or left))
    convolve = partial(
        F.conv2d,
        weight=weight,
        stride=linear.stride,
        padding=(top, left) if symmetric else 0,
        dilation=linear.dilation,
        groups=linear.groups,
    )
    if symmetric:
        return lambda x: convolve(x.contiguous(memory_format=layout))
    margins = (left, right, top, bottom)
    return lambda x: convolve(F.pad(x, margins).contiguous(memory_format=layout))


def _conv_transposed(linear: ConvTransposed, weight: Tensor) -> _Apply:
    stamp = partial(
        F.conv_transpose2d,
        weight=weight,
        stride=linear.stride,
        dilation=linear.dilation,
        groups=linear.groups,
    )
    (top, left), more = linear.padding, [0, 0]
    for axis in (0, 1):
        more[axis] = linear.out_shape[axis + 1] + 2 * linear.padding[axis] - linear.extent(axis)
    limits = [max(pair) for pair in zip(linear.stride, linear.dilation, strict=True)]
    fits = all(0 <= size < limit for size, limit in zip(more, limits, strict=True))
    if fits and top >= 0 and left >= 0:  # what torch does itself
        return lambda x: stamp(x, padding=(top, left), output_padding=more)

    height, width = linear.out_shape[1:]
    above, beside = min(max(-top, 0), height), min(max(-left, 0), width)

    def cut(x: Tensor) -> Tensor:
        x = stamp(x)[:, :, max(top, 0) :, max(left, 0) :][..., : height - above, : width - beside]
        below, behind = height - above - x.shape[2], width - beside - x.shape[3]
        return F.pad(x, (beside, behind, above, below))

    return cut


_APPLY: dict[type[LinearMap], Callable[..., _Apply]] = {
    Diagonal: _diagonal,
    Dense: _dense,
    DensePart: _dense_part,
    Sparse: _sparse,
    Conv: _conv,
    ConvTransposed: _conv_transposed,
}


@final
class TorchMax:
    """The largest input over the non-zero synapses of each output, whatever their weights.

    Inputs beyond a border do not take part; `empty` is the value of an output without synapses.
    """

    def __init__(self, linear: LinearMap, device: torch.device, empty: float = -math.inf):
        self._map = linear
        self._apply = _pooling(linear) or _gathering(linear, device)
        self._empty = empty

    def __call__(self, x: Tensor) -> Tensor:
        """(N, *in_shape) -> (N, *out_shape), in the floating-point dtype of x."""
        x = x.reshape(len(x), *self._map.in_shape)
        result = self._apply(x).reshape(len(x), *self._map.out_shape)
        if self._empty == -math.inf:
            return result
        return torch.where(result == -math.inf, self._empty, result)


def _pooling(linear: LinearMap) -> _Apply | None:
    """Torch's own pooling, for what it is: channel by channel, no tap missing, nothing cut off."""
    if not isinstance(linear, Conv) or not (linear.weight != 0).all():
        return None
    (top, bottom), (left, right) = linear.margins()
    by_channel = linear.groups == linear.in_shape[0] == linear.out_shape[0]
    if not by_channel or min(top, bottom, left, right) < 0:
        return None
    pool = partial(
        F.max_pool2d, kernel_size=linear.kernel, stride=linear.stride, dilation=linear.dilation
    )
    margins = (left, right, top, bottom)
    return lambda x: pool(F.pad(x, margins, value=-math.inf))


def _gathering(linear: LinearMap, device: torch.device) -> _Apply:
    matrix = linear.to_sparse().copy()  # its arrays may be the map's own
    matrix.eliminate_zeros()
    rows = np.repeat(np.arange(linear.out_size), np.diff(matrix.indptr))
    index = torch.tensor(rows, dtype=torch.int64, device=device)
    columns = torch.tensor(matrix.indices, dtype=torch.int64, device=device)

    def largest(x: Tensor) -> Tensor:
        # Output by output in parts, so that what is gathered stays small.
        flat, result = x.flatten(1), x.new_full((len(x), linear.out_size), -math.inf)
        for start in range(0, len(columns), GATHERED):
            part = slice(start, start + GATHERED)
            targets = index[part].expand(len(x), -1)
            result.scatter_reduce_(1, targets, flat[:, columns[part]], "amax")
        return result

    return largest


@final
class FloatExecutor:
    """Runs a PopulationGraph in floats: what the legalised network computes before conversion."""

    def __init__(
        self, graph: PopulationGraph, device: torch.device, dtype: torch.dtype = torch.float32
    ):
        self._graph = graph
        self._device = device
        self._dtype = dtype
        self._pools = {p.name for p in graph.populations if p.role == "max"}
        self._keeps = sum(c.map.weight.size for c in graph.connections) <= KEPT
        self._maps: dict[int, TorchMap | TorchMax] = {}

    def run(self, x: Tensor) -> dict[str, Tensor]:
        """Activity of every population, (N, *shape)."""
        return dict(self.stream(x))

    def stream(self, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Activity of one population after the other, each held no longer than others read it."""
        activity: dict[str, Tensor] = {}
        last = {c.source: p.name for p in self._graph.populations for c in self._graph.into(p.name)}
        for p in self._graph.populations:
            value = x if p.role == "input" else active(p, self.drive(p, activity))
            if p.name in last:
                activity[p.name] = value
            yield p.name, value
            for name in [name for name in activity if last[name] == p.name]:
                del activity[name]

    def _map(self, c: Connection) -> TorchMap | TorchMax:
        """The connection's map in torch; large networks would not fit twice."""
        found = self._maps.get(id(c))
        if found is None:
            if c.target in self._pools:
                found = TorchMax(c.map, self._device)
            else:
                found = TorchMap(c.map, self._dtype, self._device)
            if self._keeps:
                self._maps[id(c)] = found
        return found

    def drive(self, p: Population, activity: Mapping[str, Tensor]) -> Tensor:
        """What one population makes its activity of, from the activity of those it reads."""
        read = [
            self._map(c)(activity[c.source]).reshape(-1, *p.shape) for c in self._graph.into(p.name)
        ]
        if p.role == "max":
            return read[0]
        if p.role == "product":
            return read[0] * read[1]
        return sum(read, as_tensor(p.bias, self._dtype, self._device))


def active(p: Population, drive: Tensor) -> Tensor:
    """Activity at a drive (N, *shape)."""
    return drive if p.activation is None else p.activation(drive)
