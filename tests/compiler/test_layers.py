"""Every name in the table of layers, captured from a small network and compared with torch."""

from __future__ import annotations

import dataclasses
import itertools
import operator
from collections.abc import Callable
from typing import Any

import activation_cases
import capturing
import layer_axes_cases
import layer_cases
import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import nn

from lapilli.compiler.capture import calls
from lapilli.compiler.errors import UnsupportedOperatorError
from lapilli.compiler.ir import Input, Node
from lapilli.compiler.layers import MEANING, TABLE
from lapilli.compiler.layers.floor import Floor
from lapilli.compiler.layers.pooling import AveragePool
from lapilli.compiler.layers.rule import LayerRule
from lapilli.compiler.linear import Conv, ConvTransposed, Sparse

Call = Callable[[Any], Any]
IMAGE, VECTOR = (2, 6, 5), (6,)
KERNELS = torch.linspace(-1, 1, 72).reshape(2, 4, 3, 3)
MATRIX = torch.linspace(-1, 1, 24).reshape(3, 8)
MEANS, VARIANCES = torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 4)
UP = torch.linspace(-1, 1, 32).reshape(4, 2, 2, 2)
PLANE = torch.linspace(-1, 1, 30).reshape(1, 6, 5)

# Calls on what a convolution makes, (N, 4, 6, 5).
ON_IMAGES: dict[str, list[Call | nn.Module]] = {
    "torch.nn.Conv2d": [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 2), groups=2),
        nn.Conv2d(4, 6, 3, padding="same", bias=False),
        nn.Conv2d(4, 4, (2, 4), padding="same", dilation=(3, 1), groups=4),
        nn.Conv2d(4, 4, 2, padding="valid"),
        nn.Conv2d(4, 2, 1, stride=3, padding=2),
    ],
    "torch.nn.functional.conv2d": [
        lambda x: F.conv2d(x, KERNELS),
        lambda x: F.conv2d(x, KERNELS, torch.ones(2), 2, (1, 0), 2),
        lambda x: F.conv2d(x, weight=KERNELS[:, :2], padding="same", groups=2),
        lambda x: F.conv2d(input=x, weight=KERNELS, stride=(2,), padding="valid"),
    ],
    "torch.nn.ConvTranspose2d": [
        nn.ConvTranspose2d(4, 6, 2, 2),
        nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), groups=2, dilation=(1, 2)),
        nn.ConvTranspose2d(4, 4, 3, padding=2, groups=4, bias=False),
        nn.Sequential(nn.ConvTranspose2d(4, 2, 4, 2, 1), nn.BatchNorm2d(2)),
        Net(lambda m, x: m.up(x, output_size=(12, 10)), up=nn.ConvTranspose2d(4, 3, 3, 2, 1)),
        nn.Sequential(nn.ConvTranspose2d(4, 3, 1, 2, 3, 1), nn.ZeroPad2d((1, -1, 0, 2))),
    ],
    "torch.nn.functional.conv_transpose2d": [
        lambda x: F.conv_transpose2d(x, KERNELS.transpose(0, 1)),
        lambda x: F.conv_transpose2d(x, KERNELS.reshape(4, 2, 3, 3), torch.ones(4), 2, 1, 1, 2),
        lambda x: F.conv_transpose2d(
            input=x, weight=KERNELS.reshape(4, 2, 3, 3), output_padding=(0, 1), dilation=(1, 2)
        ),
    ],
    "torch.nn.BatchNorm2d": [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False, momentum=None)],
    "torch.nn.functional.batch_norm": [
        lambda x: F.batch_norm(x, MEANS, VARIANCES),
        lambda x: F.batch_norm(x, MEANS, VARIANCES, MEANS, VARIANCES, False, 0.1, 1e-3),
        lambda x: F.batch_norm(x, MEANS, VARIANCES, bias=MEANS, training=False),
    ],
    "torch.nn.ReLU": [nn.ReLU(), nn.ReLU(inplace=True)],
    "torch.nn.functional.relu": [F.relu, lambda x: F.relu(x, inplace=True), lambda x: F.relu(x, 1)],
    "torch.nn.functional.relu_": [F.relu_],
    "torch.relu": [torch.relu],
    "torch.relu_": [torch.relu_],
    "relu": [lambda x: x.relu()],
    "relu_": [lambda x: x.relu_()],
    "torch.nn.AvgPool2d": [
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True),
        nn.AvgPool2d((3, 2), padding=1, count_include_pad=False),
        nn.AvgPool2d(2, divisor_override=3),
    ],
    "torch.nn.functional.avg_pool2d": [
        lambda x: F.avg_pool2d(x, x.size()[3]),
        lambda x: F.avg_pool2d(x, (2, 3), 1),
        lambda x: F.avg_pool2d(x, 2, 2, 1, True, False),
        lambda x: F.avg_pool2d(x, 4, padding=2, divisor_override=5),
    ],
    "torch.nn.AdaptiveAvgPool2d": [
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((3, 5)),
        nn.AdaptiveAvgPool2d((4, 2)),
        nn.AdaptiveAvgPool2d((None, 1)),
        nn.AdaptiveAvgPool2d(7),
    ],
    "torch.nn.functional.adaptive_avg_pool2d": [
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.adaptive_avg_pool2d(x, (4, None)),
    ],
    "torch.mean": [
        lambda x: torch.mean(x, (2, 3)),
        lambda x: torch.mean(x, dim=[-1, -2], keepdim=True),
    ],
    "mean": [
        lambda x: x.mean((2, 3)),
        lambda x: x.mean(dim=(-2, -1), dtype=torch.float32),
        lambda x: x.mean([2, 3], True),
        lambda x: x.mean(3),
        lambda x: x.mean(2, keepdim=True),
        lambda x: x.mean(3).mean(2),
        lambda x: x.mean(-2).mean(-1),
    ],
    "torch.nn.Flatten": [nn.Flatten(), nn.Flatten(2), nn.Flatten(1, 2)],
    "torch.flatten": [lambda x: torch.flatten(x, 1), lambda x: torch.flatten(x, start_dim=2)],
    "flatten": [lambda x: x.flatten(1), lambda x: x.flatten(-2, -1)],
    "torch.nn.Unflatten": [
        nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 6, 5)), nn.AvgPool2d(2))
    ],
    "torch.reshape": [lambda x: torch.reshape(x, (x.shape[0], -1))],
    "reshape": [lambda x: x.reshape(len(x), 2, 12, 5), lambda x: x.reshape((-1, 120))],
    "view": [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view(-1, x.shape[1] * x.shape[2] * x.size(-1)),
        lambda x: x.view(x.size()[0], x.size(1), -1),
        lambda x: x.view((-1, *x.shape[1:])),
        lambda x: x.view(size=(-1, x.numel() // len(x))),
    ],
    "torch.squeeze": [
        lambda x: torch.squeeze(F.adaptive_avg_pool2d(x, 1)),
        lambda x: torch.squeeze(F.adaptive_avg_pool2d(x, (1, 3)), 2),
    ],
    "squeeze": [
        lambda x: x.mean((2, 3), keepdim=True).squeeze(),
        lambda x: x.mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1),
        lambda x: x.squeeze(1),
    ],
    "torch.unsqueeze": [lambda x: torch.unsqueeze(x, 1), lambda x: torch.unsqueeze(x, dim=-1)],
    "unsqueeze": [lambda x: x.unsqueeze(2), lambda x: x.mean(3).unsqueeze(-1) + x.mean(3, True)],
    "operator.getitem": [
        lambda x: x[:, :, ::2, ::2],
        lambda x: x[:, 1:3],
        lambda x: x[..., 1:],
        lambda x: x[:, ..., -3:-1],
        lambda x: x[:, -2:, 1:-1, :10],
        lambda x: x[:, ::2, 5, -1:],
        lambda x: x[:, 0],
        lambda x: x[:, -1, :, 2],
        lambda x: x[:, None, 2:, None, ..., 1],
        lambda x: x[:],
        lambda x: x.flatten(1)[:, 3:77:5],
        lambda x: x.flatten(2)[:, 1:, ::7],
    ],
    "torch.nn.functional.pad": [
        lambda x: F.pad(x, (1, 2)),
        lambda x: F.pad(x, (0, 0, 0, 0, 2, 1), "constant", 0),
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2), mode="constant", value=0.0),
        lambda x: F.pad(x, (-1, 2, 3, -4)),
        lambda x: F.pad(x, (0, 0, 0, 0, 1, -1)),
        lambda x: F.pad(x, [1, 0, 0, 0, 0, 0, 0, 0], value=None),
        lambda x: F.pad(x.flatten(1), (2, 3)),
    ],
    "torch.nn.ZeroPad2d": [nn.ZeroPad2d(1), nn.ZeroPad2d((1, -2, 0, 3))],
    "operator.add": [
        lambda x: x + x,
        lambda x: x + F.relu(x),
        lambda x: x + 2,
        lambda x: 0.5 + x,
        lambda x: x + MEANS.reshape(4, 1, 1),
        lambda x: x + PLANE,
        lambda x: x + PLANE[None],
        lambda x: sum([x, x * 2, F.relu(x)]),
        lambda x: x + np.float32(0.5),
    ],
    "operator.iadd": [
        lambda x: operator.iadd(x, 1.5),
        lambda x: operator.iadd(x * 2, F.relu(x)),
    ],
    "torch.add": [
        lambda x: torch.add(x, F.relu(x)),
        lambda x: torch.add(x, F.relu(x), alpha=-2),
        lambda x: torch.add(x, 3, alpha=0.5),
        lambda x: torch.add(PLANE, x, alpha=0.5),
    ],
    "add": [lambda x: x.add(x), lambda x: x.add(F.relu(x), alpha=3)],
    "add_": [lambda x: x.add_(1), lambda x: (x * 2).add_(x, alpha=0.5)],
    "operator.sub": [
        lambda x: x - F.relu(x),
        lambda x: x - 1,
        lambda x: 1 - x,
        lambda x: x - x,
    ],
    "operator.isub": [lambda x: operator.isub(x, 0.1), lambda x: operator.isub(x * 3, x)],
    "torch.sub": [
        lambda x: torch.sub(x, F.relu(x), alpha=2),
        lambda x: torch.sub(PLANE, x, alpha=2),
        lambda x: torch.sub(x, PLANE, alpha=2),
    ],
    "sub": [lambda x: x.sub(0.3), lambda x: x.sub(F.relu(x)), lambda x: PLANE - x],
    "sub_": [lambda x: x.sub_(0.3), lambda x: (2 * x).sub_(x, alpha=3)],
    "operator.mul": [
        lambda x: x * 2,
        lambda x: -0.5 * x,
        lambda x: x * PLANE,
        lambda x: x * torch.full((1,), 0.5, dtype=torch.bfloat16),
    ],
    "operator.imul": [lambda x: operator.imul(x, 3)],
    "torch.mul": [lambda x: torch.mul(x, PLANE), lambda x: torch.mul(input=x, other=2)],
    "mul": [
        lambda x: x.mul(VARIANCES.reshape(4, 1, 1)),
        lambda x: MEANS.reshape(1, 4, 1, 1) * x,
    ],
    "mul_": [lambda x: x.mul_(0.25)],
    "operator.truediv": [lambda x: x / 4, lambda x: x / VARIANCES.reshape(4, 1, 1)],
    "operator.itruediv": [lambda x: operator.itruediv(x, 3)],
    "torch.div": [lambda x: torch.div(x, 3)],
    "div": [lambda x: x.div(3)],
    "div_": [lambda x: x.div_(3)],
    "operator.neg": [operator.neg],
    "torch.neg": [torch.neg],
    "neg": [lambda x: x.neg()],
    "torch.nn.Dropout": [nn.Dropout(0.5), nn.Dropout(0.5, inplace=True)],
    "torch.nn.Dropout2d": [nn.Dropout2d(0.5)],
    "torch.nn.functional.dropout": [
        lambda x: F.dropout(x, training=False),
        lambda x: F.dropout(x, 0.0),
    ],
    "torch.nn.functional.dropout2d": [lambda x: F.dropout2d(x, 0.5, False)],
    "torch.nn.Identity": [nn.Identity()],
    "clone": [lambda x: x.clone(memory_format=torch.contiguous_format)],
    "contiguous": [lambda x: x.contiguous()],
    "detach": [lambda x: x.detach()],
    "float": [lambda x: x.float()],
    "to": [lambda x: x.to(torch.float32), lambda x: x.to("cpu"), lambda x: x.to(x.device, x.dtype)],
}
# Calls on what a linear layer makes, (N, 8).
ON_VECTORS: dict[str, list[Call | nn.Module]] = {
    "torch.nn.Linear": [nn.Linear(8, 3), nn.Linear(8, 1, bias=False)],
    "torch.nn.functional.linear": [
        lambda x: F.linear(x, MATRIX),
        lambda x: F.linear(x, MATRIX, bias=torch.ones(3)),
    ],
    "torch.nn.ConvTranspose1d": [
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.ConvTranspose1d(2, 3, 3, 2, 1, 1)),
        nn.Sequential(
            nn.Unflatten(1, (4, 2)),
            nn.ConvTranspose1d(4, 4, 2, dilation=3, groups=2, bias=False),
            nn.BatchNorm1d(4),
            nn.ConvTranspose1d(4, 2, 2, (2,)),
        ),
    ],
    "torch.nn.functional.conv_transpose1d": [
        lambda x: F.conv_transpose1d(x.reshape(-1, 4, 2), MATRIX.reshape(4, 2, 3), None, 3, 1, 2),
        lambda x: F.conv_transpose1d(
            x.unsqueeze(1), MATRIX.reshape(1, 4, 6), torch.ones(4), dilation=(2,), padding=(1,)
        ),
    ],
    "torch.nn.BatchNorm1d": [
        nn.BatchNorm1d(8),
        nn.Sequential(nn.Unflatten(1, (2, 4)), nn.BatchNorm1d(2)),
    ],
    "torch.nn.Dropout1d": [nn.Sequential(nn.Unflatten(1, (2, 4)), nn.Dropout1d())],
    "torch.nn.Unflatten": [
        nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 2, padding=1))
    ],
    "squeeze": [lambda x: F.linear(x, MATRIX[:1]).squeeze(1)],
    "operator.getitem": [lambda x: x[:, 3], lambda x: x[:, 2:6]],
    "torch.relu": [torch.relu],
    "operator.add": [lambda x: x + x, lambda x: x + torch.linspace(0, 1, 8)],
}
ON_IMAGES |= layer_cases.ON_IMAGES | activation_cases.ON_IMAGES
ON_VECTORS |= layer_cases.ON_VECTORS | activation_cases.ON_VECTORS
for _cases, _more in (
    (ON_IMAGES, layer_axes_cases.ON_IMAGES),
    (ON_VECTORS, layer_axes_cases.ON_VECTORS),
):
    _cases |= {_name: [*_cases.get(_name, []), *_more[_name]] for _name in _more}
