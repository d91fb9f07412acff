"""From a `.net` file of lava-dl to a netlist with exactly the spikes that netx gives.

One population per layer, named like "layer1.dense"; connections carry the weights that netx really
runs, delays become synaptic delays. A window is one sample: every neuron starts it at rest, as
netx's do with `reset_interval` (sigma-delta neurons, which netx does not reset, start as they are
in netx when the first input reaches them). docs/netx.md says what is equal to what.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from typing import final

import numpy as np

from lapilli.compiler import artifact
from lapilli.compiler.errors import InputError, LapilliError
from lapilli.compiler.interchange.netx_file import read_netx, refuse
from lapilli.compiler.interchange.netx_layers import UNIT, Cuba, Layer, Notes, Sdnn, layers
from lapilli.compiler.interchange.netx_synapses import check_joint, synapses
from lapilli.compiler.linear import Array, Shape, frozen, identity
from lapilli.compiler.netlist import Connection, Netlist, Population, connection_bounds
from lapilli.compiler.neurons import (
    LIF,
    STATE_BITS,
    Interval,
    LavaDelta,
    LavaSigmaDelta,
    NeuronModel,
    Readout,
    Source,
    State,
)
from lapilli.compiler.numerics import Int64Array, shift_left, signed_range, smallest_integer
from lapilli.compiler.schedule import schedule
from lapilli.compiler.soundness import MAX_STEPS
from lapilli.hardware_profiles import Profile

DEFAULT_STEPS = 64
SPIKE_EXP, STATE_EXP = 6, 6
"""netx's defaults for sigma-delta neurons; thresholds and biases are shifted by their sum."""
BIAS_BITS = 16
LIF_INPUT = (-(2**15), 2**15 - 1)
DELTA_INPUT = (-(2**11 - 1), 2**11 - 1)
"""What the first layer's neurons may be fed where there are some: Lava's a_in; 24-bit activity."""
BINARY = (0, 1)
"""What netx makes of its input where there are none, unless it is told `input_message_bits`."""
MAX_NOTES = 3500
MAX_WAKING = 2**26
"""Neurons times steps that are followed before the first input arrives, over all layers."""


def import_netx(
    path: str | os.PathLike[str],
    *,
    steps: int = DEFAULT_STEPS,
    profile: Profile,
    input_range: tuple[int, int] | None = None,
) -> artifact.Artifact:
    """The artifact of a `.net` file; inputs are (N, steps, *shape), as netx's own, channels first.

    steps: of one sample. profile: the chip whose limits are reported in `provenance.notes`, with
    all that netx runs otherwise than the file says. input_range: the least and the largest input;
    None: what neurons of the input can take, or, where the file has none, spikes 0 and 1 (a range
    then stands for netx with input_message_bits > 0). The narrower, the tighter the proofs.
    Raises InputError that names layer and key, NetlistError where a state cannot be proven to fit.
    """
    from importlib.metadata import version

    if not 1 <= steps <= MAX_STEPS:
        raise InputError(
            "steps",
            "a sample has a usual length",
            found=steps,
            allowed=f"1..{MAX_STEPS}",
            remedy="Give the number of time steps of one sample.",
        )
    file = read_netx(path)
    found, notes = layers(file)
    netlist = _Builder(file.path, steps, notes, input_range).build(found)
    netlist.verify()
    try:
        netlist.verify(profile)
    except LapilliError as error:
        notes.append(f"{profile.name}: {error}")
    provenance = artifact.Provenance(
        lapilli_version=version("lapilli"),
        torch_version="",
        method="netx-import",
        options={"steps": steps, "file_sha256": file.digest},
        profile=profile.name,
        calibration_hash="",
        calibration_samples=0,
        ann_macs={},
        notes=_shortened(notes),
    )
    return artifact.Artifact(netlist, provenance)


