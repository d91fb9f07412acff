"""Rate coding beyond its normalisation: 1/T, schedules of percentiles, Poisson input."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import sample_networks
import torch
from torch import nn

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import RateGate, RateMax, Readout, SoftResetIF, Source
from lapilli.runtime import poisson, quantise_input, quantised_ann, reference

Rate = lapilli.methods.Rate
STEPS = (8, 16, 32, 64, 128)


@functools.cache
def compiled(name: str, method: object) -> Artifact:
    x = sample_networks.images(name, 40)
    return lapilli.compile(sample_networks.network(name), calibration=x, method=method)


def limits(netlist: Netlist, inputs: Array) -> dict[str, Array]:
    """Rates, and readouts per step, after endless time: clipped lines of the very same integers."""
    rates: dict[str, Array] = {}
    for p in netlist.populations:
        if isinstance(p.neuron, Source):
            rates[p.name] = inputs.astype(np.float64)
            continue
        drive = np.zeros((len(inputs), *p.shape))
        for c in netlist.into(p.name):
            wide = c.map.with_weight(c.map.weight.astype(np.float64))
            drive += wide.apply(rates[c.source]).reshape(drive.shape) * 2.0**c.exponent
        assert isinstance(p.neuron, (SoftResetIF, Readout))
        drive = drive + p.neuron.bias
        if isinstance(p.neuron, SoftResetIF):
            drive = np.clip(drive / p.neuron.threshold, 0, 1)
        rates[p.name] = drive
    return rates


@pytest.mark.parametrize("name", ["residual", "vectors"])
def test_the_error_falls_as_one_over_t(name: str) -> None:
    """I5.4, in integers: every layer, and the readout; the slope of log error over log T is -1."""
    netlist = compiled(name, Rate(steps=STEPS[-1], input_bits=4)).netlist
    inputs = quantise_input(netlist, sample_networks.images(name, 16, seed=2))[0]
    expected = limits(netlist, inputs)
    errors: dict[str, list[float]] = {n: [] for n in expected if n != "input"}
    for steps in STEPS:
        trace = reference.run(dataclasses.replace(netlist, steps=steps), inputs)
        for n, found in {**trace.counts, **trace.readouts}.items():
            if n != "input":
                errors[n].append(float(np.abs(found / steps - expected[n]).mean()))
    for n, values in errors.items():
        assert min(values) > 0
        slope = np.polyfit(np.log(STEPS), np.log(values), 1)[0]
        assert -1.3 < slope < -0.7, (n, slope, values)


def test_the_percentile_falls_from_layer_to_layer() -> None:
    straight = compiled("vectors", Rate(steps=8, percentile=99.0))
    sloped = compiled("vectors", Rate(steps=8, percentile=99.0, percentile_step=10.0))
    ratios = [
        float(b.count_scale / a.count_scale)
        for a, b in zip(straight.netlist.populations, sloped.netlist.populations, strict=True)
        if isinstance(a.neuron, SoftResetIF)
    ]
    assert ratios[0] == 1.0
    assert 1.0 > ratios[1] > ratios[2] > 0
    third = compiled("vectors", Rate(steps=8, percentile=79.0)).netlist.populations[3]
    assert third.count_scale == sloped.netlist.populations[3].count_scale


def test_the_maximum_is_the_hundredth_percentile() -> None:
    x = sample_networks.images("residual", 40)
    net = compiled("residual", Rate(steps=64, percentile=100.0, input_bits=4))
    counts = lapilli.run(net, x).counts
    assert max(int(count.max()) for n, count in counts.items() if n != "input") >= 62


def test_poisson_trains_have_the_pixels_rates() -> None:
    net = compiled("residual", Rate(steps=200, input="poisson"))
    assert net.netlist.source.timing == "train"
    x = sample_networks.images("residual", 4, seed=2)
    trace = lapilli.run(net, x, record="spikes")
    assert set(np.unique(trace.spikes["input"])) == {0, 1}
    rate = trace.counts["input"] / 200 * float(net.netlist.input.state_scale)
    assert np.abs(rate - x).max() < 5 * 0.5 / np.sqrt(200)
    assert np.abs((rate - x).mean()) < 0.005
    assert all(e.input_macs == 0 for e in trace.events.values())


def test_poisson_trains_follow_from_the_seed_alone() -> None:
    net = compiled("residual", Rate(steps=12, input="poisson"))
    x = sample_networks.images("residual", 4, seed=2)
    first = lapilli.run(net, x, seed=5)
    np.testing.assert_array_equal(first.outputs, lapilli.run(net, x, seed=5).outputs)
    assert (first.outputs != lapilli.run(net, x, seed=6).outputs).any()
    trains = poisson.spikes(net.netlist, x, 5)
    np.testing.assert_array_equal(first.outputs, lapilli.run(net, trains).outputs)
    assert lapilli.verify(net, x, backends=("reference",)).ok


def test_negative_pixels_send_spikes_of_minus_one() -> None:
    x = sample_networks.images("residual", 40, signed=True)
    model = sample_networks.network("residual")
    net = lapilli.compile(model, calibration=x, method=Rate(steps=9, input="poisson"))
    sent = lapilli.run(net, x[:4], record="spikes").spikes["input"]
    assert set(np.unique(sent)) == {-1, 0, 1}
    assert (np.sign(sent) * np.sign(x[:4])[:, None] >= 0).all()


def test_more_steps_bring_poisson_input_nearer_to_analog() -> None:
    x = sample_networks.images("residual", 20, seed=2)
    exact = lapilli.run(compiled("residual", Rate(steps=200, input_bits=6)), x).outputs
    off = [
        np.abs(lapilli.run(compiled("residual", Rate(steps=t, input="poisson")), x).outputs - exact)
        for t in (8, 200)
    ]
    assert off[1].mean() < off[0].mean() / 2


def test_pixels_that_are_no_numbers_are_refused() -> None:
    net = compiled("residual", Rate(steps=12, input="poisson"))
    x = sample_networks.images("residual", 2, seed=2)
    x[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError) as caught:
        lapilli.run(net, x)
    assert caught.value.rule == "values are finite"


@pytest.mark.lava
def test_lava_gets_the_same_trains() -> None:
    net = compiled("residual", Rate(steps=6, input="poisson"))
    found = lapilli.verify(net, sample_networks.images("residual", 2, seed=2))
    assert found.ok
    assert found.first_difference is None


def test_a_gate_passes_the_leaders_spikes_and_is_near_the_maximum() -> None:
    """Rueckauer's pooling against ours, and both against the largest count of every pool."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(12, 4)),
    ).eval()
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()
    errors = {}
    for pooling, model in (("exact", RateMax), ("gated", RateGate)):
        net = lapilli.compile(network, calibration=x, method=Rate(steps=64, max_pool=pooling))
        assert [type(p.neuron) for p in net.netlist.populations].count(model) == 1
        assert net.provenance.options["max_pool"] == pooling
        counts = lapilli.run(net, x).counts
        before, after = list(counts)[-2:]
        largest = counts[before].reshape(24, 3, 2, 2, 2, 2).max(axis=(3, 5))
        errors[pooling] = np.abs(counts[after] - largest)
    assert errors["exact"].max() == 0
    assert 0 < errors["gated"].mean() < 2
    assert errors["gated"].max() > 2


