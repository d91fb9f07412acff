"""What one inference costs in energy and time: counted events times the constants of a profile.

Every figure is per inference and a band (low, mid, high) that follows from the confidence of the
constants behind it, see `uncertainty`; `Estimate` also lists these constants with their sources,
what was assumed, and what is not counted. docs/energy.md explains the model in words. No torch, no
rendering.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.hardware_profiles import Profile, ProfileError, load, names
from lapilli.runtime.device_table import by_device
from lapilli.runtime.estimates import ArithmeticCost as ArithmeticCost
from lapilli.runtime.estimates import Duration as Duration
from lapilli.runtime.estimates import Estimate as Estimate
from lapilli.runtime.estimates import LayerEnergy as LayerEnergy
from lapilli.runtime.estimates import Used as Used
from lapilli.runtime.metrics import PopulationEvents, check_events
from lapilli.runtime.uncertainty import DRAWS, WITHIN, Constants, Figure, band, uncertainty
from lapilli.runtime.uncertainty import Band as Band

_PJ_PER_MW_US = 1000.0
_US_PER_NS = 0.001

_NUMBERS = ("energy.", "time.", "system.board_static_")
_CHARGED = (
    "features.graded_spikes",
    "features.soft_reset_compartments",
    "limits.neurons_per_core",
    "limits.cores_per_chip",
    *_NUMBERS,
)
_NEEDS_PLACEMENT = ("energy.hop_", "time.hop_", "time.axon_in_")
_CHARGED_REFERENCE = ("arithmetic.fp32_", "arithmetic.int8_")
_LAYER_TERMS = ("synops_pj", "neuron_updates_pj", "spikes_pj", "input_pj")


@final
@dataclass(frozen=True)
class Layout:
    """On how many cores each population is, and on how many chips all are.

    Packets to more than one core, hops and the traffic of links belong here as well, once a
    placement says which core holds what.
    """

    cores: Mapping[str, int]
    chips: int

    @property
    def all_cores(self) -> int:
        """Cores in use."""
        return sum(self.cores.values())


@final
@dataclass(frozen=True)
class _Chip:
    """What an estimate needs of a profile, all present."""

    constants: Constants
    neurons_per_core: int
    cores_per_chip: int
    compartments: int
    takes_analog_input: bool

    def spread(self, events: Mapping[str, PopulationEvents]) -> Layout:
        """Each population on the fewest cores that hold its neurons: what is, unplaced, assumed."""
        cores = {
            name: -(-e.neurons * self.compartments // self.neurons_per_core)
            for name, e in events.items()
        }
        return Layout(cores, -(-sum(cores.values()) // self.cores_per_chip))


def estimate(
    events: Mapping[str, PopulationEvents],
    profile: Profile,
    *,
    latency_steps: int,
    interval_steps: int,
    ann_macs: Mapping[str, int],
    graded: bool,
    reference_profile: Profile | None = None,
    without: Collection[str] = (),
) -> Estimate:
    """Energy and latency of one inference from counted events.

    events: per population, in order; latency_steps: steps from the first to the result;
    interval_steps: steps between two images when streaming; ann_macs: dense multiply-accumulates
    of each layer of the original network; graded: whether spikes between populations carry a
    payload, so that a synaptic event multiplies; reference_profile: the processor to compare
    with, "cmos45" if None; without: constants of the profile to leave out, such as
    "energy.chip_static_mw". Raises InputError for events and steps that cannot belong together and
    for constants that are not there, ProfileError where a profile lacks a table that is needed.
    """
    images = check_events(events)
    chip = _chip(profile, without)
    reference = reference_profile if reference_profile is not None else load("cmos45")
    processor = _processor(reference)
    _check_run(events, latency_steps, interval_steps, ann_macs)
    if graded and not chip.takes_analog_input:
        raise InputError(
            profile.name,
            "spikes carry a payload only where the chip has graded spikes",
            found="graded spikes",
            allowed="binary spikes",
            remedy="Compile with unary sending, or estimate for a chip with graded spikes.",
        )
    layout = chip.spread(events)
    layers = {name: _layer(e, chip, processor) for name, e in events.items()}
    total = {
        term: _sum(layer[term] for layer in layers.values()) for term in next(iter(layers.values()))
    }
    step_time_us, bottleneck = _step_time(events, chip, layout)

    def duration(steps: int) -> dict[str, Figure]:
        return _duration(events, chip, layout, steps, step_time_us, total["dynamic_pj"])

    single, streaming = duration(latency_steps), duration(interval_steps)
    ann = tuple(_cost(name, n, 0, processor) for name, n in ann_macs.items())
    snn = tuple(
        _cost(
            name,
            (e.input_macs + (e.synops if graded else 0)) / images,
            0 if graded else e.synops / images,
            processor,
        )
        for name, e in events.items()
    )
    figures = {
        "total.dynamic_pj": total["dynamic_pj"],
        "step_time_us": step_time_us,
        "single.total_pj": single["total_pj"],
        "streaming.total_pj": streaming["total_pj"],
    }
    return Estimate(
        profile=profile.name,
        title=profile.title,
        calibrated=profile.calibrated,
        reference=reference.name,
        images=images,
        cores=layout.all_cores,
        chips=layout.chips,
        layers=tuple(LayerEnergy(name, **_bands(layer)) for name, layer in layers.items()),
        total=LayerEnergy("total", **_bands(total)),
        step_time_us=band(step_time_us),
        bottleneck=bottleneck,
        single=_as_duration(latency_steps, single),
        streaming=_as_duration(interval_steps, streaming),
        ann=ann,
        ann_total=_cost("total", sum(ann_macs.values()), 0, processor),
        reference_snn=snn,
        reference_snn_total=_cost(
            "total", sum(c.macs for c in snn), sum(c.accumulates for c in snn), processor
        ),
        devices=by_device(events, ann_macs),
        uncertainty=uncertainty(figures, chip.constants.used(_NUMBERS)),
        sources=_used(chip.constants, _CHARGED) + _used(processor, _CHARGED_REFERENCE),
        assumptions=_assumptions(profile, chip, graded),
        not_counted=_not_counted(profile, chip, reference, without),
    )


def _chip(profile: Profile, without: Collection[str]) -> _Chip:
    limits = profile.limits
    needed = {
        "energy": profile.energy,
        "time": profile.time,
        "limits.neurons_per_core": limits.neurons_per_core,
        "limits.cores_per_chip": limits.cores_per_chip,
    }
    missing = [key for key, value in needed.items() if value is None]
    if limits.neurons_per_core is None or limits.cores_per_chip is None or missing:
        able = [n for n in names() if load(n).energy is not None]
        raise ProfileError(
            f"profile {profile.name}",
            "an estimate needs energy, time and core size of the chip",
            found=f"no {', '.join(missing)}",
            allowed=" or ".join(able),
            remedy="Estimate for one of these, or give a profile file with these values.",
        )
    known = [key for key, _ in profile.quantities() if key.startswith(_NUMBERS)]
    for key in without:
        if key not in known:
            raise InputError(
                "without",
                f"only what the profile {profile.name} knows can be left out",
                found=key,
                allowed=", ".join(known),
                remedy="Name one of these.",
            )
    return _Chip(
        constants=Constants(profile, frozenset(without)),
        neurons_per_core=limits.neurons_per_core.value,
        cores_per_chip=limits.cores_per_chip.value,
        compartments=profile.features.soft_reset_compartments.value,
        takes_analog_input=profile.features.graded_spikes.value,
    )


def _processor(reference: Profile) -> Constants:
    if reference.arithmetic is None:
        raise ProfileError(
            f"reference profile {reference.name}",
            "the reference is a processor with energy per operation",
            found="no arithmetic",
            allowed=" or ".join(n for n in names() if load(n).arithmetic is not None),
            remedy="Compare with one of these, or give a profile file with these values.",
        )
    return Constants(reference)


def _check_run(
    events: Mapping[str, PopulationEvents],
    latency_steps: int,
    interval_steps: int,
    ann_macs: Mapping[str, int],
) -> None:
    longest = max(e.steps for e in events.values())
    lengths = {"latency_steps": latency_steps, "interval_steps": interval_steps}
    for name, steps in lengths.items():
        if steps < longest:
            raise InputError(
                name,
                "an inference lasts at least as long as each population works on it",
                found=steps,
                allowed=f">= {longest}",
                remedy="Take the steps from the schedule of the same network.",
            )
    for name, macs in ann_macs.items():
        if macs < 0:
            raise InputError(
                f"ann_macs[{name!r}]",
                "operations are counted from zero",
                found=macs,
                allowed=">= 0",
                remedy="Compile the network again.",
            )


def _sum(figures: Iterable[Figure]) -> Figure:
    return sum(figures, np.zeros(1 + DRAWS))


def _bands(figures: Mapping[str, Figure]) -> dict[str, Band]:
    return {name: band(figure) for name, figure in figures.items()}


def _layer(e: PopulationEvents, chip: _Chip, processor: Constants) -> dict[str, Figure]:
    """The terms of `LayerEnergy`, per inference."""
    of = chip.constants
    accesses = e.neurons * e.steps * chip.compartments
    updates = e.neuron_updates / e.images * chip.compartments
    input_macs = e.input_macs / e.images
    on_chip, on_host = (input_macs, 0.0) if chip.takes_analog_input else (0.0, input_macs)
    terms = (
        of("energy.synop_pj") * (e.synops / e.images),
        of("energy.neuron_access_pj") * accesses + of("energy.neuron_update_pj") * updates,
        (of("energy.spike_pj") + of("energy.axon_out_pj")) * (e.spikes / e.images),
        of("energy.synop_pj") * on_chip,
    )
    return {
        **dict(zip(_LAYER_TERMS, terms, strict=True)),
        "dynamic_pj": _sum(terms),
        "host_pj": processor("arithmetic.int8_mac_pj") * on_host,
    }


def _core_time_us(e: PopulationEvents, chip: _Chip, cores: int) -> Figure:
    """Work of one of the population's cores in a mean step of its window."""
    of, runs = chip.constants, e.images * e.steps
    arriving = e.synops + (e.input_macs if chip.takes_analog_input else 0)
    work_ns = (
        of("time.synop_ns") * (arriving / runs)
        + of("time.neuron_access_ns") * (e.neurons * chip.compartments)
        + of("time.neuron_update_ns") * (e.neuron_updates * chip.compartments / runs)
        + (of("time.spike_ns") + of("time.axon_out_ns")) * (e.spikes / runs)
    )
    return np.asarray(work_ns * (_US_PER_NS / cores))


