"""Lava processes of Lapilli's neuron models and synapses, for netlists and for users of Lava.

Every process has one model, tagged `fixed_pt`: run with `Loihi2SimCfg(select_tag="fixed_pt")`.
What a neuron computes is said once, in `compiler.neurons`: the models here call it. A process works
in windows of `window` steps, one per image, without a gap; it is idle for `offset` steps first.
Tensors are channels first, (C, H, W), as in PyTorch; Lava's own convolution wants (W, H, C).

A synapse sends what it computed in the step before, as every synapse in Lava does, so a spike
takes one step from neuron to neuron, and `delay` steps more. Several synapses may join one a_in:
Lava adds them.

This file is a folder of its own because Lava, looking for the models of a process, executes every
module beside the file that defines it, anew for each process: slow, and fatal to dataclasses.
"""

from __future__ import annotations

from collections import deque
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final

import numpy as np
import numpy.typing as npt
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from lapilli.compiler import neurons
from lapilli.compiler.linear import Array, LinearMap, Shape
from lapilli.compiler.neurons import NeuronModel, State
from lapilli.runtime.lava.exact_map import ExactMap


class Observer(Protocol):
    """Follows one process through its steps; see `journal.Watch`."""

    def step(self, time_step: int) -> AbstractContextManager[None]:
        """Around one step."""

    def working(self) -> None:
        """All messages have arrived."""


@final
@dataclass(frozen=True, eq=False)
class Recorder:
    """Arrays that a population fills as it runs, by kind, with the shapes of `Trace`.

    States are counted from the population's first step, spikes from `lag` steps later, when those
    of its first window begin to leave. Windows beyond the arrays are not recorded.
    """

    arrays: dict[str, Array]
    window: int
    lag: int

    def write(self, local: int, spikes: Array, v: Array) -> None:
        """Record step `local` (from 0) of the population."""
        image, tau = divmod(local, self.window)
        self._put("states", image, tau, v)
        if tau == self.window - 1 and "readouts" in self.arrays:
            self.arrays["readouts"][image : image + 1] = v
        if local >= self.lag:
            image, tau = divmod(local - self.lag, self.window)
            self._put("spikes", image, tau, spikes)
            if "counts" in self.arrays:
                self.arrays["counts"][image : image + 1] += spikes

    def _put(self, kind: str, image: int, tau: int, values: Array) -> None:
        if kind in self.arrays:
            self.arrays[kind][image : image + 1, tau] = values


class _Neurons(AbstractProcess):
    """N neurons of one model; subclasses say which."""

    def __init__(
        self,
        shape: Shape,
        neuron: NeuronModel,
        window: int,
        offset: int,
        name: str | None,
        **more: Any,
    ):
        if window < 1 or offset < 0:
            raise ValueError(f"window >= 1 and offset >= 0; found {window} and {offset}")
        super().__init__(
            shape=shape, neuron=neuron, window=window, offset=offset, name=name, **more
        )
        self.v = Var(shape=shape, init=0)
        self.s_out = OutPort(shape=shape)


@final
class Source(_Neurons):
    """Streams one image per window, as graded payloads: in its first step, or if `hold` in each.

    inputs: (N, *shape) integers, clipped to low .. high; after the last image it sends zeros.
    Ports: s_out.
    """

    def __init__(
        self,
        *,
        inputs: npt.ArrayLike,
        low: int,
        high: int,
        hold: bool,
        window: int,
        offset: int = 0,
        name: str | None = None,
        observer: Observer | None = None,
        recorder: Recorder | None = None,
    ):
        inputs = np.asarray(inputs)
        neuron = neurons.Source(_payload(low), _payload(high), hold)
        more = {"inputs": inputs, "observer": observer, "recorder": recorder}
        super().__init__(inputs.shape[1:], neuron, window, offset, name, **more)


@final
class SoftResetIF(_Neurons):
    """v += a_in + bias; s_out = v >= threshold; v -= threshold where it fired.

    v starts each window at `initial`, has 24 bits and saturates. Parameters are integers that
    broadcast to `shape`. Ports: a_in, s_out. Vars: v.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        threshold: npt.ArrayLike,
        window: int,
        bias: npt.ArrayLike = 0,
        initial: npt.ArrayLike = 0,
        offset: int = 0,
        name: str | None = None,
        observer: Observer | None = None,
        recorder: Recorder | None = None,
    ):
        neuron = neurons.SoftResetIF(_integers(threshold), _integers(bias), _integers(initial))
        more = {"observer": observer, "recorder": recorder}
        super().__init__(shape, neuron, window, offset, name, **more)
        self.a_in = InPort(shape=shape)


@final
class Window(_Neurons):
    """Integrates a window, then sends n = clip(floor(v / threshold), 0, levels).

    v starts each window at initial + bias, has 24 bits and saturates. sending: "graded" sends n in
    the window's last step, "unary" sends n ones from that step on, so levels must be at most
    `window`. Parameters are integers that broadcast to `shape`. Ports: a_in, s_out. Vars: v.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        threshold: npt.ArrayLike,
        levels: int,
        sending: Literal["graded", "unary"],
        window: int,
        bias: npt.ArrayLike = 0,
        initial: npt.ArrayLike = 0,
        offset: int = 0,
        name: str | None = None,
        observer: Observer | None = None,
        recorder: Recorder | None = None,
    ):
        if sending == "unary" and levels > window:
            raise ValueError(f"{levels} unary spikes do not fit a window of {window} steps")
        neuron = neurons.Window(
            _integers(threshold), _integers(bias), _integers(initial), _payload(levels), sending
        )
        more = {"observer": observer, "recorder": recorder}
        super().__init__(shape, neuron, window, offset, name, **more)
        self.a_in = InPort(shape=shape)


