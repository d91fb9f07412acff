"""What one inference costs in energy and time: counted events times the constants of a profile.

Every figure is per inference and a band (low, mid, high) that follows from the confidence of the
constants behind it, see `uncertainty`; `Estimate` also lists these constants with their sources,
what was assumed, and what is not counted. docs/energy.md explains the model in words. No torch, no
rendering.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.hardware_profiles import Profile, ProfileError, load, names
from lapilli.runtime.device_table import by_device
from lapilli.runtime.estimate_notes import assumptions, not_counted
from lapilli.runtime.estimates import ArithmeticCost as ArithmeticCost
from lapilli.runtime.estimates import Duration as Duration
from lapilli.runtime.estimates import Estimate as Estimate
from lapilli.runtime.estimates import LayerEnergy as LayerEnergy
from lapilli.runtime.estimates import Placed as Placed
from lapilli.runtime.estimates import Used as Used
from lapilli.runtime.layout import WORK, Journeys, Layout, OnCores, Reals, spread
from lapilli.runtime.metrics import PopulationEvents, check_events
from lapilli.runtime.uncertainty import DRAWS, Constants, Figure, band, uncertainty
from lapilli.runtime.uncertainty import Band as Band

_PJ_PER_MW_US = 1000.0
_US_PER_NS = 0.001

_NUMBERS = ("energy.", "time.", "system.board_static_", "system.chip_hop_pj")
_CHARGED = ("features.graded_spikes", "features.soft_reset_compartments", *_NUMBERS)
_SPREAD = ("limits.neurons_per_core", "limits.cores_per_chip")
_NEEDS_MESH = ("energy.hop_", "time.hop_", "system.chip_hop_")
_NEEDS_PLACEMENT = ("time.axon_in_", *_NEEDS_MESH)
_CHARGED_REFERENCE = ("arithmetic.fp32_", "arithmetic.int8_")
_LAYER_TERMS = ("synops_pj", "neuron_updates_pj", "spikes_pj", "input_pj", "hops_pj")
_CORES_AT_ONCE = 256


@final
@dataclass(frozen=True)
class _Chip:
    """What an estimate needs of a profile, all present."""

    constants: Constants
    neurons_per_core: int
    cores_per_chip: int
    compartments: int
    takes_analog_input: bool


class _Step(NamedTuple):
    """A mean step: how long, because of whose cores, and its parts where it was placed."""

    time_us: Figure
    bottleneck: str | None
    placement: Placed | None = None


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
    layout: Layout | None = None,
) -> Estimate:
    """Energy and latency of one inference from counted events.

    events: per population, in order; latency_steps: steps from the first to the result;
    interval_steps: steps between two images when streaming; ann_macs: dense multiply-accumulates
    of each layer of the original network; graded: whether spikes between populations carry a
    payload, so that a synaptic event multiplies; reference_profile: the processor to compare
    with, "cmos45" if None; without: constants of the profile to leave out, such as
    "energy.chip_static_mw"; layout: of a placement (`placed_layout.layout`), made with the same
    events; None spreads each population over the fewest cores. Raises InputError for events, steps
    and layouts that cannot belong together and for constants that are not there, ProfileError where
    a profile lacks a table that is needed.
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
    if layout is None:
        layout = spread(events, chip.compartments, chip.neurons_per_core, chip.cores_per_chip)
    _check_layout(events, layout)
    layers = {name: _layer(name, e, chip, layout, processor) for name, e in events.items()}
    total = {
        term: _sum(layer[term] for layer in layers.values()) for term in next(iter(layers.values()))
    }
    if layout.placed is None:
        step = _step_time(events, chip, layout)
    else:
        step = _placed_step_time(layout.placed, chip)
    single, streaming = (
        _duration(events, chip, layout, steps, step.time_us, total["dynamic_pj"])
        for steps in (latency_steps, interval_steps)
    )
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
        "step_time_us": step.time_us,
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
        step_time_us=band(step.time_us),
        bottleneck=step.bottleneck,
        placement=step.placement,
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
        sources=_used(chip.constants, *_charged(layout)) + _used(processor, _CHARGED_REFERENCE),
        assumptions=assumptions(profile, layout, chip.neurons_per_core, graded),
        not_counted=not_counted(profile, layout, reference, without),
        draws={
            **figures,
            **{f"single.{key}": single[key] for key in ("time_us", "energy_delay_pj_us")},
            "streaming.time_us": streaming["time_us"],
        },
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


def _check_layout(events: Mapping[str, PopulationEvents], layout: Layout) -> None:
    if layout.cores.keys() != events.keys():
        raise InputError(
            "layout",
            "the layout is that of the populations that were counted",
            found=", ".join(layout.cores),
            allowed=", ".join(events),
            remedy="Make the layout with these very events.",
        )


def _sum(figures: Iterable[Figure]) -> Figure:
    return sum(figures, np.zeros(1 + DRAWS))


def _bands(figures: Mapping[str, Figure]) -> dict[str, Band]:
    return {name: band(figure) for name, figure in figures.items()}


