"""Networks of public libraries compile unmodified, and all their integers are those proved.

The whole of torchvision: tests/benchmarks/torchvision_networks.py.
"""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from public_networks import (
    SmallSegmentation,
    UNet,
    built,
    classifiers,
    images,
    torchvision_models,
    with_statistics,
)
from torch import nn

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.linear import Sparse
from lapilli.compiler.neurons import GradedMax, Ladder, Product

SIZE = 64
CALIBRATION = 4  # images


@pytest.fixture
def torchvision() -> None:
    try:
        torchvision_models()
    except ImportError as error:
        pytest.skip(f"torchvision is not installed: {error}")
    except RuntimeError as error:
        pytest.skip(f"torchvision does not import beside torch {torch.__version__}: {error}")


def compiled(model: nn.Module, size: int = SIZE) -> Artifact:
    return lapilli.compile(
        model,
        calibration=images(CALIBRATION, size),
        method=lapilli.methods.Parallel(levels=8),
        calibrate="bias",
    )


@functools.cache
def public(name: str) -> Artifact:
    return compiled(built(name, images(CALIBRATION, SIZE)))


def assert_equal_integers(net: Artifact, size: int = SIZE) -> None:
    """Counts, readouts and outputs of the engine and of the quantised ANN, on two new images."""
    samples = images(2, size, seed=7)
    spiking, ann = lapilli.run(net, samples), lapilli.quantised_ann(net, samples)
    assert len(spiking.counts) + len(spiking.readouts) == len(net.netlist.populations)
    for ours, theirs in ((spiking.counts, ann.counts), (spiking.readouts, ann.readouts)):
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
            assert ours[name].any(), f"{name} is silent"
    outputs = zip(spiking.named_outputs.items(), ann.named_outputs.values(), strict=True)
    for (name, values), expected in outputs:
        np.testing.assert_array_equal(values, expected, err_msg=name)
        assert np.ptp(values) > 0


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5", "regnet_y_400mf"],
)
def test_classifiers_compile_and_equal_their_quantised_ann(name: str) -> None:
    net = public(name)
    assert not any(isinstance(c.map, Sparse) for c in net.netlist.connections)
    assert_equal_integers(net)


@pytest.mark.usefixtures("torchvision")
def test_the_networks_have_what_they_are_chosen_for() -> None:
    """Max pools, and squeeze-and-excitation with curves that are not monotone."""
    kinds = {type(p.neuron) for p in public("squeezenet1_1").netlist.populations}
    assert GradedMax in kinds
    kinds = {type(p.neuron) for p in public("mobilenet_v3_small").netlist.populations}
    assert {Ladder, Product} <= kinds


@pytest.mark.usefixtures("torchvision")
def test_there_are_68_cnns_and_12_transformers() -> None:
    cnns, transformers = classifiers()
    assert (len(cnns), len(transformers)) == (68, 12)


@pytest.mark.usefixtures("torchvision")
@pytest.mark.parametrize("name", ["convnext_tiny", "swin_t"])
def test_normalisation_over_activity_is_refused_with_its_place(name: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=r"LayerNorm|layer_norm") as caught:
        compiled(built(name, images(2, 32)), 32)
    assert caught.value.where.startswith("features.0.")
    assert ".py:" in caught.value.where


@pytest.mark.parametrize("up", ["transposed", "bilinear", "bilinear, corners aligned"])
def test_u_nets_return_equal_maps(up: str) -> None:
    size = 32
    torch.manual_seed(0)
    model = with_statistics(UNet(up, width=4, depth=3), images(CALIBRATION, size))
    net = compiled(model, size)
    (output,) = lapilli.run(net, images(1, size)).named_outputs.values()
    assert output.shape == (1, 5, size, size)
    assert_equal_integers(net, size)


def test_a_small_segmentation_network_returns_equal_maps() -> None:
    torch.manual_seed(0)
    net = compiled(with_statistics(SmallSegmentation(), images(CALIBRATION, SIZE)))
    assert list(lapilli.run(net, images(1, SIZE)).named_outputs) == ["out"]
    assert_equal_integers(net)


def test_a_pool_wider_than_its_image() -> None:
    """As in GoogLeNet at 64x64: every window is cut off, so the pool is no convolution."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, stride=16), nn.ReLU(), nn.MaxPool2d(3, 1, 1), nn.Conv2d(4, 2, 1)]
    net = compiled(nn.Sequential(*layers), 32)
    assert any(isinstance(c.map, Sparse) for c in net.netlist.connections)
    assert_equal_integers(net, 32)


def test_statistics_are_those_of_the_images() -> None:
    model = with_statistics(nn.Sequential(nn.BatchNorm2d(3)), images(8, 16))
    with torch.no_grad():
        normal = model(torch.from_numpy(images(8, 16))).numpy()
    np.testing.assert_allclose(normal.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(normal.std(axis=(0, 2, 3)), 1, atol=1e-3)
