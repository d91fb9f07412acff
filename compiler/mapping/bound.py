"""How many cores a network needs at least, and what each resource is worth.

A linear programme in which cores may be shared without waste: every population is covered by pieces
of n channels, each paying for its kernel once and for every neuron, and the sum over all pieces of
every resource stays within what the cores have. Pieces are as large as a core allows, which is when
a neuron costs least, and inputs of a kernel are free, so no placement needs fewer cores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import scipy.optimize as so
import scipy.sparse as sp

from lapilli.compiler.linear import Dense, DensePart, Diagonal, Sparse
from lapilli.compiler.mapping.cuts import Plane
from lapilli.compiler.mapping.placement import Bound
from lapilli.compiler.mapping.resources import compartments_each, drives_of
from lapilli.compiler.mapping.synapse_memory import Kernel, is_native, row_words
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import Source
from lapilli.hardware_profiles import Profile

POOLED = (
    "neurons_per_core",
    "neuron_groups_per_core",
    "synapse_words_per_core",
    "pool_words_per_core",
    "input_axons_per_core",
    "input_axon_words_per_core",
)
"""Limits that the bound knows."""


@final
@dataclass(frozen=True)
class Prices:
    """bound: cores needed at least; of_limit: what all a core has of it is worth, 1 together."""

    bound: Bound
    of_limit: Mapping[str, float]


@final
@dataclass(frozen=True)
class _Cost:
    """What a piece takes of each limit in `POOLED`: once, and for every neuron."""

    once: tuple[float, ...]
    each: tuple[float, ...]


def prices(netlist: Netlist, profile: Profile) -> Prices:
    """The least number of cores, by linear programming."""
    limits = {n: float(q.value) for n in POOLED if (q := getattr(profile.limits, n)) is not None}
    here = [p for p in netlist.populations if not isinstance(p.neuron, Source)]
    if not limits or not here:
        return Prices(Bound(1 if here else 0, "none"), {})
    room = np.array([limits.get(name, math.inf) for name in POOLED])
    costs: list[Any] = []
    sizes: list[int] = []
    layers: list[int] = []
    for layer, p in enumerate(here):
        for channels in _channels(netlist, p, profile):
            cost = _cost(netlist, p, channels, profile)
            # Rows of a sparse matrix differ: a piece of short ones is larger than one of all.
            certain = _cost(netlist, p, channels, profile, sparse=False)
            size = _most(certain, room, channels * (p.size // Plane.of(p.shape).channels))
            # A piece that is larger than a core is refused elsewhere; here it may not be free.
            sizes.append(max(size, 1))
            costs.append((np.array(cost.once) + np.array(cost.each) * sizes[-1]) / room)
            layers.append(layer)
    known = np.isfinite(room)
    use = np.array(costs)[:, known]
    count, cores = len(sizes), len(sizes)
    objective = np.zeros(count + 1)
    objective[cores] = 1
    cover = sp.csr_matrix((-np.array(sizes, float), (layers, range(count))), (len(here), count + 1))
    within = sp.csr_matrix(np.hstack([use.T, -np.ones((use.shape[1], 1))]))
    least = np.concatenate([[-float(p.size) for p in here], np.zeros(use.shape[1])])
    found = so.linprog(objective, A_ub=sp.vstack([cover, within]), b_ub=least, method="highs")
    worth = -found.ineqlin.marginals[len(here) :]
    names = [name for name, k in zip(POOLED, known, strict=True) if k]
    of_limit = dict(zip(names, worth.tolist(), strict=True))
    # Solver tolerance: a bound that is above the truth by rounding must not become a core more.
    cores_needed = max(1, math.ceil(found.fun * (1 - 1e-7) - 1e-6))
    return Prices(Bound(cores_needed, max(of_limit, key=lambda n: of_limit[n])), of_limit)


def _channels(netlist: Netlist, p: Population, profile: Profile) -> list[int]:
    """Numbers of channels that pieces may have: the most for each size of their rows of weights."""
    channels = Plane.of(p.shape).channels
    found = {channels}
    if not is_native(profile) or profile.limits.memory_word_bits is None:
        return [channels]
    for c in drives_of(netlist, p, profile):
        if isinstance(c.map, Kernel) and c.map.groups == 1 and c.map.out_shape[0] == channels:
            rows = [row_words(c, n, profile) for n in range(1, channels + 1)]
            found |= {n for n in range(1, channels) if rows[n] > rows[n - 1]}
    return sorted(found)


def _most(cost: _Cost, room: Any, size: int) -> int:
    """Neurons of the largest piece that a core holds."""
    with np.errstate(divide="ignore", invalid="ignore"):
        fit = (room - np.array(cost.once)) / np.array(cost.each)
    fit = fit[~np.isnan(fit)]
    return int(max(min(fit.min(initial=size), size), 0))


def _cost(
    netlist: Netlist, p: Population, channels: int, profile: Profile, sparse: bool = True
) -> _Cost:
    """sparse: count the synapses of sparse matrices, too."""
    memory = axons = fixed_axons = each_word = 0.0
    for c in drives_of(netlist, p, profile):
        if isinstance(c.map, Sparse) and not sparse:
            continue
        words, words_each, fixed, moving = _synapses(p, c, channels, profile)
        memory, each_word = memory + words, each_word + words_each
        fixed_axons, axons = fixed_axons + fixed, axons + moving
    neuron_words = profile.limits.neuron_words
    own = compartments_each(p, profile)
    pool = each_word + axons + (neuron_words.value if neuron_words else 0)
    fixed_costs = {
        "neuron_groups_per_core": 1.0,
        "synapse_words_per_core": memory,
        "pool_words_per_core": memory + fixed_axons,
        "input_axons_per_core": fixed_axons,
        "input_axon_words_per_core": fixed_axons,
    }
    neuron_costs = {
        "neurons_per_core": float(own),
        "synapse_words_per_core": each_word,
        "pool_words_per_core": pool,
        "input_axons_per_core": axons,
        "input_axon_words_per_core": axons,
    }
    return _Cost(
        tuple(fixed_costs.get(name, 0.0) for name in POOLED),
        tuple(neuron_costs.get(name, 0.0) for name in POOLED),
    )


def _synapses(
    p: Population, c: Connection, channels: int, profile: Profile
) -> tuple[float, float, float, float]:
    """Words once and for every neuron, axons once and for every neuron, at least."""
    limits = profile.limits
    known = limits.memory_word_bits is not None
    bits = limits.dense_synapse_bits or limits.weight_bits
    per_synapse = bits.value / limits.memory_word_bits.value if known and bits else 0.0  # type: ignore[union-attr]
    if isinstance(c.map, Dense | DensePart):
        inputs = int(c.map.weight.shape[1])
        return 0.0, inputs * per_synapse, float(inputs), 0.0
    if isinstance(c.map, Diagonal):
        return 0.0, 0.0, 0.0, 1.0
    if isinstance(c.map, Sparse):
        return 0.0, len(c.map.columns) / max(p.size, 1) * per_synapse, 0.0, 0.0
    m = c.map
    if not is_native(profile) or not isinstance(m, Kernel) or limits.memory_word_bits is None:
        return 0.0, 0.0, 0.0, 0.0
    rows = m.in_shape[0] // m.groups * math.prod(m.kernel)
    if m.groups == 1 and m.out_shape[0] == Plane.of(p.shape).channels:
        return float(rows * row_words(c, channels, profile)), 0.0, 0.0, 0.0
    per_channel = min(
        row_words(c, n, profile) / n for n in range(1, m.out_shape[0] // m.groups + 1)
    )
    return 0.0, rows * per_channel * m.out_shape[0] / p.size, 0.0, 0.0
