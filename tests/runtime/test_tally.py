"""Every event counted one by one, in every image, against what the engine counts on the way."""

from __future__ import annotations

import dataclasses
from typing import Any

import netlists
import numpy as np
import oracles
import pytest
import sample_networks
from counted_cases import brings_spikes, case, two_at_a_time
from netlists import Coding

import lapilli
from lapilli.compiler.netlist import Netlist
from lapilli.runtime import reference
from lapilli.runtime.metrics import ImageEvents, PopulationEvents, Spread, spread, together

IMAGES = 3


def one_by_one(netlist: Netlist, result: oracles.Result, name: str) -> dict[str, Any]:
    """Events of one population: totals, and one row per image."""
    images = [dict.fromkeys(("spikes", "synops", "input_macs"), 0) for _ in range(IMAGES)]
    found = dict.fromkeys(("synops_excitatory", "synops_inhibitory", "synops_graded"), 0)
    for row, spikes in zip(images, result.spikes[name], strict=True):
        row["spikes"] = sum(s != 0 for s in spikes.reshape(-1).tolist())
    for c in netlist.into(name):
        synapses, spikes = oracles.synapses(c.map), brings_spikes(netlist, c)
        payload = netlist[c.source].neuron.payload()
        graded = min(payload) < -1 or max(payload) > 1
        for row, sent in zip(images, result.spikes[c.source], strict=True):
            for step in sent.reshape(netlist.steps, -1).tolist():
                for _, source, weight in synapses:
                    if step[source] == 0:
                        continue
                    row["synops" if spikes else "input_macs"] += 1
                    if spikes:
                        kind = "excitatory" if weight > 0 else "inhibitory"
                        found[f"synops_{kind}"] += 1
                        found["synops_graded"] += graded
    return {**found, "images": images}


def driven(netlist: Netlist, result: oracles.Result, name: str) -> int:
    """Updates of one population whose drive is not zero, from the spikes of its window."""
    total = np.zeros((IMAGES, netlist.steps, netlist[name].size), np.int64)
    for c in netlist.into(name):
        matrix = c.map.to_sparse().toarray().astype(np.int64) << c.exponent
        sent = result.spikes[c.source].reshape(IMAGES, netlist.steps, -1)
        late = c.synaptic_delay
        total[:, late:] += sent[:, : netlist.steps - late] @ matrix.T
    return int(np.count_nonzero(total))


@pytest.mark.parametrize("coding", netlists.ALL_CODINGS)
def test_equal_to_counting_one_by_one(coding: Coding, monkeypatch: pytest.MonkeyPatch) -> None:
    netlist, inputs, result = case(coding, IMAGES)
    two_at_a_time(monkeypatch, netlist)
    trace = reference.run(netlist, inputs, record="outputs")
    looped = any(c.recurrent for c in netlist.connections)
    told_apart = not looped and not (netlist.one_pass and netlist.steps > 1)
    assert list(trace.events) == list(trace.image_events)
    for name, events in trace.events.items():
        wanted = one_by_one(netlist, result, name)
        rows = wanted.pop("images")
        for field in dataclasses.fields(ImageEvents):
            counts = getattr(trace.image_events[name], field.name)
            assert counts.dtype == np.int64
            assert counts.tolist() == [row[field.name] for row in rows], (name, field.name)
            assert counts.sum() == getattr(events, field.name)
        for key, value in wanted.items():
            assert getattr(events, key) == value, (name, key)
        with_input = driven(netlist, result, name) if told_apart else None
        assert events.updates_with_input == with_input, name
        assert (with_input or 0) <= events.neuron_updates


def test_every_kind_of_event_occurs() -> None:
    """Or the test above would compare zeros."""
    found: dict[str, list[PopulationEvents]] = {}
    for coding in ("graded", "signed", "unary", "train"):
        netlist, inputs, _ = case(coding, IMAGES)
        found[coding] = list(reference.run(netlist, inputs).events.values())
    for events in found.values():
        assert sum(e.synops_excitatory or 0 for e in events) > 0
        assert sum(e.synops_inhibitory or 0 for e in events) > 0
    assert sum(e.synops_graded or 0 for e in found["graded"]) > 0
    assert all(e.synops_graded == 0 for e in found["unary"])
    assert all(e.updates_with_input is None for e in found["unary"] + found["train"])
    assert any(0 < (e.updates_with_input or 0) < e.neuron_updates for e in found["signed"])


def test_sums_beyond_float32_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    netlist, inputs, _ = case("rate", IMAGES)
    before = reference.run(netlist, inputs)
    monkeypatch.setattr("lapilli.runtime.tally.FLOAT32_EXACT", 1)
    after = reference.run(netlist, inputs)
    assert after.events == before.events
    for name, events in before.image_events.items():
        np.testing.assert_array_equal(events.synops, after.image_events[name].synops)


def test_an_image_that_ends_early_has_fewer_events() -> None:
    artifact = sample_networks.compiled("vectors", "rate")
    images = sample_networks.images("vectors", 20, seed=5)
    whole = lapilli.run(artifact, images)
    trace = lapilli.run(artifact, images, stop=lapilli.EarlyStop(1e-9))
    assert trace.stopped is not None and trace.stopped.min() < artifact.netlist.steps
    for name, events in trace.image_events.items():
        assert trace.events[name].spikes == events.spikes.sum()
        assert (events.synops <= whole.image_events[name].synops).all()
        assert trace.events[name].updates_with_input is None


def test_percentiles_are_counts_that_occurred() -> None:
    counts = np.arange(200, 0, -1) * 10
    assert spread(counts) == Spread(1005.0, 10, 100, 1000, 1900, 1980, 2000)
    assert spread(np.array([7])) == Spread(7.0, 7, 7, 7, 7, 7, 7)


def test_events_of_all_populations_together() -> None:
    one = ImageEvents(np.array([1, 2]), np.array([3, 4]), np.array([0, 9]))
    both = together({"a": one, "b": one})
    assert both.spikes.tolist() == [2, 4]
    assert both.synops.tolist() == [6, 8]
    assert both.input_macs.tolist() == [0, 18]
