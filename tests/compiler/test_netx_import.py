"""`.net` files of lava-dl become netlists; what netx would skip, change or crash on is told.

That the spikes are netx's own is shown by tests/test_netx_import_lava.py; here nothing needs Lava.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netlists
import netx_files as nf
import netx_samples
import numpy as np
import oracles
import pytest
from netx_netlists import ROADS, random_road

from lapilli.compiler import artifact
from lapilli.compiler.errors import InputError
from lapilli.compiler.interchange import netx_export, netx_import
from lapilli.compiler.interchange.netx_import import import_netx
from lapilli.compiler.interchange.netx_layers import REFUSED
from lapilli.compiler.netlist import Connection
from lapilli.compiler.neurons import LIF, LavaDelta, LavaSigmaDelta, Readout, Source
from lapilli.hardware_profiles import load
from lapilli.runtime import reference

LOIHI2 = load("loihi2")
EYE = np.array([[40, -3], [2, 9]])


def imported(path: Path, layers: list[nf.Layer], **options: Any) -> artifact.Artifact:
    """The artifact of a file with these layers."""
    target = nf.write(path / "network.net", layers)
    return import_netx(target, **{"steps": 8, "profile": LOIHI2, **options})


def refusal(path: Path, layers: list[nf.Layer], **options: Any) -> str:
    """The whole message with which these layers are refused."""
    with pytest.raises(InputError) as error:
        imported(path, layers, **options)
    return str(error.value)


def matrix(c: Connection) -> list[list[int]]:
    """The weights of a connection, exponent included."""
    weights: list[list[int]] = (c.map.to_sparse().toarray().astype(np.int64) << c.exponent).tolist()
    return weights


def test_a_spiking_network_counts_its_last_layers_spikes(tmp_path: Path) -> None:
    layers = [nf.dense(EYE, nf.cuba(5)), nf.dense(EYE, nf.cuba(5), bias=np.array([1, -2]))]
    found = imported(tmp_path, layers)
    netlist = found.netlist
    assert [p.name for p in netlist.populations] == [
        *("input", "layer0.dense", "layer1.dense", "output"),
    ]
    assert [type(p.neuron) for p in netlist.populations] == [Source, LIF, LIF, Readout]
    assert (netlist.source.low, netlist.source.high, netlist.source.timing) == (0, 1, "train")
    x = np.random.default_rng(0).integers(0, 2, (3, 8, 2))
    trace = reference.run(netlist, x)
    assert trace.outputs.tolist() == trace.counts["layer1.dense"].tolist()
    assert trace.outputs.any()
    p = found.provenance
    assert (p.method, p.options["steps"], p.profile, p.notes) == ("netx-import", 8, "loihi2", "")
    assert len(str(p.options["file_sha256"])) == 64
    found.save(tmp_path / "model.h5")
    assert artifact.read(tmp_path / "model.h5").hash == found.hash


@pytest.mark.parametrize(
    "name", ["recurrent-delays", "delay-all", "conv", "sdnn-bias", "no-neuron"]
)
def test_the_reference_engine_computes_what_the_netlist_says(tmp_path: Path, name: str) -> None:
    layers, inputs = netx_samples.sample(name)
    span = (int(inputs.min()), int(inputs.max())) if "neuron" in layers[0] else None
    span = span if layers[0]["type"] == "input" else None
    netlist = imported(tmp_path, layers, steps=inputs.shape[1], input_range=span).netlist
    trace, expected = (
        reference.run(netlist, inputs, record="states"),
        oracles.simulate(netlist, inputs),
    )
    for population, values in trace.spikes.items():
        np.testing.assert_array_equal(values, expected.spikes[population], population)
    for population, values in trace.states.items():
        np.testing.assert_array_equal(values, expected.states[population], population)


@pytest.mark.parametrize(
    ("weight", "run"),
    [
        ([[-2, -2]], [[0, 0]]),
        ([[-1, -1]], [[0, 0]]),
        ([[-4, 0]], [[-2, 0]]),
        ([[-64, -3]], [[-63, -3]]),
        ([[300, 2]], [[0, 0]]),
        ([[300, -2]], [[254, -2]]),
        ([[-300, 2]], [[-256, 2]]),
        ([[-255, 253]], [[-255, 253]]),
        ([[255, 3]], [[255, 3]]),
        ([[10.9, -10.9]], [[10, -10]]),
    ],
)
def test_the_weights_are_those_that_netx_runs(
    tmp_path: Path, weight: list[list[float]], run: list[list[int]]
) -> None:
    found = imported(tmp_path, [nf.dense(weight, nf.cuba(1))])
    c = found.netlist.into("layer0.dense")[0]
    assert matrix(c) == run
    whole = np.trunc(np.array(weight)).astype(np.int64)
    changed = int((whole != np.array(run)).sum())
    assert (f"netx runs {changed} of 2 values of weight" in found.provenance.notes) == (changed > 0)
    assert ("drops the fractions of 2" in found.provenance.notes) == (whole != weight).any()


def test_weights_of_which_only_sums_are_known_are_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, [nf.dense([[-4, -1, 0]])])
    assert "layer/0 (dense)/weight: netx runs weights that are whole" in message
    assert "Add an unused input" in message


def test_the_exponent_of_delayed_recurrence_is_lost_as_in_netx(tmp_path: Path) -> None:
    layer = nf.dense_rec(np.array([[20, -3], [1, 5]]), EYE // 9, delay=np.array(1))
    found = imported(tmp_path, [layer, nf.dense(EYE)])
    into, loop = found.netlist.into("layer0.dense_rec")
    assert matrix(into) == [[160, -24], [8, 40]]
    assert (into.synaptic_delay, loop.synaptic_delay, loop.recurrent) == (1, 1, True)
    assert "otherwise than the file says, 20 as 160" in found.provenance.notes


def test_a_connection_for_every_delay(tmp_path: Path) -> None:
    delay = np.array([[0, 70.0], [3, 0]])
    found = imported(tmp_path, [nf.dense(EYE, delay=delay)])
    joined = {c.synaptic_delay: matrix(c) for c in found.netlist.into("layer0.dense")}
    assert joined == {
        0: [[40, 0], [0, 9]],
        3: [[0, 0], [2, 0]],
        62: [[0, -3], [0, 0]],
    }
    assert "limits delays of up to 70 to 0..62" in found.provenance.notes


def test_a_bias_wraps_at_16_bits(tmp_path: Path) -> None:
    found = imported(tmp_path, [nf.dense(EYE, bias=np.array([40000, 5]))])
    assert found.netlist["layer0.dense"].neuron.bias.tolist() == [-25536, 5]  # type: ignore[attr-defined]
    assert "16 bits of a bias: 1 wrap" in found.provenance.notes


def test_a_last_layer_that_only_adds_up_is_read_out(tmp_path: Path) -> None:
    last = nf.dense(EYE, nf.cuba(2**17 - 1, 4096, 0), bias=np.array([3, -7]))
    found = imported(tmp_path, [nf.dense(EYE, nf.cuba(1)), last])
    readout = found.netlist["layer1.dense"]
    assert isinstance(readout.neuron, Readout)
    assert readout.neuron.bias.tolist() == [3 * 64, -7 * 64]
    assert float(readout.state_scale) == 2.0**-12
    assert "never fires; the output is its membrane" in found.provenance.notes
    fires = imported(tmp_path / "..", [nf.dense(EYE, nf.cuba(40, 4096, 0))])
    assert isinstance(fires.netlist["layer0.dense"].neuron, LIF)


def test_a_leaky_last_layer_that_never_fires_is_told(tmp_path: Path) -> None:
    found = imported(tmp_path, [nf.dense(EYE, nf.cuba(2**17, 4096, 7))])
    assert "never fires; the output counts no spikes" in found.provenance.notes


def test_a_sigma_delta_network(tmp_path: Path) -> None:
    layers, inputs = netx_samples.sample("sdnn")
    span = (int(inputs.min()), int(inputs.max()))
    found = imported(tmp_path, layers, steps=24, input_range=span)
    models = [type(p.neuron) for p in found.netlist.populations]
    assert models == [Source, LavaDelta, LavaSigmaDelta, LavaSigmaDelta, Readout]
    assert found.provenance.notes == ""
    wide = imported(tmp_path / "..", layers[:-1], steps=24)
    assert "not proven to fit 24 bits" in wide.provenance.notes


def test_a_range_makes_the_input_of_a_file_without_input_neurons_graded(tmp_path: Path) -> None:
    found = imported(tmp_path, [nf.dense(EYE)], input_range=(-7, 9))
    assert (found.netlist.source.low, found.netlist.source.high) == (-7, 9)
    recurrent = [nf.dense_rec(EYE, EYE, nf.sdnn())]
    graded = imported(tmp_path / "..", recurrent, input_range=(-7, 9))
    assert "not proven to fit 24 bits" in graded.provenance.notes


@pytest.mark.parametrize("name", ROADS)
def test_our_own_export_comes_back(tmp_path: Path, name: str) -> None:
    """The same spikes and readouts, whatever tricks the export needed."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    netlist = random_road(rng, *ROADS[name])  # type: ignore[arg-type]
    told = netx_export.write(tmp_path / "own.net", netlist)
    span = (netlist.source.low, netlist.source.high)
    back = import_netx(
        tmp_path / "own.net", steps=netlist.steps, profile=LOIHI2, input_range=span
    ).netlist
    images = netlists.random_inputs(rng, netlist, 3)
    trains = np.repeat(images[:, np.newaxis], netlist.steps, axis=1)
    trains = trains.reshape(3, netlist.steps, *back.input.shape)
    first = reference.run(netlist, images, record="states")
    again = reference.run(back, trains, record="states")
    spikes = [first.spikes[p.name] for p in netlist.populations[1:-1]]
    for expected, p in zip(spikes, back.populations[1:], strict=False):
        found = again.spikes[p.name].reshape(expected.shape)
        np.testing.assert_array_equal(found, expected, p.name)
    expected = first.readouts[netlist.populations[-1].name] * told.unit
    found = again.readouts[back.populations[-1].name].reshape(expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_a_state_that_may_overflow_names_the_layer_and_what_helps(tmp_path: Path) -> None:
    layers, _ = netx_samples.sample("sdnn-into-lif")
    message = refusal(tmp_path, layers)
    assert "layer1.dense: every reachable state fits 24 bits" in message
    assert "narrower input range" in message


def test_what_the_chip_cannot_hold_is_told(tmp_path: Path) -> None:
    found = imported(tmp_path, [nf.dense([[253, -255]])])
    assert "loihi2 stores 8-bit signed weights; found -255..253" in found.provenance.notes


CONV = nf.conv(np.full((2, 1, 2, 2), 3), (1, 3, 3))
SHAPE = (1, 3, 3)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"neuron": nf.cuba(gradedSpike=True)}, "netx ignores gradedSpike True"),
        ({"neuron": nf.cuba(refDelay=3)}, "netx ignores refDelay 3"),
        ({"neuron": nf.cuba(tau=1)}, "not read, as netx does not: neuron/tau"),
        ({"weight_exp": 2}, "not read, as netx does not: weight_exp"),
        ({"delay": np.array([1, 2])}, "where slayer delays its spikes"),
        ({"neuron": nf.sdnn(activation="tanh")}, "netx runs ReLU, whatever the file says"),
        ({"weight": np.zeros((2, 2))}, "all weights are 0, on which netx itself fails"),
    ],
)  # fmt: skip
def test_what_netx_ignores_is_told(tmp_path: Path, change: nf.Layer, note: str) -> None:
    found = imported(tmp_path, [{**nf.dense(EYE), **change}])
    assert f"layer0.dense: {note}" in found.provenance.notes.replace("layer0.dense: netx delays "
        "the inputs of each neuron, ", "layer0.dense: ")  # fmt: skip


