"""Which core holds which neurons: a first placement that keeps every limit the profile states.

Layers stay symbolic: a placement is made of ranges of neurons, whatever their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.core_resources import LIMITS, Usage, excess, hull, on_host, sources_of, usage
from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.linear import Shape
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import Source
from lapilli.hardware_profiles import Profile

ELSEWHERE = (
    *("weight_bits", "weight_exponent_max", "state_bits", "payload_bits"),  # Netlist.verify
    *("max_delay_steps", "cores_per_chip"),  # Netlist.verify, place
    *("memory_word_bits", "dense_synapse_bits", "conv_synapse_bits"),  # constants of formulas
    *("conv_row_overhead_bits", "neuron_words"),
)
"""Limits that are kept without a place in `core_resources.LIMITS`."""

_MANTISSAS = "how a state's integer is written as the chip's mantissa and exponent is not decided"
_MESH = "cores are numbered, not placed on the mesh"
_AXON_WORDS = "how many words an axon takes there is not public"
UNCHECKED: Mapping[str, str] = MappingProxyType(
    {
        "weight_exponent_min": "exponents of a netlist are never negative",
        "synapse_accumulator_bits": "the width of the sum of one step's drive is not proved",
        "decay_bits": "whether a leaky neuron's decays fit the chip's field is not looked at",
        "bias_mantissa_bits": _MANTISSAS,
        "bias_exponent_bits": _MANTISSAS,
        "threshold_mantissa_bits": _MANTISSAS,
        "threshold_exponent": _MANTISSAS,
        "max_refractory_steps": "no neuron model has a refractory period",
        "cores_per_tile": _MESH,
        "mesh_width_tiles": _MESH,
        "mesh_height_tiles": _MESH,
        "x86_cores_per_chip": "nothing is given to these cores",
        "axon_map_words_per_core": _AXON_WORDS,
        "axon_memory_words_per_core": _AXON_WORDS,
        "destination_groups_per_core": "holds for interleaved groups, which are not used",
    }
)
"""Limits that no placement is checked against, and why."""

_REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        "synapse_words_per_core": "Use a convolution, fewer inputs, or a chip with more memory.",
        "synapse_words_per_axon": "Use a narrower layer.",
        "input_axons_per_core": "Give the layer fewer inputs, or pool before it.",
        "input_axon_words_per_core": "Give the layer fewer inputs, or pool before it.",
        "output_axons_per_core": "Use a narrower layer behind it, or fewer branches.",
    }
)
_ELSE = "Use a smaller layer or another chip."


@final
@dataclass(frozen=True)
class CoreSlice:
    """Neurons start .. stop of a population, by flat index in C order."""

    population: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of neurons."""
        return self.stop - self.start


@final
@dataclass(frozen=True)
class Core:
    """One core: its neurons, at most one range of each population, and what they take of it."""

    index: int
    chip: int
    slices: tuple[CoreSlice, ...]
    usage: Usage


class Unchecked(NamedTuple):
    """A limit that the placement was not checked against."""

    limit: str
    reason: str


@final
@dataclass(frozen=True)
class Placement:
    """Cores in order; the input is on none, for the host sends it. profile: the chip's name."""

    profile: str
    cores: tuple[Core, ...]
    unchecked: tuple[Unchecked, ...]

    @property
    def chips(self) -> int:
        """Number of chips."""
        return max((core.chip for core in self.cores), default=-1) + 1

    def of(self, population: str) -> tuple[tuple[Core, CoreSlice], ...]:
        """Where the neurons of a population are, in order."""
        return tuple((c, s) for c in self.cores for s in c.slices if s.population == population)

    def verify(self, netlist: Netlist, profile: Profile) -> None:
        """Raise NetlistError unless each neuron is on one core and no core exceeds a limit."""
        for p in netlist.populations:
            here = [s for _, s in self.of(p.name)]
            edges = [0, *(s.stop for s in here)]
            on_chip = 0 if isinstance(p.neuron, Source) else p.size
            if [s.start for s in here] != edges[:-1] or edges[-1] != on_chip:
                raise _refuse(
                    p.name,
                    "each neuron is on one core, in order, and the input on none",
                    ", ".join(f"{s.start}..{s.stop}" for s in here) or "no core",
                    f"0..{on_chip}",
                    "Place the network again.",
                )
        _verify_cores(self, netlist, profile)

    def pretty(self) -> str:
        """One line per core."""
        lines = [f"{len(self.cores)} cores on {self.chips} chips of {self.profile}"]
        for core in self.cores:
            held = ", ".join(f"{s.population} {s.start}..{s.stop}" for s in core.slices)
            lines.append(f"core {core.index} (chip {core.chip}): {held}")
        return "\n".join(lines)


