"""Early stopping: when images end, what they hold then, and what is counted until then."""

from __future__ import annotations

import dataclasses
from typing import Any

import netlists
import numpy as np
import oracles
import pytest
import sample_networks

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError
from lapilli.runtime import early_stop, reference
from lapilli.runtime.early_stop import EarlyStop, StopRule

STEPS = 24


def artifact(name: str = "residual", **options: Any) -> Artifact:
    return lapilli.compile(
        sample_networks.network(name),
        calibration=sample_networks.images(name, 40),
        method=lapilli.methods.Rate(steps=STEPS, **options),
    )


def first_clear(states: list[list[int]], rule: StopRule) -> int:
    """The rule once more, for one image: v of every class at every step."""
    for tau, v in enumerate(states):
        best, second = sorted(v)[-1], sorted(v)[-2]
        if tau + 1 >= rule.at_least and best - second >= rule.lead:
            return tau + 1
    return len(states)


@pytest.mark.parametrize("at_least", [1, 5, STEPS, 10 * STEPS])
@pytest.mark.parametrize("margin", [1e-9, 0.05, 0.2, 1e9])
def test_images_end_at_the_first_clear_step(margin: float, at_least: int) -> None:
    compiled = artifact()
    images = sample_networks.images("residual", 12, seed=5)
    stop = EarlyStop(margin, at_least)
    whole = lapilli.run(compiled, images, record="states")
    trace = lapilli.run(compiled, images, record="states", stop=stop)
    (readout,) = compiled.netlist.outputs
    rule = early_stop.rule(compiled.netlist, stop)
    expected = [first_clear(v.tolist(), rule) for v in whole.states[readout.name]]
    assert trace.stopped is not None
    assert trace.stopped.tolist() == expected
    for i, t in enumerate(expected):
        v = whole.states[readout.name][i, t - 1]
        assert np.array_equal(trace.readouts[readout.name][i], v)
        assert np.array_equal(trace.outputs[i], v * readout.state_scale * (STEPS / t))
        for name, spikes in whole.spikes.items():
            assert np.array_equal(trace.spikes[name][i, :t], spikes[i, :t])
            assert not trace.spikes[name][i, t:].any()
            assert np.array_equal(trace.counts[name][i], spikes[i, :t].sum(0))
        for name, states in whole.states.items():
            assert np.array_equal(trace.states[name][i, :t], states[i, :t])
            assert not trace.states[name][i, t:].any()


def test_margins_between_always_and_never_stop_some_images_early() -> None:
    images = sample_networks.images("residual", 40, seed=5)
    means = []
    for margin in (1e-9, 0.05, 0.1, 0.2, 1e9):
        stopped = lapilli.run(artifact(), images, stop=EarlyStop(margin)).stopped
        assert stopped is not None
        means.append(stopped.mean())
    assert means[0] < means[1] < means[2] < means[3] <= means[4] == STEPS


@pytest.mark.parametrize("seed", range(3))
def test_events_are_those_of_the_steps_that_ran(seed: int) -> None:
    rng = np.random.default_rng(seed)
    netlist = netlists.random_netlist(rng, "rate")
    inputs = netlists.random_inputs(rng, netlist, 3)
    result = oracles.simulate(netlist, inputs)
    readout = netlist.outputs[0]
    states = result.states[readout.name]
    rule = StopRule(int(early_stop.leads(states[:, 2]).max()), 1, netlist.steps)
    # The first readout decides; the other one is a population like all others here.
    trace = reference.run(netlist, inputs, record="states", stop=rule)
    ran = [first_clear(v.reshape(netlist.steps, -1).tolist(), rule) for v in states]
    assert trace.stopped is not None
    assert trace.stopped.tolist() == ran
    assert min(ran) < netlist.steps
    cut = {
        name: np.stack([np.where(_until(spikes[i], t), spikes[i], 0) for i, t in enumerate(ran)])
        for name, spikes in result.spikes.items()
    }
    expected = oracles.events(netlist, oracles.Result(cut, result.states))
    for name, events in trace.events.items():
        assert events.spikes == expected[name].spikes
        assert events.synops == expected[name].synops
        assert events.input_macs == expected[name].input_macs
        assert events.neuron_updates == netlist[name].size * sum(ran)


def _until(spikes: np.ndarray[Any, Any], steps: int) -> np.ndarray[Any, Any]:
    running = np.arange(len(spikes)) < steps
    return running.reshape(-1, *(1,) * (spikes.ndim - 1))


@pytest.mark.parametrize("values", [{"margin": 0.0}, {"margin": float("nan")}, {"margin": -1.0}])
def test_a_margin_is_positive(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match="margin"):
        EarlyStop(**values)


def test_at_least_one_step() -> None:
    with pytest.raises(InputError, match="at_least"):
        EarlyStop(1.0, 0)


def test_steps_are_whole() -> None:
    with pytest.raises(InputError, match="at_least"):
        EarlyStop(1.0, 2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(("margin", "lead"), [(2.9, 3), (3.0, 3), (1e-9, 1), (1e30, 2**40)])
def test_the_lead_is_never_less_than_the_margin(margin: float, lead: int) -> None:
    netlist = netlists.random_netlist(np.random.default_rng(0), "rate")
    single = dataclasses.replace(
        netlist,
        populations=tuple(p for p in netlist.populations if p.name != "side"),
        connections=tuple(c for c in netlist.connections if c.target != "side"),
    )
    assert early_stop.rule(single, EarlyStop(margin)).lead == lead


@pytest.mark.parametrize("method", ["graded", "unary", "sigma-delta"])
def test_networks_that_answer_at_once_do_not_stop_early(method: str) -> None:
    compiled = sample_networks.compiled("residual", method)
    with pytest.raises(InputError, match="builds up over a window"):
        lapilli.run(compiled, sample_networks.images("residual", 2), stop=EarlyStop(0.1))


def test_several_readouts_do_not_stop_early() -> None:
    compiled = sample_networks.compiled("arithmetic", "rate")
    with pytest.raises(InputError, match="one readout compares"):
        lapilli.run(compiled, sample_networks.images("arithmetic", 2), stop=EarlyStop(0.1))


def test_the_quantised_ann_has_no_steps_to_stop_after() -> None:
    images = sample_networks.images("residual", 2)
    with pytest.raises(InputError, match="no steps"):
        lapilli.run(artifact(), images, backend="quantised-ann", stop=EarlyStop(0.1))


@pytest.mark.lava
def test_lava_stops_where_the_reference_does() -> None:
    compiled, images = artifact("chain"), sample_networks.images("chain", 6, seed=2)
    stop = EarlyStop(0.1, at_least=2)
    ours, theirs = (
        lapilli.run(compiled, images, backend=backend, record="states", stop=stop)
        for backend in ("reference", "lava")
    )
    assert ours.stopped is not None
    assert theirs.stopped is not None
    assert theirs.stopped.tolist() == ours.stopped.tolist()
    assert len(set(ours.stopped.tolist())) > 1
    assert np.array_equal(ours.outputs, theirs.outputs)
    for kind in ("spikes", "states", "counts", "readouts"):
        for name, values in getattr(ours, kind).items():
            assert np.array_equal(getattr(theirs, kind)[name], values), (kind, name)
