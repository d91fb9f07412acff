"""What a range of neurons takes of a core: compartments, synaptic memory, axons.

Counts are structural: a stored zero weight takes room. Synaptic memory follows the profile: where
it states `dense_synapse_bits`, one row of memory per source and target core (Loihi 2, recovered
from public compile logs); else the published lists of Loihi 1 (`_listed_words`). A convolution's
kernel is counted once per core. Everything is counted by formula, never by unfolding a map.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    Diagonal,
    LinearMap,
    Shape,
    Sparse,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import LIF, HardResetIF, NeuronModel, Source
from lapilli.hardware_profiles import Profile

Mask = npt.NDArray[np.bool_]
Box = tuple[tuple[int, int], ...]
Kernel = Conv | ConvTransposed

ENTRY_SYNAPSES, ENTRY_PREFIX_BITS = 60, 4 + 6
"""Loihi 1: synapses of one entry of a list; bits for its format and its count (NxTF)."""
INDEX_BITS = (6, 7, 8, 9, 10, 11, 12)
"""Loihi 1: widths of a target's index (nengo-loihi, INDEX_BITS_MAP)."""
LATE_REMAINDER = 59
"""Loihi 1: a list that ends so late in a word, or exactly with it, takes one more (NxTF)."""

RESET_TO_ZERO: tuple[type[NeuronModel], ...] = (HardResetIF, LIF)
"""Models with a threshold that is not subtracted, as the chips' stock neuron; others count as if it
were."""


@final
@dataclass(frozen=True)
class Usage:
    """What neurons take of one core.

    compartments: neurons times what each takes; synapse_words, longest_list: words of synaptic
    memory in all, and of the longest list of one source; pool_words: synapses, axons and neurons
    together, one word per input axon; input_axons: one per source neuron, one per source pixel
    where the kernel is shared; output_axons: one per neuron and core that it sends to.
    """

    compartments: int = 0
    neuron_groups: int = 0
    synapse_words: int = 0
    longest_list: int = 0
    pool_words: int = 0
    synapse_formats: int = 0
    input_axons: int = 0
    output_axons: int = 0
    threshold_profiles: int = 0
    compartment_profiles: int = 0

    def __add__(self, other: Usage) -> Usage:
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Usage(**{**sums, "longest_list": max(self.longest_list, other.longest_list)})


LIMITS: Mapping[str, str] = MappingProxyType(
    {
        "neurons_per_core": "compartments",
        "neuron_groups_per_core": "neuron_groups",
        "synapse_words_per_core": "synapse_words",
        "synapse_words_per_axon": "longest_list",
        "pool_words_per_core": "pool_words",
        "synapse_formats_per_core": "synapse_formats",
        "input_axons_per_core": "input_axons",
        "input_axon_words_per_core": "input_axons",
        "output_axons_per_core": "output_axons",
        "threshold_profiles_per_core": "threshold_profiles",
        "compartment_profiles_per_core": "compartment_profiles",
    }
)
"""Limit of a profile -> the field of `Usage` that must not exceed it."""


class Excess(NamedTuple):
    """A limit that a core exceeds."""

    resource: str
    found: int
    allowed: int


def excess(usage: Usage, profile: Profile) -> Excess | None:
    """The first limit of the profile that `usage` exceeds, or None; a null limit is not checked."""
    for limit, field in LIMITS.items():
        allowed = getattr(profile.limits, limit)
        found = getattr(usage, field)
        if allowed is not None and found > allowed.value:
            return Excess(limit, found, int(allowed.value))
    return None


def boxes(shape: Shape, start: int, stop: int) -> Iterator[Box]:
    """The flat range as boxes (low, high) per axis, in order, without overlap.

    >>> list(boxes((3, 4), 2, 9))
    [((0, 1), (2, 4)), ((1, 2), (0, 4)), ((2, 3), (0, 1))]
    """
    if start >= stop:
        return
    if len(shape) == 1:
        yield ((start, stop),)
        return
    inner = math.prod(shape[1:])
    (first, head), (last, tail) = divmod(start, inner), divmod(stop, inner)
    if first == last or (first + 1 == last and head and not tail):
        for box in boxes(shape[1:], head, tail or inner):
            yield ((first, first + 1), *box)
        return
    if head:
        yield from boxes(shape, start, (first + 1) * inner)
        first += 1
    if first < last:
        yield ((first, last), *((0, size) for size in shape[1:]))
    yield from boxes(shape, last * inner, stop)


