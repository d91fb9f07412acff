"""What all processes of neurons share: constructor, documentation, and one step of any model.

`DrivenNeurons` makes a Lava process of a neuron model: its keywords are the fields of the model's
dataclass, its Vars the model's variables. `models` makes its process models, which call the neuron
model's `step`. So a process is a class with a docstring, and one line; see `processes`.

Not beside the processes, whose folder Lava executes for every process that it looks up.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, final, get_args, get_origin

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.model import AbstractProcessModel
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from lapilli.compiler.linear import Array, Shape
from lapilli.compiler.neurons import NeuronModel
from lapilli.compiler.storage import fields_of
from lapilli.runtime.lava.clock import Clock, FixedClock, Place

Tag = Literal["fixed_pt", "floating_pt"]
TAGS: tuple[Tag, ...] = get_args(Tag)
DEFAULTS = {"bias": 0, "initial": 0, "decay": 0, "lowest": 0, "foot": 0, "current": 0}
"""Parameters that a user may leave out."""
LARGEST_SPIKE = 2**31 - 1
_KEYWORD = inspect.Parameter.KEYWORD_ONLY


class Observer(Protocol):
    """Follows one process through its steps; see `journal.Watch`."""

    def step(self, time_step: int) -> AbstractContextManager[None]:
        """Around one step."""

    def working(self) -> None:
        """All messages have arrived."""


@final
class Unobserved:
    """The observer of a process that nobody follows."""

    def step(self, time_step: int) -> AbstractContextManager[None]:
        """Nothing around a step."""
        return nullcontext()

    def working(self) -> None:
        """Nothing when the messages are there."""
        return


@final
@dataclass(frozen=True, eq=False)
class Recorder:
    """Arrays that a population fills as it runs, by kind, with the shapes of `Trace`.

    Spikes are counted from `lag` steps after the population's first one, when those of its first
    window begin to leave; only windows without gaps have a lag. Windows beyond the arrays are not
    recorded.
    """

    arrays: dict[str, Array]
    window: int
    lag: int

    def write(self, place: Place, spikes: Array, v: Array, *, counts: bool) -> None:
        """Record one step of the population; counts: is it one of those that the image needs?"""
        image, tau = place
        self._put("states", image, tau, v)
        if counts and "readouts" in self.arrays:  # the last such step is the one that stays
            self.arrays["readouts"][image : image + 1] = v
        sent = image * self.window + tau - self.lag
        if sent >= 0:
            image, tau = divmod(sent, self.window)
            self._put("spikes", image, tau, spikes)
            if "counts" in self.arrays:
                self.arrays["counts"][image : image + 1] += spikes

    def _put(self, kind: str, image: int, tau: int, values: Array) -> None:
        if kind in self.arrays:
            self.arrays[kind][image : image + 1, tau] = values


class CheckedProcess(AbstractProcess):
    """Refuses fixed_pt where `real_numbers` names something that is not an integer.

    Lava reads `model_class` when it compiles, in the user's program. Later, an exception inside a
    process makes it wait for ever.
    """

    real_numbers = ""
    _runtime = None  # what Lava's __del__ looks for, also where a constructor raised

    def __init_subclass__(cls) -> None:
        # Without it, help() shows the keywords of Lava's metaclass: none.
        _, *keywords = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(keywords)

    @property
    def model_class(self) -> type[AbstractProcessModel] | None:
        """The process model that Lava has chosen, if it has."""
        chosen: type[AbstractProcessModel] | None = super().model_class
        if chosen is not None and "fixed_pt" in chosen.tags and self.real_numbers:
            raise ValueError(
                f"{self.name}: fixed_pt computes in integers; found {self.real_numbers}; "
                "for real numbers use Loihi2SimCfg(select_tag='floating_pt')"
            )
        return chosen


class Neurons(CheckedProcess):
    """Neurons of one model, in windows: `window` steps each, `gap` idle steps between, first
    `offset` idle steps. Vars: the model's variables. Ports: s_out.
    """

    def __init__(
        self,
        neuron: NeuronModel,
        *,
        shape: Shape,
        window: int,
        offset: int,
        gap: int,
        clock: Clock | None,
        **more: Any,
    ):
        if window < 1 or offset < 0 or gap < 0:
            raise ValueError(
                f"window >= 1, offset and gap >= 0; found {window}, {offset} and {gap}"
            )
        clock = FixedClock(window, gap) if clock is None else clock
        more = {"shape": shape, "neuron": neuron, "clock": clock, **more}
        super().__init__(window=window, offset=offset, **more)
        self.real_numbers = ", ".join(
            _real_numbers({**vars(neuron), "inputs": more.get("inputs", 0)})
        )
        for name, values in neuron.start(shape).items():
            setattr(self, name, Var(shape=values.shape, init=0))
        self.s_out = OutPort(shape=shape)


class DrivenNeurons(Neurons):
    """A process of the neuron model `MODEL`; its keywords are the model's fields and those below.

    shape: of the population; window, offset, gap: steps, see `processes`; name: of the process;
    clock, observer, recorder: of a supervised run. Raises ValueError where parameters do not fit
    the shape or break the model's rules, TypeError for keywords that are missing or unknown.
    """

    MODEL: ClassVar[type[NeuronModel]]

    def __init_subclass__(cls) -> None:
        cls.__signature__ = _signature(cls.MODEL)
        cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n\n{_reference(cls.MODEL)}"

    def __init__(self, **keywords: Any):
        bound = type(self).__signature__.bind(**keywords)
        bound.apply_defaults()
        given, shape = bound.arguments, tuple(bound.arguments["shape"])
        parameters = {
            name: _parameter(self.MODEL, name, given.pop(name), shape)
            for name in fields_of(self.MODEL)
        }
        neuron = self.MODEL(**parameters)
        flaw = None if _real_numbers(parameters) else neuron.flaw(given["window"])
        if flaw is not None:
            raise ValueError(f"{flaw.rule}: {flaw.allowed}; found {flaw.found}")
        super().__init__(neuron, **{**given, "shape": shape})
        self.a_in = InPort(shape=shape)


def _signature(model: type[NeuronModel]) -> inspect.Signature:
    defaults = {"offset": 0, "gap": 0, "name": None, "clock": None}
    defaults.update({"observer": None, "recorder": None})
    names = ["shape", *fields_of(model), "window", *defaults]
    defaults.update(DEFAULTS)
    missing = inspect.Parameter.empty
    return inspect.Signature(
        [inspect.Parameter(name, _KEYWORD, default=defaults.get(name, missing)) for name in names]
    )


def _reference(model: type[NeuronModel]) -> str:
    """The part of a process's documentation that follows from its model's fields."""
    hints = fields_of(model)
    leading = [f"(levels, ...) for {name}" for name in model.LEADING]
    arrays = [name for name, hint in hints.items() if get_origin(hint) is np.ndarray]
    choices = {n: get_args(h) for n, h in hints.items() if get_origin(h) is Literal}
    numbers = [n for n in hints if n not in arrays and n not in choices]
    lines = []
    if arrays:
        fits = "; ".join(["numbers or arrays that broadcast to `shape`", *leading])
        lines.append(f"{', '.join(arrays)}: {fits}.")
    if numbers:
        lines.append(f"{', '.join(numbers)}: one number for all neurons.")
    lines += [
        f"{name}: one of {', '.join(map(repr, allowed))}." for name, allowed in choices.items()
    ]
    lines += [
        "shape: of the population; window: steps of one image; offset: steps before its first;",
        "gap: idle steps between two windows.",
        "Ports: a_in (currents), s_out (spikes), both of `shape`.",
        f"Vars: {', '.join(model.VARIABLES)}.",
    ]
    return "\n".join(lines)


def _parameter(model: type[NeuronModel], name: str, value: Any, shape: Shape) -> Any:
    hint = fields_of(model)[name]
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} is one of {get_args(hint)}; found {value!r}")
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name} is a number; found {array.dtype}")
    if get_origin(hint) is not np.ndarray:
        return array.item()
    own = name in model.LEADING
    fits = array.ndim >= own and len(array.shape[own:]) <= len(shape)
    pairs = zip(array.shape[own:][::-1], shape[::-1], strict=False)
    if not fits or any(have not in (1, want) for have, want in pairs):
        raise ValueError(f"{name} broadcasts to {shape}; found {array.shape}")
    return array.astype(np.float64 if array.dtype.kind == "f" else np.int64)


def _real_numbers(values: Mapping[str, Any]) -> list[str]:
    return [name for name, value in values.items() if np.asarray(value).dtype.kind == "f"]


class PyNeurons(PyLoihiProcessModel):
    """One step of any neuron model. STATE: of the variables and of the arithmetic."""

    STATE: ClassVar[type[np.int64] | type[np.float64]]

    def __init__(self, proc_params: Any):
        super().__init__(proc_params)
        neuron: NeuronModel = proc_params["neuron"]
        arrays = {n: v for n, v in vars(neuron).items() if isinstance(v, np.ndarray)}
        self.neuron = replace(neuron, **{n: v.astype(self.STATE) for n, v in arrays.items()})
        self.window, self.offset = proc_params["window"], proc_params["offset"]
        self.clock: Clock = proc_params["clock"]
        self.observer: Observer = proc_params["observer"] or Unobserved()
        self.recorder: Recorder | None = proc_params["recorder"]
        self.silence = np.zeros(proc_params["shape"], self.STATE)

    def drive(self, place: Place | None) -> Array:
        """This step's drive; waits for it."""
        received: Array = self.a_in.recv()
        return received

    def run_spk(self) -> None:
        """One step: receive, update unless idle, send."""
        with self.observer.step(self.time_step):
            place = self.clock.at(self.time_step - 1 - self.offset)
            drive = self.drive(place)
            self.observer.working()
            self.s_out.send(self.silence if place is None else self.advance(place, drive))

    def advance(self, place: Place, drive: Array) -> Array:
        """One step of the population: the spikes that it sends."""
        before = {name: getattr(self, name) for name in self.neuron.VARIABLES}
        state, spikes = self.neuron.step(before, drive, place.tau, self.window)
        for name, values in state.items():
            before[name][...] = values  # in place: Lava reads and writes these arrays
        counts = self.clock.update(place, before["v"])
        if self.recorder is not None:
            self.recorder.write(place, spikes, before["v"], counts=counts)
        return spikes


