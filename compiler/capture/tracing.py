"""Tracing: torch.fx records the calls of a forward while each is executed on real samples.

So every shape and every Python number that the forward computes is known, and so is what a call
overwrites in place. Only what depends on the input is recorded; the rest is computed by Python as
it stands.
"""

from __future__ import annotations

import linecache
import operator
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, final

import numpy as np
import torch
from torch import fx
from torch.overrides import has_torch_function

from lapilli.compiler.capture.binding import plain
from lapilli.compiler.capture.execution import Execution, is_tensor
from lapilli.compiler.errors import CaptureError
from lapilli.compiler.layers import TABLE, Kind
from lapilli.compiler.outputs import named


def trace(model: torch.nn.Module, batch: torch.Tensor) -> Trace:
    """The calls of model(batch), with one tensor argument and defaults for all others.

    Raises CaptureError, with the line of the model's own code, where the forward cannot be traced.
    """
    tracer = _Tracer(batch)
    try:
        with torch.no_grad():
            graph = tracer.trace(_Root(model))
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} at {failing_place(error)}",
            "the forward can be traced by torch.fx",
            found=f"{type(error).__name__}: {error}",
            allowed="registered layers; Python decisions on shapes, never on values of tensors",
            remedy="Keep layers as attributes of modules or in an nn.ModuleList."
            if isinstance(error, NameError)
            else "Replace data-dependent `if`, `for` and asserts by fixed ones.",
        ) from error
    return Trace(graph, tracer)


_KINDS: dict[str, Kind] = {
    "call_module": "modules",
    "call_function": "functions",
    "call_method": "methods",
}


@final
class Trace:
    """The recorded calls in order, and what each did when it was executed: a `Recording`."""

    def __init__(self, graph: fx.Graph, tracer: _Tracer):
        self.nodes: tuple[fx.Node, ...] = tuple(graph.nodes)
        self.batch = tracer.batch
        self._tracer = tracer

    def is_input(self, node: fx.Node) -> bool:
        """Is this placeholder the network's input? There is no other."""
        return node.op == "placeholder"

    def result(self, node: fx.Node) -> Any:
        """What the call returned."""
        return self._tracer.real(node)

    def is_static(self, node: fx.Node) -> bool:
        """Does the call return what depends on the input's shape alone? Those are not recorded."""
        return False

    def keys(self, node: fx.Node) -> tuple[Kind, tuple[Any, ...]]:
        """The field of LayerRule, and the class, function or method that is called."""
        target = type(self._module(node)) if node.op == "call_module" else node.target
        return _KINDS.get(node.op, "functions"), (target,)

    def named(self, node: fx.Node) -> tuple[str, str]:
        """(population's name, what was called): after the user's named_modules()."""
        stack = node.meta.get("nn_module_stack") or {}
        path = str(next(reversed(stack.values()))[0]) if stack else ""
        path = path.removeprefix("network").removeprefix(".")
        if node.op == "call_module":
            called = type(self._module(node)).__name__
            return path or called.lower(), called  # without a path: a network that is one layer
        called = (
            node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
        )
        if called == "getattr":  # an attribute that only a real tensor has
            called = str(node.args[1])
        return f"{path}.{plain(called)}" if path else plain(called), called

    def place(self, node: fx.Node) -> str:
        """file:line in function: code, in the model's own code; empty where there is none."""
        return self._tracer.places.get(node, "")

    def attributes(self, node: fx.Node, names: tuple[str, ...]) -> dict[str, Any] | None:
        """Attributes of the module that is called; None where it is no module."""
        if node.op != "call_module":
            return None
        return {name: getattr(self._module(node), name) for name in names}

    def overwritten(self, node: fx.Node) -> list[tuple[fx.Node, bool]]:
        """Earlier tensors whose memory the call changed; does it return just that tensor?"""
        return self._tracer.execution.overwritten(node)

    def _module(self, node: fx.Node) -> torch.nn.Module:
        return self._tracer.root.get_submodule(str(node.target))