def sources_of(linear_map: LinearMap, start: int, stop: int) -> Mask:
    """Which inputs reach the outputs start .. stop, (in_size,); stored zeros reach, too."""
    mask = np.zeros(linear_map.in_size, dtype=np.bool_)
    _FORMS[type(linear_map)].mark(linear_map, start, stop, mask)
    return mask


def hull(linear_map: LinearMap, start: int, stop: int) -> tuple[int, int]:
    """A range of inputs outside which none reaches the outputs start .. stop."""
    if isinstance(linear_map, Diagonal):
        return start, stop
    if not isinstance(linear_map, Conv | ConvTransposed):
        return 0, linear_map.in_size
    inputs, outputs = (
        size // linear_map.groups for size in (linear_map.in_size, linear_map.out_size)
    )
    return start // outputs * inputs, -(-stop // outputs) * inputs


def input_axons(linear_map: LinearMap, start: int, stop: int) -> int:
    """Axons that bring spikes to the outputs: a pixel's channels share one for a kernel.

    Loihi 1's population axons (nengo-loihi, NxTF); taken to hold for Loihi 2 as well.
    """
    if isinstance(linear_map, Conv | ConvTransposed):
        # Pixels do not know of channels: one input channel stands for all.
        pixels = np.zeros(linear_map.in_shape[1:], dtype=np.bool_)
        for _, *tile in boxes(linear_map.out_shape, start, stop):
            rows, columns = (_Taps.of(linear_map, axis, *tile[axis]).rows for axis in (0, 1))
            pixels[rows[:, None], columns] = True
        return int(np.count_nonzero(pixels))
    low, high = hull(linear_map, start, stop)
    if not isinstance(linear_map, Sparse):
        return high - low
    return int(np.count_nonzero(sources_of(linear_map, start, stop)))


def synapses(linear_map: LinearMap, start: int, stop: int) -> int:
    """Synapses into the outputs start .. stop, borders excluded, stored zeros included."""
    return _FORMS[type(linear_map)].count(linear_map, start, stop)


def synapse_words(c: Connection, start: int, stop: int, profile: Profile) -> tuple[int, int]:
    """Words of synaptic memory for the targets start .. stop: in all, and of the longest list.

    (0, 0) where the profile does not say how synapses are stored.
    """
    limits = profile.limits
    native = limits.dense_synapse_bits is not None
    if limits.memory_word_bits is None or not (native or limits.weight_bits):
        return 0, 0
    words_of = _row_words if native else _listed_words
    lists = _FORMS[type(c.map)].lists(c.map, start, stop, native)
    words = [(words_of(c, length, profile), count) for length, count in lists if length]
    return sum(w * n for w, n in words), max((w for w, _ in words), default=0)


def is_shared(linear_map: LinearMap) -> bool:
    """Are weights stored once for all positions of a channel?"""
    if isinstance(linear_map, Diagonal):
        return linear_map.weight.size <= linear_map.in_shape[0]
    return isinstance(linear_map, Conv | ConvTransposed)


def on_host(netlist: Netlist, c: Connection, profile: Profile) -> bool:
    """Does the host compute this drive? On chips with binary spikes it does for an analog input."""
    neuron = netlist[c.source].neuron
    low, high = neuron.payload()
    analog = isinstance(neuron, Source) and (low < 0 or high > 1)
    return analog and not profile.features.graded_spikes.value


def usage(netlist: Netlist, p: Population, start: int, stop: int, profile: Profile) -> Usage:
    """What the neurons start .. stop of a population take, but for output axons."""
    words = longest = axons = 0
    drives = [c for c in netlist.into(p.name) if not on_host(netlist, c, profile)]
    for c in drives:
        more, list_words = synapse_words(c, start, stop, profile)
        words, longest = words + more, max(longest, list_words)
        axons += input_axons(c.map, start, stop)
    thresholds = _thresholds(p, start, stop)
    subtracts = thresholds and not isinstance(p.neuron, RESET_TO_ZERO)
    each = profile.features.soft_reset_compartments.value if subtracts else 1
    neuron_words = profile.limits.neuron_words
    return Usage(
        compartments=(stop - start) * each,
        neuron_groups=1,
        synapse_words=words,
        longest_list=longest,
        pool_words=words
        + axons
        + (stop - start) * (neuron_words.value if neuron_words else 0)
        + _ladder_words(p, thresholds),
        synapse_formats=len(drives),
        input_axons=axons,
        threshold_profiles=thresholds,
        compartment_profiles=1,
    )


def own_axes(neuron: NeuronModel, parameter: str) -> int:
    """Axes of a parameter in front of those that broadcast to the population's shape."""
    return 1 if parameter in getattr(neuron, "LEADING", ()) else 0


