"""Capture: names, shapes, control flow, in-place calls, and what the user's model is left as."""

from __future__ import annotations

import copy
import inspect
from collections import namedtuple
from typing import Any

import capturing
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from capturing import Net
from torch import Tensor, nn

from lapilli.compiler import calibrate, frontend
from lapilli.compiler.capture import binding, calls
from lapilli.compiler.errors import CaptureError, InputError
from lapilli.compiler.layers import TABLE, activation
from lapilli.compiler.layers.rule import LayerRule

IMAGE = (2, 6, 6)
X = capturing.images(*IMAGE)


def names(model: nn.Module, x: Any = X) -> list[str]:
    """Populations of a network that computes what torch computes."""
    return [p.name for p in capturing.assert_computes_the_same(model, x).populations]


class Block(nn.Module):
    def __init__(self, channels: int = 4):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU())
        self.layer1 = nn.Sequential(Block(), Block())
        self.heads = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 2)])

    def forward(self, x: Tensor, scale: float = 2.0, verbose: bool = False) -> list[Tensor]:
        x = self.layer1(self.stem(x))
        x = F.relu(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1) * scale)
        return [head(x) for head in self.heads]


def test_populations_are_named_after_the_users_modules() -> None:
    assert names(capturing.randomised(ResNet())) == [
        "input",
        "stem.1",
        "layer1.0.relu",
        "layer1.0.relu_1",
        "layer1.1.relu",
        "layer1.1.relu_1",
        "relu",
        "heads.0",
        "heads.1",
    ]


def test_a_layer_alone_is_a_network() -> None:
    assert names(nn.Linear(6, 3), capturing.images(6)) == ["input", "linear"]
    assert names(nn.ReLU()) == ["input", "relu", "relu.readout"]
    assert names(nn.Sequential(nn.ReLU(), nn.ReLU())) == ["input", "0", "1", "1.readout"]


def test_modules_with_awkward_names_keep_them() -> None:
    assert names(
        Net(
            lambda m, x: m.network(m.relu(F.relu(m.input(x)))),
            input=nn.Conv2d(2, 3, 1),
            relu=nn.ReLU(),
            network=nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU()),
        )
    ) == ["input", "relu", "relu_1", "network.1", "network.1.readout"]


def test_a_readout_never_takes_the_name_of_a_population() -> None:
    inner = Net(lambda m, x: m.readout(x), readout=nn.ReLU())
    model = Net(lambda m, x: (h := torch.relu(x), m.relu(h)), relu=inner)
    assert names(model) == [
        "input",
        "relu",
        "relu.readout",
        "relu.readout_1",
        "relu.readout.readout",
    ]


def test_one_module_called_twice_is_two_populations() -> None:
    shared = nn.Conv2d(2, 2, 3, padding=1)
    model = Net(lambda m, x: m.relu(m.b(m.relu(m.a(x)))), a=shared, b=shared, relu=nn.ReLU())
    assert names(model) == ["input", "relu", "relu_1", "relu_1.readout"]


@pytest.mark.parametrize(
    "relu",
    [
        F.relu,
        torch.relu,
        lambda x: x.relu(),
        lambda x: F.relu(x, inplace=True),
        lambda x: x.relu_(),
        nn.ReLU(),
        nn.ReLU(inplace=True),
    ],
)
def test_no_way_of_writing_relu_is_missed(relu: Any) -> None:
    """Other converters leave a functional F.relu as it is, and report the ANN's own accuracy."""
    layers = {"act": relu} if isinstance(relu, nn.Module) else {}
    model = Net(
        lambda m, x: m.fc((m.act if layers else relu)(m.conv(x)).flatten(1)),
        conv=nn.Conv2d(2, 3, 3),
        fc=nn.Linear(48, 2),
        **layers,
    )
    graph = capturing.assert_computes_the_same(model, X)
    assert [p.role for p in graph.populations] == ["input", "activation", "readout"]


