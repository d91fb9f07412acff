"""What has no lowering is refused by name, with its place in the user's code and a remedy."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import capturing
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import Tensor, nn

from lapilli.compiler.capture import binding, tracing
from lapilli.compiler.errors import CaptureError, UnsupportedOperatorError
from lapilli.compiler.layers import TABLE, catalogue
from lapilli.compiler.layers.catalogue import LISTED, allowed
from lapilli.compiler.layers.refused import GENERAL, REMEDIES, remedy

IMAGE = (4, 6, 6)
X = capturing.images(*IMAGE)


def augmented(x: Tensor) -> Tensor:
    x **= 2
    return x


MODULES: dict[str, nn.Module] = {
    "LPPool2d": nn.LPPool2d(2, 2),
    "FractionalMaxPool2d": nn.FractionalMaxPool2d(2, 3),
    "GLU": nn.GLU(1),
    "Softmin": nn.Softmin(1),
    "Unfold": nn.Unfold(2),
    "LayerNorm": nn.LayerNorm([4, 6, 6]),
    "GroupNorm": nn.GroupNorm(2, 4),
    "LocalResponseNorm": nn.LocalResponseNorm(2),
    "CrossMapLRN2d": nn.CrossMapLRN2d(2),
    "ReflectionPad3d": nn.Sequential(nn.Unflatten(1, (2, 2)), nn.ReflectionPad3d(1))[1],
    "DataParallel": nn.DataParallel(nn.ReLU()),
    "ParametrizedConv2d": nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
}
SEQUENCES: dict[str, nn.Module] = {
    "MultiheadAttention": nn.MultiheadAttention(6, 2, batch_first=True),
    "LSTM": nn.LSTM(6, 3, batch_first=True),
    "GRU": nn.GRU(6, 3, batch_first=True),
    "Bilinear": nn.Bilinear(6, 6, 2),
}
CALLS: dict[str, Any] = {
    "vstack": lambda x: torch.vstack([x, x]),
    "truediv": lambda x: x / (x + 10),
    "bmm": lambda x: x.flatten(2).bmm(x.flatten(2).transpose(1, 2)),
    "matmul": lambda x: x @ x,
    "einsum": lambda x: torch.einsum("nchw,nchv->nchv", x, x),
    "pow": lambda x: x**3,
    "maximum": lambda x: torch.maximum(x, -x),
    "glu": lambda x: F.glu(x, 1),
    "grid_sample": lambda x: F.grid_sample(x, torch.zeros(5, 6, 6, 2), align_corners=False),
    "lp_pool2d": lambda x: F.lp_pool2d(x, 2.0, 2),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "group_norm": lambda x: F.group_norm(x, 2),
    "normalize": F.normalize,
    "exp": torch.exp,
    "sqrt": lambda x: torch.relu(x).sqrt(),
    "cumsum": lambda x: x.cumsum(1),
    "std": lambda x: x.std(1),
    "softmax": lambda x: torch.relu(x.softmax(1)),
    "max": lambda x: torch.relu(x.max(1)[0]),
    "topk": lambda x: x.flatten(1).topk(3),
    "zeros_like": lambda x: torch.relu(x) + torch.zeros_like(x),
    "gt": lambda x: x > 0,
    "where": lambda x: torch.where(torch.ones(6, 6) > 0, x, -x),
    "half": lambda x: x.half().float(),
    "tolist": lambda x: (x.tolist(), torch.relu(x))[1],
    "data": lambda x: torch.relu(x.data),
    "T": lambda x: x.flatten(1).T,
    "ipow": augmented,
    "scaled_dot_product_attention": lambda x: F.scaled_dot_product_attention(x, x, x),
}
OF_KNOWN_LAYERS = {
    "truediv": "weighs activities by constants",
    "matmul": "weighs activities by constants",
    "einsum": "weighs activities by constants",
    "pow": "a power is a square",
}
"""Calls that have a lowering, though not for these arguments: part of the rule."""


def refusal(model: nn.Module, x: Any = X) -> UnsupportedOperatorError:
    """Why the network cannot be compiled for x."""
    return capturing.refusal(model, x)


@pytest.mark.parametrize("name", MODULES)
def test_layers_are_refused_by_name(name: str) -> None:
    model = Net(lambda m, x: m.head(m.act(x)), act=nn.ReLU(), head=nn.Sequential(MODULES[name]))
    error = refusal(model)
    place, _, line = error.where.partition(" at ")
    assert place == f"head.0 ({name})"
    assert line.startswith(f"{__file__}:")
    assert "model = Net(lambda m, x: m.head(m.act(x))" in line
    assert (error.rule, error.found) == ("an operator has a lowering", name)
    assert error.allowed == allowed(name, "modules")
    assert error.remedy == remedy(name)


@pytest.mark.parametrize("name", SEQUENCES)
def test_layers_of_sequences_are_refused_by_name(name: str) -> None:
    def run(m: Any, x: Tensor) -> Any:
        x = torch.relu(x)
        needs = {"MultiheadAttention": (x, x, x), "Bilinear": (x, x)}
        return m.layer(*needs.get(name, (x,)))

    error = refusal(Net(run, layer=SEQUENCES[name]), capturing.images(4, 6))
    assert error.where.startswith(f"layer ({name}) at {__file__}:")
    assert (error.rule, error.found) == ("an operator has a lowering", name)
    assert error.remedy == remedy(name)


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_refused_by_name(name: str) -> None:
    def run(m: Any, x: Tensor) -> Any:
        return m.before(CALLS[name](x))

    error = refusal(Net(run, before=nn.Identity()))
    assert f"({name})" in error.where
    assert f" at {__file__}:" in error.where
    if name in OF_KNOWN_LAYERS:
        assert OF_KNOWN_LAYERS[name] in error.rule
    else:
        assert error.found == name
        assert error.rule == "an operator has a lowering"
        assert error.allowed.startswith(LISTED)
        assert error.remedy == remedy(name)
    assert error.remedy.endswith(".")


def test_remedies_fit_the_operator() -> None:
    assert "average or max pooling" in remedy("LPPool2d")
    assert "largest logit" in remedy("softmax")
    assert "sigmoid of one half" in remedy("GLU") and remedy("glu") == remedy("GLU")
    assert "BatchNorm" in remedy("LayerNorm")
    assert "bilinear" in remedy("grid_sample")
    assert "relu(b - a)" in remedy("maximum")
    assert "images" in remedy("Conv3d") and "recurrent" in remedy("LSTM").lower()
    assert remedy("an operator of next year") == GENERAL
    assert all(name == name.lower() and text.endswith(".") for name, text in REMEDIES.items())


def test_nothing_that_compiles_has_a_remedy() -> None:
    supported = {name.lower() for rule in TABLE for name in catalogue.names(rule)}
    assert "relu" in supported
    assert not supported & set(REMEDIES)


def test_a_layer_that_sequential_calls_is_placed_by_its_module() -> None:
    inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softmax(1), nn.Conv2d(4, 4, 1))
    assert refusal(nn.Sequential(nn.ReLU(), inner)).where == "1.1 (Softmax) at module 1.1"
    single = refusal(nn.LocalResponseNorm(2)).where
    assert single == "localresponsenorm (LocalResponseNorm) at module localresponsenorm"


def test_a_layer_made_of_layers_is_refused_by_its_own_name() -> None:
    model, x = nn.Sequential(nn.TransformerEncoderLayer(8, 2)), capturing.images(6, 8)
    assert refusal(model, x).where == "0 (TransformerEncoderLayer) at module 0"
    recorded = tracing.trace(model.eval(), torch.tensor(x)).nodes
    assert [n.op for n in recorded] == ["placeholder", "call_module", "output"]


def test_as_many_channels_as_samples_do_not_hide_a_mean_over_images() -> None:
    x = capturing.images(binding.BATCH, 6, 6)
    error = refusal(Net(lambda m, x: torch.relu(x).mean(0)), x)
    assert (error.rule, error.found) == ("images are independent of each other", "dimension 0")
    error = refusal(Net(lambda m, x: torch.relu(x)[0]), x)
    assert "the same for every image" in error.rule


def test_users_own_functions_are_named() -> None:
    assert refusal(Net(lambda m, x: wrapped(x))).found == "wrapped"


@torch.fx.wrap
def wrapped(x: Tensor) -> Tensor:
    """fx shows a wrapped function as one call."""
    return x + 1


def test_users_own_subclasses_are_looked_into() -> None:
    class Scaled(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight * 2, self.bias)

    class Renamed(nn.BatchNorm2d):
        pass

    model = nn.Sequential(Scaled(4, 3, 3), Renamed(3), nn.ReLU())
    graph = capturing.assert_computes_the_same(capturing.randomised(model), X)
    assert capturing.maps_into(graph, "2") == ["Conv 3x4x3x3 <- input"]


CONTROL: dict[str, tuple[Any, str]] = {
    "if": (lambda m, x: x if x.mean() else -x, "control flow"),
    "comparison": (lambda m, x: -x if x.mean() > 0 else x, "control flow"),
    "and": (lambda m, x: x.sum() and x, "control flow"),
    "range": (lambda m, x: next(x for _ in range(x.argmax())), "integer"),
}


@pytest.mark.parametrize("name", CONTROL)
def test_control_flow_on_values_is_refused_with_its_line(name: str) -> None:
    run, said = CONTROL[name]
    with pytest.raises(CaptureError) as refused:
        capturing.captured(Net(run), X)
    error = refused.value
    assert error.where.startswith(f"Net at {__file__}:")
    assert error.where.endswith(f"in <lambda>: {source(run)}")
    assert said in error.found
    assert "never on values" in error.allowed
    assert "fixed" in error.remedy


def source(run: Any) -> str:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return lines[run.__code__.co_firstlineno - 1].strip()


def test_an_assertion_on_values_is_refused_with_its_line() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        assert x.isfinite().all()
        return F.relu(x)

    with pytest.raises(CaptureError) as refused:
        capturing.captured(Net(run), X)
    assert refused.value.where.endswith("in run: assert x.isfinite().all()")


class Branching(nn.Module):
    """What torch.fx cannot trace; torch.export can, or not: it depends on its version."""

    def __init__(self, run: Any) -> None:
        super().__init__()
        self.run = run

    def forward(self, x: Tensor) -> Any:
        if self.run == "number":
            return x * float(x.flatten(1)[0, 0])
        if self.run == "branch" and x.mean() > 0:
            return x
        return torch.ones(7, 2)[x.argmax(1).flatten(1)]


@pytest.mark.parametrize("run", ["number", "branch"])
def test_a_failed_export_prints_nothing(run: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Some versions of torch write their graphs to standard error, and log that they did."""
    before = logging.root.manager.disable
    with pytest.raises((UnsupportedOperatorError, CaptureError)):
        capturing.captured(Branching(run), X)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == before


