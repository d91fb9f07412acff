"""Stock netx runs what was exported: every spike and every readout, images without a pause.

netx runs in a process of its own (tests/netx_stock_user.py), which knows nothing of Lapilli.
"""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import h5py
import netlists
import numpy as np
import oracles
import pytest
import torch
from data_paths import MNIST, needs
from netx_netlists import ROADS, random_road
from torch import nn

import lapilli
from lapilli import data
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.interchange import netx_export
from lapilli.compiler.interchange.netx_chain import HIGH, LOW, Window, chain, survives
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import Int64Array
from lapilli.runtime import quantise_input
from lapilli.runtime.trace import Trace

pytestmark = pytest.mark.lava
USER = str(Path(__file__).with_name("netx_stock_user.py"))
DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "netx.md"
IMAGES = 3


@dataclass
class Runs:
    """Networks and inputs in a folder, and what stock netx made of them."""

    folder: Path
    told: dict[str, netx_export.Instructions] = field(default_factory=dict)

    def add(self, name: str, netlist: Netlist, inputs: Int64Array) -> None:
        """Export a network for the next `run`."""
        self.told[name] = netx_export.write(self.folder / f"{name}.net", netlist)
        np.save(self.folder / f"{name}.npy", inputs)

    def run(self, timeout: int) -> None:
        """Run all networks in stock netx."""
        done = subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", USER, str(self.folder)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "cannot be optimized" not in done.stdout

    def found(self, name: str) -> tuple[dict[str, Array], Array]:
        """Spikes (N, steps, neurons) of every population but the last, and the readouts."""
        result = np.load(self.folder / f"{name}.npz")
        *inner, _ = self.told[name].layers
        spikes = {place.population: result[f"spikes {place.process}"] for place in inner}
        return spikes, result["readouts"]


VARIANTS = MappingProxyType(
    {
        **{name: {} for name in ROADS},
        "convolutions train": {"timing": "train"},
        "convolutions lif": {"lif": True},
        "vectors lif": {"lif": True},
        "pooling one step": {"steps": 1},
    }
)

WRONG = MappingProxyType(
    {"binary input": ("input_message_bits", 0), "reset a step early": ("reset_offset", 0)}
)
"""What netx does by default, against what it has to be told."""


def random_case(name: str) -> tuple[Netlist, Int64Array]:
    road = next(key for key in sorted(ROADS, key=len, reverse=True) if name.startswith(key))
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    netlist = random_road(rng, *ROADS[road], **VARIANTS[name])  # type: ignore[arg-type]
    inputs = netlists.random_inputs(rng, netlist, IMAGES)
    if netlist.source.timing == "train":
        inputs = rng.integers(-3, 13, (IMAGES, netlist.steps, *netlist.input.shape))
    return netlist, inputs


@pytest.fixture(scope="module")
def random_runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("netx"))
    for name in VARIANTS:
        runs.add(name, *random_case(name))
    for name, (key, value) in WRONG.items():
        runs.add(name, *random_case("vectors"))
        with h5py.File(runs.folder / f"{name}.net", "a") as file:
            file[f"lapilli/{key}"][()] = value
    runs.run(timeout=300)
    return runs


@pytest.mark.parametrize("name", VARIANTS)
def test_random_networks(name: str, random_runs: Runs) -> None:
    netlist, inputs = random_case(name)
    expected = oracles.simulate(netlist, inputs)
    spikes, readouts = random_runs.found(name)
    assert list(spikes) == [p.name for p in netlist.populations[1:-1]]
    for population, found in spikes.items():
        sent = expected.spikes[population].reshape(found.shape)
        np.testing.assert_array_equal(found, sent, population)
        assert 0 < sent.mean() < 1, f"{population} shows nothing"
    last = netlist.populations[-1].name
    np.testing.assert_array_equal(readouts, expected.states[last][:, -1], last)


@pytest.mark.parametrize("name", WRONG)
def test_what_netx_is_told_matters(name: str, random_runs: Runs) -> None:
    right, wrong = (random_runs.found(key)[0] for key in ("vectors", name))
    assert any(not np.array_equal(right[key], wrong[key]) for key in right)


def test_the_random_networks_meet_both_ways_to_write_a_matrix() -> None:
    made = {name: chain(random_case(name)[0]).layers for name in ROADS}
    kinds = {name: [isinstance(x.synapse, Window) for x in made[name]] for name in made}
    assert kinds["vectors"] == [False] * 3
    assert kinds["powers of two"] == [True, True, False]
    assert kinds["one-signed matrices in a row"] == [True, True, True, False]
    assert kinds["one-signed last"] == [True, True]