CASES = [
    (name, index, stem, call)
    for stem, tables in (
        ("image", (ON_IMAGES, activation_cases.GATES)),
        ("vector", (ON_VECTORS,)),
    )
    for table in tables
    for name, variants in table.items()
    for index, call in enumerate(variants)
]
IDS = [f"{name}-{stem}{index}" for name, index, stem, _ in CASES]


def test_every_name_in_the_table_has_a_case() -> None:
    names = {key for rule in TABLE for key in (*rule.modules, *rule.functions, *rule.methods)}
    assert TABLE
    assert names
    assert names == set(ON_IMAGES) | set(ON_VECTORS)


def test_no_name_has_two_rows() -> None:
    for kind in ("modules", "functions", "methods"):
        names = [key for rule in TABLE for key in getattr(rule, kind)]
        assert len(names) == len(set(names))


def _final(node: type[Node]) -> set[type[Node]]:
    """Subclasses that have none themselves."""
    found = node.__subclasses__()
    return set().union(*map(_final, found)) if found else {node}


def test_every_node_has_one_meaning() -> None:
    nodes = [rule.node for rule in TABLE if rule.node is not None]
    assert len(nodes) == len(set(nodes)) == len(MEANING)
    assert set(nodes) == _final(Node) - {Input, Floor}  # a floor is part of another node
    for rule in TABLE:
        meanings = [rule.role is not None, rule.lower is not None]
        assert sum(meanings) == (rule.node is not None)


