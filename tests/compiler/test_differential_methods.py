"""One algebra: at the same integers every method sends the same counts, in every unit.

Window neurons (graded and unary), several thresholds in one step, signed spikes once settled, and
sigma-delta on a still image are executed on the reference engine, step by step; the quantised ANN
is computed by code of its own. The integers are those of one netlist of window neurons.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from runpy import run_path

import chips
import numpy as np
import pooled_network
import pytest
import torch
from data_paths import CIFAR10, RESNET20, needs
from torch import Tensor, nn
from torch.nn import functional

import lapilli
from lapilli import data, models
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import (
    MultiThreshold,
    NeuronModel,
    OrGate,
    Sending,
    SigmaDelta,
    SignedIF,
    Source,
    Window,
)
from lapilli.compiler.schedule import schedule
from lapilli.runtime import quantise_input, quantised_ann, reference
from lapilli.runtime.trace import Trace

ROOMY = chips.chip("loihi2", state_bits=22)
"""Window neurons that use fewer bits than there are: others, on the way, reach a little further."""
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "03_resnet20.py"


class RandomNetwork(nn.Module):
    """A stem, residual blocks of random widths, groups, kernels and strides, a head."""

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        groups = int(rng.choice([1, 2, 4]))
        width = 4 * int(rng.integers(1, 3))
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.main, self.side = nn.ModuleList(), nn.ModuleList()
        for _ in range(int(rng.integers(1, 4))):
            stride, kernel = int(rng.integers(1, 3)), int(rng.choice([1, 3]))
            pad = kernel // 2
            self.main.append(nn.Conv2d(width, width, kernel, stride, pad, groups=groups))
            self.side.append(nn.Conv2d(width, width, 1, stride) if stride > 1 else nn.Identity())
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        for main, side in zip(self.main, self.side, strict=True):
            x = functional.relu(main(x) + side(x))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@functools.cache
def random_case(seed: int, levels: int) -> tuple[Artifact, Array]:
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RandomNetwork(rng).eval()
    x = rng.random((32, 3, 9, 8)).astype(np.float32)
    method = lapilli.methods.Parallel(levels=levels)
    return lapilli.compile(model, calibration=x, method=method, profile=ROOMY), x[:6]


def rebuilt(
    netlist: Netlist, steps: int, timing: str, make: Callable[[Window], NeuronModel]
) -> Netlist:
    """The netlist with other neurons in place of its windows, at the same integers."""

    def other(neuron: NeuronModel) -> NeuronModel:
        if isinstance(neuron, Source):
            return dataclasses.replace(neuron, timing=timing)
        return make(neuron) if isinstance(neuron, Window) else neuron

    populations = tuple(dataclasses.replace(p, neuron=other(p.neuron)) for p in netlist.populations)
    plan = schedule(populations, netlist.connections, steps)
    connections = tuple(dataclasses.replace(c, delay=plan.delay(c)) for c in netlist.connections)
    made = Netlist(populations, connections, steps)
    reaches = [made.reach(p.name) for p in populations]
    proven = [
        dataclasses.replace(p, state_low=low, state_high=high)
        for p, (low, high) in zip(populations, reaches, strict=True)
    ]
    made = dataclasses.replace(made, populations=tuple(proven))
    made.verify()
    return made


def depth(netlist: Netlist) -> int:
    found: dict[str, int] = {}
    for p in netlist.populations:
        before = max((found[c.source] for c in netlist.into(p.name)), default=0)
        found[p.name] = before + isinstance(p.neuron, Window)
    return max(found.values())


def several(w: Window) -> MultiThreshold:
    return MultiThreshold(w.threshold, w.bias, w.initial, w.levels, 0)


def signed(w: Window) -> SignedIF:
    return SignedIF(w.threshold, w.bias, w.initial, w.levels)


def variants(netlist: Netlist, levels: int) -> dict[str, Netlist]:
    """Every method, in as many steps as it needs."""
    long = depth(netlist) * (levels - 1) + 1

    def unary(w: Window) -> Window:
        return dataclasses.replace(w, sending="unary")

    def delta(w: Window) -> SigmaDelta:
        return SigmaDelta(w.threshold, w.bias, w.initial, w.levels)

    return {
        "window, unary": rebuilt(netlist, levels, "first", unary),
        "several thresholds": rebuilt(netlist, 1, "first", several),
        "signed spikes": rebuilt(netlist, long, "first", signed),
        "sigma-delta": rebuilt(netlist, 2, "changes", delta),
    }


def assert_equal(trace: Trace, expected: Trace, name: str) -> None:
    assert list(trace.counts) == list(expected.counts)
    for population, count in expected.counts.items():
        np.testing.assert_array_equal(trace.counts[population], count, f"{name}: {population}")
    for population, v in expected.readouts.items():
        np.testing.assert_array_equal(trace.readouts[population], v, f"{name}: {population}")


@pytest.mark.parametrize("levels", [1, 4, 15])
@pytest.mark.parametrize("seed", range(4))
def test_every_method_is_the_quantised_ann(seed: int, levels: int) -> None:
    net, x = random_case(seed, levels)
    inputs = quantise_input(net.netlist, x)[0]
    expected = quantised_ann.run(net.netlist, inputs)
    assert all(count.any() for count in expected.counts.values())
    assert_equal(reference.run(net.netlist, inputs, record="states"), expected, "window, graded")
    for name, netlist in variants(net.netlist, levels).items():
        assert netlist.settles, name
        frames = inputs if name != "sigma-delta" else np.repeat(inputs[:, None], 2, 1)
        trace = reference.run(netlist, frames, record="states")
        assert_equal(trace, expected, name)
        if trace.silent is not None:
            assert trace.silent.max() <= netlist.steps


@pytest.mark.parametrize("seed", range(4))
def test_methods_of_one_compilation_each_agree_with_their_own_ann(seed: int) -> None:
    """As users get them: integers may differ from method to method, equality may not."""
    _, x = random_case(seed, 4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RandomNetwork(np.random.default_rng(seed)).eval()
    outputs = []
    for method in (
        lapilli.methods.Parallel(levels=6),
        lapilli.methods.LMHT(levels=6, steps=1),
        lapilli.methods.FastSNN(levels=6),
        lapilli.methods.SigmaDelta(levels=6),
    ):
        net = lapilli.compile(model, calibration=x, method=method)
        trace = lapilli.run(net, x, record="states")
        assert_equal(trace, lapilli.quantised_ann(net, x), net.provenance.method)
        outputs.append(trace.outputs)
    for other in outputs[1:]:
        assert np.abs(other - outputs[0]).max() <= 0.1 * np.abs(outputs[0]).max()


def resnet20(levels: int) -> tuple[Artifact, Array]:
    example = run_path(str(EXAMPLE))
    network = example["ResNet20"]().eval()
    models.load_weights(network, RESNET20)
    train = data.load(f"cifar10:{CIFAR10}", split="train", limit=64).images
    test = data.load(f"cifar10:{CIFAR10}", split="test", limit=4).images
    train, test = (data.normalise(part, example["MEAN"], example["STD"]) for part in (train, test))
    method = lapilli.methods.Parallel(levels=levels)
    return lapilli.compile(network, calibration=train, method=method, profile=ROOMY), test


@needs(CIFAR10)
@needs(RESNET20)
def test_every_method_is_the_quantised_ann_on_resnet_20() -> None:
    levels = 4
    net, x = resnet20(levels)
    inputs = quantise_input(net.netlist, x)[0]
    expected = quantised_ann.run(net.netlist, inputs)
    assert_equal(reference.run(net.netlist, inputs), expected, "window, graded")
    for name, netlist in variants(net.netlist, levels).items():
        frames = inputs if name != "sigma-delta" else np.repeat(inputs[:, None], 2, 1)
        trace = reference.run(netlist, frames)
        assert_equal(trace, expected, name)
        if trace.silent is not None:
            assert trace.silent.max() < netlist.steps / 2


# A canonical integer test: I1.1, I1.2, I1.4, I1.5, I1.6 of the parallel method's paper.


def trains(
    drive: Array, threshold: int, levels: int, initial: int, sending: Sending = "unary"
) -> Array:
    """Unary spikes (N, levels) of a window neuron for drive (N, levels)."""
    values = (np.array(v, np.int64) for v in (threshold, 0, initial))
    neuron = Window(*values, levels, sending)
    state = neuron.start((len(drive),))
    sent = []
    for tau in range(2 * levels - 1):
        now = drive[:, tau] if tau < levels else np.zeros(len(drive), np.int64)
        state, spikes = neuron.step(state, now, tau % levels, levels)
        sent.append(spikes)
    return np.stack(sent[levels - 1 :], 1)


@pytest.mark.parametrize("levels", [1, 2, 8, 13])
def test_spikes_are_counted_sorted_and_do_not_depend_on_the_order_of_drive(levels: int) -> None:
    rng = np.random.default_rng(levels)
    drive = rng.integers(-60, 90, (3000, levels))
    initial = int(rng.integers(0, 50))
    spikes = trains(drive, 50, levels, initial)
    count = np.clip((drive.sum(1) + initial) // 50, 0, levels)
    np.testing.assert_array_equal(spikes.sum(1), count)
    assert (np.diff(spikes, axis=1) <= 0).all()  # first ones first
    # The paper's test, step x of T: (sum + psi) / (T - x + 1) >= theta, here without a fraction.
    asked = (drive.sum(1) + initial)[:, None] >= 50 * np.arange(levels, 0, -1)
    late = trains(drive, 50, levels, initial, "unary-last")  # the paper's order
    np.testing.assert_array_equal(late, asked)
    np.testing.assert_array_equal(late[:, ::-1], spikes)
    shuffled = rng.permuted(drive, axis=1)
    np.testing.assert_array_equal(trains(shuffled, 50, levels, initial), spikes)


def test_both_orders_of_spikes_count_the_same() -> None:
    """Of a compiled network, max pools by OR gates included: one is the other in reverse."""
    network, images = pooled_network.network(), pooled_network.images(40)
    x = images[:6]
    runs = {}
    for order in ("first", "last"):
        method = lapilli.methods.Parallel(levels=5, coding="unary", order=order)
        net = lapilli.compile(network, calibration=images, method=method)
        assert net.netlist.settles
        assert lapilli.verify(net, x[:2], backends=["reference"]).ok
        runs[order] = lapilli.run(net, x, record="spikes")
    first, last = runs["first"], runs["last"]
    assert (first.outputs == last.outputs).all()
    sent = 0
    for p in net.netlist.populations:
        if isinstance(p.neuron, (Window, OrGate)):
            np.testing.assert_array_equal(first.counts[p.name], last.counts[p.name])
            ones = first.spikes[p.name], last.spikes[p.name]
            assert (np.diff(ones[0].astype(int), axis=1) <= 0).all()
            assert (np.diff(ones[1].astype(int), axis=1) >= 0).all()
            sent += int(ones[0].sum())
    assert sent > 100
    # Where orders are mixed, an OR of trains is no longer the longest of them.
    early = dataclasses.replace(net.netlist["relu"].neuron, sending="unary")
    mixed = [
        dataclasses.replace(p, neuron=early) if p.name == "relu" else p
        for p in net.netlist.populations
    ]
    assert not dataclasses.replace(net.netlist, populations=tuple(mixed)).settles
