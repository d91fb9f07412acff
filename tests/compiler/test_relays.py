"""Relays: what waits longer than the chip can delay it arrives unchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sample_networks import METHODS, images, network

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import NetlistError
from lapilli.hardware_profiles import Profile, load

LIMIT = 1  # step that the chip of these tests can delay


def slow(name: str) -> Profile:
    """A chip that delays by no more than LIMIT steps."""
    profile = load(name)
    delay = profile.limits.max_delay_steps
    assert delay is not None
    return replace(
        profile, limits=replace(profile.limits, max_delay_steps=replace(delay, value=LIMIT))
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
