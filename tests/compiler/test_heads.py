"""What is taken off the end of an output, what is not, and what every output is called."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import capturing
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import Tensor, nn

from lapilli.compiler.calibrate import calibrate
from lapilli.compiler.errors import CaptureError, UnsupportedOperatorError
from lapilli.compiler.frontend import capture
from lapilli.compiler.ir import Graph
from lapilli.compiler.layers.heads import HEADS
from lapilli.compiler.outputs import Head

X = capturing.images(2, 6, 6)
Pair = namedtuple("Pair", ["scores", "boxes"])


def convolved(end: Callable[[Tensor], Any]) -> nn.Module:
    """A convolution to (3, 4, 4), then `end`."""
    return capturing.randomised(Net(lambda m, x: end(m.conv(x)), conv=nn.Conv2d(2, 3, 3)))


def heads(graph: Graph) -> list[str]:
    return [str(output.head) for output in graph.returned]


ENDS: dict[str, tuple[Callable[[Tensor], Any], list[str]]] = {
    "functional.softmax": (lambda x: F.softmax(x, dim=1), ["softmax(0)"]),
    "torch.softmax": (lambda x: torch.softmax(x, -1), ["softmax(2)"]),
    "softmax": (lambda x: x.softmax(dim=2), ["softmax(1)"]),
    "softmax of another type": (lambda x: x.softmax(1, dtype=torch.float64), ["softmax(0)"]),
    "functional.log_softmax": (lambda x: F.log_softmax(x, 1), ["log_softmax(0)"]),
    "torch.log_softmax": (lambda x: torch.log_softmax(x, 1), ["log_softmax(0)"]),
    "log_softmax": (lambda x: x.log_softmax(1), ["log_softmax(0)"]),
    "torch.sigmoid": (torch.sigmoid, ["sigmoid"]),
    "special.expit": (torch.special.expit, ["sigmoid"]),
    "sigmoid": (lambda x: x.sigmoid(), ["sigmoid"]),
    "sigmoid in place": (lambda x: (x.sigmoid_(), x)[1], ["sigmoid"]),
    "torch.argmax": (lambda x: torch.argmax(x, 1), ["argmax(0)"]),
    "argmax": (lambda x: x.argmax(dim=1, keepdim=True), ["argmax(0)"]),
    "torch.max": (lambda x: torch.max(x, 1), ["max(0)", "argmax(0)"]),
    "max": (lambda x: x.max(dim=3), ["max(2)", "argmax(2)"]),
    "values of max": (lambda x: x.max(1)[0], ["max(0)"]),
    "indices of max": (lambda x: x.max(1).indices, ["argmax(0)"]),
    "both of max": (lambda x: tuple(x.max(1, keepdim=True))[::-1], ["argmax(0)", "max(0)"]),
    "amax": (lambda x: x.amax(1), ["max(0)"]),
    "torch.amax": (lambda x: torch.amax(x, (1,), keepdim=True), ["max(0)"]),
    "topk": (lambda x: x.flatten(1).topk(1), ["max(0)", "argmax(0)"]),
    "torch.topk": (lambda x: torch.topk(x, k=1, dim=1)[1], ["argmax(0)"]),
    "squeezed": (lambda x: x.sigmoid().squeeze(), ["sigmoid"]),
    "flattened": (lambda x: x.softmax(1).flatten(1), ["softmax(0)"]),
    "viewed and copied": (lambda x: x.argmax(1).view(-1, 16).contiguous().clone(), ["argmax(0)"]),
    "logits beside": (
        lambda x: (x, x.softmax(1), x.argmax(1)),
        ["none", "softmax(0)", "argmax(0)"],
    ),
    "the head twice": (lambda x: [x.softmax(1)] * 2, ["softmax(0)", "softmax(0)"]),
    "two views of a head": (lambda x: ((s := x.sigmoid()).flatten(1), s), ["sigmoid"] * 2),
}


@pytest.mark.parametrize("name", ENDS)
def test_the_end_of_an_output_is_taken_off(name: str) -> None:
    end, expected = ENDS[name]
    model = convolved(end)
    graph = capturing.captured(model, X)
    assert heads(graph) == expected
    populations = capturing.assert_computes_the_same(model, X)
    assert len(populations.outputs) == 1, "one readout, whatever reads it"
    calibrate(populations, X, reference=model, returned=graph.returned)


MODULES: dict[str, tuple[nn.Module, str]] = {
    "Softmax": (nn.Softmax(1), "softmax(0)"),
    "Softmax without a dimension": (nn.Softmax(), "softmax(0)"),
    "Softmax2d": (nn.Softmax2d(), "softmax(0)"),
    "LogSoftmax": (nn.LogSoftmax(-1), "log_softmax(2)"),
    "Sigmoid": (nn.Sigmoid(), "sigmoid"),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:Implicit dimension choice:UserWarning")
def test_modules_at_the_end_are_taken_off(name: str) -> None:
    module, expected = MODULES[name]
    model = capturing.randomised(nn.Sequential(nn.Conv2d(2, 3, 3), module, nn.Identity()))
    assert heads(capturing.captured(model, X)) == [expected]
    capturing.assert_computes_the_same(model, X)


def test_every_rule_is_tested_here() -> None:
    called = {name.split()[0].rpartition(".")[2] for name in [*ENDS, *MODULES]}
    rules = {
        name.rpartition(".")[2].rstrip("_")
        for rule in HEADS
        for kind in (rule.modules, rule.functions, rule.methods)
        for name in kind
    }
    assert rules <= called


NOT_TAKEN: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "softmax before a layer": (lambda x: torch.relu(x.softmax(1)), "softmax"),
    "read by a layer too": (lambda x: (s := x.softmax(1), torch.relu(s)), "softmax"),
    "a view read by a layer": (lambda x: F.relu(x.log_softmax(1).flatten(1)), "log_softmax"),
    "scaled": (lambda x: 2 * x.softmax(1), "softmax"),
    "overwritten": (lambda x: x.softmax(1).mul_(2), "softmax"),
    "joined": (lambda x: torch.cat([x.softmax(1), x], 1), "softmax"),
    "argmax of everything": (lambda x: x.argmax(), "argmax"),
    "max of everything": (lambda x: x.max(), "max"),
    "max of two": (lambda x: torch.max(x, -x), "max"),
    "several best": (lambda x: x.flatten(1).topk(3), "topk"),
    "the least": (lambda x: x.flatten(1).topk(1, largest=False), "topk"),
    "sliced": (lambda x: x.softmax(1)[:, 1:], "softmax"),
    "compared": (lambda x: x > 0, "gt"),
    "half": (lambda x: x.half(), "half"),
}


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_nothing_else_is_taken_off(name: str) -> None:
    end, called = NOT_TAKEN[name]
    with pytest.raises(UnsupportedOperatorError) as refused:
        capturing.captured(convolved(end), X)
    assert f"({called})" in refused.value.where
    assert refused.value.rule == "an operator has a lowering"


def test_a_head_over_the_batch_is_refused() -> None:
    for end in (lambda x: x.softmax(0), lambda x: x.argmax(0), lambda x: x.max(0)):
        with pytest.raises(UnsupportedOperatorError, match="images are independent"):
            capturing.captured(convolved(end), X)


@pytest.mark.parametrize("name", ["nms", "nonzero", "masked_select", "sort"])
def test_what_depends_on_values_belongs_on_the_host(name: str) -> None:
    ends: dict[str, Callable[[Tensor], Any]] = {
        "nms": lambda x: nms(x[:, 0], x[:, 1], 0.5),
        "nonzero": lambda x: x.nonzero(),
        "masked_select": lambda x: x.masked_select(torch.ones(4) > 0),
        "sort": lambda x: x.flatten(1).sort(1)[0],
    }
    with pytest.raises(UnsupportedOperatorError) as refused:
        capturing.captured(convolved(ends[name]), X)
    assert refused.value.found == name
    assert "on the host" in refused.value.remedy


@torch.fx.wrap
def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """A call that returns as many rows as the values allow."""
    return torch.nonzero(scores > threshold)[:, 0]


def test_a_sigmoid_in_the_middle_is_no_head() -> None:
    graph = capturing.captured(convolved(torch.sigmoid), X)
    assert [type(node).__name__ for node in graph] == ["Input", "Conv2d"]
    model = convolved(lambda x: F.avg_pool2d(x.sigmoid(), 2))
    graph = capturing.captured(model, X)
    assert heads(graph) == ["none"]
    assert len(graph.nodes) == 4, "input, convolution, an activation, pooling"


def test_what_is_done_image_by_image_belongs_on_the_host() -> None:
    with pytest.raises(UnsupportedOperatorError) as refused:
        capturing.captured(convolved(lambda x: [nms(x[0, 0], x[0, 1], 0.5)]), X)
    assert refused.value.rule == "the batch stays the first dimension"
    assert "decoding boxes, belongs on the host" in refused.value.remedy


STRUCTURES: dict[str, tuple[Callable[[Tensor, Tensor], Any], list[tuple[str, int]]]] = {
    "one": (lambda a, b: a, [("output", 0)]),
    "a tuple": (lambda a, b: (a, b), [("0", 0), ("1", 1)]),
    "a list of one": (lambda a, b: [a], [("0", 0)]),
    "an ordered dict": (lambda a, b: OrderedDict(out=b, aux=a), [("out", 0), ("aux", 1)]),
    "nested": (lambda a, b: {"x": [a, (b, a)]}, [("x.0", 0), ("x.1.0", 1), ("x.1.1", 0)]),
    "a named tuple": (Pair, [("scores", 0), ("boxes", 1)]),
    "nothing beside": (lambda a, b: {"out": a, "aux": None}, [("out", 0)]),
    "the same twice": (lambda a, b: (a, b, a), [("0", 0), ("1", 1), ("2", 0)]),
    "a copy": (lambda a, b: (a, a.clone()), [("0", 0), ("1", 0)]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_names_and_readouts(name: str) -> None:
    structure, expected = STRUCTURES[name]
    model = capturing.randomised(
        Net(
            lambda m, x: structure(m.a(h := F.relu(x).flatten(1)), m.b(h)),
            a=nn.Linear(72, 3),
            b=nn.Linear(72, 4),
        )
    )
    graph = capturing.captured(model, X)
    assert [(output.name, output.readout) for output in graph.returned] == expected
    assert len(graph.outputs) == len({readout for _, readout in expected})
    capturing.assert_computes_the_same(model, X)


@pytest.mark.parametrize(
    ("end", "shape"),
    [
        (lambda x: x[:, 0, 0, 0], ()),
        (lambda x: x[:, :1, 0, 0], (1,)),
        (lambda x: x.mean((2, 3)).argmax(1), ()),
        (lambda x: x[:, :, :1], (3, 1, 4)),
        (lambda x: x.mean((2, 3), keepdim=True), (3, 1, 1)),
        (lambda x: x.unsqueeze(1), (1, 3, 4, 4)),
        (lambda x: x[:, :1].sigmoid().squeeze(1), (4, 4)),
    ],
)
def test_shapes_are_those_that_the_network_returns(end: Any, shape: tuple[int, ...]) -> None:
    model = convolved(end)
    (output,) = capturing.captured(model, X).returned
    assert output.shape == shape
    capturing.assert_computes_the_same(model, X)


def test_the_input_and_views_of_an_output_are_outputs() -> None:
    model = Net(lambda m, x: (x, (h := m.conv(x)), h[:, 1:], h.flatten(1)), conv=nn.Conv2d(2, 3, 3))
    graph = capturing.assert_computes_the_same(model, X)
    assert len(graph.outputs) == 4


@pytest.mark.parametrize(
    ("constant", "found"),
    [(lambda: torch.ones(3), "Tensor"), (lambda: 5, "int"), (lambda: "text", "str")],
)
def test_a_constant_output_is_refused_by_name(constant: Any, found: str) -> None:
    model = convolved(lambda x: {"out": x, "priors": [constant()]})
    with pytest.raises(CaptureError, match="every output depends on the input") as refused:
        capturing.captured(model, X)
    assert refused.value.found == found
    assert "'priors.0' is the same for every image" in refused.value.remedy


def test_a_wrong_head_does_not_pass_calibration() -> None:
    """Were the axis of a head wrong, the user's own outputs would tell."""
    model = Net(lambda m, x: m.conv(x).argmax(1), conv=nn.Conv2d(2, 4, 3))
    graph, populations = capturing.captured(model, X), capturing.legalised(model, X)
    (output,) = graph.returned
    calibrate(populations, X, reference=model, returned=graph.returned)
    for wrong in (Head("argmax", 2), Head("max", 0)):
        with pytest.raises(CaptureError, match="computes what the user's network computes"):
            calibrate(
                populations, X, reference=model, returned=[type(output)("o", 0, (4, 4), wrong)]
            )


def test_heads_are_printed() -> None:
    graph = capturing.captured(convolved(lambda x: (x, x.argmax(1))), X)
    assert graph.pretty().endswith("\nreturn conv, conv.argmax(0)")


def test_capture_leaves_the_samples_alone() -> None:
    before = X.copy()
    capture(convolved(lambda x: x.sigmoid_()), X)
    assert np.array_equal(before, X)