class _Root(torch.nn.Module):
    """Gives every network one tensor argument; further arguments keep their defaults."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, input: Any) -> Any:
        return named(self.network(input))


class _Proxy(fx.Proxy):
    """A traced value that knows its shape, so that Python code on shapes runs as it is."""

    tracer: _Tracer

    @property
    def _real(self) -> Any:
        return self.tracer.real(self.node)

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self._real.shape)

    @property
    def ndim(self) -> int:
        return int(self._real.ndim)

    @property
    def dtype(self) -> Any:
        return self._real.dtype

    @property
    def device(self) -> Any:
        return self._real.device

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return int(self._real.numel())

    def __len__(self) -> int:
        return len(self._real)

    def relu(self) -> Any:
        return self._activated("relu")

    def relu_(self) -> Any:
        return self._activated("relu_")

    def _activated(self, name: str) -> Any:
        # fx would record a method without asking who turns calls (training/substitution.py).
        if has_torch_function((self._real,)):  # a mode: the value itself has none
            return getattr(torch, name)(self)
        return self.tracer.create_proxy("call_method", name, (self,), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def __iter__(self) -> Iterator[Any]:
        this: Any = self
        return iter([this[i] for i in range(len(this))])


def _in_place(name: str) -> Callable[[fx.Proxy, Any], Any]:
    target = getattr(operator, name)

    def method(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", target, (self, other), {})

    return method


# torch.fx would record `x += y` as x + y, and lose that other names of x change as well.
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or"):
    setattr(_Proxy, f"__i{_name}__", _in_place(f"i{_name}"))


class _Tracer(fx.Tracer):
    """Executes every call on real samples while it is traced."""

    def __init__(self, batch: torch.Tensor):
        super().__init__()
        self.places: dict[fx.Node, str] = {}
        self.execution = Execution()
        self.batch = len(batch)
        self._batch = batch
        self._executing = False

    def real(self, node: fx.Node) -> Any:
        """What the node stands for in this very execution."""
        real = self.execution.values
        if node.op == "get_attr" and node not in real:
            # fx makes these for constant arguments, without telling `create_proxy`.
            real[node] = operator.attrgetter(str(node.target))(self.root)
        return real.get(node)

    def proxy(self, node: fx.Node) -> Any:
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, tuple):
            a = tuple(a)  # fx would make a call of a named one
        return super().create_arg(a.item() if isinstance(a, np.generic) else a)

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        # A layer of ours that has a row; a network of ours is traced like anybody's.
        name = f"{type(m).__module__}.{type(m).__qualname__}"
        ours = any(name in rule.modules for rule in TABLE)
        return ours or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: torch.nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if self._executing:  # a module inside a leaf
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        return attr_val  # parameters are constants: Python may compute and decide with them

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any
    ) -> Any:
        proxy: Any = super().create_proxy(kind, target, args, kwargs, *more, **options)
        self.places[proxy.node] = _place(traceback.walk_stack(sys._getframe()))
        self._run(proxy.node)
        result = self.real(proxy.node)
        if type(result) in (tuple, list) and result and all(is_tensor(item) for item in result):
            # torch.cat and the like take a tuple of traced values, not a traced tuple.
            return type(result)(proxy[i] for i in range(len(result)))
        return proxy

    def _run(self, node: fx.Node) -> None:
        self._executing = True  # what runs now is torch itself, not the user's code
        try:
            self.execution.run(node, partial(self._execute, node), self.real)
        finally:
            self._executing = False

    def _execute(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self._batch
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target), node.op
        return node.target(*args, **kwargs)


def failing_place(error: BaseException) -> str:
    """file:line in function: code, of the model's own code where an error arose."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return _place(reversed(frames)) or "an unknown line"


def _place(frames: Iterable[tuple[FrameType, int]]) -> str:
    """file:line in function: code, of the innermost frame of the model's own code; else nothing.

    frames: with their line numbers, the innermost first.
    """
    for frame, line in frames:
        code = frame.f_code
        if code is _Root.forward.__code__:  # further out is who called the compiler
            break
        if not code.co_filename.startswith(_LIBRARY):
            text = linecache.getline(code.co_filename, line).strip()
            return f"{code.co_filename}:{line} in {code.co_name}: {text}"
    return ""


_LIBRARY = tuple(
    f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1])
)
