"""Capture: a torch.nn.Module and a few samples become an ir.Graph.

torch.fx traces the module symbolically; the trace is then executed on real samples, so every
shape and every Python number that the forward computes is known. Each call that touches a tensor
must have a row in `layers.TABLE`; anything else is refused by name. Nothing is skipped.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import re
import traceback
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from torch import fx

from lapilli.compiler.errors import CaptureError, InputError
from lapilli.compiler.ir import Graph, Input, Node
from lapilli.compiler.layers import TABLE
from lapilli.compiler.layers.rule import Call, LayerRule, Operand
from lapilli.compiler.numerics import FloatArray

BATCH = 3
"""Samples used for capture: few, and unlike any usual channel count, so batch axes stand out."""

# Calls that turn a tensor into numbers of its shape; other numbers taken from a tensor would be
# data-dependent Python and cannot be compiled.
_SHAPE_QUERIES = {"size", "dim", "ndimension", "getattr", "ndim", "shape"}


def evaluation_copy(model: torch.nn.Module) -> torch.nn.Module:
    """A copy on the CPU, float32, in evaluation mode, with finite weights (else InputError)."""
    clone = copy.deepcopy(model).cpu().float().eval()
    for name, tensor in [*clone.named_parameters(), *clone.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                name,
                "weights and statistics are finite",
                found=f"{bad} NaN or infinite values of {tensor.numel()}",
                allowed="none",
                remedy="The checkpoint is damaged or its training diverged.",
            )
    return clone.requires_grad_(False)


def capture(model: torch.nn.Module, samples: FloatArray) -> Graph:
    """The graph of `model` (from `evaluation_copy`) for inputs like `samples` (N, ...)."""
    batch = torch.as_tensor(np.resize(samples, (BATCH, *samples.shape[1:])), dtype=torch.float32)
    try:
        with torch.no_grad():
            model(batch)
    except Exception as error:
        raise InputError(
            type(model).__name__,
            "the network accepts the calibration images",
            found=f"shape {tuple(batch.shape)}: {type(error).__name__}: {error}",
            allowed="images as the model takes them",
            remedy="Check the shape (N, C, H, W) and the number of channels.",
        ) from error
    interpreter = _Capture(_trace(model, batch))
    with torch.no_grad():
        interpreter.run(batch)
    graph = interpreter.captured()
    graph.verify()
    return graph


class _Root(torch.nn.Module):
    """Gives every network one tensor argument; further arguments keep their defaults."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, input: Any) -> Any:  # noqa: A002 - the name of the input population
        return self.network(input)


class _Proxy(fx.Proxy):
    """A traced tensor that knows its shape, so that Python code on shapes runs as it is."""

    @property
    def value(self) -> Any:
        return self.tracer.values[self.node]

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.value.shape)

    @property
    def ndim(self) -> int:
        return int(self.value.ndim)

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        return self.value.device  # type: ignore[no-any-return]

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return int(self.value.numel())

    def __len__(self) -> int:
        return len(self.value)


class _Tracer(fx.Tracer):
    """Executes every call on real samples while it is traced."""

    def __init__(self, batch: torch.Tensor):
        super().__init__()
        self.record_stack_traces = True
        self.values: dict[fx.Node, Any] = {}
        self._batch = batch
        self._executing = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(self, m: torch.nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._executing else super().call_module(
            m, forward, args, kwargs
        )

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if self._executing:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any
    ) -> Any:
        proxy = super().create_proxy(kind, target, args, kwargs, *more, **options)
        args, kwargs = fx.node.map_arg(
            (proxy.node.args, proxy.node.kwargs), lambda node: self.values[node]
        )
        self._executing = True  # what runs now is torch itself, not the user's code
        try:
            self.values[proxy.node] = self._execute(kind, target, args, kwargs)
        finally:
            self._executing = False
        return proxy

    def _execute(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        if kind == "placeholder":
            return self._batch.clone()
        if kind == "get_attr":
            return _attribute(self.root, target)
        if kind == "call_module":
            return self.root.get_submodule(target).forward(*args, **kwargs)
        if kind == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs) if kind == "call_function" else None


