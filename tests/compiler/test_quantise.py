"""SpikingGraph -> Netlist: bits, scales, proofs, and the networks that strain them."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import sample_networks
from hypothesis import given
from hypothesis import strategies as st

from lapilli.compiler.calibrate import calibrate
from lapilli.compiler.errors import InputError, NetlistError, StateOverflowError
from lapilli.compiler.frontend import capture, evaluation_copy
from lapilli.compiler.linear import (
    Array,
    Conv,
    Dense,
    Diagonal,
    LinearMap,
    Sparse,
    along_channels,
    frozen,
)
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import Readout, SoftResetIF, Source, Window
from lapilli.compiler.passes import METHODS, method_of
from lapilli.compiler.passes.convert_parallel import Parallel
from lapilli.compiler.passes.convert_rate import Rate
from lapilli.compiler.passes.legalise import legalise
from lapilli.compiler.passes.quantise import LEAST_BITS, MAX_EXPONENT, quantise
from lapilli.compiler.spiking import SpikingConnection, SpikingGraph, SpikingPopulation, readout
from lapilli.compiler.storage import digest, encode
from lapilli.hardware_profiles import Profile, Quantity, load, names
from lapilli.runtime import quantised_ann

CHIPS = ["loihi1", "loihi2", "unlimited"]  # formats and simulators have tests of their own
CODINGS = {
    "graded": Parallel(levels=6),
    "unary": Parallel(levels=6, coding="unary"),
    "rate": Rate(steps=12),
}
CASES = [
    (chip, coding)
    for chip in CHIPS
    for coding in CODINGS
    if coding != "graded" or load(chip).features.graded_spikes.value
]
TOP = 2**23 - 1


def spiking_graph(name: str, options: Any, *, signed: bool = False) -> SpikingGraph:
    model = sample_networks.network(name)
    images = sample_networks.images(name, 30, signed=signed)
    graph = legalise(capture(evaluation_copy(model), images))
    return METHODS[method_of(options)].convert(graph, calibrate(graph, images), options)


def real_weights(c: SpikingConnection, graph: SpikingGraph) -> Array:
    """The connection as a dense matrix, in real units per spike of the source."""
    source = next(p for p in graph.populations if p.name == c.source)
    wide = np.broadcast_to(along_channels(source.amplitude, source.shape), source.shape)
    return np.asarray(c.map.to_sparse().toarray() * wide.reshape(1, -1))


def unit_of(netlist: Netlist, name: str, graph: SpikingGraph) -> Array:
    """Real value of one unit of v, per neuron (flat)."""
    p = netlist[name]
    repeats = graph.steps if graph.hold and isinstance(p.neuron, Readout) else 1
    return np.broadcast_to(p.state_scale * repeats, p.shape).reshape(-1)


def test_there_are_chips_to_quantise_for() -> None:
    assert set(CHIPS) < {name for name in names() if load(name).kind == "neuromorphic"}
    assert {coding for _, coding in CASES} == set(CODINGS)


@pytest.mark.parametrize(("chip", "coding"), CASES)
@pytest.mark.parametrize("name", sample_networks.NETWORKS)
@pytest.mark.parametrize("signed", [False, True])
def test_integers_respect_the_chip_and_keep_their_scales(
    name: str, chip: str, coding: str, signed: bool
) -> None:
    graph, profile = spiking_graph(name, CODINGS[coding], signed=signed), load(chip)
    netlist = quantise(graph, profile)
    netlist.verify(profile)
    spiking = {p.name: p for p in graph.populations}
    assert [p.name for p in netlist.populations] == list(spiking)
    for c, real in zip(netlist.connections, graph.connections, strict=True):
        assert c.map.weight.dtype == np.int8
        assert np.abs(c.map.weight.astype(int)).max() <= 127
        assert 0 <= c.exponent <= MAX_EXPONENT
        unit = unit_of(netlist, c.target, graph)
        scale = np.broadcast_to(
            along_channels(c.weight_scale, c.map.out_shape), c.map.out_shape
        ).reshape(-1)
        assert np.allclose(scale, unit * 2.0**c.exponent, rtol=1e-12)
        error = c.map.to_sparse().toarray() * scale[:, None] - real_weights(real, graph)
        assert (np.abs(error) <= scale[:, None] * 0.5 * (1 + 1e-9)).all()
    for p in netlist.populations[1:]:
        low, high = netlist.reach(p.name)
        assert (p.state_low, p.state_high) == (low, high)
        assert -TOP <= low <= high <= TOP
        assert high - low > 2**10, "units are as fine as the proof allows"
        full = {
            k: np.broadcast_to(v, p.shape).reshape(-1)
            for k, v in vars(p.neuron).items()
            if isinstance(v, np.ndarray)
        }
        unit = unit_of(netlist, p.name, graph)
        real_bias = np.broadcast_to(spiking[p.name].bias, p.shape).reshape(-1)
        if isinstance(p.neuron, Readout):
            bias = full["bias"] if graph.hold else full["initial"]
            assert (np.abs(bias * unit - real_bias) <= unit * 0.5 * (1 + 1e-9)).all()
            assert len(np.unique(unit)) == 1, "outputs can be compared as integers"
            continue
        theta = along_channels(spiking[p.name].threshold, p.shape)
        theta = np.broadcast_to(theta, p.shape).reshape(-1)
        assert (np.abs(full["threshold"] * unit - theta) <= unit * 0.51).all()
        rounded = np.abs(full["bias"] * unit - real_bias) <= unit * 0.5 * (1 + 1e-9)
        assert (rounded | constant(netlist, p)).all()
        assert rounded.mean() > 0.5
        assert (full["initial"] == full["threshold"] // 2).all()
        assert np.allclose(
            p.count_scale, along_channels(spiking[p.name].count_scale, p.shape), rtol=1e-15
        )
        if profile.features.threshold_sharing.value == "population":
            assert len(np.unique(full["threshold"])) == 1


def constant(netlist: Netlist, p: Population) -> Array:
    """Neurons (flat) that send the same whatever their drive: their bias may be cut."""
    step, total = netlist.drive_bounds(p.name)
    if isinstance(p.neuron, SoftResetIF):
        never = p.neuron.bias + step.high <= 0
        always = p.neuron.bias + step.low >= p.neuron.threshold
    else:
        assert isinstance(p.neuron, Window)
        start = p.neuron.initial + p.neuron.bias
        never = start + total.high <= 0
        always = start + total.low >= p.neuron.threshold * p.neuron.levels
    return np.broadcast_to(never | always, p.shape).reshape(-1)


def test_thresholds_of_both_parities_occur() -> None:
    netlist = quantise(spiking_graph("residual", CODINGS["graded"]), load("loihi2"))
    odd = np.concatenate(
        [
            p.neuron.threshold.reshape(-1) % 2
            for p in netlist.populations
            if isinstance(p.neuron, Window)
        ]
    )
    assert 0 < odd.sum() < odd.size


@pytest.mark.parametrize("coding", CODINGS)
def test_models_and_their_parameters_follow_the_spiking_graph(coding: str) -> None:
    graph = spiking_graph("residual", CODINGS[coding])
    netlist = quantise(graph, load("unlimited"))
    assert netlist.steps == graph.steps == {"graded": 1, "unary": 6, "rate": 12}[coding]
    source, *middle, last = (p.neuron for p in netlist.populations)
    assert isinstance(source, Source)
    timing = "held" if coding == "rate" else "first"
    assert (source.low, source.high, source.timing) == (0, 255, timing)
    assert isinstance(last, Readout)
    for neuron in middle:
        if coding == "rate":
            assert isinstance(neuron, SoftResetIF)
        else:
            assert isinstance(neuron, Window)
            assert (neuron.levels, neuron.sending) == (6, coding)


def test_a_membrane_that_starts_at_zero_stays_there() -> None:
    netlist = quantise(spiking_graph("vectors", Rate(steps=5, initial="zero")), load("loihi1"))
    starts = [p.neuron.initial for p in netlist.populations if isinstance(p.neuron, SoftResetIF)]
    assert starts
    assert not any(start.any() for start in starts)


@pytest.mark.parametrize(("chip", "coding"), CASES)
def test_the_same_input_gives_the_same_netlist(chip: str, coding: str) -> None:
    graph = spiking_graph("arithmetic", CODINGS[coding])
    first, again = (digest(encode(quantise(graph, load(chip)))) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("name", ["arithmetic", "residual"])
def test_views_before_a_relu_and_several_outputs(name: str) -> None:
    netlist = quantise(spiking_graph(name, CODINGS["graded"]), load("loihi2"))
    if name == "arithmetic":
        assert [p.name for p in netlist.outputs] == ["head", "side"]
        flat = netlist["relu_1"]
        assert flat.shape == (27,)
        (into,) = netlist.into("relu_1")
        assert isinstance(into.map, Sparse)
        assert into.weight_scale.shape in ((), (27,))
    else:
        forms = {type(c.map) for c in netlist.connections}
        assert forms == {Conv, Dense}


# Networks made by hand: one source, one layer, one readout.


def layer(
    *weights: Any,
    bias: Any = 0.0,
    threshold: Any = 1.0,
    levels: int = 8,
    steps: int | None = None,
    source: tuple[int, int] = (0, 255),
    readout_weight: float = 1.0,
    readout_bias: Any = 0.0,
) -> SpikingGraph:
    """Dense connections `weights` (C, n), all from one source; rate coding if steps is given."""
    hold = steps is not None
    matrices = [np.atleast_2d(np.asarray(w, float)) for w in weights]
    channels, inputs = matrices[0].shape
    one, theta = frozen(1.0), frozen(threshold, float)
    model: Literal["soft_reset_if", "window"] = "soft_reset_if" if hold else "window"
    amplitude = theta if hold else one
    head = Diagonal(frozen(readout_weight, float), (channels,), (channels,))
    return SpikingGraph(
        (
            SpikingPopulation("in", (inputs,), "source", one, 0.0, one, one, frozen(0.0), *source),
            SpikingPopulation(
                *("layer", (channels,), model, theta, 0.5, amplitude, one, frozen(bias, float)),
                *(0, steps or levels),
            ),
            readout("out", (channels,), frozen(readout_bias, float)),
        ),
        (
            *(
                SpikingConnection("in", "layer", Dense(frozen(w), (inputs,), (channels,)))
                for w in matrices
            ),
            SpikingConnection("layer", "out", head),
        ),
        steps=steps or 1,
        levels=steps or levels,
        sending="unary" if hold else "graded",
        timing="held" if hold else "first",
    )


def counts(netlist: Netlist, inputs: Any) -> Array:
    return quantised_ann.run(netlist, np.asarray(inputs, np.int64)).counts["layer"]


def real_counts(graph: SpikingGraph, netlist: Netlist, inputs: Any) -> list[list[int]]:
    """Counts with the netlist's rounded weights but real thresholds and biases, in fractions."""
    p = graph.populations[1]
    into = netlist.into("layer")
    scale = [np.broadcast_to(c.weight_scale, p.shape).tolist() for c in into]
    result = []
    for x in np.asarray(inputs).tolist():
        row = []
        for i in range(p.shape[0]):
            drive = Fraction(float(np.broadcast_to(p.bias, p.shape)[i]))
            for c, s in zip(into, scale, strict=True):
                weights = c.map.weight[i].tolist()
                total = sum(w * v for w, v in zip(weights, x, strict=True))
                drive += Fraction(s[i]) * total
            theta = Fraction(float(np.broadcast_to(p.threshold, p.shape)[i]))
            count = (drive / theta + Fraction(1, 2)).__floor__()
            row.append(min(max(count, 0), graph.levels))
        result.append(row)
    return result