def _step_time(
    events: Mapping[str, PopulationEvents], chip: _Chip, layout: Layout
) -> tuple[Figure, str | None]:
    """The longer of the step floor and the busiest core with the barrier after it."""
    floor = chip.constants("time.step_floor_us")
    barrier = chip.constants("time.barrier_ns") * _US_PER_NS
    times = {n: _core_time_us(e, chip, layout.cores[n]) + barrier for n, e in events.items()}
    busiest = max(times, key=lambda name: float(times[name][0]))
    longest = np.maximum.reduce([floor, *times.values()])
    return longest, busiest if times[busiest][0] > floor[0] else None


def _duration(
    events: Mapping[str, PopulationEvents],
    chip: _Chip,
    layout: Layout,
    steps: int,
    step_time_us: Figure,
    dynamic_pj: Figure,
) -> dict[str, Figure]:
    """The terms of `Duration`."""
    of = chip.constants
    time_us = step_time_us * float(steps)
    idle = sum(e.neurons * chip.compartments * (steps - e.steps) for e in events.values())
    pj_per_mw = time_us * _PJ_PER_MW_US
    chips = {
        "chip_static_pj": of("energy.chip_static_mw") * pj_per_mw * float(layout.chips),
        "chip_running_pj": of("energy.chip_running_mw") * pj_per_mw * float(layout.chips),
    }
    cores = {
        "busy_cores_pj": of("energy.busy_core_mw") * pj_per_mw * float(layout.all_cores),
        "idle_access_pj": of("energy.neuron_access_pj") * float(idle),
    }
    working = _sum(cores.values()) + dynamic_pj
    found = {"time_us": time_us, **chips, **cores, "dynamic_pj": working}
    found["total_pj"] = _sum(chips.values()) + working
    found["energy_delay_pj_us"] = found["total_pj"] * time_us
    if of.knows("system.board_static_mw"):
        found["board_total_pj"] = of("system.board_static_mw") * pj_per_mw + working
    return found


