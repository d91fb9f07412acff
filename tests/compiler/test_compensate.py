"""Compensation: what it fits is recomputed with numpy in float64, layer after layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import sample_networks
import torch
from torch import Tensor, nn
from torch.nn import functional

from lapilli.compiler import compensate as module
from lapilli.compiler.calibrate import calibrate
from lapilli.compiler.compensate import CALIBRATIONS, compensate
from lapilli.compiler.frontend import capture, evaluation_copy
from lapilli.compiler.linear import Array, along_channels
from lapilli.compiler.passes import METHODS, method_of
from lapilli.compiler.passes.convert_parallel import Parallel
from lapilli.compiler.passes.convert_rate import Rate
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.spiking import SpikingGraph

METHOD_OPTIONS = {
    "parallel": Parallel(levels=3),
    "parallel, one threshold": Parallel(levels=3, per_channel=False),
    "rate": Rate(steps=5, percentile=99.0),
    "rate, floor": Rate(steps=5, initial="zero", per_channel=True),
}


def converted(
    model: nn.Module, images: Array, options: Any
) -> tuple[PopulationGraph, SpikingGraph]:
    graph = legalise(capture(evaluation_copy(model), images))
    ranges = calibrate(graph, images)
    return graph, METHODS[method_of(options)].convert(graph, ranges, options)


@dataclasses.dataclass
class Staircase:
    """One execution of both networks: drives before rounding, and what is made of them."""

    wanted: dict[str, Array]
    found: dict[str, Array]
    counts: dict[str, Array]


def execute(graph: PopulationGraph, spiking: SpikingGraph, images: Array) -> Staircase:
    """The float network and the spiking network's staircase, in float64; all activity kept."""
    result = Staircase({}, {}, {})
    theirs: dict[str, Array] = {}
    ours: dict[str, Array] = {}
    for p, s in zip(graph.populations, spiking.populations, strict=True):
        if p.role == "input":
            scale = s.amplitude
            theirs[p.name] = images.astype(np.float64)
            ours[p.name] = np.clip(np.floor(images / scale + 0.5), s.low, s.high) * scale
            continue
        shape = (len(images), *p.shape)
        drives = []
        for activity, bias in ((theirs, p.bias), (ours, s.bias)):
            maps = (c.map.apply(activity[c.source]).reshape(shape) for c in graph.into(p.name))
            drives.append(sum(maps, np.zeros(shape)) + bias)
        result.wanted[p.name], result.found[p.name] = drives
        if p.role == "activation":
            step = along_channels(s.threshold, p.shape) / (spiking.steps if spiking.hold else 1)
            count = np.clip(np.floor(drives[1] / step + s.initial), 0, spiking.levels)
            result.counts[p.name] = count
            theirs[p.name] = np.maximum(drives[0], 0)
            ours[p.name] = count * along_channels(s.count_scale, p.shape)
    return result


def rows(values: Array) -> Array:
    """(N, C, ...) as (C, values)."""
    return values.swapaxes(0, 1).reshape(values.shape[1], -1)


@pytest.mark.parametrize("options", METHOD_OPTIONS)
@pytest.mark.parametrize("calibration", ["bias", "least-squares"])
@pytest.mark.parametrize("name", sample_networks.NETWORKS)
def test_no_drive_is_wrong_on_average(name: str, calibration: str, options: str) -> None:
    model, images = sample_networks.network(name), sample_networks.images(name, 60)
    graph, spiking = converted(model, images, METHOD_OPTIONS[options])
    corrected = compensate(spiking, graph, images, calibration)
    before, after = (execute(graph, s, images) for s in (spiking, corrected))
    largest = 0.0
    for p in graph.populations[1:]:
        size = np.abs(after.wanted[p.name]).mean()
        error = rows(after.wanted[p.name] - after.found[p.name]).mean(axis=1)
        assert np.abs(error).max() < 1e-4 * size, p.name
        error = rows(before.wanted[p.name] - before.found[p.name]).mean(axis=1)
        largest = max(largest, float(np.abs(error).max() / size))
    assert largest > 1e-2, "there was nothing to correct"


@pytest.mark.parametrize("options", METHOD_OPTIONS)
@pytest.mark.parametrize("name", sample_networks.NETWORKS)
def test_amplitudes_are_the_least_squares_ones(name: str, options: str) -> None:
    model, images = sample_networks.network(name), sample_networks.images(name, 60)
    graph, spiking = converted(model, images, METHOD_OPTIONS[options])
    corrected = compensate(spiking, graph, images, "least-squares")
    result = execute(graph, corrected, images)
    for p, s, old in zip(
        graph.populations, corrected.populations, spiking.populations, strict=True
    ):
        # A spike's value changes; which drive earns one does not.
        assert (s.threshold is old.threshold, s.initial) == (True, old.initial)
        if p.role != "activation":
            assert np.array_equal(s.amplitude, old.amplitude)
            continue
        ratio = s.amplitude / old.amplitude
        assert np.allclose(s.count_scale / old.count_scale, ratio, rtol=1e-12)
        counts, activity = result.counts[p.name], np.maximum(result.wanted[p.name], 0)
        groups = (1, -1) if len(p.shape) == 1 else (p.shape[0], -1)  # channels, where there are any
        scales = np.broadcast_to(s.count_scale, groups[:1])
        fired, meant = (rows(values).reshape(groups) for values in (counts, activity))
        compared = 0
        for scale, count, target in zip(scales, fired, meant, strict=True):
            if count.any():
                best = np.linalg.lstsq(count[:, None], target, rcond=None)[0][0]
                assert scale == pytest.approx(best, rel=1e-3)
                compared += 1
        assert compared


