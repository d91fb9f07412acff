"""Netlists with faults: who is silent, which weights moved, and that every equality holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from netlists import (
    ALL_CODINGS,
    Coding,
    connection,
    integers,
    population,
    proven,
    random_inputs,
    random_netlist,
)

from lapilli.compiler.errors import InputError, NetlistError
from lapilli.compiler.linear import Dense, Diagonal, Sparse, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import (
    LIF,
    STATE_BITS,
    GradedMax,
    Ladder,
    NeuronModel,
    Readout,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.compiler.numerics import half_up, signed_range
from lapilli.runtime import faults, quantised_ann, reference

TOP = signed_range(STATE_BITS)[1]
SHARE = 0.3


def drawn(netlist: Netlist, share: float, seed: int) -> dict[str, npt.NDArray[np.bool_]]:
    """The neurons that `dead_neurons` silences, population by population."""
    rng, dead = np.random.default_rng(seed), {}
    for p in netlist.populations:
        if not isinstance(p.neuron, (Source, Readout)):
            flags = np.zeros(p.size, bool)
            flags[rng.permutation(p.size)[: int(half_up(share * p.size))]] = True
            dead[p.name] = flags.reshape(p.shape)
    return dead


def can_be_silent(netlist: Netlist) -> bool:
    """Packed maxima that count from more than zero cannot."""
    return all(p.neuron.lowest <= 0 for p in netlist.populations if isinstance(p.neuron, GradedMax))


def with_coding(coding: Coding) -> tuple[Netlist, npt.NDArray[np.int64]]:
    for seed in range(9):
        rng = np.random.default_rng(seed)
        netlist = random_netlist(rng, coding)
        if can_be_silent(netlist):
            return netlist, random_inputs(rng, netlist, 3)
    raise AssertionError(f"{coding}: no draw can be silent")


@pytest.mark.parametrize("coding", ALL_CODINGS)
def test_dead_neurons_are_silent_and_the_rest_lives_on(coding: Coding) -> None:
    netlist, inputs = with_coding(coding)
    faulty = faults.dead_neurons(netlist, SHARE, np.random.default_rng(7))
    faulty.verify()
    healthy = reference.run(netlist, inputs, record="spikes")
    found = reference.run(faulty, inputs, record="spikes")
    dead = drawn(netlist, SHARE, 7)
    for name, flags in dead.items():
        assert not found.spikes[name][:, :, flags].any(), name
    # Up to the first faulty population nothing has changed for those that live.
    first = next(iter(dead))
    alive = ~dead[first]
    assert np.array_equal(found.spikes[first][:, :, alive], healthy.spikes[first][:, :, alive])
    assert any(healthy.spikes[name][:, :, flags].any() for name, flags in dead.items())
    if faulty.settles:
        counted = quantised_ann.run(faulty, inputs)
        for name, counts in counted.counts.items():
            assert np.array_equal(found.counts[name], counts), name
        for name, values in counted.readouts.items():
            assert np.array_equal(found.readouts[name], values), name


@pytest.mark.parametrize("coding", ["graded", "unary", "ladder", "sigma-delta", "graded max"])
def test_what_lives_counts_what_the_dead_leave_it(coding: Coding) -> None:
    """Silence is what the others hear: the same as cutting every synapse that leaves the dead."""
    netlist, inputs = with_coding(coding)
    faulty = faults.dead_neurons(netlist, SHARE, np.random.default_rng(7))
    dead = drawn(netlist, SHARE, 7)
    deaf = []
    for c in netlist.connections:
        matrix = c.map.to_sparse().toarray()
        if c.source in dead:
            matrix[:, dead[c.source].reshape(-1)] = 0
        cut = Dense(frozen(matrix), (c.map.in_size,), (c.map.out_size,))
        deaf.append(replace(c, map=cut))
    expected = reference.run(proven(replace(netlist, connections=tuple(deaf))), inputs)
    found = reference.run(faulty, inputs)
    for name, values in expected.readouts.items():
        assert np.array_equal(found.readouts[name], values)
    for name, flags in dead.items():
        assert np.array_equal(found.counts[name][:, ~flags], expected.counts[name][:, ~flags])


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_exactly_the_share_is_dead(share: float) -> None:
    neuron = Window(integers(10), integers(0), integers(5), 7, "graded")
    netlist = one_layer(neuron, 40)
    faulty = faults.dead_neurons(netlist, share, np.random.default_rng(0))
    counts = reference.run(faulty, np.full((1, 40), 25)).counts["layer"]
    assert (counts == 0).sum() == half_up(40 * share)
    assert set(counts[counts > 0]) <= {3}
    assert (faulty is netlist) == (half_up(40 * share) == 0)


def one_layer(neuron: NeuronModel, units: int = 4, weight: int = 1, exponent: int = 0) -> Netlist:
    """input -> layer -> out, one synapse per neuron."""
    one = Diagonal(frozen(np.int8(weight)), (units,), (units,))
    first, last = (
        population("input", (units,), Source(0, 255, "first")),
        Readout(integers(0), integers(0)),
    )
    middle, out = population("layer", (units,), neuron), population("out", (units,), last)
    connections = (
        connection("input", "layer", one, exponent),
        connection("layer", "out", Diagonal(frozen(np.int8(1)), (units,), (units,))),
    )
    return proven(Netlist((first, middle, out), connections, 8))


@pytest.mark.parametrize(
    "neuron",
    [
        Window(integers(10), integers(300), integers(5), 7, "graded"),
        Window(integers(10), integers(300), integers(5), 7, "graded", -7),
        Window(integers(TOP), integers(TOP // 2), integers(TOP // 2 - 254), 7, "graded"),
        SoftResetIF(integers(10), integers(50), integers(500)),
        SoftResetIF(integers(10), integers(TOP // 8 - 300), integers(0)),
        LIF(integers(1), integers(99), 4096, 0),
        Ladder(integers([[-9], [9]]), integers([[1], [1]]), integers(3), *[integers(0)] * 2, 3, 5,
               "graded"),
    ],
)  # fmt: skip
def test_no_bias_wakes_the_dead(neuron: NeuronModel) -> None:
    netlist = one_layer(neuron)
    inputs = np.full((2, 4), 255)
    assert reference.run(netlist, inputs).counts["layer"].all()
    faulty = faults.dead_neurons(netlist, 0.5, np.random.default_rng(0))
    faulty.verify()
    counts = reference.run(faulty, inputs).counts["layer"]
    assert ((counts == 0).sum(1) == 2).all()


def test_synapses_are_cut_only_where_no_parameter_silences() -> None:
    cut = {}
    for coding in ("graded", "rate", "signed", "multi", "ladder", "sigma-delta", "or", "lif"):
        netlist, _ = with_coding(coding)  # type: ignore[arg-type]
        faulty = faults.dead_neurons(netlist, SHARE, np.random.default_rng(7))
        pairs = zip(netlist.connections, faulty.connections, strict=True)
        cut[coding] = any(type(b.map) is Sparse and a.map is not b.map for a, b in pairs)
    assert [coding for coding, found in cut.items() if found] == ["or", "lif"]


def test_a_packed_maximum_that_never_counts_zero_cannot_die() -> None:
    neuron = GradedMax(integers(0), 1, 3, 2, 5, "graded")
    netlist = one_layer(neuron)
    with pytest.raises(InputError, match="a dead neuron sends counts of 0"):
        faults.dead_neurons(netlist, 0.5, np.random.default_rng(0))


@pytest.mark.parametrize("coding", ALL_CODINGS)
def test_a_network_with_noisy_weights_still_holds(coding: Coding) -> None:
    rng = np.random.default_rng(3)
    netlist = random_netlist(rng, coding)
    noisy = faults.noisy_weights(netlist, 0.3, np.random.default_rng(1))
    noisy.verify()
    same = faults.noisy_weights(netlist, 0.3, np.random.default_rng(1))
    moved = 0
    for before, after, again in zip(
        netlist.connections, noisy.connections, same.connections, strict=True
    ):
        assert np.array_equal(after.map.weight, again.map.weight)
        wired = isinstance(netlist[after.target].neuron, faults.WIRED)
        assert not wired or after is before
        moved += int((after.map.weight != before.map.weight).sum())
        assert not after.map.weight[before.map.weight == 0].any()
    assert moved
    inputs = random_inputs(rng, noisy, 2)
    found = reference.run(noisy, inputs)
    if noisy.settles:
        counted = quantised_ann.run(noisy, inputs)
        assert all(np.array_equal(found.counts[n], c) for n, c in counted.counts.items())


def dense(bits: int = 8) -> Netlist:
    """A layer with many weights of all sizes."""
    top = 2 ** (bits - 1) - 1
    weight = np.random.default_rng(0).integers(-top, top + 1, (200, 100))
    window = Window(integers(999), integers(0), integers(500), 7, "graded")
    parts = (
        population("input", (100,), Source(0, 15, "first")),
        population("layer", (200,), window),
        population("out", (200,), Readout(integers(0), integers(0))),
    )
    connections = (
        connection("input", "layer", Dense(frozen(weight), (100,), (200,))),
        connection("layer", "out", Diagonal(frozen(np.int8(1)), (200,), (200,))),
    )
    return proven(Netlist(parts, connections, 1))


def test_noise_is_relative_rounded_and_bounded() -> None:
    netlist, strength = dense(), 0.2
    noisy = faults.noisy_weights(netlist, strength, np.random.default_rng(5))
    before, after = (n.connections[0].map.weight.astype(np.int64) for n in (netlist, noisy))
    z = np.random.default_rng(5).standard_normal(before.shape)
    assert np.array_equal(after, np.clip(half_up(before * (1 + strength * z)), -128, 127))
    assert after.min() == -128
    assert after.max() == 127
    assert noisy.connections[0].map.weight.dtype == np.int8
    inner = (np.abs(before) > 20) & (np.abs(before) < 60)
    deviation = (after[inner] / before[inner] - 1).std()
    assert abs(deviation / strength - 1) < 0.05


@pytest.mark.parametrize(("stored", "bits", "low", "high"), [(8, 6, -127, 127), (6, 9, -256, 255)])
def test_weights_keep_their_bits_or_the_range_that_they_had(
    stored: int, bits: int, low: int, high: int
) -> None:
    noisy = faults.noisy_weights(dense(stored), 5.0, np.random.default_rng(5), bits)
    weight = noisy.connections[0].map.weight
    assert (weight.min(), weight.max()) == (pytest.approx(low, abs=30), pytest.approx(high, abs=30))
    assert low <= weight.min() <= weight.max() <= high


def test_no_strength_is_no_fault() -> None:
    netlist = dense()
    for fault in faults.FAULTS.values():
        assert fault(netlist, 0.0, np.random.default_rng(0)) is netlist


@pytest.mark.parametrize(
    ("fault", "strength"),
    [
        ("dead", 1.01),
        ("dead", -0.1),
        ("dead", float("nan")),
        ("weights", -0.1),
        ("weights", float("inf")),
    ],
)
def test_strengths_are_shares(fault: str, strength: float) -> None:
    with pytest.raises(InputError, match="the strength of a fault is a share"):
        faults.FAULTS[fault](dense(), strength, np.random.default_rng(0))


def full(exponent: int) -> Netlist:
    """A state that nearly fills its bits."""
    shift = 2**exponent
    threshold = integers(100 * shift)
    neuron = Window(threshold, integers(TOP - 255 * 100 * shift - 50 * shift), threshold // 2, 99,
                    "graded")  # fmt: skip
    return one_layer(neuron, 40, 100, exponent)


def test_a_state_that_noise_would_overflow_gets_room() -> None:
    netlist = full(4)
    assert netlist["layer"].state_high == TOP
    noisy = faults.noisy_weights(netlist, 0.1, np.random.default_rng(0))
    layer = noisy["layer"]
    assert TOP // 2 < layer.state_high < TOP
    assert noisy.connections[0].exponent == 3
    assert layer.state_scale == 2 * netlist["layer"].state_scale
    inputs = np.arange(40)[None] * 6
    counts = reference.run(noisy, inputs).counts["layer"]
    assert np.array_equal(counts, quantised_ann.run(noisy, inputs).counts["layer"])
    # Without noise, half the units say the same.
    roomy = faults._halved(netlist, netlist["layer"])
    assert np.array_equal(
        reference.run(roomy, inputs).counts["layer"], reference.run(netlist, inputs).counts["layer"]
    )


def test_a_state_without_room_is_refused() -> None:
    with pytest.raises(NetlistError, match=r"layer \(Window\) with a fault: every reachable state"):
        faults.noisy_weights(full(0), 0.1, np.random.default_rng(0))
