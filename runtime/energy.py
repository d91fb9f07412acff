"""What one inference costs in energy and time: counted events times the constants of a profile.

Every figure is per inference and a band (low, mid, high) that follows from the confidence of the
constants behind it; `Estimate` also lists these constants with their sources, what was assumed,
and what is not counted. docs/energy.md explains the model in words. No torch, no rendering.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import reduce
from typing import Any, final

from lapilli.compiler.errors import InputError
from lapilli.hardware_profiles import (
    CONFIDENCES,
    Arithmetic,
    Energy,
    Profile,
    ProfileError,
    Quantity,
    Time,
    load,
    names,
)
from lapilli.runtime.metrics import PopulationEvents, check_events

_PJ_PER_MW_US = 1000.0
_US_PER_NS = 0.001

_CHARGED = (
    "features.graded_spikes",
    "features.soft_reset_compartments",
    "limits.neurons_per_core",
    "limits.cores_per_chip",
    "energy.",
    "time.",
)
_NEEDS_PLACEMENT = ("energy.hop_", "time.hop_", "time.axon_in_")
_CHARGED_REFERENCE = ("arithmetic.fp32_", "arithmetic.int8_")


@final
@dataclass(frozen=True)
class Band:
    """A figure between its bounds; sums and products move all constants the same way at once."""

    low: float
    mid: float
    high: float

    def __add__(self, other: Band) -> Band:
        return Band(self.low + other.low, self.mid + other.mid, self.high + other.high)

    def __mul__(self, by: float | Band) -> Band:
        b = by if isinstance(by, Band) else Band(by, by, by)
        return Band(self.low * b.low, self.mid * b.mid, self.high * b.high)


_ZERO = Band(0.0, 0.0, 0.0)


@final
@dataclass(frozen=True)
class LayerEnergy:
    """Dynamic energy of one population per inference, in pJ.

    neuron_updates_pj includes the access to every neuron in the steps of its own window;
    spikes_pj one packet per spike; input_pj the analog input where the chip takes it.
    dynamic_pj is the sum of these. host_pj is spent outside the chip and is in no sum.
    """

    name: str
    synops_pj: Band
    neuron_updates_pj: Band
    spikes_pj: Band
    input_pj: Band
    dynamic_pj: Band
    host_pj: Band


@final
@dataclass(frozen=True)
class Duration:
    """One inference of `steps` steps: its time, and the energy in pJ that time itself costs.

    idle_access_pj: access to mapped neurons in steps outside their own window.
    total_pj: all of these and the dynamic energy of all layers, without the host.
    """

    steps: int
    time_us: Band
    chip_static_pj: Band
    chip_running_pj: Band
    busy_cores_pj: Band
    idle_access_pj: Band
    total_pj: Band


@final
@dataclass(frozen=True)
class ArithmeticCost:
    """The same work on the reference processor, operations per inference, energy in pJ."""

    name: str
    macs: float
    accumulates: float
    fp32_pj: Band
    int8_pj: Band


@final
@dataclass(frozen=True)
class Used:
    """One constant that entered the estimate."""

    key: str
    value: float | str
    unit: str
    confidence: str
    source: str


@final
@dataclass(frozen=True)
class Estimate:
    """Energy and latency of one inference.

    Wherever a figure of an estimate with `calibrated` False is printed, it is marked so.
    single: one image alone, from first step to last; streaming: images back to back.
    bottleneck: the population whose cores set step_time_us, None where the step floor does.
    ann: the original network on the reference processor; reference_snn: the spiking one there.
    """

    profile: str
    title: str
    calibrated: bool
    reference: str
    images: int
    cores: int
    chips: int
    layers: tuple[LayerEnergy, ...]
    total: LayerEnergy
    step_time_us: Band
    bottleneck: str | None
    single: Duration
    streaming: Duration
    ann: tuple[ArithmeticCost, ...]
    ann_total: ArithmeticCost
    reference_snn: tuple[ArithmeticCost, ...]
    reference_snn_total: ArithmeticCost
    sources: tuple[Used, ...]
    assumptions: tuple[str, ...]
    not_counted: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers with the field names as keys, for JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}


@final
@dataclass(frozen=True)
class _Chip:
    """The parts of a profile that an estimate needs, all present."""

    energy: Energy
    time: Time
    neurons_per_core: int
    cores_per_chip: int
    compartments: int
    takes_analog_input: bool

    def cores(self, e: PopulationEvents) -> int:
        return -(-e.neurons * self.compartments // self.neurons_per_core)

    def chips(self, cores: int) -> int:
        return -(-cores // self.cores_per_chip)


def estimate(
    events: Mapping[str, PopulationEvents],
    profile: Profile,
    *,
    latency_steps: int,
    interval_steps: int,
    ann_macs: Mapping[str, int],
    graded: bool,
    reference_profile: Profile | None = None,
) -> Estimate:
    """Energy and latency of one inference from counted events.

    events: per population, in order; latency_steps: steps from the first to the result;
    interval_steps: steps between two images when streaming; ann_macs: dense multiply-accumulates
    of each layer of the original network; graded: whether spikes between populations carry a
    payload, so that a synaptic event multiplies; reference_profile: the processor to compare
    with, "cmos45" if None. Raises InputError for events and steps that cannot belong together,
    ProfileError where a profile lacks a table that is needed.
    """
    images = check_events(events)
    chip = _chip(profile)
    reference = reference_profile if reference_profile is not None else load("cmos45")
    arithmetic = _arithmetic(reference)
    _check_run(events, latency_steps, interval_steps, ann_macs)
    if graded and not chip.takes_analog_input:
        raise InputError(
            profile.name,
            "spikes carry a payload only where the chip has graded spikes",
            found="graded spikes",
            allowed="binary spikes",
            remedy="Compile with unary sending, or estimate for a chip with graded spikes.",
        )
    layers = tuple(_layer(name, e, chip, arithmetic) for name, e in events.items())
    total = _total_layer(layers)
    cores = sum(chip.cores(e) for e in events.values())
    step_time_us, bottleneck = _step_time(events, chip)

    def duration(steps: int) -> Duration:
        return _duration(
            events,
            chip,
            steps=steps,
            step_time_us=step_time_us,
            cores=cores,
            dynamic_pj=total.dynamic_pj,
        )

    ann = tuple(_cost(name, n, 0, arithmetic) for name, n in ann_macs.items())
    snn = tuple(
        _cost(
            name,
            (e.input_macs + (e.synops if graded else 0)) / images,
            0 if graded else e.synops / images,
            arithmetic,
        )
        for name, e in events.items()
    )
    return Estimate(
        profile=profile.name,
        title=profile.title,
        calibrated=profile.calibrated,
        reference=reference.name,
        images=images,
        cores=cores,
        chips=chip.chips(cores),
        layers=layers,
        total=total,
        step_time_us=step_time_us,
        bottleneck=bottleneck,
        single=duration(latency_steps),
        streaming=duration(interval_steps),
        ann=ann,
        ann_total=_total_cost(ann),
        reference_snn=snn,
        reference_snn_total=_total_cost(snn),
        sources=_used(profile, _CHARGED) + _used(reference, _CHARGED_REFERENCE),
        assumptions=_assumptions(profile, chip, graded),
        not_counted=_not_counted(profile, chip, reference),
    )


def _chip(profile: Profile) -> _Chip:
    energy, time, limits = profile.energy, profile.time, profile.limits
    needed = {
        "energy": energy,
        "time": time,
        "limits.neurons_per_core": limits.neurons_per_core,
        "limits.cores_per_chip": limits.cores_per_chip,
    }
    missing = [key for key, value in needed.items() if value is None]
    if energy and time and limits.neurons_per_core and limits.cores_per_chip:
        return _Chip(
            energy=energy,
            time=time,
            neurons_per_core=limits.neurons_per_core.value,
            cores_per_chip=limits.cores_per_chip.value,
            compartments=profile.features.soft_reset_compartments.value,
            takes_analog_input=profile.features.graded_spikes.value,
        )
    able = [n for n in names() if load(n).energy is not None]
    raise ProfileError(
        f"profile {profile.name}",
        "an estimate needs energy, time and core size of the chip",
        found=f"no {', '.join(missing)}",
        allowed=" or ".join(able),
        remedy="Estimate for one of these, or give a profile file with these values.",
    )


def _arithmetic(reference: Profile) -> Arithmetic:
    if reference.arithmetic is None:
        raise ProfileError(
            f"reference profile {reference.name}",
            "the reference is a processor with energy per operation",
            found="no arithmetic",
            allowed=" or ".join(n for n in names() if load(n).arithmetic is not None),
            remedy="Compare with one of these, or give a profile file with these values.",
        )
    return reference.arithmetic


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


def _band(quantity: Quantity[float] | None) -> Band:
    """The value between its bounds; zero for what a profile does not know, see not_counted."""
    if quantity is None:
        return _ZERO
    factor = CONFIDENCES[quantity.confidence].factor
    return Band(quantity.value / factor, quantity.value, quantity.value * factor)


def _sum(bands: Iterable[Band]) -> Band:
    return reduce(Band.__add__, bands, _ZERO)


def _layer(name: str, e: PopulationEvents, chip: _Chip, arithmetic: Arithmetic) -> LayerEnergy:
    energy = chip.energy
    accesses = e.neurons * e.steps * chip.compartments
    updates = e.neuron_updates / e.images * chip.compartments
    input_macs = e.input_macs / e.images
    terms = (
        _band(energy.synop_pj) * (e.synops / e.images),
        _band(energy.neuron_access_pj) * accesses + _band(energy.neuron_update_pj) * updates,
        (_band(energy.spike_pj) + _band(energy.axon_out_pj)) * (e.spikes / e.images),
        _band(energy.synop_pj) * (input_macs if chip.takes_analog_input else 0.0),
    )
    host = _band(arithmetic.int8_mac_pj) * (0.0 if chip.takes_analog_input else input_macs)
    return LayerEnergy(name, *terms, dynamic_pj=_sum(terms), host_pj=host)


def _total_layer(layers: tuple[LayerEnergy, ...]) -> LayerEnergy:
    terms = [f.name for f in fields(LayerEnergy) if f.name != "name"]
    sums = {term: _sum(getattr(layer, term) for layer in layers) for term in terms}
    return LayerEnergy(name="total", **sums)


def _core_time_us(e: PopulationEvents, chip: _Chip) -> Band:
    """Work of one of the population's cores in a mean step of its window."""
    t, runs = chip.time, e.images * e.steps
    arriving = e.synops + (e.input_macs if chip.takes_analog_input else 0)
    work_ns = (
        _band(t.synop_ns) * (arriving / runs)
        + _band(t.neuron_access_ns) * (e.neurons * chip.compartments)
        + _band(t.neuron_update_ns) * (e.neuron_updates * chip.compartments / runs)
        + (_band(t.spike_ns) + _band(t.axon_out_ns)) * (e.spikes / runs)
    )
    return work_ns * (_US_PER_NS / chip.cores(e))


