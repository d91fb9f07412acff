"""Layers in place of activations, however these are written, and networks of spiking layers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import lapilli
from lapilli.compiler.errors import CaptureError
from lapilli.layers import IF, QCFS, MultiThreshold, SpikingNetwork, substituted


class Written(nn.Module):
    """An activation in every way that it can be written; a module called at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.six = nn.ReLU6()
        self.relu = "a name that is taken"
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        x = F.relu(x - 0.1) + x
        x = torch.relu(0.5 - x) + (x - 0.2).relu()
        x = F.relu(x - 0.1, inplace=True)
        x = torch.relu_(x - 0.05) * 2
        x = self.act(x - 0.1)
        x = self.six(x) + F.relu6(x - 0.1) + (x - 0.1).relu_()
        x = F.avg_pool2d(x, x.size()[3])  # as the published ResNets of CIFAR
        return self.fc(self.drop(x).view(x.size(0), -1))


class Kept(nn.Module):
    """Computes what was there, so that a network with it stays the same; counts its calls."""

    def __init__(self, place: str, largest: Tensor) -> None:
        super().__init__()
        self.place, self.largest = place, largest
        self.called = 0

    def forward(self, x: Tensor) -> Tensor:
        self.called += 1
        return x.clamp(0.0, 6.0 if self.place in ("six", "relu6") else None)


def written(seed: int = 0) -> Written:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Written()


def images(count: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((count, 1, 6, 6)).astype(np.float32)


def kept(place: str, channels: int, largest: Tensor) -> nn.Module:
    assert largest.shape == (channels,)
    return Kept(place, largest)


PLACES = ["act.0", "relu_1", "relu_2", "relu_3", "relu_4", "relu_5", "act.1"]
SIXES = ["six", "relu6", "relu_6"]


def test_every_way_of_writing_it_gets_a_layer_of_its_own() -> None:
    network = written()
    made = substituted(network, kept, images(70))
    layers = [m for m in made.modules() if isinstance(m, Kept)]
    assert sorted(m.place for m in layers) == sorted(PLACES + SIXES)
    assert [name for name, m in made.named_modules() if isinstance(m, Kept)] == [
        m.place for m in layers
    ]
    # Another batch size, in training, too.
    x = torch.from_numpy(images(3, 1))
    assert torch.equal(made.eval()(x), network.eval()(x))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        expected = network.train()(x)
        torch.manual_seed(1)
        assert torch.equal(made.train()(x), expected)
    assert [m.called for m in layers] == [2] * len(layers)


def test_places_are_made_in_the_order_of_the_calls_and_measured_on_all_images() -> None:
    places: dict[str, Tensor] = {}

    def make(place: str, channels: int, largest: Tensor) -> nn.Module:
        places[place] = largest
        return Kept(place, largest)

    network, x = written(), images(70)
    substituted(network, make, x)
    assert list(places) == [*PLACES, *SIXES]
    network.eval()
    first = network.norm(network.conv(torch.from_numpy(x))).relu().amax((0, 2, 3))
    torch.testing.assert_close(places["act.0"], first)
    assert torch.equal(places["six"].clamp_max(6), places["six"])


def test_the_network_itself_stays_and_names_of_parameters_do() -> None:
    network = written()
    before = copy.deepcopy(network.state_dict())
    made = substituted(network, lambda p, c, largest: MultiThreshold(2, 2, 1.0), images(9))
    assert isinstance(network.act, nn.ReLU)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(made.state_dict()[name], value)
    assert made.training == network.training
    made.load_state_dict(before, strict=False)


def test_copies_are_independent_networks() -> None:
    made = substituted(written(), kept, images(9)).eval()
    clone = copy.deepcopy(made)
    x = torch.from_numpy(images(4))
    expected = made(x)
    calls = [m.called for m in made.modules() if isinstance(m, Kept)]
    assert torch.equal(clone(x), expected)
    assert [m.called for m in made.modules() if isinstance(m, Kept)] == calls


def test_it_is_captured_with_its_layers() -> None:
    made = substituted(written(), lambda p, c, m: QCFS(4, m.clamp_min(0.25)), images(30))
    net = lapilli.compile(made, calibration=images(30), method=lapilli.methods.Parallel(levels=4))
    names = {p.name for p in net.netlist.populations}
    assert names == {"input", "fc", *PLACES, *SIXES}
    assert lapilli.verify(net, images(3), backends=("reference",)).ok


def test_a_trained_staircase_hands_its_thresholds_on() -> None:
    """Hybrid training: QCFS first, then spikes that start with what it learned."""
    thresholds = iter(torch.arange(1, 11) / 4)
    quantised = substituted(written(), lambda p, c, m: QCFS(4, next(thresholds)), images(9))
    found: dict[str, Tensor] = {}

    def make(place: str, channels: int, largest: Tensor) -> nn.Module:
        assert channels == 4
        found[place] = largest
        return MultiThreshold(2, 2, largest, "full")

    trained = SpikingNetwork(substituted(quantised, make, images(9)), 2)
    assert list(found) == [*PLACES, *SIXES]
    assert [float(t) for t in found.values()] == [i / 4 for i in range(1, 11)]
    assert set(trained.layers()) == set(found)
    net = lapilli.compile(trained.analog(), calibration=images(9), method=trained.method())
    assert {p.name for p in net.netlist.populations} >= {"act.0.t0", "relu_3.t1", "six.t0"}


def test_modules_without_functions_need_no_hook() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    made = substituted(plain, lambda p, c, m: IF(2, m.clamp_min(0.1)), np.eye(4, dtype=np.float32))
    assert isinstance(made[1], IF)  # type: ignore[index]
    assert not made._forward_hooks
    relu = nn.ReLU()
    shared = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu)
    made = substituted(shared, kept, np.eye(4, dtype=np.float32))
    assert [m.place for m in made.modules() if isinstance(m, Kept)] == ["1.0", "1.1"]
    x = torch.eye(4)
    assert torch.equal(made(x), shared(x))


def test_a_network_that_is_one_activation() -> None:
    made = substituted(nn.ReLU(), kept, np.array([[1.0, -2.0]], np.float32))
    assert isinstance(made, Kept)
    assert made.largest.tolist() == [1.0, 0.0]


class ReadAgain(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        F.relu(y, inplace=True)
        return y + 1


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x) if x.mean() > 0 else x


class Sometimes(nn.Module):
    """Calls once more on large batches."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(x)
        return F.relu(y - 1) if len(x) > 9 else y


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "read again": (ReadAgain(), "what an in-place activation overwrites is not read again"),
    "deciding": (Deciding(), "the forward can be traced by torch.fx"),
    "none": (nn.Linear(4, 2), "a network has activations to put layers in the place of"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused(name: str) -> None:
    network, rule = REFUSED[name]
    with pytest.raises(CaptureError) as caught:
        substituted(network, kept, np.eye(4, dtype=np.float32))
    assert caught.value.rule == rule
    assert caught.value.remedy


def test_other_calls_than_recorded_are_refused() -> None:
    made = substituted(Sometimes(), kept, np.eye(4, dtype=np.float32))
    with pytest.raises(CaptureError) as caught:
        made(torch.ones(10, 4))
    assert caught.value.rule == "a network calls the same activations whatever its input is"
    assert made(torch.ones(3, 4)).shape == (3, 4)  # nothing is left over of the other call
    broken: Callable[..., Any] = made
    with pytest.raises(TypeError):
        broken(torch.ones(3, 4), 1)
    assert torch.equal(torch.relu(-torch.ones(2)), torch.zeros(2))
