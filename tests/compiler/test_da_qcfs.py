"""QCFS networks (case A), other step counts (case B), and the distribution-aware calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import lapilli
from lapilli.compiler.activations import Clip
from lapilli.compiler.calibration_options import options_of
from lapilli.compiler.da_qcfs import da_qcfs
from lapilli.compiler.da_qcfs_options import DAQCFS
from lapilli.compiler.errors import InputError, UnsupportedOperatorError
from lapilli.compiler.linear import frozen
from lapilli.compiler.linear.diagonal import Diagonal
from lapilli.compiler.numerics import FloatArray
from lapilli.compiler.populations import Connection, Population, PopulationGraph
from lapilli.compiler.spiking import SpikingConnection, SpikingGraph, SpikingPopulation, readout
from lapilli.layers import QCFS

LEVELS = 4


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            QCFS(LEVELS, 1.0),
            nn.Conv2d(4, 4, 3),
            QCFS(LEVELS, torch.tensor([0.5, 0.6, 0.7, 0.8])),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(36, 8),
            QCFS(LEVELS, 0.4),
            nn.Linear(8, 3),
        ).eval()


def images(count: int) -> FloatArray:
    return np.random.default_rng(0).random((count, 2, 8, 8)).astype(np.float32)


def off(method: object, calibrate: Any = "none") -> float:
    x, model = images(64), network()
    wide = lapilli.hardware_profiles.load("unlimited")
    net = lapilli.compile(model, calibration=x, method=method, profile=wide, calibrate=calibrate)
    exact = model(torch.from_numpy(x)).detach().numpy()
    return float(np.abs(lapilli.run(net, x).outputs - exact).mean() / np.abs(exact).mean())


def test_the_layer_is_its_equation_and_its_floor_lets_gradients_pass() -> None:
    layer = QCFS(4, torch.tensor([1.0, 2.0]))
    x = torch.tensor([[-1.0, 0.5], [0.125, 0.25], [0.124, 9.0], [0.9, 1.2]], requires_grad=True)
    y = layer(x)
    assert y.tolist() == [[0.0, 0.5], [0.25, 0.5], [0.0, 2.0], [1.0, 1.0]]
    y.sum().backward()
    assert x.grad is not None
    assert x.grad[1].tolist() == [1.0, 1.0]
    assert x.grad[0, 0] == 0
    assert layer.threshold.grad is not None


@pytest.mark.parametrize(
    "method",
    [
        lapilli.methods.Parallel(levels=LEVELS),
        lapilli.methods.Parallel(levels=LEVELS, coding="unary"),
        lapilli.methods.FastSNN(levels=LEVELS),
        lapilli.methods.LMHT(levels=LEVELS, steps=1),
        lapilli.methods.SigmaDelta(levels=LEVELS),
    ],
)
def test_case_a_the_same_levels_lose_nothing_but_the_rounding_of_weights(method: object) -> None:
    assert off(method) < 0.01


def test_case_b_other_levels_are_near_and_more_are_nearer() -> None:
    found = [off(lapilli.methods.Parallel(levels=levels)) for levels in (2, 8)]
    assert 0.01 < found[1] < found[0] < 0.2


def test_case_b_calibration_removes_the_mean_error_of_every_channel() -> None:
    x, model = images(64), network()
    exact = model[:4](torch.from_numpy(x)).detach().numpy().mean((0, 2, 3))
    errors = []
    for calibrate in ("none", "da-qcfs:batches=400"):
        method = lapilli.methods.Parallel(levels=2)
        net = lapilli.compile(model, calibration=x, method=method, calibrate=calibrate)
        p = [p for p in net.netlist.populations if len(p.shape) == 3][2]
        found = (lapilli.run(net, x).counts[p.name] * p.count_scale).mean((0, 2, 3))
        errors.append(np.abs(found - exact).max())
    assert errors[1] < errors[0] / 3


def test_case_b_takes_the_networks_own_levels_as_its_reference() -> None:
    """8 levels against the 4 of the network: another reference is another calibration."""
    own = off(lapilli.methods.Parallel(levels=3), DAQCFS())
    same = off(lapilli.methods.Parallel(levels=3), DAQCFS(reference_levels=LEVELS))
    other = off(lapilli.methods.Parallel(levels=3), "da-qcfs:reference_levels=16")
    assert own == same != other


def test_a_layer_that_cannot_be_is_refused() -> None:
    for levels, threshold in ((0, 1.0), (4, 0.0), (4, torch.tensor([1.0, -1.0]))):
        with pytest.raises(InputError) as caught:
            QCFS(levels, threshold)
        assert caught.value.where == "QCFS"
    model = network()
    with torch.no_grad():
        model[1].threshold.fill_(-1.0)
    with pytest.raises(UnsupportedOperatorError) as refused:
        lapilli.compile(model, calibration=images(4), method=lapilli.methods.Parallel())
    assert refused.value.rule == "a staircase has steps of a positive height"


def one_layer(shift: float) -> tuple[PopulationGraph, SpikingGraph]:
    """One channel of a clipped line, and a staircase of 2 levels whose bias is off by `shift`."""
    zero, shape = frozen(0.0), (1, 4, 4)
    same = Diagonal(frozen(np.ones(shape)), shape, shape)
    graph = PopulationGraph(
        (
            Population("input", shape, "input", zero),
            Population("relu", shape, "activation", zero, activation=Clip(0.0)),
            Population("out", shape, "readout", zero),
        ),
        (Connection("input", "relu", same), Connection("relu", "out", same)),
    )
    step = frozen([0.5])
    fine = frozen(2.0**-20)
    spiking = SpikingGraph(
        (
            SpikingPopulation("input", shape, "source", fine, 0.0, fine, fine, zero, 0, 2**20),
            SpikingPopulation(
                "relu", shape, "window", step, 0.5, step, step, frozen(shift), high=2
            ),
            readout("out", shape, zero),
        ),
        tuple(SpikingConnection(c.source, c.target, c.map) for c in graph.connections),
        steps=1,
        levels=2,
        sending="graded",
        timing="first",
    )
    return graph, spiking


def learned(rule: str) -> tuple[float, float]:
    """phi / theta, and the error that it leaves, for activity that rounding makes too small."""
    graph, spiking = one_layer(0.0)
    rng = np.random.default_rng(1)
    # Between two steps, where it is rounded down, or at the top: on average too small.
    x = np.where(rng.random((512, 1, 4, 4)) < 0.5, 0.7, 1.0).astype(np.float32)
    options = DAQCFS(rule=rule, momentum=0.2, batches=200, batch=512)  # type: ignore[arg-type]
    made = next(p for p in da_qcfs(spiking, graph, x, options).populations if p.name == "relu")
    counts = np.clip(np.floor((x + np.asarray(made.bias).reshape(-1)[0]) / 0.5 + 0.5), 0, 2)
    left = float((x - counts * made.count_scale).mean())
    return float(made.count_scale[0] / 0.5 - 1), left


def test_added_up_phi_takes_the_whole_error_off_and_averaged_a_known_part_of_it() -> None:
    """The published rule ends at e0 / (1 + f), f the share of spikes that are sent."""
    counts = np.array([1.0, 2.0])  # of 0.7 and of 1.0
    share, error = float(counts.mean() / 2), float(np.mean([0.7, 1.0] - counts * 0.5))
    phi, left = learned("average")
    assert left == pytest.approx(error / (1 + share), rel=0.05)
    assert phi == pytest.approx(error / (1 + share), rel=0.05)
    phi, left = learned("accumulate")
    assert abs(left) < 0.01 * error
    assert phi == pytest.approx(error / share, rel=0.05)


def test_options_are_read_from_the_command_line() -> None:
    assert options_of("da-qcfs") == DAQCFS()
    chosen = options_of("da-qcfs:rule=average,momentum=0.01,reference_levels=8")
    assert chosen == DAQCFS(reference_levels=8, rule="average", momentum=0.01)
    assert options_of("least-squares") == "least-squares"
    for wrong in ("da-qcfs:rules=average", "da-qcfs:momentum=fast", "da-qcfs:momentum"):
        with pytest.raises(InputError) as caught:
            options_of(wrong)
        assert caught.value.where == "option calibrate"
    with pytest.raises(InputError):
        options_of("da-qcfs:rule=median")
    with pytest.raises(InputError):
        options_of("reconstructed")


def test_provenance_keeps_what_was_chosen() -> None:
    x = images(8)
    how = DAQCFS(batches=2)
    net = lapilli.compile(
        network(), calibration=x, method=lapilli.methods.Parallel(levels=3), calibrate=how
    )
    options = dict(net.provenance.options)
    assert options["calibrate"] == "da-qcfs"
    assert options["da_qcfs_batches"] == 2