def _step_time(events: Mapping[str, PopulationEvents], chip: _Chip) -> tuple[Band, str | None]:
    """The longer of the step floor and the busiest core with the barrier after it."""
    floor = _band(chip.time.step_floor_us)
    barrier = _band(chip.time.barrier_ns) * _US_PER_NS
    times = {name: _core_time_us(e, chip) + barrier for name, e in events.items()}
    busiest = max(times, key=lambda name: times[name].mid)

    def longest(part: Callable[[Band], float]) -> float:
        return max(part(floor), *(part(t) for t in times.values()))

    band = Band(longest(lambda b: b.low), longest(lambda b: b.mid), longest(lambda b: b.high))
    return band, busiest if times[busiest].mid > floor.mid else None


def _duration(
    events: Mapping[str, PopulationEvents],
    chip: _Chip,
    *,
    steps: int,
    step_time_us: Band,
    cores: int,
    dynamic_pj: Band,
) -> Duration:
    chips = chip.chips(cores)
    time_us = step_time_us * steps
    idle = sum(e.neurons * chip.compartments * (steps - e.steps) for e in events.values())

    def over_time(power_mw: Quantity[float] | None, devices: int) -> Band:
        return _band(power_mw) * time_us * (devices * _PJ_PER_MW_US)

    terms = (
        over_time(chip.energy.chip_static_mw, chips),
        over_time(chip.energy.chip_running_mw, chips),
        over_time(chip.energy.busy_core_mw, cores),
        _band(chip.energy.neuron_access_pj) * idle,
    )
    return Duration(steps, time_us, *terms, total_pj=_sum(terms) + dynamic_pj)


