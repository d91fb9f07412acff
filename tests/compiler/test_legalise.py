"""Legalisation: random networks compute what torch computes, one map per source and population."""

from __future__ import annotations

from typing import Any

import capturing
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lapilli.compiler import compose
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.linear import Conv, ConvTransposed, Sparse


class Random(nn.Module):
    """A network of random layers; sums and several outputs, mostly without activations between."""

    def __init__(self, seed: int):
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.layers = nn.ModuleList()
        self.steps: list[Any] = []
        shape = (int(self.rng.integers(1, 4)), *(int(n) for n in self.rng.integers(3, 8, 2)))
        self.in_shape = shape
        shapes = [shape]
        for _ in range(int(self.rng.integers(2, 9))):
            shapes.append(self._grow(shapes))
        self.shapes = shapes

    def _grow(self, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
        source = len(shapes) - 1 if self.rng.random() < 0.7 else int(self.rng.integers(len(shapes)))
        same = [i for i, shape in enumerate(shapes) if shape == shapes[source]]
        if len(same) > 1 and self.rng.random() < 0.5:
            other = int(self.rng.choice(same))
            sign = float(self.rng.choice([1, -1, 0.5]))
            self.steps.append(lambda m, kept: torch.add(kept[source], kept[other], alpha=sign))
            return shapes[source]
        call = self._layer(shapes[source])
        with torch.no_grad():
            shape = tuple(call(self, torch.zeros(1, *shapes[source])).shape[1:])
        self.steps.append(lambda m, kept: call(m, kept[source]))
        return shape

    def _layer(self, shape: tuple[int, ...]) -> Any:
        channels, height, width = shape
        integer = self.rng.integers
        k, p, s = int(integer(1, 4)), int(integer(0, 3)), int(integer(1, 3))
        k = min(k, height + 2 * p, width + 2 * p)
        g = channels if self.rng.random() < 0.3 else 1
        c = g * int(integer(1, 4))
        made: list[Any] = [
            lambda: nn.Conv2d(channels, c, k, s, p, groups=g),
            lambda: nn.Conv2d(channels, channels, 3, padding=2, dilation=2),
            lambda: nn.Conv2d(channels, c, 1, groups=g),
            lambda: nn.BatchNorm2d(channels),
            nn.ReLU,
            lambda: nn.AvgPool2d(k, s, k // 2, ceil_mode=s > 1, count_include_pad=p > 0),
            lambda: nn.AdaptiveAvgPool2d((min(height, 2), 3)),
            lambda: nn.ZeroPad2d((p, -1 if width > 1 else 0, 0, 1)),
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, 8),
                                  nn.Unflatten(1, (2, 2, 2))),
            lambda: nn.Sequential(nn.Flatten(2), nn.Unflatten(2, (width, height))),
        ]  # fmt: skip
        calls: list[Any] = [
            lambda m, x: x[:, :, s - 1 :, ::s] if height >= s else x,
            lambda m, x: F.pad(x, (1, 0, 0, p, 0, 1)),
            lambda m, x: x * torch.linspace(-1, 1, width) + 0.5,
            lambda m, x: 1 - x,
            lambda m, x: x.mean(3, keepdim=True),
        ]
        index = int(integer(len(made) + len(calls)))
        if index >= len(made):
            return calls[index - len(made)]
        self.layers.append(capturing.randomised(made[index](), seed=int(integer(1000))))
        at = len(self.layers) - 1
        return lambda m, x: m.layers[at](x)

    def forward(self, x: Tensor) -> Any:
        kept = [x]
        for step in self.steps:
            kept.append(step(self, kept))
        return kept[-1], kept[len(kept) // 2]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_random_networks_compute_what_torch_computes(seed: int) -> None:
    model = Random(seed)
    graph = capturing.assert_computes_the_same(model, capturing.images(*model.in_shape, count=3))
    # Several between two populations only where a sum would make a matrix of a convolution.
    matrices = [
        (c.source, c.target)
        for c in graph.connections
        if not isinstance(c.map, (Conv, ConvTransposed))
    ]
    assert len(matrices) == len(set(matrices))
    assert sum(p.role == "activation" for p in graph.populations) <= len(model.layers)


def test_random_networks_are_of_many_kinds() -> None:
    """The test above is worth its name: it sees every form, sums, and fallbacks."""
    forms: dict[str, int] = {}
    for seed in range(60):
        model = Random(seed)
        graph = capturing.legalised(model, capturing.images(*model.in_shape, count=2))
        for c in graph.connections:
            name = type(c.map).__name__
            forms[name] = forms.get(name, 0) + 1
    assert min(forms.get(name, 0) for name in ("Conv", "Dense", "Diagonal", "Sparse")) >= 5


def test_a_residual_sum_is_two_connections_into_one_population() -> None:
    model = Net(
        lambda m, x: F.relu(m.b(F.relu(m.a(y := F.relu(x)))) + y),
        a=nn.Conv2d(2, 2, 3, padding=1),
        b=nn.Conv2d(2, 2, 3, padding=1),
    )
    graph = capturing.assert_computes_the_same(model, capturing.images(2, 5, 5))
    assert capturing.maps_into(graph, "relu_2") == [
        "Conv 2x2x3x3 padding 1 <- relu_1",
        "Diagonal <- relu",
    ]


def test_what_no_output_depends_on_costs_no_neurons() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        h = F.relu(m.a(x))
        m.auxiliary(F.relu(F.relu(h)))
        return m.b(h)

    layers = {name: nn.Conv2d(2, 2, 1) for name in ("a", "b", "auxiliary")}
    graph = capturing.assert_computes_the_same(Net(run, **layers), capturing.images(2, 3, 3))
    assert [p.name for p in graph.populations] == ["input", "relu", "b"]
    assert len(graph.connections) == 2


def test_padded_convolutions_of_a_small_image_fall_back_to_one_sparse_matrix() -> None:
    model = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(3)), nn.ReLU())
    graph = capturing.assert_computes_the_same(model, capturing.images(2, 4, 4))
    (connection,) = graph.into("3")
    assert isinstance(connection.map, Sparse)


