"""Events of each step, one by one, against what the engine counts on the way."""

from __future__ import annotations

from typing import Any

import netlists
import numpy as np
import oracles
import pytest
import sample_networks
from counted_cases import brings_spikes, case, two_at_a_time
from netlists import Coding

import lapilli
from lapilli.compiler.linear import frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import OrGate, SigmaDelta
from lapilli.runtime import reference, step_events

IMAGES = 5


def one_by_one(netlist: Netlist, result: oracles.Result, name: str) -> tuple[Any, Any]:
    """(images, steps) of spikes that it sends and of synaptic operations that reach it."""
    steps = netlist.steps
    spikes = np.zeros((IMAGES, steps), np.int64)
    synops = np.zeros((IMAGES, steps), np.int64)
    for image, sent in enumerate(result.spikes[name]):
        for step, values in enumerate(sent.reshape(steps, -1).tolist()):
            spikes[image, step] = sum(value != 0 for value in values)
    for c in netlist.into(name):
        if not brings_spikes(netlist, c):
            continue
        for _, source, _ in oracles.synapses(c.map):
            synops += result.spikes[c.source].reshape(IMAGES, steps, -1)[..., source] != 0
    return spikes, synops


@pytest.mark.parametrize("coding", netlists.ALL_CODINGS)
def test_equal_to_counting_one_by_one(coding: Coding, monkeypatch: pytest.MonkeyPatch) -> None:
    netlist, inputs, result = case(coding, IMAGES)
    two_at_a_time(monkeypatch, netlist)
    trace = reference.run(netlist, inputs, record="outputs", step_events=True)
    assert list(trace.step_events) == list(trace.events)
    for name, found in trace.step_events.items():
        if found is None:
            assert netlist.one_pass and netlist.steps > 1, name
            continue
        spikes, synops = one_by_one(netlist, result, name)
        assert found.images == IMAGES
        for counts, sums, spread in (
            (spikes, found.spikes, found.spikes_percentiles),
            (synops, found.synops, found.synops_percentiles),
        ):
            assert sums.tolist() == counts.sum(0).tolist(), name
            ordered = np.sort(counts, axis=0)
            assert spread is not None
            # Of five images the least, the middle and the largest.
            assert spread.tolist() == ordered[[0, 2, 4]].tolist(), name
        assert sums.sum() == trace.events[name].synops


def test_every_order_of_a_window_occurs_and_is_known() -> None:
    found: dict[str, set[Any]] = {}
    for coding in ("graded", "unary", "unary-last", "sorted or", "sorted or, last", "relays"):
        netlist, inputs, _ = case(coding, IMAGES)
        assert netlist.one_pass
        found[coding] = set(step_events.orders(netlist).values())
        events = reference.run(netlist, inputs, step_events=True).step_events
        assert None not in events.values()
    assert found["graded"] == {"at once"}
    assert "first" in found["unary"] and "last" in found["unary-last"]
    assert found["sorted or"] >= {"first"} and found["sorted or, last"] >= {"last"}


def test_steps_that_nobody_knows_are_none() -> None:
    """Differences of a count between spikes that come one by one; gates of two orders."""
    changes = SigmaDelta(*[frozen(1, np.int64)] * 3, levels=3)
    assert step_events._order(changes, {"at once"}) == "at once"
    assert step_events._order(changes, {"first"}) is None
    assert step_events._order(OrGate(), {"first", "at once"}) == "first"
    assert step_events._order(OrGate(), {"first", "last"}) is None
    assert step_events._order(OrGate(), {"first", None}) is None
    netlist, inputs, _ = case("unary", IMAGES)
    one, other = (p for p in netlist.populations[1:3])
    tally = step_events.StepTally(netlist, IMAGES, {})
    tally.unknown(one)
    tally.add(one, slice(0, 1), np.ones((1, 1, 1), np.int64))
    tally.add(other, slice(0, 1), np.ones((1, 1, 1), np.int64))
    found = tally.events({one.name: [], other.name: []})
    assert found[one.name] is None
    assert found[other.name] is not None and found[other.name].spikes[0] == 1
    assert reference.run(netlist, inputs).step_events == {}


def test_many_images_have_sums_only(monkeypatch: pytest.MonkeyPatch) -> None:
    netlist, inputs, _ = case("rate", IMAGES)
    whole = reference.run(netlist, inputs, step_events=True).step_events
    monkeypatch.setattr(step_events, "MOST_ROWS", 1)
    sums = reference.run(netlist, inputs, step_events=True).step_events
    for name, events in whole.items():
        few = sums[name]
        assert events is not None and few is not None
        assert events.spikes_percentiles is not None
        assert few.spikes_percentiles is None and few.synops_percentiles is None
        assert few.spikes.tolist() == events.spikes.tolist()


def test_an_image_that_ends_early_sends_nothing_later() -> None:
    artifact = sample_networks.compiled("vectors", "rate")
    images = sample_networks.images("vectors", 20, seed=5)
    trace = lapilli.run(artifact, images, stop=lapilli.EarlyStop(1e-9), step_events=True)
    assert trace.stopped is not None and trace.stopped.max() < artifact.netlist.steps
    for name, events in trace.step_events.items():
        assert events is not None
        assert not events.spikes[trace.stopped.max() :].any()
        assert events.spikes.sum() == trace.events[name].spikes
