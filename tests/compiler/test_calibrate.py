"""Ranges against numpy on the very values, and what calibration refuses."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import sample_networks
import torch
from torch import nn

from lapilli.compiler import execute
from lapilli.compiler.calibrate import (
    BINS,
    CLIPS,
    PopulationRange,
    Ranges,
    _tally,
    calibrate,
    check_images,
)
from lapilli.compiler.errors import CaptureError, InputError
from lapilli.compiler.frontend import capture, evaluation_copy
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.populations import PopulationGraph

Floats = npt.NDArray[np.float32]


def population_graph(model: nn.Module, images: Floats) -> PopulationGraph:
    return legalise(capture(evaluation_copy(model), images))


def measured(images: Floats) -> PopulationRange:
    """The range of relu(images): what calibration sees is known value by value."""
    graph = population_graph(nn.ReLU(), images)
    names = [p.name for p in graph.populations if p.role == "activation"]
    assert len(names) == 1
    return calibrate(graph, images)[names[0]]


@pytest.fixture(scope="module")
def images() -> Floats:
    """Three channels of different size; more than one batch, the last one not full."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(150, 3, 8, 8)) * np.array([1.0, 5.0, 0.3])[:, None, None]
    return values.astype(np.float32)


@pytest.fixture(scope="module")
def activity(images: Floats) -> PopulationRange:
    return measured(images)


def by_channel(images: Floats) -> Floats:
    return np.maximum(images, 0).swapaxes(0, 1).reshape(3, -1)


def test_extremes_and_counts_are_those_of_the_data(
    images: Floats, activity: PopulationRange
) -> None:
    rows = by_channel(images)
    assert activity.minimum.tolist() == [0.0, 0.0, 0.0]
    assert activity.maximum.tolist() == rows.max(axis=1).astype(np.float64).tolist()
    assert activity.zeros.tolist() == (rows == 0).sum(axis=1).tolist()
    assert activity.histogram.shape == (3, BINS)
    for row, counts in zip(rows, activity.histogram, strict=True):
        edges = np.linspace(0, row.max(), BINS + 1)
        expected = np.histogram(row[row > 0], edges)[0]
        assert counts.sum() == expected.sum() == (row > 0).sum()
        # Values within float32 rounding of an edge may fall on either side.
        assert np.abs(np.cumsum(counts) - np.cumsum(expected)).max() <= 2