def _attribute(root: torch.nn.Module, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root


def _trace(model: torch.nn.Module, batch: torch.Tensor) -> fx.GraphModule:
    root = _Root(model)
    try:
        with torch.no_grad():
            return fx.GraphModule(root, _Tracer(batch).trace(root))
    except Exception as error:
        raise CaptureError(
            type(model).__name__,
            "the forward can be traced by torch.fx",
            found=f"{type(error).__name__}: {error} at {_own_line(error)}",
            allowed="Python decisions on shapes only, never on the values of tensors",
            remedy="Replace data-dependent `if`, `for` and asserts by fixed ones.",
        ) from error


def _own_line(error: BaseException) -> str:
    """The innermost line of the user's code in a traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if not _of_library(f.filename)]
    return f"{own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else "an unknown line"


def _of_library(file: str) -> bool:
    return file.startswith((inspect.getfile(torch).rsplit("/", 1)[0], __file__))


def _resolve(name: str) -> Any:
    """The object that a full name such as torch.nn.functional.relu stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def _rules(kind: str) -> dict[Any, tuple[LayerRule, tuple[str, ...], str]]:
    return {
        (key if kind == "methods" else _resolve(key)): (rule, parameters, key)
        for rule in TABLE
        for key, parameters in getattr(rule, kind).items()
    }


class _Capture(fx.Interpreter):
    """Runs the trace on real samples and writes down one node per call that touches them."""

    def __init__(self, module: fx.GraphModule):
        super().__init__(module)
        self._table = {kind: _rules(kind) for kind in ("modules", "functions", "methods")}
        self._nodes: list[Node] = []
        self._values: dict[fx.Node, Any] = {}  # Operand, or a value that no input reaches
        self._outputs: tuple[str, ...] = ()
        self._taken: set[str] = set()

    def captured(self) -> Graph:
        """The nodes written down, in order."""
        return Graph(tuple(self._nodes), self._outputs)

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        args = fx.node.map_arg(n.args, lambda node: self._values[node])
        kwargs = fx.node.map_arg(n.kwargs, lambda node: self._values[node])
        if n.op == "placeholder":
            value: Any = self._input(n, result)
        elif n.op == "output":
            self._outputs = tuple(self._output_names(n, args[0]))
            value = None
        elif not _has_operand((args, kwargs)):
            value = result  # constants: parameters, buffers, numbers
        elif not isinstance(result, torch.Tensor):
            value = self._number(n, result)
        else:
            value = self._call(n, args, kwargs, tuple(result.shape))
        self._values[n] = value
        return result

    def _input(self, n: fx.Node, result: Any) -> Operand:
        name = self._unique(str(n.target))
        self._nodes.append(Input(name=name, inputs=(), shape=tuple(result.shape[1:])))
        return Operand(name, tuple(result.shape[1:]))

    def _output_names(self, n: fx.Node, value: Any) -> list[str]:
        if isinstance(value, Operand):
            return [value.name]
        if isinstance(value, dict):
            value = tuple(value.values())
        if isinstance(value, (tuple, list)):
            return [name for item in value for name in self._output_names(n, item)]
        raise CaptureError(
            "outputs",
            "every output depends on the input",
            found=type(value).__name__,
            allowed="tensors that the network computed, alone or in tuples, lists, dicts",
            remedy="Return tensors only.",
        )

    def _number(self, n: fx.Node, result: Any) -> Any:
        """A Python value taken from a tensor: its shape is fixed, anything else is data."""
        name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
        attribute = n.args[1] if name == "getattr" and len(n.args) > 1 else name
        if name in _SHAPE_QUERIES and attribute in _SHAPE_QUERIES:
            return result
        raise self._describe(n, ()).refuse(
            "a call has a lowering",
            f"{name} returning {type(result).__name__}",
            "calls that return one tensor; docs list the supported ones",
            "Replace the call; values of tensors cannot steer Python code.",
        )

    def _call(self, n: fx.Node, args: Any, kwargs: Any, shape: tuple[int, ...]) -> Operand:
        call = self._describe(n, shape)
        rule, parameters, key = self._find(n, call)
        if shape[0] != BATCH:
            raise call.refuse(
                "the batch stays the first dimension",
                f"result of shape {shape} for {BATCH} images",
                f"({BATCH}, ...)",
                "Keep the batch dimension first.",
            )
        built = rule.build(call, **_bind(n, call, parameters, args, kwargs, self.module))
        if isinstance(built, Node):
            self._taken.add(built.name)
            self._nodes.append(built)
            built = Operand(built.name, built.shape)
        if _in_place(n, key):
            # Whatever reads the overwritten tensor from now on reads the result.
            self._values[n.args[0] if n.args else n.kwargs["input"]] = built
        return built

    def _find(self, n: fx.Node, call: Call) -> tuple[LayerRule, tuple[str, ...], str]:
        kind = {"call_module": "modules", "call_function": "functions", "call_method": "methods"}
        target = type(self.fetch_attr(n.target)) if n.op == "call_module" else n.target
        found = self._table[kind[n.op]].get(target)
        if found is None:
            raise call.refuse(
                "an operator has a lowering",
                call.called,
                "the layers of lapilli.compiler.layers",
                "Replace it by a supported layer, or add a rule for it.",
            )
        return found

    def _describe(self, n: fx.Node, shape: tuple[int, ...]) -> Call:
        stack: OrderedDict[str, Any] = n.meta.get("nn_module_stack") or OrderedDict()
        scope = next(reversed(stack.values()))[0] if stack else ""
        if n.op == "call_module":
            called, path = type(self.fetch_attr(n.target)).__name__, str(n.target)
        else:
            called = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "?")
            path = f"{scope}.{called}"
        path = path.removeprefix("network").strip(".") or called.lower()
        return Call(self._unique(path), called, shape[1:], _place(n) or f"module {path}", BATCH)

    def _unique(self, path: str) -> str:
        name, suffix = path, 0
        while name in self._taken:
            suffix += 1
            name = f"{path}_{suffix}"
        if not self._nodes:
            self._taken.add(name)
        return name


