"""What sets of neurons take of a core: compartments, synaptic memory, axons, tables.

Counts are structural: a stored zero weight takes room. Synaptic memory follows the profile: where
it states `dense_synapse_bits`, one row of memory per source and target core (Loihi 2, recovered
from public compile logs); else the published lists of Loihi 1. `synapse_memory` counts both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, final

import numpy as np

from lapilli.compiler.linear import Array, Shape
from lapilli.compiler.mapping.regions import Boxes, count, indices, ranges, reshaped
from lapilli.compiler.mapping.synapse_memory import input_axons, is_native, words
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import LIF, HardResetIF, NeuronModel, Source
from lapilli.hardware_profiles import Profile

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
        # Written out, for this is done for every core that is tried.
        return Usage(
            self.compartments + other.compartments,
            self.neuron_groups + other.neuron_groups,
            self.synapse_words + other.synapse_words,
            max(self.longest_list, other.longest_list),
            self.pool_words + other.pool_words,
            self.synapse_formats + other.synapse_formats,
            self.input_axons + other.input_axons,
            self.output_axons + other.output_axons,
            self.threshold_profiles + other.threshold_profiles,
            self.compartment_profiles + other.compartment_profiles,
        )


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


def on_host(netlist: Netlist, c: Connection, profile: Profile) -> bool:
    """Does the host compute this drive? On chips with binary spikes it does for an analog input."""
    neuron = netlist[c.source].neuron
    if not isinstance(neuron, Source) or profile.features.graded_spikes.value:
        return False
    low, high = neuron.payload()
    return low < 0 or high > 1


def usage(netlist: Netlist, p: Population, boxes: Boxes, profile: Profile) -> Usage:
    """What the neurons of a population in `boxes` take of one core, but for output axons.

    boxes: disjoint. In lists (Loihi 1) every box has axons of its own; native rows serve them all.
    """
    memory = longest = axons = 0
    drives = drives_of(netlist, p, profile)
    native = is_native(profile)
    for c in drives:
        here = reshaped(boxes, p.shape, c.map.out_shape)
        more, list_words = words(c, here, profile)
        memory, longest = memory + more, max(longest, list_words)
        axons += input_axons(c.map, here) if native else sum(input_axons(c.map, (b,)) for b in here)
    neurons = count(boxes)
    thresholds = _thresholds(p, boxes)
    neuron_words = profile.limits.neuron_words
    return Usage(
        compartments=neurons * compartments_each(p, profile),
        neuron_groups=1,
        synapse_words=memory,
        longest_list=longest,
        pool_words=memory
        + axons
        + neurons * (neuron_words.value if neuron_words else 0)
        + _ladder_words(p, thresholds),
        synapse_formats=len(drives),
        input_axons=axons,
        threshold_profiles=thresholds,
        compartment_profiles=1,
    )


def drives_of(netlist: Netlist, p: Population, profile: Profile) -> tuple[Connection, ...]:
    """The connections into a population whose synapses are on its cores."""
    return tuple(c for c in netlist.into(p.name) if not on_host(netlist, c, profile))


def compartments_each(p: Population, profile: Profile) -> int:
    """Compartments that one neuron takes."""
    subtracts = bool(_ladders(p)) and not isinstance(p.neuron, RESET_TO_ZERO)
    return profile.features.soft_reset_compartments.value if subtracts else 1


def own_axes(neuron: NeuronModel, parameter: str) -> int:
    """Axes of a parameter in front of those that broadcast to the population's shape."""
    return 1 if parameter in getattr(neuron, "LEADING", ()) else 0


def values_of(values: Array, shape: Shape, own: int = 0) -> Array:
    """A parameter that broadcasts to `shape` behind `own` axes of its own, as (..., *shape)."""
    leading, behind = values.shape[:own], values.shape[own:]
    aligned = values.reshape(*leading, *(1,) * (len(shape) - len(behind)), *behind)
    return np.broadcast_to(aligned, (*leading, *shape))


def neuron_values(values: Array, shape: Shape, own: int = 0) -> Array:
    """The same as (..., neurons)."""
    return values_of(values, shape, own).reshape(*values.shape[:own], math.prod(shape))


def _ladders(p: Population) -> list[Array]:
    names = p.neuron.LEADING or ("threshold",)
    return [getattr(p.neuron, name) for name in names if hasattr(p.neuron, name)]


def _thresholds(p: Population, boxes: Boxes) -> int:
    """Different thresholds, or ladders of them with their rises, among neurons."""
    shapes = [(1,) * (len(p.shape) - len(s)) + s for s in (x.shape[_own(p) :] for x in _ladders(p))]
    if not shapes or not boxes:
        return 0
    if all(math.prod(shape) == 1 for shape in shapes):
        return 1
    if all(math.prod(shape[1:]) == 1 for shape in shapes):  # neurons of a channel are alike
        return _different(p, tuple((edges,) for edges in ranges(box[0] for box in boxes)), True)
    return _different(p, boxes, False)


def _own(p: Population) -> int:
    return own_axes(p.neuron, (p.neuron.LEADING or ("threshold",))[0])


@functools.lru_cache(maxsize=4096)
def _different(p: Population, boxes: Boxes, channels: bool) -> int:
    """How many different ladders the neurons, or the channels, of the boxes have."""
    own = _own(p)
    shape = p.shape[:1] if channels else p.shape
    chosen = indices(shape, boxes)
    values = [x.reshape(*x.shape[:own], -1) if channels else x for x in _ladders(p)]
    here = [neuron_values(x, shape, own)[..., chosen] for x in values]
    ladders = np.concatenate([x.reshape(-1, x.shape[-1]) for x in here])
    return int(np.unique(ladders, axis=-1).shape[-1])


def _ladder_words(p: Population, thresholds: int) -> int:
    """Words of memory that the rungs of the different ladders take.

    Assumed: a rung, a threshold of 24 bits and its rise, takes a word of a core's pool, once for
    all neurons of the core that share the ladder. No public figure says what a program's tables
    take.
    """
    return thresholds * max((len(getattr(p.neuron, name)) for name in p.neuron.LEADING), default=0)
