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
from pathlib import Path
from types import FrameType
from typing import Any, final

import numpy as np
import torch
from torch import fx

from lapilli.compiler.errors import CaptureError


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


@final
class Trace:
    """The recorded calls in order, and what each did when it was executed."""

    def __init__(self, graph: fx.Graph, tracer: _Tracer):
        self.nodes: tuple[fx.Node, ...] = tuple(graph.nodes)
        self._tracer = tracer

    def result(self, node: fx.Node) -> Any:
        """What the call returned."""
        return self._tracer.real(node)

    def module(self, node: fx.Node) -> torch.nn.Module:
        """The module that a call_module node calls."""
        return self._tracer.root.get_submodule(str(node.target))

    def module_path(self, node: fx.Node) -> str:
        """Name of the innermost module around (or at) a call, as in the user's named_modules()."""
        stack = node.meta.get("nn_module_stack") or {}
        path = str(next(reversed(stack.values()))[0]) if stack else ""
        return path.removeprefix("network").removeprefix(".")

    def place(self, node: fx.Node) -> str:
        """file:line in function: code, in the model's own code; empty where there is none."""
        return self._tracer.places.get(node, "")

    def overwritten(self, node: fx.Node) -> list[tuple[fx.Node, bool]]:
        """Earlier tensors whose memory the call changed; does it return just that tensor?"""
        result = self.result(node)
        changed = self._tracer.overwritten.get(node, [])
        return [(n, _same_view(self.result(n), result)) for n in changed]


class _Root(torch.nn.Module):
    """Gives every network one tensor argument; further arguments keep their defaults."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, input: Any) -> Any:
        return self.network(input)


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
        self.overwritten: dict[fx.Node, list[fx.Node]] = {}
        self._batch = batch
        self._real: dict[fx.Node, Any] = {}
        self._executing = False

    def real(self, node: fx.Node) -> Any:
        """What the node stands for in this very execution."""
        if node.op == "get_attr" and node not in self._real:
            # fx makes these for constant arguments, without telling `create_proxy`.
            self._real[node] = operator.attrgetter(str(node.target))(self.root)
        return self._real.get(node)

    def proxy(self, node: fx.Node) -> Any:
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, tuple):
            a = tuple(a)  # fx would make a call of a named one
        return super().create_arg(a.item() if isinstance(a, np.generic) else a)

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
        if type(result) in (tuple, list) and result and all(_tensor(item) for item in result):
            # torch.cat and the like take a tuple of traced values, not a traced tuple.
            return type(result)(proxy[i] for i in range(len(result)))
        return proxy

    def _run(self, node: fx.Node) -> None:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.real)
        versions = {n: _version(v) for n in node.all_input_nodes if _tensor(v := self.real(n))}
        self._executing = True  # what runs now is torch itself, not the user's code
        try:
            # Tensors made in inference mode count no versions.
            with torch.inference_mode(False), torch.no_grad():
                self._real[node] = self._execute(node, args, kwargs)
        finally:
            self._executing = False
        changed = {_storage(v) for n, old in versions.items() if _version(v := self.real(n)) > old}
        if changed:
            self.overwritten[node] = [
                n
                for n, value in self._real.items()
                if n is not node and _tensor(value) and _storage(value) in changed
            ]

    def _execute(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self._batch
        if node.op == "call_module":
            return self.root.get_submodule(str(node.target)).forward(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        assert callable(node.target), node.op
        return node.target(*args, **kwargs)


def _tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _version(tensor: torch.Tensor) -> int:
    """How often the tensor, or another view of its memory, was changed in place."""
    return 0 if tensor.is_inference() else tensor._version


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _same_view(a: Any, b: Any) -> bool:
    """Are both the same numbers at the same place, under the same shape?"""
    return (
        _tensor(a)
        and _tensor(b)
        and (a.data_ptr(), a.shape, a.stride()) == (b.data_ptr(), b.shape, b.stride())
    )


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


_LIBRARY = tuple(f"{Path(file).parent}{os.sep}" for file in (torch.__file__, __file__))
