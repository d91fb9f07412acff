"""Relays: what waits longer than the chip can delay it arrives unchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sample_networks import METHODS, images, network
from torch import nn
from torch.nn import functional

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import NetlistError
from lapilli.hardware_profiles import Profile, load

LIMIT = 1  # step that the chip of these tests can delay


def slow(name: str, limit: int = LIMIT) -> Profile:
    """A chip that delays by no more than `limit` steps."""
    profile = load(name)
    delay = profile.limits.max_delay_steps
    assert delay is not None
    return replace(
        profile, limits=replace(profile.limits, max_delay_steps=replace(delay, value=limit))
    )


def compiled(network_name: str, method: str, profile: Profile, signed: bool = False) -> Artifact:
    return lapilli.compile(
        network(network_name),
        calibration=images(network_name, 40, signed=signed),
        method=METHODS[method][0],
        profile=profile,
    )


@pytest.mark.parametrize(
    ("name", "method"),
    [("dense", "graded"), ("dense", "sigma-delta")],
)
@pytest.mark.parametrize("signed", [False, True])
def test_relays_change_no_count(name: str, method: str, signed: bool) -> None:
    profile = METHODS[method][1]
    direct = compiled(name, method, load(profile), signed)
    relayed = compiled(name, method, slow(profile), signed)
    assert max(c.delay for c in direct.netlist.connections) > LIMIT
    assert max(c.delay for c in relayed.netlist.connections) <= LIMIT
    relays = {p.name for p in relayed.netlist.populations if ".relay" in p.name}
    assert relays
    samples = images(name, 3, seed=5, signed=signed)
    expected = lapilli.run(direct, samples, record="counts")
    for backend in ("reference", "quantised-ann"):
        found = lapilli.run(relayed, samples, backend=backend, record="counts")
        assert set(found.counts) == set(expected.counts) | relays
        for population, counts in found.counts.items():
            source = population.split(".relay")[0]
            np.testing.assert_array_equal(counts, expected.counts[source], err_msg=population)
        np.testing.assert_equal(found.outputs, expected.outputs)


def test_relays_step_by_step() -> None:
    """The stepwise engine and the one pass agree, relays included."""
    net = compiled("dense", "graded", slow("loihi2"))
    assert lapilli.verify(net, images("dense", 2, seed=5), backends=("reference",)).ok


def test_targets_that_wait_share_relays() -> None:
    net = compiled("dense", "graded", slow("loihi2"))
    names = [p.name for p in net.netlist.populations]
    assert len(names) == len(set(names))
    for p in net.netlist.populations:
        if ".relay" in p.name:
            assert len(net.netlist.into(p.name)) == 1


def test_rates_have_no_relays() -> None:
    with pytest.raises(NetlistError, match="delays a spike by at most 1 steps"):
        compiled("dense", "rate", slow("loihi1"))


def test_sorted_spikes_pass_through_gates_and_relays() -> None:
    """Unary spikes of pools wait, too: several windows, where the chip delays by fewer steps."""
    torch.manual_seed(0)
    model = Detour().eval()
    samples = np.random.default_rng(0).random((20, 2, 8, 8)).astype(np.float32)
    limit = 8
    method = lapilli.methods.Parallel(levels=4, coding="unary")
    direct, relayed = (
        lapilli.compile(model, calibration=samples, method=method, profile=profile)
        for profile in (load("loihi1"), slow("loihi1", limit))
    )
    assert max(c.delay for c in direct.netlist.connections) > limit
    assert max(c.delay for c in relayed.netlist.connections) <= limit
    expected, found = (lapilli.run(net, samples[:3]) for net in (direct, relayed))
    for name, counts in found.counts.items():
        np.testing.assert_array_equal(
            counts, expected.counts[name.split(".relay")[0]], err_msg=name
        )
    assert any(".relay" in name for name in found.counts)
    assert lapilli.verify(relayed, samples[:1], backends=("reference",)).ok


class Detour(nn.Module):
    """A pool's output, and the same through five layers more."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 3, 3)
        self.detour = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))
        self.last = nn.Conv2d(6, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = x = functional.max_pool2d(functional.relu(self.first(x)), 2)
        for layer in self.detour:
            x = functional.relu(layer(x))
        maps: torch.Tensor = self.last(torch.cat([x, kept], dim=1))
        return maps