def _cost(name: str, macs: float, accumulates: float, a: Arithmetic) -> ArithmeticCost:
    return ArithmeticCost(
        name=name,
        macs=macs,
        accumulates=accumulates,
        fp32_pj=_band(a.fp32_mac_pj) * macs + _band(a.fp32_ac_pj) * accumulates,
        int8_pj=_band(a.int8_mac_pj) * macs + _band(a.int8_ac_pj) * accumulates,
    )


def _total_cost(costs: tuple[ArithmeticCost, ...]) -> ArithmeticCost:
    return ArithmeticCost(
        name="total",
        macs=sum(c.macs for c in costs),
        accumulates=sum(c.accumulates for c in costs),
        fp32_pj=_sum(c.fp32_pj for c in costs),
        int8_pj=_sum(c.int8_pj for c in costs),
    )


def _used(profile: Profile, prefixes: tuple[str, ...]) -> tuple[Used, ...]:
    return tuple(
        Used(f"{profile.name}.{key}", q.value, q.unit, q.confidence, q.source)
        for key, q in profile.quantities()
        if key.startswith(prefixes) and not key.startswith(_NEEDS_PLACEMENT)
    )


def _assumptions(profile: Profile, chip: _Chip, graded: bool) -> tuple[str, ...]:
    lines = [
        "Each population is spread evenly over the fewest cores that hold its neurons; "
        f"a core holds {chip.neurons_per_core} compartments and serves one population.",
        f"Each neuron takes {chip.compartments} compartment(s), each charged as a neuron.",
        "Every step takes as long as the busiest core in a mean step of its window.",
        "Each spike is one packet to one core.",
        "All constants err in the same direction at once: bands are the widest possible.",
    ]
    if not profile.calibrated:
        lines.insert(0, f"The constants of {profile.title} are not calibrated against silicon.")
    if graded:
        lines.append("A synaptic event with a payload costs the chip as much as a binary one.")
    if not chip.takes_analog_input:
        lines.append("The host computes the analog input, as int8 operations (see host_pj).")
    return tuple(lines)


def _not_counted(profile: Profile, chip: _Chip, reference: Profile) -> tuple[str, ...]:
    lines = [
        "hops between cores, packets to further cores, receiving packets: they need a placement",
        "synapse and axon memory, which may need more cores than the neurons do",
        "host, x86 cores, input and output, links between chips, the board",
        "steps with more work than the mean step",
        f"memory access, control and time on {reference.title}",
    ]
    optional = {
        "neuron access": chip.energy.neuron_access_pj,
        "spike generation": chip.energy.spike_pj,
        "sending packets": chip.energy.axon_out_pj,
        "power of x86 cores and mesh while running": chip.energy.chip_running_mw,
        "power of cores in use": chip.energy.busy_core_mw,
    }
    unknown = [term for term, quantity in optional.items() if quantity is None]
    if unknown:
        lines.append(f"not known separately for {profile.title}: {', '.join(unknown)}")
    return tuple(lines)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