def peak(netlist: Netlist, connection: int = 0) -> int:
    return int(np.abs(netlist.connections[connection].map.weight.astype(int)).max())


INPUTS = np.random.default_rng(0).integers(0, 256, (50, 6))


@pytest.mark.parametrize("chip", CHIPS[1:])
@pytest.mark.parametrize("ratio", [2.0**k for k in range(-6, 10, 3)])
def test_weights_use_all_their_bits_however_large_the_threshold(ratio: float, chip: str) -> None:
    """A large threshold asks for a coarse unit; the exponent has to give way, not the weights."""
    rng = np.random.default_rng(1)
    netlist = quantise(layer(rng.normal(size=(4, 6)), threshold=ratio), load(chip))
    weight = netlist.connections[0].map.weight.astype(int)
    assert np.abs(weight).max(axis=1).min() > 64


def test_a_nearly_dead_channel_does_not_hold_the_others_back() -> None:
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(4, 6))
    alone = quantise(layer(weights), load("loihi2"))
    for faint in (0.0, 1e-30, 1e-12, 1e-7, 1e-6, 1e-5, 5e-5, 1e-4, 1e-3):
        netlist = quantise(layer(weights * [[1], [faint], [1], [1]]), load("loihi2"))
        assert netlist.connections[0].exponent >= alone.connections[0].exponent - 3 > 0
        assert np.array_equal(
            netlist.connections[0].map.weight[[0, 2, 3]], alone.connections[0].map.weight[[0, 2, 3]]
        )
        # However few bits a faint channel keeps, they are fine beside its threshold.
        assert netlist.connections[0].weight_scale[1] <= 2.0**-10


