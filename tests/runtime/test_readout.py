"""Outputs of compiled networks: exact, named, in the user's shapes, and other ways to read them."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, get_args

import dense_networks
import numpy as np
import pytest
import torch
from dense_networks import images, network

import lapilli
from lapilli import cli_outputs
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError
from lapilli.compiler.outputs import NO_HEAD, leaves, softmax
from lapilli.runtime import readout

METHODS: dict[str, Any] = {
    "parallel": lapilli.methods.Parallel(levels=15),
    "rate": lapilli.methods.Rate(steps=24),
    "sigma-delta": lapilli.methods.SigmaDelta(levels=15, steps=2),
}
X = images(6, seed=3)


@functools.cache
def compiled(name: str, method: str = "parallel") -> Artifact:
    return lapilli.compile(network(name), calibration=images(48), method=METHODS[method])


def returned(name: str) -> dict[str, np.ndarray[Any, Any]]:
    """What the float network returns for X."""
    with torch.no_grad():
        return {key: t.numpy() for key, t in leaves(network(name)(torch.tensor(X)))}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", dense_networks.NETWORKS)
def test_outputs_have_the_names_and_shapes_of_the_network(name: str, method: str) -> None:
    wanted = returned(name)
    found = lapilli.run(compiled(name, method), X).named_outputs
    assert list(found) == list(wanted)
    for key, theirs in wanted.items():
        assert found[key].shape == theirs.shape
        assert found[key].dtype == (np.float64 if theirs.dtype == np.float32 else theirs.dtype)


@pytest.mark.parametrize("name", ["detector", "segmentation", "softmax", "sigmoid"])
def test_outputs_are_close_to_the_network(name: str) -> None:
    """64 levels leave small errors; a wrong axis, order or head would leave large ones."""
    method = lapilli.methods.Parallel(levels=64)
    artifact = lapilli.compile(network(name), calibration=images(48), method=method)
    for key, theirs in returned(name).items():
        ours = lapilli.run(artifact, X).named_outputs[key]
        assert np.abs(ours - theirs).max() < 0.05 * np.ptp(theirs), key
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.99, key


@pytest.mark.parametrize("option", [None, "logits", "argmax"])
@pytest.mark.parametrize("name", ["softmax", "argmax", "segmentation"])
def test_readouts_are_exactly_the_quantised_ann(name: str, option: str | None) -> None:
    artifact = compiled(name)
    ours = lapilli.run(artifact, X, readout=option)
    ann = lapilli.run(artifact, X, readout=option, backend="quantised-ann")
    for population, v in ann.readouts.items():
        assert np.array_equal(ours.readouts[population], v)
    for key, values in ann.named_outputs.items():
        assert np.array_equal(ours.named_outputs[key], values)


@pytest.mark.parametrize("name", ["detector", "sigmoid"])
def test_maps_and_boxes_are_exactly_the_quantised_ann(name: str) -> None:
    ours = lapilli.run(compiled(name), X)
    ann = lapilli.quantised_ann(compiled(name), X)
    for key, values in ann.named_outputs.items():
        assert np.array_equal(ours.named_outputs[key], values)


@pytest.mark.parametrize("name", ["detector", "segmentation", "argmax"])
@pytest.mark.parametrize("method", METHODS)
def test_verify_holds_with_several_outputs_and_heads(name: str, method: str) -> None:
    found = lapilli.verify(compiled(name, method), X[:2], backends=("reference",))
    assert found.ok, found.first_difference


@pytest.mark.lava
@pytest.mark.parametrize("name", ["detector", "segmentation", "argmax"])
def test_lava_gives_the_same_outputs(name: str) -> None:
    artifact = compiled(name)
    ours, lava = lapilli.run(artifact, X[:2]), lapilli.run(artifact, X[:2], backend="lava")
    assert list(ours.named_outputs) == list(lava.named_outputs)
    for key, values in ours.named_outputs.items():
        assert np.array_equal(values, lava.named_outputs[key]), key


@pytest.mark.lava
def test_lava_draws_the_same_spikes() -> None:
    artifact = compiled("softmax", "rate")
    ours, lava = (
        lapilli.run(artifact, X[:2], backend=backend, readout="poisson-softmax", seed=5)
        for backend in ("reference", "lava")
    )
    assert np.array_equal(ours.outputs, lava.outputs)


def test_logits_are_the_membranes_in_real_units() -> None:
    artifact = compiled("softmax")
    (population,) = artifact.netlist.outputs
    trace = lapilli.run(artifact, X, readout="logits")
    wanted = trace.readouts[population.name] * population.state_scale
    assert np.array_equal(trace.outputs, wanted)
    own = lapilli.run(artifact, X)
    assert np.array_equal(own.outputs, softmax(wanted, 1))
    assert np.array_equal(lapilli.run(artifact, X, readout="softmax").outputs, own.outputs)


@pytest.mark.parametrize("name", ["softmax", "argmax"])
def test_argmax_is_that_of_the_integers(name: str) -> None:
    artifact = compiled(name)
    trace = lapilli.run(artifact, X, readout="argmax")
    (v,) = trace.readouts.values()
    assert trace.outputs.dtype == np.int64
    assert np.array_equal(trace.outputs, v.argmax(1))
    assert np.array_equal(lapilli.run(artifact, X, readout="logits").outputs.argmax(1), v.argmax(1))


def test_argmax_of_readouts_with_a_scale_per_class_is_that_of_real_values() -> None:
    """v = (2, 3) in units of (2, 1): class 0 has the larger value, class 1 the larger integer."""
    artifact = compiled("softmax")
    (population,) = artifact.netlist.outputs
    per_class = replace(population, state_scale=np.array([2.0, 1.0, 1.0, 1.0, 1.0]))
    populations = (*artifact.netlist.populations[:-1], per_class)
    netlist = replace(artifact.netlist, populations=populations)
    trace = lapilli.run(artifact, X[:1])
    v = {population.name: np.array([[2, 3, 0, 0, 0]])}
    for head in (artifact.outputs[0].head, NO_HEAD):
        output = replace(artifact.outputs[0], head=head)
        found = readout.apply(netlist, [output], replace(trace, readouts=v), "argmax")
        assert found.outputs.tolist() == [0]
        found = readout.apply(artifact.netlist, [output], replace(trace, readouts=v), "argmax")
        assert found.outputs.tolist() == [1]


def test_maps_are_read_along_their_channels() -> None:
    artifact = compiled("segmentation")
    logits = lapilli.run(artifact, X, readout="logits").named_outputs
    for option, values in (("argmax", lambda x: x.argmax(1)), ("softmax", lambda x: softmax(x, 1))):
        found = lapilli.run(artifact, X, readout=option).named_outputs
        assert list(found) == ["out", "aux"]
        for key, x in logits.items():
            assert np.array_equal(found[key], values(x))


def test_a_matrix_without_a_head_has_no_known_classes() -> None:
    """Boxes are (anchors, 4); the scores beside them say with their softmax where classes are."""
    for option in readout.CLASSES:
        with pytest.raises(InputError, match="classes along the channels") as refused:
            lapilli.run(compiled("detector", "rate"), X, readout=option)
        assert "'boxes' of shape (40, 4)" in refused.value.found
    found = lapilli.run(compiled("detector"), X, readout="logits").named_outputs
    assert {key: v.shape for key, v in found.items()} == {
        "scores": (6, 40, 3),
        "boxes": (6, 40, 4),
    }


def test_a_network_that_returns_one_number_per_image() -> None:
    trace = lapilli.run(compiled("sigmoid"), X)
    assert trace.outputs.shape == (6,)
    assert np.all((trace.outputs > 0) & (trace.outputs < 1))
    logits = lapilli.run(compiled("sigmoid"), X, readout="logits").outputs
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), trace.outputs, rtol=1e-14)


def test_poisson_softmax_counts_as_it_should() -> None:
    """At a fixed membrane each neuron spikes with probability softmax(V): Rueckauer et al. 2016."""
    v = np.array([[1.0, 0.0, -1.0, 2.0]])
    steps = 20_000
    membranes = np.broadcast_to(v[:, np.newaxis], (1, steps, 4))
    counts = readout.poisson_counts(membranes, 0, np.random.default_rng(0))
    p = softmax(v, 1)
    deviations = np.abs(counts / steps - p) / np.sqrt(p * (1 - p) / steps)
    assert deviations.max() < 4.0
    assert counts.sum() != steps, "neurons are independent: there is no winner in every step"


def test_poisson_softmax_counts_only_the_steps_that_ran() -> None:
    membranes = np.zeros((2, 6, 1))  # a single class: it spikes in every step
    running = np.arange(6) < np.array([[2], [6]])
    counts = readout.poisson_counts(membranes, 0, np.random.default_rng(0), running)
    assert counts.tolist() == [[2], [6]]


def test_winner_softmax_spikes_one_neuron_at_a_time_and_as_often_as_softmax_says() -> None:
    """The external generator fires in half of the steps; then one neuron is drawn."""
    generator = np.random.default_rng(3)
    values = np.array([0.5, 2.0, -1.0])
    membranes = np.broadcast_to(values, (2, 4000, 3))
    counts = readout.winner_counts(membranes, 0, generator)
    expected = 4000 * readout.TRIGGER * np.exp(values) / np.exp(values).sum()
    assert (np.abs(counts - expected) < 4 * np.sqrt(expected)).all()
    single = readout.winner_counts(membranes[:, :1], 0, generator)
    assert set(single.sum(1)) <= {0, 1}
    # Maps: a winner in every place; steps that do not run count for nothing.
    places = np.broadcast_to(values.reshape(3, 1, 1), (2, 400, 3, 2, 2))
    running = np.zeros((2, 400), bool)
    running[0] = True
    per_place = readout.winner_counts(places, 0, generator, running).sum(1)
    assert not per_place[1].any()
    assert (per_place[0] == per_place[0, 0, 0]).all()
    assert 150 < per_place[0, 0, 0] < 250


def test_winner_softmax_of_a_network() -> None:
    artifact = compiled("softmax", "rate")
    trace = lapilli.run(artifact, X, readout="winner-softmax", seed=1)
    assert (trace.outputs.shape, trace.outputs.dtype) == ((6,), np.int64)
    stated = lapilli.run(artifact, X, record="states")
    (population,) = artifact.netlist.outputs
    membranes = stated.states[population.name] * population.state_scale
    counts = readout.winner_counts(membranes, 0, np.random.default_rng((1, 0)))
    assert np.array_equal(trace.outputs, counts.argmax(1))


def test_poisson_softmax_of_a_network() -> None:
    artifact = compiled("softmax", "rate")
    trace = lapilli.run(artifact, X, readout="poisson-softmax", seed=1)
    assert (trace.outputs.shape, trace.outputs.dtype) == ((6,), np.int64)
    again = lapilli.run(artifact, X, readout="poisson-softmax", seed=1)
    assert np.array_equal(trace.outputs, again.outputs)
    drawn = [
        lapilli.run(artifact, X, readout="poisson-softmax", seed=seed).outputs for seed in range(8)
    ]
    assert len({tuple(d) for d in drawn}) > 1
    stated = lapilli.run(artifact, X, record="states")
    (population,) = artifact.netlist.outputs
    membranes = stated.states[population.name] * population.state_scale
    counts = readout.poisson_counts(membranes, 0, np.random.default_rng((1, 0)))
    assert np.array_equal(trace.outputs, counts.argmax(1))


@pytest.mark.parametrize("record", ["outputs", "counts", "spikes", "states"])
def test_poisson_softmax_records_what_was_asked_for(record: Any) -> None:
    artifact = compiled("softmax", "rate")
    plain = lapilli.run(artifact, X, record=record)
    drawn = lapilli.run(artifact, X, record=record, readout="poisson-softmax")
    for kind in ("counts", "spikes", "states"):
        ours, theirs = getattr(drawn, kind), getattr(plain, kind)
        assert list(ours) == list(theirs)
        assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert drawn.events == plain.events


def test_poisson_softmax_with_early_stop() -> None:
    artifact = compiled("softmax", "rate")
    stop = lapilli.EarlyStop(margin=1e-3, at_least=2)
    trace = lapilli.run(artifact, X, readout="poisson-softmax", stop=stop, record="outputs")
    assert trace.stopped is not None
    assert trace.stopped.min() < artifact.netlist.steps
    assert trace.outputs.shape == (6,)
    softened = lapilli.run(artifact, X, stop=stop)
    np.testing.assert_allclose(softened.outputs.sum(1), 1.0, rtol=1e-12)


def test_poisson_softmax_needs_steps() -> None:
    with pytest.raises(InputError, match="in every step") as refused:
        lapilli.run(compiled("softmax"), X, readout="poisson-softmax")
    assert refused.value.found == "a window of one step"
    unary = lapilli.compile(
        network("softmax"),
        calibration=images(48),
        method=lapilli.methods.Parallel(levels=4, coding="unary"),
        profile="loihi1",
    )
    with pytest.raises(InputError, match="in every step") as refused:
        lapilli.run(unary, X, readout="poisson-softmax")
    assert refused.value.found == "a network that answers in one pass"
    with pytest.raises(InputError, match="membranes of every step") as refused:
        lapilli.run(
            compiled("softmax", "rate"), X, readout="poisson-softmax", backend="quantised-ann"
        )
    assert "quantised-ann" in refused.value.found


def test_unknown_readouts_are_refused() -> None:
    with pytest.raises(InputError, match="the readout is known") as refused:
        lapilli.run(compiled("softmax"), X, readout="median")
    assert (refused.value.found, "poisson-softmax" in refused.value.allowed) == ("median", True)


def test_one_list_of_readouts() -> None:
    assert get_args(readout.Readout) == readout.READOUTS == cli_outputs.READOUTS


def test_early_stop_needs_one_vector_of_classes() -> None:
    stop = lapilli.EarlyStop(margin=0.5)
    for name in ("segmentation", "detector", "sigmoid"):
        with pytest.raises(InputError, match="one readout compares its classes"):
            lapilli.run(compiled(name, "rate"), X, stop=stop)


def test_estimates_count_all_outputs() -> None:
    estimate = lapilli.estimate(compiled("segmentation"), X[:2])
    names = [p.name for p in compiled("segmentation").netlist.outputs]
    events = lapilli.run(compiled("segmentation"), X[:2]).events
    assert all(events[name].synops > 0 for name in names)
    assert estimate.as_dict()