def _has_operand(value: Any) -> bool:
    if isinstance(value, Operand):
        return True
    if isinstance(value, dict):
        return any(_has_operand(v) for v in value.values())
    if isinstance(value, slice):
        return any(_has_operand(v) for v in (value.start, value.stop, value.step))
    return isinstance(value, (tuple, list)) and any(_has_operand(v) for v in value)


def _in_place(n: fx.Node, key: str) -> bool:
    if n.op == "call_module":
        return False  # an inplace nn.ReLU is the only module of its kind; see _bind
    last = key.rsplit(".", 1)[-1]
    return last.endswith("_") or bool(n.kwargs.get("inplace")) or last in {
        "iadd", "isub", "imul", "itruediv",
    }


def _bind(
    n: fx.Node, call: Call, parameters: tuple[str, ...], args: Any, kwargs: Any, root: Any
) -> dict[str, Any]:
    """Arguments by the names that `build` knows; tensors that no input reaches as arrays."""
    if n.op == "call_module":
        module = root.get_submodule(n.target)
        bound = {"input": args[0] if args else next(iter(kwargs.values()))}
        bound |= {name: getattr(module, name) for name in parameters}
    else:
        names = [p for p in parameters if not p.startswith("*")]
        extra = len(args) - len(names)
        if extra > 0 and len(names) == len(parameters):
            raise call.refuse(
                "a call has the arguments that its lowering knows",
                f"{len(args)} positional arguments",
                parameters,
                "Pass the further arguments by name.",
            )
        bound = {**dict(zip(names, args, strict=False)), **kwargs}
    return {name: _as_array(value) for name, value in bound.items()}


def _as_array(value: Any) -> Any:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value


def _place(n: fx.Node) -> str:
    """file:line in function: code, of the innermost frame of the user's own code."""
    frames = re.findall(r'File "(.+)", line (\d+), in (\S+)\n\s*(.+)', n.stack_trace or "")
    own = [frame for frame in frames if not _of_library(frame[0])]
    if not own:
        return ""
    file, line, function, code = own[-1]
    return f"{file}:{line} in {function}: {code}"
