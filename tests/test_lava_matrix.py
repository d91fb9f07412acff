"""Every process model, in integers and in floats, step by step what `compiler.neurons` says.

All populations of a tag run in one Lava network, hundreds of neurons each, over drives at the ends
of 24 and of 32 bits; `tests/test_oracles.py` holds the same steps against Python integers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import edge_neurons
import lava_matrix as matrix
import numpy as np
import pytest

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons import (
    LIF,
    MODELS,
    GradedMax,
    LavaDelta,
    LavaSigmaDelta,
    NeuronModel,
    Product,
    Readout,
    Source,
)

pytestmark = pytest.mark.lava
SCRIPT = str(Path(matrix.__file__))
INTEGERS_ONLY = {LIF, LavaDelta, LavaSigmaDelta, GradedMax, Product}
"""Lava's own arithmetic, and packed counts: both are of bits."""


@pytest.fixture(scope="module", params=["fixed_pt", "floating_pt"])
def ran(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    """The tag, and where the run has left its arrays."""
    directory = tmp_path_factory.mktemp(request.param)
    command = [sys.executable, SCRIPT, request.param, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return request.param, directory


def timeline(tag: str) -> Array:
    """The drive of every step of the run, gaps included, (steps, neurons)."""
    x = matrix.drives(tag)
    whole = np.zeros((matrix.WINDOWS, matrix.WINDOW + matrix.GAP, matrix.SIZE), x.dtype)
    whole[:, : matrix.WINDOW] = x
    return whole.reshape(matrix.STEPS, matrix.SIZE)


def expected(neuron: NeuronModel, drive: Array, offset: int) -> dict[str, Array]:
    """States and spikes (windows, window, neurons), and every variable after the last step."""
    shape = (matrix.WINDOWS, matrix.WINDOW, matrix.SIZE)
    found = {kind: np.zeros(shape, drive.dtype) for kind in matrix.KINDS}
    start = neuron.start((matrix.SIZE,))
    state = {name: values.astype(drive.dtype) for name, values in start.items()}
    for local in range(matrix.STEPS - offset):
        image, tau = divmod(local, matrix.WINDOW + matrix.GAP)
        if tau < matrix.WINDOW:
            state, spikes = neuron.step(state, drive[local + offset], tau, matrix.WINDOW)
            found["states"][image, tau], found["spikes"][image, tau] = state["v"], spikes
    return {**found, **state}


def test_every_model_has_a_process_in_integers_and_where_it_makes_sense_in_floats() -> None:
    kinds = {tag: {type(n) for n in matrix.neurons(tag).values()} for tag in ("fixed_pt", "float")}
    assert kinds["fixed_pt"] | {Source} == set(MODELS)
    assert kinds["float"] | {Source} | INTEGERS_ONLY == set(MODELS)


def test_states_spikes_and_vars_of_every_step(ran: tuple[str, Path]) -> None:
    tag, directory = ran
    drive = timeline(tag)
    for index, (name, neuron) in enumerate(matrix.neurons(tag).items()):
        wanted = expected(neuron, drive, index % matrix.OFFSETS)
        for kind, values in wanted.items():
            found = np.load(matrix.file(directory, name, kind))
            np.testing.assert_array_equal(found, values, f"{tag}, {name}: {kind}")
        assert wanted["spikes"].any() != isinstance(neuron, Readout), name
        if tag == "fixed_pt" and not isinstance(neuron, (LavaDelta, LavaSigmaDelta)):
            assert abs(wanted["states"]).max() == edge_neurons.TOP, f"{name} never saturates"
        elif tag == "floating_pt":
            assert (wanted["states"] % 1).any(), f"{name} could as well be of integers"


def test_drives_reach_the_ends() -> None:
    drive = matrix.drives("fixed_pt")
    for limit in (edge_neurons.TOP, 2**31 - 1):
        assert {limit, -limit} <= set(drive.reshape(-1).tolist())
