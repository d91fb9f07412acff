"""The naive oracle against the definitions and the reference engine: all tell the same."""

from __future__ import annotations

import netlists
import numpy as np
import oracle_neurons
import oracles
import pytest
from edge_neurons import BUILDERS, STEPS, TOP, drives
from netlists import ALL_CODINGS, CODINGS, Coding

from lapilli.compiler.linear import FORMS, LinearMap
from lapilli.compiler.neurons import MODELS, STATE_BITS, LavaDelta, LavaSigmaDelta, Source
from lapilli.compiler.numerics import signed_range
from lapilli.runtime import reference

SIZE = 1000


def test_every_model_is_here() -> None:
    assert {name.split()[0] for name in BUILDERS} == {model.__name__ for model in MODELS}
    assert signed_range(STATE_BITS) == (-TOP, TOP) == (-oracle_neurons.TOP, oracle_neurons.TOP)


@pytest.mark.parametrize("name", BUILDERS)
def test_neuron_step_at_the_edges_of_24_bits(name: str) -> None:
    rng = np.random.default_rng(11)
    model, steps = BUILDERS[name](rng, SIZE), STEPS
    naive = oracle_neurons.neurons(netlists.population("", (SIZE,), model))
    state = model.start((SIZE,))
    saturated = set()
    for local, drive in enumerate(drives(rng, SIZE, windows=3).reshape(-1, SIZE)):
        state, spikes = model.step(state, drive, local % steps, steps)
        pairs = zip(naive, drive.tolist(), strict=True)
        expected = [neuron.step(a, local % steps, steps) for neuron, a in pairs]
        assert spikes.tolist() == expected
        assert state["v"].tolist() == [neuron.v for neuron in naive]
        saturated |= {-TOP, TOP - 1, TOP} & set(state["v"].tolist())
    assert isinstance(model, (Source, LavaDelta, LavaSigmaDelta)) or -TOP in saturated


@pytest.mark.parametrize("form", FORMS)
def test_maps(form: type[LinearMap]) -> None:
    rng = np.random.default_rng(12)
    for _ in range(20):
        linear_map = netlists.random_map(rng, form, (4, 7, 6))
        x = rng.integers(-9, 10, linear_map.in_shape)
        found = oracles.synapses(linear_map)
        expected = oracles.mapped(found, 0, x.reshape(-1).tolist(), linear_map.out_size)
        wide = linear_map.with_weight(linear_map.weight.astype(np.int64))
        assert wide.apply(x[np.newaxis]).reshape(-1).tolist() == expected
        assert (wide.to_sparse() @ x.reshape(-1)).tolist() == expected
        fan_out = np.bincount([j for _, j, _ in found], minlength=linear_map.in_size)
        assert wide.fan_out().reshape(-1).tolist() == fan_out.tolist()


@pytest.mark.parametrize(
    ("coding", "seed"), [(c, s) for c in ALL_CODINGS for s in range(8 if c in CODINGS else 1)]
)
def test_reference_engine_on_random_networks(coding: Coding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    netlist = netlists.random_netlist(rng, coding)
    inputs = netlists.random_inputs(rng, netlist, 3)
    trace = reference.run(netlist, inputs, record="states")
    expected = oracles.simulate(netlist, inputs)
    assert trace.spikes
    for name, spikes in trace.spikes.items():
        np.testing.assert_array_equal(spikes, expected.spikes[name], name)
    assert len(trace.states) == len(netlist.populations) - 1
    for name, states in trace.states.items():
        np.testing.assert_array_equal(states, expected.states[name], name)