def test_every_layer_of_the_usual_head_is_one_matrix() -> None:
    model = nn.Sequential(
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(3, 5)
    )
    graph = capturing.assert_computes_the_same(model, capturing.images(3, 4, 4))
    assert capturing.maps_into(graph, "4") == ["Dense 5x48 <- 0"]


def test_image_normalisation_folds_into_the_first_convolution_borders_included() -> None:
    mean, std = torch.tensor([0.3, 0.5]).view(1, 2, 1, 1), torch.tensor([0.2, 0.9]).view(2, 1, 1)
    model = Net(lambda m, x: F.relu(m.conv((x - mean) / std)), conv=nn.Conv2d(2, 3, 3, padding=1))
    graph = capturing.assert_computes_the_same(model, capturing.images(2, 5, 5))
    assert capturing.maps_into(graph, "relu") == ["Conv 3x2x3x3 padding 1 <- input"]
    bias = next(p.bias for p in graph.populations if p.name == "relu")
    assert bias.shape == (3, 5, 5)
    assert not bias.flags.writeable


def test_populations_know_their_place() -> None:
    model = Net(lambda m, x: F.relu(x))
    graph = capturing.legalised(model, capturing.images(2))
    assert [p.where.partition(":")[0] for p in graph.populations] == ["", __file__, __file__]


def test_a_matrix_beyond_reason_is_refused_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compose, "MAX_SPARSE_SYNAPSES", 100)
    model = Net(
        lambda m, x: m.b(m.a(x)),
        a=nn.Conv2d(2, 2, 3, padding=1),
        b=nn.Conv2d(2, 2, 3, padding=1),
    )
    with pytest.raises(UnsupportedOperatorError) as refused:
        capturing.legalised(model, capturing.images(2, 4, 4))
    error = refused.value
    assert error.where.startswith(f"b (Conv2d) at {__file__}:")
    assert error.where.endswith("Conv 2x2x3x3 padding 1 with Conv 2x2x3x3 padding 1 of (2, 4, 4)")
    assert "become one matrix" in error.rule
    assert (error.allowed, error.remedy) == ("100", "Put an activation between the two operators.")


def test_resnet_blocks_stay_convolutions() -> None:
    """Nothing of a network as people write it becomes a sparse matrix."""
    model = Net(
        lambda m, x: m.fc(F.avg_pool2d(F.relu(
            m.b2(m.c2(F.relu(m.b1(m.c1(y := F.relu(m.b0(m.c0(x)))))))) + m.bs(m.cs(y))
        ), 4).flatten(1)),
        c0=nn.Conv2d(3, 4, 3, padding=1, bias=False), b0=nn.BatchNorm2d(4),
        c1=nn.Conv2d(4, 8, 3, 2, 1, bias=False), b1=nn.BatchNorm2d(8),
        c2=nn.Conv2d(8, 8, 3, 1, 1, bias=False), b2=nn.BatchNorm2d(8),
        cs=nn.Conv2d(4, 8, 1, 2, bias=False), bs=nn.BatchNorm2d(8), fc=nn.Linear(8, 10),
    )  # fmt: skip
    graph = capturing.assert_computes_the_same(
        capturing.randomised(model), capturing.images(3, 8, 8)
    )
    maps = [c.map for c in graph.connections]
    assert [type(m) for m in maps[:-1]] == [Conv] * 4
    assert maps[-1].pretty() == "Dense 10x128"
