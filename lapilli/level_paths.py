"""From few levels to many: which mixtures are worth compiling, from measurements of uniform ones.

Energy of a mixture is predicted from runs in which all populations have the same level: how many
spikes a population sends depends on its own level almost alone. An inference takes as long as its
busiest core, and time costs energy; so what a level saves depends on where its spikes arrive. The
path is a greedy descent: from the most levels on, always the change that adds the least error for
the energy that it saves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import numpy.typing as npt

from lapilli.compiler.netlist import Netlist
from lapilli.hardware_profiles import Profile, Quantity
from lapilli.runtime.metrics import PopulationEvents

Floats = npt.NDArray[np.float64]
SHARPNESS = 8
"""Of the mean that stands for the busiest core: work beside it counts a little, too."""
_PJ_PER_MW_US = 1000.0
_US_PER_NS = 1e-3
AT_ONCE = 100
"""Of so many populations one more is changed between two mixtures of a path."""


@final
@dataclass(frozen=True, eq=False)
class Uniform:
    """One level everywhere, measured.

    arriving: synaptic events per image that reach a population from one that counts, pools and
    relays between them skipped, or from "", the input through relays; sent: spikes of a
    population, and of its pools and relays.
    """

    level: int
    steps: int
    latency: int
    events: Mapping[str, PopulationEvents]
    arriving: Mapping[tuple[str, str], float]
    sent: Mapping[str, float]


def uniform(
    level: int,
    netlist: Netlist,
    latency: int,
    events: Mapping[str, PopulationEvents],
    names: Sequence[str],
) -> Uniform:
    """What is kept of a run of `netlist`, whose populations `names` have `level` levels."""
    origin: dict[str, str | None] = {}
    for p in netlist.populations:
        before = [c.source for c in netlist.into(p.name)]
        origin[p.name] = p.name if p.name in names else origin[before[0]] if before else None
    arriving: dict[tuple[str, str], float] = {}
    for p in netlist.populations:
        shares = [
            (origin[c.source] or "", events[c.source].spikes * c.map.synapses / size)
            for c in netlist.into(p.name)
            if c.source in events
            for size in [netlist[c.source].size]
        ]
        total = sum(share for _, share in shares)
        for first, share in shares if total > 0 else []:
            # Borders make the mean fan-out inexact; the sum is known exactly.
            amount = events[p.name].synops / events[p.name].images * share / total
            arriving[first, p.name] = arriving.get((first, p.name), 0.0) + amount
    sent: dict[str, float] = {}
    for name, source in origin.items():
        if source is not None and name in events:
            sent[source] = sent.get(source, 0.0) + events[name].spikes / events[name].images
    return Uniform(level, netlist.steps, latency, events, arriving, sent)


@final
class EnergyModel:
    """Predicts the energy of mixtures, in pJ, one image alone, as `runtime.energy` prices it."""

    def __init__(self, runs: Sequence[Uniform], names: Sequence[str], profile: Profile):
        assert profile.energy is not None and profile.time is not None
        assert profile.limits.neurons_per_core is not None
        assert profile.limits.cores_per_chip is not None
        self.runs, self.names = list(runs), list(names)
        self.levels = [run.level for run in runs]
        targets = list(dict.fromkeys(name for run in runs for name in run.events))
        place = {name: index for index, name in enumerate(targets)}
        self.reached: list[npt.NDArray[np.int64]] = []
        self.arriving: list[Floats] = []
        for name in self.names:
            ends = sorted({place[t] for run in runs for s, t in run.arriving if s == name})
            self.reached.append(np.array(ends, np.int64))
            rows = [[run.arriving.get((name, targets[q]), 0.0) for q in ends] for run in runs]
            self.arriving.append(np.array(rows).reshape(len(runs), len(ends)))
        self.sent = np.array([[run.sent.get(name, 0.0) for run in runs] for name in self.names])
        energy, time = profile.energy, profile.time
        self.synop_pj = energy.synop_pj.value
        self.spike_pj = _value(energy.spike_pj) + _value(energy.axon_out_pj)
        width = profile.features.soft_reset_compartments.value
        per_core = profile.limits.neurons_per_core.value
        known = {name: e.neurons for run in runs for name, e in run.events.items()}
        sizes = np.array([known[name] for name in targets])
        cores = -(-sizes * width // per_core)
        chips = -(-int(cores.sum()) // profile.limits.cores_per_chip.value)
        self.power_mw = chips * (energy.chip_static_mw.value + _value(energy.chip_running_mw))
        self.power_mw += int(cores.sum()) * _value(energy.busy_core_mw)
        self.slope = time.synop_ns.value * _US_PER_NS / cores
        self.floor_us = time.step_floor_us.value
        own = (_value(time.neuron_access_ns) + _value(time.neuron_update_ns)) * sizes * width
        self.rest_us = own * _US_PER_NS / cores + _value(time.barrier_ns) * _US_PER_NS
        analog = profile.features.graded_spikes.value
        self.input = np.array([max(_input(run, t, analog) for run in runs) for t in targets])
        self.access_pj = _value(energy.neuron_access_pj) * int(sizes.sum()) * width
        self.update_pj = energy.neuron_update_pj.value * int(sizes.sum()) * width

    def work(self, chosen: npt.NDArray[np.int64]) -> Floats:
        """Synaptic events per image into every population; chosen: index of each one's level."""
        total = np.zeros(len(self.slope))
        for index, level in enumerate(chosen):
            total[self.reached[index]] += self.arriving[index][level]
        return total

    def step_us(self, work: Floats, cap: int) -> Floats:
        """Time per step of every population's cores."""
        times = self.rest_us + self.slope * (work + self.input) / self.runs[cap].steps
        return np.asarray(times)

    def energy_pj(self, chosen: npt.NDArray[np.int64], cap: int) -> float:
        """Energy of one image alone; cap: index of the level that windows are long enough for."""
        work = self.work(chosen)
        longest = max(self.floor_us, float(self.step_us(work, cap).max()))
        spikes = float(self.sent[np.arange(len(chosen)), chosen].sum())
        run = self.runs[cap]
        return (
            self.synop_pj * float((work + self.input).sum())
            + self.spike_pj * spikes
            + self.access_pj * run.latency
            + self.update_pj * run.steps
            + self.power_mw * run.latency * longest * _PJ_PER_MW_US
        )

    def savings(self, index: int, level: int, work: Floats, powers: Floats, cap: int) -> Floats:
        """Energy that each level below `level` saves for one population, (level,).

        powers: of every population's time, to the power SHARPNESS.
        """
        ends = self.reached[index]
        less = self.arriving[index][level] - self.arriving[index][:level]
        dynamic = self.synop_pj * less.sum(1)
        dynamic += self.spike_pj * (self.sent[index, level] - self.sent[index, :level])
        before = float(powers.sum()) + self.floor_us**SHARPNESS
        times = self.step_us(work, cap)[ends] - self.slope[ends] * less / self.runs[cap].steps
        after = before - powers[ends].sum() + (times**SHARPNESS).sum(1)
        smooth = before ** (1 / SHARPNESS) - np.maximum(after, 0.0) ** (1 / SHARPNESS)
        waited = self.power_mw * self.runs[cap].latency * smooth * _PJ_PER_MW_US
        return np.asarray(dynamic + waited)