def test_a_number_from_one_image_is_refused_with_its_line() -> None:
    with pytest.raises((UnsupportedOperatorError, CaptureError)) as refused:
        capturing.captured(Branching("number"), X)
    assert refused.value.where.endswith("in forward: return x * float(x.flatten(1)[0, 0])")


def test_activity_as_an_index_is_refused_with_its_line() -> None:
    error = refusal(Branching("index"))
    assert error.found == "argmax"
    assert error.where.endswith("return torch.ones(7, 2)[x.argmax(1).flatten(1)]")


def test_layers_that_torch_does_not_know_of_are_exported() -> None:
    """torch.fx looks for them among the network's modules; torch.export does not."""
    hidden = nn.ReLU()
    capturing.assert_computes_the_same(Net(lambda m, x: hidden(x)), X)


def test_a_fault_outside_the_users_code_has_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.ReLU())

    code = "def broken(*args, **kwargs):\n    raise RuntimeError('no tracing today')"
    torchs: dict[str, Any] = {}
    exec(compile(code, str(Path(torch.__file__).parent / "made_up.py"), "exec"), torchs)
    monkeypatch.setattr(torch.fx.Tracer, "call_module", torchs["broken"])
    with pytest.raises(CaptureError, match=r"Sequential at an unknown line: .* no tracing today"):
        capturing.captured(model, X)


def test_every_refusal_reads_as_one_sentence() -> None:
    text = str(refusal(Net(lambda m, x: torch.relu(F.softmax(x, dim=1)))))
    assert text.startswith(f"softmax (softmax) at {__file__}:")
    assert f": an operator has a lowering; found softmax, allowed {LISTED}. At the " in text
    assert text.endswith(f". {remedy('softmax')}")


def test_the_batch_is_no_usual_number() -> None:
    assert binding.BATCH not in (1, 2, 3, 4, 8, 10, 16, 32, 64)