def test_channels_without_weights_count_their_bias() -> None:
    bias = [0.0, 2.45, 2.55, 100.0, -3.0, 7.45]
    graph = layer(np.zeros((6, 6)), bias=bias)
    netlist = quantise(graph, load("loihi2"))
    assert counts(netlist, INPUTS[:1]).tolist() == [[0, 2, 3, 8, 0, 7]]
    assert peak(netlist) == 0
    rate = quantise(layer(np.zeros((6, 6)), bias=np.array(bias) / 8, steps=8), load("loihi1"))
    assert counts(rate, INPUTS[:1]).tolist() == [[0, 2, 3, 8, 0, 7]]


@pytest.mark.parametrize("size", [1e3, 1e6, 1e12, 1e30])
@pytest.mark.parametrize("steps", [None, 16])
def test_a_bias_that_decides_alone_is_cut_and_decides_still(size: float, steps: int | None) -> None:
    weights = np.random.default_rng(3).normal(size=(3, 6)) / 100
    graph = layer(weights, bias=[-size, 0.0, size], steps=steps)
    for chip in CHIPS if steps else CHIPS[1:]:
        netlist = quantise(graph, load(chip))
        assert peak(netlist) == 127
        found = counts(netlist, INPUTS)
        assert not found[:, 0].any()
        assert (found[:, 2] == graph.levels).all()
        assert len(np.unique(found[:, 1])) > 2


