"""The reference engine and the quantised ANN against naive loops in Python integers.

Networks are torch modules compiled as users compile them, and random netlists with every map form.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType
from typing import get_args

import mixed_networks
import netlists
import numpy as np
import oracles
import pytest
import sample_networks
from netlists import ALL_CODINGS, CODINGS, Coding

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.frontend import capture, evaluation_copy
from lapilli.compiler.layers import MEANING
from lapilli.compiler.linear import FORMS
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import MODELS, MultiThreshold, SignedIF, SoftResetIF, Source
from lapilli.compiler.numerics import Int64Array
from lapilli.runtime import quantise_input, quantised_ann, reference
from lapilli.runtime.metrics import PopulationEvents
from lapilli.runtime.trace import RECORDS, Record, Trace

IMAGES = 3
TORCH_CASES = [
    (name, method) for name in sample_networks.NETWORKS for method in sample_networks.METHODS
]
MIXED_CASES = [
    (name, method) for name in mixed_networks.NETWORKS for method in mixed_networks.METHODS
]
RANDOM_CASES = [(c, seed) for c in ALL_CODINGS for seed in range(4 if c in CODINGS else 1)]
LEAKLESS = ("multi", 35)
"""The one random netlist of several thresholds in which no neuron leaks."""
RANDOM_CASES.append(LEAKLESS)
CASES = [*TORCH_CASES, *MIXED_CASES, *RANDOM_CASES]


def networks_of(name: str) -> ModuleType:
    """Where the torch network of that name is made."""
    return mixed_networks if name in mixed_networks.NETWORKS else sample_networks


@functools.cache
def case(kind: str, which: object) -> tuple[Netlist, Int64Array, oracles.Result]:
    """A netlist, integer inputs for it, and what the naive loops make of them."""
    if isinstance(which, str):
        if kind in mixed_networks.NETWORKS:
            options, profile = mixed_networks.METHODS[which]
            netlist = mixed_networks.compiled(kind, options, profile).netlist
        else:
            netlist = sample_networks.compiled(kind, which).netlist
        images = networks_of(kind).images(kind, IMAGES, seed=5)
        inputs, clipped = quantise_input(netlist, images)
        assert clipped < inputs.size / 10
    else:
        assert isinstance(which, int)
        rng = np.random.default_rng(which)
        coding: Coding = next(c for c in ALL_CODINGS if c == kind)
        netlist = netlists.random_netlist(rng, coding)
        inputs = netlists.random_inputs(rng, netlist, IMAGES)
    return netlist, inputs, oracles.simulate(netlist, inputs)


def names(netlist: Netlist) -> tuple[list[str], list[str], list[str]]:
    """Populations that spike, that are driven, that are read."""
    readouts = [p.name for p in netlist.outputs]
    spiking = [p.name for p in netlist.populations if p.name not in readouts]
    return spiking, [p.name for p in netlist.populations[1:]], readouts


def test_every_layer_form_and_model_occurs() -> None:
    nodes, found_forms, found_models = set(), set(), set()
    for name in (*sample_networks.NETWORKS, *mixed_networks.NETWORKS):
        made_in = networks_of(name)
        model = evaluation_copy(made_in.network(name))
        nodes |= {type(node) for node in capture(model, made_in.images(name, 3))}
    for kind, which in CASES:
        netlist, *_ = case(kind, which)
        found_forms |= {type(c.map) for c in netlist.connections}
        found_models |= {type(p.neuron) for p in netlist.populations}
    assert MEANING
    assert set(MEANING) <= nodes
    assert set(FORMS) == found_forms
    assert set(MODELS) == found_models


@pytest.mark.parametrize(("kind", "which"), CASES)
def test_spikes_and_membranes_of_every_step(kind: str, which: object) -> None:
    netlist, inputs, expected = case(kind, which)
    trace = reference.run(netlist, inputs, record="states")
    spiking, driven, readouts = names(netlist)
    assert (list(trace.spikes), list(trace.states)) == (spiking, driven)
    for name in spiking:
        np.testing.assert_array_equal(trace.spikes[name], expected.spikes[name], name)
        assert trace.spikes[name].any(), f"{name} is dead: it shows nothing"
    for name in driven:
        np.testing.assert_array_equal(trace.states[name], expected.states[name], name)
    for name in readouts:
        np.testing.assert_array_equal(trace.readouts[name], expected.states[name][:, -1], name)


@pytest.mark.parametrize(("kind", "which"), CASES)
def test_counts_and_readouts_however_much_is_recorded(kind: str, which: object) -> None:
    netlist, inputs, expected = case(kind, which)
    spiking, _, readouts = names(netlist)
    assert get_args(Record) == RECORDS
    for record in RECORDS:
        trace = reference.run(netlist, inputs, record=record)
        assert list(trace.counts) == ([] if record == "outputs" else spiking)
        assert bool(trace.spikes) == (record in ("spikes", "states"))
        assert bool(trace.states) == (record == "states")
        for name, count in trace.counts.items():
            np.testing.assert_array_equal(count, expected.spikes[name].sum(axis=1), name)
        assert list(trace.readouts) == readouts
        outputs = trace.outputs if isinstance(trace.outputs, list) else [trace.outputs]
        for name, output in zip(readouts, outputs, strict=True):
            np.testing.assert_array_equal(trace.readouts[name], expected.states[name][:, -1], name)
            np.testing.assert_array_equal(
                output, trace.readouts[name] * netlist[name].state_scale, name
            )


UNTESTED = ("synops_excitatory", "synops_inhibitory", "synops_graded", "updates_with_input")


@pytest.mark.parametrize(("kind", "which"), CASES)
def test_events_are_exact(kind: str, which: object) -> None:
    """Messages times their true fan-out, borders included; a graded spike is one message."""
    netlist, inputs, result = case(kind, which)
    expected = oracles.events(netlist, result)
    found = [reference.run(netlist, inputs, record=r).events for r in ("counts", "states")]
    assert found[0] == found[1]
    assert list(found[0]) == list(expected) == [p.name for p in netlist.populations[1:]]
    for name, events in found[0].items():
        wanted = expected[name]
        # What else is counted, tests/runtime/test_tally.py looks at.
        assert dataclasses.replace(events, **dict.fromkeys(UNTESTED)) == PopulationEvents(
            neurons=netlist[name].size,
            steps=netlist.steps,
            images=IMAGES,
            spikes=wanted.spikes,
            synops=wanted.synops,
            input_macs=wanted.input_macs,
            neuron_updates=wanted.neuron_updates,
            synapses=wanted.synapses,
        ), name
    assert sum(e.synops for e in found[0].values()) > 0
    spiking_input = netlist.source.timing == "train"
    assert (sum(e.input_macs for e in found[0].values()) > 0) != spiking_input


UNSETTLED = ("rate", "hard", "signed", "multi", "or", "max", "gate", "lif", "train")
UNSETTLED += ("lava-delta", "lava-sigma-delta")
UNSETTLED += ("rate per channel", "fast-snn as published", "lm-ht")
UNITLESS = ("hard", "lif", "lava-delta", "lava-sigma-delta", "lm-ht", "train", "multi")
EVEN = (SoftResetIF, SignedIF, MultiThreshold)
"""Models that count a drive that is the same in every step as the quantised ANN does."""


def coding_of(kind: str, which: object) -> str:
    """The coding of a random netlist, the method of a compiled one."""
    return which if isinstance(which, str) else kind


def test_what_settles_and_what_has_a_quantised_ann() -> None:
    """The other tests ask the netlists themselves; here it is said which ones they are."""
    for kind, which in CASES:
        netlist, *_ = case(kind, which)
        coding = coding_of(kind, which)
        assert netlist.settles == (coding not in UNSETTLED), (kind, which)
        has_one = coding not in UNITLESS or (kind, which) == LEAKLESS
        assert netlist.has_quantised_ann == has_one, (kind, which)


@pytest.mark.parametrize(("kind", "which"), CASES)
def test_the_quantised_ann_equals_networks_that_settle_everywhere(kind: str, which: object) -> None:
    netlist, inputs, expected = case(kind, which)
    if not netlist.has_quantised_ann:
        looped = coding_of(kind, which) == "train"
        rule = "is one pass from input to outputs" if looped else "has a unit for every neuron"
        with pytest.raises(NetlistError, match=f"the quantised ANN {rule}"):
            quantised_ann.run(netlist, inputs)
        return
    ann = quantised_ann.run(netlist, inputs)
    spiking, _, readouts = names(netlist)
    assert (list(ann.counts), list(ann.readouts)) == (spiking, readouts)
    if not netlist.settles:
        # On a constant drive alone; behind that, in the limit only.
        spiking = [name for name in spiking if driven_evenly(netlist, name)]
        assert len(spiking) > 1 or coding_of(kind, which) in ("or", "max", "gate")
        readouts = []
    for name in spiking:
        np.testing.assert_array_equal(ann.counts[name], expected.spikes[name].sum(axis=1), name)
    for name in readouts:
        np.testing.assert_array_equal(ann.readouts[name], expected.states[name][:, -1], name)


def driven_evenly(netlist: Netlist, name: str) -> bool:
    """Is it the input, or does it get the same drive in every step, and count it as `EVEN` do?"""
    if name == netlist.input.name:
        return True
    sources = {c.source for c in netlist.into(name)}
    held = netlist.source.timing == "held" and sources == {netlist.input.name}
    return held and isinstance(netlist[name].neuron, EVEN)


@pytest.mark.parametrize("method", sample_networks.METHODS)
def test_batches_do_not_show(method: str) -> None:
    """More images than one batch of either engine; any subset gives the same."""
    artifact = sample_networks.compiled("vectors", method)
    inputs, _ = quantise_input(artifact.netlist, sample_networks.images("vectors", 150, seed=6))
    calls: list[tuple[int, int]] = []
    whole = reference.run(artifact.netlist, inputs, progress=lambda *c: calls.append(c))
    assert calls == sorted(calls)
    assert len(calls) > 1
    assert calls[-1] == (150, 150)
    runs: list[tuple[Callable[..., Trace], Trace]] = [(reference.run, whole)]
    if artifact.netlist.has_quantised_ann:
        ann_calls: list[tuple[int, int]] = []
        ann = quantised_ann.run(artifact.netlist, inputs, progress=lambda *c: ann_calls.append(c))
        assert ann_calls[-1] == (150, 150)
        runs.append((quantised_ann.run, ann))
    few = np.array([0, 63, 64, 65, 149])
    for run, trace in runs:
        part = run(artifact.netlist, inputs[few])
        assert part.counts
        for name, count in part.counts.items():
            np.testing.assert_array_equal(count, trace.counts[name][few])


@pytest.mark.parametrize("hold", [True, False])
def test_large_payloads_keep_their_value(hold: bool) -> None:
    """16-bit inputs do not fit the 16-bit type in which most spikes are kept."""
    rng = np.random.default_rng(7)
    netlist = netlists.random_netlist(rng, "rate" if hold else "graded")
    source = dataclasses.replace(
        netlist.populations[0], neuron=Source(-65535, 65535, "held" if hold else "first")
    )
    wide = dataclasses.replace(netlist, populations=(source, *netlist.populations[1:]))
    inputs = netlists.random_inputs(rng, wide, 2)
    trace = reference.run(wide, inputs, record="spikes")
    times = wide.steps if hold else 1
    assert trace.spikes["input"][:, 0].tolist() == inputs.tolist()
    assert trace.counts["input"].tolist() == (inputs * times).tolist()
