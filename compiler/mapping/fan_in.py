"""Layers with more inputs than a core takes: into how many parts their inputs are split.

A core that holds one neuron needs an axon and a word of synapses, at least, for every input. Where
that is too much, relays read parts of the inputs and send partial sums (`relays`).
"""

from __future__ import annotations

import bisect
import math

import numpy as np

from lapilli.compiler.linear import Dense, DensePart, Sparse
from lapilli.compiler.mapping.pooling_relays import pool_with_relays
from lapilli.compiler.mapping.regions import Box
from lapilli.compiler.mapping.relays import split_fan_in
from lapilli.compiler.mapping.resources import LIMITS, drives_of, excess, usage
from lapilli.compiler.mapping.synapse_memory import is_native, row_words
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import Source
from lapilli.hardware_profiles import Profile

_INPUTS = frozenset(
    name
    for name, field in LIMITS.items()
    if field in ("input_axons", "synapse_words", "pool_words")
)
"""Limits that fewer inputs help to keep."""
_SPLIT = Dense | DensePart | Sparse
_GOOD = 1.03
"""Times the fewest words are few enough, if fewer relays need so many."""
_MOST = 32
"""Times the fewest parts that fit; more parts may leave less memory unused."""


def as_placed(netlist: Netlist, profile: Profile) -> Netlist:
    """The netlist that is placed on a chip: the given one, with relays where it needs some."""
    return with_relays(pool_with_relays(netlist, profile), profile)


def with_relays(netlist: Netlist, profile: Profile) -> Netlist:
    """The netlist with relays where a single neuron has too many inputs for a core.

    The same netlist where none is needed or the chip has no relays: then partitioning refuses.
    """
    if not profile.features.relay_populations.value:
        return netlist
    parts: dict[int | tuple[str, str], int] = {}
    for p in netlist.populations:
        if isinstance(p.neuron, Source):
            continue
        found = excess(usage(netlist, p, (_hungriest(netlist, p, profile),), profile), profile)
        if found is None or found.resource not in _INPUTS:
            continue
        for c in drives_of(netlist, p, profile):
            if isinstance(c.map, _SPLIT) and not c.recurrent:
                number = _parts(netlist, p, c, profile)
                if number > 1:
                    parts[netlist.connections.index(c)] = number
    return split_fan_in(netlist, parts, profile) if parts else netlist


def _hungriest(netlist: Netlist, p: Population, profile: Profile) -> Box:
    """The neuron with the most inputs, as far as neurons of a population differ in that."""
    drives = drives_of(netlist, p, profile)
    rows = [np.diff(c.map.starts) for c in drives if isinstance(c.map, Sparse)]
    place = int(np.sum(rows, axis=0).argmax()) if rows else 0
    return tuple((int(i), int(i) + 1) for i in np.unravel_index(place, p.shape))


def _parts(netlist: Netlist, p: Population, c: Connection, profile: Profile) -> int:
    """The number of parts that takes few words in all, relays and what reads them included.

    Of those that fit, with at most `_MOST` times as many relays as are needed at least.
    """
    inputs = int(c.map.weight.shape[1]) if isinstance(c.map, Dense | DensePart) else c.map.in_size
    found = {
        number: _words(p, c, -(-inputs // number), profile) * number + 2 * number * p.size
        for number in range(1, min(inputs, 4096) + 1)
    }
    fewest = next((number for number, words in found.items() if words < math.inf), 1)
    some = {n: words for n, words in found.items() if n <= fewest * _MOST}
    enough = min(some.values()) * _GOOD
    return min(n for n, words in some.items() if words <= enough)


def _words(p: Population, c: Connection, inputs: int, profile: Profile) -> float:
    """Words of all cores that hold the population, each reading so many inputs; inf: none does."""
    limits = profile.limits
    axons = (limits.input_axons_per_core, limits.input_axon_words_per_core)
    if any(inputs > q.value for q in axons if q):
        return math.inf
    room = min(
        limits.synapse_words_per_core.value if limits.synapse_words_per_core else 2**60,
        (limits.pool_words_per_core.value if limits.pool_words_per_core else 2**60) - inputs - 1,
    )
    if not is_native(profile) or limits.memory_word_bits is None:
        return float(inputs + p.size)
    # Rows are filled as far as their last word goes.
    words = min(room // inputs, row_words(c, p.size, profile))
    if words < row_words(c, 1, profile):
        return math.inf
    sizes = range(1, p.size + 1)
    targets = sizes[bisect.bisect_right(sizes, words, key=lambda n: row_words(c, n, profile)) - 1]
    return float(-(-p.size // targets) * inputs * (words + 1) + p.size)