@given(st.data())
def test_cut_or_not_no_bias_changes_a_count_but_by_rounding(data: st.DataObject) -> None:
    """At a distance of one unit from every tie, counts are those of the real bias."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    size = data.draw(st.sampled_from([0.1, 10.0, 1000.0, 1e5]))
    graph = layer(
        rng.normal(size=(3, 6)) / 50, bias=rng.normal(size=3) * size, threshold=rng.random(3) + 0.5
    )
    netlist = quantise(graph, load("loihi2"))
    found, expected = counts(netlist, INPUTS[:10]), real_counts(graph, netlist, INPUTS[:10])
    differing = found != np.array(expected)
    assert differing.mean() <= 0.02
    assert np.abs(found - np.array(expected)).max() <= 1


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e-6, 1e6, 1e20])
def test_the_size_of_the_weights_does_not_matter(scale: float) -> None:
    weights = np.random.default_rng(4).normal(size=(3, 6))
    usual = quantise(layer(weights, threshold=40.0), load("loihi2"))
    scaled = quantise(layer(weights * scale, threshold=40.0 * scale), load("loihi2"))
    assert np.array_equal(counts(usual, INPUTS), counts(scaled, INPUTS))
    assert len(np.unique(counts(usual, INPUTS))) > 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (6, 1)])
def test_single_inputs_and_single_channels(shape: tuple[int, int]) -> None:
    graph = layer(np.full(shape, 0.01), threshold=0.25)
    netlist = quantise(graph, load("loihi2"))
    inputs = INPUTS[:, : shape[1]]
    expected = np.clip(np.floor(inputs.sum(axis=1) * 0.04 + 0.5), 0, 8)
    assert np.abs(counts(netlist, inputs)[:, 0] - expected).max() <= 1


@pytest.mark.parametrize("power", [0, 3, 8, 12, 14, 20, 60])
def test_connections_of_different_size_share_a_membrane(power: int) -> None:
    """Each has its exponent; where 12 powers of two are too few, the smaller one gives way."""
    rng = np.random.default_rng(5)
    small, large = rng.normal(size=(2, 4, 6))
    threshold = 2.0 * 2.0**power
    netlist = quantise(
        layer(small, large * 2.0**power, threshold=threshold, source=(0, 15)), load("loihi2")
    )
    exponents = [c.exponent for c in netlist.into("layer")]
    assert max(exponents) <= MAX_EXPONENT
    assert peak(netlist, 1) == 127
    fitting = exponents[1] - exponents[0] >= power - 1
    assert fitting == (power <= 8)
    assert peak(netlist, 0) == 127 or not fitting
    assert len(np.unique(counts(netlist, INPUTS // 16))) > 3


def test_a_large_connection_keeps_its_bits_beside_a_negligible_one() -> None:
    """Its exponent falls until the states fit, although the other's weights vanish."""
    rng = np.random.default_rng(6)
    inputs = 2000
    large = rng.normal(size=(2, inputs))
    netlist = quantise(layer(large * 1e-9, large, threshold=3e3), load("loihi2"))
    assert peak(netlist, 1) >= 64
    assert netlist.reach("layer")[1] <= TOP


