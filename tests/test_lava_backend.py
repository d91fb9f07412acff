"""Lava computes what a netlist means: every spike and membrane, at every step, and at the edges."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import netlists
import numpy as np
import oracle_neurons
import oracles
import pytest
from netlist_neurons import Coding
from netlists import ALL_CODINGS, CODINGS

from lapilli.compiler.linear import FORMS, Dense, DensePart, LinearMap, Sparse, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import (
    MODELS,
    NeuronModel,
    Readout,
    Relay,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.compiler.numerics import Int64Array
from lapilli.runtime.lava import runner
from lapilli.runtime.trace import Trace

pytestmark = pytest.mark.lava
IMAGES = 3
MATRIX: list[tuple[Coding, int]] = [(coding, 0) for coding in ALL_CODINGS]
MATRIX += [(coding, 1) for coding in CODINGS]
SCRIPT = str(Path(__file__).with_name("lava_worker_faults.py"))


def assert_equal_to_the_oracle(trace: Trace, netlist: Netlist, inputs: Int64Array) -> None:
    """Spikes, membranes, counts and readouts of every population."""
    expected = oracles.simulate(netlist, inputs)
    readouts = [p.name for p in netlist.outputs]
    driven = [p.name for p in netlist.populations if p is not netlist.input]
    spiking = [p.name for p in netlist.populations if p.name not in readouts]
    assert list(trace.spikes) == spiking
    assert list(trace.states) == driven
    assert (list(trace.counts), list(trace.readouts)) == (spiking, readouts)
    for name in spiking:
        np.testing.assert_array_equal(trace.spikes[name], expected.spikes[name], name)
        np.testing.assert_array_equal(trace.counts[name], expected.spikes[name].sum(1), name)
    for name in driven:
        np.testing.assert_array_equal(trace.states[name], expected.states[name], name)
    for name in readouts:
        np.testing.assert_array_equal(trace.readouts[name], expected.states[name][:, -1], name)


def test_every_model_meets_every_form() -> None:
    """One network of five populations per coding, each behind a linear map of another form."""
    met: dict[type[NeuronModel], set[type[LinearMap]]] = {}
    for coding, seed in MATRIX:
        netlist = netlists.random_netlist(np.random.default_rng(seed), coding)
        for c in netlist.connections:
            met.setdefault(type(netlist[c.target].neuron), set()).add(type(c.map))
    assert {*met, Source} == set(MODELS)
    assert met.pop(Readout) == {Dense, DensePart, Sparse}
    assert met.pop(Relay) == set(FORMS)
    assert all(forms == set(FORMS) - {DensePart} for forms in met.values()), met


@pytest.mark.parametrize(("coding", "seed"), MATRIX)
def test_random_networks_step_by_step(coding: Coding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    netlist = netlists.random_netlist(rng, coding)
    inputs = netlists.random_inputs(rng, netlist, IMAGES)
    trace = runner.run(netlist, inputs, record="states")
    assert all(count.any() for count in trace.counts.values()), "a dead network shows nothing"
    assert_equal_to_the_oracle(trace, netlist, inputs)


def test_less_is_recorded_when_less_is_asked_for() -> None:
    rng = np.random.default_rng(2)
    netlist = netlists.random_netlist(rng, "unary")
    inputs = netlists.random_inputs(rng, netlist, IMAGES)
    expected = oracles.simulate(netlist, inputs)
    calls: list[tuple[int, int]] = []
    trace = runner.run(netlist, inputs, progress=lambda *call: calls.append(call))
    assert (trace.backend, trace.spikes, trace.states, trace.events) == ("lava", {}, {}, {})
    for name, count in trace.counts.items():
        np.testing.assert_array_equal(count, expected.spikes[name].sum(1), name)
    total = runner.steps_to_run(netlist, IMAGES)
    assert [call[1] for call in calls] == [total] * len(calls)
    assert calls[-1] == (total, total)
    assert sorted(set(calls)) == calls


def test_real_units_of_several_outputs() -> None:
    rng = np.random.default_rng(3)
    netlist = netlists.random_netlist(rng)
    *others, head, side = netlist.populations
    head = dataclasses.replace(head, state_scale=frozen(0.25))
    netlist = dataclasses.replace(netlist, populations=(*others, head, side))
    inputs = netlists.random_inputs(rng, netlist, IMAGES)
    trace = runner.run(netlist, inputs, record="spikes")
    assert trace.states == {}
    assert isinstance(trace.outputs, list)
    np.testing.assert_array_equal(trace.outputs[0], trace.readouts["head"] / 4)
    np.testing.assert_array_equal(trace.outputs[1], trace.readouts["side"])


def test_population_that_nobody_listens_to_is_recorded_to_its_end() -> None:
    """Its last unary spikes leave after the last readout is complete."""
    shape, zero = (4,), netlists.integers(0)
    matrix = Dense(frozen(np.eye(4, dtype=np.int8)), shape, shape)
    unary = Window(netlists.integers(1), zero, zero, 6, "unary")
    populations = (
        netlists.population("input", shape, Source(0, 9, "first")),
        netlists.population("dead end", shape, unary),
        netlists.population("out", shape, Readout(zero, zero)),
    )
    connections = tuple(netlists.connection("input", name, matrix) for name in ("dead end", "out"))
    netlist = netlists.proven(Netlist(populations, connections, 6))
    inputs = np.array([[6, 0, 3, 9], [1, 6, 6, 2]])
    trace = runner.run(netlist, inputs, record="states")
    assert trace.counts["dead end"].tolist() == [[6, 0, 3, 6], [1, 6, 6, 2]]
    assert_equal_to_the_oracle(trace, netlist, inputs)


def at_the_edges() -> Netlist:
    """One population driven far beyond 24 bits in both directions, and back."""
    shape, size = (8,), 8
    rng = np.random.default_rng(7)
    weights = frozen(rng.integers(-128, 128, (size, size)), np.int8)
    top = oracle_neurons.TOP
    initial = netlists.integers([0, top, -top, 1, -1, top - 1, 5, -5])
    threshold = netlists.integers([1, top, top - 1, 3, 2**22, 1000, 2**20, 2])
    bias = netlists.integers([0, 1, -1, 70_000, -70_000, 0, top, -top])
    zero = netlists.integers(0)
    populations = (
        netlists.population("input", shape, Source(-(2**15), 2**15, "held")),
        netlists.population("edge", shape, SoftResetIF(threshold, bias, initial)),
        netlists.population("out", shape, Readout(zero, zero)),
    )
    connections = (
        netlists.connection("input", "edge", Dense(weights, shape, shape), 1),
        netlists.connection("edge", "out", Dense(weights, shape, shape)),
    )
    return netlists.proven(Netlist(populations, connections, 6))


def test_states_saturate_at_24_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No verified netlist gets there, so the proof is switched off on both sides.

    `test_lava_matrix.py` drives every model to the edges.
    """
    monkeypatch.setattr(Netlist, "verify", lambda self: None)
    netlist = at_the_edges()
    rng = np.random.default_rng(8)
    inputs = rng.choice([-(2**15), 2**15, 1, 0, 2**12], (6, 8))
    worker = (sys.executable, SCRIPT, "unproven")
    trace = runner.run(netlist, inputs, record="states", worker=worker)
    assert_equal_to_the_oracle(trace, netlist, inputs)
    top = oracle_neurons.TOP
    monkeypatch.setattr(oracle_neurons, "TOP", 2**62)
    free = oracles.simulate(netlist, inputs).states["edge"]
    assert free.min() < -top
    assert top < free.max()