def test_what_a_capture_missed_stops_the_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were F.relu taken for a layer that vanishes, the outputs would give it away."""

    def forgotten(call: Any, *, input: Any, inplace: bool = False) -> Any:
        return input

    wrong = LayerRule(build=forgotten, functions=activation.RELU.functions)
    table = [wrong if rule is activation.RELU else rule for rule in TABLE]
    model = frontend.evaluation_copy(
        Net(lambda m, x: m.fc(F.relu(m.conv(x)).flatten(1)), conv=nn.Conv2d(2, 3, 3),
            fc=nn.Linear(48, 2))
    )  # fmt: skip
    calibrate.calibrate(capturing.legalised(model, X), X, reference=model)
    monkeypatch.setattr(calls, "TABLE", table)
    graph = capturing.legalised(model, X)
    assert [p.role for p in graph.populations] == ["input", "readout"]
    with pytest.raises(CaptureError) as refused:
        calibrate.calibrate(graph, X, reference=model)
    assert refused.value.where == "fc"
    assert "computes what the user's network computes" in refused.value.rule
    assert "relative difference" in refused.value.found
    assert str(calibrate.CAPTURE_TOLERANCE) in refused.value.allowed


def test_what_a_hook_changes_stops_the_compilation() -> None:
    model = Net(lambda m, x: m.fc(m.conv(x).flatten(1)), conv=nn.Conv2d(2, 3, 3),
                fc=nn.Linear(48, 2))  # fmt: skip
    model.conv.register_forward_hook(lambda module, args, result: result.clamp(min=0))  # type: ignore[union-attr]
    reference = frontend.evaluation_copy(model)
    with pytest.raises(CaptureError, match="computes what the user's network computes"):
        calibrate.calibrate(capturing.legalised(reference, X), X, reference=reference)


Heads = namedtuple("Heads", ["classes", "boxes"])


@pytest.mark.parametrize(
    ("result", "outputs"),
    [
        (lambda a, b: a, 1),
        (lambda a, b: (a, b), 2),
        (lambda a, b: [b, (a, [a])], 2),
        (lambda a, b: {"boxes": b, "classes": a}, 2),
        (Heads, 2),
        (lambda a, b: (a, {"b": [b]}), 2),
    ],
)
def test_several_outputs(result: Any, outputs: int) -> None:
    model = Net(
        lambda m, x: result(m.a(h := F.relu(x).flatten(1)), m.b(h)),
        a=nn.Linear(72, 3),
        b=nn.Linear(72, 4),
    )
    graph = capturing.assert_computes_the_same(model, X)
    assert len(graph.outputs) == outputs


def test_the_same_tensor_returned_twice_is_one_readout() -> None:
    model = Net(lambda m, x: (h := m.conv(x), h), conv=nn.Conv2d(2, 3, 3))
    assert names(model) == ["input", "conv"]
    assert names(Net(lambda m, x: (x, F.relu(x), x)))[-2:] == ["input.readout", "relu.readout"]


def test_a_number_per_image_is_a_channel() -> None:
    model = Net(
        lambda m, x: (F.relu((h := m.fc(x.flatten(1)).squeeze(1)) / 3) * 2 - h + 1, h[:, None]),
        fc=nn.Linear(72, 1),
    )
    graph = capturing.assert_computes_the_same(model, X)
    assert [p.shape for p in graph.populations] == [(2, 6, 6), (1,), (1,), (1,)]
    assert all(c.map.out_shape == (1,) for c in graph.connections)


def test_shapes_may_steer_python() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        assert x.dim() == x.ndim == 4
        assert x.dtype == torch.float32
        assert x.device.type == "cpu"
        n, channels, height, width = x.shape
        if channels == 2 and x.shape[2:] == (6, 6) and x.numel() == n * 72 and len(x) == n:
            x = m.conv(x)
        for _ in range(x.size(1)):
            x = F.relu(x)
        pooled = F.avg_pool2d(x, x.size()[3])
        return pooled.view(pooled.size(0), -1).reshape(n, -1)[:, : channels + height - width]

    assert names(Net(run, conv=nn.Conv2d(2, 3, 3))) == [
        "input",
        "relu",
        "relu_1",
        "relu_2",
        "getitem",
    ]


def test_parameters_may_steer_python() -> None:
    """They are constants: whatever Python computes with them is one as well."""

    def run(m: Any, x: Tensor) -> Tensor:
        weight = m.conv.weight - m.conv.weight.mean((1, 2, 3), keepdim=True)
        x = F.conv2d(x, weight / weight.std(), m.conv.bias)
        gain = m.gate.weight.sum()
        return x * gain.item() if float(gain) > 0 else x * (1 - gain)

    model = Net(run, conv=nn.Conv2d(2, 3, 3), gate=nn.Linear(2, 2))
    assert names(model) == ["input", "mul"]
    model.gate.weight.data.neg_()  # type: ignore[union-attr, operator]
    assert names(model) == ["input", "mul"]


def test_constants_that_torch_computes_are_constants() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        grid = torch.arange(36.0).reshape(1, 6, 6) / 36
        return m.conv(x) + m.embed(grid[None].expand(1, 2, 6, 6)) + torch.full((3, 1, 1), 0.5)

    model = Net(run, conv=nn.Conv2d(2, 3, 3, padding=1), embed=nn.Conv2d(2, 3, 3, padding=1))
    assert names(model) == ["input", "add_1"]


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_forward_may_set_its_own_gradient_mode(mode: Any) -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        with mode():
            x = m.conv(x + torch.ones(1))
            x += 1
            F.relu_(x)
            return x

    assert names(Net(run, conv=nn.Conv2d(2, 3, 3))) == ["input", "relu", "relu.readout"]


def test_capture_leaves_the_model_as_it_was() -> None:
    model = ResNet().train()
    model.layer1[0].bn1.eval()
    calls: list[int] = []
    handle = model.stem.register_forward_hook(lambda *_: calls.append(1))
    model.layer1.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    grads = {name: p.requires_grad for name, p in model.named_parameters()}
    attributes = {name: sorted(vars(module)) for name, module in model.named_modules()}
    x = X.copy()
    capturing.legalised(model, x)
    assert np.array_equal(x, X)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: p.requires_grad for name, p in model.named_parameters()} == grads
    assert {name: sorted(vars(module)) for name, module in model.named_modules()} == attributes
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name])
    assert list(model.stem._forward_hooks) == [handle.id]
    calls.clear()
    model(torch.tensor(X))
    assert calls == [1]
    assert inspect.ismethod(model.forward)  # and torch itself traces no longer
    assert isinstance(torch.relu(torch.ones(1)), Tensor)


def test_a_model_in_half_precision_is_computed_in_float32() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()).to(torch.bfloat16)
    graph = capturing.legalised(model, X)
    assert [p.name for p in graph.populations] == ["input", "1", "1.readout"]
    assert next(model.parameters()).dtype == torch.bfloat16


def test_a_chain_of_batch_norms_folds_into_one_map() -> None:
    layers = {f"bn{i}": nn.BatchNorm2d(4) for i in range(3)}
    model = Net(
        lambda m, x: F.relu(m.bn2(m.bn1(m.conv2(r := F.relu(m.conv1(m.bn0(x[:, [0]] if False
        else F.pad(x, (0, 0, 0, 0, 1, 1))))))) + r)),
        conv1=nn.Conv2d(4, 4, 3, padding=1), conv2=nn.Conv2d(4, 4, 3, padding=1), **layers,
    )  # fmt: skip
    graph = capturing.assert_computes_the_same(capturing.randomised(model), X)
    assert capturing.maps_into(graph, "relu") == ["Conv 4x2x3x3 padding 1 <- input"]
    assert capturing.maps_into(graph, "relu_1") == [
        "Conv 4x4x3x3 padding 1 <- relu",
    ]


def test_a_branch_without_neurons_is_one_map_with_its_neighbour() -> None:
    """The structure of RepVGG: 3x3, 1x1 and identity, each with BatchNorm, read one tensor."""
    model = Net(
        lambda m, x: F.relu(m.bn3(m.c3(x)) + m.bn1(m.c1(x)) + m.bn0(x)),
        c3=nn.Conv2d(2, 2, 3, padding=1, bias=False), c1=nn.Conv2d(2, 2, 1, bias=False),
        bn3=nn.BatchNorm2d(2), bn1=nn.BatchNorm2d(2), bn0=nn.BatchNorm2d(2),
    )  # fmt: skip
    graph = capturing.assert_computes_the_same(capturing.randomised(model), X)
    assert capturing.maps_into(graph, "relu") == ["Conv 2x2x3x3 padding 1 <- input"]


def test_views_between_layers_cost_nothing() -> None:
    def run(m: Any, x: Tensor) -> Tensor:
        x = m.fc(F.relu(m.conv(x)).flatten(1))
        return F.relu(m.conv2(F.relu(x).view(-1, 2, 3, 3)).flatten(1)) * 2

    model = Net(run, conv=nn.Conv2d(2, 3, 3), fc=nn.Linear(48, 18), conv2=nn.Conv2d(2, 4, 2))
    graph = capturing.assert_computes_the_same(model, X)
    assert capturing.maps_into(graph, "relu_1") == ["Dense 18x48 <- relu"]
    assert capturing.maps_into(graph, "relu_2") == ["Conv 4x2x2x2 <- relu_1"]
    graph = capturing.assert_computes_the_same(
        Net(lambda m, x: m.fc(m.conv(x).flatten(1)), conv=nn.Conv2d(2, 3, 3), fc=nn.Linear(48, 5)),
        X,
    )
    assert capturing.maps_into(graph, "fc") == ["Dense 5x72 <- input"]


def test_few_samples_are_enough_and_many_are_not_all_used() -> None:
    model = Net(lambda m, x: F.relu(m.conv(x)), conv=nn.Conv2d(2, 3, 3))
    one = capturing.captured(model, X[:1])
    many = capturing.captured(model, capturing.images(*IMAGE, count=200))
    assert one.pretty() == many.pretty()
    assert binding.BATCH > 3


@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        (nn.Conv2d(3, 4, 3), IMAGE, "channels"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 2)), IMAGE, "RuntimeError"),
        (Net(lambda m, x: m.missing(x)), IMAGE, "AttributeError"),
        (nn.Bilinear(2, 2, 2), (2,), "TypeError"),
    ],
)
def test_a_model_that_does_not_take_the_samples_is_refused(
    model: nn.Module, shape: tuple[int, ...], said: str
) -> None:
    with pytest.raises(InputError) as refused:
        capturing.captured(model, capturing.images(*shape))
    assert refused.value.where == type(model).__name__
    assert refused.value.found.startswith(f"shape ({binding.BATCH}, ")
    assert said in refused.value.found
    own = f"{__file__}:" if isinstance(model, Net) else "an unknown line"
    assert f" at {own}" in refused.value.found
    assert "(N, C, H, W)" in refused.value.remedy


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    model[1].running_var[1] = float("inf")  # type: ignore[index, operator]
    with pytest.raises(InputError, match=r"1\.running_var: .* 1 NaN or infinite values of 3"):
        frontend.evaluation_copy(model)
    model[0].weight.data[0, :, 0, 0] = float("nan")  # type: ignore[index, union-attr]
    with pytest.raises(InputError, match=r"0\.weight: .* 2 NaN or infinite values of 54"):
        frontend.evaluation_copy(model)


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_lazy_layers_are_refused_until_they_know_their_shape() -> None:
    with pytest.raises(InputError, match="lazy layer") as refused:
        frontend.evaluation_copy(nn.Sequential(nn.LazyConv2d(3, 3)))
    assert refused.value.where == "0.weight"
    assert "Run the network once" in refused.value.remedy


@pytest.mark.parametrize("thing", [nn.ReLU, {"weight": torch.ones(1)}, None])
def test_only_networks_are_compiled(thing: Any) -> None:
    with pytest.raises(InputError, match=r"a network is a torch\.nn\.Module"):
        frontend.evaluation_copy(thing)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripts_are_refused() -> None:
    with pytest.raises(InputError, match="of Python code") as refused:
        frontend.evaluation_copy(torch.jit.trace(nn.ReLU(), torch.ones(1)))
    assert "script" in refused.value.remedy


def test_a_network_that_cannot_be_copied_is_refused() -> None:
    model = nn.Linear(2, 2)
    model.kept = model.weight * 2
    with pytest.raises(InputError, match="a network can be copied") as refused:
        frontend.evaluation_copy(model)
    assert refused.value.found.startswith("RuntimeError")


@pytest.mark.parametrize(
    ("run", "found"),
    [
        (lambda m, x: torch.ones(3), "Tensor"),
        (lambda m, x: m.conv.weight, "Parameter"),
        (lambda m, x: (m.conv(x), 5), "int"),
        (lambda m, x: {"a": m.conv(x), "b": x.shape[1]}, "int"),
        (lambda m, x: m.conv(torch.ones(5, 2, 6, 6)), "Tensor"),
    ],
)
def test_an_output_that_does_not_depend_on_the_input_is_refused(run: Any, found: str) -> None:
    with pytest.raises(CaptureError) as refused:
        capturing.captured(Net(run, conv=nn.Conv2d(2, 3, 3)), X)
    assert (refused.value.where, refused.value.found) == ("outputs", found)
    assert "every output depends on the input" in refused.value.rule


def test_an_output_that_is_nothing_is_refused() -> None:
    with pytest.raises(CaptureError, match="every output is a node of the graph"):
        capturing.captured(Net(lambda m, x: ()), X)