def place(netlist: Netlist, profile: Profile) -> Placement:
    """A placement that keeps every limit the profile states; limits it has no number for are named.

    First fit, not optimised: from the outputs to the input, so that it is known to how many cores
    a neuron sends, each population takes what the core opened last has left, then new cores. It is
    cut between channels, and only a channel that no core holds is cut, between rows or neurons.
    Raises NetlistError for a layer that fits no core, InputError for a profile without cores.
    """
    if profile.kind != "neuromorphic":
        raise InputError(
            f"profile {profile.name}",
            "a network is placed on a chip with cores",
            found=profile.kind,
            allowed="a neuromorphic chip",
            remedy="Choose the profile of a chip.",
        )
    netlist.verify(profile)
    filled = _Filling(netlist, profile).fill()
    cores_per_chip = profile.limits.cores_per_chip
    cores = tuple(
        Core(index, index // cores_per_chip.value if cores_per_chip else 0, slices, Usage())
        for index, slices in enumerate(filled)
    )
    placement = Placement(profile.name, cores, _unchecked(profile))
    taken = usages(placement, netlist, profile)
    cores = tuple(replace(core, usage=taken[core.index]) for core in cores)
    placement = replace(placement, cores=cores)
    placement.verify(netlist, profile)
    return placement


def usages(placement: Placement, netlist: Netlist, profile: Profile) -> dict[int, Usage]:
    """What the neurons of each core take of it, output axons included, by the core's index."""
    destinations = _no_destinations(netlist)
    for core in placement.cores:
        for s in core.slices:
            _add_destinations(destinations, netlist, s, profile)
    return {
        core.index: sum(
            (
                usage(netlist, netlist[s.population], s.start, s.stop, profile)
                + Usage(output_axons=int(destinations[s.population][s.start : s.stop].sum()))
                for s in core.slices
            ),
            Usage(),
        )
        for core in placement.cores
    }


@final
class _Filling:
    """Cores being filled, from the last population to the first."""

    def __init__(self, netlist: Netlist, profile: Profile):
        self._netlist, self._profile = netlist, profile
        self._cores: list[list[CoreSlice]] = []
        self._used = Usage()
        self._destinations = _no_destinations(netlist)

    def fill(self) -> list[tuple[CoreSlice, ...]]:
        """The slices of each core, cores and slices in the order of the populations."""
        for p in reversed(self._netlist.populations):
            stop = 0 if isinstance(p.neuron, Source) else p.size
            while stop > 0:
                stop = self._add(p, stop)
        return [tuple(reversed(slices)) for slices in reversed(self._cores)]

    def _add(self, p: Population, stop: int) -> int:
        """Put neurons up to `stop` on the open core or a new one; the first of them."""
        start = self._fit(p, stop, self._used) if self._cores else None
        if start is None:
            self._cores.append([])
            self._used = Usage()
            start = self._fit(p, stop, self._used)
        if start is None:
            raise self._too_large(p, stop)
        self._used += self._take(p, start, stop)
        added = CoreSlice(p.name, start, stop)
        self._cores[-1].append(added)
        _add_destinations(self._destinations, self._netlist, added, self._profile)
        return start

    def _fit(self, p: Population, stop: int, used: Usage) -> int | None:
        """The smallest start such that start .. stop fit beside what is used, on good cuts."""
        whole = p.size
        for unit in _units(p.shape):
            if stop % unit == 0:
                first = (stop - 1) // whole * whole
                fits = self._fits(p, stop, unit, used)
                count = _largest((stop - first) // unit, fits)
                if count:
                    return stop - count * unit
                if used != Usage():
                    return None
            whole = unit
        return None

    def _fits(self, p: Population, stop: int, unit: int, used: Usage) -> Callable[[int], bool]:
        return lambda count: (
            excess(used + self._take(p, stop - count * unit, stop), self._profile) is None
        )

    def _take(self, p: Population, start: int, stop: int) -> Usage:
        sent = int(self._destinations[p.name][start:stop].sum())
        return usage(self._netlist, p, start, stop, self._profile) + Usage(output_axons=sent)

    def _too_large(self, p: Population, stop: int) -> NetlistError:
        found = excess(self._take(p, stop - 1, stop), self._profile)
        assert found is not None
        return _exceeds(f"{p.name} ({type(p.neuron).__name__})", "one neuron", *found)


def _units(shape: Shape) -> Iterator[int]:
    """Neurons of a channel, of a row, ..., of one: where a population may be cut."""
    for axis in range(1, len(shape) + 1):
        yield math.prod(shape[axis:])


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest count up to `most` that fits, given that a smaller one always does; 0 if none."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _no_destinations(netlist: Netlist) -> dict[str, npt.NDArray[np.int64]]:
    return {p.name: np.zeros(p.size, np.int64) for p in netlist.populations}


def _add_destinations(
    destinations: dict[str, npt.NDArray[np.int64]], netlist: Netlist, s: CoreSlice, profile: Profile
) -> None:
    """One more core for every neuron that sends to this slice."""
    for c in netlist.into(s.population):
        if not on_host(netlist, c, profile):
            low, high = hull(c.map, s.start, s.stop)
            destinations[c.source][low:high] += sources_of(c.map, s.start, s.stop)[low:high]


def _verify_cores(placement: Placement, netlist: Netlist, profile: Profile) -> None:
    for index, taken in usages(placement, netlist, profile).items():
        core = next(core for core in placement.cores if core.index == index)
        found = excess(taken, profile)
        if found is not None:
            names = ", ".join(s.population for s in core.slices)
            raise _exceeds(f"core {index} ({names})", "a core", *found)
        if core.usage != taken:
            raise _refuse(
                f"core {index}",
                "the recorded usage is the true one",
                core.usage,
                taken,
                "Place the network again.",
            )


def _unchecked(profile: Profile) -> tuple[Unchecked, ...]:
    limits = profile.limits
    silent = [Unchecked(n, "the profile states none") for n in LIMITS if not getattr(limits, n)]
    unused = [Unchecked(n, why) for n, why in UNCHECKED.items() if getattr(limits, n)]
    return (*silent, *unused)


def _exceeds(where: str, what: str, resource: str, found: int, allowed: int) -> NetlistError:
    taken = LIMITS[resource].replace("longest_list", "words_in_one_list").replace("_", " ")
    remedy = _REMEDIES.get(resource, _ELSE)
    rule = f"{what} keeps the limit {resource}"
    return _refuse(where, rule, f"{found} {taken}", allowed, remedy)


def _refuse(where: str, rule: str, found: object, allowed: object, remedy: str) -> NetlistError:
    return NetlistError(where, rule, found=found, allowed=allowed, remedy=remedy)