def test_weights_are_coarsened_until_the_states_fit() -> None:
    rng = np.random.default_rng(7)
    weights = rng.random((2, 12)) + 0.5
    peaks = {}
    for high in (255, 2**12 - 1, 2**14 - 1, 2**16 - 1):
        netlist = quantise(layer(weights, threshold=high, source=(0, high)), load("loihi2"))
        peaks[high] = peak(netlist)
        assert netlist.reach("layer")[1] <= TOP
    assert peaks[255] == 127
    assert 127 > peaks[2**14 - 1] > peaks[2**16 - 1] >= 2 ** (LEAST_BITS - 1) - 1


def test_one_channel_is_coarsened_alone_where_thresholds_may_differ() -> None:
    rng = np.random.default_rng(8)
    weights = rng.random((2, 40)) + 0.5
    weights[0, 1:] = 0
    wide = layer(weights, threshold=2**14, source=(0, 2**14 - 1))
    weight = quantise(wide, load("loihi2")).connections[0].map.weight.astype(int)
    assert weight[0].max() > 100
    assert weight[1].max() < 64


@pytest.mark.parametrize("coding", ["window", "rate", "readout"])
def test_states_that_cannot_fit_are_refused(coding: str) -> None:
    graph = {
        "window": layer(np.ones((2, 4000)), threshold=2**16, source=(0, 2**16 - 1)),
        "rate": layer(-np.ones((2, 300)), threshold=30.0, steps=4096, source=(0, 15)),
        "readout": layer(np.ones((2, 3)), readout_weight=1e-9, readout_bias=1.0),
    }[coding]
    with pytest.raises(StateOverflowError) as caught:
        quantise(graph, load("unlimited"))
    error = caught.value
    where = {"window": "layer (Window)", "rate": "layer (SoftResetIF)", "readout": "out (Readout)"}
    assert error.where == where[coding]
    assert error.rule == "every reachable state fits, with weights that are fine enough"
    low, high = (int(n) for n in error.found.split("]")[0].strip("[").split(","))
    assert high > TOP or low < -TOP
    assert error.allowed == f"[{-TOP}, {TOP}]"
    assert error.remedy == "Use fewer steps, levels or input bits."


