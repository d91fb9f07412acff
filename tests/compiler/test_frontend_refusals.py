"""What has no lowering is refused by name, with its place in the user's code and a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import capturing
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import Tensor, nn

from lapilli.compiler import frontend, tracing
from lapilli.compiler.errors import CaptureError, UnsupportedOperatorError
from lapilli.compiler.layers import known
from lapilli.compiler.layers.refused import GENERAL, REMEDIES, remedy

IMAGE = (4, 6, 6)
X = capturing.images(*IMAGE)


def augmented(x: Tensor) -> Tensor:
    x **= 2
    return x


MODULES: dict[str, nn.Module] = {
    "MaxPool2d": nn.MaxPool2d(2),
    "AdaptiveMaxPool2d": nn.AdaptiveMaxPool2d(1),
    "LPPool2d": nn.LPPool2d(2, 2),
    "Softmax": nn.Softmax(1),
    "LogSoftmax": nn.LogSoftmax(1),
    "GELU": nn.GELU(),
    "SiLU": nn.SiLU(),
    "ELU": nn.ELU(),
    "PReLU": nn.PReLU(),
    "LeakyReLU": nn.LeakyReLU(),
    "ReLU6": nn.ReLU6(),
    "Hardtanh": nn.Hardtanh(),
    "Hardswish": nn.Hardswish(),
    "Tanh": nn.Tanh(),
    "Sigmoid": nn.Sigmoid(),
    "Unfold": nn.Unfold(2),
    "LayerNorm": nn.LayerNorm([4, 6, 6]),
    "GroupNorm": nn.GroupNorm(2, 4),
    "InstanceNorm2d": nn.InstanceNorm2d(4),
    "LocalResponseNorm": nn.LocalResponseNorm(2),
    "ReflectionPad2d": nn.ReflectionPad2d(1),
    "DataParallel": nn.DataParallel(nn.ReLU()),
    "ParametrizedConv2d": nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1)),
}
CALLS: dict[str, Any] = {
    "vstack": lambda x: torch.vstack([x, x]),
    "mul": lambda x: x * torch.relu(x),
    "truediv": lambda x: x / (x + 10),
    "matmul": lambda x: x @ x,
    "einsum": lambda x: torch.einsum("nchw,nchv->nchv", x, x),
    "pow": lambda x: x**2,
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0),
    "maximum": lambda x: torch.maximum(x, -x),
    "softmax": lambda x: F.softmax(x, dim=1),
    "log_softmax": lambda x: x.log_softmax(1),
    "sigmoid": torch.sigmoid,
    "tanh": lambda x: x.tanh(),
    "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "max_pool2d": lambda x: F.max_pool2d(x, 2),
    "layer_norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "normalize": F.normalize,
    "abs": abs,
    "exp": torch.exp,
    "sum": lambda x: x.sum((2, 3)),
    "amax": lambda x: x.amax((2, 3)),
    "max": lambda x: x.max(1),
    "argmax": lambda x: x.argmax(1),
    "topk": lambda x: x.flatten(1).topk(3),
    "roll": lambda x: torch.roll(x, 1, 2),
    "flip": lambda x: x.flip(3),
    "expand": lambda x: x.mean((2, 3), True).expand(-1, -1, 6, 6),
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


def refusal(model: nn.Module, x: Any = X) -> UnsupportedOperatorError:
    with pytest.raises(UnsupportedOperatorError) as refused:
        capturing.captured(model, x)
    return refused.value


@pytest.mark.parametrize("name", MODULES)
def test_layers_are_refused_by_name(name: str) -> None:
    model = Net(lambda m, x: m.head(m.act(x)), act=nn.ReLU(), head=nn.Sequential(MODULES[name]))
    error = refusal(model)
    place, _, line = error.where.partition(" at ")
    assert place == f"head.0 ({name})"
    assert line.startswith(f"{__file__}:")
    assert "model = Net(lambda m, x: m.head(m.act(x))" in line
    assert (error.rule, error.found) == ("an operator has a lowering", name)
    assert "Conv2d" in error.allowed
    assert error.remedy == remedy(name)


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_refused_by_name(name: str) -> None:
    def run(m: Any, x: Tensor) -> Any:
        return m.before(CALLS[name](x))

    error = refusal(Net(run, before=nn.Identity()))
    assert f"({name})" in error.where
    assert f" at {__file__}:" in error.where
    if name not in ("mul", "truediv"):
        assert error.found == name
        assert error.rule == "an operator has a lowering"
        assert error.remedy == remedy(name)
    assert error.remedy.endswith(".")


def test_remedies_fit_the_operator() -> None:
    assert "average pooling" in remedy("MaxPool2d") and "average pooling" in remedy("max_pool2d")
    assert "largest logit" in remedy("softmax")
    assert "with ReLU" in remedy("GELU")
    assert "BatchNorm" in remedy("LayerNorm")
    assert "bilinear" in remedy("grid_sample")
    assert remedy("an operator of next year") == GENERAL
    assert all(name == name.lower() and text.endswith(".") for name, text in REMEDIES.items())
    supported = {
        name.lower() for kind in ("modules", "functions", "methods") for name in names(kind)
    }
    assert not supported & set(REMEDIES)


def names(kind: Any) -> list[str]:
    return known(kind).split(", ")


def test_a_layer_that_sequential_calls_is_placed_by_its_module() -> None:
    error = refusal(nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Softmax(1))))
    assert error.where == "1.1 (Softmax) at module 1.1"
    assert refusal(nn.Softmax(1)).where == "softmax (Softmax) at module softmax"


def test_a_layer_made_of_layers_is_refused_by_its_own_name() -> None:
    model, x = nn.Sequential(nn.TransformerEncoderLayer(8, 2)), capturing.images(6, 8)
    assert refusal(model, x).where == "0 (TransformerEncoderLayer) at module 0"
    recorded = tracing.trace(model.eval(), torch.tensor(x)).nodes
    assert [n.op for n in recorded] == ["placeholder", "call_module", "output"]


def test_as_many_channels_as_samples_do_not_hide_a_mean_over_images() -> None:
    x = capturing.images(frontend.BATCH, 6, 6)
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
    "float": (lambda m, x: x * float(x.flatten(1)[0, 0]), "float()"),
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


def test_activity_as_an_index_is_refused_with_its_line() -> None:
    with pytest.raises(CaptureError) as refused:
        capturing.captured(Net(lambda m, x: torch.ones(7, 2)[x.argmax(1).flatten(1)]), X)
    assert "torch.ones(7, 2)[x.argmax(1).flatten(1)]" in refused.value.where


def test_layers_that_torch_does_not_know_of_are_refused() -> None:
    hidden = nn.ReLU()
    with pytest.raises(CaptureError, match="not installed as a submodule") as refused:
        capturing.captured(Net(lambda m, x: hidden(x)), X)
    assert "nn.ModuleList" in refused.value.remedy
    assert "hidden(x)" in refused.value.where


def test_a_fault_outside_the_users_code_has_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.ReLU())

    code = "def broken(*args, **kwargs):\n    raise RuntimeError('no tracing today')"
    torchs: dict[str, Any] = {}
    exec(compile(code, str(Path(torch.__file__).parent / "made_up.py"), "exec"), torchs)
    monkeypatch.setattr(torch.fx.Tracer, "call_module", torchs["broken"])
    with pytest.raises(CaptureError, match=r"Sequential at an unknown line: .* no tracing today"):
        capturing.captured(model, X)


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
    "reflection": (
        lambda x: F.pad(x, (1, 1, 1, 1), "reflect"),
        "padding is with zeros",
        "reflect",
    ),
    "padding with ones": (lambda x: F.pad(x, (1, 1), value=1.0), "padding is with zeros", "1.0"),
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
    "linear over positions": (
        lambda x: F.linear(x, torch.ones(3, 6)),
        "one vector per image",
        "(4, 6, 6)",
    ),
    "convolution of one image": (
        lambda x: F.conv2d(x.flatten(2), torch.ones(5, 5, 1, 1)),
        "reads (C, H, W)",
        "(4, 36)",
    ),
    "pooling of one image": (lambda x: F.avg_pool2d(x.flatten(2), 1), "reads (C, H, W)", "(4, 36)"),
    "mean over channels": (lambda x: x.mean(1), "axes of the image plane", "dim=1 of (N, 4, 6, 6)"),
    "mean over all": (lambda x: x + x.mean(), "batch stays the first", "shape ()"),
    "mean of vectors": (lambda x: x.flatten(1).mean(1), "axes of the image plane", "dim=1"),
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
    "channels by name": (lambda x: x[:, [2, 0]], "the same for every image", "[2, 0]"),
    "a new axis by a mask": (lambda x: x[:, True], "the same for every image", "True"),
    "channels by mask": (
        lambda x: x[:, torch.tensor([True, False, True, True])],
        "the same for every image",
        "tensor([ True",
    ),
    "tensors of unequal shapes": (
        lambda x: x + x.mean((2, 3), True),
        "tensors of equal shape are added",
        "(4, 6, 6) + (4, 1, 1)",
    ),
    "broadcast to the constant": (
        lambda x: x.mean((2, 3), True) + torch.ones(4, 3, 3),
        "broadcasts to the tensor",
        "(4, 3, 3) from (4, 1, 1)",
    ),
    "constant per image": (
        lambda x: x + torch.ones(len(x), 1, 1, 1),
        "the same for every image",
        "(5, 1, 1, 1)",
    ),
    "constant per image and number": (
        lambda x: F.linear(x.flatten(1), torch.ones(1, 144)).squeeze(1) + torch.ones(5),
        "the same for every image",
        "(5,)",
    ),
    "infinite constant": (lambda x: x * float("inf"), "constants are finite", "NaN or infinity"),
    "division by zero": (lambda x: x / 0, "constants are finite", "a division by 0"),
    "product": (lambda x: x.mul(x), "weighs activities by constants", "product of two"),
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
    "circular padding": (
        nn.Conv2d(4, 2, 3, padding=1, padding_mode="circular"),
        "padding is with zeros",
        "circular",
    ),
    "batch statistics": (
        nn.BatchNorm2d(4, track_running_stats=False),
        "stored statistics",
        "statistics of the batch",
    ),
    "whole batch flattened": (nn.Flatten(0), "batch stays the first", "shape (720,)"),
    "linear over positions": (nn.Linear(6, 2), "one vector per image", "shape (4, 6, 6)"),
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


def test_every_refusal_reads_as_one_sentence() -> None:
    text = str(refusal(Net(lambda m, x: F.softmax(x, dim=1))))
    assert text.startswith(f"softmax (softmax) at {__file__}:")
    assert ": an operator has a lowering; found softmax, allowed adaptive_avg_pool1d, " in text
    assert text.endswith(f". {remedy('softmax')}")


def test_the_batch_is_no_usual_number() -> None:
    assert frontend.BATCH not in (1, 2, 3, 4, 8, 10, 16, 32, 64)
