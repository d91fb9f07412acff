"""Capture: a torch.nn.Module and a few samples become an ir.Graph.

Each call on a tensor that depends on the input must have a row in `layers.TABLE`; anything else is
refused by name. Nothing is skipped.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import fx

from lapilli.compiler.errors import CaptureError, InputError
from lapilli.compiler.ir import Graph, Input, Node
from lapilli.compiler.layers import TABLE, known
from lapilli.compiler.layers.refused import remedy
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, Parts
from lapilli.compiler.numerics import FloatArray
from lapilli.compiler.tracing import Trace, failing_place, trace

BATCH = 5
"""Samples used for capture: few, and unlike any usual channel count, so batch axes stand out."""


def evaluation_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU, float32, in evaluation mode, with finite weights.

    Raises InputError for anything but a network, and for weights that are not finite.
    """
    if not isinstance(model, torch.nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "model",
            "a network is a torch.nn.Module of Python code",
            found=type(model).__name__,
            allowed="torch.nn.Module, not yet scripted",
            remedy="Pass the network itself, not its class, its state_dict or a script of it.",
        )
    try:
        clone = copy.deepcopy(model).cpu().float().eval()
    except Exception as error:
        raise InputError(
            type(model).__name__,
            "a network can be copied",
            found=f"{type(error).__name__}: {error}",
            allowed="what copy.deepcopy copies",
            remedy="Remove weight_norm and other hooks that keep tensors with gradients.",
        ) from error
    for name, tensor in [*clone.named_parameters(), *clone.named_buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            raise _bad_weights(name, "a lazy layer that has not seen data", "Run the network once.")
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            found = f"{bad} NaN or infinite values of {tensor.numel()}"
            raise _bad_weights(name, found, "The checkpoint is damaged or its training diverged.")
    return clone.requires_grad_(False)


def _bad_weights(name: str, found: str, advice: str) -> InputError:
    return InputError(
        name,
        "weights and statistics are finite numbers",
        found=found,
        allowed="finite numbers only",
        remedy=advice,
    )


def capture(model: torch.nn.Module, samples: FloatArray) -> Graph:
    """The graph of `model` (from `evaluation_copy`) for inputs like `samples` (N, ...).

    Raises InputError where the model does not take the samples, CaptureError where its forward
    cannot be traced, UnsupportedOperatorError where an operator has no lowering.
    """
    few = np.resize(samples[:BATCH], (BATCH, *samples.shape[1:]))
    batch = torch.tensor(few, dtype=torch.float32)
    try:
        with torch.no_grad():
            model(batch)
    except Exception as error:
        raise InputError(
            type(model).__name__,
            "the network accepts the calibration images",
            found=f"shape {tuple(batch.shape)}: {type(error).__name__}: {error} "
            f"at {failing_place(error)}",
            allowed="images as the model takes them",
            remedy="Check the shape (N, C, H, W) and the number of channels.",
        ) from error
    graph = _Capture(trace(model, batch)).run()
    graph.verify()
    return graph


_Kind = Literal["modules", "functions", "methods"]
_KINDS: dict[str, _Kind] = {
    "call_module": "modules",
    "call_function": "functions",
    "call_method": "methods",
}


def _resolve(name: str) -> Any:
    """The object that a full name such as torch.nn.functional.relu stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _rules(kind: _Kind) -> dict[Any, tuple[LayerRule, tuple[str, ...]]]:
    return {
        (key if kind == "methods" else _resolve(key)): (rule, parameters)
        for rule in TABLE
        for key, parameters in getattr(rule, kind).items()
        # A model that calls a library's operator has imported that library.
        if kind == "methods" or key.rpartition(".")[0] in sys.modules
    }


@final
@dataclass(frozen=True)
class _Overwritten:
    """The value of a tensor that a call changed in place through another view of its memory."""

    by: str


class _Capture:
    """Walks the trace and writes down one node per call on what depends on the input."""

    def __init__(self, trace: Trace):
        self._trace = trace
        self._table = {op: _rules(kind) for op, kind in _KINDS.items()}
        self._nodes: list[Node] = []
        self._names: set[str] = set()
        # Operand, Parts, _Overwritten, or a constant.
        self._values: dict[fx.Node, Any] = {}

    def run(self) -> Graph:
        """The graph of the whole trace."""
        outputs: tuple[str, ...] = ()
        for n in self._trace.nodes:
            result = self._trace.result(n)
            if n.op == "placeholder":
                node = Input(name=str(n.target), inputs=(), shape=tuple(result.shape[1:]))
                self._values[n] = self._write(node)
            elif n.op == "output":
                outputs = tuple(self._output_names(self._arguments(n, n.args[0])))
            elif any(isinstance(self._values[m], _NETWORK) for m in n.all_input_nodes):
                call = self._describe(n)
                self._values[n] = self._call(n, call)
                self._overwrite(n, call)
            else:
                self._values[n] = result
        return Graph(tuple(self._nodes), outputs)

    def _write(self, node: Node) -> Operand:
        self._names.add(node.name)
        self._nodes.append(node)
        return Operand(node.name, node.shape)

    def _arguments(self, n: fx.Node, arguments: Any) -> Any:
        """Arguments of a node with values in place of nodes."""

        def value(node: fx.Node) -> Any:
            found = self._values[node]
            if isinstance(found, _Overwritten):
                raise self._describe(n).refuse(
                    "a tensor that was overwritten in place is read through the same view",
                    f"a tensor whose memory {found.by} has overwritten",
                    "in-place calls on tensors without other views",
                    "Use the form without the trailing underscore or inplace=True.",
                )
            return found

        return fx.node.map_arg(arguments, value)

    def _output_names(self, value: Any) -> list[str]:
        if isinstance(value, Operand):
            return [value.name]
        if isinstance(value, dict):
            value = tuple(value.values())
        if isinstance(value, (tuple, list)):
            return [name for item in value for name in self._output_names(item)]
        raise CaptureError(
            "outputs",
            "every output depends on the input",
            found=type(value).__name__,
            allowed="tensors that the network computed, alone or in tuples, lists, dicts",
            remedy="Return tensors only.",
        )

    def _call(self, n: fx.Node, call: Call) -> Operand | Parts:
        found = self._table[n.op].get(
            type(self._trace.module(n)) if n.op == "call_module" else n.target
        )
        if found is None:
            raise call.refuse(
                "an operator has a lowering",
                call.called,
                known(_KINDS[n.op]),
                remedy(call.called),
            )
        rule, parameters = found
        result = self._trace.result(n)
        for item in result if rule.splits and isinstance(result, (tuple, list)) else (result,):
            self._check_result(call, item)
        args = self._arguments(n, n.args)
        kwargs = self._arguments(n, n.kwargs)
        if n.op == "call_module":
            module = self._trace.module(n)
            read = {name: getattr(module, name) for name in parameters}
            bound = {"input": args[0] if args else next(iter(kwargs.values())), **read}
        else:
            bound = _bind(call, rule, parameters, args, kwargs)
        _check_constants(call, bound)
        built = rule.build(call, **{name: _as_array(value) for name, value in bound.items()})
        return self._write(built) if isinstance(built, Node) else built

    def _check_result(self, call: Call, result: Any) -> None:
        """Refuse what a lowering does not expect: another type, or images mixed with each other."""
        found = str(result.dtype) if isinstance(result, torch.Tensor) else type(result).__name__
        if found != "torch.float32":
            raise call.refuse(
                "a call returns one float32 tensor", found, "torch.float32", remedy("type")
            )
        if result.ndim == 0 or result.shape[0] != BATCH:
            raise call.refuse(
                "the batch stays the first dimension",
                f"result of shape {tuple(result.shape)} for {BATCH} images",
                f"({BATCH}, ...)",
                "Keep the batch dimension first, for example x.flatten(1).",
            )

    def _overwrite(self, n: fx.Node, call: Call) -> None:
        """Give the names of tensors that this call changed in place their new value."""
        by = _Overwritten(f"{call.called} at {call.where}")
        for changed, same in self._trace.overwritten(n):
            self._values[changed] = self._values[n] if same else by

    def _describe(self, n: fx.Node) -> Call:
        if n.op == "output":
            return Call("outputs", "return", (), "the end of the network's forward")
        path = self._trace.module_path(n)
        if n.op == "call_module":
            called = type(self._trace.module(n)).__name__
            path = path or called.lower()  # a network that is one layer
        else:
            called = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "?")
            if called == "getattr":  # an attribute that only a real tensor has
                called = str(n.args[1])
            path = f"{path}.{called}" if path else called
        result = self._trace.result(n)
        parts = result if isinstance(result, (tuple, list)) else ()
        return Call(
            self._unique(path),
            called,
            _shape(result),
            self._trace.place(n) or f"module {path}",
            tuple(_shape(part) for part in parts),
        )

    def _unique(self, path: str) -> str:
        name, count = path, 0
        while name in self._names:
            count += 1
            name = f"{path}_{count}"
        return name


def _shape(result: Any) -> tuple[int, ...]:
    """Without the batch. One number per image is one channel: everything has a first axis."""
    return (tuple(result.shape[1:]) if isinstance(result, torch.Tensor) else ()) or (1,)


_NETWORK = (Operand, Parts, _Overwritten)
"""Values that depend on the input."""


def _bind(
    call: Call, rule: LayerRule, parameters: tuple[str, ...], args: Any, kwargs: Any
) -> dict[str, Any]:
    """Arguments by the names that `build` knows."""
    names = [p for p in parameters if not p.startswith("*")]
    accepted = inspect.signature(rule.build).parameters.values()
    anything = any(p.kind is p.VAR_KEYWORD for p in accepted)
    unknown = [name for name in kwargs if name not in {p.name for p in accepted}]
    more = len(args) - len(names)
    if (unknown and not anything) or (more > 0 and len(names) == len(parameters)):
        raise call.refuse(
            "a call has the arguments that its lowering knows",
            ", ".join(unknown) or f"{len(args)} positional arguments",
            ", ".join(names),
            "Leave the other arguments out.",
        )
    bound = {**dict(zip(names, args, strict=False)), **kwargs}
    if parameters[-1].startswith("**") and more > 0:
        bound[parameters[-1][2:]] = tuple(args[len(names) :])
    return bound


def _check_constants(call: Call, bound: dict[str, Any]) -> None:
    """Refuse weights, indices and settings that depend on the input."""
    for name, value in bound.items():
        if name not in ("input", "other") and isinstance(value, Operand):
            raise call.refuse(
                "parameters are constants",
                f"{name} that depends on the input",
                "weights, indices and settings that are the same for every image",
                "Make them fixed: dynamic weights have no spiking form.",
            )


def _as_array(value: Any) -> Any:
    if isinstance(value, (tuple, list)) and any(isinstance(item, Operand) for item in value):
        return [_as_array(item) for item in value]  # several tensors, some of them constant
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return (value.double() if value.is_floating_point() else value).numpy()
