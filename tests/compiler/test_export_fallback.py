"""Networks that torch.fx cannot trace are exported; programs in memory; errors name the place."""

from __future__ import annotations

import warnings
from typing import Any

import capturing
import pytest
import torch
from capturing import Net
from torch import Tensor, nn

from lapilli.compiler import frontend
from lapilli.compiler.errors import CaptureError, InputError, UnsupportedOperatorError

X = capturing.images(2, 6, 6)


class Picky(nn.Module):
    """Asks what torch.fx's stand-in for a tensor is not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):
            raise TypeError("a tensor, please")
        y: Tensor = self.relu(self.conv(x))
        return y + 1


class Hyperbolic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cosh(x) + 1


class Deep(nn.Module):
    def __init__(self, run: Any) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(2, 3, 3), Net(run, relu=nn.ReLU()))

    def forward(self, x: Tensor) -> Any:
        return self.block(x)


def exported(model: nn.Module, x: Any = X) -> torch.export.ExportedProgram:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model.eval(), (torch.tensor(x[:3]),))


def test_what_fx_cannot_trace_is_exported() -> None:
    graph = capturing.assert_computes_the_same(capturing.randomised(Picky()), X)
    assert [p.name for p in graph.populations] == ["input", "relu", "add"]


def test_where_both_fail_both_are_told_with_the_users_line() -> None:
    def run(m: Any, x: Tensor) -> Any:
        return m.relu(x) if x.mean() > 0 else x

    with pytest.raises(CaptureError) as refused:
        capturing.captured(Deep(run), X)
    assert "torch.fx" in refused.value.rule
    assert "torch.export" in refused.value.rule
    assert "; torch.export: " in refused.value.found
    assert f"{__file__}:" in refused.value.where
    assert "m.relu(x) if x.mean() > 0 else x" in refused.value.where
    assert "Replace data-dependent" in refused.value.remedy


def test_refusals_of_programs_name_the_module_and_the_users_line() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Sequential(nn.ReLU(), Hyperbolic()))
    with pytest.raises(UnsupportedOperatorError) as refused:
        frontend.network_of(exported(model)).capture(X)
    assert refused.value.where.startswith("1.1.cosh (cosh) at ")
    assert f"{__file__}:" in refused.value.where
    assert "return torch.cosh(x) + 1" in refused.value.where
    assert refused.value.found == "cosh"


def test_in_place_calls_of_programs_are_followed() -> None:
    """torch 2.3 exports none; newer versions leave them in."""

    def fine(m: Any, x: Tensor) -> Any:
        y = x.relu()
        y.add_(x)
        return m.relu(y), y * 2

    model = capturing.randomised(Deep(fine))
    network = frontend.network_of(exported(model))
    plain = frontend.network_of(model)
    assert network.capture(X).pretty() == plain.capture(X).pretty()


def test_a_view_of_overwritten_memory_is_right_or_refused() -> None:
    def run(m: Any, x: Tensor) -> Any:
        y = x.relu()
        z = y.view(-1, 48)
        y.add_(x)
        return m.relu(z)

    network = frontend.network_of(exported(Deep(run)))
    try:
        names = [type(n).__name__ for n in network.capture(X)]
    except UnsupportedOperatorError as refused:
        assert "overwritten in place" in refused.rule
    else:
        assert "Sum" in names


def test_indices_beside_a_result_are_refused_when_read() -> None:
    pool = nn.MaxPool2d(2, return_indices=True)
    values = Net(lambda m, x: m.pool(m.conv(x))[0], conv=nn.Conv2d(2, 3, 3), pool=pool)
    both = Net(lambda m, x: m.pool(m.conv(x)), conv=nn.Conv2d(2, 3, 3), pool=pool)
    graph = frontend.network_of(exported(values)).capture(X)
    assert [node.name for node in graph][-1] == "pool"
    with pytest.raises(UnsupportedOperatorError) as refused:
        frontend.network_of(exported(both)).capture(X)
    assert "indices" in refused.value.found


def test_an_output_that_is_the_same_for_every_image_is_refused_by_name() -> None:
    def run(m: Any, x: Tensor) -> Any:
        return {"scores": m.conv(x), "anchors": torch.ones(3, 4) * 2}

    network = frontend.network_of(exported(Net(run, conv=nn.Conv2d(2, 3, 3))))
    with pytest.raises(CaptureError) as refused:
        network.capture(X)
    assert "every output depends on the input" in refused.value.rule
    assert "Output 'anchors' is the same for every image" in refused.value.remedy


def test_several_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    with torch.no_grad():
        program = torch.export.export(Two(), (torch.tensor(X), torch.tensor(X)))
    with pytest.raises(InputError) as refused:
        frontend.network_of(program)
    assert refused.value.rule == "a network has one input tensor"


def test_weights_of_a_program_must_be_finite() -> None:
    model = Picky()
    program = exported(model)
    next(iter(program.state_dict.values())).data[0] = float("nan")
    with pytest.raises(InputError, match="finite numbers"):
        frontend.network_of(program)


def test_a_batch_of_one_and_a_symbolic_one_are_the_same_graph() -> None:
    model = capturing.randomised(Picky())
    graphs = []
    for shape, dims in (((1, 2, 6, 6), None), ((4, 2, 6, 6), {"x": {0: torch.export.Dim("n")}})):
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (torch.zeros(shape),), dynamic_shapes=dims)
        network = frontend.network_of(program)
        graphs.append(network.capture(X).pretty())
        assert torch.allclose(network.run(torch.tensor(X)), model(torch.tensor(X)), atol=1e-6)
    assert graphs[0] == graphs[1] == frontend.network_of(model).capture(X).pretty()
