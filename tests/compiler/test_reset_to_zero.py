"""Rate coding with reset to zero: what it computes, what it loses, and networks for netx."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import sample_networks
import torch
from hypothesis import given
from hypothesis import strategies as st

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import NetlistError, StateOverflowError
from lapilli.compiler.linear import frozen
from lapilli.compiler.neurons import HardResetIF, Interval, NeuronModel, SoftResetIF
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.passes.convert_rate import Rate

ZERO = frozen(0, np.int64)


def counts(model: NeuronModel, drive: Int64Array) -> Int64Array:
    """Spikes in one window of drive (steps, *shape)."""
    state, total = model.start(drive.shape[1:]), np.zeros(drive.shape[1:], np.int64)
    for tau in range(len(drive)):
        state, sent = model.step(state, drive[tau], tau, len(drive))
        total = total + sent
    return total


@given(st.integers(1, 500), st.integers(1, 600), st.integers(1, 300))
def test_a_constant_drive_fires_every_so_many_steps(theta: int, a: int, steps: int) -> None:
    """r = 1 / ceil(theta / a): Rueckauer et al. 2016, reset to zero, without the transient."""
    model = HardResetIF(frozen(theta, np.int64), ZERO, ZERO)
    found = counts(model, np.full((steps, 1), a))
    assert found.tolist() == [steps // math.ceil(theta / a)]


def test_never_more_spikes_than_with_a_soft_reset() -> None:
    rng = np.random.default_rng(0)
    size = 5000
    theta = frozen(rng.integers(1, 80, size), np.int64)
    bias, initial = (frozen(rng.integers(-9, 9, size), np.int64) for _ in range(2))
    drive = rng.integers(-60, 90, (12, size))
    hard = counts(HardResetIF(theta, bias, initial), drive)
    soft = counts(SoftResetIF(theta, bias, initial), drive)
    assert (hard <= soft).all()
    assert (hard < soft).mean() > 0.3


def test_the_reach_of_a_hard_reset_is_met() -> None:
    """Always down; and up, from one below the threshold."""
    model = HardResetIF(*(frozen(x, np.int64) for x in (10, -3, 5)))
    drive = Interval(np.array(-4), np.array(25))
    interval = model.reach(drive, Interval(4 * drive.low, 4 * drive.high), 4)
    assert int(interval.low) == -4 * 7
    state = model.start((1,))
    for tau in range(4):
        state, _ = model.step(state, np.array([-4]), tau, 4)
    assert state["v"].tolist() == [5 - 4 * 7]
    assert int(interval.high) == 9 + 22  # 7 on top of 5 gives 12: charge does not pile up


@functools.lru_cache
def compiled(method: Rate, profile: str = "netx", name: str = "chain") -> Artifact:
    network, images = sample_networks.network(name), sample_networks.images(name, 20)
    return lapilli.compile(network, calibration=images, method=method, profile=profile)


@pytest.mark.parametrize("initial", ["half", "zero"])
@pytest.mark.parametrize("profile", ["netx", "loihi1", "loihi2"])
def test_the_netlist_resets_to_zero_and_starts_there(profile: str, initial: str) -> None:
    method = Rate(steps=16, reset="zero", input_bits=4, initial=initial)  # type: ignore[arg-type]
    netlist = compiled(method, profile).netlist
    spiking = [p.neuron for p in netlist.populations[1:-1]]
    assert spiking and all(isinstance(neuron, HardResetIF) for neuron in spiking)
    assert not any(vars(neuron)["initial"].any() for neuron in spiking)


def test_headroom_multiplies_thresholds_and_lowers_rates() -> None:
    images = sample_networks.images("chain", 20)
    rates = []
    for headroom in (1.0, 2.0, 4.0):
        artifact = compiled(Rate(steps=32, reset="zero", headroom=headroom), "loihi2")
        trace = lapilli.run(artifact, images)
        inner = [p.name for p in artifact.netlist.populations[1:-1]]
        rates.append([float(trace.counts[name].mean()) / 32 for name in inner])
        scales = [float(np.max(artifact.netlist[name].count_scale)) for name in inner]
        if headroom == 1.0:
            base = scales
        assert scales == pytest.approx([headroom * scale for scale in base])
    first, second, third = np.array(rates)
    assert (first > second).all() and (second > third).all()


def deviation(method: Rate) -> float:
    """Mean error of the outputs, in units of the float network's."""
    network, images = sample_networks.network("chain"), sample_networks.images("chain", 8)
    with torch.no_grad():
        exact = network.eval()(torch.from_numpy(images)).numpy()
    found = np.asarray(lapilli.run(compiled(method, "unlimited"), images).outputs)
    return float(np.abs(found - exact).mean() / np.abs(exact).mean())


def test_what_is_lost_does_not_come_back_with_steps_but_with_headroom() -> None:
    few, many = (deviation(Rate(steps=t, reset="zero")) for t in (16, 256))
    soft = deviation(Rate(steps=256))
    room = deviation(Rate(steps=256, reset="zero", headroom=8.0))
    assert soft < many / 4
    assert many > few / 4  # an error that falls as 1 / T would be a sixteenth
    assert room < many / 2


def test_networks_for_netx_respect_the_format() -> None:
    netlist = compiled(Rate(steps=16, reset="zero", input_bits=4)).netlist
    assert {c.exponent for c in netlist.connections} == {0}
    for p in netlist.populations[1:]:
        assert -(2**17) < p.state_low <= p.state_high < 2**17
        threshold = vars(p.neuron).get("threshold", ZERO)
        assert np.ptp(threshold) == 0
    peaks = [int(np.abs(c.map.weight.astype(np.int64)).max()) for c in netlist.connections]
    assert max(peaks) == 127
    assert min(peaks) >= 7


def test_what_netx_cannot_carry_is_refused_when_it_is_compiled() -> None:
    with pytest.raises(NetlistError, match=r"netx sends binary spikes only"):
        compiled(lapilli.methods.Parallel(levels=4))
    with pytest.raises(StateOverflowError, match=r"fewer steps"):
        compiled(Rate(steps=8192, reset="zero"))


def test_exponents_keep_to_the_profile() -> None:
    method = Rate(steps=16, reset="zero", input_bits=4)
    largest = [
        max(c.exponent for c in compiled(method, profile).netlist.connections)
        for profile in ("netx", "loihi1", "loihi2")
    ]
    assert largest[:2] == [0, 7]
    assert largest[2] > 7
