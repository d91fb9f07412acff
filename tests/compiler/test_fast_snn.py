"""Fast-SNN: what settles, when it is proven to, how pools are compared, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pooled_network import compiled, images, network
from torch import nn
from torch.nn import functional

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError, UnsupportedOperatorError
from lapilli.compiler.linear import frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import RateMax, SignedIF, SoftResetIF
from lapilli.compiler.numerics import FloatArray

FastSNN = lapilli.methods.FastSNN


def counts_agree(net: Artifact, x: FloatArray) -> bool:
    ann, snn = lapilli.quantised_ann(net, x), lapilli.run(net, x)
    assert sum(count.any() for count in snn.counts.values()) > len(snn.counts) / 2
    readouts = [np.array_equal(ann.readouts[n], v) for n, v in snn.readouts.items()]
    return all([np.array_equal(ann.counts[n], v) for n, v in snn.counts.items()] + readouts)


@pytest.mark.parametrize("levels", [1, 2, 7, 32])
def test_a_settled_network_is_the_quantised_ann_at_every_unit(levels: int) -> None:
    net = compiled(FastSNN(levels=levels))
    assert net.netlist.settles
    assert not net.netlist.one_pass
    assert counts_agree(net, images(6, 1))


def test_it_is_silent_long_before_it_must_be() -> None:
    """The proven bound is depth * (L - 1) + 1; the reference tells what images really took."""
    net = compiled(FastSNN(levels=7))
    trace = lapilli.run(net, images(20, 1), record="spikes")
    depth: dict[str, int] = {}
    for p in net.netlist.populations:
        before = max((depth[c.source] for c in net.netlist.into(p.name)), default=0)
        depth[p.name] = before + isinstance(p.neuron, SignedIF)
    assert net.netlist.steps == 1 + max(depth.values()) * 6
    last = np.zeros(20, np.int64)
    for train in trace.spikes.values():
        fired = train.reshape(20, net.netlist.steps, -1).any(2)
        last = np.maximum(last, (fired * np.arange(1, net.netlist.steps + 1)).max(1))
    assert trace.silent is not None
    np.testing.assert_array_equal(trace.silent, last)
    np.testing.assert_array_equal(lapilli.run(net, images(20, 1)).silent, last)
    assert 7 <= last.max() < net.netlist.steps / 2


def test_a_window_of_its_longest_silence_is_as_good_and_a_shorter_one_is_found_out() -> None:
    x = images(20, 1)
    long = lapilli.run(compiled(FastSNN(levels=7)), x)
    assert long.silent is not None
    enough = int(long.silent.max())
    net = compiled(FastSNN(levels=7, steps=enough))
    assert (net.netlist.settles, net.netlist.settling) == (False, True)
    short = lapilli.run(net, x)
    for name, count in long.counts.items():
        np.testing.assert_array_equal(short.counts[name], count)
    assert lapilli.verify(net, x, backends=("reference",)).ok
    cut = compiled(FastSNN(levels=7, steps=enough - 2))
    found = lapilli.verify(cut, x, backends=("reference",))
    assert not found.ok
    assert found.first_difference is not None
    assert found.first_difference.startswith("quantised ANN == reference")


def with_steps(netlist: Netlist, steps: int) -> Netlist:
    return dataclasses.replace(netlist, steps=steps)


def test_settling_is_claimed_where_it_is_proven_only() -> None:
    netlist = compiled(FastSNN(levels=5)).netlist
    assert netlist.settles
    assert not with_steps(netlist, netlist.steps - 1).settles
    flowing = [
        dataclasses.replace(p, neuron=dataclasses.replace(p.neuron, current=frozen(1, np.int64)))
        if isinstance(p.neuron, SignedIF)
        else p
        for p in netlist.populations
    ]
    disturbed = dataclasses.replace(netlist, populations=tuple(flowing))
    assert (disturbed.settles, disturbed.settling) == (False, False)
    published = compiled(FastSNN(levels=5, settle=False)).netlist
    assert (published.settles, published.settling) == (False, False)
    assert lapilli.run(compiled(FastSNN(levels=5, settle=False)), images(2)).silent is None


def test_signed_pools_are_the_maxima_of_their_inputs() -> None:
    net = compiled(FastSNN(levels=7))
    trace = lapilli.run(net, images(6, 1))
    pools = [name.removesuffix(".stage0") for name in trace.counts if name.endswith(".stage0")]
    assert len(pools) == 3
    (first, *_) = pools
    before = torch.from_numpy(trace.counts["relu"].astype(np.float32))
    expected = functional.max_pool2d(before, 2).numpy()
    np.testing.assert_array_equal(trace.counts[first], expected)


def test_as_published_spikes_of_one_layer_are_right_and_deeper_ones_near() -> None:
    """One constant current: the first layer counts as the quantised ANN (equation 21)."""
    net = compiled(FastSNN(levels=15, settle=False))
    assert net.netlist.steps == 15
    x = images(6, 1)
    ann, snn = lapilli.quantised_ann(net, x), lapilli.run(net, x)
    np.testing.assert_array_equal(snn.counts["relu"], ann.counts["relu"])
    names = [name for name in snn.counts if name not in ("input", "relu")]
    assert any((snn.counts[name] != ann.counts[name]).any() for name in names)
    settled = lapilli.run(compiled(FastSNN(levels=15)), x)
    exact = network()(torch.from_numpy(x)).detach().numpy()
    assert np.abs(settled.outputs - exact).mean() <= np.abs(snn.outputs - exact).mean() * 1.5


def test_taking_back_brings_counts_nearer_to_the_quantised_ann() -> None:
    x = images(10, 1)
    off = {}
    for signed in (True, False):
        net = compiled(FastSNN(levels=15, settle=False, signed=signed))
        kinds = {type(p.neuron) for p in net.netlist.populations}
        assert (SignedIF in kinds, SoftResetIF in kinds, RateMax in kinds) == (
            signed,
            not signed,
            not signed,
        )
        ann, snn = lapilli.quantised_ann(net, x), lapilli.run(net, x)
        layers = [n for n in snn.counts if ".stage" not in n and n != "input"]
        off[signed] = np.mean([np.abs(snn.counts[n] - ann.counts[n]).mean() for n in layers])
    assert off[True] < off[False]


@pytest.mark.parametrize(
    "method",
    [
        FastSNN(levels=3),
        FastSNN(levels=3, settle=False),
        FastSNN(levels=4, settle=False, signed=False),
    ],
)
def test_it_survives_its_file_and_its_own_verification(
    method: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fast") / "net.h5"
    compiled(method).save(path)
    net = lapilli.load(path)
    assert net.provenance.method == "fast-snn"
    x = images(3, 2)
    assert lapilli.verify(net, x, backends=("reference",)).ok
    ours, theirs = lapilli.run(compiled(method), x), lapilli.run(net, x)
    np.testing.assert_array_equal(ours.outputs, theirs.outputs)


@pytest.mark.lava
@pytest.mark.parametrize(
    "method",
    [
        FastSNN(levels=3),
        FastSNN(levels=3, settle=False),
        FastSNN(levels=4, settle=False, signed=False),
    ],
)
def test_lava_computes_the_same(method: object) -> None:
    found = lapilli.verify(compiled(method), images(2, 2))
    assert found.first_difference is None
    assert found.ok


CURVED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "sigmoid": (nn.Sigmoid, "sigmoid"),
    "gelu": (nn.GELU, "gelu"),
    "leaky": (lambda: nn.LeakyReLU(0.1), "leaky_relu"),
}


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("method", [FastSNN(), lapilli.methods.LMHT(), lapilli.methods.Rate()])
def test_what_is_no_clipped_line_is_refused(name: str, method: object) -> None:
    make, _ = CURVED[name]
    curved = nn.Sequential(nn.Conv2d(2, 3, 3), make(), nn.Flatten(), nn.Linear(192, 2))
    with pytest.raises(UnsupportedOperatorError) as caught:
        lapilli.compile(curved, calibration=images(4), method=method)
    assert caught.value.rule.endswith("a clipped line of the drive")
    assert "parallel" in caught.value.remedy


def test_options_that_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as caught:
        FastSNN(signed=False)
    assert caught.value.where == "option settle"
    proven = compiled(FastSNN(levels=7)).netlist.steps
    module = importlib.import_module("lapilli.compiler.passes.convert_fast_snn")
    monkeypatch.setattr(module, "MAX_STEPS", proven - 1)
    with pytest.raises(InputError) as caught:
        lapilli.compile(network(), calibration=images(4), method=FastSNN(levels=7))
    assert caught.value.where == "option steps"
    assert (caught.value.found, caught.value.allowed) == (f"{proven} steps", str(proven - 1))
