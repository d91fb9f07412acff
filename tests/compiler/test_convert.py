"""The conversion methods in float: what they promise before anything is rounded to integers.

I5.4, I5.5, I5.7, I1.3: invariants of the methods' papers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import sample_networks
import torch
from torch import nn

from lapilli.compiler.calibrate import BINS, PopulationRange, Ranges, calibrate
from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.frontend import capture, evaluation_copy
from lapilli.compiler.linear import Array, along_channels, frozen
from lapilli.compiler.passes import METHODS, method_of
from lapilli.compiler.passes.conversion import ClipRule, input_population, step_sizes
from lapilli.compiler.passes.convert_fast_snn import FastSNN
from lapilli.compiler.passes.convert_lm_ht import LMHT
from lapilli.compiler.passes.convert_parallel import Parallel
from lapilli.compiler.passes.convert_rate import Rate
from lapilli.compiler.passes.convert_sigma_delta import SigmaDelta
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.passes.options import check_range
from lapilli.compiler.populations import Population, PopulationGraph
from lapilli.compiler.spiking import SpikingGraph

NAMES = list(sample_networks.NETWORKS)
INPUT_BITS = 16  # so that the rounding of the input does not hide the method's own error


def prepared(name: str, count: int = 30) -> tuple[PopulationGraph, Ranges, Array]:
    model, images = sample_networks.network(name), sample_networks.images(name, count)
    graph = legalise(capture(evaluation_copy(model), images))
    return graph, calibrate(graph, images), images.astype(np.float64)


def float_activity(graph: PopulationGraph, images: Array) -> dict[str, Array]:
    """What the float network computes, in float64."""
    values: dict[str, Array] = {}
    for p in graph.populations:
        if p.role == "input":
            values[p.name] = images
            continue
        shape = (len(images), *p.shape)
        maps = (c.map.apply(values[c.source]).reshape(shape) for c in graph.into(p.name))
        drive = sum(maps, np.zeros(shape)) + p.bias
        values[p.name] = np.maximum(drive, 0) if p.role == "activation" else drive
    return values


def simulate(graph: SpikingGraph, images: Array) -> dict[str, Array]:
    """Activity that the spiking network stands for, stepped in float64 from its definition."""
    spikes: dict[str, Array] = {}
    result: dict[str, Array] = {}
    steps = graph.steps if graph.hold else 1
    for p in graph.populations:
        wide = {key: along_channels(getattr(p, key), p.shape) for key in ("threshold", "amplitude")}
        if p.model == "source":
            payload = np.clip(np.floor(images / wide["amplitude"] + 0.5), p.low, p.high)
            spikes[p.name] = np.repeat((payload * wide["amplitude"])[:, None], steps, axis=1)
            continue
        shape = (len(images), steps, *p.shape)
        drive = np.zeros(shape) + p.bias
        for c in graph.into(p.name):
            folded = spikes[c.source].reshape(-1, *c.map.in_shape)
            drive = drive + c.map.apply(folded).reshape(shape)
        if p.model == "readout":
            result[p.name] = drive.mean(axis=1)
            continue
        if p.model == "window":
            count = np.floor(drive[:, 0] / wide["threshold"] + p.initial)
            sent = np.clip(count, 0, graph.levels)[:, None]
        else:
            sent = np.empty(shape)
            v = np.zeros((len(images), *p.shape)) + p.initial * wide["threshold"]
            for t in range(steps):
                v = v + drive[:, t]
                sent[:, t] = v >= wide["threshold"]
                v = v - wide["threshold"] * sent[:, t]
        spikes[p.name] = sent * wide["amplitude"]
        result[p.name] = sent.sum(axis=1) * along_channels(p.count_scale, p.shape)
    return result


def mean_error(found: dict[str, Array], exact: dict[str, Array], names: list[str]) -> float:
    """Mean absolute error of the activities, each in units of its largest value."""
    return float(np.mean([np.abs(found[n] - exact[n]).mean() / exact[n].max() for n in names]))


# Rate coding: Rueckauer et al. 2016.


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("percentile", [97.0, 100.0])
def test_i5_5_amplitude_and_threshold_are_the_weight_normalisation(
    percentile: float, per_channel: bool
) -> None:
    """W~ = W lambda_in / lambda_out and b~ = b / lambda_out, lambdas from the float activity."""
    graph, ranges, images = prepared("residual", 150)
    options = Rate(steps=9, percentile=percentile, per_channel=per_channel)
    spiking = METHODS["rate"].convert(graph, ranges, options)
    exact = float_activity(graph, images)
    lambdas: dict[str, Array] = {}
    for p in graph.populations:
        axes = (0, 2, 3) if per_channel and len(p.shape) == 3 else None
        activity = exact[p.name]
        chosen = np.asarray(np.percentile(activity, percentile, axis=axes))
        # A channel that is silent takes the population's.
        lambdas[p.name] = np.where(chosen > 0, chosen, np.percentile(activity, percentile))
    lambdas["input"] = np.asarray(images.max() / 255)  # of one unit of an 8-bit payload
    by_name = {p.name: p for p in spiking.populations}
    checked = 0
    for c in spiking.connections:
        source, target = by_name[c.source], by_name[c.target]
        if target.model == "readout":
            assert target.threshold == 1.0
            continue
        normalised = c.map.scaled(1.0 / target.threshold, source.amplitude)
        expected = c.map.scaled(1.0 / lambdas[c.target], lambdas[c.source])
        # A percentile is known up to a bin of the histogram and one value of the data.
        assert np.allclose(normalised.weight, expected.weight, rtol=0.02)
        bias = target.bias / along_channels(target.threshold, target.shape)
        wanted = target.bias / along_channels(lambdas[c.target], target.shape)
        assert np.allclose(bias, wanted, rtol=0.02)
        checked += 1
    assert checked == 4


def test_i5_5_activity_is_at_most_one_rate_with_the_largest_as_percentile() -> None:
    graph, ranges, images = prepared("chain")
    spiking = METHODS["rate"].convert(graph, ranges, Rate(percentile=100.0))
    exact = float_activity(graph, images)
    largest = [
        float((exact[p.name] / along_channels(p.threshold, p.shape)).max())
        for p in spiking.populations
        if p.model == "soft_reset_if"
    ]
    assert largest == pytest.approx([1.0] * len(largest), rel=1e-6)


def deep_network() -> tuple[nn.Module, Array]:
    """Three ReLU layers."""
    torch.manual_seed(3)
    layers = [nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 24)]
    model = nn.Sequential(*layers, nn.ReLU(), nn.Linear(24, 4)).eval()
    return model, np.random.default_rng(3).random((60, 12)).astype(np.float32)


def rate_errors(initial: Any, steps: list[int]) -> list[list[float]]:
    """Per number of steps: the mean error of each layer."""
    model, images = deep_network()
    graph = legalise(capture(model, images))
    ranges = calibrate(graph, images)
    exact = float_activity(graph, images.astype(np.float64))
    names = [p.name for p in graph.populations if p.role == "activation"]
    assert len(names) == 3
    errors = []
    for t in steps:
        options = Rate(steps=t, percentile=100.0, initial=initial, input_bits=INPUT_BITS)
        found = simulate(METHODS["rate"].convert(graph, ranges, options), images)
        errors.append([mean_error(found, exact, [name]) for name in names])
    return errors


@pytest.mark.parametrize("initial", ["zero", "half"])
def test_i5_4_the_error_falls_as_one_over_the_steps(initial: str) -> None:
    steps = [8, 32, 128, 512]
    errors = np.array(rate_errors(initial, steps))
    for layer in range(3):
        slope = np.polyfit(np.log(steps), np.log(errors[:, layer]), 1)[0]
        assert -1.15 < slope < -0.85, (layer, errors)
    assert errors[-1].max() < 0.01


def test_i5_7_half_a_threshold_at_the_start_halves_the_error() -> None:
    zero, half = (np.array(rate_errors(initial, [64])[0]) for initial in ("zero", "half"))
    assert half[0] / zero[0] == pytest.approx(0.5, abs=0.05)  # exactly the theory's case
    assert (half / zero < 0.75).all()


# Parallel conversion: Hao et al. 2025.


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("clip", ["least-error", "percentile"])
@pytest.mark.parametrize("name", NAMES)
def test_more_levels_are_better_and_many_are_the_float_network(
    name: str, clip: Any, per_channel: bool
) -> None:
    graph, ranges, images = prepared(name)
    exact = float_activity(graph, images)
    names = [p.name for p in graph.populations if p.role != "input"]
    errors = []
    for levels in (1, 4, 16, 64, 255):
        options = Parallel(
            levels, clip=clip, percentile=100.0, per_channel=per_channel, input_bits=INPUT_BITS
        )
        found = simulate(METHODS["parallel"].convert(graph, ranges, options), images)
        errors.append(mean_error(found, exact, names))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.005
    assert errors[-1] < errors[0] / 50


def test_least_error_is_better_than_a_percentile_at_few_levels() -> None:
    graph, ranges, images = prepared("residual")
    exact = float_activity(graph, images)
    first = next(p.name for p in graph.populations if p.role == "activation")

    def error(**options: Any) -> float:
        spiking = METHODS["parallel"].convert(graph, ranges, Parallel(levels=2, **options))
        return float(((simulate(spiking, images)[first] - exact[first]) ** 2).mean())

    least = error()
    assert least < error(clip="percentile", percentile=99.9)
    assert least < error(per_channel=False)


@pytest.mark.parametrize("options", [Parallel(levels=5, coding="unary"), Parallel(levels=5)])
def test_i1_3_counts_are_those_of_the_quantised_activation(options: Parallel) -> None:
    """theta / L * clip(floor(x L / theta + 1/2), 0, L), layer after layer."""
    graph, ranges, images = prepared("vectors")
    spiking = METHODS["parallel"].convert(graph, ranges, options)
    assert spiking.steps == (1 if options.coding == "graded" else 5)
    assert (spiking.levels, spiking.sending, spiking.timing) == (5, options.coding, "first")
    values: dict[str, Array] = {}
    for p, s in zip(graph.populations, spiking.populations, strict=True):
        if p.role == "input":
            values[p.name] = np.floor(images / s.amplitude + 0.5) * s.amplitude
            continue
        shape = (len(images), *p.shape)
        drive = sum((c.map.apply(values[c.source]) for c in graph.into(p.name)), np.zeros(shape))
        drive = drive + p.bias
        theta = 5 * s.threshold
        staircase = theta / 5 * np.clip(np.floor(drive * 5 / theta + 0.5), 0, 5)
        values[p.name] = staircase if p.role == "activation" else drive
    found = simulate(spiking, images)
    for name, value in found.items():
        assert np.allclose(value, values[name], rtol=1e-9, atol=1e-12)


# Shared by all methods.


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_every_method_converts_every_network(method: str, name: str) -> None:
    graph, ranges, _ = prepared(name)
    spiking = METHODS[method].convert(graph, ranges, METHODS[method].options())
    spiking.verify()
    assert [p.name for p in spiking.populations] == [p.name for p in graph.populations]
    assert [p.shape for p in spiking.populations] == [p.shape for p in graph.populations]
    assert [(c.source, c.target, c.map) for c in spiking.connections] == [
        (c.source, c.target, c.map) for c in graph.connections
    ]
    roles = {"input": "source", "readout": "readout"}
    for p, s in zip(graph.populations, spiking.populations, strict=True):
        assert s.model == roles.get(p.role, s.model)
        assert s.threshold.shape in ((), p.shape[:1])
        assert np.array_equal(s.bias, p.bias)


def seen(minimum: Any, maximum: Any, bins: dict[tuple[int, int], int]) -> PopulationRange:
    """A range of channels with the given (channel, bin): count."""
    histogram = np.zeros((len(maximum), BINS), np.int64)
    for place, count in bins.items():
        histogram[place] = count
    return PopulationRange(
        frozen(minimum, float),
        frozen(maximum, float),
        histogram,
        np.zeros(len(maximum)),
        histogram[:, :0],
    )


@pytest.mark.parametrize("percentile", [None, 99.0])
def test_a_silent_channel_takes_the_populations_clip_value(percentile: float | None) -> None:
    activity = seen([0, 0], [2.0, 0.0], {(0, BINS - 1): 100})
    chosen, pooled = (
        step_sizes(activity, 0, 8, ClipRule(per_channel, percentile, "positive"))
        for per_channel in (True, False)
    )
    assert chosen.shape == (2,)
    assert pooled.shape == ()
    assert chosen[1] == pooled > 0


def test_a_silent_population_still_has_a_clip_value() -> None:
    nothing = seen([0, 0], [0.0, 0.0], {})
    rare = PopulationRange(
        *(nothing.minimum, frozen([0.0, 5.0]), nothing.histogram.copy()),
        zeros=np.array([1e6, 1e6]),
        below=nothing.below,
    )
    rare.histogram[1, -1] = 1
    for per_channel in (True, False):
        for activity, expected in ((nothing, 1.0), (rare, 5.0)):
            step = step_sizes(activity, 0, 8, ClipRule(per_channel, 99.0))
            assert np.unique(step).tolist() == [expected / 8]


@pytest.mark.parametrize(
    ("low", "high", "bits", "payload", "scale"),
    [
        (0.0, 1.0, 8, (0, 255), 1 / 255),
        (0.25, 2.0, 4, (0, 15), 2 / 15),
        (-1.0, 0.5, 8, (-127, 127), 1 / 127),
        (-0.1, 3.0, 2, (-1, 1), 3.0),
        (0.0, 0.0, 8, (0, 255), 1 / 255),
    ],
)
def test_the_input_uses_its_bits(
    low: float, high: float, bits: int, payload: tuple[int, int], scale: float
) -> None:
    p = Population("input", (1, 2, 2), "input", frozen(0.0))
    s = input_population(p, seen([low], [high], {}), bits, 5)
    assert (s.model, s.low, s.high) == ("source", *payload)
    assert float(s.amplitude) == pytest.approx(scale)
    assert float(s.count_scale) == pytest.approx(scale / 5)


REFUSED: list[tuple[type[Any], str, Any, str]] = [
    (Parallel, "levels", 0, "whole numbers 1..255"),
    (Parallel, "levels", 256, "whole numbers 1..255"),
    (Parallel, "levels", 8.5, "whole numbers 1..255"),
    (Parallel, "levels", True, "whole numbers 1..255"),
    (Parallel, "levels", "8", "whole numbers 1..255"),
    (Parallel, "coding", "binary", "graded, unary"),
    (Parallel, "clip", "max", "least-error, percentile"),
    (Parallel, "percentile", 49.9, "50..100"),
    (Parallel, "percentile", 100.1, "50..100"),
    (Parallel, "percentile", float("nan"), "50..100"),
    (Parallel, "per_channel", "no", "True, False"),
    (Parallel, "input_bits", 1, "whole numbers 2..16"),
    (Parallel, "input_bits", 17, "whole numbers 2..16"),
    (Rate, "steps", 0, "whole numbers 1..65535"),
    (Rate, "steps", 65536, "whole numbers 1..65535"),
    (Rate, "steps", 64.0, "whole numbers 1..65535"),
    (Rate, "percentile", 0.999, "50..100"),
    (Rate, "percentile", True, "50..100"),
    (Rate, "over", "nonzero", "all, positive"),
    (Rate, "initial", "full", "half, even, zero"),
    (Rate, "max_pool", "leader", "exact, gated"),
    (Rate, "reset", "soft", "subtract, zero"),
    (Rate, "headroom", 0.5, "1..1024"),
    (Rate, "per_channel", 1, "True, False"),
    (Rate, "input_bits", 8.0, "whole numbers 2..16"),
    (SigmaDelta, "levels", 256, "whole numbers 1..255"),
    (SigmaDelta, "clip", "max", "least-error, percentile"),
    (SigmaDelta, "percentile", 49.9, "50..100"),
    (SigmaDelta, "per_channel", "yes", "True, False"),
    (SigmaDelta, "input_bits", 1, "whole numbers 2..16"),
    (SigmaDelta, "steps", 0, "whole numbers 1..65535"),
    *(
        (method, *rest)
        for method in (FastSNN, LMHT)
        for rest in (
            ("levels", 256, "whole numbers 1..255"),
            ("clip", "max", "least-error, percentile"),
            ("percentile", 49.9, "50..100"),
            ("per_channel", "yes", "True, False"),
            ("input_bits", 1, "whole numbers 2..16"),
            ("steps", 0, "whole numbers 1..65535"),
            ("mixed", 3, "text"),
        )
    ),
    (Parallel, "mixed", 4, "text"),
    (Parallel, "order", "late", "first, last"),
    (SigmaDelta, "mixed", None, "text"),
    (FastSNN, "settle", "no", "True, False"),
    (FastSNN, "signed", 1, "True, False"),
    (LMHT, "keep", 1.01, "0..1"),
    (LMHT, "mixing", "global", "none, causal, full"),
    (LMHT, "single_threshold", 1, "True, False"),
    (Rate, "percentile_step", -0.1, "0..50"),
    (Rate, "input", "spikes", "analog, poisson"),
]


@pytest.mark.parametrize(("options", "name", "value", "allowed"), REFUSED)
def test_values_that_an_option_refuses(
    options: type[Any], name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(InputError) as caught:
        options(**{name: value})
    error = caught.value
    assert (error.where, error.found, error.allowed) == (f"option {name}", repr(value), allowed)
    assert error.rule in (
        "options lie in their range",
        "options take a listed value",
        "options have their type",
    )
    assert name in error.remedy


def test_every_option_refuses_something_and_explains_itself() -> None:
    assert METHODS
    for method in METHODS.values():
        fields = dataclasses.fields(method.options)
        refusing = {name for options, name, *_ in REFUSED if options is method.options}
        assert refusing == {field.name for field in fields}
        for field in fields:
            assert field.metadata["help"]
            choices = field.metadata["choices"]
            assert not choices or field.default in choices


def test_an_options_ends_are_allowed() -> None:
    Parallel(levels=1, percentile=50, input_bits=2)
    Parallel(levels=255, percentile=100.0, input_bits=16)
    Rate(steps=1)
    Rate(steps=65535, per_channel=True)
    check_range("x", 3, 3, 3)


def test_a_method_is_chosen_by_its_options() -> None:
    assert {name: method_of(method.options()) for name, method in METHODS.items()} == {
        name: name for name in METHODS
    }
    with pytest.raises(InputError) as caught:
        method_of("parallel")
    error = caught.value
    assert (error.where, error.found) == ("method", "str")
    assert error.rule == "a method is chosen by its options object"
    assert error.allowed == ", ".join(
        f"lapilli.methods.{name}" for name in ("Parallel", "FastSNN", "LMHT", "Rate", "SigmaDelta")
    )
    assert "lapilli.methods.Parallel(levels=8)" in error.remedy


BROKEN: dict[str, tuple[str, Any, str, str]] = {
    "threshold of nothing": (
        "threshold",
        [0.5, 0.0, 0.5, 0.5],
        "every threshold is positive",
        "0.0",
    ),
    "threshold without end": ("threshold", np.inf, "every threshold is positive", "inf"),
    "amplitude below zero": ("amplitude", -1.0, "every amplitude is positive", "-1.0"),
    "count of NaN": ("count_scale", np.nan, "every count_scale is positive", "nan"),
    "bias of NaN": (
        "bias",
        [[[0.0]], [[np.nan]], [[0.0]], [[0.0]]],
        "every bias is a number",
        "nan",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_spiking_network_of_impossible_numbers_is_refused(case: str) -> None:
    field, value, rule, found = BROKEN[case]
    graph, ranges, _ = prepared("residual")
    spiking = METHODS["parallel"].convert(graph, ranges, Parallel())
    first, second, *rest = spiking.populations
    broken = dataclasses.replace(second, **{field: frozen(value, float)})
    with pytest.raises(NetlistError) as caught:
        dataclasses.replace(spiking, populations=(first, broken, *rest)).verify()
    error = caught.value
    assert (error.where, error.rule, error.found) == ("relu (window)", rule, found)
    assert error.allowed in ("> 0", "finite")
    assert error.remedy


def test_weights_without_end_are_refused() -> None:
    graph, ranges, _ = prepared("vectors")
    spiking = METHODS["parallel"].convert(graph, ranges, Parallel())
    first, *rest = spiking.connections
    weight = first.map.weight.copy()
    weight[0, 0] = np.inf
    broken = dataclasses.replace(first, map=first.map.with_weight(weight))
    with pytest.raises(NetlistError) as caught:
        dataclasses.replace(spiking, connections=(broken, *rest)).verify()
    assert (caught.value.where, caught.value.found) == ("input -> relu", "inf")
    assert caught.value.rule == "every weight is a number"
