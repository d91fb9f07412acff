"""Networks of other tools: built by hand with the package `nir`, imported, and compared.

Graphs whose numbers are integers import exactly, so they are compared spike by spike with a naive
simulation of NIR's equations (nir_simulation.py). What is rounded is held to its stated bound.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from nir_simulation import simulate

from lapilli.compiler.artifact import Artifact, read, write
from lapilli.compiler.errors import InputError, StateOverflowError
from lapilli.compiler.linear import Array
from lapilli.compiler.neurons import LIF, HardResetIF, Readout, SoftResetIF, Source
from lapilli.compiler.nir_import import NirImport
from lapilli.compiler.nir_import import read as read_nir
from lapilli.hardware_profiles import load
from lapilli.runtime import run

STEPS = 12
Nodes = dict[str, Any]
Edges = list[tuple[str, str]]


def imported(
    path: Path, nodes: Nodes, edges: Edges, profile: str = "loihi2", **options: Any
) -> Artifact:
    """The network after a way through a file."""
    file = path / "net.nir"
    nir.write(file, nir.NIRGraph(nodes, edges, type_check=False))
    return read_nir(file, load(profile), NirImport(**{"steps": STEPS, **options}))


def chain(nodes: Nodes) -> Edges:
    """Edges from each node to the next."""
    return list(itertools.pairwise(nodes))


def integers(rng: np.random.Generator, *shape: int, low: int = -9, high: int = 24) -> Array:
    """Whole weights, as the floats in which a tool keeps them."""
    return rng.integers(low, high, shape).astype(np.float32)


def fire(shape: tuple[int, ...], threshold: float, **more: Any) -> Any:
    """An IF of NIR."""
    return nir.IF(np.ones(shape), np.full(shape, threshold), **more)


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


def dense_network(rng: np.random.Generator) -> tuple[Nodes, Edges]:
    """Two dense layers with biases and a linear output."""
    nodes = {
        "input": nir.Input(np.array([7])),
        "fc1": nir.Affine(integers(rng, 9, 7), integers(rng, 9)),
        "if1": fire((9,), 40.0),
        "fc2": nir.Linear(integers(rng, 6, 9)),
        "if2": fire((6,), 30.5),
        "fc3": nir.Affine(integers(rng, 3, 6), integers(rng, 3)),
        "output": nir.Output(np.array([3])),
    }
    return nodes, chain(nodes)


def image_network(rng: np.random.Generator) -> tuple[Nodes, Edges]:
    """Non-square kernels, strides, dilation, groups, both poolings, a neuron at the end."""
    nodes = {
        "input": nir.Input(np.array([2, 9, 7])),
        "conv1": nir.Conv2d(
            (9, 7), integers(rng, 4, 1, 3, 2), (2, 1), (1, 0), 1, 2, integers(rng, 4)
        ),
        "if1": fire((4, 5, 6), 12.0),
        "pool1": nir.SumPool2d(np.array([2, 3]), np.array([1, 2]), np.array([1, 0])),
        "conv2": nir.Conv2d(
            (6, 2), integers(rng, 6, 4, 2, 2), 1, "valid", (2, 1), 1, integers(rng, 6)
        ),
        "if2": fire((6, 4, 1), 50.0),
        "pool2": nir.AvgPool2d(np.array([2, 1]), np.array([2, 1]), np.array([0, 0])),
        "flatten": nir.Flatten({"input": np.array([6, 2, 1])}, 0),
        "fc": nir.Linear(integers(rng, 5, 12)),
        "if3": fire((5,), 20.0),
        "output": nir.Output(np.array([5])),
    }
    return nodes, chain(nodes)


def residual_network(rng: np.random.Generator) -> tuple[Nodes, Edges]:
    """A branch around a layer, a sum in front of a linear node, padding "same"."""
    nodes = {
        "input": nir.Input(np.array([2, 5, 6])),
        "conv1": nir.Conv2d((5, 6), integers(rng, 3, 2, 3, 3), 1, "same", 1, 1, np.zeros(3)),
        "if1": fire((3, 5, 6), 30.0),
        "conv2": nir.Conv2d((5, 6), integers(rng, 3, 3, 4, 3), 1, "same", 1, 1, integers(rng, 3)),
        "shortcut": nir.Scale(np.full((3, 5, 6), 16.0)),
        "if2": fire((3, 5, 6), 45.0),
        "flatten": nir.Flatten({"input": np.array([3, 5, 6])}, 0),
        "fc": nir.Linear(integers(rng, 4, 90)),
        "output": nir.Output(np.array([4])),
    }
    edges = [*chain(dict.fromkeys(("input", "conv1", "if1", "conv2", "if2"), 0))]
    edges += [("if1", "shortcut"), ("shortcut", "if2"), ("if1", "flatten")]
    return nodes, [*edges, *chain(dict.fromkeys(("if2", "flatten", "fc", "output"), 0))]


def recurrent_network(rng: np.random.Generator) -> tuple[Nodes, Edges]:
    """A population that drives itself, delays of several lengths, a resistance, an integrator."""
    nodes = {
        "input": nir.Input(np.array([6])),
        "fc": nir.Linear(integers(rng, 8, 6)),
        "if": nir.IF(np.full(8, 2.0), np.full(8, 90.0)),
        "rec": nir.Linear(integers(rng, 8, 8, low=-9, high=9)),
        "delay": nir.Delay(np.array([0.0, 1, 1, 2, 2, 3, 3, 3])),
        "fc2": nir.Linear(integers(rng, 5, 8)),
        "if2": fire((5,), 33.0),
        "i": nir.I(np.full(5, 0.5)),
        "output": nir.Output(np.array([5])),
    }
    edges = [("input", "fc"), ("fc", "if"), ("if", "rec"), ("rec", "if"), ("if", "delay")]
    return nodes, [*edges, *chain(dict.fromkeys(("delay", "fc2", "if2", "i", "output"), 0))]


def sound_network(rng: np.random.Generator) -> tuple[Nodes, Edges]:
    """1-D convolutions, and two outputs, one of them straight from the input."""
    nodes = {
        "input": nir.Input(np.array([2, 15])),
        "conv1": nir.Conv1d(15, integers(rng, 4, 1, 4), 2, 1, 1, 2, integers(rng, 4)),
        "if1": fire((4, 7), 25.0),
        "conv2": nir.Conv1d(7, integers(rng, 3, 4, 3), 1, "same", 2, 1, integers(rng, 3)),
        "if2": fire((3, 7), 25.0),
        "flatten": nir.Flatten({"input": np.array([2, 15])}, 0),
        "fc": nir.Linear(integers(rng, 2, 30)),
        "output1": nir.Output(np.array([3, 7])),
        "output2": nir.Output(np.array([2])),
    }
    edges = chain(dict.fromkeys(("input", "conv1", "if1", "conv2", "if2", "output1"), 0))
    return nodes, [*edges, *chain(dict.fromkeys(("input", "flatten", "fc", "output2"), 0))]


NETWORKS: dict[str, Callable[[np.random.Generator], tuple[Nodes, Edges]]] = {
    "dense": dense_network,
    "images": image_network,
    "residual": residual_network,
    "recurrent": recurrent_network,
    "sound": sound_network,
}


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


IF = fire((3,), 5.0)
LINE = np.ones(3)
REFUSED: dict[str, tuple[list[Any], str]] = {
    "LI": ([nir.LI(LINE, LINE, LINE)], "node1 .LI.: every node can be imported"),
    "CubaLI": ([nir.CubaLI(LINE, LINE, LINE, LINE)], "node1 .CubaLI.: every node can be imported"),
    "Threshold": ([nir.Threshold(LINE)], "node1 .Threshold.: every node can be imported"),
    "two outputs of I": ([nir.I(LINE), IF], "node1 .I.: the output drives nothing"),
    "no time step": ([nir.LIF(LINE, LINE, LINE, LINE)], "node1 .LIF.: .*needs the time step"),
    "sizes": ([nir.Linear(np.ones((2, 4)))], "node1 .Linear.: the matrix fits what it reads"),
    "stacked": ([nir.Linear(np.ones((2, 3, 3)))], "node1 .Linear.: a linear layer has one matrix"),
    "bias": ([nir.Affine(np.ones((3, 3)), np.ones(2))], "node1 .Affine.: there is a bias for each"),
    "NaN": ([nir.Linear(np.full((3, 3), np.nan))], "node1 .Linear.: weight is finite"),
    "threshold": ([fire((3,), -1.0)], "node1 .IF.: thresholds lie above the reset"),
    "parameters": ([fire((4,), 1.0)], "node1 .IF.: parameters fit what drives the neuron"),
    "infinite": ([fire((3,), np.inf)], "node1 .IF.: v_threshold is finite"),
    "pool": (
        [nir.SumPool2d(np.array([2, 2]), np.array([1, 1]), np.array([0, 0]))],
        "node1 .SumPool2d.: pooling reads",
    ),
    "conv": (
        [nir.Conv2d((3, 3), np.ones((1, 1, 2, 2)), 1, 0, 1, 1, np.zeros(1))],
        "node1 .Conv2d.: a convolution reads its channels",
    ),
    "scale": ([nir.Scale(np.ones(2))], "node1 .Scale.: scale fits what it scales"),
    "reset": (
        [nir.IF(LINE, LINE, metadata={"reset": "maybe"})],
        "node1 .IF.: the reset is known",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_node(case: str, tmp_path: Path) -> None:
    middle, message = REFUSED[case]
    nodes = {"input": nir.Input(np.array([3]))}
    nodes |= {f"node{i + 1}": node for i, node in enumerate(middle)}
    nodes["output"] = nir.Output(np.array([3]))
    with pytest.raises(InputError, match=message):
        imported(tmp_path, nodes, chain(nodes))


TIMED: dict[str, tuple[Any, str]] = {
    "half a step": (nir.Delay(np.full(3, 1.5)), "delays are whole numbers of time steps"),
    "long": (nir.Delay(np.full(3, 1e9)), "delays are few and not too long"),
    "negative": (nir.Delay(np.full(3, -1.0)), "delays are few and not too long"),
    "short tau": (nir.LIF(LINE / 2, LINE, LINE, LINE * 2), "tau is not shorter than a step"),
    "several tau": (
        nir.LIF(np.array([2.0, 3, 4]), LINE, LINE, LINE * 2),
        "all neurons of a population share tau",
    ),
    "v_reset": (
        nir.LIF(LINE * 2, LINE, LINE * 0, LINE * 2, LINE),
        "a leaky neuron is reset to 0 or to where it leaks to",
    ),
    "subtract": (
        nir.LIF(LINE * 2, LINE, LINE * 0, LINE * 2, metadata={"reset": "subtract"}),
        "a leaky neuron is reset to a value",
    ),
}


@pytest.mark.parametrize("case", TIMED)
def test_refusals_of_what_has_a_time(case: str, tmp_path: Path) -> None:
    node, message = TIMED[case]
    nodes = {"input": nir.Input(np.array([3])), "timed": node, "output": nir.Output(np.array([3]))}
    with pytest.raises(InputError, match=f"timed .*{message}"):
        imported(tmp_path, nodes, chain(nodes), dt=1.0)


def test_constants_before_a_delay_or_a_current_are_refused(tmp_path: Path) -> None:
    affine = nir.Affine(np.eye(3), np.ones(3))
    for node in (nir.Delay(LINE), nir.CubaLIF(LINE * 2, LINE * 2, LINE, LINE, LINE * 2)):
        nodes = {"input": nir.Input(np.array([3])), "affine": affine, "node": node}
        nodes["output"] = nir.Output(np.array([3]))
        with pytest.raises(InputError, match=r"node .*constant|node .*what is delayed are spikes"):
            imported(tmp_path, nodes, chain(nodes), dt=1.0)


GRAPHS: dict[str, tuple[Edges, str]] = {
    "linear loop": (
        [("input", "a"), ("a", "b"), ("b", "a"), ("b", "if")],
        "leads through a neuron",
    ),
    "two populations": (
        [("input", "if"), ("if", "a"), ("a", "if2"), ("if2", "b"), ("b", "if")],
        "if, if2: loops lead from a population to itself",
    ),
    "undriven": ([("input", "if"), ("a", "if")], "a .Linear.: every node is driven"),
    "unknown": ([("input", "if"), ("nobody", "if")], "edges join nodes that exist"),
    "twice": ([("input", "if"), ("input", "if")], "an edge is there once"),
    "into the input": ([("input", "if"), ("if", "input")], "nothing drives the input"),
    "by itself": ([("if", "a"), ("a", "if")], "every neuron is driven by others"),
}


@pytest.mark.parametrize("case", GRAPHS)
def test_refusals_of_graphs(case: str, tmp_path: Path) -> None:
    edges, message = GRAPHS[case]
    every = {
        "input": nir.Input(np.array([3])),
        "a": nir.Linear(np.eye(3)),
        "b": nir.Linear(np.eye(3)),
        "if": IF,
        "if2": IF,
    }
    used = {"input", *(name for edge in edges for name in edge)}
    nodes = {name: node for name, node in every.items() if name in used}
    with pytest.raises(InputError, match=message):
        imported(tmp_path, nodes, edges)


def test_products_that_are_too_large_are_refused(tmp_path: Path) -> None:
    huge = nir.Linear(np.full((3, 3), 1e30))
    nodes = {"input": nir.Input(np.array([3])), "a": huge, "b": huge, "if": IF}
    with pytest.raises(InputError, match="input -> if: the weights between two populations"):
        imported(tmp_path, nodes, chain(nodes))
    affine = nir.Affine(np.eye(3), np.full(3, 1e30))
    nodes = {"input": nir.Input(np.array([3])), "a": affine, "b": nir.Scale(LINE * 1e9), "if": IF}
    with pytest.raises(InputError, match="if: the bias is finite"):
        imported(tmp_path, nodes, chain(nodes))


@pytest.mark.parametrize("weight", [1e-30, 1e-9, 1e9, 1e30])
@pytest.mark.parametrize("leaky", [False, True])
def test_weights_of_any_size_become_integers_or_are_refused(
    weight: float, leaky: bool, tmp_path: Path
) -> None:
    """No warning, no wrapped integer: a network, or StateOverflowError."""
    neuron = nir.LIF(LINE * 3, LINE, LINE, LINE * 5) if leaky else IF
    nodes = {"input": nir.Input(np.array([3])), "a": nir.Linear(np.eye(3) * weight), "if": neuron}
    try:
        artifact = imported(tmp_path, nodes, chain(nodes), dt=1.0)
    except StateOverflowError as error:
        assert error.where.startswith("if")
    else:
        artifact.netlist.verify()
        (connection,) = artifact.netlist.into("if")
        got = float((connection.map.weight * connection.weight_scale).max())
        assert got == pytest.approx(weight / 3 if leaky else weight, rel=1e-2)


def test_a_network_has_one_input_and_a_window(tmp_path: Path) -> None:
    nodes = {"a": nir.Input(np.array([3])), "b": nir.Input(np.array([3])), "if": IF}
    with pytest.raises(InputError, match="the network has one input"):
        imported(tmp_path, nodes, [("a", "if"), ("b", "if")])
    nodes, edges = dense_network(np.random.default_rng(0))
    with pytest.raises(InputError, match="a window has a length"):
        imported(tmp_path, nodes, edges, steps=None)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"dt": 0.0}, {"reset": "soft"}, {"timing": "first"}, {"high": 0.0}]
)
def test_options_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="option"):
        NirImport(**wrong)
