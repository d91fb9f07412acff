"""What a linear map asks of a core that holds some of its outputs: sources, synapses, words, axons.

Everything is counted by formula from the edges of boxes, never by unfolding a map; stored zeros
count. A form of map is one entry of `_FORMS`.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.linear import (
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Sparse,
)
from lapilli.compiler.mapping.regions import (
    Box,
    Boxes,
    count,
    flat_boxes,
    indices,
    ranges,
    reshaped,
    volume,
)
from lapilli.compiler.netlist import Connection
from lapilli.hardware_profiles import Profile

Mask = npt.NDArray[np.bool_]
Kernel = Conv | ConvTransposed

ENTRY_SYNAPSES, ENTRY_PREFIX_BITS = 60, 4 + 6
"""Loihi 1: synapses of one entry of a list; bits for its format and its count (NxTF)."""
INDEX_BITS = (6, 7, 8, 9, 10, 11, 12)
"""Loihi 1: widths of a target's index (nengo-loihi, INDEX_BITS_MAP)."""
LATE_REMAINDER = 59
"""Loihi 1: a list that ends so late in a word, or exactly with it, takes one more (NxTF)."""


def sources_of(m: LinearMap, boxes: Boxes) -> Mask:
    """Which inputs reach the outputs in `boxes`, (in_size,); stored zeros reach, too."""
    mask = np.zeros(m.in_size, dtype=np.bool_)
    _FORMS[type(m)].mark(m, boxes, mask)
    return mask


def reads(m: LinearMap, boxes: Boxes) -> Boxes:
    """Boxes of inputs, in the map's shape, outside which none reaches the outputs in `boxes`.

    They may overlap. Exact but for strides that skip inputs, and for sparse maps.
    """
    return _FORMS[type(m)].reads(m, boxes)


def synapses(m: LinearMap, boxes: Boxes) -> int:
    """Synapses into the outputs in `boxes`, borders excluded, stored zeros included."""
    return _FORMS[type(m)].count(m, boxes)


def input_axons(m: LinearMap, boxes: Boxes) -> int:
    """Axons that bring spikes to the outputs: a pixel's channels share one for a kernel.

    Loihi 1's population axons (nengo-loihi, NxTF); taken to hold for Loihi 2 as well.
    """
    return _FORMS[type(m)].axons(m, boxes)


def is_native(profile: Profile) -> bool:
    """Are rows of weights stored as such (Loihi 2), not in lists with indices (Loihi 1)?"""
    return profile.limits.dense_synapse_bits is not None


def is_shared(m: LinearMap) -> bool:
    """Are weights stored once for all positions of a channel?"""
    if isinstance(m, Diagonal):
        behind = m.weight.shape[1:] if m.weight.ndim == len(m.in_shape) else m.weight.shape
        return math.prod(behind) == 1
    return isinstance(m, Conv | ConvTransposed)


def words(c: Connection, boxes: Boxes, profile: Profile) -> tuple[int, int]:
    """Words of synaptic memory for the targets in `boxes`: in all, and of the longest list.

    Native rows serve all boxes; lists, with the layouts of their targets, are made box by box.
    (0, 0) where the profile does not say how synapses are stored.
    """
    limits = profile.limits
    native = is_native(profile)
    if limits.memory_word_bits is None or not (native or limits.weight_bits):
        return 0, 0
    form = _FORMS[type(c.map)]
    if native:
        found = [(row_words(c, n, profile), times) for n, times in form.rows(c.map, boxes) if n]
    else:
        found = [
            (_listed_words(c, runs, length, profile), times)
            for box in boxes
            for runs, length, times in form.lists(c.map, (box,))
            if runs * length
        ]
    return sum(w * n for w, n in found), max((w for w, _ in found), default=0)


