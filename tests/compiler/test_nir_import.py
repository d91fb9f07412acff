"""Networks of other tools: built by hand with the package `nir`, imported, and compared.

Graphs whose numbers are integers import exactly, so they are compared spike by spike with a naive
simulation of NIR's equations (nir_simulation.py). What is rounded is held to its stated bound.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from nir_networks import (
    NETWORKS,
    STEPS,
    Edges,
    Nodes,
    chain,
    dense_network,
    fire,
    imported,
    integers,
    residual_network,
)
from nir_simulation import simulate

from lapilli.compiler.artifact import Artifact, read, write
from lapilli.compiler.errors import StateOverflowError
from lapilli.compiler.linear import Array
from lapilli.compiler.neurons import LIF, HardResetIF, Readout, SoftResetIF, Source
from lapilli.runtime import run


def spikes(rng: np.random.Generator, *shape: int) -> Array:
    """Three inputs of ones and zeros, (3, steps, *shape)."""
    return rng.integers(0, 2, (3, STEPS, *shape)).astype(np.float64)


def compare(artifact: Artifact, nodes: Nodes, edges: Edges, inputs: Array, **how: Any) -> int:
    """Every spike of every population, and the outputs; returns the number of spikes."""
    trace = run(artifact, inputs, record="spikes")
    outputs = trace.outputs if isinstance(trace.outputs, list) else [trace.outputs]
    seen = 0
    for i, x in enumerate(inputs):
        stepwise = x if artifact.netlist.source.timing == "train" else np.stack([x] * STEPS)
        expected = simulate(nodes, edges, stepwise, **how)
        for p in artifact.netlist.populations:
            if isinstance(p.neuron, (Source, Readout)):
                continue
            wanted = expected[p.name].reshape(STEPS, *p.shape)
            np.testing.assert_array_equal(trace.spikes[p.name][i], wanted, p.name)
            seen += int(wanted.sum())
        readouts = (p for p in artifact.netlist.populations if isinstance(p.neuron, Readout))
        for p, values in zip(readouts, outputs, strict=True):
            total = expected[p.name]
            last = total[-1] if type(nodes[p.name]).__name__ == "I" else total.sum(axis=0)
            np.testing.assert_array_equal(values[i].reshape(-1), last.reshape(-1), p.name)
    return seen


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("name", NETWORKS)
def test_integer_networks_compute_what_nir_says(name: str, reset: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(sorted(NETWORKS).index(name))
    nodes, edges = NETWORKS[name](rng)
    artifact = imported(tmp_path, nodes, edges, reset=reset, dt=1.0)
    # Thresholds of halves and averages over two are on a grid, too.
    assert artifact.provenance.notes.count("exact") == artifact.provenance.notes.count(":")
    inputs = spikes(rng, *artifact.netlist.input.shape)
    assert compare(artifact, nodes, edges, inputs, reset=reset) > 40


def test_what_is_imported_can_be_kept(tmp_path: Path) -> None:
    nodes, edges = dense_network(np.random.default_rng(0))
    artifact = imported(tmp_path, nodes, edges)
    write(tmp_path / "m.h5", artifact)
    again = read(tmp_path / "m.h5")
    assert again.hash == artifact.hash
    assert (again.provenance.method, again.provenance.options["reset"]) == ("nir", "zero")


def test_a_held_input_is_a_constant_current(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    nodes, edges = dense_network(rng)
    artifact = imported(tmp_path, nodes, edges, timing="held", low=-3.0, high=9.0)
    source = artifact.netlist.source
    assert (source.low, source.high, source.timing) == (-3, 9, "held")
    inputs = rng.integers(-3, 10, (3, 7)).astype(np.float64)
    assert compare(artifact, nodes, edges, inputs) > 20


def test_real_inputs_get_255_levels(tmp_path: Path) -> None:
    nodes, edges = dense_network(np.random.default_rng(0))
    artifact = imported(tmp_path, nodes, edges, timing="held", low=-0.5, high=2.55)
    source = artifact.netlist.source
    assert (source.low, source.high) == (-50, 255)
    assert artifact.netlist.input.state_scale == pytest.approx(0.01)


def test_a_reset_above_zero_moves_the_membrane(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    nodes, edges = dense_network(rng)
    nodes["if1"] = fire((9,), 40.0, v_reset=np.full(9, -7.0))
    nodes["if2"] = fire((6,), 30.0, v_reset=np.arange(6.0))
    artifact = imported(tmp_path, nodes, edges)
    assert compare(artifact, nodes, edges, spikes(rng, 7)) > 40


def test_the_reset_may_be_told_node_by_node(tmp_path: Path) -> None:
    nodes, edges = dense_network(np.random.default_rng(0))
    nodes["if2"].metadata["reset"] = "subtract"
    netlist = imported(tmp_path, nodes, edges).netlist
    assert isinstance(netlist["if1"].neuron, HardResetIF)
    assert isinstance(netlist["if2"].neuron, SoftResetIF)


def test_a_graph_within_the_graph_is_put_in_its_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    cell = {
        "input": nir.Input(np.array([5])),
        "if": fire((5,), 20.0),
        "rec": nir.Linear(integers(rng, 5, 5, low=-5, high=5)),
        "output": nir.Output(np.array([5])),
    }
    inside = [("input", "if"), ("if", "rec"), ("rec", "if"), ("if", "output")]
    nodes = {
        "input": nir.Input(np.array([4])),
        "fc": nir.Linear(integers(rng, 5, 4)),
        "cell": nir.NIRGraph(cell, inside, type_check=False),
        "output": nir.Output(np.array([5])),
    }
    artifact = imported(tmp_path, nodes, chain(nodes))
    flat = {"input": nodes["input"], "fc": nodes["fc"], "cell/if": cell["if"], "rec": cell["rec"]}
    flat["output"] = nodes["output"]
    edges = [("input", "fc"), ("fc", "cell/if"), ("cell/if", "rec"), ("rec", "cell/if")]
    edges.append(("cell/if", "output"))
    assert compare(artifact, flat, edges, spikes(rng, 4)) > 20


def test_a_graph_without_output_reads_its_last_nodes(tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    nodes, edges = dense_network(rng)
    del nodes["output"]
    artifact = imported(tmp_path, nodes, edges[:-1])
    assert [p.name for p in artifact.netlist.outputs] == ["fc3.output"]


def leaky_network(rng: np.random.Generator, cuba: bool) -> tuple[Nodes, Edges]:
    """Leaks of a half and a quarter per step of 1 ms, gains of one: in six steps nothing is cut."""
    tau, ones, zeros = np.full(6, 2e-3), np.ones(6), np.zeros(6)
    neuron = nir.LIF(tau, 2 * ones, 8 * ones, 21 * ones, zeros)
    if cuba:
        neuron = nir.CubaLIF(tau, tau, 2 * ones, zeros, 30 * ones, zeros, 2 * ones)
    nodes = {
        "input": nir.Input(np.array([5])),
        "fc": nir.Linear(integers(rng, 6, 5)),
        "lif": neuron,
        "output": nir.Output(np.array([6])),
    }
    return nodes, chain(nodes)


@pytest.mark.parametrize("cuba", [False, True])
def test_leaky_neurons_follow_eulers_rule(cuba: bool, tmp_path: Path) -> None:
    # Three halvings of a current and three of a membrane still lie on Lava's grid of 1/64.
    steps = 3
    rng = np.random.default_rng(cuba)
    nodes, edges = leaky_network(rng, cuba)
    artifact = imported(tmp_path, nodes, edges, steps=steps, dt=1e-3)
    neuron = artifact.netlist["lif"].neuron
    assert isinstance(neuron, LIF)
    assert (neuron.current_decay, neuron.voltage_decay) == (2048 if cuba else 4096, 2048)
    inputs = rng.integers(0, 2, (20, steps, 5)).astype(np.float64)
    trace = run(artifact, inputs, record="spikes")
    expected = [simulate(nodes, edges, x, dt=1e-3)["lif"] for x in inputs]
    np.testing.assert_array_equal(trace.spikes["lif"], np.stack(expected))
    assert trace.spikes["lif"].sum() > 50


def test_rounded_decays_and_weights_are_reported(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    nodes, edges = leaky_network(rng, cuba=True)
    nodes["fc"].weight = rng.normal(size=(6, 5))
    nodes["lif"] = nir.CubaLIF(
        np.full(6, 7e-3), np.full(6, 11e-3), np.ones(6), np.zeros(6), np.full(6, 0.1)
    )
    artifact = imported(tmp_path, nodes, edges, dt=1e-3)
    neuron = artifact.netlist["lif"].neuron
    assert isinstance(neuron, LIF)
    assert (neuron.current_decay, neuron.voltage_decay) == (585, 372)
    notes = artifact.provenance.notes
    assert "current decay 0.142857 as 585/4096" in notes
    assert "voltage decay 0.0909091 as 372/4096" in notes
    (connection,) = artifact.netlist.into("lif")
    wanted = nodes["fc"].weight / (7 * 11)
    values = connection.map.weight * connection.weight_scale[:, np.newaxis]
    assert (np.abs(values - wanted).max(axis=1) <= 0.5 * connection.weight_scale).all()
    np.testing.assert_allclose(connection.weight_scale * 127, np.abs(wanted).max(axis=1))


def test_rounded_weights_use_their_bits_and_say_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    nodes, edges = dense_network(rng)
    nodes["fc1"].weight = rng.normal(size=(9, 7))
    nodes["if1"] = fire((9,), 1.1)
    artifact = imported(tmp_path, nodes, edges)
    (connection,) = artifact.netlist.into("if1")
    assert np.abs(connection.map.weight).max() == 127
    values = connection.map.weight * connection.weight_scale[:, np.newaxis]
    error = np.abs(values - nodes["fc1"].weight).max(axis=1)
    assert connection.weight_scale.shape == (9,)
    peaks = np.abs(nodes["fc1"].weight).max(axis=1)
    assert (error > 0).all() and (error <= 0.5 * connection.weight_scale).all()
    np.testing.assert_allclose(connection.weight_scale * 127, peaks)
    words = (
        f"if1: weights in 8 bits, off by up to {(error / peaks).max():.2%} of the largest of the"
    )
    assert words in artifact.provenance.notes
    assert "if2: weights and thresholds exact" in artifact.provenance.notes


def test_thresholds_that_a_chip_cannot_keep_apart_go_into_the_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    nodes, edges = dense_network(rng)
    nodes["if1"] = nir.IF(np.ones(9), np.arange(30.0, 39.0))
    netlist = imported(tmp_path, nodes, edges, profile="loihi1").netlist
    neuron = netlist["if1"].neuron
    assert isinstance(neuron, HardResetIF)
    assert neuron.threshold.shape == ()
    units = netlist["if1"].state_scale
    np.testing.assert_allclose(units * float(neuron.threshold), np.arange(30.0, 39.0), rtol=1e-3)
    (connection,) = netlist.into("if1")
    values = connection.map.weight * connection.weight_scale[:, np.newaxis]
    assert np.abs(values - nodes["fc1"].weight).max() <= 0.5 * connection.weight_scale.max()


def test_thresholds_of_single_neurons_of_an_image_go_into_the_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    nodes, edges = residual_network(rng)
    nodes["if1"] = nir.IF(np.ones((3, 5, 6)), rng.uniform(9.0, 30.0, (3, 5, 6)))
    netlist = imported(tmp_path, nodes, edges, profile="loihi1").netlist
    neuron = netlist["if1"].neuron
    assert isinstance(neuron, HardResetIF)
    assert neuron.threshold.shape == ()
    found = netlist["if1"].state_scale * float(neuron.threshold)
    np.testing.assert_allclose(found, nodes["if1"].v_threshold, rtol=1e-2)


def test_windows_too_long_for_the_state_are_refused(tmp_path: Path) -> None:
    nodes = {
        "input": nir.Input(np.array([4000])),
        "fc": nir.Linear(np.full((1, 4000), -97.3)),
        "if": fire((1,), 1.0),
        "output": nir.Output(np.array([1])),
    }
    with pytest.raises(StateOverflowError, match=r"if .*every reachable state fits"):
        imported(tmp_path, nodes, chain(nodes), steps=60000)


def test_a_leaky_neuron_that_is_reset_to_where_it_rests(tmp_path: Path) -> None:
    """Only the difference to the rest counts, and there is no bias left."""
    ones = np.ones(6)
    found = []
    for rest in (0.0, 5.0):
        nodes, edges = leaky_network(np.random.default_rng(0), cuba=False)
        nodes["lif"] = nir.LIF(2e-3 * ones, 2 * ones, rest * ones, (21 + rest) * ones, rest * ones)
        found.append(imported(tmp_path, nodes, edges, dt=1e-3))
    assert found[0].hash == found[1].hash
    neuron = found[1].netlist["lif"].neuron
    assert isinstance(neuron, LIF)
    assert not neuron.bias.any()