def test_half_a_threshold_that_comes_evenly_rounds_alike_and_fires_less_too_early() -> None:
    """The same rounding of a whole window's drive; what comes unevenly adds fewer spikes."""
    images = sample_networks.images("residual", 40)
    found, wanted = {}, {}
    for initial in ("half", "even"):
        net = compiled("residual", Rate(steps=64, initial=initial))
        inputs = quantise_input(net.netlist, images)[0]
        found[initial] = reference.run(net.netlist, inputs).counts
        wanted[initial] = quantised_ann.run(net.netlist, inputs).counts
        spiking = [p for p in net.netlist.populations if isinstance(p.neuron, SoftResetIF)]
        first, *later = spiking
        assert (first.neuron.initial > 0).all()  # its drive is constant, and its count exact
        assert all((p.neuron.initial > 0).all() == (initial == "half") for p in later)
        name = first.name
        assert (found[initial][name] == wanted[initial][name]).all()
    for p in later:
        # In the limit both are the same, but for the rounding of a bias.
        assert np.abs(wanted["half"][p.name] - wanted["even"][p.name]).max() <= 1
        excess = {
            initial: (found[initial][p.name] - wanted[initial][p.name])[
                wanted[initial][p.name] == 0
            ]
            for initial in found
        }
        assert excess["even"].mean() < excess["half"].mean()


def test_a_bias_that_comes_in_every_step_replaces_the_start_alone() -> None:
    """Compensation counts as before: what it says of biases does not depend on the start."""
    for initial in ("half", "even"):
        x = sample_networks.images("vectors", 40)
        network = sample_networks.network("vectors")
        net = lapilli.compile(
            network, calibration=x, method=Rate(steps=32, initial=initial), calibrate="bias"
        )
        ann = quantised_ann.run(net.netlist, quantise_input(net.netlist, x)[0])
        plain = network(torch.from_numpy(x)).detach().numpy()
        assert np.abs(ann.outputs.mean(axis=0) - plain.mean(axis=0)).max() < 0.05 * plain.std()
