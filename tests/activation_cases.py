"""Calls on activations, max pools and products, by name in the table of layers.

As in tests/compiler/test_layers.py: on what a convolution makes, (N, 4, 6, 5), and on what a linear
layer makes, (N, 8).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from lapilli.layers import IF, QCFS, MultiThreshold, SignedIF, SpikingLayer

Call = Callable[[Any], Any]
SLOPES = torch.tensor([0.25, -0.5, 0.0, 1.5])
BOUNDS = torch.tensor([0.1, 0.2, 0.3, 0.4]).reshape(4, 1, 1)


def prelu() -> nn.PReLU:
    layer = nn.PReLU(4)
    layer.weight.data = SLOPES.clone()
    return layer


def analog(layer: SpikingLayer) -> SpikingLayer:
    """As its answer to a constant drive, which is what is compiled."""
    layer.analog = True
    return layer


CLIPPED: dict[str, list[Call | nn.Module]] = {
    "torch.clamp": [
        lambda x: torch.clamp(x, 0.0, 0.5),
        lambda x: torch.clamp(x, max=0.2),
        lambda x: torch.clamp(x, min=-BOUNDS, max=BOUNDS),
        lambda x: torch.clamp(x, min=torch.tensor(0.25)),
    ],
    "torch.clamp_": [lambda x: torch.clamp_(2 * x, -0.1, 0.3)],
    "torch.clip": [lambda x: torch.clip(x, 0.1, 0.3)],
    "clamp": [lambda x: x.clamp(0), lambda x: x.clamp(min=-0.5, max=0.5)],
    "clamp_": [lambda x: (2 * x).clamp_(0.0, 1.0)],
    "clip": [lambda x: x.clip(-1, 0.1)],
    "clip_": [lambda x: (2 * x).clip_(max=0.0)],
    "torch.clamp_min": [lambda x: torch.clamp_min(x, 0.1)],
    "torch.clamp_min_": [lambda x: torch.clamp_min_(2 * x, 0.1)],
    "clamp_min": [lambda x: x.clamp_min(0)],
    "clamp_min_": [lambda x: (2 * x).clamp_min_(0)],
    "torch.clamp_max": [lambda x: torch.clamp_max(x, 0.1)],
    "torch.clamp_max_": [lambda x: torch.clamp_max_(2 * x, 0.1)],
    "clamp_max": [lambda x: x.clamp_max(0.2)],
    "clamp_max_": [lambda x: (2 * x).clamp_max_(0.2)],
    "torch.nn.ReLU6": [nn.ReLU6(), nn.Sequential(nn.Dropout(), nn.ReLU6(inplace=True))],
    "torch.nn.functional.relu6": [lambda x: F.relu6(40 * x)],
    "torch.nn.Hardtanh": [nn.Hardtanh(), nn.Hardtanh(-0.25, 0.5)],
    "torch.nn.functional.hardtanh": [lambda x: F.hardtanh(x, 0.1, 0.4)],
    "torch.nn.functional.hardtanh_": [lambda x: F.hardtanh_(2 * x, -0.1)],
    "torch.nn.Hardsigmoid": [nn.Hardsigmoid()],
    "torch.nn.functional.hardsigmoid": [lambda x: F.hardsigmoid(9 * x)],
}
CURVES: dict[str, list[Call | nn.Module]] = {
    "lapilli.compiler.training.qcfs.QCFS": [QCFS(4), nn.Sequential(nn.Dropout(), QCFS(7, 0.5))],
    "lapilli.compiler.training.spiking_layers.IF": [
        analog(IF(4)),
        analog(IF(5, 0.5, initial="zero")),
        nn.Sequential(nn.Dropout(), analog(IF(6, torch.tensor(0.7), reset="zero"))),
    ],
    "lapilli.compiler.training.spiking_layers.SignedIF": [analog(SignedIF(3, 0.5))],
    "lapilli.compiler.training.spiking_layers.MultiThreshold": [
        analog(MultiThreshold(2, 3, 0.5)),
        analog(MultiThreshold(3, 2, 0.5, keep=0.75, initial="zero")),
        analog(MultiThreshold(2, 4, 0.5, mixing="full", keep=0.5)),
    ],
    "torch.nn.LeakyReLU": [nn.LeakyReLU(), nn.LeakyReLU(-0.5)],
    "torch.nn.functional.leaky_relu": [lambda x: F.leaky_relu(x, 0.2)],
    "torch.nn.functional.leaky_relu_": [lambda x: F.leaky_relu_(2 * x, 0.2)],
    "torch.nn.PReLU": [nn.PReLU(), prelu()],
    "torch.nn.functional.prelu": [lambda x: F.prelu(x, SLOPES)],
    "torch.prelu": [lambda x: torch.prelu(x, SLOPES[:1])],
    "prelu": [lambda x: x.prelu(SLOPES)],
    "torch.nn.RReLU": [nn.RReLU(), nn.RReLU(0.1, 0.3)],
    "torch.nn.functional.rrelu": [lambda x: F.rrelu(x, 0.1, 0.2)],
    "torch.nn.functional.rrelu_": [lambda x: F.rrelu_(2 * x)],
    "torch.nn.Softplus": [nn.Softplus(), nn.Softplus(3.0, 1.0)],
    "torch.nn.functional.softplus": [lambda x: F.softplus(x, beta=0.5)],
    "torch.nn.ELU": [nn.ELU(), nn.ELU(0.5)],
    "torch.nn.functional.elu": [lambda x: F.elu(x, -0.5)],
    "torch.nn.functional.elu_": [lambda x: F.elu_(2 * x)],
    "torch.nn.CELU": [nn.CELU(), nn.CELU(2.0)],
    "torch.nn.functional.celu": [lambda x: F.celu(x, 0.3)],
    "torch.nn.SELU": [nn.SELU()],
    "torch.nn.functional.selu": [F.selu],
    "torch.nn.GELU": [nn.GELU(), nn.GELU("tanh")],
    "torch.nn.functional.gelu": [lambda x: F.gelu(3 * x), lambda x: F.gelu(x, approximate="tanh")],
    "torch.nn.Threshold": [nn.Threshold(0.1, 0.0), nn.Threshold(-0.2, -0.5)],
    "torch.nn.functional.threshold": [lambda x: F.threshold(x, 0.1, 0.1)],
    "torch.nn.functional.threshold_": [lambda x: F.threshold_(2 * x, 0.1, 0.0)],
    "torch.nn.Softshrink": [nn.Softshrink(0.1)],
    "torch.nn.functional.softshrink": [lambda x: F.softshrink(x, 0.2)],
    "torch.nn.Hardshrink": [nn.Hardshrink(0.1)],
    "torch.nn.functional.hardshrink": [lambda x: F.hardshrink(x, 0.2)],
    "torch.nn.Sigmoid": [nn.Sigmoid()],
    "torch.sigmoid": [torch.sigmoid],
    "torch.sigmoid_": [lambda x: torch.sigmoid_(2 * x)],
    "torch.special.expit": [torch.special.expit],
    "sigmoid": [lambda x: x.sigmoid(), F.sigmoid],
    "sigmoid_": [lambda x: (2 * x).sigmoid_()],
    "torch.nn.Tanh": [nn.Tanh()],
    "torch.tanh": [torch.tanh],
    "torch.tanh_": [lambda x: torch.tanh_(2 * x)],
    "tanh": [lambda x: x.tanh(), F.tanh],
    "tanh_": [lambda x: (2 * x).tanh_()],
    "torch.nn.LogSigmoid": [nn.LogSigmoid()],
    "torch.nn.functional.logsigmoid": [F.logsigmoid],
    "torch.nn.Softsign": [nn.Softsign()],
    "torch.nn.functional.softsign": [F.softsign],
    "torch.nn.Tanhshrink": [nn.Tanhshrink()],
    "torch.nn.functional.tanhshrink": [F.tanhshrink],
    "torch.nn.Hardswish": [nn.Hardswish()],
    "torch.nn.functional.hardswish": [lambda x: F.hardswish(4 * x)],
    "torch.nn.SiLU": [nn.SiLU()],
    "torch.nn.functional.silu": [lambda x: F.silu(3 * x)],
    "torch.nn.Mish": [nn.Mish()],
    "torch.nn.functional.mish": [F.mish],
    "torch.abs": [torch.abs],
    "torch.abs_": [lambda x: torch.abs_(2 * x)],
    "torch.absolute": [torch.absolute],
    "operator.abs": [abs],
    "abs": [lambda x: x.abs()],
    "abs_": [lambda x: (2 * x).abs_()],
    "absolute": [lambda x: x.absolute()],
    "torch.floor": [lambda x: torch.floor(x * 5 + 0.5).clamp(0, 3) / 5],
    "torch.floor_": [lambda x: torch.floor_(x * 5 + 0.5).clamp(0, 3) / 5],
    "floor": [lambda x: (x.clamp(0, 0.6) * 5 + 0.5).floor() / 5],
    "floor_": [lambda x: (x * 5 + 0.5).floor_().clamp_(0, 3) * 0.2],
    "torch.square": [torch.square],
    "square": [lambda x: x.square()],
    "square_": [lambda x: (2 * x).square_()],
    "torch.pow": [lambda x: torch.pow(x, 2)],
    "operator.pow": [lambda x: x**2],
    "pow": [lambda x: x.pow(2.0)],
}
POOLS: dict[str, list[Call | nn.Module]] = {
    "torch.nn.MaxPool2d": [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((2, 3), (1, 2), (1, 0), ceil_mode=True),
        nn.MaxPool2d(2, 1, 0, 3),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2)),
    ],
    "torch.nn.functional.max_pool2d": [
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.max_pool2d(x, kernel_size=(3, 2), stride=1, padding=1),
        lambda x: F.max_pool2d(torch.cat([F.relu(x), F.relu(-x)[:, 1:]], 1), 2),
        lambda x: F.max_pool2d(F.relu(x), x.shape[2:]),
    ],
    "torch.max_pool2d": [lambda x: torch.max_pool2d(x, 2)],
    "torch.nn.AdaptiveMaxPool2d": [
        nn.AdaptiveMaxPool2d(1),
        nn.AdaptiveMaxPool2d((4, None)),
        nn.AdaptiveMaxPool2d(3),
    ],
    "torch.nn.functional.adaptive_max_pool2d": [lambda x: F.adaptive_max_pool2d(F.relu(x), 2)],
    "torch.amax": [lambda x: torch.amax(x, (2, 3))],
    "amax": [lambda x: x.amax(dim=3), lambda x: x.amax((-2, -1), keepdim=True)],
}
GATES: dict[str, list[Call | nn.Module]] = {
    "operator.mul": [
        lambda x: x * torch.sigmoid(x),
        lambda x: F.relu(x) * torch.sigmoid(x.mean((2, 3), keepdim=True)),
        lambda x: torch.tanh(x[:, :1]) * F.relu(x),
        lambda x: F.relu(x) * F.relu(x),
    ],
    "torch.mul": [lambda x: torch.mul(F.relu(x), torch.tanh(x))],
    "mul": [lambda x: F.relu(x).mul(F.hardsigmoid(x))],
    "operator.imul": [lambda x: operator.imul(2 * x, torch.sigmoid(x))],
}
ON_IMAGES = CLIPPED | CURVES | POOLS


def rows(x: Any) -> Any:
    """(N, 8) as (N, 2, 4)."""
    return x.reshape(-1, 2, 4)


ON_VECTORS: dict[str, list[Call | nn.Module]] = {
    "torch.nn.MaxPool1d": [
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.MaxPool1d(2)),
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.ReLU(), nn.MaxPool1d(3, 1, 1)),
    ],
    "torch.nn.functional.max_pool1d": [lambda x: F.max_pool1d(rows(x), 2, 1)],
    "torch.max_pool1d": [lambda x: torch.max_pool1d(rows(x), 2)],
    "torch.nn.AdaptiveMaxPool1d": [
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.AdaptiveMaxPool1d(3)),
    ],
    "torch.nn.functional.adaptive_max_pool1d": [lambda x: F.adaptive_max_pool1d(rows(x), 1)],
    "torch.nn.SiLU": [nn.SiLU()],
    "torch.nn.PReLU": [nn.PReLU(8)],
    "operator.mul": [lambda x: x * torch.sigmoid(x)],
}