@final
@dataclass(frozen=True)
class Mixture:
    """levels: of every population, in the order of the model's; error, energy_pj: predicted."""

    levels: tuple[int, ...]
    error: float
    energy_pj: float


def mixtures(model: EnergyModel, errors: Floats) -> list[Mixture]:
    """The mixtures worth trying, from the cheapest to the best, none beaten by another.

    errors (populations, levels): what each level costs, as `sensitivity` measures it.
    """
    lengths = {(run.steps, run.latency) for run in model.runs}
    # Windows as long as the largest level: one path for each length.
    caps = range(len(model.runs)) if len(lengths) > 1 else [len(model.runs) - 1]
    found = sorted(
        (mixture for cap in caps for mixture in _path(model, errors, cap)),
        key=lambda m: (m.energy_pj, m.error, m.levels),
    )
    front: list[Mixture] = []
    for mixture in found:
        if not front or mixture.error < front[-1].error:
            front.append(mixture)
    return front


def _path(model: EnergyModel, errors: Floats, cap: int) -> Iterator[Mixture]:
    """From `cap` everywhere down, until nothing saves energy any more."""
    chosen = np.full(len(model.names), cap, np.int64)
    rows = np.arange(len(chosen))
    while True:
        levels = tuple(model.levels[level] for level in chosen)
        yield Mixture(levels, float(errors[rows, chosen].sum()), model.energy_pj(chosen, cap))
        moves = sorted(_moves(model, errors, chosen, cap))
        if not moves:
            return
        for _, index, level in moves[: 1 + len(chosen) // AT_ONCE]:
            chosen[index] = level


def _moves(
    model: EnergyModel, errors: Floats, chosen: npt.NDArray[np.int64], cap: int
) -> Iterator[tuple[float, int, int]]:
    """For every population its best lower level: error added per energy saved, index, level."""
    work = model.work(chosen)
    powers = np.asarray(model.step_us(work, cap) ** SHARPNESS, np.float64)
    for index, level in enumerate(chosen):
        if level == 0:
            continue
        saved = model.savings(index, int(level), work, powers, cap)
        added = errors[index, :level] - errors[index, level]
        price = np.where(saved > 0, added / np.where(saved > 0, saved, 1.0), np.inf)
        best = int(np.argmin(price))
        if np.isfinite(price[best]):
            yield float(price[best]), index, best


def _value(quantity: Quantity[float] | None) -> float:
    """A constant of a profile; nothing where it is not known."""
    return 0.0 if quantity is None else quantity.value


def _input(run: Uniform, name: str, analog: bool) -> float:
    """What arrives at a population from the input, whatever the levels are."""
    events = run.events.get(name)
    macs = events.input_macs / events.images if analog and events is not None else 0.0
    return macs + run.arriving.get(("", name), 0.0)
