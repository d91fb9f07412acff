"""What is a convolution but for its border is one, and a small matrix: always the same map."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import capturing
import numpy as np
import pytest
import random_maps
import sample_networks
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lapilli
from lapilli.compiler import conv_borders
from lapilli.compiler.compose import Affine
from lapilli.compiler.conv_borders import bordered_product
from lapilli.compiler.layers import tensor_product as axes_of_maps
from lapilli.compiler.layers.tensor_product import tensor_product
from lapilli.compiler.linear import Conv, ConvTransposed, LinearMap, Sparse, identity

Run = Callable[[Any, Any], Any]
SEEDS = st.integers(0, 2**32 - 1)
LIMIT = 10**6


@pytest.mark.parametrize("form", [Conv, ConvTransposed])
def test_the_two_maps_are_the_product(
    form: type[LinearMap], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conv_borders, "GAIN", 0)  # however large the border
    monkeypatch.setattr(conv_borders, "_worth_it", lambda outer: True)
    found = []

    @given(seed=SEEDS)
    @settings(max_examples=400)
    def check(seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = random_maps.IMAGES[rng.integers(len(random_maps.IMAGES))]
        inner = random_maps.random_map(rng, form, shape)
        outer = random_maps.random_map(rng, Conv, inner.out_shape)
        maps = bordered_product(outer, inner, LIMIT)
        if maps is not None:
            found.append(maps)
            core, border = maps
            assert (type(core), type(border)) == (form, Sparse)
            expected = outer.to_sparse() @ inner.to_sparse()
            assert (core.to_sparse() + border.to_sparse() - expected).nnz == 0 or np.array_equal(
                (core.to_sparse() + border.to_sparse()).toarray(), expected.toarray()
            )

    check()
    assert len(found) > 15  # of 400 draws: about 45


def test_other_maps_are_none_of_these() -> None:
    rng = np.random.default_rng(3)
    conv = random_maps.random_map(rng, Conv, (3, 5, 4))
    sparse = random_maps.random_map(rng, Sparse, conv.out_shape)
    assert bordered_product(sparse, conv, LIMIT) is None
    assert bordered_product(conv, identity((3, 5, 4)), LIMIT) is None
    assert bordered_product(conv, random_maps.random_map(rng, Conv, (6, 2, 5)), LIMIT) is None


@given(seed=SEEDS)
@settings(max_examples=300)
def test_a_matrix_per_axis_is_their_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 7, rng.integers(1, 5)))
    matrices = [_random_axis(rng, size) for size in shape]
    x = rng.integers(-9, 10, (2, *shape)).astype(np.float64)
    expected = x
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            moved = np.moveaxis(expected, axis + 1, -1) @ matrix.toarray().T
            expected = np.moveaxis(moved, -1, axis + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(axes_of_maps, "BORDER", int(rng.integers(0, 4)))
        maps = tensor_product(shape, tuple(matrices))
    found = sum(m.apply(x.reshape(2, *m.in_shape)).reshape(expected.shape) for m in maps)
    assert np.array_equal(found, expected)


def _random_axis(rng: np.random.Generator, size: int) -> Any:
    """Nothing, places read again, reflected and cropped, or whatever."""
    sparse = random_maps.sp.csr_matrix
    kind = rng.integers(4)
    if kind == 0:
        return None
    if kind == 1:
        return sparse(rng.integers(-3, 4, (int(rng.integers(1, 6)), size)).astype(np.float64))
    before, after = rng.integers(0, 3, 2)
    places = np.arange(-before, size + after)
    if kind == 2:
        places = np.repeat(np.clip(places, 0, size - 1), 2)
    matrix = (places[:, None] % size == np.arange(size)).astype(np.float64)
    return sparse(matrix)


BLOCKS: dict[str, tuple[Run, tuple[int, ...], dict[str, nn.Module], list[str]]] = {
    # A network on ReLU(x), the shape of x, layers, and the maps into its end.
    "FCN: 1x1 convolution, bilinear upsampling": (
        lambda m, x: F.interpolate(m.conv(x), scale_factor=4, mode="bilinear"),
        (6, 12, 12),
        {"conv": nn.Conv2d(6, 3, 1)},
        ["ConvTransposed 6x3x8x8 stride 4 padding 2", "Sparse 6912x864 with 12,960 synapses"],
    ),
    "U-Net: bilinear upsampling, convolution": (
        lambda m, x: m.conv(F.interpolate(x, scale_factor=2, mode="bilinear")),
        (4, 16, 16),
        {"conv": nn.Conv2d(4, 4, 3, padding=1)},
        ["ConvTransposed 4x4x6x6 stride 2 padding 2", "Sparse 4096x1024 with 11,520 synapses"],
    ),
    "transposed convolution, convolution": (
        lambda m, x: m.conv(m.up(x)),
        (4, 16, 16),
        {"up": nn.ConvTranspose2d(4, 4, 4, 2, 1), "conv": nn.Conv2d(4, 4, 3, padding=1)},
        ["ConvTransposed 4x4x6x6 stride 2 padding 2", "Sparse 4096x1024 with 5,824 synapses"],
    ),
    "two padded convolutions": (
        lambda m, x: m.second(m.first(x)),
        (4, 20, 20),
        {
            "first": nn.Conv2d(4, 4, 3, padding=1),
            "second": nn.Conv2d(4, 4, 3, 2, padding=1, groups=2),
        },
        ["Conv 4x4x5x5 stride 2 padding 2", "Sparse 400x1600 with 1,488 synapses"],
    ),
    "reflected padding": (
        lambda m, x: m.conv(x),
        (4, 16, 16),
        {"conv": nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")},
        ["Conv 4x4x3x3 padding 1", "Sparse 1024x1024 with 2,880 synapses"],
    ),
    "global average, spread again": (
        lambda m, x: m.conv(x + x.mean((2, 3), True)),
        (4, 8, 8),
        {"conv": nn.Conv2d(4, 4, 1)},
        ["Sparse 256x256 with 65,536 synapses"],
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_stay_compact(name: str) -> None:
    run, shape, layers, expected = BLOCKS[name]
    model = capturing.randomised(Net(lambda m, x: run(m, F.relu(x)), **layers))
    graph = capturing.assert_computes_the_same(model, capturing.images(*shape))
    assert [c.map.pretty() for c in graph.into(graph.outputs[0])] == expected


def test_an_image_that_is_all_border_is_one_matrix() -> None:
    layers = {"a": nn.Conv2d(2, 2, 3, padding=1), "b": nn.Conv2d(2, 2, 3, padding=1)}
    model = capturing.randomised(Net(lambda m, x: m.b(m.a(x)), **layers))
    graph = capturing.assert_computes_the_same(model, capturing.images(2, 4, 4))
    assert [type(c.map) for c in graph.connections] == [Sparse]


def test_a_border_beyond_reason_is_none() -> None:
    rng = np.random.default_rng(3)
    inner, outer = (
        Conv(random_maps.weights(rng, (2, 2, 3, 3)), (2, 20, 20), (2, 20, 20), padding=(1, 1))
        for _ in range(2)
    )
    assert bordered_product(outer, inner, LIMIT) is not None
    assert bordered_product(outer, inner, 100) is None


def test_terms_of_one_population_stay_apart_only_for_a_compact_form() -> None:
    conv = random_maps.random_map(np.random.default_rng(5), Conv, (4, 4, 6))
    matrix = Sparse.from_matrix(conv.to_sparse(), conv.in_shape, conv.out_shape)
    whole = Affine(conv.out_shape, (("a", conv),), np.zeros(()))
    border = Affine(conv.out_shape, (("a", matrix),), np.zeros(()))
    assert [m for _, m in whole.plus(border).terms] == [conv, matrix]
    assert [type(m) for _, m in whole.plus(whole).terms] == [Conv]
    twice = whole.plus(border).plus(border)
    assert [type(m) for _, m in twice.terms] == [Conv, Sparse]


@pytest.mark.parametrize("method", sample_networks.METHODS)
def test_two_maps_between_two_populations_count_exactly(method: str) -> None:
    """The quantised network, the reference engine and its steps agree on borders and joins."""
    model = capturing.randomised(
        Net(
            lambda m, x: m.last(
                F.relu(torch.cat([F.interpolate(F.relu(m.first(x)), (12, 12), mode="bilinear"),
                                  F.pad(x, (2, 2, 2, 2), "reflect")], 1))
            ).mean((2, 3)),
            first=nn.Conv2d(2, 3, 3, 2, 1),
            last=nn.Conv2d(5, 4, 3, padding=1, padding_mode="circular"),
        )
    )  # fmt: skip
    x = np.abs(capturing.images(2, 8, 8, count=8))
    options, profile = sample_networks.METHODS[method]
    artifact = lapilli.compile(model, calibration=x, method=options, profile=profile)
    pairs = [(c.source, c.target) for c in artifact.netlist.connections]
    assert len(set(pairs)) < len(pairs)
    assert [p.name for p in artifact.netlist.populations if "[" in p.name] == [
        "relu_1[0:3]",
        "relu_1[3:5]",
    ]
    result = lapilli.verify(artifact, x[:3], backends=("reference",))
    assert result.ok
