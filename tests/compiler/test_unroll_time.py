"""T-GIM: layers that mix their steps, unrolled, against the method's own recursion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sample_networks

import lapilli
from lapilli.compiler.calibrate import calibrate
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.frontend import capture, evaluation_copy
from lapilli.compiler.linear import Array, along_channels, frozen
from lapilli.compiler.passes.convert_lm_ht import LMHT, convert_lm_ht
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.passes.unroll_time import unroll_time
from lapilli.compiler.spiking import SpikingGraph


def converted(name: str, options: LMHT) -> tuple[SpikingGraph, Array]:
    x = sample_networks.images(name, 20)
    graph = legalise(capture(evaluation_copy(sample_networks.network(name)), x))
    return convert_lm_ht(graph, calibrate(graph, x), options), x.astype(np.float64)


def payloads(graph: SpikingGraph, x: Array) -> Array:
    (source,) = (p for p in graph.populations if p.model == "source")
    scale = float(source.amplitude)
    return np.clip(np.floor(x / scale + 0.5), source.low, source.high) * scale


def recursion(graph: SpikingGraph, x: Array) -> dict[str, Array]:
    """Equations 5 to 7, step by step in float64: spikes (N, T, *shape); readouts (N, *shape)."""
    steps = graph.steps
    sent: dict[str, Array] = {}
    result: dict[str, Array] = {}
    for p in graph.populations:
        if p.model == "source":
            sent[p.name] = np.repeat(payloads(graph, x)[:, None], steps, 1)
            continue
        drive = np.zeros((len(x), steps, *p.shape)) + p.bias
        for c in graph.into(p.name):
            folded = c.map.apply(sent[c.source].reshape(-1, *c.map.in_shape))
            drive = drive + folded.reshape(drive.shape)
        if p.model == "readout":
            result[p.name] = drive.mean(1)
            continue
        assert p.mixing is not None
        mixed, keep = np.einsum("tj,nj...->nt...", p.mixing, drive), 1 - p.decay / 4096
        theta = along_channels(p.threshold, p.shape)
        v = p.initial * theta + np.zeros((len(x), *p.shape))
        spikes = np.zeros_like(drive)
        for t in range(steps):
            v = keep * v + mixed[:, t]
            spikes[:, t] = np.clip(np.floor(v / theta + 1e-9), 0, p.high // steps)
            v = v - theta * spikes[:, t]
        result[p.name] = spikes
        sent[p.name] = spikes * along_channels(p.amplitude, p.shape)
    return result


def unrolled(graph: SpikingGraph, x: Array) -> dict[str, Array]:
    """The unrolled graph in one pass: spikes (N, *shape) of every copy."""
    sent: dict[str, Array] = {}
    result: dict[str, Array] = {}
    for p in graph.populations:
        if p.model == "source":
            sent[p.name] = payloads(graph, x)
            continue
        drive = np.zeros((len(x), *p.shape)) + p.bias
        for c in graph.into(p.name):
            drive = drive + c.map.apply(sent[c.source]).reshape(drive.shape)
        if p.model == "readout":
            result[p.name] = drive
            continue
        theta = along_channels(p.threshold, p.shape)
        count = np.clip(np.floor(drive / theta + p.initial + 1e-9), p.low, p.high)
        result[p.name] = count
        sent[p.name] = count * along_channels(p.amplitude, p.shape)
    return result


def assert_same(graph: SpikingGraph, x: Array) -> dict[str, Array]:
    expected, found = recursion(graph, x), unrolled(unroll_time(graph), x)
    for name, values in expected.items():
        if name in found:
            np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-9)
            continue
        for t in range(graph.steps):
            np.testing.assert_array_equal(found[f"{name}.t{t}"], values[:, t], f"{name} {t}")
    return expected


@pytest.mark.parametrize("keep", [1.0, 0.75, 0.0])
@pytest.mark.parametrize("mixing", ["causal", "full"])
@pytest.mark.parametrize("name", ["residual", "vectors"])
def test_it_is_the_methods_recursion(name: str, mixing: str, keep: float) -> None:
    options = LMHT(levels=3, steps=3, keep=keep, mixing=mixing)  # type: ignore[arg-type]
    found = assert_same(*converted(name, options))
    assert sum(bool(values.any()) for values in found.values()) > len(found) / 2


def test_any_matrix_and_any_worth_of_spikes() -> None:
    """Learned matrices have rows of any sum, and each layer its own, and its own leak;
    compensation changes what a spike is worth."""
    graph, x = converted("residual", LMHT(levels=2, steps=4, keep=0.9, mixing="full"))
    rng = np.random.default_rng(0)
    populations = tuple(
        replace(
            p,
            amplitude=frozen(p.amplitude * 1.1),
            decay=int(rng.integers(0, 2048)),
            mixing=frozen(rng.random((4, 4)) * (rng.random((4, 4)) < 0.7)),
        )
        if p.model == "multi_threshold"
        else p
        for p in graph.populations
    )
    assert_same(replace(graph, populations=populations), x)


@pytest.mark.parametrize(("levels", "steps"), [(4, 3), (2, 6), (6, 2)])
def test_full_mixing_is_the_quantised_network_of_all_levels(levels: int, steps: int) -> None:
    """[Theorem 4.4], exactly, with biases: L T = 12 levels in every layer, in whatever split."""
    graph, x = converted("residual", LMHT(levels=levels, steps=steps, mixing="full"))
    single, _ = converted("residual", LMHT(levels=12, steps=1))
    mixed = recursion(graph, x)
    activity: dict[str, Array] = {}
    for p in single.populations:
        if p.model == "source":
            activity[p.name] = payloads(graph, x)
            continue
        drive = np.zeros((len(x), *p.shape)) + p.bias
        for c in single.into(p.name):
            drive = drive + c.map.apply(activity[c.source]).reshape(drive.shape)
        if p.model == "readout":
            np.testing.assert_allclose(mixed[p.name], drive, rtol=1e-9, atol=1e-9)
            continue
        theta = along_channels(p.threshold, p.shape)
        count = np.clip(np.floor(drive / theta + 0.5 + 1e-9), 0, 12)
        np.testing.assert_array_equal(mixed[p.name].sum(1), count, p.name)
        activity[p.name] = count * theta


@pytest.mark.parametrize("mixing", ["causal", "full"])
def test_the_netlist_takes_exactly_a_threshold_off_and_verifies(mixing: str) -> None:
    x = sample_networks.images("residual", 40)
    options = LMHT(levels=3, steps=3, mixing=mixing)  # type: ignore[arg-type]
    net = lapilli.compile(sample_networks.network("residual"), calibration=x, method=options)
    assert net.netlist.one_pass
    owns = 0
    for c in net.netlist.connections:
        layer, *_ = c.source.rpartition(".t")
        if layer and layer == c.target.rpartition(".t")[0]:
            taken = -c.map.weight.astype(np.int64) * 2**c.exponent
            threshold = net.netlist[c.target].neuron.threshold  # type: ignore[attr-defined]
            ratio = np.broadcast_to(taken / threshold, net.netlist[c.target].shape)
            np.testing.assert_array_equal(ratio, 1)
            owns += 1
    assert owns == 3 * 3  # of three layers, 0 + 1 + 2 each
    assert lapilli.verify(net, x[:4], backends=("reference",)).ok
    single = lapilli.compile(
        sample_networks.network("residual"), calibration=x, method=LMHT(levels=9, steps=1)
    )
    ours, theirs = lapilli.run(net, x).outputs, lapilli.run(single, x).outputs
    assert np.abs(ours - theirs).mean() < 0.2 * np.abs(theirs).mean()


def test_activity_below_zero_is_refused() -> None:
    import torch

    model = torch.nn.Sequential(
        torch.nn.Linear(4, 5), torch.nn.Hardtanh(), torch.nn.Linear(5, 2)
    ).eval()
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with pytest.raises(UnsupportedOperatorError) as caught:
        lapilli.compile(model, calibration=x, method=LMHT(mixing="full"))
    assert caught.value.rule == "layers that mix their steps send nothing for the activity zero"


@pytest.mark.lava
def test_lava_computes_the_same() -> None:
    x = sample_networks.images("vectors", 40)
    net = lapilli.compile(
        sample_networks.network("vectors"),
        calibration=x,
        method=LMHT(levels=3, steps=2, mixing="full"),
    )
    found = lapilli.verify(net, x[:2])
    assert found.first_difference is None
    assert found.ok
