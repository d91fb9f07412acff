"""Networks of spiking layers: over their steps, and on their way to a netlist."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from typing import Any

import grid_networks
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lapilli
from lapilli.compiler.errors import InputError, UnsupportedOperatorError
from lapilli.layers import IF, MultiThreshold, SignedIF, SpikingNetwork

FastSNN, LMHT, Rate = lapilli.methods.FastSNN, lapilli.methods.LMHT, lapilli.methods.Rate
Pair = namedtuple("Pair", "double, single")


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = IF(1, 1.0)

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        return {"pair": Pair(2 * y, y), "list": [y, (y + 1,)]}


def test_outputs_are_means_over_the_steps() -> None:
    trained = SpikingNetwork(nn.Sequential(nn.Linear(3, 4), IF(1), nn.Linear(4, 2)), 5)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    steps = trained.per_step(x)
    assert steps.shape == (5, 7, 2)
    assert torch.equal(trained(x), steps.mean(0))
    assert trained.steps == trained.network[1].steps == 5  # type: ignore[index]
    first = trained.network(x.repeat(5, 1)).unflatten(0, (5, 7))[0]
    assert torch.equal(steps[0], first)
    assert not torch.equal(steps[0], steps[1])


def test_whatever_a_network_returns_is_a_mean() -> None:
    trained = SpikingNetwork(Several(), 4)
    found = trained(torch.tensor([[0.25, 0.5, 0.75]]))
    assert isinstance(found["pair"], Pair)
    assert found["pair"].double.tolist() == [[0.5, 1.0, 1.5]]
    assert found["list"][0].tolist() == [[0.25, 0.5, 0.75]]
    assert found["list"][1][0].tolist() == [[1.25, 1.5, 1.75]]


def test_batch_norm_and_training_see_all_steps_at_once() -> None:
    torch.manual_seed(0)  # other weights may send nothing
    trained = SpikingNetwork(nn.Sequential(nn.Linear(3, 4), IF(1), nn.BatchNorm1d(4)), 3).train()
    x = torch.rand(8, 3, generator=torch.Generator().manual_seed(0)) * 4
    outputs = trained.per_step(x)
    # Normalised outputs have the same squares, whatever the weights are: each counts differently.
    (outputs * torch.linspace(-1, 1, outputs.numel()).view_as(outputs)).sum().backward()
    norm = trained.network[2]  # type: ignore[index]
    sent = trained.network[1](trained.network[0](x.repeat(3, 1)))  # type: ignore[index]
    torch.testing.assert_close(norm.running_mean, 0.1 * sent.mean(0))
    assert trained.network[0].weight.grad.abs().sum() > 0  # type: ignore[index]


def test_the_analog_form_is_a_copy_in_evaluation_mode() -> None:
    trained = SpikingNetwork(nn.Sequential(nn.Linear(3, 4), IF(1)), 3).train()
    analog = trained.analog()
    assert (analog[1].analog, analog.training) == (True, False)  # type: ignore[index]
    assert (trained.network[1].analog, trained.network.training) == (False, True)  # type: ignore[index]
    x = torch.rand(4, 3)
    assert torch.equal(analog(x), trained(x))  # one layer is driven constantly


def chain(*layers: nn.Module) -> nn.Module:
    found: list[nn.Module] = []
    for layer in layers:
        found += [nn.Linear(3, 3), layer]
    return nn.Sequential(*found, nn.Linear(3, 2))


METHODS: dict[str, tuple[Callable[[], SpikingNetwork], object]] = {
    "if": (lambda: SpikingNetwork(chain(IF(1), IF(1)), 6), Rate(steps=6)),
    "if to zero": (
        lambda: SpikingNetwork(chain(IF(1, initial="zero", reset="zero")), 6),
        Rate(steps=6, initial="zero", reset="zero"),
    ),
    "signed": (lambda: SpikingNetwork(chain(SignedIF(1)), 7), FastSNN(levels=7, settle=False)),
    "several": (
        lambda: SpikingNetwork(chain(MultiThreshold(3, 2, mixing="causal", keep=0.5)), 2),
        LMHT(levels=3, steps=2, keep=0.5, mixing="causal"),
    ),
    "of several kinds": (
        lambda: SpikingNetwork(
            chain(MultiThreshold(3, 2), MultiThreshold(5, 2, mixing="full", keep=0.5)), 2
        ),
        LMHT(levels=5, steps=2, mixed="1=3"),
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_method_is_the_one_that_computes_what_was_trained(name: str) -> None:
    make, method = METHODS[name]
    assert make().method() == method


def test_what_fits_no_method_is_refused() -> None:
    mixtures = [
        chain(IF(2), SignedIF(2)),
        chain(IF(2), IF(2, reset="zero")),
        chain(IF(2), IF(2, initial="zero")),
    ]
    for network in mixtures:
        with pytest.raises(InputError) as caught:
            SpikingNetwork(network, 2).method()
        assert caught.value.rule == "all layers are of one kind, with one start and one reset"
    with pytest.raises(InputError) as caught:
        SpikingNetwork(nn.Linear(2, 2), 2)
    assert caught.value.rule == "a spiking network has spiking layers"
    with pytest.raises(InputError) as caught:
        SpikingNetwork(chain(MultiThreshold(2, 3, mixing="full")), 2)
    assert caught.value.rule == "the steps of layers that mix them are fixed"
    with pytest.raises(InputError):
        SpikingNetwork(chain(IF(2)), 0)


X = np.random.default_rng(0).random((20, 3)).astype(np.float32)


def compiled(trained: SpikingNetwork, method: object, calibrate: Any = None) -> Any:
    return lapilli.compile(trained.analog(), calibration=X, method=method, calibrate=calibrate)


LEAKY = SpikingNetwork(chain(MultiThreshold(3, 2, keep=0.5)), 2)
TO_ZERO = SpikingNetwork(chain(IF(2, reset="zero")), 2)
RULE = "a layer of spikes is converted to neurons that count as it was trained to"


@pytest.mark.parametrize(
    ("trained", "method"),
    [
        (LEAKY, Rate(steps=4)),
        (LEAKY, lapilli.methods.Parallel()),
        (LEAKY, lapilli.methods.SigmaDelta()),
        (LEAKY, FastSNN()),
        (LEAKY, Rate(steps=4, reset="zero")),
        (TO_ZERO, Rate(steps=4)),
        (TO_ZERO, LMHT()),
    ],
)
def test_a_method_that_counts_otherwise_is_refused(trained: SpikingNetwork, method: object) -> None:
    with pytest.raises(UnsupportedOperatorError) as caught:
        compiled(trained, method)
    assert caught.value.rule == RULE
    assert caught.value.found in ("leak (keeps 0.5)", "reset to zero")


def test_an_even_staircase_is_converted_by_every_method() -> None:
    """As a QCFS is, with the start that it was trained with."""
    for initial, half in (("half", 0.5), ("zero", 0.0)):
        trained = SpikingNetwork(chain(IF(4, 0.5, initial=initial)), 4)  # type: ignore[arg-type]
        exact = trained.analog()(torch.from_numpy(X)).detach().numpy()
        for method in (lapilli.methods.Parallel(levels=4), FastSNN(levels=4), LMHT(2, steps=2)):
            net = compiled(trained, method)
            neuron = next(p.neuron for p in net.netlist.populations if p.name == "1")
            np.testing.assert_array_equal(neuron.initial, np.floor(half * neuron.threshold))
            assert np.abs(lapilli.run(net, X).outputs - exact).max() < 0.1 * np.abs(exact).max()


def test_steps_that_mix_are_those_that_were_trained() -> None:
    trained = SpikingNetwork(chain(MultiThreshold(3, 2, mixing="full")), 2)
    with pytest.raises(InputError) as caught:
        compiled(trained, LMHT(levels=3, steps=3))
    assert (caught.value.where, caught.value.found) == ("option steps", "3 steps")


def test_nothing_is_compensated_unless_it_is_asked_for_and_known() -> None:
    even = SpikingNetwork(chain(MultiThreshold(3, 2, 0.7)), 2)
    assert compiled(even, even.method()).provenance.options["calibrate"] == "none"
    asked = compiled(even, even.method(), "least-squares")
    assert asked.provenance.options["calibrate"] == "least-squares"
    assert compiled(LEAKY, LEAKY.method(), "none").provenance.options["calibrate"] == "none"
    with pytest.raises(InputError) as caught:
        compiled(LEAKY, LEAKY.method(), "least-squares")
    assert caught.value.where == "option calibrate"
    assert caught.value.found.endswith("leak (keeps 0.5)")


def test_only_the_analog_form_is_compiled() -> None:
    trained = SpikingNetwork(chain(IF(5)), 5)
    with pytest.raises(UnsupportedOperatorError) as caught:
        lapilli.compile(trained.network, calibration=X, method=trained.method())
    assert "analog()" in caught.value.remedy
    trained = SpikingNetwork(chain(IF(2, learn_threshold=True)), 2)
    trained.network[1].threshold.data.fill_(-0.5)  # type: ignore[index]
    with pytest.raises(UnsupportedOperatorError) as caught:
        compiled(trained, trained.method())
    assert caught.value.rule == "a staircase has steps of a positive height"


@pytest.mark.lava
def test_lava_computes_what_was_trained_with_mixed_steps() -> None:
    trained = grid_networks.network(
        lambda name: MultiThreshold(2, 2, 2.0, "full", keep=0.5), 2, 1, single=True
    )
    x = grid_networks.images(6, 1)
    grid_networks.assert_same_spikes(trained, x)
    found = lapilli.verify(grid_networks.compiled(trained, x), x[:2])
    assert found.first_difference is None
    assert found.ok