def test_the_transform_of_an_input_and_the_delays_of_a_convolution_are_told(tmp_path: Path) -> None:
    given = nf.source(SHAPE, nf.cuba(), weight=np.float32(40), bias=np.float32(-3))
    found = imported(tmp_path, [given, {**CONV, "delay": np.array(3)}])
    assert "layer0.input: netx does not apply the input transform" in found.provenance.notes
    assert "layer1.conv: netx ignores the delays of a convolution" in found.provenance.notes


def test_many_notes_are_counted(tmp_path: Path) -> None:
    layers = [nf.dense(EYE, nf.cuba(1, refDelay=2, gradedSpike=True)) for _ in range(70)]
    found = imported(tmp_path, [*layers, nf.dense(EYE, nf.cuba(1)) | {"odd\nname" * 30: 1}])
    assert len(found.provenance.notes) < 4000
    assert found.provenance.notes.splitlines()[-1].startswith("and ")
    found.save(tmp_path / "model.h5")
    named = imported(tmp_path / "..", [nf.dense(EYE) | {"odd\nname": 1}]).provenance.notes
    assert named == "layer0.dense: not read, as netx does not: odd\\nname"


def test_spikes_of_biases_before_the_first_step_are_told(tmp_path: Path) -> None:
    busy = nf.dense(EYE, nf.cuba(1), bias=np.array([50, 0]))
    late = imported(tmp_path, [busy, nf.dense(EYE, delay=np.array(2))])
    assert "layer1.dense: spikes that biases cause before" in late.provenance.notes
    looped = nf.dense_rec(EYE, EYE, nf.cuba(1), bias=np.array([50, 0]))
    found = imported(tmp_path / "..", [looped])
    assert "layer0.dense_rec: spikes that biases cause before" in found.provenance.notes


