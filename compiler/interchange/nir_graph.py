"""The NIR graph of another tool as populations and linear maps, in real numbers.

Whatever is linear between two neurons becomes one map with its bias, delays apart. Time is cut
into steps of dt by Euler's forward rule, which is how simulators read NIR: a leak of dt / tau per
step, and a current that lasts one step. An IF integrates impulses: each adds R times its weight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.interchange.nir_file import NirFile, refuse
from lapilli.compiler.interchange.nir_linear import LARGEST, LINEAR, delayed, through
from lapilli.compiler.linear import Array, Diagonal, LinearMap, Shape, frozen, identity

Kind = Literal["input", "if", "leaky", "readout"]
Reset = Literal["zero", "subtract"]
RESETS: tuple[Reset, ...] = ("zero", "subtract")

NEURONS = ("IF", "LIF", "CubaLIF")
REFUSED: Mapping[str, str] = {
    "LI": "a leaky output has no neuron model here: end the network in a neuron, an I or a linear "
    "node",
    "CubaLI": "a leaky output has no neuron model here: end the network in a neuron, an I or a "
    "linear node",
    "Threshold": "it keeps no state from step to step: replace it by the neuron that it is part of",
}
"""Nodes of NIR that are not imported, and why."""


@final
@dataclass(frozen=True, eq=False)
class FloatPopulation:
    """N neurons; arrays are () or of the population's shape.

    threshold: v fires above it; bias: added to v in each step; initial: v before the first step.
    if: v += drive + bias. leaky: u = (1 - current_decay) u + drive,
    v = (1 - voltage_decay) v + u + bias, decays per step; both start at 0.
    """

    name: str
    shape: Shape
    kind: Kind
    bias: Array
    threshold: Array
    initial: Array
    reset: Reset
    current_decay: float = 1.0
    voltage_decay: float = 0.0


@final
@dataclass(frozen=True, eq=False)
class FloatConnection:
    """target's drive += map(spikes of the source, `delay` steps ago)."""

    source: str
    target: str
    delay: int
    map: LinearMap


@final
@dataclass(frozen=True, eq=False)
class FloatNetwork:
    """Populations, the input first, then in topological order."""

    populations: tuple[FloatPopulation, ...]
    connections: tuple[FloatConnection, ...]


