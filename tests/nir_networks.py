"""NIR graphs as another tool would write them, with the package `nir` alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np

from lapilli.compiler.artifact import Artifact
from lapilli.compiler.interchange.nir_import import NirImport
from lapilli.compiler.interchange.nir_import import read as read_nir
from lapilli.compiler.linear import Array
from lapilli.hardware_profiles import load

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
