"""Staircases that were trained (QCFS), found where a network writes them with a floor.

Exported programs and ONNX files have no layer QCFS, only what it computes: scalings, clips and one
floor. Whatever their order, these compose to scale * clip(floor(slope * x + shift), low, high),
which is compared with the definition; so nothing else is taken for a staircase.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from lapilli.compiler.activations import QCFS, Clip, Curve
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.ir import Graph, Node
from lapilli.compiler.layers.activation import Activate
from lapilli.compiler.layers.floor import Floor
from lapilli.compiler.layers.rescale import Rescale
from lapilli.compiler.linear import Array, frozen, per_channel
from lapilli.compiler.numerics import half_up, round_down

LONGEST = 8
"""Calls before a floor, and behind it, that are looked at."""
ROUNDED = 2.0**-20
"""Relative error of constants that somebody computed in float32."""
FAR = 2.0**40
"""Stands for a bound that is infinite."""


def with_staircases(graph: Graph) -> Graph:
    """The graph with one activation QCFS in place of the calls that make one.

    Raises UnsupportedOperatorError for a floor that is part of none.
    """
    floors = [node for node in graph if isinstance(node, Floor)]
    if not floors:
        return graph
    readers: dict[str, list[Node]] = {node.name: [] for node in graph}
    for node in graph:
        for name in node.inputs:
            readers[name].append(node)
    nodes = {node.name: node for node in graph}
    # Who reads the result of a call alone; nobody does where the network returns it, too.
    only = {
        name: found[0]
        for name, found in readers.items()
        if len(found) == 1 and name not in graph.outputs
    }
    return _replaced(graph, [_staircase(floor, nodes, only) for floor in floors])


@final
@dataclass(frozen=True, eq=False)
class _Staircase:
    """The calls from the first to the last, and the activation that they are."""

    calls: tuple[Node, ...]
    floor: Node
    activation: Curve

    @property
    def layer(self) -> str | None:
        """The name that all calls have, but for a number: that of a layer of an ONNX file."""
        first = self.calls[0].name
        for name in (first, _NUMBER.sub("", first)):
            if all(_NUMBER.sub("", call.name) == name or call.name == name for call in self.calls):
                return name
        return None

    @property
    def module(self) -> str | None:
        """The module that makes all calls, where it is one."""
        paths = {call.name.rpartition(".")[0] for call in self.calls}
        return paths.pop() if len(paths) == 1 else None


_NUMBER = re.compile(r"_\d+$")


@final
@dataclass(frozen=True, eq=False)
class _Line:
    """clip(slope * x + shift, low, high); all broadcast to the shape of x, slope > 0."""

    slope: Array
    shift: Array
    low: Array
    high: Array

    def then(self, node: Node) -> _Line | None:
        """The line behind one more call, where that is one again."""
        clip = Clip()
        if isinstance(node, Rescale):
            gain, shift = node.scale, node.shift
        elif isinstance(node, Activate) and isinstance(node.activation, Clip):
            gain, shift, clip = np.full((), node.gain), np.full((), node.shift), node.activation
        else:
            return None
        if not (gain > 0).all():
            return None
        low, high = (
            np.clip(bound * gain + shift, clip.low, clip.high) for bound in (self.low, self.high)
        )
        return _Line(self.slope * gain, self.shift * gain + shift, low, high)


_START = _Line(np.ones(()), np.zeros(()), np.full((), -np.inf), np.full((), np.inf))


def _line(calls: Iterable[Node]) -> _Line | None:
    line: _Line | None = _START
    for node in calls:
        line = None if line is None else line.then(node)
    return line


def _staircase(floor: Node, nodes: dict[str, Node], only: Mapping[str, Node]) -> _Staircase:
    """The longest one around a floor: of one layer, of one module, or of all calls."""
    before, after = [floor], [floor]
    while len(before) <= LONGEST and _alike(nodes[before[0].inputs[0]], floor):
        before.insert(0, nodes[before[0].inputs[0]])
    while len(after) <= LONGEST and after[-1].name in only:
        if not _alike(only[after[-1].name], floor):
            break
        after.append(only[after[-1].name])
    found = []
    for i in range(len(before)):
        for j in range(len(after)):
            calls = before[len(before) - 1 - i : -1], after[1 : j + 1]
            activation = _activation(_line(calls[0]), _line(calls[1]), floor)
            if activation is not None:
                found.append(_Staircase((*calls[0], floor, *calls[1]), floor, activation))
    if not found:
        raise _refused(floor)
    return max(found, key=lambda s: (s.layer is not None, s.module is not None, len(s.calls)))


def _refused(floor: Node) -> UnsupportedOperatorError:
    return UnsupportedOperatorError(
        f"{floor.name} (floor) at {floor.where}",
        "a floor is part of a trained staircase (QCFS)",
        found="a floor between other calls",
        allowed="s * clip(floor(x / s + 1/2), 0, L), or the same in another order",
        remedy="Write it like that, or use another activation: Lapilli does the quantisation.",
    )


def _alike(node: Node, floor: Node) -> bool:
    return len(node.inputs) == 1 and node.shape == floor.shape


def _activation(before: _Line | None, after: _Line | None, floor: Node) -> Curve | None:
    """QCFS, if after(floor(before(x))) is that."""
    if before is None or after is None or not (_near(before.shift, 0.5) and _near(after.shift, 0)):
        return None
    low, high = (_count(b) for b in (before.low, before.high))
    least, most = (_whole(b / after.slope) for b in (after.low, after.high))
    if low is None or high is None or least is None or most is None:
        return None
    low, high = (np.clip(bound, least, most) for bound in (low, high))
    levels = float(high.flat[0])
    if not (0 < levels < FAR and (low == 0).all() and (high == levels).all()):
        return None
    slope = per_channel(np.broadcast_to(before.slope, floor.shape), floor.shape)
    if slope is None or not _near(before.slope * after.slope, 1):
        return None
    top = levels / slope
    # The threshold itself was a float32, but for the order of multiplications.
    short = top.astype(np.float32).astype(np.float64)
    top = np.where(np.abs(short - top) <= 1e-12 * top, short, top)
    return Curve(QCFS, (frozen(top), frozen(levels)))


def _near(values: Array, wanted: float) -> bool:
    return bool((np.abs(values - wanted) <= ROUNDED * max(wanted, 1)).all())


def _count(bound: Array) -> Array | None:
    """The floor of a bound, where rounding cannot have changed it."""
    bound = np.clip(bound, -FAR, FAR)
    away = np.abs(bound - half_up(bound))
    sure = (away > ROUNDED) | (np.abs(bound) == FAR)
    return round_down(bound) if sure.all() else None


def _whole(bound: Array) -> Array | None:
    """A bound of counts, which is a whole number or none at all."""
    bound = np.clip(bound, -FAR, FAR)
    whole = half_up(bound)
    same = np.abs(bound - whole) <= ROUNDED * np.maximum(np.abs(whole), 1)
    return whole if same.all() else None


def _replaced(graph: Graph, found: Sequence[_Staircase]) -> Graph:
    """The graph with the activations in place of the last calls, without calls nobody reads."""
    parts = {node.name for staircase in found for node in staircase.calls}
    last = {staircase.calls[-1].name: staircase for staircase in found}
    names = {node.name for node in graph} - parts
    renamed: dict[str, str] = {}
    made: list[Node] = []
    for node in _alive(graph, parts, last):
        if node.name in last:
            name = _unique(_path(graph, last[node.name], parts), names)
            made.append(_activate(name, last[node.name], renamed))
            renamed[node.name] = name
            names.add(name)
        else:
            inputs = tuple(renamed.get(name, name) for name in node.inputs)
            made.append(node if inputs == node.inputs else replace(node, inputs=inputs))
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    return Graph(tuple(made), outputs, graph.returned)


def _alive(graph: Graph, parts: set[str], last: Mapping[str, _Staircase]) -> list[Node]:
    """All nodes but those whose staircase does without them."""
    read, alive = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if node.name in last:
            read.add(last[node.name].calls[0].inputs[0])
        elif node.name not in parts or node.name in read:
            if isinstance(node, Floor):  # whose staircase is read half-way
                raise _refused(node)
            read.update(node.inputs)
        else:
            continue
        alive.append(node)
    return alive[::-1]


def _activate(name: str, staircase: _Staircase, renamed: Mapping[str, str]) -> Activate:
    start = staircase.calls[0].inputs[0]
    return Activate(
        name=name,
        inputs=(renamed.get(start, start),),
        shape=staircase.floor.shape,
        where=staircase.floor.where,
        activation=staircase.activation,
    )


def _path(graph: Graph, staircase: _Staircase, parts: set[str]) -> str:
    """The layer or module that does nothing else, else the floor's name."""
    if staircase.layer is not None:
        return staircase.layer
    path = staircase.module
    inside = {node.name for node in graph if node.name.rpartition(".")[0] == path}
    return path if path and inside <= parts else staircase.floor.name


def _unique(path: str, names: set[str]) -> str:
    name, count = path, 0
    while name in names:
        count += 1
        name = f"{path}_{count}"
    return name
