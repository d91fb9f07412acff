"""NeuroBench's metrics: equal to naive loops, and to the `neurobench` package on three networks."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import netlists
import numpy as np
import oracles
import pytest
import torch
from netlists import Coding
from torch import Tensor, nn

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.linear import Conv, Dense
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import Readout, SoftResetIF, Source
from lapilli.compiler.numerics import Int64Array
from lapilli.runtime import neurobench_metrics, quantise_input

IMAGES, BATCH = 20, 8


def naive(netlist: Netlist, inputs: Int64Array) -> dict[str, Any]:
    """Every definition as a loop over Python integers; the footprint aside."""
    result = oracles.simulate(netlist, inputs)
    images, steps = len(inputs), netlist.steps
    macs = acs = updates = active = every = zeros = weights = 0
    for c in netlist.connections:
        sent = result.spikes[c.source].reshape(images, steps, -1)
        found = oracles.synapses(c.map)
        for tau in range(steps):
            rows = sent[:, tau].tolist()
            operations = sum(row[source] != 0 for row in rows for _, source, _ in found)
            if all(s in (-1, 0, 1) for row in rows for s in row):
                acs += operations
            else:
                macs += operations
        weights += c.map.weight.size
        zeros += c.map.weight.reshape(-1).tolist().count(0)
    for p in netlist.populations:
        if isinstance(p.neuron, (Source, Readout)):
            continue
        v = result.states[p.name].reshape(images, steps, -1).tolist()
        updates += images * p.size
        for image in v:
            for before, after in itertools.pairwise(image):
                updates += sum(a != b for a, b in zip(before, after, strict=True))
        spikes = result.spikes[p.name].reshape(-1).tolist()
        active += sum(s != 0 for s in spikes)
        every += len(spikes)
    return {
        "ConnectionSparsity": zeros / weights,
        "ActivationSparsity": (every - active) / every,
        "Effective_MACs": macs / images,
        "Effective_ACs": acs / images,
        "MembraneUpdates": updates / images,
    }


@pytest.mark.parametrize("coding", netlists.ALL_CODINGS)
def test_equal_to_naive_loops(coding: Coding) -> None:
    rng = np.random.default_rng(3)
    netlist = netlists.random_netlist(rng, coding)
    inputs = netlists.random_inputs(rng, netlist, 3)
    found = neurobench_metrics.measure(netlist, inputs).as_dict()
    operations = found.pop("SynapticOperations")
    assert operations.pop("Dense") >= sum(operations.values()) > 0
    assert found.pop("Footprint") > 0
    assert {**found, **operations} == naive(netlist, inputs)


def test_parts_of_the_images_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    netlist = netlists.random_netlist(np.random.default_rng(3), "signed")
    inputs = netlists.random_inputs(np.random.default_rng(4), netlist, 5)
    whole = neurobench_metrics.measure(netlist, inputs)
    told: list[tuple[int, int]] = []
    size = sum(p.size for p in netlist.populations) * netlist.steps
    monkeypatch.setattr(neurobench_metrics, "VALUES_AT_A_TIME", 2 * size)
    parts = neurobench_metrics.measure(netlist, inputs, progress=lambda *d: told.append(d))
    assert parts == whole
    assert told == [(2, 5), (4, 5), (5, 5)]


# The package itself.

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], Any]] = {
    "digits MLP, graded": (
        lambda: nn.Sequential(
            *(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 10))
        ),
        (64,),
        lapilli.methods.Parallel(levels=6),
    ),
    "MNIST-like CNN, graded": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 6, 5, stride=2, padding=2), nn.ReLU()),
            *(nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(8 * 7 * 7, 10)),
        ),
        (1, 28, 28),
        lapilli.methods.Parallel(levels=3),
    ),
    "spiking CNN, rate": (
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(4, 6, 3, stride=2), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(6 * 3 * 3, 10)),
        ),
        (1, 8, 8),
        lapilli.methods.Rate(steps=12),
    ),
}


def compiled(name: str) -> tuple[Artifact, Int64Array]:
    """The network with random weights, a fifth of them zero, and integer inputs for it."""
    make, shape, method = NETWORKS[name]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(2)
        model = make().eval()
        for layer in model:
            if hasattr(layer, "weight"):
                layer.weight *= torch.rand_like(layer.weight) > 0.2
    images = np.random.default_rng(0).random((IMAGES, *shape), np.float32)
    images *= images > 0.4  # as on paper, most of it is blank
    artifact = lapilli.compile(model, calibration=images, method=method)
    return artifact, quantise_input(artifact.netlist, images)[0]


def layer_of(c: Connection) -> nn.Module:
    """The connection as a layer of torch with the same integers; borders as torch has them."""
    weight = torch.tensor(c.map.weight.astype(np.float64) * 2.0**c.exponent)
    layer: nn.Linear | nn.Conv2d
    if isinstance(c.map, Dense):
        layer = nn.Linear(c.map.in_size, c.map.out_size, bias=False)
    else:
        assert isinstance(c.map, Conv)
        layer = nn.Conv2d(
            c.map.in_shape[0],
            c.map.out_shape[0],
            c.map.kernel,
            c.map.stride,
            c.map.padding,
            groups=c.map.groups,
            bias=False,
        )
    layer.weight = nn.Parameter(weight, requires_grad=False)
    return layer


class Unit(nn.ReLU):
    """The activation of a quantised ANN; the package finds it, because it is a ReLU."""

    def __init__(self, p: Population):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        drive = x.reshape(-1, *self.p.shape).numpy().astype(np.int64)
        return torch.tensor(self.p.neuron.quantised(drive, 1).astype(np.float64))


class Quantised(nn.Module):
    """A chain of connections with an activation behind each but the last."""

    def __init__(self, netlist: Netlist, activations: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(map(layer_of, netlist.connections))
        self.activations = nn.ModuleList(activations)

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
            if index < len(self.activations):
                x = self.activations[index](x)
        return x


class Spiking(Quantised):
    """The same with neurons of snnTorch, whose membranes are 2 v + 1."""

    def __init__(self, netlist: Netlist, snntorch: Any):
        inner = [p.neuron for p in netlist.populations[1:-1]]
        super().__init__(netlist, [leaky(snntorch, neuron) for neuron in inner])
        self.biases = [torch.tensor(neuron.bias.astype(np.float64)) for neuron in inner]
        self.starts = [torch.tensor(n.initial.astype(np.float64)) for n in inner]

    def reset(self) -> None:
        """A new batch: the package calls it."""
        self.tau = 0
        for neuron in self.activations:
            neuron.reset_mem()

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        for index, layer in enumerate(self.layers):
            x = x.double()
            x = layer(x.flatten(1) if isinstance(layer, nn.Linear) else x)
            if index < len(self.activations):
                x = 2.0 * (x + self.biases[index])
                if self.tau == 0:
                    x = x + 2.0 * self.starts[index] + 1.0
                x = self.activations[index](x)
        self.tau += 1
        return x, None


def leaky(snntorch: Any, neuron: Any) -> Any:
    """It spikes above its threshold, ours from it on: 2 v + 1 > 2 theta just where v >= theta.

    Without delay it subtracts the threshold once before and once after it decides to spike, and
    takes one back: where a drive leaves more than a threshold behind, that is one spike too few.
    """
    assert isinstance(neuron, SoftResetIF)
    threshold = torch.tensor(2.0 * neuron.threshold)
    unit = snntorch.Leaky(
        beta=torch.tensor(1.0, dtype=torch.float64),
        threshold=threshold,
        init_hidden=True,
        reset_mechanism="subtract",
        reset_delay=False,
    )
    unit.mem_reset = torch.zeros_like
    return unit


def package() -> SimpleNamespace:
    reason = "the package neurobench is not installed"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of its own dependencies
        benchmarks = pytest.importorskip("neurobench.benchmarks", reason=reason)
        models = pytest.importorskip("neurobench.models", reason=reason)
        static = pytest.importorskip("neurobench.metrics.static", reason=reason)
        workload = pytest.importorskip("neurobench.metrics.workload", reason=reason)
        snntorch = pytest.importorskip("snntorch", reason=reason)
    return SimpleNamespace(
        benchmark=benchmarks.Benchmark,
        models=models,
        static=[static.ConnectionSparsity],
        workload=[
            workload.ActivationSparsity,
            workload.SynapticOperations,
            workload.MembraneUpdates,
        ],
        footprint=static.Footprint(),
        snntorch=snntorch,
    )


def theirs(name: str, netlist: Netlist, inputs: Int64Array) -> dict[str, Any]:
    """What the package finds on the same network in torch, in batches of BATCH images."""
    neurobench = package()
    x = torch.tensor(inputs.astype(np.float64))
    if "spiking" in name:
        x = x.unsqueeze(1).repeat(1, netlist.steps, *(1,) * (x.ndim - 1))
        spiking = Spiking(netlist, neurobench.snntorch)
        model = neurobench.models.SNNTorchModel(spiking)
    else:
        inner = netlist.populations[1:-1]
        model = neurobench.models.TorchModel(Quantised(netlist, [Unit(p) for p in inner]))
    data = torch.utils.data.TensorDataset(x, torch.zeros(len(x)))
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH)
    bench = neurobench.benchmark(model, loader, [], [], [neurobench.static, neurobench.workload])
    with torch.no_grad():
        found: dict[str, Any] = bench.run(quiet=True)
    stored = nn.Module()
    parts = [c.map for c in netlist.connections] + [p.neuron for p in netlist.populations]
    for i, part in enumerate(parts):
        for key, value in vars(part).items():
            if isinstance(value, np.ndarray):
                stored.register_buffer(f"{key}{i}", torch.tensor(value))
    found["Footprint"] = neurobench.footprint(neurobench.models.TorchModel(stored))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_equal_to_the_package(name: str) -> None:
    artifact, inputs = compiled(name)
    netlist = artifact.netlist
    expected = theirs(name, netlist, inputs)
    found = neurobench_metrics.measure(netlist, inputs).as_dict()
    assert found["SynapticOperations"] == expected["SynapticOperations"]
    assert found["Footprint"] == expected["Footprint"]
    assert round(found["ConnectionSparsity"], 4) == expected["ConnectionSparsity"] > 0.1
    # The package adds up shares of batches, we divide whole numbers once.
    assert found["ActivationSparsity"] == pytest.approx(expected["ActivationSparsity"], rel=1e-12)
    assert 0.05 < found["ActivationSparsity"] < 0.98
    operations = found["SynapticOperations"]
    if "spiking" in name:
        assert found["MembraneUpdates"] == expected["MembraneUpdates"]
        assert min(operations.values()) > 0
    else:  # to the package, an ANN has no membranes; on a chip it has one step
        assert expected["MembraneUpdates"] == 0
        assert found["MembraneUpdates"] == sum(p.size for p in netlist.populations[1:-1])
        assert operations["Effective_MACs"] > operations["Effective_ACs"] == 0
