"""LM-HT: its theorems on integers, its conversion, and one threshold in place of several.

Numbers in brackets are those of the paper (Hao et al., NeurIPS 2024).
"""

from __future__ import annotations

import dataclasses
import functools

import chips
import numpy as np
import pooled_network
import pytest
import sample_networks
from torch import nn

import lapilli
from lapilli import reports
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError, NetlistError, UnsupportedOperatorError
from lapilli.compiler.linear import Array, Dense, frozen
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import (
    MultiThreshold,
    NeuronModel,
    Readout,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.passes.reparameterise import several_thresholds, single_threshold
from lapilli.runtime import quantise_input, reference

LMHT = lapilli.methods.LMHT
SAMPLES = 4000


@functools.cache
def compiled(name: str, method: object, state_bits: int = 24) -> Artifact:
    """state_bits: fewer leave room for membranes that are L times as large."""
    x = sample_networks.images(name, 40)
    model = sample_networks.network(name)
    chip = chips.chip("loihi2", state_bits=state_bits)
    return lapilli.compile(model, calibration=x, method=method, profile=chip)


def spikes(neuron: NeuronModel, drive: Array) -> tuple[Array, Array]:
    """Spikes of each step for drive (N, steps), and the last membrane."""
    state = neuron.start((len(drive),))
    sent = []
    for tau in range(drive.shape[1]):
        state, now = neuron.step(state, drive[:, tau], tau, drive.shape[1])
        sent.append(now)
    return np.stack(sent, 1), state["v"]


def parameters(*values: object) -> list[Array]:
    return [frozen(value, np.int64) for value in values]


def several(threshold: int, initial: int, levels: int) -> MultiThreshold:
    return MultiThreshold(*parameters(threshold, 0, initial), levels, 0)


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 7])
def test_a_step_of_several_thresholds_is_as_many_steps_of_one(levels: int) -> None:
    """[Lemma 4.1], for any drive; the membranes agree, too. Everything times L: no fractions."""
    rng = np.random.default_rng(levels)
    initial = int(rng.integers(0, 60))
    drive = rng.integers(-300, 60 * levels + 300, (SAMPLES, 1))
    many, v = spikes(several(60 * levels, initial * levels, levels), drive * levels)
    one, w = spikes(
        SoftResetIF(*parameters(60 * levels, 0, initial * levels)), np.repeat(drive, levels, 1)
    )
    np.testing.assert_array_equal(many.sum(1), one.sum(1))
    np.testing.assert_array_equal(v, w)


def windows(drive: Array, levels: int) -> tuple[Array, Array]:
    """Spikes of L thresholds, and of one in windows of L steps, for drive (N, T); threshold 60."""
    many, _ = spikes(several(60 * levels, 0, levels), drive * levels)
    one, _ = spikes(SoftResetIF(*parameters(60 * levels, 0, 0)), np.repeat(drive, levels, 1))
    return many, one.reshape(*drive.shape, levels).sum(2)


@pytest.mark.parametrize(("low", "high"), [(0, 0), (-120, 0), (0, 120)])
def test_windows_agree_if_drive_leaves_the_range_on_one_side_only(low: int, high: int) -> None:
    """[Theorem 4.2 (i)], and stronger: the other side may be left."""
    drive = np.random.default_rng(1).integers(low, 60 * 3 + high + 1, (SAMPLES, 5))
    np.testing.assert_array_equal(*windows(drive, 3))


def test_windows_differ_if_it_leaves_it_on_both() -> None:
    many, one = windows(np.array([[258, -120], [-72, 240]]), 2)
    assert many.tolist() == [[2, 0], [0, 2]]
    assert one.tolist() == [[2, 1], [0, 1]]