def row_words(c: Connection, length: int, profile: Profile) -> int:
    """Words of one row of `length` targets where rows are stored natively (Loihi 2)."""
    limits = profile.limits
    word, dense = limits.memory_word_bits, limits.dense_synapse_bits
    assert word and dense
    bits = length * dense.value
    if is_shared(c.map) and limits.conv_synapse_bits and limits.conv_row_overhead_bits:
        bits = length * limits.conv_synapse_bits.value + limits.conv_row_overhead_bits.value
    return -(-bits // word.value)


def _listed_words(c: Connection, runs: int, length: int, profile: Profile) -> int:
    """Words of a list of `runs` runs of neighbouring targets, on Loihi 1 (NxTF, nxsdk_modules_ncl).

    Entries of up to 60 synapses: either each of one run, which keeps the index of its first target,
    or of any targets, with one index per synapse; the shorter of both.
    """
    limits = profile.limits
    assert limits.memory_word_bits and limits.weight_bits
    neurons = limits.neurons_per_core.value if limits.neurons_per_core else 2 ** INDEX_BITS[-1]
    index = next((n for n in INDEX_BITS if 2**n >= neurons), INDEX_BITS[-1])
    body = runs * length * (limits.weight_bits.value + c.delay.bit_length())
    by_run = runs * -(-length // ENTRY_SYNAPSES) * (ENTRY_PREFIX_BITS + index)
    by_target = -(-runs * length // ENTRY_SYNAPSES) * ENTRY_PREFIX_BITS + runs * length * index
    whole, rest = divmod(body + min(by_run, by_target), limits.memory_word_bits.value)
    return whole + (1 if rest == 0 else 2 if rest >= LATE_REMAINDER else 1)


Rows = Iterator[tuple[int, int]]
"""(targets of a row of weights, how many such rows)"""
Lists = Iterator[tuple[int, int, int]]
"""(runs of neighbouring targets, targets of a run, how many such lists)"""


@final
@dataclass(frozen=True)
class _Form:
    """How a form of map is counted over boxes of its outputs.

    mark: sets the inputs that reach them; count: synapses; rows, lists: how weights are stored,
    natively or in lists; axons: that arrive; reads: boxes of inputs. Neurons of a core are numbered
    channels last, so that the channels of a kernel's place are a run.
    """

    mark: Callable[[Any, Boxes, Mask], None]
    count: Callable[[Any, Boxes], int]
    rows: Callable[[Any, Boxes], Rows]
    lists: Callable[[Any, Boxes], Lists]
    axons: Callable[[Any, Boxes], int]
    reads: Callable[[Any, Boxes], Boxes]


def _mark_diagonal(m: Diagonal, boxes: Boxes, mask: Mask) -> None:
    mask[indices(m.out_shape, boxes)] = True


def _diagonal_rows(m: Diagonal, boxes: Boxes) -> Rows:
    yield 1, _channels(boxes) if is_shared(m) else count(boxes)


def _diagonal_lists(m: Diagonal, boxes: Boxes) -> Lists:
    yield 1, *next(_diagonal_rows(m, boxes))


def _channels(boxes: Boxes) -> int:
    return sum(high - low for low, high in ranges(box[0] for box in boxes))


def _mark_dense(m: Dense, boxes: Boxes, mask: Mask) -> None:
    mask[:] = bool(count(boxes))


def _dense_rows(m: Dense | DensePart, boxes: Boxes) -> Rows:
    yield count(boxes), int(m.weight.shape[1])


def _dense_lists(m: Dense | DensePart, boxes: Boxes) -> Lists:
    yield 1, *next(_dense_rows(m, boxes))


def _dense_reads(m: Dense, boxes: Boxes) -> Boxes:
    return (tuple((0, size) for size in m.in_shape),) if count(boxes) else ()


def _mark_dense_part(m: DensePart, boxes: Boxes, mask: Mask) -> None:
    mask[m.run] = bool(count(boxes))


def _dense_part_reads(m: DensePart, boxes: Boxes) -> Boxes:
    return tuple(flat_boxes(m.in_shape, m.run.start, m.run.stop)) if count(boxes) else ()


def _columns(m: Sparse, boxes: Boxes) -> npt.NDArray[Any]:
    """The inputs of every stored synapse of the outputs."""
    rows = indices(m.out_shape, boxes)
    starts, lengths = m.starts[rows], m.starts[rows + 1] - m.starts[rows]
    first = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return m.columns[first + np.arange(int(lengths.sum()))] if len(rows) else m.columns[:0]


def _mark_sparse(m: Sparse, boxes: Boxes, mask: Mask) -> None:
    mask[_columns(m, boxes)] = True


def _sparse_rows(m: Sparse, boxes: Boxes) -> Rows:
    lengths = np.bincount(_columns(m, boxes))
    for length, times in zip(*np.unique(lengths, return_counts=True), strict=True):
        yield int(length), int(times)


def _sparse_lists(m: Sparse, boxes: Boxes) -> Lists:
    return ((targets, 1, times) for targets, times in _sparse_rows(m, boxes))


def _sparse_axons(m: Sparse, boxes: Boxes) -> int:
    return len(np.unique(_columns(m, boxes)))


def _mark_conv(m: Kernel, boxes: Boxes, mask: Mask) -> None:
    image = mask.reshape(m.in_shape)
    for (first, last), *tile in boxes:
        rows, columns = (_reach(m, axis, *tile[axis]).read for axis in (0, 1))
        for low, high in _input_channels(m, first, last):
            image[low:high, rows[:, None], columns] = True


def _input_channels(m: Kernel, first: int, last: int) -> tuple[tuple[int, int], ...]:
    """Channels of the groups that the output channels first .. last belong to."""
    inputs, outputs = m.in_shape[0] // m.groups, m.out_shape[0] // m.groups
    return ((first // outputs * inputs, -(-last // outputs) * inputs),) if first < last else ()


def _conv_count(m: Kernel, boxes: Boxes) -> int:
    depth = m.in_shape[0] // m.groups
    return sum(
        (last - first) * depth * math.prod(_reach(m, axis, *tile[axis]).pairs for axis in (0, 1))
        for (first, last), *tile in boxes
    )


def _conv_rows(m: Kernel, boxes: Boxes) -> Rows:
    depth, outputs = m.in_shape[0] // m.groups, m.out_shape[0] // m.groups
    held = Counter[int]()
    for low, high in ranges(box[0] for box in boxes if volume(box)):
        for group in range(low // outputs, -(-high // outputs)):
            held[group] += min(high, (group + 1) * outputs) - max(low, group * outputs)
    for n, groups in Counter(held.values()).items():
        yield n, groups * depth * math.prod(m.kernel)


def _conv_lists(m: Kernel, boxes: Boxes) -> Lists:
    depth, outputs = m.in_shape[0] // m.groups, m.out_shape[0] // m.groups
    for (first, last), *tile in boxes:
        vertical, horizontal = (_layouts(_axis(m, axis), *tile[axis]) for axis in (0, 1))
        for n, groups in _per_group(first, last, outputs).items():
            for high, some in vertical.items():
                for wide, others in horizontal.items():
                    yield high * wide, n, some * others * depth * groups


def _per_group(first: int, last: int, size: int) -> Counter[int]:
    """How many of the channels first .. last a group of `size` has -> how many such groups."""
    found = Counter[int]()
    head = min(last, -(-first // size) * size) - first
    tail = last - max(first, last // size * size)
    if first // size == (last - 1) // size:
        return Counter({last - first: 1}) if first < last else found
    for n, times in ((head, 1), (size, last // size - -(-first // size)), (tail, 1)):
        if n and times:
            found[n] += times
    return found


def _conv_axons(m: Kernel, boxes: Boxes) -> int:
    """Pixels; they do not know of channels."""
    tiles = {tuple(box[1:]) for box in boxes if volume(box)}
    read = [tuple(_reach(m, axis, *tile[axis]).read for axis in (0, 1)) for tile in tiles]
    read = [axes for axes in read if all(axis.size for axis in axes)]
    if not read:
        return 0
    if len(read) == 1:
        return math.prod(len(axis) for axis in read[0])
    low = [min(int(r[axis][0]) for r in read) for axis in (0, 1)]
    high = [max(int(r[axis][-1]) for r in read) for axis in (0, 1)]
    pixels = np.zeros((high[0] - low[0] + 1, high[1] - low[1] + 1), dtype=np.bool_)
    for rows, columns in read:
        pixels[(rows - low[0])[:, None], columns - low[1]] = True
    return int(np.count_nonzero(pixels))


def _conv_reads(m: Kernel, boxes: Boxes) -> Boxes:
    found: list[Box] = []
    for (first, last), *tile in boxes:
        axes = [_reach(m, axis, *tile[axis]).read for axis in (0, 1)]
        if first < last and all(read.size for read in axes):
            plane = tuple((int(read[0]), int(read[-1]) + 1) for read in axes)
            found += [(channels, *plane) for channels in _input_channels(m, first, last)]
    return tuple(found)


def axis_reads(m: Kernel, axis: int, low: int, high: int) -> npt.NDArray[np.int64]:
    """Inputs along rows (0) or columns (1) that the outputs low .. high read, sorted."""
    return _reach(m, axis, low, high).read


class _Reach(NamedTuple):
    """What outputs read along an axis: inputs (outputs, taps), which are inside, which are read."""

    inputs: npt.NDArray[np.int64]
    inside: Mask
    read: npt.NDArray[np.int64]
    pairs: int


class _Axis(NamedTuple):
    """What decides which inputs an output reads along one axis."""

    kernel: int
    stride: int
    padding: int
    dilation: int
    size: int
    transposed: bool


def _reach(m: Kernel, axis: int, low: int, high: int) -> _Reach:
    return _reach_of(_axis(m, axis), low, high)


def _axis(m: Kernel, axis: int) -> _Axis:
    return _Axis(
        m.kernel[axis],
        m.stride[axis],
        m.padding[axis],
        m.dilation[axis],
        m.in_shape[axis + 1],
        isinstance(m, ConvTransposed),
    )


@functools.lru_cache(maxsize=65536)
def _layouts(axis: _Axis, low: int, high: int) -> Counter[int]:
    """Targets of an input -> how many inputs differ in where, relatively, these lie."""
    patterns: dict[int, list[tuple[int, int]]] = {}
    reach = _reach_of(axis, low, high)
    for output, tap in zip(*np.nonzero(reach.inside), strict=True):
        patterns.setdefault(int(reach.inputs[output, tap]), []).append((int(output), int(tap)))
    distinct = {
        tuple((output - pattern[0][0], tap) for output, tap in pattern)
        for pattern in patterns.values()
    }
    return Counter(len(pattern) for pattern in distinct)


@functools.lru_cache(maxsize=65536)
def _reach_of(axis: _Axis, low: int, high: int) -> _Reach:
    taps = np.arange(axis.kernel) * axis.dilation - axis.padding
    outputs = np.arange(low, high)[:, None]
    if axis.transposed:  # input y stamps output y * stride + tap
        inputs, rest = np.divmod(outputs - taps, axis.stride)
        met: Any = rest == 0
    else:
        inputs, met = outputs * axis.stride + taps, np.True_
    inside = met & (inputs >= 0) & (inputs < axis.size)
    return _Reach(inputs, inside, np.unique(inputs[inside]), int(np.count_nonzero(inside)))


_FORMS: Mapping[type[LinearMap], _Form] = MappingProxyType(
    {
        Diagonal: _Form(
            _mark_diagonal,
            lambda m, boxes: count(boxes),
            _diagonal_rows,
            _diagonal_lists,
            lambda m, boxes: count(boxes),
            lambda m, boxes: reshaped(boxes, m.out_shape, m.in_shape),
        ),
        Dense: _Form(
            _mark_dense,
            lambda m, boxes: int(count(boxes) * m.in_size),
            _dense_rows,
            _dense_lists,
            lambda m, boxes: m.in_size if count(boxes) else 0,
            _dense_reads,
        ),
        DensePart: _Form(
            _mark_dense_part,
            lambda m, boxes: int(count(boxes) * m.weight.shape[1]),
            _dense_rows,
            _dense_lists,
            lambda m, boxes: int(m.weight.shape[1]) if count(boxes) else 0,
            _dense_part_reads,
        ),
        Conv: _Form(_mark_conv, _conv_count, _conv_rows, _conv_lists, _conv_axons, _conv_reads),
        ConvTransposed: _Form(
            _mark_conv, _conv_count, _conv_rows, _conv_lists, _conv_axons, _conv_reads
        ),
        Sparse: _Form(
            _mark_sparse,
            lambda m, boxes: len(_columns(m, boxes)),
            _sparse_rows,
            _sparse_lists,
            _sparse_axons,
            _dense_reads,
        ),
    }
)
