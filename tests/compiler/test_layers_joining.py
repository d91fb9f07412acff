"""Joins, splits, permutations and resizing: compact forms, and what of them is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import capturing
import layer_cases
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import nn

from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.layers.permutation import Permute
from lapilli.compiler.layers.upsampling import Interpolate
from lapilli.compiler.linear import Conv, Sparse

Call = Callable[[Any], Any]
JOINED = nn.Conv2d(6, 4, 3, padding=1)
GROUPED = nn.Conv2d(6, 6, 3, padding=1, groups=3)
FORMS: dict[str, tuple[Callable[..., Any], tuple[int, ...], dict[str, nn.Module], list[str]]] = {
    # a network on ReLU(x) and ReLU(-x), the shape of x, layers, and its maps
    "cat-conv": (
        lambda m, a, b: m.conv(torch.cat([a, b], 1)),
        (3, 5, 5),
        {"conv": JOINED},
        ["Conv 4x3x3x3 padding 1 <- relu", "Conv 4x3x3x3 padding 1 <- relu_1"],
    ),
    "cat-BN-conv": (
        lambda m, a, b: m.conv(m.norm(torch.cat([a, b], 1))),
        (3, 5, 5),
        {"norm": nn.BatchNorm2d(6), "conv": JOINED},
        ["Conv 4x3x3x3 padding 1 <- relu", "Conv 4x3x3x3 padding 1 <- relu_1"],
    ),
    "cat-grouped conv": (
        lambda m, a, b: m.conv(torch.cat([a, b], 1)),
        (3, 5, 5),
        {"conv": GROUPED},
        ["Conv 6x3x3x3 padding 1 <- relu", "Conv 6x3x3x3 padding 1 <- relu_1"],
    ),
    "cat-cat-conv": (
        lambda m, a, b: m.conv(torch.cat([torch.cat([b, a], 1), a], 1)),
        (2, 5, 5),
        {"conv": JOINED},
        ["Conv 4x2x3x3 padding 1 <- relu_1", "Conv 4x2x3x3 padding 1 <- relu"],
    ),
    "cat-flatten-linear": (
        lambda m, a, b: m.linear(torch.cat([a, b], 1).flatten(1)),
        (3, 2, 2),
        {"linear": nn.Linear(24, 3)},
        ["Dense 3x12 <- relu", "Dense 3x12 <- relu_1"],
    ),
    "cat of vectors-linear": (
        lambda m, a, b: m.linear(torch.cat([a, b], 1)),
        (5,),
        {"linear": nn.Linear(10, 3)},
        ["Dense 3x5 <- relu", "Dense 3x5 <- relu_1"],
    ),
    "cat-split": (
        lambda m, a, b: torch.cat([a, b], 1).split([2, 2, 2], 1)[2],
        (3, 4, 4),
        {},
        ["Conv 2x3x1x1 <- relu_1"],
    ),
    "cat of upsampled-conv": (
        lambda m, a, b: m.conv(torch.cat([F.interpolate(t, scale_factor=2) for t in (a, b)], 1)),
        (3, 3, 3),
        {"conv": JOINED},
        [
            "ConvTransposed 3x4x4x4 stride 2 padding 1 <- relu",
            "ConvTransposed 3x4x4x4 stride 2 padding 1 <- relu_1",
        ],
    ),
    "shuffle-conv": (
        lambda m, a, b: m.conv(layer_cases.shuffled(torch.cat([a, b], 1))),
        (3, 4, 4),
        {"conv": JOINED},
        ["Conv 4x3x3x3 padding 1 <- relu", "Conv 4x3x3x3 padding 1 <- relu_1"],
    ),
    "stack-flatten-conv": (
        lambda m, a, b: m.conv(torch.stack([a, b], 2).flatten(1, 2)),
        (3, 4, 4),
        {"conv": JOINED},
        ["Conv 4x3x3x3 padding 1 <- relu", "Conv 4x3x3x3 padding 1 <- relu_1"],
    ),
    "sequences": (
        lambda m, a, b: m.conv(torch.cat([a, b], 1)),
        (3, 7),
        {"conv": nn.Conv1d(6, 2, 3, padding=1)},
        ["Conv 2x3x1x3 padding (0, 1) <- relu", "Conv 2x3x1x3 padding (0, 1) <- relu_1"],
    ),
    "pooled upsampling, as in ASPP": (
        lambda m, a, b: m.conv(
            torch.cat([a, F.interpolate(b.mean((2, 3), True), (4, 4), mode="bilinear")], 1)
        ),
        (3, 4, 4),
        {"conv": nn.Conv2d(6, 2, 1)},
        ["Conv 2x3x1x1 <- relu", "Sparse 32x48 with 1,536 synapses <- relu_1"],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_one_compact_connection_per_source(name: str) -> None:
    run, shape, layers, expected = FORMS[name]
    model = Net(lambda m, x: run(m, F.relu(x), F.relu(-x)), **layers)
    graph = capturing.assert_computes_the_same(
        capturing.randomised(model), capturing.images(*shape)
    )
    assert capturing.maps_into(graph, graph.outputs[0]) == expected


def test_constants_in_a_join_are_biases() -> None:
    model = Net(
        lambda m, x: m.conv(torch.cat([F.relu(x), torch.full((len(x), 1, 4, 4), 0.5)], 1)),
        conv=nn.Conv2d(3, 2, 3, padding=1, bias=False),
    )
    graph = capturing.assert_computes_the_same(model, capturing.images(2, 4, 4))
    assert capturing.maps_into(graph, "conv") == ["Conv 2x2x3x3 padding 1 <- relu"]
    assert next(p.bias for p in graph.populations if p.name == "conv").shape == (2, 4, 4)


def test_what_a_split_leaves_out_costs_no_neurons() -> None:
    model = Net(
        lambda m, x: torch.cat([F.relu(x), F.relu(m.conv(x))], 1)[:, :2],
        conv=nn.Conv2d(2, 3, 1),
    )
    graph = capturing.assert_computes_the_same(model, capturing.images(2, 3, 3))
    assert [p.name for p in graph.populations] == ["input", "relu", "getitem"]


def test_a_drive_of_zeros_keeps_its_connection() -> None:
    graph = capturing.assert_computes_the_same(
        Net(lambda m, x: F.relu(x) * 0 + 1), capturing.images(2, 3, 3)
    )
    assert capturing.maps_into(graph, graph.outputs[0]) == ["Diagonal <- relu"]


def test_parts_share_memory_with_the_whole_and_not_with_each_other() -> None:
    def run(m: Any, x: Any) -> Any:
        left, right = (2 * x).chunk(2, 1)
        left.relu_()
        return torch.cat([right * 0.5, left], 1)

    images = capturing.images(4, 4, 3)
    graph = capturing.captured(Net(run), images)  # which compares it with the network
    assert sum(type(node).__name__ == "Activate" for node in graph.nodes) == 1
    with pytest.raises(UnsupportedOperatorError, match="overwritten in place"):
        capturing.captured(Net(lambda m, x: overwritten(x)), capturing.images(4, 3, 3))


def overwritten(x: Any) -> Any:
    whole = 2 * x
    left, _ = whole.chunk(2, 1)
    left.relu_()
    return whole


@pytest.mark.parametrize("axes", list(itertools.permutations((1, 2, 3, 4))))
def test_every_permutation(axes: tuple[int, ...]) -> None:
    for shape in ((2, 3, 4, 5), (2, 1, 3, 2), (1, 2, 1, 3)):
        x = capturing.images(*shape, count=2)
        node = capturing.captured(Net(lambda m, x: x.permute(0, *axes)), x).nodes[1]
        assert isinstance(node, Permute)
        found = node.map().apply(x.reshape(2, *node.map().in_shape))
        np.testing.assert_array_equal(found.reshape(2, *node.shape), x.transpose(0, *axes))


def test_channels_that_move_are_a_convolution_and_pixels_a_matrix() -> None:
    x = capturing.images(2, 3, 4, 5)
    for axes, form in (((2, 1, 3, 4), Conv), ((1, 2, 4, 3), Sparse), ((2, 3, 1, 4), Conv)):
        order = axes
        node = capturing.captured(Net(lambda m, x, a=order: x.permute(0, *a)), x).nodes[1]
        assert isinstance(node, Permute)
        assert isinstance(node.map(), form)


SCALES = (0.3, 0.5, 0.75, 1, 1.25, 1.5, 1.7, 2, 2.05, 2.5, 3)


MODES: dict[str, dict[str, Any]] = {
    **{
        mode: {"mode": mode} for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
    },
    "bilinear corners": {"mode": "bilinear", "align_corners": True},
    "bicubic corners": {"mode": "bicubic", "align_corners": True},
    "bilinear antialias": {"mode": "bilinear", "antialias": True},
    "bicubic antialias": {"mode": "bicubic", "antialias": True},
    "antialias corners": {"mode": "bilinear", "antialias": True, "align_corners": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_interpolation_to_every_size(mode: str, size: int) -> None:
    x = torch.tensor(capturing.images(2, size, 4, count=2))
    how = MODES[mode]
    targets: list[dict[str, Any]] = [{"size": (n, 3)} for n in range(1, 18)]
    targets += [{"scale_factor": (s, w)} for s in SCALES for w in (2, 1.2) if int(size * s) > 0]
    for target in targets:
        expected = F.interpolate(x, **target, **how)
        model = Net(lambda m, x, t=target: F.interpolate(x, **t, **how))
        node = capturing.captured(model, x.numpy()).nodes[1]
        assert isinstance(node, Interpolate)
        found = sum(m.apply(x.double().numpy()) for m in node.maps())
        assert np.allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5), target


REFUSED: dict[str, tuple[Call, str, str]] = {
    # What is called, the rule, and what was found.
    "joined images": (
        lambda x: torch.cat([x, x]),
        "the batch stays the first dimension",
        "shape (10, 4, 6, 6)",
    ),
    "joined images, halved": (
        lambda x: torch.cat([x, x])[:5],
        "the batch stays the first dimension",
        "shape (10, 4, 6, 6)",
    ),
    "a constant per image": (
        lambda x: torch.cat([x, torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 1, 6, 6)], 1),
        "the same for every image",
        "differ between 5 images",
    ),
    "an infinite constant": (
        lambda x: torch.cat([x, torch.full((5, 1, 6, 6), float("inf"))], 1),
        "constants are finite",
        "infinity",
    ),
    "split images": (lambda x: x.chunk(5)[0], "the batch stays", "shape (1, 4, 6, 6)"),
    "unbound images": (lambda x: torch.stack(x.unbind(), 1)[0], "the batch stays", "(4, 6, 6)"),
    "images in a second axis": (
        lambda x: x[:, :, :5].permute(2, 1, 0, 3),
        "images are independent",
        "dimension 2 as the first",
    ),
    "images swapped": (
        lambda x: x[:, :, :5].transpose(0, 2),
        "images are independent",
        "dimension 0",
    ),
    "volumes": (
        lambda x: F.interpolate(x.unsqueeze(2), scale_factor=2),
        "(C, L) or (C, H, W)",
        "(4, 1, 6, 6)",
    ),
    "pixels of volumes": (
        lambda x: F.pixel_shuffle(x.unsqueeze(1), 2),
        "pixel shuffling reads (C, H, W)",
        "(1, 4, 6, 6)",
    ),
    "random depth": (
        lambda x: F.alpha_dropout(x, 0.5, True),
        "dropout is off",
        "training=True",
    ),
    "convolution over one channel's rows": (
        lambda x: F.conv1d(x[:, 0, 0], torch.ones(5, 5, 1)),
        "a 1-D convolution reads (C, L)",
        "(6,)",
    ),
    "pooling without channels": (
        lambda x: F.avg_pool1d(x[:, 0, 0], 2),
        "1-D pooling reads (C, L)",
        "(6,)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_linear_or_mixes_images_is_refused(name: str) -> None:
    call, rule, found = REFUSED[name]
    with pytest.raises(UnsupportedOperatorError) as refused:
        capturing.captured(Net(lambda m, x: call(x)), capturing.images(4, 6, 6))
    error = refused.value
    assert rule in error.rule
    assert found in str(error.found)
    assert f" at {__file__}:" in error.where
    assert error.remedy.endswith(".")
