"""Activations on joined channels become populations of the parts; the network stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import capturing
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import nn

from lapilli.compiler.execute import FloatExecutor
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.passes.split_joins import split_joins
from lapilli.compiler.populations import PopulationGraph

Run = Callable[[Any, Any], Any]
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "first": lambda: nn.Conv2d(2, 3, 3, padding=1),
    "second": lambda: nn.Conv2d(3, 2, 3, padding=1),
    "norm": lambda: nn.BatchNorm2d(5),
    "last": lambda: nn.Conv2d(5, 4, 1),
}


def split(run: Run, shape: tuple[int, ...] = (2, 5, 4)) -> tuple[PopulationGraph, PopulationGraph]:
    """The populations of a network before and after the pass, of which both compute the same."""
    model = capturing.randomised(Net(run, **{name: make() for name, make in LAYERS.items()}))
    x = capturing.images(*shape)
    graph = capturing.captured(model, x)
    plain, parts = legalise(graph), legalise(split_joins(graph))
    parts.verify()
    assert len(plain.outputs) == len(parts.outputs)
    ours, theirs = (
        FloatExecutor(g, torch.device("cpu")).run(torch.tensor(x)) for g in (parts, plain)
    )
    for mine, other in zip(parts.outputs, plain.outputs, strict=True):
        torch.testing.assert_close(ours[mine], theirs[other], rtol=1e-5, atol=1e-5)
    return plain, parts


def dense(m: Any, x: Any) -> Any:
    """A layer of DenseNet: everything so far, normalised, activated, and mixed."""
    first = m.first(x)
    joined = torch.cat([first, m.second(F.relu(first))], 1)
    return m.last(F.relu(m.norm(joined)))


def test_a_part_reads_what_the_part_reads() -> None:
    plain, parts = split(dense)
    assert capturing.maps_into(plain, "relu_1") == [
        "Conv 5x2x3x3 padding 1 <- input",
        "Conv 5x3x3x3 padding 1 <- relu",
    ]
    assert capturing.maps_into(parts, "relu_1[0:3]") == ["Conv 3x2x3x3 padding 1 <- input"]
    assert capturing.maps_into(parts, "relu_1[3:5]") == ["Conv 2x3x3x3 padding 1 <- relu"]
    assert capturing.maps_into(parts, "last") == [
        "Conv 4x3x1x1 <- relu_1[0:3]",
        "Conv 4x2x1x1 <- relu_1[3:5]",
    ]
    assert sum(c.map.synapses for c in parts.connections) == sum(
        c.map.synapses for c in plain.connections
    )


def test_joins_within_joins_are_split_to_the_bottom() -> None:
    def run(m: Any, x: Any) -> Any:
        inner = torch.cat([torch.cat([m.first(x)[:, :1], x], 1), x[:, :1] * 3], 1)
        return F.relu(torch.cat([inner, m.first(x)[:, 1:2]], 1))

    _, parts = split(run)
    assert [p.name for p in parts.populations if p.role == "activation"] == [
        "relu[0:1]",
        "relu[1:3]",
        "relu[3:4]",
        "relu[4:5]",
    ]


def test_two_activations_share_a_normalisation_and_its_parts() -> None:
    def run(m: Any, x: Any) -> Any:
        joined = m.norm(torch.cat([m.first(x), x], 1))
        return F.relu(joined), F.relu(joined), joined

    _, parts = split(run)
    names = [p.name for p in parts.populations if p.role == "activation"]
    assert names == ["relu[0:3]", "relu[3:5]", "relu_1[0:3]", "relu_1[3:5]"]


def test_vectors_are_split_as_well() -> None:
    def run(m: Any, x: Any) -> Any:
        left, right = x.flatten(1)[:, :7], x.flatten(1).flip(1)
        return F.relu(torch.cat([left, right], 1) * torch.linspace(-1, 1, 47))

    _, parts = split(run)
    assert [p.shape for p in parts.populations if p.role == "activation"] == [(7,), (40,)]


STAYS: dict[str, Run] = {
    "populations": lambda m, x: F.relu(m.norm(torch.cat([F.relu(m.first(x)), F.relu(x)], 1))),
    "one part": lambda m, x: F.relu(torch.cat([m.first(x)], 1)),
    "rows": lambda m, x: F.relu(torch.cat([x, 2 * x], 2)),
    "constants": lambda m, x: F.relu(torch.cat([m.first(x), torch.ones(len(x), 2, 5, 4)], 1)),
    "silence": lambda m, x: F.relu(torch.cat([m.first(x), torch.zeros(len(x), 2, 5, 4)], 1)),
    "a sum between": lambda m, x: F.relu(torch.cat([m.first(x), x], 1) + m.first(x)[:, :1]),
    "rows within": lambda m, x: F.relu(torch.cat([torch.cat([x, x], 2), torch.cat([x, x], 2)], 2)),
    "broadcast after": lambda m, x: F.relu(
        torch.cat([m.first(x), x], 1).mean((2, 3), True) * torch.ones(5, 5, 4)
    ),
    "no activation": lambda m, x: m.norm(torch.cat([m.first(x), x], 1)),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_no_waste_stays(name: str) -> None:
    plain, parts = split(STAYS[name])
    assert parts.pretty() == plain.pretty()


def test_what_is_read_no_more_is_left_out() -> None:
    def run(m: Any, x: Any) -> Any:
        return dense(m, x)

    model = capturing.randomised(Net(run, **{name: make() for name, make in LAYERS.items()}))
    graph = split_joins(capturing.captured(model, capturing.images(2, 5, 4)))
    names = [node.name for node in graph]
    assert "cat" not in names
    assert "norm" not in names
    assert {"norm[0:3]", "norm[3:5]", "relu_1[0:3]", "relu_1[3:5]", "relu_1"} <= set(names)
    graph.verify()
