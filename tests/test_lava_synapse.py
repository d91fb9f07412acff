"""Synapses in Lava: every geometry, exponents, graded payloads, currents beyond every state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lava_synapses as user
import numpy as np
import oracles
import pytest
from oracle_neurons import TOP, Neuron

from lapilli.compiler.linear import FORMS
from lapilli.compiler.neurons import SoftResetIF

pytestmark = pytest.mark.lava

SCRIPT = Path(__file__).with_name("lava_synapses.py")


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What the program printed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.parametrize("name", user.synapses())
def test_sends_what_nested_loops_compute(seen: dict[str, Any], name: str) -> None:
    linear_map, exponent = user.synapses()[name]
    found, wired = seen["sent"][name], oracles.synapses(linear_map)
    assert found[0] == [0] * linear_map.out_size  # before the first spike has come through
    steps = np.moveaxis(user.spikes(), -1, 0).reshape(user.STEPS - 1, -1).tolist()
    for x, currents in zip(steps, found[1:], strict=True):
        assert currents == oracles.mapped(wired, exponent, x, linear_map.out_size)
    largest = max(abs(value) for currents in found for value in currents)
    assert 2**24 < largest < 2**53  # beyond float32, and exact in the sink's float64
    assert found[-1] == [0] * linear_map.out_size


def test_every_form_is_there() -> None:
    assert {type(linear_map) for linear_map, _ in user.synapses().values()} == set(FORMS)


def test_currents_beyond_24_bits_saturate_the_state(seen: dict[str, Any]) -> None:
    """Currents are not clipped, nor do they wrap: what arrives first adds up, then v saturates."""
    zero = np.zeros(())
    parameters = {"threshold": user.THRESHOLD, "bias": user.BIAS, "initial": 0}
    size = len(user.CURRENTS[0])
    neurons = [Neuron(SoftResetIF(zero, zero, zero), parameters) for _ in range(size)]
    peaks = set()
    rows = zip(user.CURRENTS, seen["saturating"]["spikes"], strict=True)
    for tau, (currents, fired) in enumerate(rows):
        pairs = zip(neurons, currents, strict=True)
        expected = [neuron.step(current, tau, user.WINDOW) for neuron, current in pairs]
        assert fired == expected
        after = zip(neurons, fired, strict=True)
        peaks |= {neuron.v + spike * user.THRESHOLD for neuron, spike in after}
    assert (min(peaks), max(peaks)) == (-TOP, TOP)
    assert seen["saturating"]["v"] == [[neuron.v for neuron in neurons]]