def network(file: NirFile, dt: float | None, reset: Reset) -> FloatNetwork:
    """The network in `file`; dt: seconds of one step, needed where a node has a time; reset: of
    neurons whose metadata do not say, by `reset` = "zero" or "subtract".

    Raises InputError naming the node that cannot be imported.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = _Builder(file, dt, reset).network()
    for c in found.connections:
        if not (np.abs(c.map.weight) <= LARGEST).all():
            rule = "the weights between two populations are finite"
            found_weight = "a product that is too large"
            raise refuse(f"{c.source} -> {c.target}", rule, found_weight, f"up to {LARGEST:g}")
    for p in found.populations:
        if not (np.abs(p.bias) <= LARGEST).all():
            raise refuse(
                p.name, "the bias is finite", "a product that is too large", f"{LARGEST:g}"
            )
    return found


@final
@dataclass(frozen=True, eq=False)
class _Leaks:
    """rest: where the membrane leaks to; gain: what a drive is multiplied with; decays per step."""

    rest: Array
    gain: Array
    current: float = 1.0
    voltage: float = 0.0


@final
class _Builder:
    def __init__(self, file: NirFile, dt: float | None, reset: Reset):
        self.file, self.dt, self.reset = file, dt, reset
        self.kinds = {name: type(node).__name__ for name, node in file.nodes.items()}
        self.before: dict[str, list[str]] = {name: [] for name in file.nodes}
        self.after: dict[str, list[str]] = {name: [] for name in file.nodes}
        for source, target in file.edges:
            self.before[target].append(source)
            self.after[source].append(target)
        self.forms: dict[str, Affine] = {}
        """What each node sends, in terms of what populations send."""
        self.drives: dict[str, Affine] = {}
        self.populations: dict[str, FloatPopulation] = {}

    def network(self) -> FloatNetwork:
        """Everything; names of nodes become names of populations."""
        self._check_kinds()
        self._walk()
        self._read_out()
        names = self._ordered()
        connections = []
        for target in names:
            for key, linear in self.drives[target].terms if target in self.drives else ():
                delay, _, source = key.partition(" ")
                connections.append(FloatConnection(source, target, int(delay), linear))
        return FloatNetwork(tuple(self.populations[n] for n in names), tuple(connections))

    def where(self, name: str) -> str:
        """A node for a message."""
        return f"{name} ({self.kinds[name]})"

    def _check_kinds(self) -> None:
        inputs = [name for name, kind in self.kinds.items() if kind == "Input"]
        if len(inputs) != 1:
            rule = "the network has one input"
            raise refuse("the graph", rule, inputs or "none", "one Input node")
        for name, kind in self.kinds.items():
            if kind in REFUSED:
                rule = "every node can be imported"
                remedy = f"Change the network: {REFUSED[kind]}."
                raise refuse(self.where(name), rule, kind, ", ".join(_IMPORTED), remedy)
            if not self.before[name] and kind != "Input":
                raise refuse(self.where(name), "every node is driven", "no edge into it", "one")
            if kind == "Input" and self.before[name]:
                raise refuse(self.where(name), "nothing drives the input", "an edge", "none")
            if kind in ("Output", "I") and not all(
                self.kinds[n] == "Output" for n in self.after[name]
            ):
                found = ", ".join(self.after[name])
                raise refuse(self.where(name), "the output drives nothing", found, "nothing")

    def _walk(self) -> None:
        """Forms of all nodes, each after those that it reads; loops begin at neurons."""
        missing = {name: len(sources) for name, sources in self.before.items()}
        ready = deque(name for name, count in missing.items() if not count)
        done: set[str] = set()

        def known(name: str, form: Affine) -> None:
            self.forms[name] = form
            for target in self.after[name]:
                missing[target] -= 1
                if not missing[target]:
                    ready.append(target)

        while len(done) < len(self.kinds):
            if not ready:
                name = self._loop_start(done)
                known(name, _own(name, self._declared(name)))
                continue
            name = ready.popleft()
            done.add(name)
            form = self._form(name)
            if name not in self.forms:
                known(name, form)

    def _loop_start(self, done: set[str]) -> str:
        """A neuron whose spikes close a loop, as its shape is known before what drives it."""
        waiting = [name for name in self.kinds if name not in done and name not in self.forms]
        for name in waiting:
            if self.kinds[name] in NEURONS and self._declared(name):
                return name
        raise refuse(
            self.where(waiting[0]) if waiting else "the graph",
            "every loop leads through a neuron",
            ", ".join(waiting[:8]),
            "a neuron with parameters of its own shape in every loop",
        )

    def _declared(self, name: str) -> Shape:
        return tuple(np.shape(self.file.nodes[name].v_threshold))

    def _form(self, name: str) -> Affine:
        node, kind, where = self.file.nodes[name], self.kinds[name], self.where(name)
        if kind == "Input":
            shape = _shape(node.input_type, where)
            zero = frozen(0.0)
            self.populations[name] = FloatPopulation(name, shape, "input", zero, zero, zero, "zero")
            return _own(name, shape)
        drive = _sum([self.forms[source] for source in self.before[name]], where)
        if kind == "Output":
            self.drives[name] = drive
            return drive
        if kind == "I":
            gain = _parameter(node, "r", drive.shape, where)
            self.drives[name] = drive = through(drive, _diagonal(gain, drive.shape), where)
            self.populations[name] = _readout(name, drive)
            return drive
        if kind in NEURONS:
            return self._neuron(name, node, drive)
        if kind == "Delay":
            return delayed(drive, node, self._step(where), where)
        return LINEAR[kind](drive, node, where)

    def _step(self, where: str) -> float:
        if self.dt is None:
            remedy = "Give the time step of the simulation that the network was trained in: --dt."
            raise refuse(where, "a node with a time needs the time step", "none", "dt", remedy)
        return self.dt

    def _neuron(self, name: str, node: Any, drive: Affine) -> Affine:
        where = self.where(name)
        shape = self._shape(name, drive)
        drive = drive if drive.shape == shape else drive.viewed(shape)
        threshold = _parameter(node, "v_threshold", shape, where)
        v_reset = _parameter(node, "v_reset", shape, where)
        gain = _parameter(node, "r", shape, where)
        reset = node.metadata.get("reset", self.reset)
        if reset not in RESETS:
            raise refuse(where, "the reset is known", reset, ", ".join(RESETS))
        initial, leaks = np.zeros(()), _Leaks(np.zeros(()), np.ones(()))
        if reset == "zero":  # v counts from v_reset
            threshold = threshold - v_reset
        if self.kinds[name] != "IF":
            leaks = self._leaks(name, node, shape, reset)
        elif reset == "zero":  # like all of NIR it starts from 0, and that is here
            initial = -v_reset
        current, voltage = leaks.current, leaks.voltage
        if not (threshold > 0).all():
            rule = "thresholds lie above the reset"
            raise refuse(where, rule, _some(threshold[threshold <= 0]), "> 0")
        drive = through(drive, _diagonal(gain * leaks.gain, shape), where)
        # A bias that arrives as a current passes through both leaks; that of the membrane does not.
        if current < 1.0 and drive.bias.any():
            rule = "a current with a leak has no constant part"
            raise refuse(where, rule, "a bias before it", "none", "Put the bias into v_leak.")
        bias = np.broadcast_to(drive.bias + leaks.rest * voltage, shape)
        self.populations[name] = FloatPopulation(
            name,
            shape,
            "if" if self.kinds[name] == "IF" else "leaky",
            frozen(bias),
            frozen(threshold),
            frozen(initial),
            reset,
            current,
            voltage,
        )
        self.drives[name] = drive
        return _own(name, shape)

    def _leaks(self, name: str, node: Any, shape: Shape, reset: str) -> _Leaks:
        """Of a leaky neuron, which Lava resets to where it starts: both are 0 here."""
        where, dt = self.where(name), self._step(self.where(name))
        if reset != "zero":
            rule = "a leaky neuron is reset to a value"
            remedy = "Lava's LIF has no reset by subtraction: train with a reset to zero."
            raise refuse(where, rule, "reset by subtraction", "zero", remedy)
        rest = _parameter(node, "v_leak", shape, where)
        v_reset = _parameter(node, "v_reset", shape, where)
        if v_reset.any():
            if not (v_reset == rest).all():
                rule = "a leaky neuron is reset to 0 or to where it leaks to"
                raise refuse(where, rule, f"v_reset {_some(v_reset)}", "0, or v_leak")
            rest = np.zeros(())
        if self.kinds[name] == "LIF":
            voltage = _decay(node, "tau", dt, where)
            return _Leaks(rest, np.asarray(voltage), 1.0, voltage)
        voltage, current = (_decay(node, tau, dt, where) for tau in ("tau_mem", "tau_syn"))
        gain = voltage * current * _parameter(node, "w_in", shape, where)
        return _Leaks(rest, np.asarray(gain), current, voltage)

    def _shape(self, name: str, drive: Affine) -> Shape:
        """Of the population: that of its parameters, unless these are shared."""
        declared = self._declared(name)
        if int(np.prod(declared)) == int(np.prod(drive.shape)):
            return declared or drive.shape
        try:
            if np.broadcast_shapes(declared, drive.shape) == drive.shape and name not in self.forms:
                return drive.shape
        except ValueError:
            pass
        rule = "parameters fit what drives the neuron"
        raise refuse(self.where(name), rule, f"{declared} for {drive.shape}", "the same shape")

    def _read_out(self) -> None:
        """A readout for every output, and for every node that drives nothing."""
        for name, kind in self.kinds.items():
            if kind == "Output":
                (*_, before) = self.before[name]
                if len(self.before[name]) == 1 and self.kinds[before] == "I":
                    del self.drives[name]
                else:
                    self.populations[name] = _readout(name, self.drives[name])
            elif not self.after[name] and kind != "I":
                title = f"{name}.output"
                while title in self.kinds:
                    title += "~"
                self.drives[title] = self.forms[name]
                self.populations[title] = _readout(title, self.forms[name])

    def _ordered(self) -> list[str]:
        """Names of the populations, each after all others that drive it."""
        sources = {
            name: {key.partition(" ")[2] for key, _ in self.drives[name].terms} - {name}
            if name in self.drives
            else set()
            for name in self.populations
        }
        for name, found in sources.items():
            if not found and self.populations[name].kind != "input":
                raise refuse(name, "every neuron is driven by others", "only by itself", "others")
        ordered: dict[str, None] = {}
        waiting = sorted(sources, key=lambda n: self.populations[n].kind == "readout")
        while waiting:
            ready = [name for name in waiting if sources[name] <= ordered.keys()]
            if not ready:
                loop = sorted(n for n in waiting if self.populations[n].kind != "readout")
                raise refuse(
                    ", ".join(loop[:8]),
                    "loops lead from a population to itself",
                    "a loop through several populations",
                    "edges from a neuron through linear nodes to itself",
                    "Join the populations of the loop into one.",
                )
            ordered.update(dict.fromkeys(ready))
            waiting = [name for name in waiting if name not in ordered]
        return list(ordered)


_IMPORTED = ("Input", "Output", "I", *NEURONS, "Delay", *LINEAR)


def _own(name: str, shape: Shape) -> Affine:
    """What a population sends: itself, without delay."""
    return Affine(shape, ((f"0 {name}", identity(shape)),), np.zeros(()))


def _sum(forms: Iterable[Affine], where: str) -> Affine:
    """NIR adds up what several edges bring."""
    first, *others = forms
    for form in others:
        if int(np.prod(form.shape)) != int(np.prod(first.shape)):
            rule = "what several edges bring has one shape"
            raise refuse(where, rule, f"{first.shape} and {form.shape}", "the same shape")
        first = first.plus(form if form.shape == first.shape else form.viewed(first.shape))
    return first


def _readout(name: str, drive: Affine) -> FloatPopulation:
    one = frozen(1.0)
    return FloatPopulation(
        name, drive.shape, "readout", frozen(drive.bias), one, frozen(0.0), "zero"
    )


def _shape(types: Any, where: str) -> Shape:
    """The shape of an input; NIR leaves out the batch."""
    sizes = np.asarray(types.get("input") if isinstance(types, dict) else None)
    if sizes.dtype.kind not in "iu" or sizes.ndim != 1 or not 1 <= len(sizes) <= 8:
        raise refuse(where, "the input has a shape", sizes, "one to eight sizes")
    shape = tuple(int(n) for n in sizes)
    if min(shape) < 1 or np.prod([float(n) for n in shape]) > 2**26:
        raise refuse(where, "the input has a size", shape, "1 .. 2**26 values")
    return shape


def _parameter(node: Any, field: str, shape: Shape, where: str) -> Array:
    """A parameter as float64, () where all neurons share it, else of the population's shape."""
    values = np.asarray(getattr(node, field))
    if values.dtype.kind not in "fiub" or not (np.abs(values) <= LARGEST).all():
        found = f"{values.dtype}, NaN or too large"
        raise refuse(where, f"{field} is finite numbers", found, f"up to {LARGEST:g}")
    values = values.astype(np.float64)
    if values.size and (values == values.flat[0]).all():
        return np.asarray(values.flat[0])
    try:
        same = int(np.prod(shape)) == values.size
        return values.reshape(shape) if same else np.broadcast_to(values, shape)
    except ValueError as error:
        raise refuse(where, f"{field} fits the neurons", values.shape, shape) from error


def _decay(node: Any, field: str, dt: float, where: str) -> float:
    """dt / tau, which is one for a population: Lava's LIF has one decay for all its neurons."""
    tau = np.asarray(getattr(node, field), np.float64)
    if not tau.size or not (tau <= LARGEST).all() or (tau < dt).any():
        rule = f"{field} is not shorter than a step"
        raise refuse(where, rule, _some(tau), f">= {dt:g} s", "Use a shorter time step.")
    if np.ptp(tau) > 1e-6 * tau.max():
        rule = f"all neurons of a population share {field}"
        remedy = "Lava's LIF has one decay for a population: split it, or train with one."
        raise refuse(where, rule, f"{tau.min():g} .. {tau.max():g} s", "one value", remedy)
    return dt / float(tau.flat[0])


def _diagonal(gain: Array, shape: Shape) -> Diagonal:
    return Diagonal(frozen(gain), shape, shape)


def _some(values: Array) -> str:
    return f"{np.asarray(values).flat[0]:g}" if np.size(values) else "nothing"