def neuron_values(values: Array, shape: Shape, own: int = 0) -> Array:
    """A parameter that broadcasts to `shape` behind `own` axes of its own, as (..., neurons)."""
    leading, behind = values.shape[:own], values.shape[own:]
    aligned = values.reshape(*leading, *(1,) * (len(shape) - len(behind)), *behind)
    return np.broadcast_to(aligned, (*leading, *shape)).reshape(*leading, math.prod(shape))


def _thresholds(p: Population, start: int, stop: int) -> int:
    """Different thresholds, or ladders of them with their rises, among neurons."""
    names = p.neuron.LEADING or ("threshold",)
    values = [getattr(p.neuron, name) for name in names if hasattr(p.neuron, name)]
    if not values:
        return 0
    own = own_axes(p.neuron, names[0])
    if all(math.prod(x.shape[own:]) == 1 for x in values):
        return 1
    return int(np.unique(_profiles(p, values, own, start, stop), axis=-1).shape[-1])


def _profiles(p: Population, values: list[Array], own: int, start: int, stop: int) -> Array:
    """(..., neurons), or one per channel where neurons of a channel are alike."""
    shapes = [(1,) * (len(p.shape) + own - x.ndim) + x.shape[own:] for x in values]
    if all(math.prod(shape[1:]) == 1 for shape in shapes):
        plane = p.size // p.shape[0]
        shape, first, last = p.shape[:1], start // plane, -(-stop // plane)
        values = [x.reshape(*x.shape[:own], -1) for x in values]
    else:
        shape, first, last = p.shape, start, stop
    here = [neuron_values(x, shape, own)[..., first:last] for x in values]
    return np.concatenate([x.reshape(-1, x.shape[-1]) for x in here])


def _ladder_words(p: Population, thresholds: int) -> int:
    """Words of memory that the rungs of the different ladders take.

    Assumed: a rung, a threshold of 24 bits and its rise, takes a word of a core's pool, once for
    all neurons of the core that share the ladder. No public figure says what a program's tables
    take.
    """
    return thresholds * max((len(getattr(p.neuron, name)) for name in p.neuron.LEADING), default=0)