def _layer(
    name: str, e: PopulationEvents, chip: _Chip, layout: Layout, processor: Constants
) -> dict[str, Figure]:
    """The terms of `LayerEnergy`, per inference."""
    of, compartments = chip.constants, layout.compartments[name]
    accesses = e.neurons * e.steps * compartments
    updates = e.neuron_updates / e.images * compartments
    input_macs = e.input_macs / e.images
    on_chip, on_host = (input_macs, 0.0) if chip.takes_analog_input else (0.0, input_macs)
    spikes = e.spikes / e.images
    packets = layout.packets(name, spikes)
    terms = (
        of("energy.synop_pj") * (e.synops / e.images),
        of("energy.neuron_access_pj") * accesses + of("energy.neuron_update_pj") * updates,
        of("energy.spike_pj") * spikes + of("energy.axon_out_pj") * packets,
        of("energy.synop_pj") * on_chip,
        _hops_pj(layout.ways(name), of),
    )
    return {
        **dict(zip(_LAYER_TERMS, terms, strict=True)),
        "dynamic_pj": _sum(terms),
        "host_pj": processor("arithmetic.int8_mac_pj") * on_host,
    }


def _hops_pj(ways: Journeys, of: Constants) -> Figure:
    return np.asarray(
        of("energy.hop_east_west_pj") * ways.east_west
        + of("energy.hop_north_south_pj") * ways.north_south
        + of("system.chip_hop_pj") * ways.chip_crossings
    )


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


def _step_time(events: Mapping[str, PopulationEvents], chip: _Chip, layout: Layout) -> _Step:
    """The longer of the step floor and the busiest core with the barrier after it."""
    floor = chip.constants("time.step_floor_us")
    barrier = chip.constants("time.barrier_ns") * _US_PER_NS
    times = {n: _core_time_us(e, chip, layout.cores[n]) + barrier for n, e in events.items()}
    busiest = max(times, key=lambda name: float(times[name][0]))
    longest = np.maximum.reduce([floor, *times.values()])
    return _Step(longest, busiest if times[busiest][0] > floor[0] else None)


def _placed_step_time(placed: OnCores, chip: _Chip) -> _Step:
    """As `compiler.mapping.step_time`, in bands: the floor, or a core or link and the barrier."""
    of = chip.constants
    floor, barrier = of("time.step_floor_us"), of("time.barrier_ns") * _US_PER_NS
    per_core = np.zeros((int(placed.core.max()) + 1, len(WORK)))
    np.add.at(per_core, placed.core, placed.work)
    costs = np.stack([of(key) for key in WORK]) * _US_PER_NS
    busiest = int((per_core @ costs[:, 0]).argmax())
    core_us = _longest(np.unique(per_core, axis=0), costs)
    hop = np.maximum(of("time.hop_east_west_ns"), of("time.hop_north_south_ns")) * _US_PER_NS
    timed = of.knows("time.hop_east_west_ns") or of.knows("time.hop_north_south_ns")
    mesh_us = None if placed.worst_link is None or not timed else hop * placed.worst_link
    terms = {"cores": core_us + barrier, "floor": floor}
    if mesh_us is not None:
        terms = {"cores": core_us + barrier, "mesh": mesh_us + barrier, "floor": floor}
    decided = max(terms, key=lambda name: float(terms[name][0]))
    here = np.flatnonzero(placed.core == busiest)
    most = here[int((placed.work[here] @ costs[:, 0]).argmax())]
    sent, arriving = placed.sent_in_all, placed.from_host_in_all
    ways = None if placed.worst_link is None else sent + arriving
    return _Step(
        np.maximum.reduce(list(terms.values())),
        placed.population[most] if decided == "cores" else None,
        Placed(
            objective=placed.objective,
            relays=placed.relays,
            packets=sent.packets + arriving.packets,
            host_packets=arriving.packets,
            east_west=None if ways is None else ways.east_west,
            north_south=None if ways is None else ways.north_south,
            chip_crossings=None if ways is None else ways.chip_crossings,
            decided_by=decided,
            busiest_core=busiest,
            core_us=band(core_us),
            mesh_us=None if mesh_us is None else band(mesh_us),
            barrier_us=band(barrier),
            floor_us=band(floor),
        ),
    )


def _longest(work: Reals, costs: Figure) -> Figure:
    """In every draw the core that takes longest; work: (cores, kinds), costs: (kinds, draws)."""
    longest = np.zeros(costs.shape[1])
    for start in range(0, len(work), _CORES_AT_ONCE):
        times = work[start : start + _CORES_AT_ONCE] @ costs
        np.maximum(longest, times.max(axis=0), out=longest)
    return longest


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
    idle = sum(
        e.neurons * layout.compartments[name] * (steps - e.steps) for name, e in events.items()
    )
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


def _charged(layout: Layout) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How the keys of constants that enter begin, and which of these are to be left out."""
    if layout.placed is None:
        return (*_CHARGED, *_SPREAD), _NEEDS_PLACEMENT
    return _CHARGED, _NEEDS_MESH if layout.placed.worst_link is None else ()


def _used(
    constants: Constants, prefixes: tuple[str, ...], but: tuple[str, ...] = ()
) -> tuple[Used, ...]:
    return tuple(
        Used(key, q.value, q.unit, q.confidence, q.source)
        for key, q in constants.used(prefixes).items()
        if not (but and key.partition(".")[2].startswith(but))
    )