def test_other_ways_to_write_the_same_file(tmp_path: Path) -> None:
    """A type as a free text, weights in one axis, scalars, the newest HDF5 layout."""
    shape = (1, 4, 4)
    layers = [
        nf.source(shape),
        nf.conv(np.full((1, 1, 2, 2), 9), shape, nf.cuba(5), (2, 2)),
        nf.flatten((4,)),
        nf.dense([[3, -1, 4, 1]], nf.cuba(5)),
    ]
    usual = imported(tmp_path, layers)
    path = tmp_path / "other.net"
    with h5py.File(path, "w", libver="latest") as file:
        for i, layer in enumerate(layers):
            nf.put(file.create_group(f"layer/{i}"), layer)
            del file[f"layer/{i}/type"]
            file[f"layer/{i}/type"] = layer["type"]
        del file["layer/1/stride"], file["layer/3/weight"], file["layer/3/shape"]
        file["layer/1/stride"] = 2
        file["layer/3/weight"] = np.array([3.0, -1, 4, 1], np.float32)
        file["layer/3/shape"] = np.array([1, 1, 1])
    assert import_netx(path, steps=8, profile=LOIHI2).hash == usual.hash


REFUSALS: dict[str, tuple[list[nf.Layer], str]] = {
    **{kind: ([{"type": kind}], f"layer type '{kind}' can be imported") for kind in REFUSED},
    "unknown type": ([{"type": "dens"}], "netx knows no such layer, and skips it"),
    "no type": ([{"shape": np.array([2])}], "/layer/0/type: every layer has a type"),
    "complex": ([nf.dense(EYE) | {"weight": {"real": EYE, "imag": EYE}}], "complex dense"),
    "resonator": ([nf.dense(EYE, nf.cuba(type="RF_PHASE"))], "resonators are complex"),
    "unknown neuron": ([nf.dense(EYE, nf.cuba(type="ALIF"))], "netx knows no such neuron"),
    "neuron without type": ([nf.dense(EYE, {"vThMant": 3})], "a neuron has a type"),
    "message bits": ([nf.dense(EYE, nf.cuba(messageBits=8))], "messageBits is absent"),
    "real decay": ([nf.dense(EYE, nf.cuba(iDecay=410.0))], "neuron/iDecay: is one integer"),
    "large decay": ([nf.dense(EYE, nf.cuba(vDecay=4097))], "neuron/vDecay: is one integer"),
    "negative threshold": ([nf.dense(EYE, nf.cuba(-1))], "neuron/vThMant: is one integer"),
    "sigma-delta threshold beyond 24 bits": (
        [nf.source((2,), nf.sdnn()), nf.dense(EYE, nf.sdnn(2048))],
        "neuron/vThMant: is one integer",
    ),
    "no threshold": ([nf.dense(EYE, {"type": "CUBA"})], "vThMant: is an array of numbers"),
    "not a number": ([nf.dense(np.array([[np.nan, 1]]))], "/weight: numbers are finite"),
    "weights that wrap": ([nf.dense(np.array([[2**40, 1]]))], "/weight: numbers are finite"),
    "weights of text": ([nf.dense(EYE) | {"weight": "none"}], "/weight: is an array of numbers"),
    "weight rank": ([nf.dense(np.ones((2, 2, 2)))], "weights are (out, in)"),
    "dense shape": ([nf.dense(EYE) | {"shape": np.array([3])}], "weights are (out, in)"),
    "shape": ([nf.dense(EYE) | {"shape": np.array([0])}], "/shape: is 1 or 2 or 3 integers"),
    "huge": ([nf.source((2**20, 2**20, 1)), CONV], "layers have a usual size"),
    "bias shape": ([nf.dense(EYE, bias=np.ones(3))], "/bias: one per neuron"),
    "sizes": ([nf.dense(EYE), nf.dense([[1, 2, -3]])], "weights fit the layer before"),
    "delay shape": ([nf.dense(np.ones((3, 2)), delay=np.array([1]))], "delays fit the weights"),
    "negative delay": ([nf.dense(EYE, delay=np.array([-1, 0]))], "delays are not negative"),
    "recurrent shape": ([nf.dense_rec(EYE, [[1], [2]])], "join the layer with itself"),
    "recurrent delay": (
        [nf.dense_rec([[1, 2, -3], [1, 1, 1]], EYE, delay=np.array(1))], "one array of delays",
    ),
    "recurrent sigma-delta": ([nf.dense_rec(EYE, EYE, nf.sdnn())], "receive graded spikes"),
    "sigma with bias": (
        [nf.dense(EYE, nf.sdnn(sigma_output=True), bias=np.ones(2))], "without bias or recurrence",
    ),
    "sigma inside": ([nf.dense(EYE, nf.sdnn(sigma_output=True)), nf.dense(EYE)], "end the network"),
    "no layer that computes": ([nf.source((2,))], "a layer that computes"),
    "second input": ([nf.dense(EYE), nf.source((2,)), nf.dense(EYE)], "one input comes first"),
    "convolution first": ([CONV], "the shape of the input is given"),
    "convolution without neuron": (
        [nf.source(SHAPE), {k: v for k, v in CONV.items() if k != "neuron"}], "has a neuron",
    ),
    "convolution on a list": ([nf.source((9,)), CONV], "weights fit the layer before"),
    "channels": ([nf.source((2, 3, 3)), CONV], "weights fit the layer before"),
    "convolution shape": (
        [nf.source(SHAPE), CONV | {"shape": np.array([2, 3, 2])}], "the shape follows",
    ),
    "convolution bias": ([nf.source(SHAPE), CONV | {"bias": np.ones(9)}], "/bias: one per channel"),
    "convolution rank": ([nf.source(SHAPE), CONV | {"weight": EYE}], "(O, C / groups, kH, kW)"),
    "stride": ([nf.source(SHAPE), CONV | {"stride": np.array([1, 0])}], "/stride: is 1 or 2"),
    "wide padding": ([nf.source(SHAPE), CONV | {"padding": np.array([128, 0])}], "/padding: is"),
    "groups": ([nf.source(SHAPE), CONV | {"groups": 2}], "weights fit the layer before"),
    "no flatten": ([nf.source(SHAPE), CONV, nf.dense(np.ones((1, 8)))], "a flatten layer stands"),
    "flatten of a list": (
        [nf.dense(EYE), nf.flatten((2,)), nf.dense(EYE)], "a flatten layer stands",
    ),
    "flatten and convolution": ([nf.source(SHAPE), nf.flatten(SHAPE), CONV], "before a dense"),
    "flatten last": ([nf.dense(EYE), nf.flatten((2,))], "flatten stands before a dense layer"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_cannot_be_imported_is_refused_by_name(tmp_path: Path, name: str) -> None:
    layers, message = REFUSALS[name]
    found = refusal(tmp_path, layers)
    assert message in found
    assert "network.net" in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps: a sample has a usual length"),
        ({"steps": 2**21}, "steps: a sample has a usual length"),
        ({"input_range": (-3000, 3)}, "input range: the input fits the neurons"),
        ({"input_range": (3, -3)}, "input range: the input fits the neurons"),
    ],
)
def test_options_are_checked(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    layers = [nf.source((2,), nf.sdnn()), nf.dense(EYE, nf.sdnn())]
    assert message in refusal(tmp_path, layers, **options)


def test_every_sample_verifies(tmp_path: Path) -> None:
    builders: dict[str, Callable[..., Any]] = dict(netx_samples.SAMPLES)
    assert builders
    for name in builders:
        layers, inputs = netx_samples.sample(name)
        span = (-60, 60) if layers[0].get("neuron", {}).get("type") == "SDNN" else None
        span = span if layers[0]["type"] == "input" else None
        folder = tmp_path / name
        folder.mkdir()
        found = imported(folder, layers, steps=inputs.shape[1], input_range=span)
        found.netlist.verify()


def test_what_biases_do_beforehand_is_followed_only_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = [nf.source((2,), nf.sdnn())]
    layers += [nf.dense(EYE, nf.sdnn(), bias=np.ones(2)) for _ in range(5)]
    path = nf.write(tmp_path / "deep.net", layers)
    assert import_netx(path, steps=4, profile=load("unlimited")).netlist.steps == 4
    monkeypatch.setattr(netx_import, "MAX_WAKING", 20)
    with pytest.raises(InputError, match="what biases do before the first input arrives"):
        import_netx(path, steps=4, profile=load("unlimited"))
