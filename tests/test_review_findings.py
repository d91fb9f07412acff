"""Faults that a review found: each of these gave wrong numbers, or none, before it was mended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import capturing
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import Tensor

import lapilli
from lapilli.compiler.activations import Curve
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.calibrate import calibrate
from lapilli.compiler.execute import TorchMax
from lapilli.compiler.layers.max_pooling import separable_map
from lapilli.compiler.layers.windows import windows
from lapilli.compiler.linear import frozen
from lapilli.compiler.netlist import Population
from lapilli.compiler.passes.conversion import ClipRule, line_steps
from lapilli.compiler.passes.ladder import rungs
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.passes.pool_stages import split
from lapilli.compiler.passes.reorder_pools import reorder_pools
from lapilli.methods import Parallel, Rate

IMAGES = capturing.images(3, 6, 6, count=16)
CPU = torch.device("cpu")


def compiled(run: Callable[[Any, Tensor], Any], method: object) -> Artifact:
    return lapilli.compile(Net(run), calibration=IMAGES, method=method, calibrate="none")


def values(p: Population) -> tuple[float, float]:
    """The smallest and the largest activity that p can say."""
    low, high = p.neuron.window_total(1)
    said = [p.count_scale * n + p.count_offset for n in (low, high)]
    return float(said[0].min()), float(said[1].max())


def error(run: Callable[[Any, Tensor], Any], method: object) -> float:
    """Mean error of the compiled network's answers, in standard deviations of torch's."""
    wanted = run(None, torch.tensor(IMAGES)).numpy()
    found = lapilli.run(compiled(run, method), IMAGES).outputs
    return float(np.abs(np.asarray(found) - wanted).mean() / wanted.std())


def clipped_above(m: Any, x: Tensor) -> Tensor:
    """Down to about -80, but never above 1."""
    return torch.clamp(20 * x - 3, max=1.0)


@pytest.mark.parametrize("levels", [2, 3, 8])
def test_a_clip_ends_where_it_ends_though_the_other_side_is_longer(levels: int) -> None:
    # The neuron's own saturation, 7 to 25 times as high, said so much for every large drive.
    artifact = compiled(clipped_above, Parallel(levels=levels))
    found = np.asarray(lapilli.run(artifact, IMAGES).outputs)
    step = float(np.max(artifact.netlist.populations[1].count_scale))
    assert float(found.max()) <= 1.0 + step / 2
    wanted = clipped_above(None, torch.tensor(IMAGES)).numpy()
    assert float(np.abs(found - wanted)[wanted == 1.0].max()) <= 0.501 * step


def test_a_clip_ends_where_it_ends_for_lines_of_counts() -> None:
    populations = legalise(capturing.captured(Net(clipped_above), IMAGES))
    (clip,) = (p for p in populations.populations if p.role == "activation")
    seen = calibrate(populations, IMAGES)[clip.name]
    bottom, step = line_steps(clip, seen, 8, ClipRule(per_channel=True, percentile=None))
    assert float((bottom + 8 * step).max()) == pytest.approx(1.0)


def test_one_level_says_the_longer_side() -> None:
    # Counts -1 and 0 stood for steps of 1e28, for the side above had no count.
    artifact = compiled(lambda m, x: F.silu(x), Parallel(levels=1))
    low, high = values(artifact.netlist.populations[1])
    assert low == 0.0
    assert 0.5 < high < 5.0


def test_one_level_below_zero_is_as_large_as_what_it_says() -> None:
    artifact = compiled(lambda m, x: torch.clamp(x, -2.0, 0.1), Parallel(levels=1))
    low, high = values(artifact.netlist.populations[1])
    assert high == 0.0
    assert -2.5 < low < -0.5
    assert float(np.min(np.asarray(lapilli.run(artifact, IMAGES).outputs))) == pytest.approx(low)


def test_a_rate_that_never_left_its_lower_end_still_has_a_range() -> None:
    def held(m: Any, x: Tensor) -> Tensor:
        return torch.clamp(x - 100.0, min=0.5) + x

    assert error(held, Rate(steps=64)) < 0.05


def test_a_pool_reads_through_a_mask_of_ones() -> None:
    def masked(m: Any, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(x) * torch.ones(3, 6, 6), 2)

    graph = capturing.assert_computes_the_same(Net(masked), IMAGES)
    assert [p.role for p in graph.populations] == ["input", "activation", "max", "readout"]


@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "ceil"),
    [
        ((2, 9), (1, 7), (2, 2), False),
        ((8, 2), (5, 1), (1, 4), False),
        ((3, 6), (1, 3), (4, 2), True),
    ],
)
def test_stages_of_a_pool_leave_out_what_its_stride_passes_over(
    shape: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int], ceil: bool
) -> None:
    x = torch.tensor(capturing.images(2, *shape).round(1)).abs()
    wanted = F.max_pool2d(x, kernel, stride, ceil_mode=ceil)
    matrices = [
        windows(np.ones(kernel[a]), np.arange(wanted.shape[a + 2]) * stride[a], shape[a])
        for a in (0, 1)
    ]
    for inputs in (2, 3, 5):
        found = x
        for stage in split(separable_map((2, *shape), *matrices), inputs):
            found = TorchMax(stage, CPU)(found)
        assert torch.equal(found.reshape(wanted.shape), wanted)


def early(m: Any, x: Tensor) -> Tensor:
    """Softplus that is a line from 1/3 on, and falls there by a tenth."""
    return F.softplus(F.max_pool2d(x, 2), 3.0, 1.0)


def test_softplus_that_becomes_a_line_early_is_not_monotone() -> None:
    assert Curve("softplus", (frozen(1.0), frozen(20.0))).monotone
    curve = Curve("softplus", (frozen(3.0), frozen(1.0)))
    assert not curve.monotone
    assert Curve("softplus", (frozen(3.0), frozen(-1e6))).turns  # without an overflow
    ladder = rungs(curve, 0, 100, np.asarray(0.01))
    drive = np.linspace(-1.0, 0.9, 1001)
    counts = ladder.start + ((drive[:, None] >= ladder.at) * ladder.rises).sum(1)
    exact = F.softplus(torch.tensor(drive), 3.0, 1.0).numpy()
    assert np.abs(counts * 0.01 - exact).max() < 0.00501


def test_a_pool_stays_before_a_function_that_falls() -> None:
    graph = capturing.captured(Net(early), IMAGES)
    assert [n.name for n in reorder_pools(graph)] == [n.name for n in graph]
    assert error(early, Parallel(levels=255)) < 0.05


PRODUCTS: dict[str, Callable[[Any, Tensor], Any]] = {
    "channels last": lambda m, x: F.relu(x).permute(0, 2, 3, 1) * F.silu(x).permute(0, 2, 3, 1),
    "a gate of channels last": lambda m, x: (
        F.relu(x).permute(0, 2, 3, 1)
        * torch.sigmoid(F.silu(x).permute(0, 2, 3, 1).mean((1, 2), keepdim=True))
    ),
    "tokens": lambda m, x: (
        F.relu(x).flatten(2).transpose(1, 2) * F.silu(x).flatten(2).transpose(1, 2)
    ),
    "a matrix for all channels": lambda m, x: F.relu(x) * F.silu(x)[:, :1].flatten(1, 2)[:, None],
    "vectors": lambda m, x: F.relu(x).flatten(1) * F.silu(x).flatten(1),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_factors_may_have_their_channels_along_another_axis(name: str) -> None:
    # Their steps per channel would have made thresholds per neuron, which no chip here has.
    capturing.assert_computes_the_same(Net(PRODUCTS[name]), IMAGES)
    assert error(PRODUCTS[name], Parallel(levels=255)) < 0.05


def test_factors_that_are_counts_in_place_are_read_as_they_are() -> None:
    graph = legalise(capturing.captured(Net(lambda m, x: F.relu(x) * F.silu(x)), IMAGES))
    assert [p.role for p in graph.populations] == [
        *("input", "activation", "activation", "product", "readout")
    ]
