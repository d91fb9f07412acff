"""Other layers in place of a network's activations, wherever and however these are called.

The network is recorded once, as capture does it, to find every call. It then keeps its own Python
code, so that dropout, BatchNorm and batches of any size work as before: modules are exchanged, and
calls such as F.relu(x) or x.relu() are turned to their layer while the network runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody knows
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from lapilli.compiler.capture.binding import BATCH, few
from lapilli.compiler.capture.tracing import Trace, trace
from lapilli.compiler.errors import CaptureError
from lapilli.compiler.frontend import evaluation_copy
from lapilli.compiler.numerics import FloatArray
from lapilli.compiler.training.qcfs import QCFS

Make = Callable[[str, int, Tensor], nn.Module]
"""make(place, channels, largest): the layer for a place, named as its population is going to be;
largest: what the activation came to there, per channel (C,); of a QCFS its threshold, () or (C,).
"""

_MODULES: dict[type[nn.Module], float | None] = {nn.ReLU: None, nn.ReLU6: 6.0, QCFS: None}
_FUNCTIONS: dict[Any, float | None] = {
    F.relu: None,
    torch.relu: None,
    torch.Tensor.relu: None,
    F.relu_: None,
    torch.relu_: None,
    torch.Tensor.relu_: None,
    F.relu6: 6.0,
    "relu": None,
    "relu_": None,
}
"""What is called, methods by their names -> where it ends, None: nowhere."""
AT_ONCE = 64
"""Images that largest activities are measured on at a time."""


def substituted(network: nn.Module, make: Make, images: FloatArray) -> nn.Module:
    """A copy of `network` with a new layer in the place of every ReLU, ReLU6 and QCFS.

    Modules, functions and methods, in place or not; a module that is called at several places gets
    a layer for each. Names of other parameters stay. images: float (N, ...) as the network takes
    them. Raises CaptureError for a network that cannot be traced, has no such activation, or whose
    in-place activation's operand is read again; InputError for weights that are not finite.
    """
    batch = torch.tensor(few(images, BATCH), dtype=torch.float32)
    recorded = trace(evaluation_copy(network), batch)
    calls = [n for n in recorded.nodes if _is_activation(recorded, n)]
    if not calls:
        raise _refuse(
            type(network).__name__,
            "a network has activations to put layers in the place of",
            "none",
            "nn.ReLU, nn.ReLU6, QCFS, F.relu, F.relu6, torch.relu, x.relu()",
            "Use ReLU, or write the layers into the network itself.",
        )
    _check_in_place(recorded, calls)
    if type(network) in _MODULES:  # a network that is one activation
        seen = _Measured(_original(network))
        _measure(seen, images)
        return seen.replacement("", make)
    result = copy.deepcopy(network)
    places = _occupied(result, recorded, calls)
    training = result.training
    _measure(result.eval(), images)
    for place in places:
        measured = place.layer
        assert isinstance(measured, _Measured)
        place.put(measured.replacement(place.name, make))
    return result.train(training)


@final
@dataclass(frozen=True, eq=False)
class _Place:
    """Where a layer is registered: `key` of `parent`; name: its path in the network."""

    parent: nn.Module
    key: str
    name: str

    @property
    def layer(self) -> nn.Module:
        found = self.parent.get_submodule(self.key)
        assert isinstance(found, nn.Module)
        return found

    def put(self, layer: nn.Module) -> None:
        self.parent._modules[self.key] = layer


@final
class _Measured(nn.Module):
    """The activation that was there, and the largest value per channel that it came to."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.largest: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.original(x)
        now = y.detach().transpose(0, 1).flatten(1).amax(1)
        self.largest = now if self.largest is None else torch.maximum(self.largest, now)
        return y

    def replacement(self, name: str, make: Make) -> nn.Module:
        assert self.largest is not None
        own = self.original.threshold if isinstance(self.original, QCFS) else self.largest
        return make(name, len(self.largest), own.detach().clone())


@final
class _Clipped(nn.Module):
    """ReLU, or one with an end; never a call that `_Turned` turns."""

    def __init__(self, high: float | None) -> None:
        super().__init__()
        self.high = high

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0.0, self.high)


