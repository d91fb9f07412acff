"""What cannot be placed, in words: the layer, the resource, found, allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.mapping.regions import Boxes, count
from lapilli.compiler.mapping.resources import LIMITS, Usage, excess
from lapilli.compiler.netlist import Netlist, Population
from lapilli.hardware_profiles import Profile

ELSEWHERE = (
    *("weight_bits", "weight_exponent_max", "state_bits", "payload_bits"),  # Netlist.verify
    *("max_delay_steps", "cores_per_chip"),  # Netlist.verify, the mesh
    *("cores_per_tile", "mesh_width_tiles", "mesh_height_tiles"),  # the mesh
    *("memory_word_bits", "dense_synapse_bits", "conv_synapse_bits"),  # constants of formulas
    *("conv_row_overhead_bits", "neuron_words"),
)
"""Limits that are kept without a place in `resources.LIMITS`."""

_MANTISSAS = "how a state's integer is written as the chip's mantissa and exponent is not decided"
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


class Unchecked(NamedTuple):
    """A limit that the placement was not checked against."""

    limit: str
    reason: str


def unchecked(profile: Profile) -> tuple[Unchecked, ...]:
    """The limits that say nothing about a placement on this chip."""
    limits = profile.limits
    silent = [Unchecked(n, "the profile states none") for n in LIMITS if not getattr(limits, n)]
    unused = [Unchecked(n, why) for n, why in UNCHECKED.items() if getattr(limits, n)]
    return (*silent, *unused)


def too_large(
    p: Population, boxes: Boxes, taken: Usage, profile: Profile, needs: int | None = None
) -> NetlistError:
    """For neurons that no core holds; needs: the cores that would, were the layer cut."""
    found = excess(taken, profile)
    assert found is not None
    where = f"{p.name} ({type(p.neuron).__name__})"
    what = "one neuron" if count(boxes) == 1 else f"{count(boxes):,} neurons on one core"
    return exceeds(where, what, *found, profile, needs)


def exceeds(
    where: str,
    what: str,
    resource: str,
    found: int,
    allowed: int,
    profile: Profile,
    needs: int | None = None,
) -> NetlistError:
    """A limit is exceeded."""
    taken = LIMITS[resource].replace("longest_list", "words_in_one_list").replace("_", " ")
    remedy = _REMEDIES.get(resource, _ELSE)
    if needs is not None:
        remedy = f"Let it be cut: split over {needs} cores it fits; you forbade splitting."
    keeps = "keeps" if what in ("one neuron", "a core") else "keep"
    rule = f"{what} {keeps} the limit {resource} of {profile.name}"
    return refuse(where, rule, f"{found:,} {taken}", f"{allowed:,}", remedy)


def refuse(where: str, rule: str, found: object, allowed: object, remedy: str) -> NetlistError:
    """An error of placement."""
    return NetlistError(where, rule, found=found, allowed=allowed, remedy=remedy)


def too_many(netlist: Netlist, profile: Profile, cores: int, room: int) -> NetlistError:
    """For a network that needs more cores than the system has."""
    assert profile.system is not None
    largest = max(netlist.populations, key=lambda p: p.size)
    return refuse(
        f"the network on {profile.name}",
        "the system has as many cores as the network needs",
        f"{cores:,} cores",
        f"{room:,}, on {profile.system.chips.value:,} chips",
        f"Choose a larger system, or a smaller network; the largest population is {largest.name} "
        f"with {largest.size:,} neurons.",
    )


def whole_exists(netlist: Netlist, whole: Iterable[str]) -> frozenset[str]:
    """The names of populations that stay on one core. Raises InputError for an unknown one."""
    known = [p.name for p in netlist.populations]
    wanted = frozenset([whole] if isinstance(whole, str) else whole)
    for name in sorted(wanted - set(known)):
        close = difflib.get_close_matches(name, known, n=1)
        raise InputError(
            f"whole: {name!r}",
            "a population that stays on one core exists",
            found=name,
            allowed=", ".join(known[:12]),
            remedy=f"Did you mean {close[0]!r}?" if close else "Choose one of these.",
        )
    return wanted


def check_wishes(
    objective: str, objectives: Iterable[str], rates: Mapping[str, float], seed: int
) -> None:
    """Raise InputError for an objective that nobody knows, rates that are none, a negative seed."""
    allowed = ", ".join(objectives)
    if objective not in allowed.split(", "):
        raise InputError(
            "objective",
            "what is made small is known",
            found=objective,
            allowed=allowed,
            remedy="Choose one of them.",
        )
    for name, rate in rates.items():
        if not 0 <= rate <= 1:
            raise InputError(
                f"rates: {name!r}",
                "a neuron sends at most one spike in a step",
                found=rate,
                allowed="0..1 spikes per neuron and step",
                remedy="Divide spikes by neurons, steps and images.",
            )
    if seed < 0:
        raise InputError(
            "seed",
            "a seed is not negative",
            found=seed,
            allowed="0 or more",
            remedy="Choose another one.",
        )


def check_constants(objective: str, profile: Profile) -> None:
    """Raise InputError where a profile does not say what an objective needs."""
    needed = {"latency": ["time"], "energy": ["time", "energy"]}.get(objective, [])
    missing = [name for name in needed if getattr(profile, name) is None]
    if missing:
        raise InputError(
            f"objective {objective}",
            "the profile has the constants that it needs",
            found=f"{profile.name} without {' and '.join(missing)}",
            allowed="a profile with " + " and ".join(needed),
            remedy="Place for fewest cores, or choose another profile.",
        )


def check_rates(netlist: Netlist, rates: Mapping[str, float]) -> None:
    """Raise InputError for a rate of a population that is not placed."""
    known = [p.name for p in netlist.populations]
    for name in rates:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise InputError(
                f"rates: {name!r}",
                "a population with a rate exists",
                found=name,
                allowed=", ".join(known[:12]),
                remedy=f"Did you mean {close[0]!r}?" if close else "Choose one of these.",
            )
