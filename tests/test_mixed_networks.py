"""Ladders, max pools and products compute what they say, bit for bit, in every coding."""

from __future__ import annotations

from typing import Any

import mixed_networks
import numpy as np
import oracles
import pytest
import torch
from mixed_networks import METHODS, NETWORKS

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import NetlistError, UnsupportedOperatorError
from lapilli.compiler.execute import TorchMax
from lapilli.compiler.linear import Array
from lapilli.compiler.neurons import GradedMax, Ladder, OrGate, Product, RateMax
from lapilli.runtime import quantise_input

CASES = [(name, method) for name in NETWORKS for method in METHODS]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_reference_quantised_ann_and_python_integers_agree(name: str, method: str) -> None:
    options, profile = METHODS[method]
    net = mixed_networks.compiled(name, options, profile)
    images = mixed_networks.images(name, 3, seed=5)
    assert net.netlist.settles
    report = lapilli.verify(net, images, backends=("reference",))
    assert report.ok, report.first_difference
    assert any(row.name.startswith("quantised ANN") for row in report.rows)
    inputs, _ = quantise_input(net.netlist, images)
    expected = oracles.simulate(net.netlist, inputs)
    for record in ("counts", "states"):
        trace = lapilli.run(net, images, record=record)
        for population, counts in trace.counts.items():
            np.testing.assert_array_equal(counts, expected.spikes[population].sum(1), population)
    for population, states in trace.states.items():
        np.testing.assert_array_equal(states, expected.states[population], population)


@pytest.mark.lava
@pytest.mark.parametrize(("name", "method"), CASES)
def test_lava_agrees(name: str, method: str) -> None:
    options, profile = METHODS[method]
    if method == "graded, many levels" and name != "gated":
        options = lapilli.methods.Parallel(levels=33)
    net = mixed_networks.compiled(name, options, profile)
    report = lapilli.verify(net, mixed_networks.images(name, 2, seed=6))
    assert report.ok, report.first_difference


RATES: dict[str, tuple[Any, str]] = {
    "rate": (lapilli.methods.Rate(steps=40), "loihi2"),
    "rate, one step": (lapilli.methods.Rate(steps=1), "unlimited"),
}


@pytest.mark.parametrize("method", [*METHODS, *RATES])
def test_pools_are_the_maximum_of_their_sources_counts(method: str) -> None:
    options, profile = {**METHODS, **RATES}[method]
    net = mixed_networks.compiled("pooled", options, profile)
    trace = lapilli.run(net, mixed_networks.images("pooled", 8, seed=2))
    pools = [
        p for p in net.netlist.populations if isinstance(p.neuron, (OrGate, GradedMax, RateMax))
    ]
    assert {"max_pool2d", "adaptive_max_pool2d"} <= {p.name for p in pools}
    for p in pools:
        into = net.netlist.into(p.name)
        assert len({c.source for c in into}) == 1
        source = torch.tensor(trace.counts[into[0].source], dtype=torch.float64)
        best = [TorchMax(c.map, torch.device("cpu"))(source).numpy() for c in into]
        expected = np.max([b.reshape(trace.counts[p.name].shape) for b in best], axis=0)
        np.testing.assert_array_equal(trace.counts[p.name], expected, p.name)


def wide(net: Artifact, name: str, values: Array) -> Array:
    """A scale or offset of a population, for every unit."""
    return np.broadcast_to(values, net.netlist[name].shape)[np.newaxis]


@pytest.mark.parametrize("method", METHODS)
def test_products_are_the_nearest_counts_to_the_product_of_two_activities(method: str) -> None:
    options, profile = METHODS[method]
    net = mixed_networks.compiled("gated", options, profile)
    trace = lapilli.run(net, mixed_networks.images("gated", 20, seed=2))
    products = [p for p in net.netlist.populations if isinstance(p.neuron, Product)]
    assert len(products) == 2
    for p in products:
        assert isinstance(p.neuron, Product)
        exact, unit = np.ones(()), p.neuron.threshold / 2.0**p.neuron.shift
        for c in net.netlist.into(p.name):
            read = c.map.with_weight((c.map.weight != 0).astype(np.float64))
            source = net.netlist[c.source]
            scale = wide(net, c.source, source.count_scale)
            activity = trace.counts[c.source] * scale + wide(net, c.source, source.count_offset)
            exact = exact * read.apply(activity).reshape(-1, *p.shape)
            unit = unit * read.apply(scale).reshape(p.shape)
        # Where counts are sent from 0 on, they are raised by what the lowest one lies below it.
        raised = -np.floor(p.count_offset / p.count_scale + 0.5)
        counts = trace.counts[p.name]
        inside = (counts > p.neuron.lowest) & (counts < p.neuron.levels)
        error = np.abs(exact / unit + raised - counts)
        assert error[inside].max(initial=0.0) <= 0.5 + 1e-6
        assert inside.any() or options.levels == 1


