"""Training of LM-HT networks: where it starts, what is learned, what is compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import grid_networks
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import lapilli
from lapilli.compiler.errors import InputError
from lapilli.compiler.training.feature_taps import tapped
from lapilli.compiler.training.lm_ht import LmHt, lm_ht_network, plan_lm_ht
from lapilli.compiler.training.plan import Plan
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.quantised import Quantised, QuantisedNetwork, plan_quantised
from lapilli.compiler.training.quantised_file import quantised_network
from lapilli.compiler.training.recipe import Recipe, Training
from lapilli.compiler.training.spiking_layers import MultiThreshold
from lapilli.compiler.training.spiking_network import SpikingNetwork
from lapilli.compiler.training.substitution import substituted

RECIPE = Recipe("lm-ht", "", training=Training(epochs=2))
SHAPES = [(1, 4), (2, 2), (4, 1), (3, 2)]


class Net(nn.Module):
    """(N, 1, 8, 8) -> (N, 5): biases, normalisation, a residual, a module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.second, self.third = (nn.Conv2d(6, 6, 3, padding=1) for _ in range(2))
        self.relu, self.last = nn.ReLU(), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        first = self.relu(self.norm(self.first(x)))
        second = functional.relu(self.second(first))
        third = self.relu(first + self.third(second))
        logits: Tensor = self.last(functional.adaptive_avg_pool2d(third, 1).flatten(1))
        return logits


def images(count: int = 12) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def planned(network: nn.Module | None = None, **options: Any) -> Plan:
    recipe = replace(RECIPE, options=LmHt(**options))
    return plan_lm_ht(network or Net().eval(), recipe, images())


def spiking_of(plan: Plan) -> SpikingNetwork:
    return next(m for m in plan.model.modules() if isinstance(m, SpikingNetwork))


def layers(plan: Plan) -> list[MultiThreshold]:
    return [m for m in plan.model.modules() if isinstance(m, MultiThreshold)]


def quantised(levels: int) -> nn.Module:
    return QuantisedNetwork(Net().eval(), Quantised(levels=levels), images()).network.eval()


def assert_equal_everywhere(spiking: SpikingNetwork, wanted: nn.Module, places: list[str]) -> None:
    """Mean activities over the steps are the quantised ones: in float64, so that no step flips."""
    x = images(40).double()
    spiking, wanted = spiking.double().eval(), wanted.double().eval()
    with torch.no_grad(), tapped(spiking.network, places) as sent, tapped(wanted, places) as known:
        torch.testing.assert_close(spiking(x), wanted(x), rtol=1e-9, atol=1e-9)
    for place in places:
        mean = sent[place].unflatten(0, (spiking.steps, -1)).mean(0)
        torch.testing.assert_close(mean, known[place], rtol=1e-9, atol=1e-9)
        assert len(known[place].unique()) > 2


@pytest.mark.parametrize(("levels", "steps"), SHAPES)
@pytest.mark.parametrize("start", ["float", "qcfs"])
def test_it_starts_as_the_quantised_network(levels: int, steps: int, start: str) -> None:
    """Theorem 4.4 without its gap: biases, residuals and depth included, for any L and T."""
    wanted = quantised(levels * steps)
    given = Net().eval() if start == "float" else wanted
    own = LmHt(levels, steps, mixing="full", start=start)  # type: ignore[arg-type]
    spiking = lm_ht_network(given, own, images())
    assert_equal_everywhere(spiking, wanted, ["relu.0", "relu_1", "relu.1"])


def test_steps_that_do_not_mix_start_near_it() -> None:
    """The first layer, with its constant current, counts exactly; later spikes come unevenly."""
    spiking, wanted = lm_ht_network(Net().eval(), LmHt(2, 3), images()), quantised(6)
    x = images(40)
    apart = (spiking.eval()(x) - wanted(x)).abs().max()
    assert 0 < apart < 0.5 * wanted(x).std()
    first = SpikingNetwork(nn.Sequential(*_head(spiking.network)), 3)
    assert_equal_everywhere(first, nn.Sequential(*_head(wanted)), ["2"])


