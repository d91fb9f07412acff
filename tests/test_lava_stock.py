"""Stock Lava processes send every spike of the reference: random networks, edges, real networks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import command_line
import netlists
import numpy as np
import oracles
import pytest
import stock_netlists

import lapilli
from lapilli import data, digits
from lapilli.compiler.errors import BackendError
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import (
    LIF,
    HardResetIF,
    LavaDelta,
    LavaSigmaDelta,
    MultiThreshold,
    NeuronModel,
    OrGate,
    Readout,
    SigmaDelta,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.compiler.numerics import Int64Array
from lapilli.runtime.lava import stock
from lapilli.runtime.lava.stock.lowering import lower
from lapilli.runtime.trace import Trace

pytestmark = pytest.mark.lava
IMAGES = 3


def integers(values: Any) -> Any:
    return netlists.integers(values)


def assert_equal_to_the_oracle(trace: Trace, netlist: Netlist, inputs: Int64Array) -> None:
    """Every spike, count and readout."""
    expected = oracles.simulate(netlist, inputs)
    assert trace.backend == "lava-stock"
    for p in netlist.populations:
        if isinstance(p.neuron, Readout):
            last = expected.states[p.name][:, -1]
            np.testing.assert_array_equal(trace.readouts[p.name], last, p.name)
            continue
        np.testing.assert_array_equal(trace.spikes[p.name], expected.spikes[p.name], p.name)
        counts = expected.spikes[p.name].sum(1)
        np.testing.assert_array_equal(trace.counts[p.name], counts, p.name)


NETWORKS = {
    "rate": stock_netlists.rate,
    "graded": stock_netlists.graded,
    "changes": stock_netlists.sigma_delta,
    "held": lambda rng: stock_netlists.sigma_delta(rng, "held"),
    "train": lambda rng: stock_netlists.sigma_delta(rng, "train", steps=3),
}


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("rate", 0),
        ("rate", 1),
        ("graded", 0),
        ("graded", 1),
        ("changes", 0),
        ("held", 1),
        ("train", 2),
    ],
)
def test_random_networks_step_by_step(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    netlist = NETWORKS[kind](rng)
    inputs = stock_netlists.inputs(rng, netlist, IMAGES)
    plan = lower(netlist, inputs)
    assert any(wire.delay for wire in plan.wires), "a short branch waits for a long one"
    trace = stock.run(netlist, inputs, record="spikes")
    assert sum(count.any() for count in trace.counts.values()) > 3, "a dead network shows nothing"
    assert_equal_to_the_oracle(trace, netlist, inputs)


TOP = 131071
"""The largest membrane that ATRLIF and LIF hold, in our units."""
EDGES: dict[str, tuple[NeuronModel, int]] = {
    # name: neuron of five, steps
    "soft reset": (
        SoftResetIF(
            integers([2, 2, 60_000, 6, 100]),
            integers([0, -3000, 4095, 4096, 0]),
            integers([1, 1, 30_000, -7, 99]),
        ),
        3,
    ),
    "hard reset": (
        HardResetIF(
            integers([1, 2, 60_001, 7, 100]),
            integers([0, -3000, 4095, -4096, 0]),
            integers([1, 0, 30_000, -7, 99]),
        ),
        3,
    ),
    "LIF": (LIF(integers([0, 5, 300, 10, 1]), integers([0, 5, -2, 32767, -32768]), 4096, 128), 5),
    "window": (
        Window(
            integers([1, 2, 2**14, 2**10, 4]),
            integers([0, -3000, 4095, 4096, 0]),
            integers([0, 1, 2**13, 2**9, 2]),
            7,
            "graded",
        ),
        1,
    ),
    "uncapped": (Window(integers(2**9), integers(-3), integers(2**8), 500, "graded"), 1),
    "sigma-delta": (
        SigmaDelta(
            integers([1, 2, 2**14, 2**10, 4]),
            integers([0, -3000, 4095, 4096, 0]),
            integers([0, 1, 2**13, 2**9, 2]),
            7,
        ),
        6,
    ),
    "or": (OrGate(), 4),
    "several thresholds": (
        MultiThreshold(integers([1, 2, 2**14, 2**10, 4]), integers(-5), integers(-99), 3, 1000),
        1,
    ),
    "delta": (LavaDelta(integers(3), -(2**16), 2**16, 2, 4), 6),
    "Lava's sigma-delta": (
        LavaSigmaDelta(
            integers(3),
            integers([0, 1, -2, 5, -7]),
            integers([0, 9, -2, 5, -70]),
            integers(-12),
            integers(7),
            -(2**22),
            2**22,
            1,
            5,
            "unit",
        ),
        6,
    ),
}


@pytest.mark.parametrize("name", EDGES)
def test_every_model_at_its_edges(name: str) -> None:
    neuron, steps = EDGES[name]
    rng = np.random.default_rng(5)
    weights = rng.choice([-128, -127, -1, 0, 1, 3, 127], (5, 6))
    weights[0] = [-128] * 6  # of one sign, where Lava would choose another format
    weights[1] = [0] * 6
    weights[2] = [127] * 6
    source = Source(-40, 40, "first" if steps == 1 else "train")
    netlist = stock_netlists.line(neuron, weights, source=source, steps=steps)
    netlist.verify()
    inputs = rng.choice([-40, 40, 1, 0, 13], (8, *([] if steps == 1 else [steps]), 6))
    trace = stock.run(netlist, inputs, record="spikes")
    assert trace.spikes["it"].any()
    assert_equal_to_the_oracle(trace, netlist, inputs)


def test_atrlif_at_the_largest_membrane_that_it_holds() -> None:
    """One unit more is refused, see test_lava_stock_lowering."""
    parameters = integers([2, 131_070, 131_070]), integers(0), integers([1, 65_535, 65_535])
    source = Source(-127, 127, "train")
    weights = [[1, 1], [1, 1], [1, 1]]
    netlist = stock_netlists.line(SoftResetIF(*parameters), weights, source=source, exponent=8)
    netlist = stock_netlists.with_steps(netlist, 2)
    inputs = np.array([[[127, 127], [127, 127]], [[-127, -127], [-127, -127]], [[9, 0], [0, 0]]])
    trace = stock.run(netlist, inputs, record="spikes")
    assert_equal_to_the_oracle(trace, netlist, inputs)


def test_stock_sigma_delta_where_everything_comes_at_once() -> None:
    neuron = SigmaDelta(integers(16), integers([3, -50, 900]), integers(8), 500)
    weights = [[5, 3, 0], [7, 0, 1], [-9, 4, 20]]
    netlist = stock_netlists.line(neuron, weights, source=Source(0, 99, "first"), steps=3)
    rng = np.random.default_rng(6)
    inputs = rng.integers(0, 100, (9, 3))
    assert [s.kind for s in lower(netlist, inputs).stages if s.name == "it"] == ["SigmaDelta"]
    trace = stock.run(netlist, inputs, record="spikes")
    assert (trace.spikes["it"][:, 0] > 0).any()
    assert_equal_to_the_oracle(trace, netlist, inputs)


@pytest.fixture(scope="module")
def network() -> digits.DigitsNetwork:
    return digits.train()


METHODS: dict[str, object] = {
    "parallel": lapilli.methods.Parallel(levels=8),
    "rate": lapilli.methods.Rate(steps=32, input_bits=4),
    "sigma-delta": lapilli.methods.SigmaDelta(levels=8, steps=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_digits_network(name: str, network: digits.DigitsNetwork) -> None:
    train, test = (data.load("digits", split=split).images for split in ("train", "test"))
    artifact = lapilli.compile(
        network, calibration=train, method=METHODS[name], profile="lava-stock"
    )
    verification = lapilli.verify(artifact, test[:6], processes="stock")
    found = {row.name for row in verification.rows}
    kinds = ("spikes", "counts", "readouts")
    assert {f"Lava-stock == reference: {kind}" for kind in kinds} <= found
    assert not any("membranes" in name for name in found if name.startswith("Lava"))
    assert verification.ok, verification.first_difference


def test_progress_counts_to_the_end() -> None:
    rng = np.random.default_rng(9)
    netlist = stock_netlists.graded(rng)
    inputs = stock_netlists.inputs(rng, netlist, 4)
    calls: list[tuple[int, int]] = []
    trace = stock.run(netlist, inputs, progress=lambda *call: calls.append(call))
    assert trace.spikes == {}
    assert sorted(set(calls)) == calls
    assert calls[-1][0] == calls[-1][1] > 0


def test_the_command_line(
    network: digits.DigitsNetwork, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = command_line.runner(capsys)
    train = data.load("digits", split="train").images
    files = {}
    for profile in ("loihi2", "lava-stock"):
        method = lapilli.methods.Parallel(levels=4)
        artifact = lapilli.compile(network, calibration=train, method=method, profile=profile)
        files[profile] = tmp_path / f"{profile}.h5"
        artifact.save(files[profile])
    arguments = ("--data", "digits", "--limit", 2, "--processes", "stock", "--json")
    found = run("run", files["lava-stock"], *arguments, "--backend", "lava")
    assert (found.code, found.json["backend"]) == (0, "lava-stock"), found.err
    verified = run("verify", files["lava-stock"], *arguments)
    assert verified.code == 0, verified.err
    names = [row["equality"] for row in verified.json["equalities"]]
    assert "Lava-stock == reference: spikes" in names
    refused = run("run", files["loihi2"], *arguments, "--backend", "lava")
    assert refused.code == 2
    assert "stock synapses divide by shifting" in refused.err
    assert "Compile for the profile lava-stock" in refused.err
    nowhere = run("run", files["lava-stock"], *arguments)
    assert nowhere.code == 2
    assert "only Lava has stock processes" in nowhere.err


FAULT = """
import os, sys, time
from lava.proc.graded.models import PyGradedReluVecModelFixed as Victim
from lapilli.runtime.lava.stock import worker
original = Victim.run_spk
def faulty(self):
    if self.time_step == 3:
        {fault}
    original(self)
Victim.run_spk = faulty
worker.main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("fault", "timeout_s", "found"),
    [
        ("os._exit(7)", 100, "its process ended: exit code 7"),
        ("raise ValueError('planted')", 100, "its process ended: exit code 0"),
        ("time.sleep(3600)", 6, "not done after 6 s"),
    ],
)
def test_a_process_that_fails_is_one_clear_error(fault: str, timeout_s: float, found: str) -> None:
    neuron = Window(integers(4), integers(0), integers(2), 3, "graded")
    netlist = stock_netlists.line(neuron, source=Source(0, 9, "first"), steps=1)
    worker = (sys.executable, "-c", FAULT.format(fault=fault))
    with pytest.raises(BackendError) as caught:
        stock.run(netlist, np.full((9, 1), 5), worker=worker, timeout_s=timeout_s)
    assert caught.value.where.startswith("lava")
    assert found in caught.value.found
    assert caught.value.exit_code == 3