@pytest.mark.parametrize("name", NETWORKS)
def test_more_levels_come_closer_to_the_float_network(name: str) -> None:
    model, images = mixed_networks.network(name), mixed_networks.images(name, 40, seed=3)
    with torch.no_grad():
        wanted = model(torch.tensor(images)).numpy()
    errors = []
    for levels in (4, 16, 64):
        method = lapilli.methods.Parallel(levels=levels, input_bits=12)
        net = mixed_networks.compiled(name, method, "unlimited")
        found = lapilli.run(net, images).outputs
        errors.append(float(np.abs(found - wanted).mean() / wanted.std()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] > 4 * errors[2]
    assert errors[2] < 0.15


def test_ladders_stand_where_curves_are_and_nothing_is_sent_for_zero() -> None:
    net = mixed_networks.compiled("curved", lapilli.methods.Parallel(levels=6))
    ladders = [p.name for p in net.netlist.populations if isinstance(p.neuron, Ladder)]
    assert ladders == [
        *("prelu", "tanh", "leaky_relu", "mish", "gelu", "softplus", "hardtanh"),
    ]
    tanh = net.netlist["tanh"].neuron
    assert isinstance(tanh, Ladder)
    assert tanh.lowest < 0 < tanh.levels
    assert tanh.levels - tanh.lowest == 6


@pytest.mark.parametrize(("name", "found"), [("gated", "silu"), ("curved", "leaky_relu")])
def test_rates_cannot_say_curves(name: str, found: str) -> None:
    with pytest.raises(UnsupportedOperatorError) as refused:
        mixed_networks.compiled(name, lapilli.methods.Rate(steps=8))
    assert refused.value.found == found
    assert "parallel" in refused.value.remedy


def test_rates_of_pools_approach_the_float_network() -> None:
    model, images = mixed_networks.network("pooled"), mixed_networks.images("pooled", 20, seed=3)
    with torch.no_grad():
        wanted = model(torch.tensor(images)).numpy()
    errors = []
    for steps in (16, 256):
        net = mixed_networks.compiled("pooled", lapilli.methods.Rate(steps=steps), "unlimited")
        assert any(isinstance(p.neuron, RateMax) for p in net.netlist.populations)
        errors.append(
            float(np.abs(lapilli.run(net, images).outputs - wanted).mean() / wanted.std())
        )
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.1


def test_a_pool_is_moved_behind_the_relu_and_joins_are_pooled_apart() -> None:
    net = mixed_networks.compiled("pooled", lapilli.methods.Parallel(levels=6))
    names = [p.name for p in net.netlist.populations]
    assert names.index("relu") < names.index("max_pool2d")
    assert {"max_pool2d_1.0", "max_pool2d_1.1"} <= set(names)
    assert "max_pool2d_2.input" in names, "a signed sum is counted before it is compared"


@pytest.mark.parametrize(("name", "model"), [("gated", "Ladder"), ("curved", "Ladder")])
def test_chips_with_fixed_neurons_refuse_what_takes_a_program(name: str, model: str) -> None:
    method = lapilli.methods.Parallel(levels=5, coding="unary")
    with pytest.raises(NetlistError) as refused:
        mixed_networks.compiled(name, method, "loihi1")
    assert refused.value.rule == "loihi1 has fixed neurons"
    assert model in refused.value.where
    assert "loihi2" in refused.value.remedy


def test_unary_pools_need_no_program() -> None:
    method = lapilli.methods.Parallel(levels=5, coding="unary")
    net = mixed_networks.compiled("pooled", method, "loihi1")
    assert any(isinstance(p.neuron, OrGate) for p in net.netlist.populations)
    report = lapilli.verify(net, mixed_networks.images("pooled", 3), backends=("reference",))
    assert report.ok, report.first_difference