def test_bounds_beyond_64_bits_do_not_wrap_into_a_proof() -> None:
    graph = layer(np.ones((1, 6000)), threshold=2.0, steps=65535, source=(0, 65535))
    with pytest.raises(StateOverflowError):
        quantise(graph, load("unlimited"))


def with_limits(**limits: int) -> Profile:
    base = load("unlimited")
    values = {key: Quantity(v, "bit", "a test", "assumed") for key, v in limits.items()}
    return dataclasses.replace(base, limits=dataclasses.replace(base.limits, **values))


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_weights_have_the_bits_of_the_profile(bits: int) -> None:
    graph = spiking_graph("residual", CODINGS["graded"])
    netlist = quantise(graph, with_limits(weight_bits=bits))
    largest = [peak(netlist, i) for i in range(len(netlist.connections))]
    assert max(largest) == 2 ** (bits - 1) - 1


def test_states_have_the_bits_of_the_profile() -> None:
    netlist = quantise(layer(np.ones((2, 3)), threshold=90.0), with_limits(state_bits=18))
    assert max(p.state_high for p in netlist.populations) <= 2**17 - 1
    assert peak(netlist) == 127


def test_a_processor_is_no_chip() -> None:
    with pytest.raises(InputError) as caught:
        quantise(layer(np.ones((1, 1))), load("cmos45"))
    error = caught.value
    assert (error.where, error.found, error.allowed) == (
        "profile cmos45", "processor", "neuromorphic",
    )  # fmt: skip
    assert error.rule == "networks are compiled for neuromorphic chips"
    assert "loihi2" in error.remedy


def test_graded_spikes_are_refused_where_the_chip_has_none() -> None:
    with pytest.raises(NetlistError) as caught:
        quantise(spiking_graph("chain", CODINGS["graded"]), load("loihi1"))
    assert caught.value.rule == "loihi1 sends binary spikes only"


def flattened(amplitude: Array, shape: tuple[int, ...]) -> SpikingGraph:
    """A map that reads a (3, 2, 2) population under another shape."""
    one = frozen(1.0)
    linear: LinearMap = Diagonal(frozen(np.arange(1.0, 13).reshape(shape)), shape, shape)
    return SpikingGraph(
        (
            SpikingPopulation(
                "in", (3, 2, 2), "source", one, 0.0, amplitude, one, frozen(0.0), 0, 9
            ),
            readout("out", shape, frozen(0.0)),
        ),
        (SpikingConnection("in", "out", linear),),
        1, 1, "graded", False,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(12,), (3, 4), (2, 6), (1, 3, 4)])
def test_amplitudes_follow_the_units_through_a_view(shape: tuple[int, ...]) -> None:
    amplitude = frozen([1.0, 10.0, 100.0])
    netlist = quantise(flattened(amplitude, shape), load("loihi2"))
    inputs = np.random.default_rng(9).integers(0, 10, (4, 3, 2, 2))
    expected = (inputs * np.array(amplitude)[:, None, None]).reshape(4, -1) * np.arange(1, 13)
    outputs = quantised_ann.run(netlist, inputs).outputs
    assert isinstance(outputs, np.ndarray)
    assert np.abs(outputs.reshape(4, -1) - expected).max() <= 0.5 * 1200 / 127 * 9
