"""Lava processes of Lapilli's neuron models and synapses, for netlists and for users of Lava.

What a neuron computes is said once, in `compiler.neurons`: the process models here call it. They
come in two tags. `fixed_pt`: integers, states of 24 bits that saturate, exactly what a netlist
means and a chip computes. `floating_pt`, where the model makes sense in real numbers: the same
step in float64, without rounding and without limits; parameters, weights and inputs may be real.
Choose with `Loihi2SimCfg(select_tag="fixed_pt")`.

A process works in windows of `window` steps, one per image, with `gap` idle steps between them
(usually none); it is idle for `offset` steps first. Membranes, thresholds, biases and currents of a
population share one unit, which is the user's choice.
Tensors are channels first, (C, H, W), as in PyTorch; Lava's own convolution wants (W, H, C).

A synapse sends what it computed in the step before, as every synapse in Lava does, so a spike
takes one step from neuron to neuron, and `delay` steps more. Several synapses may join one a_in:
Lava adds them.

This file is a folder of its own because Lava, looking for the models of a process, executes every
module beside the file that defines it, anew for each process: slow, and fatal to dataclasses.
"""

from __future__ import annotations

from collections import deque
from typing import Any, final

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from lapilli.compiler import neurons
from lapilli.compiler.linear import Array, LinearMap, Shape
from lapilli.compiler.neurons import Timing
from lapilli.runtime.lava.clock import Clock, Place
from lapilli.runtime.lava.exact_map import ExactMap, FloatMap
from lapilli.runtime.lava.neuron_process import (
    LARGEST_SPIKE,
    CheckedProcess,
    DrivenNeurons,
    Neurons,
    Observer,
    PyNeurons,
    Recorder,
    Unobserved,
    models,
)


@final
class Source(Neurons):
    """Streams one image per window, as graded payloads clipped to low .. high.

    timing: "first" sends it in the window's first step, "held" in each; "train" sends a spike train
    or frames, one per step, "changes" the difference from the frame before, zero at first.
    inputs: (N, *shape), for the latter two (N, window, *shape); after the last image it sends
    zeros. low, high: payloads, of up to 32 bits. window: steps of one image; offset: steps before
    the first; gap: idle steps between two windows.
    Ports: s_out. Vars: v (unused), before (what the step before showed).
    """

    def __init__(
        self,
        *,
        inputs: npt.ArrayLike,
        low: float,
        high: float,
        timing: Timing,
        window: int,
        offset: int = 0,
        gap: int = 0,
        name: str | None = None,
        clock: Clock | None = None,
        observer: Observer | None = None,
        recorder: Recorder | None = None,
    ):
        inputs = np.asarray(inputs)
        for payload in (low, high):
            # In fixed_pt s_out carries 32 bits, which numpy would fill modulo 2**32 in silence.
            if isinstance(payload, int) and abs(payload) > LARGEST_SPIKE:
                raise ValueError(f"a spike carries 32 bits; found {payload}")
        neuron = neurons.Source(low, high, timing)  # type: ignore[arg-type]  # floats: floating_pt
        if neuron.stepwise and inputs.shape[1:2] != (window,):
            raise ValueError(f"{timing} inputs are (N, {window}, ...); found {inputs.shape}")
        super().__init__(
            neuron,
            shape=inputs.shape[2:] if neuron.stepwise else inputs.shape[1:],
            window=window,
            offset=offset,
            gap=gap,
            clock=clock,
            name=name,
            inputs=inputs,
            observer=observer,
            recorder=recorder,
        )


class _PySource(PyNeurons):
    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        self.inputs: Array = proc_params["inputs"]
        source: neurons.Source = proc_params["neuron"]
        self.stepwise = source.stepwise

    def drive(self, place: Place | None) -> Array:
        """The image of this window, or the frame of this step."""
        if place is None or place.image >= len(self.inputs):
            return self.silence
        shown: Array = self.inputs[place if self.stepwise else place.image]
        return shown

    def advance(self, place: Place, drive: Array) -> Array:
        """The image's payload; silence, not a clipped zero, after the last image."""
        ended = place.image >= len(self.inputs)
        return self.silence if ended else super().advance(place, drive)


PySource, PySourceFloat = models(Source, neurons.Source, base=_PySource)


@final
class SoftResetIF(DrivenNeurons):
    """Integrate and fire: v += a_in + bias; s_out = v >= threshold; v -= threshold where it fired.

    v starts each window at `initial`; threshold >= 1.
    """

    MODEL = neurons.SoftResetIF


PySoftResetIF, PySoftResetIFFloat = models(SoftResetIF, SoftResetIF.MODEL)


@final
class HardResetIF(DrivenNeurons):
    """Integrate and fire: v += a_in + bias; s_out = v >= threshold; v = 0 where it fired.

    v starts each window at `initial`; threshold >= 1. Loihi's LIF without its leaks.
    """

    MODEL = neurons.HardResetIF


