"""What is not imported from NIR is refused by the name of its node, with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from nir_networks import Edges, chain, dense_network, fire, imported

from lapilli.compiler.errors import InputError, StateOverflowError
from lapilli.compiler.interchange.nir_graph import NEURONS
from lapilli.compiler.interchange.nir_graph import REFUSED as REFUSED_NODES
from lapilli.compiler.interchange.nir_import import NirImport
from lapilli.compiler.interchange.nir_linear import LINEAR

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


def test_the_table_of_nodes_is_complete() -> None:
    nodes = {name for name in nir.ir.__all__ if name[0].isupper()} - {"NIRNode"}
    assert len(nodes) > 15
    text = (Path(__file__).parents[2] / "docs" / "nir.md").read_text("utf-8")
    rows = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")}
    assert rows - {"node", "---"} == nodes
    refused = {name for name in nodes if f"| {name} | no | no |" in text}
    assert refused == set(REFUSED_NODES)
    assert nodes - refused <= {"Input", "Output", "I", "Delay", "NIRGraph", *NEURONS, *LINEAR}
