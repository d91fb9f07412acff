"""Fan-in split over relay populations: another netlist, and the same numbers."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import oracles
import pytest
from command_line import Run, runner
from hypothesis import given, settings
from hypothesis import strategies as st
from netlists import (
    ALL_CODINGS,
    Coding,
    connection,
    integers,
    population,
    proven,
    random_inputs,
    random_map,
    random_netlist,
)
from sample_networks import METHODS, images, network

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import ArtifactError, NetlistError
from lapilli.compiler.linear import (
    FORMS,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    LinearMap,
    frozen,
)
from lapilli.compiler.mapping.relays import split_fan_in
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import OrGate, Readout, Source, Window
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.schedule import schedule
from lapilli.hardware_profiles import Profile, load
from lapilli.runtime import reference

ZERO, ONE = integers(0), integers(1)
TOP = 2**23 - 1
Parts = dict[int | tuple[str, str], int]


def most_parts(netlist: Netlist, c: Connection) -> int:
    """Into how many parts a connection can be split; 0 where no relay can stand in for it."""
    if c.recurrent or netlist[c.target].neuron.POOLS or isinstance(c.map, Diagonal):
        return 0
    if isinstance(c.map, (Conv, ConvTransposed)):
        return c.map.in_shape[0] if c.map.groups == 1 else 0
    return int(c.map.weight.shape[1]) if isinstance(c.map, DensePart) else c.map.in_size


def random_split(rng: np.random.Generator, netlist: Netlist) -> Netlist:
    """Every connection that can be, in one to four parts."""
    most = {i: most_parts(netlist, c) for i, c in enumerate(netlist.connections)}
    parts: Parts = {i: min(int(rng.integers(1, 5)), n) for i, n in most.items() if n}
    return split_fan_in(netlist, parts)


def relays(netlist: Netlist) -> list[Population]:
    return [p for p in netlist.populations if p.name.split(".")[-1].startswith("partial")]


def check_same(
    whole: Netlist, split: Netlist, inputs: Int64Array, record: Literal["counts", "states"]
) -> None:
    """Every original population does what it did, in every step of its own window."""
    expected, found = (reference.run(n, inputs, record=record) for n in (whole, split))
    added = {p.name for p in split.populations} - {p.name for p in whole.populations}
    for kind in ("counts", "readouts", "spikes", "states"):
        wanted, got = getattr(expected, kind), getattr(found, kind)
        assert set(got) - set(wanted) == (added if wanted and kind != "readouts" else set())
        for name, values in wanted.items():
            np.testing.assert_array_equal(got[name], values, f"{kind} of {name}")
    outputs = [t.outputs if isinstance(t.outputs, list) else [t.outputs] for t in (expected, found)]
    for wanted, got in zip(*outputs, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("coding", ALL_CODINGS)
def test_every_population_does_what_it_did(coding: Coding) -> None:
    rng = np.random.default_rng(ALL_CODINGS.index(coding))
    whole = random_netlist(rng, coding)
    split = random_split(rng, whole)
    split.verify()
    assert len(relays(split)) > 3
    inputs = random_inputs(rng, whole, 2)
    check_same(whole, split, inputs, "states")
    if whole.one_pass:
        check_same(whole, split, inputs, "counts")
    for p in whole.populations:  # bounds of each neuron's partial sums add up to its own
        assert split.reach(p.name) == (p.state_low, p.state_high)
    assert (split.settles, split.settled_at_once) == (whole.settles, whole.settled_at_once)


@pytest.mark.parametrize(
    ("coding", "seed"), [("graded", 0), ("unary", 3), ("train", 3), ("curve, changes", 2)]
)
def test_the_oracle_agrees(coding: Coding, seed: int) -> None:
    """In Python integers, all images back to back: so delays, too, are what they must be."""
    rng = np.random.default_rng(seed)
    whole = random_netlist(rng, coding)
    split = random_split(rng, whole)
    inputs = random_inputs(rng, whole, 2)
    expected, found = oracles.simulate(whole, inputs), oracles.simulate(split, inputs)
    engine = reference.run(split, inputs, record="states")
    for p in split.populations:
        if p not in relays(split):
            np.testing.assert_array_equal(found.spikes[p.name], expected.spikes[p.name], p.name)
            np.testing.assert_array_equal(found.states[p.name], expected.states[p.name], p.name)
        if not isinstance(p.neuron, (Source, Readout)):
            np.testing.assert_array_equal(engine.spikes[p.name], found.spikes[p.name], p.name)
    counted = {name: vars(e) for name, e in oracles.events(split, found).items()}
    for name, events in engine.events.items():
        assert counted[name].items() <= vars(events).items(), name


@pytest.mark.lava
@pytest.mark.parametrize("method", ["graded", "rate", "sigma-delta"])
def test_lava_agrees(method: str) -> None:
    net = compiled(method)
    split = replace(net, netlist=random_split(np.random.default_rng(1), net.netlist))
    samples = images("residual", 2, seed=5)
    assert lapilli.verify(split, samples, backends=("reference", "lava")).ok


def compiled(method: str) -> Artifact:
    options, profile = METHODS[method]
    calibration = images("residual", 40)
    return lapilli.compile(
        network("residual"), calibration=calibration, method=options, profile=profile
    )


@pytest.mark.parametrize("method", ["graded", "unary", "rate", "fast-snn", "sigma-delta"])
def test_compiled_networks(method: str, tmp_path: Path) -> None:
    """Through a model file: every equality, and the outputs in the network's own units."""
    net = compiled(method)
    split = replace(net, netlist=random_split(np.random.default_rng(2), net.netlist))
    split.save(tmp_path / "m.h5")
    read = lapilli.load(tmp_path / "m.h5")
    samples = images("residual", 3, seed=5)
    assert lapilli.verify(read, samples, backends=("reference",)).ok
    expected, found = lapilli.run(net, samples), lapilli.run(read, samples)
    np.testing.assert_equal(found.outputs, expected.outputs)
    for name, counts in expected.counts.items():
        np.testing.assert_array_equal(found.counts[name], counts, name)
    backend = "quantised-ann" if net.netlist.settles else "reference"
    again = lapilli.run(read, samples, backend=backend, record="counts")
    for name, counts in found.counts.items():
        np.testing.assert_array_equal(again.counts[name], counts, name)