def test_bias_leaves_amplitudes_alone() -> None:
    images = sample_networks.images("residual", 20)
    graph, spiking = converted(sample_networks.network("residual"), images, Parallel(levels=2))
    corrected = compensate(spiking, graph, images, "bias")
    for s, old in zip(corrected.populations, spiking.populations, strict=True):
        assert (s.amplitude is old.amplitude, s.count_scale is old.count_scale) == (True, True)


def test_none_changes_nothing() -> None:
    images = sample_networks.images("residual", 20)
    graph, spiking = converted(sample_networks.network("residual"), images, Parallel())
    assert compensate(spiking, graph, images, "none") is spiking
    assert CALIBRATIONS == ("none", "bias", "least-squares")


def quiet() -> nn.Module:
    """The second channel never fires, and the second layer never does at all."""
    first, second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        first.weight.uniform_(0.0, 0.5)
        assert first.bias is not None
        assert second.bias is not None
        first.bias.copy_(torch.tensor([0.1, -100.0, 0.0]))
        second.bias.fill_(-100.0)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Conv2d(2, 1, 1))


@pytest.mark.parametrize("calibration", ["bias", "least-squares"])
def test_channels_that_never_fire_keep_their_amplitude(calibration: str) -> None:
    torch.manual_seed(0)
    images = np.random.default_rng(0).random((30, 1, 5, 5)).astype(np.float32)
    graph, spiking = converted(quiet(), images, Parallel(levels=4))
    corrected = compensate(spiking, graph, images, calibration)
    corrected.verify()
    same = []
    for s, old in zip(corrected.populations[1:3], spiking.populations[1:3], strict=True):
        shape = s.shape[:1]
        same += np.equal(*(np.broadcast_to(x.count_scale, shape) for x in (s, old))).tolist()
    refitted = calibration == "least-squares"
    assert same == [not refitted, True, not refitted, True, True]


class Reused(nn.Module):
    """The first activity is read by every later layer, the last one included."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6) for _ in range(3)])
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        first = functional.relu(self.layers[0](x))
        second = functional.relu(self.layers[1](first) + first)
        third = functional.relu(self.layers[2](second) - first)
        result: Tensor = self.head(third + second + first)
        return result


def test_activity_is_kept_until_its_last_reader() -> None:
    torch.manual_seed(1)
    images = np.random.default_rng(1).random((40, 6)).astype(np.float32)
    graph, spiking = converted(Reused(), images, Parallel(levels=3))
    assert sum(c.source == "relu" for c in graph.connections) == 3
    # The order in which connections are listed says nothing about who reads last.
    shuffled = dataclasses.replace(graph, connections=graph.connections[::-1])
    for g in (graph, shuffled):
        corrected = compensate(spiking, g, images, "least-squares")
        result = execute(graph, corrected, images)
        for name, wanted in result.wanted.items():
            error = rows(wanted - result.found[name]).mean(axis=1)
            assert np.abs(error).max() < 1e-4 * np.abs(wanted).mean()


def test_images_are_taken_from_the_whole_set(monkeypatch: pytest.MonkeyPatch) -> None:
    images = sample_networks.images("chain", 10)
    graph, spiking = converted(sample_networks.network("chain"), images, Parallel(levels=2))
    chosen = compensate(spiking, graph, images[[0, 3, 6, 9]], "bias")
    monkeypatch.setattr(module, "MAX_IMAGES", 4)
    assert _biases(compensate(spiking, graph, images, "bias")) == _biases(chosen)
    monkeypatch.undo()
    assert _biases(compensate(spiking, graph, images, "bias")) != _biases(chosen)
    # Memory is the other limit: as few as MIN_IMAGES, but not fewer.
    monkeypatch.setattr(module, "MAX_VALUES", 1)
    few = np.linspace(0, 9, module.MIN_IMAGES).astype(int)
    least = compensate(spiking, graph, images[few], "bias")
    assert _biases(compensate(spiking, graph, images, "bias")) == _biases(least)


def _biases(graph: SpikingGraph) -> list[list[float]]:
    return [np.ravel(p.bias).tolist() for p in graph.populations]


def test_progress_counts_populations() -> None:
    images = sample_networks.images("residual", 10)
    graph, spiking = converted(sample_networks.network("residual"), images, Parallel())
    calls: list[tuple[int, int]] = []
    compensate(spiking, graph, images, "bias", progress=lambda *call: calls.append(call))
    count = len(graph.populations)
    assert calls == [(n, count) for n in range(2, count + 1)]