@final
@dataclass
class _Builder:
    """Adds populations one by one, each with its proven reach."""

    path: str
    steps: int
    notes: Notes
    input_range: tuple[int, int] | None
    populations: list[Population] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    awake: dict[str, list[Array | None]] = field(default_factory=dict)
    """Spikes of each population in the steps of netx before its window begins; None: none."""
    waking: int = 0
    """Neurons times steps that were followed for `awake`."""
    given: int = 0
    """1 if the file gives neurons for the input: they see the input a step earlier than others."""

    def build(self, found: tuple[Layer, ...]) -> Netlist:
        computing = [layer for layer in found if layer.kind != "input"]
        inputs = [layer for layer in found if layer.kind == "input"]
        if inputs not in ([], [found[0]]) or not computing:
            rule = "one input comes first, if any, and a layer that computes"
            kinds = ", ".join(layer.name for layer in found) or "no layer"
            raise refuse(self.path, rule, kinds, "input, then dense, dense_rec, conv")
        self._input(inputs[0] if inputs else None, computing[0])
        for layer in computing:
            self._layer(layer, last=layer is computing[-1])
        if not isinstance(self.populations[-1].neuron, Readout):
            self._count_spikes()
        return self._netlist()

    def _netlist(self) -> Netlist:
        netlist = Netlist(tuple(self.populations), tuple(self.connections), self.steps)
        plan = schedule(netlist.populations, netlist.connections, self.steps)
        joined = tuple(replace(c, delay=plan.delay(c)) for c in self.connections)
        return replace(netlist, connections=joined)

    def _input(self, layer: Layer | None, first: Layer) -> None:
        neuron = None if layer is None else layer.neuron
        if neuron is not None or self.input_range is not None:
            low, high = self._range(DELTA_INPUT if isinstance(neuron, Sdnn) else LIF_INPUT)
        else:
            low, high = BINARY
        shape = layer.shape if layer is not None else (first.weight.shape[1],)
        if layer is None and first.kind == "conv":
            rule = "the shape of the input is given where a convolution comes first"
            raise refuse(first.where, rule, "no input layer", "layer 0 of type input")
        source = Source(low, high, "train")
        self.populations.append(Population("input", shape, source, _ONE, _ONE, 0, 0))
        self.awake["input"] = []
        if layer is None or neuron is None:
            return
        self.given = 1
        entry = replace(identity(shape), weight=frozen(1, np.int8))
        self.connections.append(Connection("input", layer.name, entry, 0, 0, _ONE))
        if isinstance(neuron, Cuba):
            self._add(layer, _lif(neuron, np.zeros((), np.int64)))
        else:
            threshold = frozen(neuron.threshold, np.int64)
            self._add(layer, LavaDelta(threshold, low, high, SPIKE_EXP, STATE_EXP))

    def _range(self, widest: tuple[int, int]) -> tuple[int, int]:
        given = widest if self.input_range is None else self.input_range
        if not widest[0] <= given[0] <= given[1] <= widest[1]:
            raise InputError(
                "input range",
                "the input fits the neurons that it feeds",
                found=f"{given[0]}..{given[1]}",
                allowed=f"{widest[0]}..{widest[1]}",
                remedy="Narrow it.",
            )
        return given

    def _layer(self, layer: Layer, *, last: bool) -> None:
        before = self.populations[-1]
        assert layer.neuron is not None
        check_joint(layer, before)
        for c in synapses(layer, before, self.notes):
            self.connections.append(c)
        if isinstance(layer.neuron, Cuba):
            neuron = _lif(layer.neuron, self._lif_bias(layer))
            integrator = self._integrator(layer, neuron) if last else None
            self._add(layer, integrator or neuron)
            return
        if not layer.neuron.sigma:
            self._add(layer, self._sigma_delta(layer, layer.neuron))
            return
        if layer.bias is not None or not last or layer.recurrent is not None:
            rule = "neurons with sigma_output end the network, without bias or recurrence"
            raise refuse(layer.where, rule, "a bias, recurrence or a layer behind", "none of them")
        zero = frozen(0, np.int64)
        # Before a window, too, it adds up what it receives.
        early = self._wake(layer, Readout(zero, zero))["v"]
        self._add(layer, Readout(zero, _compact(early)))

    def _lif_bias(self, layer: Layer) -> Int64Array:
        bias = np.zeros((), np.int64) if layer.bias is None else layer.bias
        half = 2 ** (BIAS_BITS - 1)
        wrapped: Int64Array = (bias + half) % (2 * half) - half
        changed = int(np.count_nonzero(wrapped != bias))
        if changed:
            self.notes.append(
                f"{layer.name}: netx keeps {BIAS_BITS} bits of a bias: {changed} wrap"
            )
        return wrapped

    def _integrator(self, layer: Layer, neuron: LIF) -> Readout | None:
        """What a last layer that only adds up is: a readout, if it is proven never to fire."""
        scaled = frozen(shift_left(neuron.bias, UNIT))
        zero = frozen(0, np.int64)
        whole = (neuron.current_decay, neuron.voltage_decay)
        readouts = {(4096, 0): Readout(scaled, zero), (0, 4096): Readout(zero, scaled)}
        if whole not in readouts or layer.recurrent is not None:
            return None
        step, total = self._bounds(layer)
        reach = neuron.reach(step, total, self.steps)
        top = signed_range(STATE_BITS)[1]
        fires = min(int(neuron.threshold.min()) * 2**UNIT, top)
        if int(reach.high.max()) > fires or int(reach.low.min()) <= -top:
            return None
        self.notes.append(f"{layer.name}: never fires; the output is its membrane")
        self.connections = [
            replace(c, exponent=c.exponent + UNIT) if c.target == layer.name else c
            for c in self.connections
        ]
        return readouts[whole]

    def _bounds(self, layer: Layer) -> tuple[Interval, Interval]:
        """Bounds of one step's drive, and of its sum over any start of a window."""
        nothing = np.zeros((), np.int64)
        bounds = [Interval(nothing, nothing), Interval(nothing, nothing)]
        known = {p.name: p.neuron for p in self.populations}
        for c in (c for c in self.connections if c.target == layer.name):
            sender = known[c.source]
            for i, sent in enumerate((sender.payload(), sender.window_total(self.steps))):
                more = connection_bounds(c, sent, layer.shape)
                bounds[i] = Interval(bounds[i].low + more.low, bounds[i].high + more.high)
        return bounds[0], bounds[1]

    def _sigma_delta(self, layer: Layer, neuron: Sdnn) -> LavaSigmaDelta:
        bias = np.zeros((), np.int64) if layer.bias is None else layer.bias
        scaled = shift_left(bias, SPIKE_EXP + STATE_EXP)
        top = signed_range(STATE_BITS)[1]
        # Activities have 24 bits, too.
        limits = (min(-int(scaled.min()), 0) - top, top - max(int(scaled.max()), 0))
        limits = (max(limits[0], -top), max(limits[1], 0))
        threshold, biases, zero = (frozen(n, np.int64) for n in (neuron.threshold, bias, 0))
        exponents = (SPIKE_EXP, STATE_EXP)
        model = LavaSigmaDelta(threshold, biases, zero, zero, zero, *limits, *exponents, "relu")
        model = self._started(layer, model)
        if layer.recurrent is not None:
            bounds = limits
        else:
            total = self._bounds(layer)[1]
            low = int(np.min(model.initial + np.minimum(total.low, 0)))
            high = int(np.max(model.initial + np.maximum(total.high, 0)))
            bounds = (min(low, 0), max(high, 0))
        if bounds[0] < limits[0] or bounds[1] > limits[1] or layer.recurrent is not None:
            self.notes.append(
                f"{layer.name}: its membrane is not proven to fit {STATE_BITS} bits and saturates "
                "there, which it does not in netx; a narrower input range helps"
            )
        low, high = max(bounds[0], limits[0]), min(bounds[1], limits[1])
        return replace(model, low=low, high=high)

    def _started(self, layer: Layer, model: LavaSigmaDelta) -> LavaSigmaDelta:
        """The model with the state in which netx's is when the first input reaches it."""
        state = self._wake(layer, model)
        v, activity, residue = (_compact(state[name]) for name in model.VARIABLES)
        return replace(model, initial=v, activity=activity, residue=residue)

    def _wake(self, layer: Layer, neuron: NeuronModel) -> State:
        """The state of a layer of netx when the first input is about to reach it.

        Until then only biases are at work; what they make a layer send is kept in `awake`.
        """
        depth = len(self.populations) - self.given
        spikes: list[Array | None] = []
        self.awake[layer.name] = spikes
        state = neuron.start(layer.shape)
        into = [c for c in self.connections if c.target == layer.name]
        biased = layer.bias is not None and layer.bias.any()
        if not biased and not any(self._sent_early(c.source) for c in into):
            spikes.extend([None] * depth)
            return state
        self.waking += depth * math.prod(layer.shape)
        if self.waking > MAX_WAKING:
            rule = "what biases do before the first input arrives can be followed"
            raise refuse(layer.where, rule, f"{self.waking} neuron steps so far", MAX_WAKING)
        for step in range(depth):
            drive = np.zeros(layer.shape, np.int64)
            for c in into:
                drive += self._arriving(c, step, layer.shape)
            state, sent = neuron.step(state, drive, 1, self.steps)
            spikes.append(smallest_integer(sent) if sent.any() else None)
        return state

    def _sent_early(self, name: str) -> bool:
        return any(sent is not None for sent in self.awake[name])

    def _arriving(self, c: Connection, step: int, shape: Shape) -> Array | int:
        then = step - 1 - c.synaptic_delay
        sent = self.awake[c.source][then] if then >= 0 else None
        if sent is None:
            return 0
        reached = c.map.apply(sent[np.newaxis].astype(np.int64))[0]
        return shift_left(reached.reshape(shape), c.exponent)

    def _add(self, layer: Layer, neuron: NeuronModel) -> None:
        self._wake(layer, neuron)
        into = [c for c in self.connections if c.target == layer.name]
        late = [c for c in into if c.synaptic_delay or c.recurrent]
        if any(self._sent_early(c.source) for c in late):
            self.notes.append(
                f"{layer.name}: spikes that biases cause before a sample's first step arrive "
                "within it in netx, because of delays or recurrence, and are left out here"
            )
        scales = _SCALES[type(neuron), isinstance(layer.neuron, Cuba)]
        states, counts = (frozen(2.0**-places) for places in scales)
        added = Population(layer.name, layer.shape, neuron, states, counts, 0, 0)
        self.populations.append(added)
        self._prove()

    def _prove(self) -> None:
        netlist = Netlist(tuple(self.populations), tuple(self.connections), self.steps)
        last = self.populations[-1]
        low, high = netlist.reach(last.name)
        top = signed_range(STATE_BITS)[1]
        if low < -top or high > top:
            raise refuse(
                f"{self.path}: {last.name}",
                f"every reachable state fits {STATE_BITS} bits",
                f"{low}..{high} at the worst inputs",
                f"{-top}..{top}",
                "Give a narrower input range, fewer steps or smaller weights.",
            )
        self.populations[-1] = replace(last, state_low=low, state_high=high)

    def _count_spikes(self) -> None:
        last = self.populations[-1]
        if (
            isinstance(last.neuron, LIF)
            and last.state_high <= int(last.neuron.threshold.min()) << 6
        ):
            self.notes.append(f"{last.name}: never fires; the output counts no spikes")
        ones = replace(identity(last.shape), weight=frozen(1, np.int8))
        self.connections.append(Connection(last.name, "output", ones, 0, 0, _ONE))
        zero = frozen(0, np.int64)
        counts = Population(
            *("output", last.shape, Readout(zero, zero), last.count_scale, _ONE, 0, 0)
        )
        self.populations.append(counts)
        self._prove()