PyHardResetIF, PyHardResetIFFloat = models(HardResetIF, HardResetIF.MODEL)


@final
class SignedIF(DrivenNeurons):
    """Integrate and fire that takes back: v += a_in + current; v -= threshold * s_out; n += s_out,
    with s_out = +1 if v >= threshold and n < levels, -1 if v < 0 and n > 0, else 0.

    v starts each window at initial + bias, n at 0; threshold >= 1, levels >= 1. Once the network is
    silent, n is clip(floor((initial + bias + sum of a_in) / threshold), 0, levels); with a current
    other than 0 it never is.
    """

    MODEL = neurons.SignedIF


PySignedIF, PySignedIFFloat = models(SignedIF, SignedIF.MODEL)


@final
class MultiThreshold(DrivenNeurons):
    """v = leak(v) + a_in + bias; s_out = clip(floor(v / threshold), 0, levels), one graded spike;
    v -= threshold * s_out.

    v starts each window at `initial`; threshold >= 1, levels >= 1. leak(v) = v * (4096 - decay) /
    4096, towards zero in fixed_pt; decay in 0 .. 4096, 0 keeps everything.
    """

    MODEL = neurons.MultiThreshold


PyMultiThreshold, PyMultiThresholdFloat = models(MultiThreshold, MultiThreshold.MODEL)


@final
class Window(DrivenNeurons):
    """Integrates a window, v += a_in, then sends n = clip(floor(v / threshold), lowest, levels).

    v starts each window at initial + bias; threshold >= 1, levels > lowest. sending: "graded" sends
    n in the window's last step, "unary" sends n ones from that step on, "unary-last" in the
    last n of as many steps as a window has, so levels <= window and lowest = 0; `pending` counts
    those still to go.
    """

    MODEL = neurons.Window


PyWindow, PyWindowFloat = models(Window, Window.MODEL)


@final
class Ladder(DrivenNeurons):
    """v += a_in; n = foot + sum of rises[k] over all k with v >= thresholds[k].

    v starts each window at initial + bias. thresholds do not fall with k; negative ones are
    allowed. rises are -1, 0 or 1, and n never leaves lowest .. levels on the way. sending: "graded"
    and "unary" as in Window, with `pending`; "changes" sends n - sent in every step; sent = n.
    """

    MODEL = neurons.Ladder


PyLadder, PyLadderFloat = models(Ladder, Ladder.MODEL)


@final
class OrGate(DrivenNeurons):
    """s_out = a_in >= 1, in each step by itself: exact max pooling of unary window spikes.

    v is the current of this step.
    """

    MODEL = neurons.OrGate


PyOrGate, PyOrGateFloat = models(OrGate, OrGate.MODEL)


@final
class RateMax(DrivenNeurons):
    """Sends as many spikes as the busiest of its inputs has sent in this window, at every step.

    a_in = sum of s[k] * 2**k, k < inputs <= 23: synapse k sends 0 or 1 with the exponent k.
    v is the current of this step; counts (inputs, *shape) are the spikes of each input so far.
    """

    MODEL = neurons.RateMax


PyRateMax, PyRateMaxFloat = models(RateMax, RateMax.MODEL)


@final
class RateGate(DrivenNeurons):
    """Passes on the spikes of that input which has sent most in this window, the first of equals.

    Arrival and variables are those of `RateMax`.
    """

    MODEL = neurons.RateGate


PyRateGate, PyRateGateFloat = models(RateGate, RateGate.MODEL)


@final
class GradedMax(DrivenNeurons):
    """v += a_in; n = lowest + the largest field of v, at most levels.

    Field k, bits k * bits .. (k + 1) * bits - 1 of v, holds what input k sent, less `lowest`:
    synapse k has the exponent k * bits; inputs * bits <= 23, levels - lowest < 2**bits. v starts
    each window at bias, the sum of -lowest * 2**(k * bits). sending: "graded" sends n in the
    window's last step, "changes" sends n - sent in every step; sent = n.
    """

    MODEL = neurons.GradedMax


(PyGradedMax,) = models(GradedMax, GradedMax.MODEL, "fixed_pt")


@final
class Product(DrivenNeurons):
    """v += a_in; u = (v mod 2**bits + lowest_factor) * floor(v / 2**bits) * 2**shift;
    n = clip(floor((u + initial_product) / threshold), lowest, levels).

    The synapses of the first factor have the exponent 0, those of the second one `bits`. v starts
    each window at bias, -lowest_factor, so that the first factor's bits are not negative.
    sending, pending, sent: as in Ladder.
    """

    MODEL = neurons.Product


(PyProduct,) = models(Product, Product.MODEL, "fixed_pt")


@final
class SigmaDelta(DrivenNeurons):
    """v += a_in; n = clip(floor(v / threshold), lowest, levels); s_out = n - sent; sent = n.

    v starts each window at initial + bias, `sent` at 0; threshold >= 1, levels > lowest.
    """

    MODEL = neurons.SigmaDelta


