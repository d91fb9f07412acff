"""What is imported from `.net` files gives netx's own spikes, layer by layer and step by step.

netx runs the same files in a process of its own (tests/netx_referee.py). The neuron models are
compared with the stock processes too, at the edges of their ranges.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import lava_stock_neurons
import netx_files as nf
import netx_samples
import numpy as np
import pytest
from data_paths import SHARED, needs
from netx_samples import SAMPLES

from lapilli.compiler.artifact import Artifact
from lapilli.compiler.interchange.netx_import import import_netx
from lapilli.compiler.interchange.netx_weights import effective, scaled_up, truncated
from lapilli.hardware_profiles import load
from lapilli.runtime import reference
from lapilli.runtime.lava import runner

pytestmark = pytest.mark.lava
HERE = Path(__file__).parent
MNIST = SHARED / "netx" / "mnist_784_128_64_10.net"
FAILING = {"weights-zero": "OverflowError"}
"""Networks on which netx itself fails."""


def refereed(folder: Path, timeout_s: float) -> None:
    """Run netx on every network of the folder."""
    script = [sys.executable, str(HERE / "netx_referee.py"), str(folder)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """NAME.net, .npy (inputs) and .npz (what netx gave) of every sample."""
    folder = tmp_path_factory.mktemp("netx")
    for name in SAMPLES:
        layers, inputs = netx_samples.sample(name)
        nf.write(folder / f"{name}.net", layers)
        np.save(folder / f"{name}.npy", inputs)
    refereed(folder, 400)
    return folder


def imported(path: Path, inputs: np.ndarray) -> Artifact:
    """The artifact of a sample, for inputs of this range and length."""
    layers = nf.layer_types(path)
    given = (int(inputs.min()), int(inputs.max())) if layers[0] == ("input", True) else None
    steps = inputs.shape[1]
    return import_netx(path, steps=steps, profile=load("loihi2"), input_range=given)


def assert_as_netx(artifact: Artifact, inputs: np.ndarray, theirs: dict[str, np.ndarray]) -> None:
    """Spikes of every layer, and the last layer's membranes, are netx's."""
    trace = reference.run(artifact.netlist, inputs, record="states")
    layers = [p for p in artifact.netlist.populations if p.name not in ("input", "output")]
    assert len(layers) == len(theirs) - 1
    fired = 0
    for k, p in enumerate(layers):
        if p.name in trace.spikes:
            ours = trace.spikes[p.name].reshape(theirs[str(k)].shape)
            np.testing.assert_array_equal(ours, theirs[str(k)], p.name)
            fired += int(np.count_nonzero(ours))
    assert fired > 20, "a dead network shows nothing"
    last = trace.states[layers[-1].name][:, -1]
    np.testing.assert_array_equal(last.reshape(theirs["v"].shape), theirs["v"])


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in FAILING])
def test_every_layer_fires_as_in_netx(runs: Path, name: str) -> None:
    inputs, theirs = np.load(runs / f"{name}.npy"), dict(np.load(runs / f"{name}.npz"))
    assert "error" not in theirs, theirs["error"]
    assert_as_netx(imported(runs / f"{name}.net", inputs), inputs, theirs)


@pytest.mark.parametrize("name", FAILING)
def test_where_netx_fails_the_import_says_so(runs: Path, name: str) -> None:
    assert str(np.load(runs / f"{name}.npz")["error"]).startswith(FAILING[name])
    artifact = imported(runs / f"{name}.net", np.load(runs / f"{name}.npy"))
    assert "netx itself fails" in artifact.provenance.notes


@pytest.mark.parametrize("name", ["recurrent-delays", "sdnn-bias", "conv", "no-neuron"])
def test_our_lava_processes_fire_alike(runs: Path, name: str) -> None:
    inputs = np.load(runs / f"{name}.npy")
    netlist = imported(runs / f"{name}.net", inputs).netlist
    ours = reference.run(netlist, inputs, record="states")
    lavas = runner.run(netlist, inputs, record="states")
    for kind in ("spikes", "states", "readouts"):
        for population, values in getattr(ours, kind).items():
            np.testing.assert_array_equal(getattr(lavas, kind)[population], values, population)


@needs(MNIST)
def test_mnist_of_lava_dl(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 2, (1, 64, 784))
    poisson = rng.poisson([[[0.1]], [[0.4]]], (2, 64, 784)) > 0
    inputs = np.concatenate([noise, poisson]).astype(np.int64)
    shutil.copy(MNIST, tmp_path / "mnist.net")
    np.save(tmp_path / "mnist.npy", inputs)
    refereed(tmp_path, 200)
    artifact = import_netx(MNIST, steps=64, profile=load("loihi2"))
    assert_as_netx(artifact, inputs, dict(np.load(tmp_path / "mnist.npz")))
    assert artifact.provenance.notes == ""


def test_weights_are_those_that_netx_runs() -> None:
    """Random matrices of every sign and range through netx's and Lava's own functions."""
    script = [sys.executable, str(HERE / "lava_stock_neurons.py"), "weights"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    cases = json.loads(done.stdout.splitlines()[-1])
    inexact = changed = 0
    for case in cases:
        weight = np.array(case["weight"])
        ours = scaled_up(weight)
        assert (ours.weight == case["scaled"]).all(), weight
        assert (ours.bits, -ours.up) == (case["bits"], case["exponent"]), weight
        stored = truncated(ours.weight, ours.bits)
        assert (stored == case["stored"]).all(), weight
        run = effective(stored, ours.up)
        inexact += run is None
        if run is not None:
            changed += bool((run != weight).any())
            assert (run @ np.array(case["spikes"]) == case["drive"]).all(), weight
    assert 0 < inexact < len(cases) / 20
    assert changed > 10


@pytest.mark.parametrize("name", lava_stock_neurons.CASES)
def test_models_compute_what_the_stock_processes_compute(
    stock: dict[str, dict[str, list[int]]], name: str
) -> None:
    model, drive = lava_stock_neurons.CASES[name]()
    state, spikes, membranes = model.start(drive.shape[1:]), [], []
    for tau in range(len(drive)):
        state, sent = model.step(state, drive[tau], tau, len(drive))
        spikes.append(sent.tolist())
        membranes.append(state["v"].tolist())
    assert spikes == stock[name]["spikes"]
    assert membranes[-1] == stock[name]["v"]
    assert np.any(spikes)


@pytest.fixture(scope="module")
def stock() -> dict[str, dict[str, list[int]]]:
    """What stock Lava makes of the cases."""
    script = [sys.executable, str(HERE / "lava_stock_neurons.py"), "neurons"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, list[int]]] = json.loads(done.stdout.splitlines()[-1])
    return found