def _head(network: nn.Module) -> list[nn.Module]:
    return [network.first, network.norm, network.get_submodule("relu.0")]  # type: ignore[list-item]


def test_it_starts_from_a_quantised_recipes_file(tmp_path: Path) -> None:
    recipe = Recipe("quantised", "", options=Quantised(levels=4))
    source = plan_quantised(Net().eval(), recipe, images())
    found, _ = source.finished()
    with torch.no_grad():
        for i, module in enumerate(m for m in found.modules() if isinstance(m, QCFS)):
            module.threshold.mul_(1 + 0.1 * i)
        found.last.bias.add_(1.0)  # type: ignore[union-attr, operator]
    file = tmp_path / "quantised.safetensors"
    save_file(found.state_dict(), file)
    other = nn.Module.__new__(Net)
    Net.__init__(other)  # type: ignore[arg-type]
    with torch.no_grad():
        other.last.bias.zero_()  # type: ignore[union-attr, operator]
    own = LmHt(2, 2, mixing="full", start="qcfs", quantised=str(file))
    spiking = lm_ht_network(other.eval(), own, images())
    assert_equal_everywhere(spiking, found, ["relu.0", "relu_1", "relu.1"])


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    state = quantised(4).state_dict()
    file = tmp_path / "some.safetensors"

    def refused(changed: dict[str, Tensor] | None, says: str) -> None:
        if changed is not None:
            save_file(changed, file)
        with pytest.raises(InputError, match="fits the recipe's network") as error:
            quantised_network(Net().eval(), file, images())
        assert says in str(error.value)

    refused(None, "FileNotFoundError")
    refused({k: v for k, v in state.items() if k != "relu_1.threshold"}, "no relu_1.threshold")
    refused({k: v for k, v in state.items() if k != "last.bias"}, "last.bias")
    refused({**state, "more": torch.zeros(1)}, "more")
    refused({**state, "last.bias": torch.zeros(4)}, "last.bias")
    file.write_bytes(b"no tensors")
    refused(None, "SafetensorError")
    file.unlink()
    file.mkdir()
    refused(None, str(file))


def test_direct_training_starts_at_two() -> None:
    plan = planned(levels=4, start="direct", initial="zero")
    assert [float(layer.threshold) for layer in layers(plan)] == [2.0] * 3
    assert {layer.initial for layer in layers(plan)} == {"zero"}
    assert not any(layer.threshold.requires_grad for layer in layers(plan))


@pytest.mark.parametrize(
    ("options", "learned"),
    [
        ({}, set()),
        ({"mixing": "full"}, {"logits"}),
        ({"mixing": "causal", "learn_mixing": False}, set()),
        ({"keep": 0.9, "learn_keep": True}, {"keep"}),
        ({"learn_thresholds": True}, {"threshold"}),
        ({"mixing": "causal", "keep": 0.9, "learn_keep": True}, {"logits", "keep"}),
    ],
)
def test_what_is_learned(options: dict[str, Any], learned: set[str]) -> None:
    """Training moves what the options say, besides the weights, and nothing else of the layers."""
    plan = planned(**{"steps": 3, **options})
    before = {key: value.clone() for key, value in plan.model.state_dict().items()}
    objective = plan.stages[0].objective.train()
    optimiser = torch.optim.SGD([p for p in objective.parameters() if p.requires_grad], lr=0.1)
    labels = torch.arange(12) % 5
    values = []
    for _ in range(8):
        loss = objective(images(), labels)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        values.append(float(loss.detach()))
    assert values[-1] < values[0]
    after = plan.model.state_dict()
    moved = {key.split(".")[-1] for key in after if not torch.equal(before[key], after[key])}
    assert moved & {"logits", "keep", "threshold"} == learned
    assert "weight" in moved