@final
class _InTurn(nn.Module):
    """In place of a module that is called several times: the layers "0", "1", .. in turn."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        for i, layer in enumerate(layers):
            self.add_module(str(i), layer)
        self.next = 0

    def forward(self, x: Any) -> Any:
        layer = self._modules[str(self.next)]
        assert layer is not None
        self.next = (self.next + 1) % len(self._modules)
        return layer(x)


@final
class _Turned(TorchFunctionMode):
    """While it is entered, the k-th call of an activation function is one of the k-th place."""

    def __init__(self, places: list[_Place]) -> None:
        initialise: Any = super().__init__  # typed by torch 2.13, and not by 2.3
        initialise()
        self.places = places
        self.next = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _FUNCTIONS:
            return func(*args, **kwargs)
        self.next += 1
        if self.next > len(self.places):
            return func(*args, **kwargs)  # `_Running.leave` says so
        return self.places[self.next - 1].layer(args[0] if args else kwargs["input"])


@final
class _Running:
    """Hooks of the whole network: everything in turn starts anew when it is called."""

    def __init__(self, in_turn: list[_InTurn], functions: list[_Place]) -> None:
        self.in_turn, self.functions = in_turn, functions
        self.mode: _Turned | None = None

    def enter(self, module: nn.Module, args: Any) -> None:
        for layers in self.in_turn:
            layers.next = 0
        if self.functions:
            self.mode = _Turned(self.functions)
            self.mode.__enter__()  # type: ignore[no-untyped-call]

    def leave(self, module: nn.Module, args: Any, result: Any) -> None:
        mode, self.mode = self.mode, None
        if mode is None:
            return
        mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if result is not None and mode.next != len(self.functions):
            raise _refuse(
                type(module).__name__,
                "a network calls the same activations whatever its input is",
                f"{mode.next} calls of functions",
                f"{len(self.functions)}, as on the images that its layers were made with",
                "Use nn.ReLU modules in what is not always run.",
            )


def _is_activation(recorded: Trace, n: fx.Node) -> bool:
    _, (called,) = recorded.keys(n)
    if _is_module(n):
        return called in _MODULES
    return n.op in ("call_function", "call_method") and called in _FUNCTIONS


def _original(module: nn.Module) -> nn.Module:
    """What a module computes, for `_Measured`."""
    return copy.deepcopy(module) if isinstance(module, QCFS) else _Clipped(_MODULES[type(module)])


def _check_in_place(recorded: Trace, calls: list[fx.Node]) -> None:
    """Layers do not write into their operand, so nobody may count on it."""
    order = {n: i for i, n in enumerate(recorded.nodes)}
    for n in calls:
        for changed, _ in recorded.overwritten(n):
            if any(order[reader] > order[n] for reader in changed.users):
                raise _refuse(
                    f"{recorded.named(n)[0]} at {recorded.place(n) or 'a module'}",
                    "what an in-place activation overwrites is not read again",
                    f"{recorded.named(n)[1]} in place",
                    "its result",
                    "Use the form without the trailing underscore or inplace=True.",
                )


def _occupied(result: nn.Module, recorded: Trace, calls: list[fx.Node]) -> list[_Place]:
    """The places of all calls, in order, each with a `_Measured` in it."""
    paths = [recorded.named(n)[0] for n in calls]
    often = {p: paths.count(p) for n, p in zip(calls, paths, strict=True) if _is_module(n)}
    in_turn: dict[str, _InTurn] = {}
    functions: list[_Place] = []
    found: list[_Place] = []
    for n, path in zip(calls, paths, strict=True):
        if not _is_module(n):
            measured = _Measured(_Clipped(_FUNCTIONS[n.target]))
            functions.append(_beside(result, path, measured))
            found.append(functions[-1])
            continue
        single = often[path] == 1
        if path not in in_turn:
            old = result.get_submodule(path)
            layers: list[nn.Module] = [_Measured(_original(old)) for _ in range(often[path])]
            in_turn[path] = _InTurn(layers)
            for place in list(_holders(result, old)):
                place.put(layers[0] if single else in_turn[path])
        key = str(sum(place.parent is in_turn[path] for place in found))
        found.append(
            _Place(*_parent(result, path), path)
            if single
            else _Place(in_turn[path], key, f"{path}.{key}")
        )
    several = [layers for path, layers in in_turn.items() if often[path] > 1]
    if several or functions:
        running = _Running(several, functions)
        result.register_forward_pre_hook(running.enter)
        result.register_forward_hook(running.leave, always_call=True)
    return found


def _is_module(n: fx.Node) -> bool:
    return n.op == "call_module"


def _holders(root: nn.Module, wanted: nn.Module) -> Iterator[_Place]:
    """Everywhere that a module is registered: shared ones are at several places."""
    for module in root.modules():
        for key, child in module._modules.items():
            if child is wanted:
                yield _Place(module, key, key)


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, key = path.rpartition(".")
    return root.get_submodule(parent), key


def _beside(root: nn.Module, path: str, layer: nn.Module) -> _Place:
    """`layer` registered in the module whose code makes the call, under the first free name."""
    parent, wanted = _parent(root, path)
    key, count = wanted, 0
    while hasattr(parent, key):
        count += 1
        key = f"{wanted}_{count}"
    parent.add_module(key, layer)
    return _Place(parent, key, path.removesuffix(wanted) + key)


def _measure(network: nn.Module, images: FloatArray) -> None:
    with torch.no_grad():
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        for first in range(0, len(images), AT_ONCE):
            part = torch.tensor(images[first : first + AT_ONCE], dtype=torch.float32)
            network(part.to(device))


def _refuse(where: str, rule: str, found: str, allowed: str, remedy: str) -> CaptureError:
    return CaptureError(where, rule, found=found, allowed=allowed, remedy=remedy)


def called_at(modules: Collection[str], place: str) -> bool:
    """Whether the call at a place is of one of the modules; one that is called several times has a
    place for each call, below its own."""
    return place in modules or place.rpartition(".")[0] in modules