@pytest.mark.parametrize(("levels", "steps"), [(12, 1), (4, 3), (2, 6), (1, 12)])
def test_even_drive_is_counted_as_the_quantised_unit_counts_it(levels: int, steps: int) -> None:
    """[Theorem 4.2 (ii)]: clip(floor((v0 + sum) / theta), 0, L T)."""
    drive = np.random.default_rng(2).integers(-40, 60 * levels + 90, (SAMPLES, 1))
    neuron = several(60, 30, levels)
    sent, _ = spikes(neuron, np.repeat(drive, steps, 1))
    expected = neuron.quantised(drive[:, 0] * steps, steps)
    np.testing.assert_array_equal(sent.sum(1), expected)
    np.testing.assert_array_equal(expected, np.clip((30 + drive[:, 0] * steps) // 60, 0, 12))


def test_one_step_is_the_window_neuron() -> None:
    drive = np.random.default_rng(3).integers(-400, 1000, (SAMPLES, 1))
    window = Window(*parameters(60, -7, 30), 9, "graded")
    many = MultiThreshold(*parameters(60, -7, 30), 9, 0)
    np.testing.assert_array_equal(spikes(window, drive)[0], spikes(many, drive)[0])
    assert many.settled(0, 1)
    assert not many.settled(0, 2)


@pytest.mark.parametrize("name", ["residual", "chain", "dense"])
def test_one_step_is_parallel_conversion(name: str) -> None:
    """The same staircase; also integer for integer, for both are scaled by the same rules."""
    x = sample_networks.images(name, 6, seed=3)
    lm_ht = compiled(name, LMHT(levels=6, steps=1))
    assert lm_ht.netlist.settles
    assert lm_ht.netlist.one_pass
    ours = lapilli.run(lm_ht, x)
    theirs = lapilli.run(compiled(name, lapilli.methods.Parallel(levels=6)), x)
    for count in theirs.counts:
        np.testing.assert_array_equal(ours.counts[count], theirs.counts[count])
    assert ours.events == theirs.events
    assert lapilli.verify(lm_ht, x, backends=("reference",)).ok


@pytest.mark.parametrize(("levels", "steps"), [(4, 2), (2, 4), (3, 5)])
def test_the_first_layer_counts_exactly_and_the_others_come_near(levels: int, steps: int) -> None:
    net = compiled("residual", LMHT(levels=levels, steps=steps))
    x = sample_networks.images("residual", 8, seed=3)
    snn, ann = lapilli.run(net, x), lapilli.quantised_ann(net, x)
    np.testing.assert_array_equal(snn.counts["relu"], ann.counts["relu"])
    off = np.abs(snn.outputs - ann.outputs).mean() / np.abs(ann.outputs).mean()
    assert 0 < off < 0.25


def test_more_thresholds_in_fewer_steps_are_nearer_to_the_quantised_ann() -> None:
    """What the paper is about: uneven arrival is the only gap, and there is less of it."""
    x = sample_networks.images("residual", 30, seed=3)
    off = []
    for levels, steps in ((1, 8), (2, 4), (4, 2), (8, 1)):
        net = compiled("residual", LMHT(levels=levels, steps=steps))
        snn, ann = lapilli.run(net, x), lapilli.quantised_ann(net, x)
        names = [n for n in snn.counts if n != "input"]
        off.append(np.mean([np.abs(snn.counts[n] - ann.counts[n]).mean() for n in names]))
    assert off[0] > off[2] > off[3] == 0


def stepped(netlist: Netlist, x: Array) -> reference.Trace:
    inputs: Int64Array = quantise_input(netlist, x)[0]
    return reference.run(netlist, inputs, record="states")


def windowed(netlist: Netlist, x: Array) -> dict[str, tuple[Array, Array]]:
    """Spikes of several thresholds, and of one summed over windows of as many steps."""
    fine = single_threshold(netlist)
    levels = fine.steps // netlist.steps
    kinds = {type(p.neuron) for p in fine.populations}
    assert SoftResetIF in kinds
    assert MultiThreshold not in kinds
    many, one = stepped(netlist, x), stepped(fine, x)
    sums = {
        n: train.reshape(len(x), netlist.steps, levels, *train.shape[2:]).sum(2)
        for n, train in one.spikes.items()
    }
    return {n: (many.spikes[n], sums[n]) for n in sums if n != "input"}


REPARAMETERISED = pytest.mark.parametrize(("levels", "steps"), [(2, 3), (4, 2), (3, 2), (1, 5)])


def moderate(rng: np.random.Generator, levels: int, steps: int) -> Netlist:
    """Layers of which no sub-step can drive a neuron below zero, or above its threshold."""
    zero, one = frozen(0, np.int64), frozen(1.0)
    populations = [Population("input", (9,), Source(0, 15, "held"), one, one, 0, 0)]
    connections = []
    for index in range(4):
        source = populations[-1]
        weight = frozen(rng.integers(0, 60, (9, 9)), np.int8)
        bias = frozen(rng.integers(0, 40, 9))
        # Each of L sub-steps gets an L-th of the input, but spikes of one as they are.
        share = 15 if index == 0 else levels
        top = weight.astype(np.int64).sum(1) * share + bias
        threshold = frozen(-(-top // levels))
        neuron: NeuronModel = MultiThreshold(threshold, bias, frozen(threshold // 2), levels, 0)
        if index == 3:
            neuron = Readout(bias, zero)
        connections.append(
            Connection(source.name, f"p{index}", Dense(weight, (9,), (9,)), 0, 0, one)
        )
        populations.append(Population(f"p{index}", (9,), neuron, one, one, 0, 0))
    netlist = Netlist(tuple(populations), tuple(connections), steps)
    reaches = [netlist.reach(p.name) for p in populations]
    proven = [
        dataclasses.replace(p, state_low=low, state_high=high)
        for p, (low, high) in zip(populations, reaches, strict=True)
    ]
    netlist = dataclasses.replace(netlist, populations=tuple(proven))
    netlist.verify()
    return netlist


@REPARAMETERISED
@pytest.mark.parametrize("seed", range(5))
def test_one_threshold_sends_in_a_window_what_several_send_in_a_step(
    levels: int, steps: int, seed: int
) -> None:
    """[Section 4.4], in integers: every spike of every layer, where drive stays in its range."""
    rng = np.random.default_rng(seed)
    netlist = moderate(rng, levels, steps)
    x = rng.integers(0, 16, (20, 9)).astype(np.float32)
    for name, (many, one) in windowed(netlist, x).items():
        assert 0 < many.mean() < levels
        np.testing.assert_array_equal(many, one, name)


@REPARAMETERISED
def test_with_signed_weights_it_holds_wherever_the_drive_stays_in_its_range(
    levels: int, steps: int
) -> None:
    """Where what a unit reads agrees and no sub-step leaves 0 .. threshold, every window agrees."""
    netlist = compiled("residual", LMHT(levels=levels, steps=steps), 20).netlist
    x = sample_networks.images("residual", 12, seed=4)
    fine = single_threshold(netlist)
    found, trains = windowed(netlist, x), stepped(fine, x).spikes
    np.testing.assert_array_equal(*found["relu"])  # even drive
    held = left = 0
    for p in fine.populations:
        if not isinstance(p.neuron, SoftResetIF):
            continue
        drive = np.zeros((len(x), fine.steps, *p.shape), np.int64) + p.neuron.bias
        unlike = np.zeros((len(x), *p.shape), np.int64)
        for c in fine.into(p.name):
            folded = trains[c.source].astype(np.int64).reshape(-1, *c.map.in_shape)
            whole = c.map.with_weight(c.map.weight.astype(np.int64))
            drive += whole.apply(folded).reshape(drive.shape) << c.exponent
            if c.source in found:
                many, one = found[c.source]
                apart = np.abs(many - one).sum(1).astype(np.int64)
                read = whole.with_weight(np.abs(whole.weight))
                unlike += read.apply(apart.reshape(-1, *c.map.in_shape)).reshape(unlike.shape)
        inside = ((drive >= 0) & (drive <= p.neuron.threshold)).all(axis=1) & (unlike == 0)
        same = (found[p.name][0] == found[p.name][1]).all(axis=1)
        assert same[inside].all(), p.name
        held, left = held + int(inside.sum()), left + int((~same).sum())
    assert held > 100
    assert (left == 0) == (levels == 1), "elsewhere the theorem does not hold either"


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_there_and_back_is_the_same_network_times_its_levels(levels: int) -> None:
    """Nothing was rounded: thresholds and synapses come back L times as large."""
    coarse = compiled("vectors", LMHT(levels=levels, steps=4), 20).netlist
    back = several_thresholds(single_threshold(coarse), levels)
    assert back.steps == coarse.steps
    x = sample_networks.images("vectors", 12, seed=4)
    ours, theirs = stepped(coarse, x), stepped(back, x)
    for name, train in ours.spikes.items():
        np.testing.assert_array_equal(theirs.spikes[name], train)
    for name, v in ours.states.items():
        np.testing.assert_array_equal(theirs.states[name], levels * v)
    np.testing.assert_allclose(theirs.outputs, ours.outputs, rtol=1e-12)


def test_biases_times_levels_is_the_rule_that_makes_it_exact() -> None:
    """[The hybrid initialisation]: with the biases left as they are, most units would differ."""
    rate = compiled("residual", lapilli.methods.Rate(steps=6), 20).netlist
    x = sample_networks.images("residual", 12, seed=4)
    right = several_thresholds(rate, 6)  # one step: the quantised network itself
    ann = lapilli.compiler.netlist.Netlist(right.populations, right.connections, right.steps)
    expected = stepped(ann, x)
    from lapilli.runtime import quantised_ann

    inputs = quantise_input(rate, x)[0]
    quantised = quantised_ann.run(rate, inputs)
    wrong = dataclasses.replace(
        right,
        populations=tuple(
            dataclasses.replace(
                p, neuron=dataclasses.replace(p.neuron, bias=rate[p.name].neuron.bias)
            )
            if isinstance(p.neuron, MultiThreshold)
            else p
            for p in right.populations
        ),
    )
    shipped = stepped(wrong, x)
    for name, count in quantised.counts.items():
        if name == "input":
            continue
        np.testing.assert_array_equal(expected.counts[name], count)
    last = list(quantised.counts)[-1]
    assert (shipped.counts[last] != quantised.counts[last]).mean() > 0.1


def test_membranes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NetlistError) as caught:
        single_threshold(compiled("residual", LMHT(levels=4, steps=2)).netlist)
    assert caught.value.rule == "every reachable state fits 24 bits"


def test_what_has_no_counterpart_is_refused() -> None:
    rule = "every neuron has its counterpart"
    cases = [
        (
            lambda: single_threshold(compiled("vectors", lapilli.methods.Rate(steps=4)).netlist),
            rule,
        ),
        (lambda: several_thresholds(compiled("vectors", LMHT()).netlist, 2), rule),
        (
            lambda: single_threshold(compiled("vectors", lapilli.methods.Parallel()).netlist),
            "the input flows in every step",
        ),
        (
            lambda: several_thresholds(
                compiled("vectors", lapilli.methods.Rate(steps=4)).netlist, 3
            ),
            "steps are taken together L at a time",
        ),
        (
            lambda: single_threshold(compiled("vectors", LMHT(keep=0.5)).netlist),
            "all neurons have the same number of thresholds and keep their charge",
        ),
    ]
    for make, expected in cases:
        with pytest.raises(NetlistError) as caught:
            make()
        assert caught.value.rule == expected
    netlist = compiled("vectors", LMHT()).netlist
    (c, *rest) = netlist.connections
    late = (dataclasses.replace(c, synaptic_delay=1), *rest)
    with pytest.raises(NetlistError) as caught:
        single_threshold(dataclasses.replace(netlist, connections=late))
    assert caught.value.rule == "spikes arrive in the step in which they are sent"


def test_a_leak_reaches_the_neurons_and_loses_charge() -> None:
    x = sample_networks.images("residual", 8, seed=3)
    kept = {}
    for keep in (1.0, 0.5, 0.0):
        net = compiled("residual", LMHT(levels=3, steps=4, keep=keep))
        decays = {p.neuron.decay for p in net.netlist.populations if hasattr(p.neuron, "decay")}
        assert decays == {round((1 - keep) * 4096)}
        kept[keep] = int(lapilli.run(net, x).counts["relu"].sum())
        assert lapilli.verify(net, x, backends=("reference",)).ok
    assert kept[1.0] > kept[0.5] > kept[0.0] > 0


def test_pools_need_one_step() -> None:
    net = pooled_network.compiled(LMHT(levels=6, steps=1))
    assert net.netlist.settles
    pooled = nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )
    x = np.random.default_rng(0).random((4, 2, 6, 6)).astype(np.float32)
    with pytest.raises(UnsupportedOperatorError) as caught:
        lapilli.compile(pooled, calibration=x, method=LMHT(steps=2))
    assert caught.value.rule.startswith("the largest count of several steps")


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(InputError) as caught:
        LMHT(steps=17, mixing="full")
    assert caught.value.where == "option mixing"
    for more, found in (
        ({"keep": 0.5}, "keep"),
        ({"mixing": "causal"}, "mixing"),
        ({"keep": 0.5, "mixed": "relu=3"}, "keep, mixed"),
    ):
        with pytest.raises(InputError) as caught:
            LMHT(single_threshold=True, **more)  # type: ignore[arg-type]
        assert (caught.value.where, caught.value.found) == ("option single_threshold", found)


@pytest.mark.lava
def test_lava_computes_the_same() -> None:
    x = sample_networks.images("residual", 2, seed=3)
    found = lapilli.verify(compiled("residual", LMHT(levels=3, steps=2, keep=0.9)), x)
    assert found.first_difference is None
    assert found.ok


@pytest.mark.parametrize(("keep", "compared"), [(1.0, 5), (0.9, 0)])
def test_a_run_reports_agreement_where_there_is_a_quantised_network(
    keep: float, compared: int
) -> None:
    """With a leak there is none, and the run does not fail for want of it."""
    net = compiled("vectors", LMHT(levels=3, steps=2, keep=keep))
    assert net.netlist.has_quantised_ann == bool(compared)
    done = reports.evaluate(net, sample_networks.images("vectors", 5, seed=3))
    assert done.compared == compared
    assert done.agree <= compared
    assert compiled("vectors", LMHT(levels=3, steps=1, keep=keep)).netlist.has_quantised_ann