def test_gradients_do_not_pass_from_step_to_step() -> None:
    """Equation 8: the last step's loss reaches the weights as if v(t - 1) were given."""
    own = LmHt(2, 2, start="direct", initial="zero")
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)) * 3
    spiking = lm_ht_network(network, own, x)
    spiking.per_step(x)[1].square().sum().backward()
    linear, last = spiking.network[0], spiking.network[2]  # type: ignore[index]
    found = linear.weight.grad.clone()  # type: ignore[union-attr, operator]
    linear.zero_grad()  # type: ignore[operator]
    last.zero_grad()  # type: ignore[operator]
    drive = linear(x)  # type: ignore[operator]
    with torch.no_grad():
        v = drive - drive.floor().clamp(0, 2)  # one spike is worth 2 / L = 1
    m = v + drive
    sent = m.floor().clamp(0, 2) + (m - m.detach()) * ((m >= 0.5) & (m <= 2.5))
    last(sent).square().sum().backward()  # type: ignore[operator]
    torch.testing.assert_close(found, linear.weight.grad)  # type: ignore[union-attr]
    assert found.abs().sum() > 0


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"mixing": "none", "keep": 0.75}, "MultiThreshold"),
        ({"mixing": "causal", "learn_keep": True}, "Window"),
        ({"mixing": "full"}, "Window"),
        ({"mixing": "none", "single_threshold": True}, "SoftResetIF"),
    ],
)
def test_what_is_compiled(options: dict[str, Any], kind: str) -> None:
    plan = planned(**options)
    network, method = plan.finished()
    assert isinstance(method, lapilli.methods.LMHT)
    wanted = {"levels": 2, "steps": 2, "mixing": options["mixing"], "keep": options.get("keep", 1)}
    assert {key: getattr(method, key) for key in wanted} == wanted
    assert method.single_threshold == options.get("single_threshold", False)
    artifact = lapilli.compile(network, calibration=images().numpy(), method=method)
    assert lapilli.verify(artifact, images(2).numpy(), backends=("reference",)).ok
    kinds = {type(p.neuron).__name__ for p in artifact.netlist.populations}
    # Mixed steps are unrolled: each is a window of its own. One threshold is plain rate coding.
    unlike = {"SoftResetIF", "MultiThreshold", "Window"}
    assert kinds & unlike == {kind}


@pytest.mark.parametrize("mixing", ["none", "full"])
def test_the_netlist_sends_the_networks_spikes(mixing: str) -> None:
    """Of weights on a grid, which eight bits do not change: in every step of every layer."""
    network = grid_networks.on_grid(
        grid_networks.Residual(lambda name: QCFS(1, 4.0), 127 / 128 if mixing == "none" else 1.0),
        seed=0,
        single=mixing == "full",
    )
    x = grid_networks.images(6)
    own = LmHt(2, 2, mixing=mixing, start="qcfs")  # type: ignore[arg-type]
    spiking = lm_ht_network(network, own, torch.from_numpy(x))
    sent = grid_networks.assert_same_spikes(spiking, x)
    assert all(spikes.any() for spikes in sent.values())


@pytest.mark.parametrize(
    ("options", "where", "says"),
    [
        ({"start": "qcfs"}, "option lm-ht.start", "relu_1"),
        ({"quantised": "some.safetensors"}, "option lm-ht.quantised", "start = 'qcfs'"),
        ({"keep": 1.5}, "option lm-ht.keep", "1.5"),
        ({"mixing": "some"}, "option mixing", "causal"),
        ({"mixing": "full", "steps": 17}, "option mixing", "17 steps"),
        ({"start": "warm"}, "option lm-ht.start", "direct"),
        ({"single_threshold": True, "mixing": "full"}, "option single_threshold", "mixing"),
        (
            {"single_threshold": True, "learn_keep": True},
            "option lm-ht.single_threshold",
            "learn_keep",
        ),
    ],
)
def test_refused(options: dict[str, Any], where: str, says: str) -> None:
    with pytest.raises(InputError) as refused:
        planned(**options)
    assert refused.value.where == where
    assert says in str(refused.value)


def test_a_network_with_one_activation_that_is_no_qcfs_is_named() -> None:
    half = substituted(
        Net().eval(),
        lambda place, *_: QCFS(4, 1.0) if place != "relu_1" else nn.ReLU(),
        images().numpy(),
    )
    with pytest.raises(InputError, match="relu_1"):
        planned(half, start="qcfs")
