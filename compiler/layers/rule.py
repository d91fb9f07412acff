"""How one kind of layer enters the compiler: what it is called, what it becomes, what it computes.

A layer lives in one file of this folder: its node, how a call becomes the node (`build`), and its
affine meaning (`lower`). The frontend hands over calls with their arguments already resolved, so
no layer imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from lapilli.compiler.compose import Affine
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.linear import Array
from lapilli.compiler.populations import Role


@final
@dataclass(frozen=True, eq=False)
class Operand:
    """A tensor that depends on the network's input; shape without the batch dimension."""

    name: str
    shape: Shape


@final
@dataclass(frozen=True, eq=False)
class Parts:
    """What a split returns: part i of `operand` is `sizes[i]` wide along `axis`, in order."""

    operand: Operand
    axis: int
    sizes: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Call:
    """One call in the user's forward: the name it gets, what was called, where, its result.

    shape: of one tensor, without the batch; parts: of each where the call returns a tuple.
    """

    name: str
    called: str
    shape: Shape
    where: str
    parts: tuple[Shape, ...] = ()

    def refuse(
        self, rule: str, found: object, allowed: object, remedy: str
    ) -> UnsupportedOperatorError:
        """The error that says why this very call has no lowering."""
        place = f"{self.name} ({self.called}) at {self.where}"
        return UnsupportedOperatorError(place, rule, found=found, allowed=allowed, remedy=remedy)


Build = Callable[..., "Node | Operand | Parts"]
"""build(call, **parameters): the node; an operand where the call changes nothing; parts of one."""
Lower = Callable[[Any, tuple[Affine, ...]], Affine]
"""lower(node, operands): the node's value as a sum of linear maps of populations."""


@final
@dataclass(frozen=True, eq=False)
class LayerRule:
    """One row of the table of layers.

    build: makes the node from a call. node: the class of which this row says what it computes
    (None: another row's node, or none where the layer vanishes); it has either `lower`, if it is
    affine, or `role`, if it starts a population. modules: full name -> attributes to read;
    functions, methods: name -> positional parameters, named as `build` takes them, a starred one
    for those that the result's shape already tells, one with two stars for all that remain. aten:
    the same for operators of exported programs, by their name, or by name.overload where overloads
    differ; onnx: for operators of ONNX, inputs by position; their attributes are keywords, and
    "alpha=slope" renames one. macs: multiply-accumulates of the float layer for one image. splits:
    the call returns a tuple. part(node, channels): of an elementwise node, what fields are others
    on some channels; None: each unit depends on more than that unit of one operand.
    """

    build: Build
    node: type[Node] | None = None
    lower: Lower | None = None
    role: Role | None = None
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    functions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aten: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    onnx: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    macs: Callable[[Any], int] = lambda node: 0
    splits: bool = False
    part: Callable[[Any, slice], dict[str, Any]] | None = None


def pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    """(height, width) from an int or a sequence of one or two.

    >>> pair(3), pair((3,)), pair((1, 2))
    ((3, 3), (3, 3), (1, 2))
    """
    values = (value,) if isinstance(value, int) else tuple(value)
    return (int(values[0]), int(values[-1]))


def real(values: Array | None, size: int | None = None) -> Array:
    """Float64 parameters; zeros of `size` where the layer has none."""
    if values is None:
        return np.zeros(size or 0)
    return np.asarray(values, dtype=np.float64)


def axis_of(call: Call, dimension: int, shape: Shape) -> int:
    """Index into a batchless shape of a tensor's dimension; the batch itself is refused."""
    axis = (dimension if dimension >= 0 else dimension + len(shape) + 1) - 1
    if not 0 <= axis < len(shape):
        raise call.refuse(
            "images are independent of each other",
            f"dimension {dimension}",
            "dimensions within one image",
            "Do not mix the batch dimension.",
        )
    return axis