def models(
    process: type[Neurons],
    model: type[NeuronModel],
    *tags: Tag,
    base: type[PyNeurons] = PyNeurons,
) -> list[type[PyNeurons]]:
    """The process models of `process`, one per tag, for the module that defines it."""
    return [_process_model(process, model, name, base) for name in tags or TAGS]


def _process_model(
    process: type[Neurons], model: type[NeuronModel], name: Tag, base: type[PyNeurons]
) -> type[PyNeurons]:
    fixed = name == "fixed_pt"
    state = np.int64 if fixed else np.float64
    spike = np.int32 if fixed else np.float64
    members: dict[str, Any] = {
        "__module__": process.__module__,
        "__doc__": f"{process.__name__} in {'integers' if fixed else 'floats, without limits'}.",
        "STATE": state,
        "s_out": LavaPyType(PyOutPort.VEC_DENSE, spike, precision=24),
    }
    if issubclass(process, DrivenNeurons):
        members["a_in"] = LavaPyType(PyInPort.VEC_DENSE, state)
    for variable in model.VARIABLES:
        members[variable] = LavaPyType(np.ndarray, state, precision=24)
    made = type(f"Py{process.__name__}{'' if fixed else 'Float'}", (base,), members)
    decorated: type[PyNeurons] = tag(name)(
        requires(CPU)(implements(proc=process, protocol=LoihiProtocol)(made))
    )
    return decorated
