"""A second opinion on a placement: every neuron and every synapse of it, one by one.

Nothing is shared with the mapper: maps are unfolded into synapses from their plain data, and what a
core holds is counted from those by the published rules. For small networks only.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from unfolded_synapses import Synapses, unfold

from lapilli.compiler.linear import (
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    Shape,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import LIF, HardResetIF, Source
from lapilli.hardware_profiles import Profile

Neurons = frozenset[int]
Piece = tuple[str, Any]
"""A population's name and one box of its neurons, (low, high) per axis."""

Runs = tuple[int, ...]
"""Lengths of the runs of neighbouring targets in a list or a row."""
RESOURCES: Mapping[str, str] = {
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
"""Limit of a core -> what is counted against it."""


def violations(netlist: Netlist, placement: Any, profile: Profile) -> list[str]:
    """What is wrong with a placement, in words; empty where it keeps every rule."""
    return [
        *_misplaced(netlist, placement),
        *_seats(placement, profile),
        *_overfull(netlist, placement, profile),
    ]


def usages(netlist: Netlist, placement: Any, profile: Profile) -> list[dict[str, int]]:
    """What each core takes, counted from single synapses."""
    synapses = {id(c): unfold(c.map) for c in _on_chip(netlist, profile)}
    packets = _packets(netlist, placement, synapses, profile)
    found = []
    for core in placement.cores:
        taken = Counter(dict.fromkeys(RESOURCES.values(), 0))
        longest = 0
        for name, pieces in _populations(netlist, core).items():
            neurons = _Layer(netlist, netlist[name], pieces, synapses, profile).usage()
            longest = max(longest, neurons.pop("longest_list"))
            sent = sum(packets[name][n] for piece in pieces for n in piece)
            taken.update(neurons | {"output_axons": sent})
        found.append(dict(taken) | {"longest_list": longest})
    return found


# Where neurons and cores are.


def _members(shape: Shape, box: Any) -> list[int]:
    """Flat indices, C order, of the neurons of a box."""
    numbers = np.arange(math.prod(shape)).reshape(shape)
    inside = numbers[tuple(slice(low, high) for low, high in box)]
    return [int(n) for n in inside.reshape(-1)]


def _populations(netlist: Netlist, core: Any) -> dict[str, list[list[int]]]:
    """The neurons of each population on a core, box by box."""
    found: dict[str, list[list[int]]] = defaultdict(list)
    for s in core.slices:
        found[s.population].append(_members(netlist[s.population].shape, s.box))
    return found


def _misplaced(netlist: Netlist, placement: Any) -> Iterator[str]:
    """Neurons on no core or on several; boxes that are none; an input on a core."""
    held: dict[str, Counter[int]] = defaultdict(Counter)
    for core in placement.cores:
        if not core.slices:
            yield f"core {core.index} is empty"
        for s in core.slices:
            shape = netlist[s.population].shape
            flaw = _box_flaw(s.box, shape)
            if flaw:
                yield f"core {core.index}: {s.population} {s.box} {flaw}"
            held[s.population].update(_members(shape, s.box))
    for p in netlist.populations:
        wanted = set() if isinstance(p.neuron, Source) else set(range(p.size))
        times = held[p.name]
        for what, wrong in (
            ("on no core", wanted - set(times)),
            ("on a core, though the host sends it", set(times) - wanted),
            ("on several cores", {n for n, k in times.items() if k > 1}),
        ):
            if wrong:
                yield f"{p.name}: {len(wrong)} neurons {what}, such as {min(wrong)}"


def _box_flaw(box: Any, shape: Shape) -> str:
    if len(box) != len(shape):
        return f"has not the {len(shape)} axes of the population"
    inside = all(0 <= low < high <= n for (low, high), n in zip(box, shape, strict=True))
    return "" if inside else f"is not a box within {shape}"


def _seats(placement: Any, profile: Profile) -> Iterator[str]:
    """Cores that are numbered twice, or sit where none is, or where another one sits."""
    limits, system = profile.limits, profile.system
    cores = placement.cores
    if [core.index for core in cores] != list(range(len(cores))):
        yield "cores are not numbered in order"
    if placement.bound.cores > len(cores):
        yield f"{len(cores)} cores, fewer than the bound of {placement.bound.cores}"
    per_chip = Counter(core.chip for core in cores)
    chips = system.chips.value if system else None
    for chip, count in sorted(per_chip.items()):
        if chip < 0 or (chips is not None and chip >= chips):
            yield f"chip {chip} is none of {chips}"
        if limits.cores_per_chip and count > limits.cores_per_chip.value:
            yield f"chip {chip}: {count} cores, allowed {limits.cores_per_chip.value}"
    sizes = limits.mesh_width_tiles, limits.mesh_height_tiles
    tiled = all(sizes) and limits.cores_per_tile is not None
    if not tiled:
        yield from (f"core {c.index}: a tile on no mesh" for c in cores if c.tile is not None)
        return
    yield from _tiles(placement, profile)


def _tiles(placement: Any, profile: Profile) -> Iterator[str]:
    """Tiles are counted over the grid of all chips: each chip has a rectangle of its own."""
    limits, system = profile.limits, profile.system
    width, height, room = (
        q.value if q else 0
        for q in (limits.mesh_width_tiles, limits.mesh_height_tiles, limits.cores_per_tile)
    )
    wide = system.chips_wide.value if system and system.chips_wide else None
    high = system.chips_high.value if system and system.chips_high else None
    corners: dict[int, tuple[int, int]] = {}
    for core in placement.cores:
        if core.tile is None:
            yield f"core {core.index} is on no tile"
            continue
        x, y = core.tile
        column, row = x // width, y // height
        beyond = (wide is not None and column >= wide) or (high is not None and row >= high)
        if min(x, y) < 0 or beyond:
            yield f"core {core.index}: tile {core.tile} is beyond the chips"
        if wide is not None and core.chip != row * wide + column:
            yield f"core {core.index}: tile {core.tile} is not on chip {core.chip} of the system"
        if corners.setdefault(core.chip, (column, row)) != (column, row):
            yield f"core {core.index}: tile {core.tile} is not on chip {core.chip}"
    if len(set(corners.values())) < len(corners):
        yield "two chips in one place"
    for tile, count in sorted(Counter(c.tile for c in placement.cores if c.tile).items()):
        if count > room:
            yield f"tile {tile}: {count} cores, allowed {room}"


def _overfull(netlist: Netlist, placement: Any, profile: Profile) -> Iterator[str]:
    """Limits exceeded, and usage that is recorded wrongly."""
    for core, taken in zip(placement.cores, usages(netlist, placement, profile), strict=True):
        for limit, resource in RESOURCES.items():
            allowed = getattr(profile.limits, limit)
            if allowed is not None and taken[resource] > allowed.value:
                yield f"core {core.index}: {limit} {allowed.value}, found {taken[resource]}"
        for resource in sorted(set(RESOURCES.values())):
            recorded = getattr(core.usage, resource)
            if recorded != taken[resource]:
                yield (
                    f"core {core.index}: {resource} recorded as {recorded}, found {taken[resource]}"
                )


# What a core holds of its populations.


def _on_chip(netlist: Netlist, profile: Profile) -> list[Connection]:
    """All connections but those of an analog input on a chip without graded spikes.

    The host computes these and writes them as currents.
    """
    low, high = netlist.input.neuron.payload()
    analog = low < 0 or high > 1
    if analog and not profile.features.graded_spikes.value:
        return [c for c in netlist.connections if c.source != netlist.input.name]
    return list(netlist.connections)


def _packets(
    netlist: Netlist, placement: Any, synapses: Mapping[int, Synapses], profile: Profile
) -> dict[str, Counter[int]]:
    """Population -> neuron -> packets of one spike.

    One for each connection and core with a synapse; where synapses are kept in lists, for each box
    of the map's outputs.
    """
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for core in placement.cores:
        for name, pieces in _populations(netlist, core).items():
            for c in netlist.into(name):
                if id(c) not in synapses:
                    continue
                p = netlist[name]
                seen = [part for piece in pieces for part in _seen_as(piece, p, c)]
                for here in _memories(seen, profile):
                    found[c.source].update(set(synapses[id(c)].into(here).sources.tolist()))
    return found


def _memories(pieces: list[list[int]], profile: Profile) -> list[list[int]]:
    """Boxes that share synaptic memory: all where rows are native, each its own in lists."""
    if profile.limits.dense_synapse_bits is None:
        return pieces
    return [[n for piece in pieces for n in piece]]


@dataclass(frozen=True)
class _Layer:
    """The neurons of one population on one core, box by box."""

    netlist: Netlist
    population: Population
    pieces: list[list[int]]
    synapses: Mapping[int, Synapses]
    profile: Profile

    def usage(self) -> dict[str, int]:
        """Counts by resource, output axons aside."""
        limits = self.profile.limits
        here = [n for piece in self.pieces for n in piece]
        drives = [c for c in self.netlist.into(self.population.name) if id(c) in self.synapses]
        words = longest = axons = 0
        for c in drives:
            more, most, arriving = self._drive(c)
            words, longest, axons = words + more, max(longest, most), axons + arriving
        profiles = self._thresholds(here)
        rungs = max((len(getattr(self.population.neuron, n)) for n in self._leading()), default=0)
        each = limits.neuron_words.value if limits.neuron_words else 0
        return {
            "compartments": len(here) * self._compartments(),
            "neuron_groups": 1,
            "synapse_words": words,
            "longest_list": longest,
            "pool_words": words + axons + each * len(here) + rungs * profiles,
            "synapse_formats": len(drives),
            "input_axons": axons,
            "threshold_profiles": profiles,
            "compartment_profiles": 1,
        }

    def _leading(self) -> tuple[str, ...]:
        return tuple(self.population.neuron.LEADING)

    def _compartments(self) -> int:
        """Of one neuron: a reset by subtraction takes a second one on Loihi 1 (NxTF)."""
        neuron = self.population.neuron
        has_threshold = any(hasattr(neuron, n) for n in self._leading() or ("threshold",))
        if not has_threshold or isinstance(neuron, (HardResetIF, LIF)):
            return 1
        return int(self.profile.features.soft_reset_compartments.value)

    def _thresholds(self, neurons: list[int]) -> int:
        """Different thresholds, or ladders with all their rungs and rises."""
        neuron, shape = self.population.neuron, self.population.shape
        found = set()
        tables = []
        for name in self._leading() or ("threshold",):
            if hasattr(neuron, name):
                value = np.asarray(getattr(neuron, name))
                rungs = value if self._leading() else value[None]
                tables += [np.broadcast_to(rung, shape).reshape(-1) for rung in rungs]
        if tables:
            found = {tuple(int(table[n]) for table in tables) for n in neurons}
        return len(found)

    def _drive(self, c: Connection) -> tuple[int, int, int]:
        """Words of synaptic memory in all and of the longest list, and axons that arrive."""
        limits = self.profile.limits
        native = limits.dense_synapse_bits is not None
        parts = [part for piece in self.pieces for part in _seen_as(piece, self.population, c)]
        pieces = _memories(parts, self.profile)
        axons = sum(len(_axons(c.map, self.synapses[id(c)].into(piece))) for piece in pieces)
        if limits.memory_word_bits is None or not (native or limits.weight_bits):
            return 0, 0, axons
        rows = _rows if native else _lists
        cost = _row_words if native else _list_words
        words = [
            cost(c, runs, self.profile)
            for piece in pieces
            for runs in rows(c.map, self.synapses[id(c)].into(piece), piece)
        ]
        return sum(words), max(words, default=0), axons


def _seen_as(piece: list[int], p: Population, c: Connection) -> Iterator[list[int]]:
    """A box of the population as boxes of the map's output, which may have another shape.

    Neurons that follow each other are cut where rows, planes, channels of the output begin.
    """
    if [n for n in p.shape if n > 1] == [n for n in c.map.out_shape if n > 1]:
        yield piece
        return
    start = 0
    for stop in range(1, len(piece) + 1):
        if stop == len(piece) or piece[stop] != piece[stop - 1] + 1:
            yield from _cut(piece[start], piece[stop - 1] + 1, c.map.out_shape)
            start = stop


def _cut(low: int, high: int, shape: Shape) -> Iterator[list[int]]:
    inner = math.prod(shape[1:])
    first, last = -(-low // inner), high // inner
    if inner == 1 or (first * inner == low and last * inner == high):
        yield list(range(low, high))
    elif first > last:  # within one index of the first axis
        base = last * inner
        yield from ([base + n for n in part] for part in _cut(low - base, high - base, shape[1:]))
    else:
        for a, b in ((low, first * inner), (first * inner, last * inner), (last * inner, high)):
            if a < b:
                base = a // inner * inner
                whole = a == first * inner and b == last * inner
                parts = [list(range(a - base, b - base))] if whole else None
                for part in parts or _cut(a - base, b - base, shape[1:]):
                    yield [base + n for n in part]


def _axons(m: LinearMap, synapses: Synapses) -> set[int]:
    """Source neurons; for kernels source pixels, whose channels share an axon."""
    sources = {int(n) for n in synapses.sources}
    if isinstance(m, (Conv, ConvTransposed)):
        return {n % math.prod(m.in_shape[1:]) for n in sources}
    return sources


def _shared(m: LinearMap) -> bool:
    """Is a weight stored once for all positions of a channel?"""
    if isinstance(m, Diagonal):
        return m.weight.size <= m.in_shape[0]
    return isinstance(m, (Conv, ConvTransposed))


# Loihi 2: rows of weights, from the public compile logs of lava-dl.


def _rows(m: LinearMap, synapses: Synapses, piece: list[int]) -> Iterator[Runs]:
    """Targets of each row: one row per source, or per input channel and tap of a kernel."""
    channels = {n // math.prod(m.out_shape[1:]) for n in piece}
    if isinstance(m, (Conv, ConvTransposed)):
        ins, outs = m.in_shape[0] // m.groups, m.out_shape[0] // m.groups
        kernels = Counter(channel // outs for channel in channels)
        for held in kernels.values():
            yield from [(held,)] * (ins * math.prod(m.weight.shape[2:]))
    elif _shared(m):
        yield from [(1,)] * len(channels)
    else:
        yield from ((n,) for n in Counter(synapses.sources.tolist()).values())


def _row_words(c: Connection, runs: Runs, profile: Profile) -> int:
    limits, length = profile.limits, sum(runs)
    assert limits.memory_word_bits and limits.dense_synapse_bits
    bits = limits.dense_synapse_bits.value * length
    if _shared(c.map) and limits.conv_synapse_bits and limits.conv_row_overhead_bits:
        bits = limits.conv_synapse_bits.value * length + limits.conv_row_overhead_bits.value
    return math.ceil(bits / limits.memory_word_bits.value)


# Loihi 1: lists of synapses, as NxTF and nengo-loihi lay them out.


def _lists(m: LinearMap, synapses: Synapses, piece: list[int]) -> Iterator[Runs]:
    """Runs of neighbouring targets of each list: one list per source, but kernels share them.

    Sources of a channel share a list if the same taps lead to targets that lie alike. Neurons are
    numbered channels last: a run is what a source reaches at one place of the plane.
    """
    plane = math.prod(m.out_shape[1:])
    if isinstance(m, Diagonal) and _shared(m):
        yield from [(1,)] * len({n // plane for n in piece})
        return
    by_source: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for target, source, tap in zip(
        synapses.targets.tolist(), synapses.sources.tolist(), synapses.taps.tolist(), strict=True
    ):
        by_source[source].append((target, tap))
    if not _shared(m):
        dense = isinstance(m, (Dense, DensePart))
        for targets in by_source.values():
            yield (len(targets),) if dense else (1,) * len(targets)
        return
    width, pixels = m.out_shape[2], math.prod(m.in_shape[1:])
    layouts = set()
    for source, targets in sorted(by_source.items()):
        places = [(n // plane, n % plane // width, n % width, tap) for n, tap in sorted(targets)]
        _, top, left, _ = places[0]
        layouts.add((source // pixels, tuple((o, y - top, x - left, t) for o, y, x, t in places)))
    for _, alike in layouts:
        yield tuple(Counter((y, x) for _, y, x, _ in alike).values())


def _list_words(c: Connection, runs: Runs, profile: Profile) -> int:
    """Entries of up to 60 synapses, with an index for each synapse or, of one run, for the first.

    The shorter of both; a list that ends late in a word, or with it, takes one more.
    """
    limits = profile.limits
    assert limits.memory_word_bits and limits.weight_bits
    neurons = limits.neurons_per_core.value if limits.neurons_per_core else 4096
    index = min(max(6, math.ceil(math.log2(max(neurons, 1)))), 12)
    prefix = 4 + 6  # format and number of synapses
    synapse = limits.weight_bits.value + len(f"{c.delay:b}" if c.delay else "")
    by_target = sum(prefix + n * (synapse + index) for n in _entries(sum(runs)))
    by_run = sum(prefix + index + n * synapse for run in runs for n in _entries(run))
    bits, word = min(by_target, by_run), limits.memory_word_bits.value
    late = bits % word == 0 or bits % word >= 59
    return math.ceil(bits / word) + (1 if late else 0)


def _entries(synapses: int) -> Iterator[int]:
    return (min(60, synapses - first) for first in range(0, synapses, 60))
