"""Planes summed by relays in front of dense layers: another netlist, and the same numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from chips import chip, quantity
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from netlists import ALL_CODINGS, Coding, proven, random_inputs, random_netlist

import lapilli
from lapilli.compiler.errors import NetlistError
from lapilli.compiler.linear import Dense, frozen
from lapilli.compiler.mapping.pooling_relays import pool_with_relays
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Relay
from lapilli.hardware_profiles import Profile, load
from lapilli.runtime import reference

CHIP = chip(payload_bits=None)
SUMMED = [coding for coding in ALL_CODINGS if not coding.startswith("relays")]
"""Not those with relays of their own: other weights break the bounds that these have proven."""


def pooled(rng: np.random.Generator, coding: Coding) -> tuple[Netlist, int]:
    """A random netlist in which dense layers weigh a channel's positions alike, and how many."""
    netlist = random_netlist(rng, coding)
    connections, made = [], 0
    for c in netlist.connections:
        shape = netlist[c.source].shape
        if len(shape) == 3 and not c.recurrent and not netlist[c.target].neuron.POOLS:
            weights = rng.integers(-2, 3, (c.map.out_size, shape[0], 1))
            weights = np.broadcast_to(weights, (*weights.shape[:2], shape[1] * shape[2]))
            dense = frozen(weights.reshape(c.map.out_size, -1), np.int8)
            alike = Dense(dense, shape, c.map.out_shape)
            connections.append(replace(c, map=alike, weight_scale=frozen(1.0)))
            inputs = shape[0] * shape[1] * shape[2]
            summed = inputs + c.map.out_size * shape[0]
            made += summed < c.map.out_size * inputs  # fewer synapses
        else:
            connections.append(c)
    return proven(replace(netlist, connections=tuple(connections))), made


def relays(netlist: Netlist) -> list[str]:
    return [p.name for p in netlist.populations if isinstance(p.neuron, Relay)]


@pytest.mark.parametrize("coding", SUMMED)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_population_does_what_it_did(coding: Coding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    try:
        whole, made = pooled(rng, coding)
        whole.verify()
    except NetlistError:
        assume(False)  # the new weights are too much for its 24 bits
    found = pool_with_relays(whole, CHIP)
    found.verify()
    assert made
    assert len(relays(found)) - len(relays(whole)) == made
    inputs = random_inputs(rng, whole, 2)
    before, after = (reference.run(n, inputs, record="counts") for n in (whole, found))
    for kind in ("counts", "readouts"):
        wanted, got = getattr(before, kind), getattr(after, kind)
        assert set(wanted) <= set(got)
        assert wanted
        for name, values in wanted.items():
            np.testing.assert_array_equal(got[name], values, name)


def test_a_global_pooling_becomes_small_again() -> None:
    """A network as users have it: what was one matrix over all positions is one over channels."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 6, 3),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(6, 10),
    ).eval()
    images = torch.rand(16, 1, 9, 9)
    method = lapilli.methods.Parallel(levels=8)
    net = lapilli.compile(network, calibration=images, method=method, profile="loihi2")
    (folded,) = net.netlist.into(net.netlist.outputs[0].name)
    placed = lapilli.place(net, profile="loihi2").netlist
    (dense,) = placed.into(net.netlist.outputs[0].name)
    assert (folded.map.weight.size, dense.map.weight.size) == (10 * 6 * 49, 10 * 6)
    assert relays(placed) == [dense.source]
    found = lapilli.run(replace(net, netlist=placed), images)
    assert (found.outputs == lapilli.run(net, images).outputs).all()


def without(profile: Profile, **features: object) -> Profile:
    changed = {name: quantity(value) for name, value in features.items()}
    return replace(profile, features=replace(profile.features, **changed))


def test_no_relay_where_the_chip_has_none_or_sums_do_not_fit() -> None:
    netlist, made = pooled(np.random.default_rng(3), "graded")
    assert made
    assert pool_with_relays(netlist, without(CHIP, relay_populations=False)) is netlist
    narrow = chip(payload_bits=2)
    assert not relays(pool_with_relays(netlist, narrow))
    assert relays(pool_with_relays(netlist, load("loihi2")))


def test_weights_that_differ_stay_together() -> None:
    netlist, _ = pooled(np.random.default_rng(3), "graded")
    connections = []
    for c in netlist.connections:
        weight = np.array(c.map.weight)
        if isinstance(c.map, Dense):
            weight[0, -1] += 1
        connections.append(replace(c, map=c.map.with_weight(frozen(weight))))
    netlist = proven(replace(netlist, connections=tuple(connections)))
    assert pool_with_relays(netlist, CHIP) is netlist