PySigmaDelta, PySigmaDeltaFloat = models(SigmaDelta, SigmaDelta.MODEL)


@final
class Relay(DrivenNeurons):
    """v = a_in; s_out = v: passes on the sum of what arrives, in each step by itself.

    low, high, total_low, total_high: what a_in can be in one step, and summed over any start of a
    window; stated for those who prove what comes behind, nothing is clipped to them.
    """

    MODEL = neurons.Relay


PyRelay, PyRelayFloat = models(Relay, Relay.MODEL)


@final
class Readout(DrivenNeurons):
    """v += a_in + bias, and never a spike: v after a window's last step is its output.

    v starts each window at `initial`. s_out sends zeros.
    """

    MODEL = neurons.Readout


PyReadout, PyReadoutFloat = models(Readout, Readout.MODEL)


@final
class LIF(DrivenNeurons):
    """`lava.proc.lif.LIF` bit by bit, in windows: u = decay(u) + 64 * a_in;
    v = decay(v) + u + 64 * bias; s_out = v > 64 * threshold; v = 0 where it fired.

    u and v start each window at 0; decays in 0 .. 4096; u wraps, v saturates. fixed_pt only.
    """

    MODEL = neurons.LIF


(PyLIF,) = models(LIF, LIF.MODEL, "fixed_pt")


@final
class LavaDelta(DrivenNeurons):
    """`lava.proc.sdn.Delta` bit by bit, in windows: sends what a_in, clipped to low .. high,
    changed by, once |change| >= threshold.

    spike_exp, state_exp: as in Lava. fixed_pt only.
    """

    MODEL = neurons.LavaDelta


(PyLavaDelta,) = models(LavaDelta, LavaDelta.MODEL, "fixed_pt")


@final
class LavaSigmaDelta(DrivenNeurons):
    """`lava.proc.sdn.SigmaDelta` bit by bit, in windows: adds up a_in, sends what its activity
    changed by, once |change| >= threshold.

    spike_exp, state_exp: as in Lava; low, high: what v can reach. fixed_pt only.
    """

    MODEL = neurons.LavaSigmaDelta


(PyLavaSigmaDelta,) = models(LavaSigmaDelta, LavaSigmaDelta.MODEL, "fixed_pt")


@final
class Synapse(CheckedProcess):
    """a_out[t] = (map . s_in[t - 1 - delay]) * 2**exponent, for any form of `LinearMap`.

    fixed_pt: exact; weights are integers of any width, spikes are integers (graded payloads), the
    exponent is not negative; the result has 64 bits and is not clipped: states saturate, currents
    do not. floating_pt: in float64; weights may be real. in_shape, out_shape: shapes of the ports
    where they differ from the map's (a flatten). Ports: s_in, a_out.
    """

    def __init__(
        self,
        *,
        map: LinearMap,
        exponent: int = 0,
        delay: int = 0,
        in_shape: Shape | None = None,
        out_shape: Shape | None = None,
        name: str | None = None,
        observer: Observer | None = None,
    ):
        if delay < 0:
            raise ValueError(f"delay >= 0; found {delay}")
        super().__init__(map=map, exponent=exponent, delay=delay, name=name, observer=observer)
        if map.weight.dtype.kind not in "iu":
            self.real_numbers = "weights"
        elif exponent < 0:
            self.real_numbers = f"exponent {exponent}"
        self.s_in = InPort(shape=map.in_shape if in_shape is None else in_shape)
        self.a_out = OutPort(shape=map.out_shape if out_shape is None else out_shape)


class _PySynapse(PyLoihiProcessModel):
    def __init__(self, proc_params: Any, applied: ExactMap | FloatMap):
        super().__init__(proc_params)
        self.map = applied
        self.observer: Observer = proc_params["observer"] or Unobserved()
        nothing = np.zeros(applied.map.in_shape, np.int32)
        self.delayed = deque([nothing] * proc_params["delay"])
        current = np.int64 if isinstance(applied, ExactMap) else np.float64
        self.current: Array = np.zeros(applied.map.out_shape, current)

    def run_spk(self) -> None:
        """Send what the step before left, then receive and sum."""
        with self.observer.step(self.time_step):
            self.a_out.send(self.current.reshape(self.a_out.shape))
            self.delayed.append(self.s_in.recv())
            self.observer.working()
            self.current = self.map(self.delayed.popleft().reshape(self.map.map.in_shape))


@implements(proc=Synapse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySynapse(_PySynapse):
    """Synapse in integers."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int64)

    def __init__(self, proc_params: Any):
        super().__init__(proc_params, ExactMap(proc_params["map"], proc_params["exponent"]))


@implements(proc=Synapse, protocol=LoihiProtocol)
@requires(CPU)
@tag("floating_pt")
class PySynapseFloat(_PySynapse):
    """Synapse in floats."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.float64)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.float64)

    def __init__(self, proc_params: Any):
        super().__init__(proc_params, FloatMap(proc_params["map"], proc_params["exponent"]))