_ONE = frozen(1.0)
_SCALES: dict[tuple[type[NeuronModel], bool], tuple[int, int]] = {
    (LIF, True): (2 * UNIT, 0),
    (Readout, True): (2 * UNIT, 0),
    (LavaDelta, False): (UNIT + SPIKE_EXP + STATE_EXP, UNIT + SPIKE_EXP),
    (LavaSigmaDelta, False): (UNIT + SPIKE_EXP + STATE_EXP, UNIT + SPIKE_EXP),
    (Readout, False): (UNIT + SPIKE_EXP + STATE_EXP, 0),
}
"""Binary places of v and of spikes, by model and whether the layer's neurons are CUBA."""


def _shortened(notes: Notes) -> str:
    """The notes, one a line; where they are too many for a file, how many are missing."""
    kept = [note for i, note in enumerate(notes) if len("\n".join(notes[: i + 1])) <= MAX_NOTES]
    more = len(notes) - len(kept)
    return "\n".join([*kept, f"and {more} more"] if more else kept)


def _lif(neuron: Cuba, bias: Int64Array) -> LIF:
    threshold = frozen(neuron.threshold, np.int64)
    return LIF(threshold, _compact(bias), neuron.current_decay, neuron.voltage_decay)


def _compact(values: Array) -> Array:
    """One number where all are the same."""
    same = values.size and (values == values.flat[0]).all()
    return frozen(values.flat[0] if same else values, np.int64)