def test_a_matrix_is_left_to_netx_only_if_it_survives() -> None:
    """Against the functions of netx and Lava themselves, within the weights that are written."""
    # Lava chooses how processes start when it is imported, and fails where a test before it has.
    multiprocessing.set_start_method(None, force=True)
    from lava.lib.dl.netx.utils import optimize_weight_bits
    from lava.utils.weightutils import (
        SignMode,
        clip_weights,
        determine_sign_mode,
        truncate_weights,
    )

    rng = np.random.default_rng(0)
    tally = {True: 0, False: 0}
    for _ in range(3000):
        low, high = sorted(rng.integers(LOW, HIGH + 1, 2).tolist())
        low, high = (low, high) if rng.random() < 0.3 else (-(2 ** int(rng.integers(9))), high)
        if rng.random() < 0.3:
            low, high = (low, min(high, 0)) if rng.random() < 0.5 else (max(low, 0), abs(high))
        weight = rng.integers(min(low, high), max(low, high) + 1, (2, 2))
        kept = survives(weight)
        tally[kept] += 1
        if not kept:
            continue
        with np.errstate(all="raise"):
            scaled, bits, exponent, _ = optimize_weight_bits(weight)
        mode = determine_sign_mode(scaled)
        assert isinstance(mode, SignMode)
        clipped = clip_weights(scaled, mode, num_bits=8)
        runs = truncate_weights(clipped, mode, num_weight_bits=bits)
        shifted = runs << exponent if exponent > 0 else runs >> -exponent
        np.testing.assert_array_equal(shifted, weight)
        assert not (runs % 2 ** max(-exponent, 0)).any(), "sums are exact, not only weights"
    assert min(tally.values()) > 100


def trained(build: nn.Module, images: Array, labels: Array, epochs: int) -> nn.Module:
    """The network after some epochs of Adam, in evaluation mode."""
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimiser = torch.optim.Adam(build.parameters(), 0.005)
    for _ in range(epochs):
        order = torch.randperm(len(x))
        for first in range(0, len(x), 32):
            chosen = order[first : first + 32]
            optimiser.zero_grad()
            nn.functional.cross_entropy(build(x[chosen]), y[chosen]).backward()
            optimiser.step()
    return build.eval()


def compiled(network: nn.Module, calibration: Array, steps: int) -> Artifact:
    """As the documentation says: rate coding, reset to zero, the profile of the format."""
    method = lapilli.methods.Rate(steps=steps, reset="zero", headroom=2.0, input_bits=4)
    return lapilli.compile(network, calibration=calibration, method=method, profile="netx")


def assert_netx_does_what_we_predict(
    artifact: Artifact, images: Array, folder: Path, timeout: int
) -> Trace:
    """Every spike and every readout of the reference engine; the trace it was compared with."""
    source = artifact.netlist.input
    runs = Runs(folder)
    integers, _ = quantise_input(artifact.netlist, images)
    assert integers.shape == (len(images), *source.shape)
    runs.add("network", artifact.netlist, integers)
    runs.run(timeout)
    spikes, readouts = runs.found("network")
    trace = lapilli.run(artifact, images, record="spikes")
    for name, found in spikes.items():
        np.testing.assert_array_equal(found, trace.spikes[name].reshape(found.shape), name)
        assert 0.001 < found.mean() < 0.9, name
    (readout,) = trace.readouts.values()
    np.testing.assert_array_equal(readouts, readout.reshape(len(images), -1))
    return trace


def test_a_digits_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learn, test = (data.load("digits", split=split) for split in ("train", "test"))
    assert learn.labels is not None and test.labels is not None
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    )
    network = trained(network, learn.images, learn.labels, epochs=5)
    artifact = compiled(network, learn.images[:256], steps=32)
    trace = assert_netx_does_what_we_predict(artifact, test.images[:4], tmp_path, timeout=240)
    assert (np.asarray(trace.outputs).argmax(1) == test.labels[:4]).sum() >= 3


def test_the_python_of_the_documentation(tmp_path: Path) -> None:
    netlist, images = random_case("pooling")
    netx_export.write(tmp_path / "model.net", netlist)
    np.save(tmp_path / "image.npy", images[0])
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), flags=re.DOTALL)[:1]
    before = "import numpy\nimage = numpy.load('image.npy')\n"
    after = "numpy.save('readout.npy', readout)\n"
    done = subprocess.run(
        [sys.executable, "-c", before + code + after],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    last = netlist.populations[-1].name
    expected = oracles.simulate(netlist, images[:1]).states[last][0, -1]
    assert np.load(tmp_path / "readout.npy").tolist() == expected.tolist()


@needs(MNIST)
def test_an_mnist_network(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learn = data.load(f"mnist:{MNIST}", split="train", limit=3000)
    test = data.load(f"mnist:{MNIST}", split="test", limit=2)
    assert learn.labels is not None and test.labels is not None
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 5, stride=2, padding=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10)),
    )
    network = trained(network, learn.images, learn.labels, epochs=2)
    artifact = compiled(network, learn.images[:256], steps=16)
    trace = assert_netx_does_what_we_predict(artifact, test.images, tmp_path, timeout=400)
    assert np.asarray(trace.outputs).shape == (2, 10)