def test_partial_sums_have_the_unit_of_the_drive(tmp_path: Path) -> None:
    net = compiled("graded")
    split = random_split(np.random.default_rng(2), net.netlist)
    for relay in relays(split):
        (onward,) = (c for c in split.connections if c.source == relay.name)
        unit = split[onward.target].state_scale * 2.0**onward.exponent
        np.testing.assert_array_equal(relay.count_scale, unit)


def test_inspect_shows_relays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run: Run = runner(capsys)
    net = compiled("graded")
    split = split_fan_in(net.netlist, {len(net.netlist.connections) - 1: 3})
    replace(net, netlist=split).save(tmp_path / "m.h5")
    report = run("inspect", tmp_path / "m.h5", "--json").json
    assert report["models"]["Relay"]["populations"] == 3
    assert report["totals"]["forms"]["DensePart"] == 3
    head = net.netlist.connections[-1].target
    assert f"{head}.partial2" in run("inspect", tmp_path / "m.h5").out


@pytest.mark.parametrize("form", [f for f in FORMS if f is not Diagonal])
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_parts_are_the_synapses_in_runs(form: type[LinearMap], seed: int) -> None:
    rng = np.random.default_rng(seed)
    linear = random_map(rng, form, (4, int(rng.integers(3, 6)), int(rng.integers(3, 6))))
    whole = two_layers(linear, Source(-3, 7, "first"))
    most = most_parts(whole, whole.connections[0])
    if not most:
        return
    number = int(rng.integers(1, min(most, 9) + 1))
    split = split_fan_in(whole, {0: number})
    parts = [split.into(f"b.partial{i}")[0].map for i in range(number)]
    found = [synapse for part in parts for synapse in oracles.synapses(part)]
    assert sorted(found) == sorted(oracles.synapses(linear))
    ends = [sorted({source for _, source, _ in oracles.synapses(part)}) for part in parts]
    ends = [sources for sources in ends if sources]
    assert all(a[-1] < b[0] for a, b in pairwise(ends))
    channels = isinstance(linear, (Conv, ConvTransposed))
    unit = linear.in_size // linear.in_shape[0] if channels else 1
    assert all(b[-1] - b[0] < -(-most // number) * unit for b in ends)


def two_layers(linear: LinearMap, source: Source, exponent: int = 0, steps: int = 2) -> Netlist:
    neuron = Window(integers(40), ZERO, integers(20), 5, "graded")
    populations = (
        population("a", linear.in_shape, source),
        population("b", linear.out_shape, neuron),
        population("out", linear.out_shape, Readout(ZERO, ZERO)),
    )
    copied = Diagonal(frozen(1, np.int8), linear.out_shape, linear.out_shape)
    connections = (connection("a", "b", linear, exponent), connection("b", "out", copied))
    return proven(Netlist(populations, connections, steps))


def dense(outputs: int, inputs: int, value: int = 1) -> Dense:
    return Dense(frozen(np.full((outputs, inputs), value), np.int8), (inputs,), (outputs,))


def test_where_relays_are_and_when_they_send() -> None:
    whole = two_layers(dense(3, 7), Source(0, 9, "first"), exponent=2)
    split = split_fan_in(whole, {("a", "b"): 3})
    assert [p.name for p in split.populations] == [
        *("a", "b.partial0", "b.partial1", "b.partial2", "b", "out")
    ]
    reads = [c.map.pretty() for c in split.connections if c.source == "a"]
    assert reads == [
        "DensePart 3x2, inputs 0..1 of 7",
        "DensePart 3x2, inputs 2..3 of 7",
        "DensePart 3x3, inputs 4..6 of 7",
    ]
    assert [c.exponent for c in split.connections] == [0, 2, 0, 2, 0, 2, 0]
    assert split["b.partial2"].neuron.payload() == (0, 27)
    before, after = (schedule(n.populations, n.connections, n.steps) for n in (whole, split))
    assert after.first["b"] == before.first["b"] + 1
    assert after.latency == before.latency + 1
    again = split_fan_in(split, {("a", "b.partial2"): 2})  # relays of relays
    again.verify()
    assert again["b.partial2.partial1"].neuron.payload() == (0, 18)
    check_same(whole, again, np.arange(14).reshape(2, 7) % 10, "states")


def test_connections_that_join_wait_for_the_sums_and_names_stay_unique() -> None:
    whole = two_layers(dense(3, 7), Source(0, 9, "first"))
    other = connection("a", "b", dense(3, 7, -2), 1)
    same = population("b.partial1", (3,), whole["b"].neuron)
    more = (other, connection("a", "b.partial1", dense(3, 7)))
    populations = (whole["a"], same, *whole.populations[1:])
    whole = proven(replace(whole, populations=populations, connections=(*whole.connections, *more)))
    split = split_fan_in(whole, {0: 2})
    split.verify()
    assert [p.name for p in relays(split)] == ["b.partial1", "b.partial0", "b.partial2"]
    assert [c.delay for c in split.connections if (c.source, c.target) == ("a", "b")] == [1]
    both = split_fan_in(whole, {("a", "b"): 2})
    assert len(both.populations) == len(whole.populations) + 4
    check_same(whole, both, np.arange(14).reshape(2, 7) % 10, "states")


def chip(relay_populations: bool = True, payload_bits: int | None = None) -> Profile:
    profile = load("loihi2")
    flag = replace(profile.features.relay_populations, value=relay_populations)
    bits = profile.limits.payload_bits
    assert bits is not None
    limits = profile.limits
    if payload_bits is not None:
        limits = replace(limits, payload_bits=replace(bits, value=payload_bits))
    return replace(
        profile, features=replace(profile.features, relay_populations=flag), limits=limits
    )


def test_chips_without_relays_refuse() -> None:
    whole = two_layers(dense(3, 7), Source(0, 9, "first"))
    split_fan_in(whole, {0: 2}, chip()).verify(chip())
    with pytest.raises(NetlistError, match=r"a -> b: loihi2 reads all inputs .* 7 inputs in 2"):
        split_fan_in(whole, {0: 2}, chip(relay_populations=False))
    with pytest.raises(NetlistError, match="loihi1 reads all inputs of a neuron at once"):
        split_fan_in(whole, {0: 2}, load("loihi1"))


def test_partial_sums_fit_spikes_and_states() -> None:
    whole = two_layers(dense(3, 8, 127), Source(-1, 2, "first"))
    # 4 of 8 inputs: up to 4 * 127 * 2 = 1016, down to -508; 11 bits hold -1023 .. 1023.
    assert split_fan_in(whole, {0: 2}, chip(payload_bits=11))["b.partial0"].state_high == 1016
    message = (
        r"b.partial0, for a -> b: a partial sum fits the 10 bits of a spike of loihi2; "
        r"found -508..1016, allowed -511..511. Split the connection into more parts"
    )
    with pytest.raises(NetlistError, match=message):
        split_fan_in(whole, {0: 2}, chip(payload_bits=10))
    split_fan_in(whole, {0: 4}, chip(payload_bits=10)).verify(chip(payload_bits=10))


def test_partial_sums_at_the_edge_of_24_bits() -> None:
    """Exact at the last integer, refused one beyond it; the sum of both parts is small."""
    row = np.array([[127, -127]])
    for largest, fits in ((TOP // 127, True), (TOP // 127 + 1, False)):
        linear = Dense(frozen(row, np.int8), (2,), (1,))
        populations = (
            population("a", (2,), Source(0, largest, "first")),
            population("out", (1,), Readout(ZERO, ZERO)),
        )
        whole = proven(Netlist(populations, (connection("a", "out", linear),), 1))
        if not fits:
            with pytest.raises(NetlistError, match=r"24 bits of a state; found 0\.\.8388731"):
                split_fan_in(whole, {0: 2})
            continue
        split = split_fan_in(whole, {0: 2})
        split.verify()
        inputs = np.array([[largest, 0], [0, largest], [largest, largest], [largest, largest - 1]])
        check_same(whole, split, inputs, "states")
        assert reference.run(split, inputs).readouts["out"].max() == largest * 127


def test_windows_that_add_up_beyond_32_bits_are_refused() -> None:
    whole = two_layers(dense(1, 2, 100), Source(0, 9999, "held"), steps=2200)
    with pytest.raises(NetlistError, match="the spikes of a window add up to 32 bits"):
        split_fan_in(whole, {0: 1})


def test_what_relays_cannot_stand_in_for() -> None:
    shape = (2, 4, 4)
    full = Conv(frozen(np.ones((2, 2, 1, 1)), np.int8), shape, shape)
    grouped = Conv(frozen(np.ones((2, 1, 1, 1)), np.int8), shape, shape, groups=2)
    same = Diagonal(frozen(1, np.int8), shape, shape)
    ones = Window(integers(4), ZERO, ZERO, 2, "unary")
    populations = (
        population("a", shape, Source(0, 3, "train")),
        population("b", shape, ones),
        population("or", shape, OrGate()),
        population("out", shape, Readout(ZERO, ZERO)),
    )
    ends = [("a", "b", full), ("b", "or", grouped), ("or", "out", same), ("a", "out", grouped)]
    whole = proven(Netlist(populations, tuple(connection(*end) for end in ends), 2))
    whole.verify()
    looped = replace(whole, connections=(*whole.connections, connection("b", "b", full)))
    wrong: list[tuple[Netlist, Parts, str]] = [
        (whole, {1: 2}, "b -> or: relays add up parts .* OrGate compares what its inputs send"),
        (whole, {2: 2}, "every neuron has one input"),
        (whole, {3: 2}, "the channels of a grouped convolution read few inputs"),
        (looped, {4: 2}, "the population drives itself"),
        (whole, {0: 3}, "every part of the inputs has something to read; found 3 parts, .*1..2"),
        (whole, {0: 0}, "found 0 parts"),
        (whole, {4: 2}, "connection 4: each connection that is split exists"),
        (whole, {("a", "or"): 2}, "no such connection"),
        (whole, {0: 2, ("a", "b"): 2}, "it is named twice"),
    ]
    for netlist, parts, message in wrong:
        with pytest.raises(NetlistError, match=message):
            split_fan_in(netlist, parts)


@pytest.mark.parametrize("bound", ["low", "high", "total_low", "total_high"])
def test_a_relay_whose_bounds_are_too_narrow_is_found(bound: str) -> None:
    """A file may say anything: what is proven behind a relay rests on its bounds."""
    whole = two_layers(dense(3, 4), Source(-2, 9, "held"))
    split = split_fan_in(whole, {0: 2})
    split.verify()
    relay = split["b.partial1"]
    values = np.broadcast_to(getattr(relay.neuron, bound), (3,)).copy()
    values[1] -= int(np.sign(values[1]))
    neuron = replace(relay.neuron, **{bound: frozen(values)})
    liar = tuple(replace(p, neuron=neuron) if p is relay else p for p in split.populations)
    step = "window" if "total" in bound else "step"
    rule = f"a relay states what its drive of a {step} can be"
    with pytest.raises(NetlistError, match=rule):
        replace(split, populations=liar).verify()


@pytest.mark.parametrize(
    ("first", "shape", "message"),
    [
        (-1, (3, 2), "is in range"),
        (7, (3, 2), "is in range"),
        (6, (3, 2), "the last input read and one more"),
        (0, (2, 2), "one row per output"),
        (0, (3, 0), r"is \(outputs, inputs read\)"),
        (0, (6,), r"is \(outputs, inputs read\)"),
    ],
)
def test_a_part_beyond_the_inputs_is_not_read(
    first: int, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    linear = DensePart(frozen(np.zeros(shape), np.int8), (7,), (3,), first)
    whole = two_layers(dense(3, 7), Source(0, 9, "first"))
    drives = (replace(whole.connections[0], map=linear), whole.connections[1])
    net = replace(compiled("graded"), netlist=replace(whole, connections=drives))
    with pytest.raises(ArtifactError, match=message):
        net.save(tmp_path / "m.h5")


def test_the_first_dense_layer_of_vgg_16() -> None:
    """25,088 to 4,096 at 8 bits, 103 MB: parts are slices, nothing is unfolded."""
    linear = Dense(frozen(np.zeros((4096, 25088), np.int8)), (512, 7, 7), (4096,))
    whole = two_layers(linear, Source(0, 15, "first"))
    begun = time.process_time()
    split = split_fan_in(whole, {0: 7}, load("loihi2"))
    assert time.process_time() - begun < 5
    parts = [split.into(p.name)[0].map for p in relays(split)]
    assert [m.weight.shape for m in parts] == [(4096, 3584)] * 7
    assert sum(m.weight.nbytes for m in parts) == linear.weight.nbytes