@final
class Readout(_Neurons):
    """v += a_in + bias, and never a spike: v after a window's last step is its output.

    v starts each window at `initial`, has 24 bits and saturates. Parameters are integers that
    broadcast to `shape`. Ports: a_in, s_out (zeros). Vars: v.
    """

    def __init__(
        self,
        *,
        shape: Shape,
        window: int,
        bias: npt.ArrayLike = 0,
        initial: npt.ArrayLike = 0,
        offset: int = 0,
        name: str | None = None,
        observer: Observer | None = None,
        recorder: Recorder | None = None,
    ):
        more = {"observer": observer, "recorder": recorder}
        neuron = neurons.Readout(_integers(bias), _integers(initial))
        super().__init__(shape, neuron, window, offset, name, **more)
        self.a_in = InPort(shape=shape)


@final
class Synapse(AbstractProcess):
    """a_out[t] = (map . s_in[t - 1 - delay]) * 2**exponent, exact, for any form of `LinearMap`.

    The map's weights are integers of any width; spikes are integers (graded payloads). The result
    has 64 bits and is not clipped: states saturate, currents do not. in_shape, out_shape: shapes of
    the ports where they differ from the map's (a flatten). Ports: s_in, a_out.
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
        exact = ExactMap(map, exponent)
        super().__init__(map=exact, delay=delay, name=name, observer=observer)
        self.s_in = InPort(shape=map.in_shape if in_shape is None else in_shape)
        self.a_out = OutPort(shape=map.out_shape if out_shape is None else out_shape)


def _integers(values: npt.ArrayLike) -> Array:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise ValueError(f"parameters are integers; found {array.dtype}")
    return array.astype(np.int64)


def _payload(value: int) -> int:
    # s_out carries 32 bits, which numpy would fill modulo 2**32 without a word.
    if abs(value) >= 2**31:
        raise ValueError(f"a spike carries 32 bits; found {value}")
    return value


class _Unobserved:
    def step(self, time_step: int) -> AbstractContextManager[None]:
        return nullcontext()

    def working(self) -> None:
        return


class _PyNeurons(PyLoihiProcessModel):
    """One step of any neuron model."""

    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=24)
    v: Array = LavaPyType(np.ndarray, np.int64, precision=24)

    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        self.neuron: NeuronModel = proc_params["neuron"]
        self.window, self.offset = proc_params["window"], proc_params["offset"]
        self.observer: Observer = proc_params["observer"] or _Unobserved()
        self.recorder: Recorder | None = proc_params["recorder"]
        self.silence = np.zeros(proc_params["shape"], np.int32)
        self.pending = self.neuron.start(proc_params["shape"]).pending

    def drive(self, local: int) -> Array:
        """This step's drive; waits for it."""
        raise NotImplementedError

    def run_spk(self) -> None:
        with self.observer.step(self.time_step):
            local = self.time_step - 1 - self.offset
            drive = self.drive(local)
            self.observer.working()
            self.s_out.send(self.silence if local < 0 else self.advance(local, drive))

    def advance(self, local: int, drive: Array) -> Array:
        """Step `local` (from 0) of the population: the spikes that it sends."""
        before = State(self.v, self.pending)
        after, spikes = self.neuron.step(before, drive, local % self.window, self.window)
        self.v, self.pending = after
        if self.recorder is not None:
            self.recorder.write(local, spikes, self.v)
        return spikes


class _PyDrivenNeurons(_PyNeurons):
    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int64)

    def drive(self, local: int) -> Array:
        received: Array = self.a_in.recv()
        return received


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySource(_PyNeurons):
    """Source in integers."""

    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        self.inputs: Array = proc_params["inputs"]

    def drive(self, local: int) -> Array:
        """The image of this window."""
        image = local // self.window
        return self.inputs[image] if 0 <= image < len(self.inputs) else self.silence

    def advance(self, local: int, drive: Array) -> Array:
        """The image's payload; silence, not a clipped zero, after the last image."""
        ended = local >= len(self.inputs) * self.window
        return self.silence if ended else super().advance(local, drive)


@implements(proc=SoftResetIF, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySoftResetIF(_PyDrivenNeurons):
    """SoftResetIF in integers."""


@implements(proc=Window, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyWindow(_PyDrivenNeurons):
    """Window in integers."""


@implements(proc=Readout, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyReadout(_PyDrivenNeurons):
    """Readout in integers."""


@implements(proc=Synapse, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySynapse(PyLoihiProcessModel):
    """Synapse in integers."""

    s_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    a_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int64)

    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        self.map: ExactMap = proc_params["map"]
        self.observer: Observer = proc_params["observer"] or _Unobserved()
        nothing = np.zeros(self.map.map.in_shape, np.int32)
        self.delayed = deque([nothing] * proc_params["delay"])
        self.current = np.zeros(self.map.map.out_shape, np.int64)

    def run_spk(self) -> None:
        """Send what the step before left, then receive and sum."""
        with self.observer.step(self.time_step):
            self.a_out.send(self.current.reshape(self.a_out.shape))
            self.delayed.append(self.s_in.recv())
            self.observer.working()
            self.current = self.map(self.delayed.popleft().reshape(self.map.map.in_shape))
