"""From a recording to an ir.Graph: one node per call on what depends on the input.

Each such call must have a row in `layers.TABLE`, or end an output as a row of `layers.heads.HEADS`;
anything else is refused by name. Nothing is skipped.
"""

from __future__ import annotations

import dataclasses
import operator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, final

import torch
from torch import fx

from lapilli.compiler.capture import binding
from lapilli.compiler.capture.endings import Endings, returned
from lapilli.compiler.capture.recording import Recording
from lapilli.compiler.capture.staircases import with_staircases
from lapilli.compiler.ir import Graph, Input, Node
from lapilli.compiler.layers import TABLE, Kind
from lapilli.compiler.layers.catalogue import allowed
from lapilli.compiler.layers.heads import HEADS, Headed, HeadedPair, HeadRule, Taken
from lapilli.compiler.layers.refused import remedy
from lapilli.compiler.layers.rule import Call, LayerRule, Operand, Parts
from lapilli.compiler.layers.shape import RESHAPE
from lapilli.compiler.layers.vanishing import DROPOUT, IDENTITY
from lapilli.compiler.outputs import Output

_R = TypeVar("_R", LayerRule, HeadRule)
_VIEWS = (RESHAPE, IDENTITY, DROPOUT)
"""What may stand between a head and the end: the same numbers in the same order."""


def graph_of(recording: Recording) -> Graph:
    """The verified graph of a recording. Raises UnsupportedOperatorError, CaptureError."""
    graph = with_staircases(_Capture(recording).run())
    graph.verify()
    return graph


@final
@dataclass(frozen=True)
class _Overwritten:
    """The value of a tensor that a call changed in place through another view of its memory."""

    by: str


@final
@dataclass(frozen=True, eq=False)
class _First:
    """What a call returned that gives statistics or indices beside its result."""

    result: Operand | Parts


@final
@dataclass(frozen=True, eq=False)
class _Beside:
    """Statistics or indices that a call gave beside its result."""

    of: str


