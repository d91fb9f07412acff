"""Arguments for which a layer of the table has no lowering are refused, with their place."""

from __future__ import annotations

from typing import Any

import capturing
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import Tensor, nn

X = capturing.images(4, 6, 6)


def refusal(model: nn.Module) -> Any:
    """Why the network cannot be compiled for X."""
    return capturing.refusal(model, X)


ARGUMENTS: dict[str, tuple[Any, str, str]] = {
    # What is called, the rule, and what was found.
    "dropout while training": (
        lambda x: F.dropout(x, 0.5, True),
        "dropout is off",
        "training=True",
    ),
    "dropout by default": (F.dropout, "dropout is off", "training=True"),
    "batch statistics": (
        lambda x: F.batch_norm(x, None, None, training=True),
        "stored statistics",
        "statistics of the batch",
    ),
    "training statistics": (
        lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True),
        "stored statistics",
        "statistics of the batch",
    ),
    "negative variance": (
        lambda x: F.batch_norm(x, torch.zeros(4), torch.tensor([1.0, 1, -1, 1])),
        "variances are positive",
        "-0.99999",
    ),
    "padding with infinity": (
        lambda x: F.pad(x, (1, 1), value=float("inf")),
        "constants are finite",
        "inf",
    ),
    "reflection that crops": (
        lambda x: F.pad(x[:, :, :, :-1], (1, -1, 0, 0), "reflect"),
        "padding repeats what is in the image",
        "reflect by ((0, 0), (0, 0), (1, -1))",
    ),
    "padding the batch": (
        lambda x: F.pad(x, (0,) * 6 + (1, 0))[1:],
        "batch stays the first",
        "shape (6, 4, 6, 6)",
    ),
    "padding and cropping the batch": (
        lambda x: F.pad(x, (0,) * 6 + (1, -1)),
        "padding is within one image",
        "(0, 0, 0, 0, 0, 0, 1, -1)",
    ),
    "convolution of one image": (
        lambda x: F.conv2d(x.flatten(2), torch.ones(5, 5, 1, 1)),
        "reads (C, H, W)",
        "(4, 36)",
    ),
    "pooling of one image": (lambda x: F.avg_pool2d(x.flatten(2), 1), "reads (C, H, W)", "(4, 36)"),
    "mean over all": (lambda x: x + x.mean(), "batch stays the first", "shape ()"),
    "mean over the batch": (
        lambda x: x + x.mean((0, 2, 3), True),
        "batch stays the first",
        "shape (1, 4, 1, 1)",
    ),
    "mean in double": (lambda x: x.mean((2, 3), dtype=torch.float64), "float32", "torch.float64"),
    "view as integers": (lambda x: x.view(torch.int32), "float32", "torch.int32"),
    "to half": (lambda x: x.to(torch.float16), "float32", "torch.float16"),
    "batch flattened": (lambda x: x.flatten(), "batch stays the first", "shape (720,)"),
    "batch viewed": (lambda x: x.view(-1, 72), "batch stays the first", "shape (10, 72)"),
    "batch split up": (
        lambda x: x.reshape(5, 2, -1).flatten(0, 1),
        "batch stays the first",
        "shape (10, 72)",
    ),
    "one image": (lambda x: x[0], "batch stays the first", "shape (4, 6, 6)"),
    "some images": (lambda x: x[:3], "batch stays the first", "shape (3, 4, 6, 6)"),
    "as many images as there are": (lambda x: x[:5], "the same for every image", "x[slice(None, 5"),
    "images by name": (lambda x: x[[0, 1, 2, 3, 4]], "the same for every image", "x[[0, 1, 2,"),
    "a new axis by a mask": (lambda x: x[:, True], "the same for every image", "True"),
    "constant per image": (
        lambda x: x + torch.arange(5.0).reshape(5, 1, 1, 1),
        "the same for every image",
        "(5, 1, 1, 1)",
    ),
    "images as rows": (
        lambda x: x[:, :, :5] + x.mean((1, 2)),
        "images are independent",
        "(6,) broadcast to (4, 5, 6)",
    ),
    "images as columns": (
        lambda x: x.flatten(1)[:, :5] * 2 + x.mean((1, 2, 3)),
        "images are independent",
        "(1,) broadcast to (5,)",
    ),
    "images as columns of a constant": (
        lambda x: x.mean((1, 2, 3)) * torch.ones(5, 1),
        "images are independent",
        "(1,) broadcast to (5,)",
    ),
    "images as new columns": (
        lambda x: x.mean((1, 2, 3)).expand(5, 5),
        "images are independent",
        "(1,) broadcast to (5,)",
    ),
    "as many images as before": (
        lambda x: x.expand(5, -1, -1, -1, -1)[:, 0],
        "images are independent",
        "(4, 6, 6) broadcast to (5, 4, 6, 6)",
    ),
    "new axis of repeats": (
        lambda x: x.repeat(1, 5, 1, 1, 1),
        "the batch stays the first dimension",
        "(1, 25, 4, 6, 6)",
    ),
    "repeats of all": (
        lambda x: x[:, :1, :1, 0].flatten(1).repeat(5, 1, 1),
        "images are independent",
        "repeat(5, 1, 1)",
    ),
    "rolled images": (lambda x: x.roll(1, 0), "images are independent", "dimension 0"),
    "rolled as one": (lambda x: x.roll(3), "images are independent", "dimension 0"),
    "sum of all": (lambda x: x + x.sum(), "batch stays the first", "shape ()"),
    "statistics of each image": (
        F.instance_norm,
        "stored statistics",
        "mean and variance of each image",
    ),
    "a matrix of images": (
        lambda x: torch.ones(5, 5) @ x.flatten(1),
        "images are independent",
        "a matrix from the left of (144,)",
    ),
    "matrices": (
        lambda x: x @ torch.ones(4, 6, 2),
        "weighs activities by constants",
        "more than a matrix",
    ),
    "an infinite matrix": (
        lambda x: x @ torch.full((6, 2), float("inf")),
        "constants are finite",
        "infinity",
    ),
    "a product of sums": (
        lambda x: torch.addmm(x.flatten(1)[:, :6], torch.ones(5, 3), torch.ones(3, 6)),
        "parameters are constants",
        "bias that depends on the input",
    ),
    "an axis that moves": (
        lambda x: torch.einsum("nchw,oc->nhwo", x, torch.ones(3, 4)),
        "which stays in its place",
        "nchw,oc->nhwo",
    ),
    "a selection by two lists": (
        lambda x: x[:, [0, 1], [2, 3]],
        "the same for every image",
        "[0, 1]",
    ),
    "a selection by a list and a number": (
        lambda x: x[:, 0, [2, 3]],
        "the same for every image",
        "[2, 3]",
    ),
    "constant per image and number": (
        lambda x: F.linear(x.flatten(1), torch.ones(1, 144)).squeeze(1) + torch.ones(5),
        "the same for every image",
        "(5,)",
    ),
    "infinite constant": (lambda x: x * float("inf"), "constants are finite", "NaN or infinity"),
    "division by zero": (lambda x: x / 0, "constants are finite", "a division by 0"),
    "power": (lambda x: torch.pow(2.0, x), "are constants", "exponent that depends on the input"),
    "root": (lambda x: torch.relu(x) ** 0.5, "a power is a square", "exponent 0.5"),
    "quotient": (lambda x: torch.div(1, x + 9), "weighs activities by constants", "by an activity"),
    "rounded division": (
        lambda x: torch.div(x, 2, rounding_mode="floor"),
        "arguments that its lowering knows",
        "rounding_mode",
    ),
    "numpy's word for dim": (
        lambda x: x.mean(axis=(2, 3)),
        "arguments that its lowering knows",
        "axis",
    ),
    "result written elsewhere": (
        lambda x: torch.add(x, 1, out=torch.empty(5, 4, 6, 6)),
        "arguments that its lowering knows",
        "out",
    ),
    "weights from activity": (
        lambda x: F.linear(x.flatten(1), x.flatten(1)),
        "parameters are constants",
        "weight that depends on the input",
    ),
    "constant times activity as weights": (
        lambda x: F.linear(torch.ones(5, 144), torch.relu(x).flatten(1)),
        "parameters are constants",
        "weight that depends on the input",
    ),
    "bias from activity": (
        lambda x: F.conv2d(torch.ones(5, 4, 6, 6), torch.ones(5, 4, 1, 1), x.flatten(1)[:, 0]),
        "parameters are constants",
        "bias that depends on the input",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_without_a_lowering_are_refused(name: str) -> None:
    call, rule, found = ARGUMENTS[name]
    error = refusal(Net(lambda m, x: call(x)))
    assert rule in error.rule
    assert found in error.found
    assert f" at {__file__}:" in error.where
    assert error.remedy.endswith(".")


LAYER_ARGUMENTS: dict[str, tuple[nn.Module, str, str]] = {
    "statistics of each image": (
        nn.InstanceNorm2d(4),
        "stored statistics",
        "mean and variance of each image",
    ),
    "batch statistics": (
        nn.BatchNorm2d(4, track_running_stats=False),
        "stored statistics",
        "statistics of the batch",
    ),
    "whole batch flattened": (nn.Flatten(0), "batch stays the first", "shape (720,)"),
}


@pytest.mark.parametrize("name", LAYER_ARGUMENTS)
def test_layers_with_other_arguments_are_refused(name: str) -> None:
    layer, rule, found = LAYER_ARGUMENTS[name]
    error = refusal(nn.Sequential(layer))
    assert error.where == f"0 ({type(layer).__name__}) at module 0"
    assert rule in error.rule
    assert found in error.found
    assert error.remedy.endswith(".")


@pytest.mark.parametrize("layer", [nn.BatchNorm2d(4), nn.Dropout()])
def test_a_layer_that_stays_in_training_is_refused(layer: nn.Module) -> None:
    class Stubborn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def train(self, mode: bool = True) -> Stubborn:
            return super().train(True)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)  # type: ignore[no-any-return]

    assert "training" in refusal(Stubborn()).allowed or "stored" in refusal(Stubborn()).rule
