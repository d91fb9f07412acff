"""FloatNetwork -> Netlist: exact where the numbers allow it, else rounded, and said how far.

One unit of v is worth `unit` in a population. Where all weights into it are whole multiples of a
power of two that 8 bits hold, that is the unit, and nothing is rounded. Otherwise weights take the
8 bits in full, the largest one 127 units of its connection (of its channel, where the chip may keep
a threshold for each); powers of two between connections and below them make the unit finer, as far
as the proof of the states allows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np

from lapilli.compiler.compose import compose
from lapilli.compiler.errors import StateOverflowError
from lapilli.compiler.interchange.nir_graph import FloatConnection, FloatNetwork, FloatPopulation
from lapilli.compiler.linear import (
    Array,
    Diagonal,
    LinearMap,
    Shape,
    along_channels,
    frozen,
    per_channel,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import (
    LIF,
    STATE_BITS,
    HardResetIF,
    NeuronModel,
    Readout,
    SoftResetIF,
    Source,
    Timing,
)
from lapilli.compiler.neurons.lif import UNITY
from lapilli.compiler.numerics import half_up, round_down, signed_range, smallest_integer
from lapilli.compiler.schedule import schedule
from lapilli.hardware_profiles import Profile

WEIGHT_BITS = 8  # where the profile knows no limit
MAX_EXPONENT = 12
FINEST, COARSEST = 8, 3
"""Powers of two by which the unit may be finer than the weights' own, or coarser (5 bits left)."""
PARAMETER_TOP = 2**22
"""Thresholds and biases leave a bit of the state for the drive."""
LIF_THRESHOLD_TOP = 2**16
"""v of Lava's LIF holds 64 times the threshold in 24 bits, and a drive above it."""
LIF_BIAS_TOP = 2**15
INPUT_LEVELS = 255
FAINTEST = 2.0**-8
"""Channels with weights smaller than this part of the largest one share its unit."""
BEYOND = 2.0**40  # no state holds this


@final
@dataclass(frozen=True)
class Integers:
    """What an import rounds to.

    steps: of one window; timing: "train", an input for every step, or "held", one for all steps;
    low, high: range of the input. An input that is not whole numbers up to 255 gets 255 levels.
    """

    steps: int
    timing: Timing
    low: float
    high: float

    @property
    def unit(self) -> float:
        """Value of one unit of the input."""
        top = max(-self.low, self.high)
        whole = self.low % 1 == 0 and self.high % 1 == 0 and top <= INPUT_LEVELS
        return 1.0 if whole and (self.timing == "train" or top > 1) else top / INPUT_LEVELS


def quantised(
    network: FloatNetwork, integers: Integers, profile: Profile
) -> tuple[Netlist, tuple[str, ...]]:
    """The netlist, and one line for every population: what was rounded, and by how much.

    Raises StateOverflowError where no unit makes the states fit, NetlistError where the profile
    cannot carry the network.
    """
    lines: list[str] = []
    netlist = Netlist((), (), integers.steps)
    for p in network.populations:
        if p.kind == "input":
            populations = (*netlist.populations, _source(p, integers))
            netlist = replace(netlist, populations=populations)
            continue
        drives = [
            replace(c, map=_in_units(c, network, integers.unit))
            for c in network.connections
            if c.target == p.name
        ]
        netlist, line = _Population(netlist, p, drives, profile).placed()
        lines.append(line)
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    connections = tuple(replace(c, delay=plan.delay(c)) for c in netlist.connections)
    netlist = replace(netlist, connections=connections)
    netlist.verify(profile)
    return netlist, tuple(lines)


def _source(p: FloatPopulation, integers: Integers) -> Population:
    low, high = (int(half_up(v / integers.unit)) for v in (integers.low, integers.high))
    unit = frozen(integers.unit)
    return Population(p.name, p.shape, Source(low, high, integers.timing), unit, unit, 0, 0)


def _in_units(c: FloatConnection, network: FloatNetwork, unit: float) -> LinearMap:
    """The map per unit of what its source sends."""
    source = next(p for p in network.populations if p.name == c.source)
    scale = unit if source.kind == "input" else 1.0
    return c.map if scale == 1.0 else c.map.scaled(np.ones(()), np.asarray(scale))