def _row_words(c: Connection, length: int, profile: Profile) -> int:
    """Words of one row of `length` targets where rows are stored natively (Loihi 2)."""
    limits = profile.limits
    word, dense = limits.memory_word_bits, limits.dense_synapse_bits
    assert word and dense
    bits = length * dense.value
    if is_shared(c.map) and limits.conv_synapse_bits and limits.conv_row_overhead_bits:
        bits = length * limits.conv_synapse_bits.value + limits.conv_row_overhead_bits.value
    return -(-bits // word.value)


def _listed_words(c: Connection, length: int, profile: Profile) -> int:
    """Words of one list of `length` synapses on Loihi 1 (NxTF, nxsdk_modules_ncl/dnn).

    Dense lists keep the index of the first target of an entry, others one index per synapse.
    """
    limits = profile.limits
    assert limits.memory_word_bits and limits.weight_bits
    neurons = limits.neurons_per_core.value if limits.neurons_per_core else 2 ** INDEX_BITS[-1]
    index = next((n for n in INDEX_BITS if 2**n >= neurons), INDEX_BITS[-1])
    dense = isinstance(c.map, Dense)
    entries = -(-length // ENTRY_SYNAPSES)
    bits = entries * (ENTRY_PREFIX_BITS + (index if dense else 0))
    bits += length * (limits.weight_bits.value + c.delay.bit_length() + (0 if dense else index))
    words, rest = divmod(bits, limits.memory_word_bits.value)
    return words + (1 if rest == 0 else 2 if rest >= LATE_REMAINDER else 1)


Lists = Iterator[tuple[int, int]]


@final
@dataclass(frozen=True)
class _Form:
    """How a form of map is counted over a range of its outputs.

    mark: sets the inputs that reach it; count: synapses; lists: (targets, how many such lists),
    with a kernel stored natively or in lists.
    """

    mark: Callable[[Any, int, int, Mask], None]
    count: Callable[[Any, int, int], int]
    lists: Callable[[Any, int, int, bool], Lists]


def _mark_diagonal(m: Diagonal, start: int, stop: int, mask: Mask) -> None:
    mask[start:stop] = True


def _diagonal_lists(m: Diagonal, start: int, stop: int, native: bool) -> Lists:
    channel = m.in_size // m.in_shape[0]
    yield 1, -(-stop // channel) - start // channel if is_shared(m) else stop - start


def _mark_dense(m: Dense, start: int, stop: int, mask: Mask) -> None:
    mask[:] = start < stop


def _dense_lists(m: Dense, start: int, stop: int, native: bool) -> Lists:
    yield stop - start, m.in_size


def _mark_sparse(m: Sparse, start: int, stop: int, mask: Mask) -> None:
    mask[m.columns[m.starts[start] : m.starts[stop]]] = True


def _sparse_lists(m: Sparse, start: int, stop: int, native: bool) -> Lists:
    lengths = np.bincount(m.columns[m.starts[start] : m.starts[stop]])
    for length, count in zip(*np.unique(lengths, return_counts=True), strict=True):
        yield int(length), int(count)


def _mark_conv(m: Kernel, start: int, stop: int, mask: Mask) -> None:
    image = mask.reshape(m.in_shape)
    inputs, outputs = m.in_shape[0] // m.groups, m.out_shape[0] // m.groups
    for (first, last), *tile in boxes(m.out_shape, start, stop):
        channels = slice(first // outputs * inputs, -(-last // outputs) * inputs)
        rows, columns = (_Taps.of(m, axis, *tile[axis]).rows for axis in (0, 1))
        image[channels, rows[:, None], columns] = True


def _conv_count(m: Kernel, start: int, stop: int) -> int:
    depth = m.in_shape[0] // m.groups
    return sum(
        (last - first) * depth * math.prod(_Taps.of(m, axis, *tile[axis]).pairs for axis in (0, 1))
        for (first, last), *tile in boxes(m.out_shape, start, stop)
    )


def _conv_lists(m: Kernel, start: int, stop: int, native: bool) -> Lists:
    depth, outputs = m.in_shape[0] // m.groups, m.out_shape[0] // m.groups
    if native:
        plane = m.out_size // m.out_shape[0]
        for n in _per_group(start // plane, -(-stop // plane), outputs):
            yield n, depth * math.prod(m.kernel)
        return
    for (first, last), *tile in boxes(m.out_shape, start, stop):
        vertical, horizontal = (_Taps.of(m, axis, *tile[axis]).layouts() for axis in (0, 1))
        for n in _per_group(first, last, outputs):
            for (high, some), (wide, others) in _pairs(vertical, horizontal):
                yield high * wide * n, some * others * depth


def _pairs(a: Counter[int], b: Counter[int]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    return ((x, y) for x in a.items() for y in b.items())


def _per_group(first: int, last: int, size: int) -> list[int]:
    """How many of the channels first .. last belong to each group of `size` that they touch."""
    edges = range(first // size * size, last, size)
    return [min(last, edge + size) - max(first, edge) for edge in edges]


class _Taps(NamedTuple):
    """What outputs low .. high read along one axis: input indices, (outputs, taps)."""

    read: npt.NDArray[np.int64]
    inside: Mask

    @classmethod
    def of(cls, m: Kernel, axis: int, low: int, high: int) -> _Taps:
        taps = np.arange(m.kernel[axis]) * m.dilation[axis] - m.padding[axis]
        outputs, stride = np.arange(low, high)[:, None], m.stride[axis]
        if isinstance(m, Conv):
            read, met = outputs * stride + taps, np.True_
        else:  # input y stamps output y * stride + tap
            read, rest = np.divmod(outputs - taps, stride)
            met = rest == 0
        return cls(read, met & (read >= 0) & (read < m.in_shape[axis + 1]))

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        read: npt.NDArray[np.int64] = np.unique(self.read[self.inside])
        return read

    @property
    def pairs(self) -> int:
        return int(np.count_nonzero(self.inside))

    def layouts(self) -> Counter[int]:
        """Targets of an input -> how many inputs differ in where, relatively, these lie."""
        patterns: dict[int, list[tuple[int, int]]] = {}
        for output, tap in zip(*np.nonzero(self.inside), strict=True):
            patterns.setdefault(int(self.read[output, tap]), []).append((int(output), int(tap)))
        distinct = {
            tuple((output - pattern[0][0], tap) for output, tap in pattern)
            for pattern in patterns.values()
        }
        return Counter(len(pattern) for pattern in distinct)


_FORMS: Mapping[type[LinearMap], _Form] = MappingProxyType(
    {
        Diagonal: _Form(_mark_diagonal, lambda m, start, stop: stop - start, _diagonal_lists),
        Dense: _Form(
            _mark_dense, lambda m, start, stop: int((stop - start) * m.in_size), _dense_lists
        ),
        Conv: _Form(_mark_conv, _conv_count, _conv_lists),
        ConvTransposed: _Form(_mark_conv, _conv_count, _conv_lists),
        Sparse: _Form(
            _mark_sparse,
            lambda m, start, stop: int(m.starts[stop] - m.starts[start]),
            _sparse_lists,
        ),
    }
)