def network(stem: str, call: Call | nn.Module) -> nn.Module:
    """Returns the result of the call, and of ReLU after it."""
    before = nn.Conv2d(2, 4, 3, padding=1) if stem == "image" else nn.Linear(6, 8)
    if isinstance(call, nn.Module):
        return Net(
            lambda m, x: (m.layer(m.before(x)), torch.relu(m.layer(m.before(x)))),
            before=before,
            layer=call,
        )
    return Net(lambda m, x: (call(m.before(x)), torch.relu(call(m.before(x)))), before=before)


def inputs(stem: str) -> npt.NDArray[np.float32]:
    return capturing.images(*(IMAGE if stem == "image" else VECTOR))


# torch warns that it has to copy the image for the odd zero.
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize(("name", "index", "stem", "call"), CASES, ids=IDS)
def test_layer_computes_what_torch_computes(
    name: str, index: int, stem: str, call: Call | nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = capturing.randomised(network(stem, call), seed=index)
    capturing.assert_computes_the_same(model, inputs(stem))
    # And it is this name that was found: without it, the network is refused.
    monkeypatch.setattr(calls, "TABLE", [without(rule, name) for rule in TABLE])
    with pytest.raises(UnsupportedOperatorError) as refused:
        capturing.captured(model, inputs(stem))
    assert refused.value.found == OWN_NAMES.get(name, name.rpartition(".")[2])


def without(rule: LayerRule, name: str) -> LayerRule:
    same = {name, *SYNONYMS.get(name, ())}
    kept = {
        kind: {k: v for k, v in getattr(rule, kind).items() if k not in same}
        for kind in ("modules", "functions", "methods")
    }
    return dataclasses.replace(rule, **kept)


SYNONYMS = {
    "torch.relu_": ("torch.nn.functional.relu_",),
    "torch.nn.functional.relu_": ("torch.relu_",),
    "torch.prelu": ("torch.nn.functional.prelu",),
    "torch.nn.functional.prelu": ("torch.prelu",),
}
"""Two names of one object."""
OWN_NAMES = {
    "torch.nn.functional.logsigmoid": "log_sigmoid",
    "torch.nn.functional.threshold": "_threshold",
    "torch.special.expit": "special_expit",
}
"""What a function calls itself, where that is not its name in torch."""


def small_pools() -> list[tuple[int, int, int, int]]:
    return [
        (size, kernel, stride, padding)
        for size, kernel, stride in itertools.product((1, 2, 3, 5, 8), (1, 2, 3, 4), (1, 2, 3))
        for padding in range(kernel // 2 + 1)
        if size + 2 * padding >= kernel
    ]


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("ceil", [True, False])
def test_average_pooling_at_every_border(ceil: bool, include: bool) -> None:
    assert small_pools()
    for size, kernel, stride, padding in small_pools():
        x = torch.tensor(capturing.images(1, size, size))
        expected = F.avg_pool2d(x, kernel, stride, padding, ceil, include)
        layer = nn.AvgPool2d(kernel, stride, padding, ceil, include)
        node = capturing.captured(Net(lambda m, x: m.pool(x), pool=layer), x.numpy()).nodes[1]
        assert isinstance(node, AveragePool)
        found = sum(m.apply(x.double().numpy()) for m in node.maps())
        assert np.allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
        if include and not ceil and size + 2 * padding > 2 * kernel and size >= kernel:
            assert [type(m) for m in node.maps()] == [Conv], (size, kernel, stride, padding)


@pytest.mark.parametrize("size", range(1, 9))
def test_adaptive_pooling_to_every_size(size: int) -> None:
    x = torch.tensor(capturing.images(2, size, 3))
    for out in range(1, 10):
        layer = nn.AdaptiveAvgPool2d((out, 2))
        node = capturing.captured(Net(lambda m, x: m.pool(x), pool=layer), x.numpy()).nodes[1]
        assert isinstance(node, AveragePool)
        found = sum(m.apply(x.double().numpy()) for m in node.maps())
        assert np.allclose(found, layer(x).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("call", "form", "said"),
    [
        (lambda x: F.avg_pool2d(x, 2), Conv, "Conv 4x1x2x2 stride 2 groups 4"),
        (lambda x: F.avg_pool2d(x, 3, 2, 1), Conv, "Conv 4x1x3x3 stride 2 padding 1 groups 4"),
        (lambda x: x.mean((2, 3)), Conv, "Conv 4x1x6x6 groups 4"),
        (lambda x: x.mean(3), Conv, "Conv 4x1x1x6 groups 4"),
        (lambda x: F.adaptive_avg_pool2d(x, 3), Conv, "Conv 4x1x2x2 stride 2 groups 4"),
        (lambda x: F.adaptive_avg_pool2d(x, 4), Sparse, "Sparse 64x144 with 256 synapses"),
        (lambda x: x[:, :, ::2, 1:], Conv, "Conv 4x1x1x1 stride (2, 1) padding (0, -1) groups 4"),
        (lambda x: x[:, 1:], Conv, "Conv 3x4x1x1"),
        (lambda x: F.pad(x, (1, 1, 1, 1)), Conv, "Conv 4x1x1x1 padding 1 groups 4"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 1, 1)), Conv, "Conv 6x4x1x1"),
        (
            lambda x: F.conv_transpose2d(x, UP, None, 2),
            ConvTransposed,
            "ConvTransposed 4x2x2x2 stride 2",
        ),
        (
            lambda x: F.conv_transpose2d(x, UP)[:, :, 1:-1, 2:] / 2,
            ConvTransposed,
            "ConvTransposed 4x2x2x2 padding (1, 2)",
        ),
        (
            lambda x: F.conv_transpose1d(x.flatten(2), UP.flatten(2), None, 2),
            ConvTransposed,
            "ConvTransposed 4x2x1x4 stride (1, 2)",
        ),
        (lambda x: x.flatten(1)[:, ::2], Sparse, "Sparse 72x144 with 72 synapses"),
    ],
)
def test_layers_keep_compact_forms(call: Call, form: type, said: str) -> None:
    graph = capturing.assert_computes_the_same(
        Net(lambda m, x: call(torch.relu(x))), capturing.images(4, 6, 6)
    )
    (connection,) = graph.into(graph.outputs[0])
    assert isinstance(connection.map, form)
    assert connection.map.pretty() == said


def test_macs_are_those_of_the_float_layer() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    graph = capturing.captured(model, capturing.images(2, 4, 4))
    macs = {node.name: MEANING[type(node)].macs(node) for node in graph.nodes[1:]}
    inside = 4 * 2 * (3 * 4 - 2) ** 2  # per axis: three taps at four places, two of them cut off
    assert macs == {"0": inside, "1": 0, "2": 0, "3": 192}