def _as_duration(steps: int, figures: Mapping[str, Figure]) -> Duration:
    on_chips = {name: figure for name, figure in figures.items() if name != "board_total_pj"}
    board = figures.get("board_total_pj")
    return Duration(
        steps, **_bands(on_chips), board_total_pj=None if board is None else band(board)
    )


def _cost(name: str, macs: float, accumulates: float, processor: Constants) -> ArithmeticCost:
    def energy_pj(width: str) -> Band:
        return band(
            processor(f"arithmetic.{width}_mac_pj") * macs
            + processor(f"arithmetic.{width}_ac_pj") * accumulates
        )

    return ArithmeticCost(name, macs, accumulates, energy_pj("fp32"), energy_pj("int8"))


def _used(constants: Constants, prefixes: tuple[str, ...]) -> tuple[Used, ...]:
    return tuple(
        Used(key, q.value, q.unit, q.confidence, q.source)
        for key, q in constants.used(prefixes).items()
        if not key.partition(".")[2].startswith(_NEEDS_PLACEMENT)
    )


def _assumptions(profile: Profile, chip: _Chip, graded: bool) -> tuple[str, ...]:
    lines = [
        "Each population is spread evenly over the fewest cores that hold its neurons; "
        f"a core holds {chip.neurons_per_core} compartments and serves one population.",
        f"Each neuron takes {chip.compartments} compartment(s), each charged as a neuron.",
        "Every step takes as long as the busiest core in a mean step of its window.",
        "Each spike is one packet to one core.",
        f"Constants err independently of each other; a band holds {100 * WITHIN:g} % of the draws.",
    ]
    if not profile.calibrated:
        lines.insert(0, f"The constants of {profile.title} are not calibrated against silicon.")
    if graded:
        lines.append("A synaptic event with a payload costs the chip as much as a binary one.")
    if not chip.takes_analog_input:
        lines.append("The host computes the analog input, as int8 operations (see host_pj).")
    return tuple(lines)


def _not_counted(
    profile: Profile, chip: _Chip, reference: Profile, without: Collection[str]
) -> tuple[str, ...]:
    board = "" if chip.constants.knows("system.board_static_mw") else ", the board"
    lines = [
        "hops between cores, packets to further cores, receiving packets: they need a placement",
        "synapse and axon memory, which may need more cores than the neurons do",
        f"host, x86 cores, input and output, links between chips{board}",
        "steps with more work than the mean step",
        f"memory access, control and time on {reference.title}",
    ]
    if without:
        lines.insert(0, f"left out as asked for: {', '.join(sorted(without))}")
    optional = {
        "neuron access": "energy.neuron_access_pj",
        "spike generation": "energy.spike_pj",
        "sending packets": "energy.axon_out_pj",
        "power of x86 cores and mesh while running": "energy.chip_running_mw",
        "power of cores in use": "energy.busy_core_mw",
    }
    known = {key for key, _ in profile.quantities()}
    unknown = [term for term, key in optional.items() if key not in known]
    if unknown:
        lines.append(f"not known separately for {profile.title}: {', '.join(unknown)}")
    return tuple(lines)
