"""What a network returns: the name and shape of every output, and what is left to do off the chip.

A softmax, sigmoid or argmax at the very end of a network has no neurons: it is taken off as the
output's head. The readout in front of it holds the logits, and the head is applied to their real
values in float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final, get_args

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
Kind = Literal["none", "softmax", "log_softmax", "sigmoid", "argmax", "max"]
VOID = 255
"""The label of pixels that belong to no class, as segmentation data sets write it."""
SINGLE = "output"
"""Name of the output of a network that returns one tensor."""


@final
@dataclass(frozen=True)
class Head:
    """What the network does to a readout before it returns it.

    axis: of the readout's shape, without the batch (nothing reads it for none and sigmoid); keep:
    of argmax and max: does the axis stay, with size 1?
    """

    kind: Kind = "none"
    axis: int = 0
    keep: bool = False

    def __str__(self) -> str:
        return self.kind if self.kind in ("none", "sigmoid") else f"{self.kind}({self.axis})"


NO_HEAD = Head()


@final
@dataclass(frozen=True)
class Output:
    """One tensor of what the network returns.

    name: dict keys and positions in tuples on the way to it, joined by dots ("out", "0",
    "boxes.1"), SINGLE where it is the only thing returned; readout: its place among the network's
    readouts, of which several outputs may read the same one; shape: without the batch, exactly as
    the network returns it, () for one number per image.
    """

    name: str
    readout: int
    shape: Shape
    head: Head = NO_HEAD


def softmax(values: Array, axis: int) -> Array:
    """exp(values) as shares of their sum along an axis; float64, safe for large values."""
    shifted = np.exp(values - values.max(axis, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis, keepdims=True))


def log_softmax(values: Array, axis: int) -> Array:
    """The logarithm of `softmax`, without losing small shares; float64."""
    shifted = values - values.max(axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)))


def sigmoid(values: Array) -> Array:
    """1 / (1 + exp(-values)); float64, without overflow."""
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1.0, small) / (1.0 + small))


_APPLY: Mapping[str, Callable[[Array, int, bool], Array]] = {
    "none": lambda v, axis, keep: v,
    "softmax": lambda v, axis, keep: softmax(v, axis),
    "log_softmax": lambda v, axis, keep: log_softmax(v, axis),
    "sigmoid": lambda v, axis, keep: sigmoid(v),
    "argmax": lambda v, axis, keep: np.asarray(v.argmax(axis, keepdims=keep)),
    "max": lambda v, axis, keep: np.asarray(v.max(axis, keepdims=keep)),
}
assert set(_APPLY) == set(get_args(Kind))


def apply(head: Head, values: Array) -> Array:
    """What the head makes of a batch of readouts (N, *readout shape): float64, argmax int64.

    Of equal values argmax takes the first.
    """
    return _APPLY[head.kind](values, head.axis + 1, head.keep)


def shaped(output: Output, values: Array) -> Array:
    """A batch of what the head made, (N, ...), in the shape that the network returns."""
    return values.reshape(len(values), *output.shape)


def returned(output: Output, values: Array) -> Array:
    """What the network returns for a batch of readouts (N, *readout shape) in real units."""
    return shaped(output, apply(output.head, values))


def plain(shapes: Sequence[Shape]) -> tuple[Output, ...]:
    """Outputs without names and heads, one per readout: of networks that were never captured."""
    single = len(shapes) == 1
    return tuple(
        Output(SINGLE if single else str(i), i, tuple(shape)) for i, shape in enumerate(shapes)
    )


def flaw(outputs: Sequence[Output], shapes: Sequence[Shape]) -> tuple[str, object, object] | None:
    """(rule, found, allowed) of the first thing wrong with outputs of readouts of these shapes."""
    names: set[str] = set()
    for output in outputs:
        if output.name in names or not output.name:
            return "output names are unique", repr(output.name), "one output of each name"
        names.add(output.name)
        if not 0 <= output.readout < len(shapes):
            return "an output reads a readout", output.readout, f"0..{len(shapes) - 1}"
        shape, axis = shapes[output.readout], output.head.axis
        if not 0 <= axis < len(shape):
            return "a head works along an axis of its readout", axis, f"0..{len(shape) - 1}"
        reduces = output.head.kind in ("argmax", "max")
        size = math.prod(shape) // (shape[axis] if reduces else 1)
        if any(n < 1 for n in output.shape) or math.prod(output.shape) != size:
            return "an output holds what its head makes", output.shape, f"{size} values"
    unread = set(range(len(shapes))) - {output.readout for output in outputs}
    if unread:
        return "every readout belongs to an output", f"readouts {sorted(unread)}", "all of them"
    return None


def leaves(value: Any) -> list[tuple[str, Any]]:
    """Whatever is nested in tuples, lists, dicts and dataclasses, in order, each with its name.

    Names are printable and unique. None is nothing, and has no name.

    >>> leaves({"out": 1, "boxes": [2, None, 3]}), leaves(4), leaves({"a.0": 5, "a": [6]})
    ([('out', 1), ('boxes.0', 2), ('boxes.2', 3)], [('output', 4)], [('a.0', 5), ('a.0_1', 6)])
    """
    taken: set[str] = set()
    found = []
    for path, leaf in _walk(value, ()):
        words = ".".join(path) or SINGLE
        wanted = "".join(c if c.isprintable() else "?" for c in words)[:_LONGEST]
        name, count = wanted, 0
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        taken.add(name)
        found.append((name, leaf))
    return found


_LONGEST = 1000
"""Characters of a name, so that it fits into a file."""


def named(value: Any) -> Any:
    """Named tuples and dataclasses as dicts, at any depth: tracing would lose their names."""
    if isinstance(value, Mapping):
        return {key: named(item) for key, item in value.items()}
    fields = getattr(value, "_fields", None)
    if isinstance(value, (tuple, list)):
        if fields:
            return {key: named(item) for key, item in zip(fields, value, strict=True)}
        return [named(item) for item in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: named(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return value


def _walk(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if value is None:
        return
    value = named(value)
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(str(i), item) for i, item in enumerate(value)]
    else:
        yield path, value
        return
    for key, item in items:
        yield from _walk(item, (*path, key))


def disagreement(output: Output, readout: Array, expected: Array) -> float:
    """How far what a float network's readout makes of a batch is from what is expected of it.

    Relative to the largest expected value. An argmax is right where the value at the expected
    index is the largest, as close as float32 can tell: then it is relative to the largest value.
    """
    values = readout.astype(np.float64)
    if output.head.kind == "argmax":
        axis = output.head.axis + 1
        top = values.max(axis, keepdims=True)
        index = expected.reshape(top.shape).astype(np.int64)
        if index.size and not 0 <= index.min() <= index.max() < values.shape[axis]:
            return math.inf
        short = top - np.take_along_axis(values, index, axis)
        return float(short.max(initial=0.0)) / max(float(np.abs(values).max(initial=0.0)), _LEAST)
    found = returned(output, values)
    scale = max(float(np.abs(expected).max(initial=0.0)), _LEAST)
    return float(np.abs(found - expected.astype(np.float64)).max(initial=0.0)) / scale


_LEAST = 1e-6