@final
class _Population:
    """One population and its connections, in the unit that suits them."""

    def __init__(
        self, netlist: Netlist, p: FloatPopulation, drives: list[FloatConnection], profile: Profile
    ):
        self.netlist, self.p, self.drives, self.profile = netlist, p, drives, profile
        bits = profile.limits.weight_bits
        self.low, self.high = -(2 ** (WEIGHT_BITS - 1)), 2 ** (WEIGHT_BITS - 1) - 1
        if bits is not None:
            self.low, self.high = -(2 ** (int(bits.value) - 1)), 2 ** (int(bits.value) - 1) - 1
        exponent = profile.limits.weight_exponent_max
        self.exponent = MAX_EXPONENT if exponent is None else min(int(exponent.value), MAX_EXPONENT)
        self.rows: Array = np.ones(())
        """What drives, thresholds and biases were divided by: () or (C,) along the channels."""
        self.states = signed_range(min(int(profile.limits.state_bits.value), STATE_BITS))

    def placed(self) -> tuple[Netlist, str]:
        """The netlist with this population, and what to say of it."""
        grids = [_grid(c.map.weight) for c in self.drives]
        exact = self._exact(grids)
        if exact is not None:
            return exact, f"{self.p.name}: weights and thresholds exact{self._leaks()}"
        self._scale_channels()
        peaks = [float(np.abs(c.map.weight).max(initial=0.0)) / self.high for c in self.drives]
        largest = max(peaks)
        if largest == 0.0:
            largest = float(self.p.threshold.max()) / PARAMETER_TOP
        finest = max(min((k for k in peaks if k > 0), default=largest), largest / 2**self.exponent)
        for shift in range(FINEST, -COARSEST - 1, -1):
            unit = finest * 2.0**-shift
            exponents = [_exponent(k, unit) if shift >= 0 else 0 for k in peaks]
            if shift < 0:
                unit = max(unit, largest * 2.0**-shift)
            trial = self._trial(unit, exponents)
            if max(exponents) <= self.exponent and trial is not None and self._fits(trial):
                return trial, self._line(trial, unit)
        raise StateOverflowError(
            f"{self.p.name} ({self.p.kind})",
            "every reachable state fits, with weights that are fine enough",
            found="no unit of the membrane",
            allowed=f"[{self.states[0]}, {self.states[1]}]",
            remedy="Use fewer steps.",
        )

    def _exact(self, grids: list[int | None]) -> Netlist | None:
        """In a unit in which nothing is rounded, where there is one that fits."""
        p = self.p
        others = [p.bias, p.initial]
        if p.kind == "if" and p.reset == "subtract":
            others.append(p.threshold)
        known = [g for g in (*grids, *map(_grid, others)) if g is not None]
        if not known or min(known) < -200 or max(known) > 200 or self._sharing_fault():
            return None
        lowest = min(known)
        exponents = [(g if g is not None else lowest) - lowest for g in grids]
        unit = 2.0**lowest
        for c, e in zip(self.drives, exponents, strict=True):
            top, bottom = c.map.weight.max(initial=0.0), c.map.weight.min(initial=0.0)
            if (
                e > self.exponent
                or not self.low <= bottom / (unit * 2.0**e) <= top / (unit * 2.0**e) <= self.high
            ):
                return None
        trial = self._trial(unit, exponents)
        return trial if trial is not None and self._fits(trial) else None

    def _trial(self, unit: float, exponents: list[int]) -> Netlist | None:
        """In one unit; None where a parameter does not fit it."""
        neuron = self._neuron(unit)
        if neuron is None:
            return None
        connections = []
        for c, e in zip(self.drives, exponents, strict=True):
            scale = unit * 2.0**e
            weight = smallest_integer(half_up(c.map.weight / scale))
            if weight.size and not self.low <= weight.min() <= weight.max() <= self.high:
                return None
            linear = c.map.with_weight(weight)
            # Of numbers for single neurons of an image, a connection keeps none.
            value = scale * (self.rows if self.rows.ndim < 2 else 1.0)
            connections.append(
                Connection(c.source, c.target, linear, e, c.delay, frozen(value), c.delay)
            )
        rows = along_channels(self.rows, self.p.shape) if self.rows.ndim == 1 else self.rows
        value, one = frozen(unit * rows), frozen(1.0)
        population = Population(self.p.name, self.p.shape, neuron, value, one, 0, 0)
        netlist = replace(
            self.netlist,
            populations=(*self.netlist.populations, population),
            connections=(*self.netlist.connections, *connections),
        )
        low, high = netlist.reach(self.p.name)
        population = replace(population, state_low=low, state_high=high)
        return replace(netlist, populations=(*self.netlist.populations, population))

    def _neuron(self, unit: float) -> NeuronModel | None:
        p = self.p
        if p.kind == "readout":
            # A constant of every step, rounded once for the whole window.
            whole = np.clip(p.bias * self.netlist.steps / unit, -BEYOND, BEYOND)
            return Readout(frozen(0, np.int64), frozen(half_up(whole)))
        tops = [float(np.abs(v).max()) / unit for v in (p.threshold, p.bias, p.initial)]
        leaky = p.kind == "leaky"
        limits = (LIF_THRESHOLD_TOP, LIF_BIAS_TOP) if leaky else (PARAMETER_TOP, PARAMETER_TOP)
        if tops[0] > limits[0] or max(tops[1:]) >= limits[1]:
            return None
        bias, initial = _shared(frozen(half_up(p.bias / unit))), half_up(p.initial / unit)
        if leaky:
            decays = (int(half_up(UNITY * d)) for d in (p.current_decay, p.voltage_decay))
            return LIF(frozen(half_up(p.threshold / unit)), bias, *decays)
        if p.reset == "zero":
            # NIR fires above the threshold, these neurons at theirs.
            theta = frozen(round_down(p.threshold / unit) + 1)
            return HardResetIF(theta, bias, frozen(initial))
        theta = frozen(np.maximum(half_up(p.threshold / unit), 1))
        # v > theta is v - 1 >= theta: the membrane counts from one below.
        return SoftResetIF(theta, bias, frozen(initial - 1))

    def _fits(self, trial: Netlist) -> bool:
        p = trial.populations[-1]
        if self.p.kind == "leaky" and p.neuron.flaw(trial.steps) is not None:
            return False
        # A LIF's membrane may saturate, as Lava's does; where it can, the unit gets coarser.
        saturates = isinstance(p.neuron, LIF) and p.state_high >= self.states[1]
        return self.states[0] <= p.state_low <= p.state_high <= self.states[1] and not saturates

    def _sharing_fault(self) -> bool:
        """Would the chip have to keep more thresholds than it can?"""
        sharing = self.profile.features.threshold_sharing.value
        if self.p.kind == "readout" or self.p.threshold.ndim == 0 or sharing == "neuron":
            return False
        channels = per_channel(self.p.threshold, self.p.shape)
        return channels is None or bool(channels.ndim and sharing == "population")

    def _scale_channels(self) -> None:
        """Divide each channel by a number of its own, where that helps.

        By its threshold, where the chip cannot keep several; else by its largest weight.
        """
        p = self.p
        shared = self.profile.features.threshold_sharing.value == "population"
        if p.kind == "readout" or not (p.shape[0] > 1 or self._sharing_fault()):
            return
        if self._sharing_fault():
            rows = per_channel(p.threshold, p.shape)
            rows = np.broadcast_to(p.threshold, p.shape) if rows is None else rows
        elif shared:
            return
        else:
            peaks = [
                np.broadcast_to(_channel_peaks(c.map, p.shape), p.shape[:1]) for c in self.drives
            ]
            peak = np.max(peaks, axis=0)
            if peak.max() == 0.0:
                return
            rows = np.maximum(peak / peak.max(), FAINTEST)
        full = along_channels(rows, p.shape) if rows.shape == p.shape[:1] else rows
        fold = Diagonal(frozen(1.0 / np.broadcast_to(full, p.shape)), p.shape, p.shape)
        self.drives = [replace(c, map=compose(fold, c.map)) for c in self.drives]
        self.rows = rows
        self.p = replace(
            p,
            threshold=_shared(frozen(p.threshold / full)),
            bias=frozen(p.bias / full),
            initial=frozen(p.initial / full),
        )

    def _leaks(self) -> str:
        if self.p.kind != "leaky":
            return ""
        pairs = {"current": self.p.current_decay, "voltage": self.p.voltage_decay}
        words = [
            f"{name} decay {d:.6g} as {int(half_up(UNITY * d))}/{UNITY}"
            for name, d in pairs.items()
            if UNITY * d % 1
        ]
        return "".join(f", {word}" for word in words) + ", states truncated as in Lava"

    def _line(self, trial: Netlist, unit: float) -> str:
        """What was rounded: the largest errors, relative to the largest weight and threshold."""
        placed = trial.connections[len(self.netlist.connections) :]
        worst = 0.0
        for c, q in zip(self.drives, placed, strict=True):
            peak = float(np.abs(c.map.weight).max(initial=0.0))
            error = np.abs(c.map.weight - q.map.weight * (unit * 2.0**q.exponent))
            worst = max(worst, float(error.max(initial=0.0)) / peak if peak else 0.0)
        words = f"{self.p.name}: weights in {WEIGHT_BITS} bits, off by up to {worst:.2%} of the "
        words += "largest" + (" of the channel" if self.rows.ndim else "")
        if self.p.kind != "readout":
            words += f", threshold off by up to {unit / float(self.p.threshold.min()):.2%}"
        return words + self._leaks()


def _channel_peaks(m: LinearMap, shape: Shape) -> Array:
    """The largest weight into each channel of `shape`."""
    peaks = np.broadcast_to(m.row_peaks(), m.out_shape).reshape(shape)
    return np.asarray(peaks.reshape(shape[0], -1).max(axis=1))


def _shared(values: Array) -> Array:
    """() where all are equal."""
    return frozen(values.flat[0]) if values.size and np.ptp(values) == 0 else values


def _exponent(peak: float, unit: float) -> int:
    """The smallest e >= 0 with peak <= unit * 2**e, rounding aside."""
    if peak <= unit * (1 + 1e-9):
        return 0
    return int(np.ceil(np.log2(peak / unit) - 1e-9))


def _grid(values: Array) -> int | None:
    """The largest g for which all values are whole multiples of 2**g; None if all are zero."""
    values = np.asarray(values, np.float64)
    values = values[values != 0]
    if not values.size:
        return None
    mantissa, exponent = np.frexp(values)
    whole = (mantissa * 2.0**53).astype(np.int64)
    lowest = np.frexp((whole & -whole).astype(np.float64))[1] - 1
    return int((exponent - 53 + lowest).min())
