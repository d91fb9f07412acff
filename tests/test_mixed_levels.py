"""Populations with levels of their own: exact in every coding, refused where they mean nothing."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import mixed_networks
import numpy as np
import oracles
import pytest
from torch import nn

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError
from lapilli.compiler.neurons import SignedIF, Window
from lapilli.compiler.passes.mixed_levels import parse, written
from lapilli.runtime import quantise_input

MIXED = {
    "pooled": "relu=9,relu6=2,max_pool2d_2.input=12",
    "gated": "silu=11,sigmoid=3,mul=7,pow=16",
    "curved": "prelu=12,tanh=2,gelu=7,hardtanh=1",
}
METHODS: dict[str, Any] = {
    "graded": lambda mixed: lapilli.methods.Parallel(levels=5, mixed=mixed),
    "unary": lambda mixed: lapilli.methods.Parallel(levels=5, mixed=mixed, coding="unary"),
    "sigma-delta": lambda mixed: lapilli.methods.SigmaDelta(levels=5, mixed=mixed, steps=2),
    "settled": lambda mixed: lapilli.methods.FastSNN(levels=5, mixed=mixed),
    "thresholds": lambda mixed: lapilli.methods.LMHT(levels=5, mixed=mixed, steps=1),
}
CASES = [
    (name, method)
    for name in MIXED
    for method in METHODS
    if name == "pooled" or method not in ("settled", "thresholds")  # which cannot say curves
]
CALIBRATIONS = ("none", "bias", "least-squares", "da-qcfs:batches=5", "reconstruct:steps=6,batch=8")


def compiled(name: str, method: str, calibrate: str | None = None) -> Artifact:
    return lapilli.compile(
        mixed_networks.network(name),
        calibration=mixed_networks.images(name, 40),
        method=METHODS[method](MIXED[name]),
        calibrate=calibrate,
    )


def spans(net: Artifact) -> dict[str, int]:
    """How many counts above its lowest each population has."""
    neurons = {p.name: p.neuron for p in net.netlist.populations}
    return {
        name: neuron.levels - getattr(neuron, "lowest", 0)
        for name, neuron in neurons.items()
        if hasattr(neuron, "levels")
    }


def check_exact(net: Artifact, name: str) -> None:
    """Reference engine == oracle in Python integers == quantised ANN."""
    images = mixed_networks.images(name, 3, seed=5)
    assert net.netlist.settles
    report = lapilli.verify(net, images, backends=("reference",))
    assert report.ok, report.first_difference
    assert any(row.name.startswith("quantised ANN") for row in report.rows)
    inputs, _ = quantise_input(net.netlist, images)
    expected = oracles.simulate(net.netlist, inputs)
    for population, counts in lapilli.run(net, images, record="counts").counts.items():
        np.testing.assert_array_equal(counts, expected.spikes[population].sum(1), population)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_every_coding_is_exact(name: str, method: str) -> None:
    net = compiled(name, method)
    check_exact(net, name)
    wanted, found = parse(MIXED[name]), spans(net)
    counting = {n: found[n] for n in found if n in wanted}
    assert counting == wanted
    assert {5, *wanted.values()} >= set(found.values())
    assert net.provenance.options["mixed"] == MIXED[name]


@pytest.mark.parametrize("calibrate", CALIBRATIONS)
@pytest.mark.parametrize(("name", "method"), [("pooled", "unary"), ("curved", "graded")])
def test_every_calibration_is_exact(name: str, method: str, calibrate: str) -> None:
    net = compiled(name, method, calibrate)
    check_exact(net, name)
    found = spans(net)
    assert {n: found[n] for n in parse(MIXED[name])} == parse(MIXED[name])


@pytest.mark.lava
@pytest.mark.parametrize(("name", "method"), [("pooled", "unary"), ("curved", "graded")])
def test_lava_agrees(name: str, method: str) -> None:
    report = lapilli.verify(compiled(name, method), mixed_networks.images(name, 2, seed=6))
    assert report.ok, report.first_difference


def test_a_window_of_unary_spikes_is_as_long_as_the_largest_level() -> None:
    assert compiled("pooled", "unary").netlist.steps == 12
    assert compiled("pooled", "graded").netlist.steps == 1


def test_layers_of_few_levels_settle_sooner() -> None:
    def steps(mixed: str) -> int:
        model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU())
        images = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
        method = lapilli.methods.FastSNN(levels=12, mixed=mixed)
        net = lapilli.compile(model.eval(), calibration=images, method=method)
        assert sum(isinstance(p.neuron, SignedIF) for p in net.netlist.populations) == 2
        assert lapilli.verify(net, images, backends=("reference",)).ok
        return net.netlist.steps

    # A neuron falls silent its levels - 1 steps after the last one before it.
    assert steps("") - steps("1=3") == 9


def test_levels_written_are_the_levels_read() -> None:
    levels = {"layer1.0.relu": 4, "cat[0:64]": 255, "a, b": 1}
    assert parse(written(levels)) == levels
    assert parse("") == {}
    assert parse(" relu = 4 , relu_1=5,") == {"relu": 4, "relu_1": 5}


@pytest.mark.parametrize(
    "text", ["relu", "relu=", "relu=x", "relu=-1", "relu=1.5", "=4", "relu=2,relu=3", "relu=2,,"]
)
def test_what_is_no_list_of_levels_is_refused(text: str) -> None:
    with pytest.raises(InputError) as refused:
        lapilli.methods.Parallel(mixed=text)
    assert refused.value.where == "option mixed"
    assert "relu=4" in refused.value.allowed


@pytest.mark.parametrize(("text", "option"), [("relu=0", "relu"), ("a=2,b=256", "b")])
def test_levels_out_of_range_are_refused(text: str, option: str) -> None:
    with pytest.raises(InputError) as refused:
        lapilli.methods.SigmaDelta(mixed=text)
    assert refused.value.where == f"option mixed ({option})"
    assert "1..255" in refused.value.allowed


def test_levels_are_text() -> None:
    with pytest.raises(InputError, match="text"):
        lapilli.methods.Parallel(mixed={"relu": 4})  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_population_is_named_with_the_nearest_one(method: str) -> None:
    with pytest.raises(InputError) as refused:
        mixed_networks.compiled("pooled", METHODS[method]("relu_7=3"))
    error = refused.value
    assert (error.where, error.found) == ("option mixed", "'relu_7'")
    assert error.allowed == "relu, relu_1, relu6, max_pool2d_2.input"
    assert error.remedy == "Did you mean 'relu_1'?"


@pytest.mark.parametrize("name", ["input", "head", "max_pool2d"])
def test_only_populations_that_count_have_levels(name: str) -> None:
    with pytest.raises(InputError, match="populations that count"):
        mixed_networks.compiled("pooled", lapilli.methods.Parallel(mixed=f"{name}=3"))


def test_levels_mean_nothing_without_settling() -> None:
    with pytest.raises(InputError) as refused:
        lapilli.methods.FastSNN(settle=False, mixed="relu=3")
    assert "without settle" in refused.value.found


def test_several_steps_of_several_thresholds_mix_levels_too() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU())
    images = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    for mixing in ("none", "causal"):
        method = lapilli.methods.LMHT(levels=4, steps=3, mixed="1=2", mixing=mixing)
        net = lapilli.compile(model.eval(), calibration=images, method=method, profile="unlimited")
        assert lapilli.verify(net, images, backends=("reference",)).ok
        inputs, _ = quantise_input(net.netlist, images[:3])
        expected = oracles.simulate(net.netlist, inputs)
        trace = lapilli.run(net, images[:3], record="counts")
        for population, counts in trace.counts.items():
            np.testing.assert_array_equal(counts, expected.spikes[population].sum(1), population)
        at_once = {
            p.neuron.levels
            for p in net.netlist.populations
            if isinstance(p.neuron, Window) or hasattr(p.neuron, "decay")
        }
        assert at_once == {2, 4}


def test_levels_of_very_many_populations_are_recorded_in_parts(tmp_path: Path) -> None:
    layers = [layer for _ in range(130) for layer in (nn.Linear(2, 2), nn.ReLU())]
    names = [f"{'a' * 30}{index}" for index in range(len(layers))]
    model = nn.Sequential(OrderedDict(zip(names, layers, strict=True))).eval()
    images = np.random.default_rng(1).normal(size=(8, 2)).astype(np.float32)
    mixed = written({name: 3 + index % 2 for index, name in enumerate(names) if index % 2})
    assert len(mixed) > 4096
    method = lapilli.methods.Parallel(mixed=mixed)
    net = lapilli.compile(model, calibration=images, method=method, calibrate="none")
    net.save(tmp_path / "net.h5")
    recorded = lapilli.load(tmp_path / "net.h5").provenance.options["mixed"]
    assert recorded == mixed.split(",")