class _Capture:
    def __init__(self, recording: Recording):
        self._recording = recording
        self._table = _Rows(TABLE)
        self._heads = _Rows(HEADS)
        self._endings = Endings(recording, self._is_view)
        self._nodes: list[Node] = []
        self._names: set[str] = set()
        # One of _NETWORK, or a constant.
        self._values: dict[fx.Node, Any] = {}

    def run(self) -> Graph:
        """The graph of the whole recording."""
        outputs: list[tuple[str, Output]] = []
        for n in self._recording.nodes:
            result = self._recording.result(n)
            if n.op == "placeholder" and self._recording.is_input(n):
                shape = tuple(result.shape[1:])
                self._values[n] = self._write(Input(name=binding.INPUT, inputs=(), shape=shape))
            elif n.op == "output":
                outputs = list(returned(n.args[0], partial(self._value, n), self._recording))
            elif self._depends(n) and not self._recording.is_static(n):
                call = self._describe(n)
                self._values[n] = self._taken(n, call) or self._call(n, call)
                self._overwrite(n, call)
            else:
                self._values[n] = result
        names = tuple(dict.fromkeys(name for name, _ in outputs))
        return Graph(tuple(self._nodes), names, tuple(output for _, output in outputs))

    def _depends(self, n: fx.Node) -> bool:
        return any(isinstance(self._values[m], _NETWORK) for m in n.all_input_nodes)

    def _write(self, node: Node) -> Operand:
        self._names.add(node.name)
        self._nodes.append(node)
        return Operand(node.name, node.shape)

    def _arguments(self, n: fx.Node, arguments: Any) -> Any:
        """Arguments of a node with values in place of nodes."""
        return fx.node.map_arg(arguments, partial(self._value, n))

    def _value(self, reader: fx.Node, node: fx.Node) -> Any:
        """What was made of a node, for one that reads it."""
        found = self._values[node]
        if isinstance(found, _Overwritten):
            raise self._describe(reader).refuse(
                "a tensor that was overwritten in place is read through the same view",
                f"a tensor whose memory {found.by} has overwritten",
                "in-place calls on tensors without other views",
                "Use the form without the trailing underscore or inplace=True.",
            )
        if isinstance(found, _Beside):
            raise self._describe(reader).refuse(
                "a call's result is read, not what comes beside it",
                f"indices or statistics of {found.of}",
                "the first of what it returns",
                "Leave out what reads them.",
            )
        return found

    def _taken(self, n: fx.Node, call: Call) -> Taken | None:
        """What is taken off the end of an output, where this call does that."""
        for m in n.all_input_nodes:
            value = self._values[m]
            if isinstance(value, (Headed, HeadedPair)):
                return self._endings.after(n, value)
        found = self._heads.find(self._recording, n)
        if found is None or not self._endings.ends(n):
            return None
        bound = self._bound(n, call, *found)
        if [name for name, value in bound.items() if isinstance(value, _NETWORK)] != ["input"]:
            return None
        taken: Taken | None = found[0].build(call, **bound)
        return taken

    def _is_view(self, n: fx.Node) -> bool:
        found = self._table.find(self._recording, n)
        return found is not None and found[0] in _VIEWS

    def _bound(
        self, n: fx.Node, call: Call, rule: LayerRule | HeadRule, parameters: tuple[str, ...]
    ) -> dict[str, Any]:
        """The call's arguments, and the parameters of its module, by name."""
        args = self._arguments(n, n.args)
        kwargs = self._arguments(n, n.kwargs)
        read = self._recording.attributes(n, parameters)
        if read is None:
            return binding.bind(call, rule.build, parameters, args, kwargs)
        return {"input": args[0] if args else next(iter(kwargs.values())), **read}

    def _call(self, n: fx.Node, call: Call) -> Operand | Parts | _First | _Beside:
        if n.target is operator.getitem and isinstance(n.args[0], fx.Node):
            source = self._values[n.args[0]]
            if isinstance(source, _First):
                return source.result if n.args[1] == 0 else _Beside(call.name)
        found = self._table.find(self._recording, n)
        if found is None:
            kind = self._recording.keys(n)[0]
            rule = "an operator has a lowering"
            raise call.refuse(rule, call.called, allowed(call.called, kind), remedy(call.called))
        rule_, parameters = found
        result = self._recording.result(n)
        many = isinstance(result, (tuple, list))
        beside = many and not rule_.splits and self._recording.keys(n)[0] in ("aten", "onnx")
        for item in result[:1] if beside else result if many and rule_.splits else (result,):
            self._check_result(call, item)
        bound = self._bound(n, call, rule_, parameters)
        binding.check_constants(call, bound)
        if beside:
            call = dataclasses.replace(call, shape=call.parts[0])
        built = rule_.build(call, **{name: _as_array(value) for name, value in bound.items()})
        operand = self._write(built) if isinstance(built, Node) else built
        return _First(operand) if beside else operand

    def _check_result(self, call: Call, result: Any) -> None:
        kind = str(result.dtype) if isinstance(result, torch.Tensor) else type(result).__name__
        binding.check_result(call, kind, getattr(result, "shape", ()), self._recording.batch)

    def _overwrite(self, n: fx.Node, call: Call) -> None:
        """Give the names of tensors that this call changed in place their new value."""
        by = _Overwritten(f"{call.called} at {call.where}")
        for changed, same in self._recording.overwritten(n):
            self._values[changed] = self._values[n] if same else by

    def _describe(self, n: fx.Node) -> Call:
        if n.op == "output":
            return Call("outputs", "return", (), "the end of the network's forward")
        path, called = self._recording.named(n)
        result = self._recording.result(n)
        parts = result if isinstance(result, (tuple, list)) else ()
        return Call(
            self._unique(path),
            called,
            _shape(result),
            self._recording.place(n) or f"module {path}",
            tuple(_shape(part) for part in parts),
        )

    def _unique(self, path: str) -> str:
        name, count = path, 0
        while name in self._names:
            count += 1
            name = f"{path}_{count}"
        return name


@final
class _Rows(dict[Kind, dict[Any, tuple[Any, tuple[str, ...]]]]):
    """The rows of one table by kind and name, each kind made when it is first asked for."""

    def __init__(self, table: tuple[Any, ...]):
        super().__init__()
        self._rules = table

    def __missing__(self, kind: Kind) -> dict[Any, tuple[Any, tuple[str, ...]]]:
        self[kind] = binding.rows(self._rules, kind)
        return self[kind]

    def find(self, recording: Recording, n: fx.Node) -> tuple[Any, tuple[str, ...]] | None:
        """The row of a call."""
        kind, keys = recording.keys(n)
        return next((self[kind][key] for key in keys if key in self[kind]), None)


def _shape(result: Any) -> tuple[int, ...]:
    return binding.batchless(result.shape) if isinstance(result, torch.Tensor) else (1,)


_NETWORK = (Operand, Parts, Headed, HeadedPair, _Overwritten, _First, _Beside)
"""Values that depend on the input."""


def _as_array(value: Any) -> Any:
    if isinstance(value, (tuple, list)) and any(isinstance(item, Operand) for item in value):
        return [_as_array(item) for item in value]  # several tensors, some of them constant
    if not isinstance(value, torch.Tensor):
        return value
    value = value.detach().cpu()
    return (value.double() if value.is_floating_point() else value).numpy()
