"""Max pools in stages compute what the pool computes, with few inputs at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lapilli.compiler.execute import TorchMax
from lapilli.compiler.layers.max_pooling import separable_map
from lapilli.compiler.layers.windows import adaptive_axis, windows
from lapilli.compiler.linear import LinearMap
from lapilli.compiler.passes.pool_stages import most_inputs, split
from lapilli.hardware_profiles import load

CPU = torch.device("cpu")


def pool(size: int, kernel: int, stride: int, padding: int) -> LinearMap:
    """A square max pool over (2, size, size)."""
    out = (size + 2 * padding - kernel) // stride + 1
    matrix = windows(np.ones(kernel), np.arange(out) * stride - padding, size)
    return separable_map((2, size, size), matrix, matrix)


def through(stages: list[LinearMap], x: Tensor) -> Tensor:
    for stage in stages:
        x = TorchMax(stage, CPU)(x)
    return x


def assert_stages_are_the_pool(linear: LinearMap, inputs: int) -> list[LinearMap]:
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(3, *linear.in_shape)))
    stages = split(linear, inputs)
    for stage in stages:
        assert set(np.unique(stage.weight)) <= {0.0, 1.0}
        assert stage.row_sums((stage.weight != 0).astype(np.int64)).max() <= inputs
    assert (stages[0].in_shape, stages[-1].out_shape) == (linear.in_shape, linear.out_shape)
    assert torch.equal(through(stages, x), TorchMax(linear, CPU)(x))
    return stages


POOLS = [
    (size, kernel, stride, padding)
    for size in (1, 3, 8, 13)
    for kernel in (1, 2, 3, 5, 8)
    for stride in (1, 2, 3, 8)
    for padding in {0, kernel // 2}
    if size + 2 * padding >= kernel
]


@pytest.mark.parametrize("inputs", [2, 3, 5, 9])
def test_windows_of_every_size_stride_and_padding(inputs: int) -> None:
    assert len(POOLS) > 60
    for case in POOLS:
        assert_stages_are_the_pool(pool(*case), inputs)


@pytest.mark.parametrize("inputs", [2, 3, 7])
def test_uneven_windows(inputs: int) -> None:
    for size, out in ((7, 3), (9, 4), (5, 5), (11, 2)):
        rows, columns = ((adaptive_axis(n, out) > 0).astype(float) for n in (size, size + 1))
        assert_stages_are_the_pool(separable_map((2, size, size + 1), rows, columns), inputs)


def test_what_fits_stays_whole_and_what_does_not_goes_by_axes() -> None:
    assert len(assert_stages_are_the_pool(pool(8, 2, 2, 0), 4)) == 1
    three = assert_stages_are_the_pool(pool(9, 3, 2, 1), 5)
    assert [stage.out_shape for stage in three] == [(2, 9, 5), (2, 5, 5)]
    whole = assert_stages_are_the_pool(pool(8, 8, 8, 0), 2)
    assert [stage.out_shape[1:] for stage in whole] == [
        *((8, 4), (8, 2), (8, 1)),
        *((4, 1), (2, 1), (1, 1)),
    ]


@pytest.mark.parametrize(("bits", "inputs"), [(1, 23), (3, 7), (4, 5), (5, 4), (7, 3), (8, 2)])
def test_the_fields_that_fit_a_state(bits: int, inputs: int) -> None:
    assert most_inputs(bits, load("loihi2")) == inputs
