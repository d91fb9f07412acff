"""Exported programs executed: recorded call by call on a few samples, or run on many images."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor, fx

from lapilli.compiler.capture.binding import BATCH, few, plain
from lapilli.compiler.capture.execution import Execution, is_tensor
from lapilli.compiler.capture.program import Program
from lapilli.compiler.errors import InputError
from lapilli.compiler.layers import Kind
from lapilli.compiler.numerics import FloatArray

MAX_ELEMENTS = 2**30
"""Of what one call in a file may return for the samples of capture."""


@final
class ProgramTrace:
    """The calls of a program, and what each returned for a few samples: a `Recording`.

    Raises InputError where the program does not take the samples.
    """

    def __init__(self, program: Program, samples: FloatArray):
        program.check(samples.shape)
        self.nodes: tuple[fx.Node, ...] = tuple(program.graph.nodes)
        self.batch = program.capture_batch(BATCH)
        self._program = program
        self._execution = Execution()
        images = torch.tensor(few(samples, self.batch), dtype=torch.float32)
        constants = _fresh(program)
        for node in self.nodes:
            if node.op == "placeholder":
                value = images if node.name == program.input else constants[node.name]
                self._execution.values[node] = value
            elif node.op == "call_function":
                self._run(node)

    def _run(self, node: fx.Node) -> None:
        target: Any = node.target

        def execute(args: Any, kwargs: Any) -> Any:
            if not self._program.trusted:
                _check_size(target, args, kwargs)
            return target(*args, **_on_cpu(kwargs))

        try:
            self._execution.run(node, execute, self._execution.values.__getitem__)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                self._program.where,
                "the program runs on the calibration images",
                found=f"{node.name}: {type(error).__name__}: {error}"
                + (f" at {place}" if (place := self.place(node)) else ""),
                allowed="images as the model takes them",
                remedy="Check their shape, and export the network again.",
            ) from error

    def is_input(self, node: fx.Node) -> bool:
        """Is this placeholder the network's input?"""
        return node.name == self._program.input

    def result(self, node: fx.Node) -> Any:
        """What the call returned."""
        return self._execution.values.get(node)

    def is_static(self, node: fx.Node) -> bool:
        """Sizes, and checks of sizes and types, do not depend on values."""
        if isinstance(node.target, torch._ops.OpOverload):
            name = node.target._schema.name
            return bool(name.startswith(("aten::sym_", "aten::_assert_")))
        return not any(is_tensor(self.result(m)) for m in node.all_input_nodes) and (
            node.target is not operator.getitem
        )

    def keys(self, node: fx.Node) -> tuple[Kind, tuple[Any, ...]]:
        """The operator's name with and without its overload."""
        if isinstance(node.target, torch._ops.OpOverload):
            name = node.target._schema.name.removeprefix("aten::")
            overload = node.target._schema.overload_name
            return "aten", (f"{name}.{overload}", name)
        return "functions", (node.target,)

    def named(self, node: fx.Node) -> tuple[str, str]:
        """(population's name, what was called), as torch.fx would name the call."""
        modules = node.meta.get("modules") or []
        path, kind = modules[-1] if modules else ("", "")
        called = self._called(node)
        if kind.startswith("torch.nn.") and not kind.startswith(_CONTAINERS):
            return path or kind.rpartition(".")[2].lower(), called
        word = plain(node.meta.get("written") or called)
        return f"{path}.{word}" if path else word, called

    def _called(self, node: fx.Node) -> str:
        if isinstance(node.target, torch._ops.OpOverload):
            return str(node.target._schema.name.removeprefix("aten::"))
        return getattr(node.target, "__name__", str(node.target))

    def place(self, node: fx.Node) -> str:
        """file:line in function: code, as the program remembers it."""
        return str(node.meta.get("place") or "")

    def attributes(self, node: fx.Node, names: tuple[str, ...]) -> dict[str, Any] | None:
        """None: no call is one of a module."""
        return None

    def overwritten(self, node: fx.Node) -> list[tuple[fx.Node, bool]]:
        """Earlier tensors whose memory the call changed; does it return just that tensor?"""
        return self._execution.overwritten(node)


_CONTAINERS = "torch.nn.modules.container."


def _check_size(target: Any, args: Any, kwargs: Any) -> None:
    """Raise InputError before a call of a file fills the memory: it is tried without memory."""
    if not isinstance(target, torch._ops.OpOverload):
        return
    try:
        found = target(*_on_meta(args), **_on_meta(kwargs))
    except (NotImplementedError, RuntimeError):
        return  # it reads values, or will fail for itself
    results = found if isinstance(found, (tuple, list)) else (found,)
    for result in results:
        if is_tensor(result) and result.numel() > MAX_ELEMENTS:
            raise InputError(
                str(target),
                "a call returns a tensor of bearable size",
                found=f"{result.numel():,} values",
                allowed=f"{MAX_ELEMENTS:,}",
                remedy="The file is damaged, or the network too large.",
            )


def _on_meta(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, torch.device):
        return torch.device("meta")
    if isinstance(value, (tuple, list)):
        return [_on_meta(item) for item in value]
    if isinstance(value, dict):
        return {key: _on_meta(item) for key, item in value.items()}
    return value


def _on_cpu(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {
        key: torch.device("cpu") if isinstance(value, torch.device) else value
        for key, value in kwargs.items()
    }


def _fresh(program: Program) -> dict[str, Any]:
    """Constants; those that a call may overwrite as copies, for the next run needs them again."""
    mutable = {
        n.args[0].name
        for n in program.graph.nodes
        if isinstance(n.target, torch._ops.OpOverload)
        and n.target._schema.is_mutable
        and isinstance(n.args[0], fx.Node)
    }
    return {
        name: value.clone() if name in mutable and is_tensor(value) else value
        for name, value in program.constants.items()
    }


def run(program: Program, images: Tensor) -> Any:
    """What the program returns for images (N, ...), in batches that it takes."""
    parts = [_once(program, part, kept) for part, kept in _batches(program, images)]
    return _joined(parts)


def _batches(program: Program, images: Tensor) -> Iterator[tuple[Tensor, int]]:
    """(batch, how many of its images count)."""
    size = program.fixed_batch or min(len(images), program.most or len(images))
    size = max(size, program.least)
    for start in range(0, len(images), size):
        part = images[start : start + size]
        wanted = program.fixed_batch or max(program.least, len(part))
        yield torch.from_numpy(few(part.numpy(), wanted)), len(part)


def _once(program: Program, images: Tensor, kept: int) -> Any:
    values: dict[fx.Node, Any] = {}
    constants = _fresh(program)
    last = {m: n for n in program.graph.nodes for m in n.all_input_nodes}
    with torch.no_grad():
        for node in program.graph.nodes:
            if node.op == "placeholder":
                values[node] = images if node.name == program.input else constants[node.name]
            elif node.op == "call_function":
                args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = node.target(*args, **_on_cpu(kwargs))
            else:
                result = fx.node.map_arg(node.args[0], values.__getitem__)
                return fx.node.map_aggregate(
                    result, lambda t: t[:kept] if isinstance(t, Tensor) else t
                )
            for read in node.all_input_nodes:
                if last[read] is node:
                    del values[read]
    raise AssertionError("a graph ends with its output")


def _joined(parts: list[Any]) -> Any:
    """Batches of nested results, one after the other."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in parts]) for key in first}
    if isinstance(first, (tuple, list)):
        return tuple(_joined(list(items)) for items in zip(*parts, strict=True))
    return first
