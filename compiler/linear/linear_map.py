"""What every linear map between populations can do, and the arrays it is made of.

Weights are float64 before `quantise` and integers after; the algebra is the same, so a netlist and
the float graph share these classes. Arrays are read-only once built. Shapes are without the batch
dimension; a map reads and writes its arrays in C order, so a view of the same size (a flatten)
costs nothing and is no map of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def frozen(array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
    """A read-only, contiguous array that nobody else holds writable."""
    result = np.array(array, dtype=dtype, order="C")
    result.flags.writeable = False
    return result


def along_channels(values: Array, shape: Shape) -> Array:
    """Reshape per-channel values (C,) or a scalar () so that they broadcast against `shape`.

    >>> along_channels(np.arange(3), (3, 8, 8)).shape
    (3, 1, 1)
    """
    return values if values.ndim == 0 else values.reshape((-1,) + (1,) * (len(shape) - 1))


def per_channel(values: Array, shape: Shape) -> Array | None:
    """The (C,) or () array that broadcasts to `values` over `shape`, or None if there is none.

    >>> per_channel(np.array([[1.0, 1.0], [2.0, 2.0]]), (2, 2))
    array([1., 2.])
    >>> per_channel(np.array([[1.0, 1.0], [1.0, 2.0]]), (2, 2)) is None
    True
    """
    full = np.broadcast_to(values, shape).reshape(shape[0], -1)
    if (full != full[:, :1]).any():
        return None
    channels = full[:, 0]
    return np.array(channels[0]) if (channels == channels[0]).all() else channels.copy()


@dataclass(frozen=True, eq=False)
class LinearMap(ABC):
    """A linear map from `in_shape` to `out_shape`; subclasses say how the weights are shared."""

    weight: Array
    in_shape: Shape
    out_shape: Shape

    @abstractmethod
    def apply(self, x: Array) -> Array:
        """Map x (N, *in_shape) to (N, *out_shape), in the common dtype of x and weight."""

    @abstractmethod
    def to_sparse(self) -> sp.csr_matrix:
        """The same map as a matrix (out size, in size)."""

    @abstractmethod
    def scaled(self, rows: Array, columns: Array) -> LinearMap:
        """rows * map * columns; both () or (C,) along the channels (axis 0) of output and input."""

    @abstractmethod
    def fan_out(self) -> npt.NDArray[np.int64]:
        """Number of non-zero synapses that leave each input, borders included; (*in_shape)."""

    @abstractmethod
    def row_sums(self, weight: Array) -> Array:
        """Sum `weight` (like self.weight) over each output's inputs; broadcasts to out_shape.

        Positions cut off at a border count as present, so for weights of one sign it is a bound.
        """

    @abstractmethod
    def row_peaks(self) -> Array:
        """Largest magnitude among each output channel's weights; broadcasts to out_shape."""

    @property
    @abstractmethod
    def dense_macs(self) -> int:
        """Multiply-accumulates of one application, zero weights included, borders excluded."""

    @property
    def in_size(self) -> int:
        """Number of inputs."""
        return math.prod(self.in_shape)

    @property
    def out_size(self) -> int:
        """Number of outputs."""
        return math.prod(self.out_shape)

    @property
    def synapses(self) -> int:
        """Number of non-zero synapses, borders excluded."""
        return int(self.fan_out().sum())

    def with_weight(self, weight: Array) -> LinearMap:
        """The same connectivity with other weights."""
        return replace(self, weight=frozen(weight))

    def pretty(self) -> str:
        """The form, and what of its geometry tells two maps apart."""
        return type(self).__name__