@pytest.mark.parametrize("over", ["all", "positive"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("percent", [50.0, 60.0, 90.0, 99.0, 99.9, 100.0])
def test_percentile_is_numpys_within_a_bin(
    images: Floats, activity: PopulationRange, over: Any, per_channel: bool, percent: float
) -> None:
    rows = by_channel(images) if per_channel else by_channel(images).reshape(1, -1)
    found = np.atleast_1d(activity.percentile(percent, over, per_channel))
    assert found.shape == (len(rows),)
    for value, row in zip(found, rows, strict=True):
        data = row[row > 0] if over == "positive" else row
        bin_width = row.max() / BINS
        gap = 100 / len(data)  # numpy interpolates between neighbours in another way
        low = np.percentile(data, max(percent - gap, 0)) - bin_width
        high = np.percentile(data, min(percent + gap, 100)) + bin_width
        assert low <= value <= high
    if percent == 100:
        assert found.tolist() == pytest.approx(rows.max(axis=1).tolist())


def test_a_percentile_within_the_zeros_is_zero() -> None:
    images = np.full((10, 1, 10, 10), -1.0, np.float32)
    images[0, 0, 0, :5] = [1, 2, 3, 4, 5]
    activity = measured(images)
    assert activity.percentile(99.0, "all", False) == 0
    assert activity.percentile(99.0, "all", True).tolist() == [0]
    assert activity.percentile(60.0, "positive", False) == pytest.approx(3, abs=5 / BINS)


def test_silence_has_a_range_of_nothing() -> None:
    images = np.full((4, 2, 3, 3), -1.0, np.float32)
    images[:, 1] = 2.0
    activity = measured(images)
    assert activity.zeros.tolist() == [36, 0]
    assert activity.percentile(99.9, "positive", True).tolist() == pytest.approx([0, 2])
    assert activity.least_error(0, 4, True)[0] == 0
    silent = measured(np.full((4, 2, 3, 3), -1.0, np.float32))
    for per_channel in (True, False):
        assert not np.any(silent.percentile(99.9, "all", per_channel))
        assert not np.any(silent.least_error(0, 8, per_channel))


def squared_error(values: Floats, clip: float, levels: int) -> float:
    step = clip / levels
    return float(((np.clip(np.floor(values / step + 0.5), 0, levels) * step - values) ** 2).sum())


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("per_channel", [True, False])
def test_least_error_is_the_best_clip_of_a_search_on_the_values(
    images: Floats, activity: PopulationRange, levels: int, per_channel: bool
) -> None:
    rows = by_channel(images) if per_channel else by_channel(images).reshape(1, -1)
    found = levels * np.atleast_1d(activity.least_error(0, levels, per_channel))
    for value, row in zip(found, rows, strict=True):
        best = min(squared_error(row, clip, levels) for clip in CLIPS * row.max())
        assert squared_error(row, value, levels) <= best * 1.002


@pytest.mark.parametrize(("low", "high"), [(-3, 5), (-1, 7), (-1, 1), (-40, 215)])
def test_least_error_of_both_signs_is_the_best_of_a_search_on_the_bins(low: int, high: int) -> None:
    rng = np.random.default_rng(high)
    depth, top = np.array([1.0, 0.2, 3.0]), np.array([2.0, 4.0, 0.7])
    counts, below = (rng.integers(0, 9, (3, BINS)) ** 3 for _ in range(2))
    seen = PopulationRange(-depth, top, counts, np.zeros(3, np.int64), below)
    centres = (np.arange(BINS) + 0.5) / BINS
    for channel, found in enumerate(seen.least_error(low, high, True)):
        largest = max(top[channel] / high, depth[channel] / -low)
        errors = []
        for step in CLIPS * largest:
            sides = (top[channel] * centres, counts, high), (depth[channel] * centres, below, -low)
            errors.append(
                sum(
                    tally[channel] @ (np.minimum(np.floor(x / step + 0.5), most) * step - x) ** 2
                    for x, tally, most in sides
                )
            )
        assert found == pytest.approx(CLIPS[int(np.argmin(errors))] * largest, rel=1e-12)


def test_least_error_is_not_fooled_by_an_outlier() -> None:
    rng = np.random.default_rng(1)
    images = rng.random((100, 1, 16, 16)).astype(np.float32)
    images[0, 0, 0, 0] = 30.0
    found = 4 * float(measured(images).least_error(0, 4, False))
    assert 0.8 < found < 1.5


@pytest.mark.parametrize("per_channel", [True, False])
def test_vectors_share_one_histogram(per_channel: bool) -> None:
    rng = np.random.default_rng(2)
    images = (rng.normal(size=(500, 20)) * np.linspace(0.1, 3, 20)).astype(np.float32)
    activity = measured(images)
    assert activity.histogram.shape == (1, BINS)
    assert activity.maximum.tolist() == [float(images.max())]
    positive = images[images > 0]
    found = activity.percentile(99.0, "positive", per_channel)
    assert found == pytest.approx(np.percentile(positive, 99), rel=0.01)


def test_the_input_and_the_outputs_are_measured_too() -> None:
    images = sample_networks.images("chain", 70, signed=True)
    images[0, :, 0, 0], images[1, :, 0, 0] = -5.0, 5.0  # the extremes are not in the last batch
    model = sample_networks.network("chain")
    graph = population_graph(model, images)
    ranges = calibrate(graph, images, reference=model)
    assert [p.name for p in graph.populations] == list(ranges.populations)
    source = ranges[graph.populations[0].name]
    assert source.minimum.tolist() == images.min(axis=(0, 2, 3)).tolist()
    logits = model(torch.from_numpy(images)).detach().numpy()
    readout = ranges[graph.outputs[0]]
    assert readout.minimum == pytest.approx(logits.min(), rel=1e-5)
    assert readout.maximum == pytest.approx(logits.max(), rel=1e-5)
    assert source.maximum.tolist() == [5.0, 5.0]
    assert ranges.samples == 70


def test_digest_names_the_images(images: Floats) -> None:
    def digest(values: npt.NDArray[Any]) -> str:
        ranges: Ranges = calibrate(graph, values)
        return ranges.digest

    graph = population_graph(nn.ReLU(), images)
    few = images[:5]
    assert digest(few) == hashlib.sha256(few.astype("<f4").tobytes()).hexdigest()
    assert digest(few.astype(np.float64)) == digest(few)
    assert digest(np.asfortranarray(few)) == digest(few)
    changed = few.copy()
    changed[3, 1, 2, 2] += 0.1
    assert len({digest(few), digest(changed), digest(few[:4])}) == 3


def test_progress_counts_every_image_twice(images: Floats) -> None:
    calls: list[tuple[int, int]] = []
    graph = population_graph(nn.ReLU(), images)
    calibrate(graph, images, progress=lambda *call: calls.append(call))
    assert calls == sorted(calls)
    assert calls[-1] == (300, 300)
    assert len(calls) == 6


SPOILED = np.zeros((4, 3, 8, 8), np.float32)
SPOILED[2, 1, 3, 3], SPOILED[3, 0, 0, 0] = np.nan, np.inf
REFUSED: dict[str, tuple[Any, str, str]] = {
    "empty": (np.zeros((0, 3, 8, 8)), "there is at least one image", "(0, 3, 8, 8)"),
    "no batch": (np.zeros(5), "there is at least one image", "(5,)"),
    "NaN": (SPOILED, "values are finite", "2 NaN or infinite values"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_images_are_refused(case: str, images: Floats) -> None:
    values, rule, found = REFUSED[case]
    graph = population_graph(nn.ReLU(), images)
    for attempt in (
        lambda: check_images(values, "calibration set"),
        lambda: calibrate(graph, values),
    ):
        with pytest.raises(InputError) as caught:
            attempt()
        error = caught.value
        assert error.where == "calibration set"
        assert error.rule.startswith(rule)
        assert found in error.found
        assert error.allowed
        assert error.remedy


def test_activity_that_overflows_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Conv2d(1, 1, 1), nn.ReLU())
    for module in (model[0], model[2]):
        assert isinstance(module, nn.Conv2d)
        nn.init.constant_(module.weight, 1e30)
    images = np.ones((2, 1, 2, 2), np.float32)
    with pytest.raises(InputError) as caught:
        calibrate(population_graph(model, images), images)
    assert caught.value.where == "3"
    assert caught.value.rule == "the float network's activity is finite"


class Doubled(nn.Module):
    """Computes something else than the network inside."""

    def __init__(self, network: nn.Module, change: Callable[[Any], Any]):
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x: torch.Tensor) -> Any:
        return self.change(self.network(x))


@pytest.mark.parametrize("name", ["residual", "arithmetic"])
def test_a_graph_that_computes_something_else_is_refused(name: str) -> None:
    model, images = sample_networks.network(name), sample_networks.images(name, 4)
    graph = population_graph(model, images)
    calibrate(graph, images, reference=model)

    def changed(result: Any) -> Any:
        return result * 1.01 if name == "residual" else (result[0], result[1] * 1.01)

    with torch.no_grad(), pytest.raises(CaptureError) as caught:
        calibrate(graph, images, reference=Doubled(model, changed))
    error = caught.value
    assert error.where == graph.outputs[-1]
    assert error.rule == "the captured network computes what the user's network computes"
    assert 0.005 < float(error.found.rsplit(" ", 1)[1]) < 0.02
    assert error.allowed.startswith("0.001")
    assert error.remedy


def test_outputs_in_a_dictionary_are_compared() -> None:
    model, images = sample_networks.network("arithmetic"), sample_networks.images("arithmetic", 4)
    graph = population_graph(model, images)

    def named(result: Any) -> Any:
        return {"head": result[0], "sides": [result[1]]}

    with torch.no_grad():
        calibrate(graph, images, reference=Doubled(model, named))
        for change in (lambda r: {"head": r[0], "sides": r[0]}, lambda r: {"head": r[0]}):
            with pytest.raises(CaptureError) as caught:
                calibrate(graph, images, reference=Doubled(model, change))
            assert caught.value.where == "outputs"
            assert caught.value.found == "[16, 8] values"


def test_large_networks_are_measured_without_copies_of_their_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch's maps are then made at each use; the ranges are the same."""
    samples = sample_networks.images("dense", 5)
    graph = population_graph(sample_networks.network("dense"), samples)
    kept = calibrate(graph, samples)
    monkeypatch.setattr(execute, "KEPT", 0)
    remade = calibrate(graph, samples)
    for name, seen in kept.populations.items():
        np.testing.assert_array_equal(remade[name].histogram, seen.histogram, err_msg=name)
        np.testing.assert_array_equal(remade[name].maximum, seen.maximum, err_msg=name)


def test_activity_is_held_no_longer_than_it_is_read() -> None:
    samples = np.ones((2, 4), np.float32)
    layers = [layer for _ in range(6) for layer in (nn.Linear(4, 4), nn.ReLU())]
    graph = population_graph(nn.Sequential(*layers, nn.Linear(4, 2)), samples)
    executor = execute.FloatExecutor(graph, torch.device("cpu"))
    alive: list[weakref.ref[torch.Tensor]] = []
    for _, value in executor.stream(torch.from_numpy(samples)):
        alive.append(weakref.ref(value))
        del value
        assert sum(tensor() is not None for tensor in alive) <= 3  # images, source, this one
    assert len(alive) == len(graph.populations) == 8


def test_counts_beyond_32_bits_are_added_up() -> None:
    tallies: dict[str, torch.Tensor] = {}
    most = torch.iinfo(torch.int32).max
    for _ in range(3):
        _tally(tallies, "all", torch.tensor([[1, most]], dtype=torch.int32))
    assert tallies["all"].tolist() == [[3, 3 * most]]
