"""Layers of images that treat rows and columns apart: pools, interpolation. No layer by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy.sparse as sp

from lapilli.compiler.compose import Affine
from lapilli.compiler.ir import Node, Shape
from lapilli.compiler.layers.rule import Call, Operand
from lapilli.compiler.layers.tensor_product import tensor_product
from lapilli.compiler.linear import Array, LinearMap


@dataclass(frozen=True, eq=False, kw_only=True)
class PlaneNode(Node):
    """One (out, in) matrix per axis of the image plane.

    in_shape (C, H, W): the operand as it is, or with an axis of one where it has none.
    """

    in_shape: Shape
    rows: Array
    columns: Array

    def maps(self) -> tuple[LinearMap, ...]:
        """Maps whose sum weighs pixels by the matrices; see tensor_product."""
        axes = (None, sp.csr_matrix(self.rows), sp.csr_matrix(self.columns))
        return tensor_product(self.in_shape, axes)


_P = TypeVar("_P", bound=PlaneNode)


def on_plane(kind: type[_P], call: Call, operand: Operand, matrices: Iterable[Array]) -> _P:
    """The node of an image with a matrix for rows and columns, or of a sequence with one."""
    *rows, columns = matrices
    channels, *plane = operand.shape
    return kind(
        name=call.name,
        inputs=(operand.name,),
        shape=call.shape,
        where=call.where,
        in_shape=(channels, *(1,) * (2 - len(plane)), *plane),
        rows=rows[0] if rows else np.ones((1, 1)),
        columns=columns,
    )


def weighted_sums(node: PlaneNode, operands: tuple[Affine, ...]) -> Affine:
    """What a node computes that weighs pixels by its matrices."""
    return operands[0].through(*node.maps()).viewed(node.shape)


def check_image(call: Call, operand: Operand) -> int:
    """How many axes the plane has, which a 1-D or 2-D pool can read."""
    rank = 1 if "1d" in call.called else 2
    if len(operand.shape) != rank + 1:
        axes = "(C, L)" if rank == 1 else "(C, H, W)"
        raise call.refuse(
            f"{rank}-D pooling reads {axes}", operand.shape, axes, "Keep the batch axis."
        )
    return rank


def per_axis(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    """A setting of a pool for each axis of the plane.

    >>> per_axis(3, 2), per_axis((3,), 1), per_axis((1, 2), 2)
    ((3, 3), (3,), (1, 2))
    """
    values = (value,) if isinstance(value, int) else tuple(value)
    return tuple(int(n) for n in (values * rank)[:rank])
