"""What counting costs a population, from histograms: the error that rounding its values has."""

from __future__ import annotations

import mixed_networks
import numpy as np
import pytest
import torch
from torch import nn

import lapilli
from lapilli.compiler.calibrate import BINS, PopulationRange, calibrate
from lapilli.compiler.frontend import capture, evaluation_copy
from lapilli.compiler.linear import Array
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.training.qcfs import QCFS
from lapilli.layers import IF, MultiThreshold, SignedIF, SpikingNetwork


def of(values: Array) -> PopulationRange:
    """The range of (C, n) values."""
    rows = [(np.maximum(row, 0), np.maximum(-row, 0)) for row in values]

    def tallied(side: int) -> Array:
        return np.stack(
            [np.histogram(r[side][r[side] > 0], BINS, (0, r[side].max()))[0] for r in rows]
        )

    zeros = (values <= 0).sum(axis=1)
    return PopulationRange(values.min(1), values.max(1), tallied(0), zeros, tallied(1))


@pytest.mark.parametrize(("low", "high"), [(-3, 5), (0, 8), (-1, 1)])
def test_it_is_the_error_of_rounding_the_values(low: int, high: int) -> None:
    values = np.random.default_rng(0).normal(size=(3, 20000)) * np.array([[1.0], [4.0], [0.1]])
    step = np.array([0.5, 1.7, 0.03])
    rounded = np.clip(np.floor(values / step[:, None] + 0.5), low, high) * step[:, None]
    exact = float(np.sqrt(((rounded - values) ** 2).sum() / (values**2).sum()))
    assert of(values).rounding_error(low, high, step) == pytest.approx(exact, rel=0.01)


def test_silence_has_no_error() -> None:
    nothing = np.zeros((2, 0))
    silent = PopulationRange(
        np.zeros(2), np.zeros(2), np.zeros((2, BINS)), np.full(2, 9.0), nothing
    )
    assert silent.rounding_error(0, 8, np.ones(())) == 0.0


def test_every_counting_population_has_one_and_levels_lower_it() -> None:
    nets = [
        mixed_networks.compiled("gated", lapilli.methods.Parallel(levels=levels))
        for levels in (4, 64)
    ]
    few, many = (net.provenance.rounding for net in nets)
    assert list(few) == [
        *("silu", "relu", "sigmoid", "mul", "hardswish", "hardsigmoid", "mul_1", "pow"),
    ]
    # A gate that hardly moves may lie on a count by chance.
    for name in ("silu", "relu", "mul", "hardswish", "mul_1", "pow"):
        assert many[name] < few[name] / 4
    assert 0.02 < few["silu"] < 0.5


def test_signed_activity_keeps_both_histograms() -> None:
    images = mixed_networks.images("gated", 20)
    graph = legalise(capture(evaluation_copy(mixed_networks.network("gated")), images))
    ranges = calibrate(graph, images)
    assert ranges["silu"].below.shape == ranges["silu"].histogram.shape == (6, BINS)
    assert ranges["silu"].below.sum() + ranges["silu"].histogram.sum() <= 20 * 6 * 36
    assert ranges["relu"].below.shape == (3, 0)


TOPS = torch.tensor([0.5, 1.0, 2.0, 4.0])
OWN_THRESHOLDS = {
    "qcfs": (lambda: QCFS(4, TOPS), lambda n: (n, lapilli.methods.Parallel(levels=4))),
    "if": (lambda: IF(4, TOPS), lambda n: _spiking(n, 4)),
    "signed": (lambda: SignedIF(4, TOPS), lambda n: _spiking(n, 4)),
    "several": (lambda: MultiThreshold(2, 2, TOPS), lambda n: _spiking(n, 2)),
}


def _spiking(network: nn.Module, steps: int) -> tuple[nn.Module, object]:
    spiking = SpikingNetwork(network, steps)
    return spiking.analog(), spiking.method()


@pytest.mark.parametrize("kind", OWN_THRESHOLDS)
def test_units_of_a_dense_layer_have_the_error_of_their_own_thresholds(kind: str) -> None:
    """Their activity lies on four counts each, so that there is none to speak of."""
    make, how = OWN_THRESHOLDS[kind]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 4), make(), nn.Linear(4, 3)).eval()
    with torch.no_grad():
        network[1].weight.mul_(4)  # type: ignore[operator, union-attr]
    images = np.random.default_rng(0).random((40, 1, 4, 4), np.float32)
    model, method = how(network)
    net = lapilli.compile(model, calibration=images, method=method)  # type: ignore[arg-type]
    (error,) = net.provenance.rounding.values()
    assert error < 0.01
    graph = legalise(capture(evaluation_copy(model), images))
    seen = calibrate(graph, images)["2"]
    assert seen.maximum.shape == (4,) and len(set(seen.maximum.tolist())) == 4
    assert seen.rounding_error(0, 4, np.full(4, 0.125)) > 0.3
