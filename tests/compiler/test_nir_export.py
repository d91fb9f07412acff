"""What is exported to NIR comes back to the integer, and reads as NIR without its metadata."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from netlists import ALL_CODINGS, Coding, connection, integers, population, proven, random_netlist
from nir_simulation import simulate

from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.errors import BackendError, InputError, NetlistError
from lapilli.compiler.interchange import nir_export, nir_file
from lapilli.compiler.interchange.nir_import import NirImport
from lapilli.compiler.interchange.nir_import import read as read_nir
from lapilli.compiler.interchange.nir_restore import FIELDS
from lapilli.compiler.linear import Array, Conv, Dense, Diagonal, Shape, Sparse, frozen, identity
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import (
    LIF,
    MODELS,
    HardResetIF,
    NeuronModel,
    Readout,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.hardware_profiles import load
from lapilli.runtime import run

PROVENANCE = Provenance(
    "0.1.0",
    "2.3",
    "rate",
    {"steps": 7, "reset": "zero"},
    "loihi2",
    "ab",
    3,
    {"fc": 9},
    (0.5,),
    (2.0,),
)


def artifact_of(netlist: Netlist) -> Artifact:
    return Artifact(proven(netlist), PROVENANCE)


def exported(path: Path, artifact: Artifact) -> Path:
    file = path / "net.nir"
    nir_export.write(file, artifact)
    return file


def again(file: Path) -> Artifact:
    return read_nir(file, load("loihi2"), NirImport())


def varied(rng: np.random.Generator) -> Netlist:
    """A random network of all that NIR can say: spike trains, resets, leaks, delays, loops."""
    netlist = random_netlist(rng, "rate")
    populations, connections = [], []
    train = bool(rng.integers(2))
    for p in netlist.populations:
        neuron: NeuronModel = p.neuron
        if isinstance(neuron, Source) and train:
            neuron = Source(0, 1, "train")
        if isinstance(neuron, SoftResetIF):
            choice = rng.integers(3)
            if choice == 1:
                neuron = HardResetIF(neuron.threshold, neuron.bias, neuron.initial)
            if choice == 2:
                decays = rng.integers(1, 4097, 2).tolist()
                neuron = LIF(neuron.threshold, integers(np.clip(neuron.bias, -99, 99)), *decays)
            if rng.random() < 0.3:
                own = connection(p.name, p.name, _own_map(rng, p.shape))
                connections.append(dataclasses.replace(own, synaptic_delay=int(rng.integers(3))))
        populations.append(dataclasses.replace(p, neuron=neuron))
    for c in netlist.connections:
        delay = int(rng.integers(3)) if rng.random() < 0.3 else 0
        connections.append(dataclasses.replace(c, synaptic_delay=delay))
    return proven(Netlist(tuple(populations), tuple(connections), netlist.steps))


def _fits(netlist: Netlist) -> bool:
    """Lava's LIF takes drives of 18 bits, and a few of these draws have more."""
    try:
        netlist.verify()
    except NetlistError:
        return False
    return True


def _own_map(rng: np.random.Generator, shape: Shape) -> Any:
    if rng.random() < 0.5:
        return Diagonal(frozen(rng.integers(-9, 9), np.int8), shape, shape)
    weight = rng.integers(-3, 4, (int(np.prod(shape)), int(np.prod(shape))))
    return Dense(frozen(weight, np.int8), shape, shape)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_networks_come_back_to_the_integer(seed: int, tmp_path_factory: Any) -> None:
    netlist = varied(np.random.default_rng(seed))
    assume(_fits(netlist))
    artifact = Artifact(netlist, PROVENANCE)
    back = again(exported(tmp_path_factory.mktemp("nir"), artifact))
    assert back.hash == artifact.hash
    assert back.provenance == artifact.provenance


def with_offsets(netlist: Netlist) -> Netlist:
    """Counts of 0 that stand for something: for all alike, and for each channel or neuron."""
    offsets = [frozen(-0.1), *(frozen(np.arange(p.shape[-1]) / 3) for p in netlist.populations[1:])]
    pairs = zip(netlist.populations, offsets, strict=True)
    populations = tuple(dataclasses.replace(p, count_offset=offset) for p, offset in pairs)
    return dataclasses.replace(netlist, populations=populations)


def test_what_a_count_of_zero_stands_for_comes_back(tmp_path: Path) -> None:
    plain = random_netlist(np.random.default_rng(0), "rate")
    artifact = Artifact(with_offsets(plain), PROVENANCE)
    back = again(exported(tmp_path, artifact))
    assert back.hash == artifact.hash != Artifact(plain, PROVENANCE).hash


def test_files_are_the_same_byte_for_byte(tmp_path: Path) -> None:
    artifact = Artifact(random_netlist(np.random.default_rng(0), "rate"), PROVENANCE)
    first = exported(tmp_path, artifact).read_bytes()
    assert exported(tmp_path, artifact).read_bytes() == first
    assert os.listdir(tmp_path) == ["net.nir"]  # noqa: PTH208


@functools.cache
def small(reset: str) -> Artifact:
    """Conv, scale, flatten, dense, a residual sum, a delay, a loop; all membranes start at 0."""
    rng = np.random.default_rng(1)
    model = {"zero": HardResetIF, "subtract": SoftResetIF}[reset]

    def neuron(threshold: int, bias: Any) -> NeuronModel:
        return model(integers(threshold), integers(bias), integers(0))

    conv = Conv(
        frozen(rng.integers(-9, 30, (3, 1, 2, 3)), np.int8),
        (3, 6, 5),
        (3, 3, 5),
        (2, 1),
        (0, 1),
        (1, 1),
        3,
    )
    dense = Dense(frozen(rng.integers(-9, 20, (4, 45)), np.int8), (3, 3, 5), (4,))
    scale = Diagonal(frozen(rng.integers(1, 9, (3, 1, 1)), np.int8), (3, 3, 5), (3, 3, 5))
    loop = Dense(frozen(rng.integers(-9, 9, (4, 4)), np.int8), (4,), (4,))
    populations = (
        population("in", (3, 6, 5), Source(0, 1, "train")),
        population("a/conv", (3, 3, 5), neuron(40, rng.integers(-3, 3, (3, 1, 1)))),
        population("b.same", (3, 3, 5), neuron(9, 0)),
        population("c", (4,), neuron(200, rng.integers(-9, 9, 4))),
        population("out", (4,), Readout(integers([1, 2, 3, 4]), integers(0))),
    )
    connections = (
        connection("in", "a/conv", conv, 1),
        connection("a/conv", "b.same", scale),
        dataclasses.replace(connection("a/conv", "b.same", identity_of(scale)), synaptic_delay=2),
        connection("b.same", "c", dense, 2),
        dataclasses.replace(connection("c", "c", loop), synaptic_delay=1),
        connection("c", "out", identity_of(loop)),
    )
    return artifact_of(Netlist(populations, connections, 9))


def identity_of(m: Any) -> Diagonal:
    shape = m.out_shape
    return dataclasses.replace(identity(shape), weight=frozen(np.ones((), np.int8)))


def bare(file: Path) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Nodes, without metadata, and edges, as `nir` itself reads them."""
    graph = nir.read(file, type_check=False)
    for node in graph.nodes.values():
        node.metadata = {}
    return graph.nodes, graph.edges


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_a_tool_without_the_metadata_gets_the_same_spikes(reset: str, tmp_path: Path) -> None:
    artifact = small(reset)
    nodes, edges = bare(exported(tmp_path, artifact))
    order = ["in", "a_conv.in0", "a_conv", "b.same.in0", "b.same.in1.delay", "b.same.in1", "b.same"]
    order += ["c.in0.flatten", "c.in0", "c", "c.in1.delay", "c.in1", "out.in0", "out", "out.output"]
    assert sorted(order) == sorted(nodes)
    inputs = np.random.default_rng(0).integers(0, 2, (1, 9, 3, 6, 5)).astype(np.float64)
    trace = run(artifact, inputs, record="spikes")
    # Tools that subtract the threshold fire at it.
    how: dict[str, Any] = {"reset": reset, "at": reset == "subtract"}
    sent = simulate({name: nodes[name] for name in order}, edges, inputs[0], **how)
    for name in ("a/conv", "b.same", "c"):
        expected = sent[name.replace("/", "_")]
        np.testing.assert_array_equal(trace.spikes[name][0], expected, name)
        assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(trace.readouts["out"][0], sent["out"][-1])


def test_nir_reads_the_metadata(tmp_path: Path) -> None:
    file = exported(tmp_path, small("subtract"))
    graph = nir.read(file, type_check=False)
    node = graph.nodes["a_conv"].metadata
    assert (node["name"], node["model"], node["reset"]) == ("a/conv", "SoftResetIF", "subtract")
    weights = graph.nodes["c.in0"].metadata
    assert (weights["exponent"], weights["bits"], weights["weight_scale"]) == (2, 8, 1.0)
    assert graph.metadata["steps"] == 9
    assert graph.metadata["netlist_hash"] == small("subtract").hash


def test_a_changed_weight_is_read_and_a_changed_shape_is_not(tmp_path: Path) -> None:
    file = exported(tmp_path, small("zero"))
    graph = nir.read(file, type_check=False)
    graph.nodes["c.in0"].weight[0, 0] = 4 * 77
    nir.write(file, graph)
    (changed,) = again(file).netlist.into("c")[:1]
    assert changed.map.weight[0, 0] == 77
    graph.nodes["c.in0"].weight[0, 0] = 0.3
    nir.write(file, graph)
    with pytest.raises(InputError, match=r"c\.in0: numbers are integers of ours; found 0\.075"):
        again(file)


def _without(graph: Any, node: str, key: str) -> None:
    del graph.nodes[node].metadata[key]


def _with(graph: Any, node: str, key: str, value: Any) -> None:
    graph.nodes[node].metadata[key] = value


def _field(graph: Any, node: str, key: str, value: Any) -> None:
    setattr(graph.nodes[node], key, value)


ALTERED: dict[str, tuple[Any, str]] = {
    "edge": (lambda g: g.edges.pop(0), "nodes and edges are those"),
    "new node": (
        lambda g: g.nodes.update(extra=nir.Scale(np.ones(4))),
        "nodes and edges are those",
    ),
    "stride": (
        lambda g: _field(g, "a_conv.in0", "stride", (1, 1)),
        r"a_conv.in0 \(Conv2d\): stride is what the metadata describe",
    ),
    "v_reset": (
        lambda g: _field(g, "c", "v_reset", np.ones(4)),
        r"c \(IF\): v_reset is what the metadata describe",
    ),
    "lost": (lambda g: _without(g, "c", "initial"), "c: has the metadata of the export"),
    "model": (lambda g: _with(g, "c", "model", "Window"), "c: is a model that is exported"),
    "form": (lambda g: _with(g, "c.in0", "form", "Magic"), "c.in0: is a known form"),
    "exponent": (lambda g: _with(g, "c.in0", "exponent", 61), "c.in0: exponents are small"),
    "text": (lambda g: _with(g, "c", "name", 5), "c: name: is a text"),
    "number": (lambda g: _with(g, "c", "index", "five"), "c: index: is an integer"),
    "index": (lambda g: _with(g, "c", "index", 0), "has a place of its own"),
    "list": (lambda g: _with(g, "c", "shape", "[4.5]"), "c: shape: is a list of integers"),
    "json": (lambda g: _with(g, "c", "shape", "[" * 9999), "c: shape: is a list of integers"),
    "size": (lambda g: _with(g, "c", "shape", "[5]"), "c: parameters fit|a bias fits"),
    "scale": (lambda g: _with(g, "c", "state_scale", 3), "c: state_scale: holds units"),
    "integers": (lambda g: _with(g, "c", "initial", 0.5), "c: initial: holds integers"),
    "negative": (lambda g: _with(g, "c", "state_scale", -1.0), "scales are positive"),
    "delay": (lambda g: _with(g, "c.in0", "delay", 3), "branches that join arrive"),
    "shared": (
        lambda g: _field(g, "c", "v_threshold", np.array([1.5, 2.5, 3.5, 4.5])),
        "c: parameters are shared as the metadata say",
    ),
    "large": (
        lambda g: _field(g, "c", "v_threshold", np.full(4, 1e300)),
        "c: numbers are integers of ours",
    ),
    "threshold": (
        lambda g: _field(g, "c", "v_threshold", np.full(4, -3.5)),
        "thresholds are positive",
    ),
    "steps": (lambda g: g.metadata.update(steps=0), "steps"),
    "version": (lambda g: g.metadata.update(lapilli="lapilli-nir 2"), "a known format"),
    "provenance": (lambda g: g.metadata.update(provenance="["), "provenance: is JSON"),
    "options": (lambda g: g.metadata.update(provenance="{}"), "provenance.* has the fields"),
}


@pytest.mark.parametrize("case", ALTERED)
def test_altered_exports_are_refused_by_name(case: str, tmp_path: Path) -> None:
    change, message = ALTERED[case]
    file = exported(tmp_path, small("zero"))
    graph = nir.read(file, type_check=False)
    change(graph)
    nir.write(file, graph)
    with pytest.raises(InputError, match=message):
        again(file)


def test_without_its_mark_an_export_is_a_plain_graph(tmp_path: Path) -> None:
    """A reset to zero from zero, whole weights: what is left says it all."""
    artifact = small("zero")
    file = exported(tmp_path, artifact)
    graph = nir.read(file, type_check=False)
    graph.metadata = {}
    for node in graph.nodes.values():
        node.metadata = {}
    nir.write(file, graph)
    plain = read_nir(file, load("loihi2"), NirImport(steps=9, dt=1.0))
    inputs = np.random.default_rng(2).integers(0, 2, (1, 9, 3, 6, 5)).astype(np.float64)
    ours, theirs = (run(a, inputs, record="spikes") for a in (artifact, plain))
    for name in ("a/conv", "b.same", "c"):
        np.testing.assert_array_equal(
            ours.spikes[name], theirs.spikes[name.replace("/", "_")], name
        )
    np.testing.assert_array_equal(ours.outputs, theirs.outputs)


def one_neuron(neuron: NeuronModel, source: Source | None = None, shape: Shape = (3,)) -> Artifact:
    """in -> neuron -> out, identities; not proven, as not every model here could be."""
    same = identity_of(Diagonal(frozen(1), shape, shape))
    populations = (
        population("in", shape, source or Source(0, 1, "train")),
        population("neuron", shape, neuron),
        population("out", shape, Readout(integers(0), integers(0))),
    )
    connections = (connection("in", "neuron", same), connection("neuron", "out", same))
    return Artifact(Netlist(populations, connections, 4), PROVENANCE)


def test_every_model_is_expressible_or_refused_with_a_reason() -> None:
    names = {model.__name__ for model in MODELS}
    sayable = {model.__name__ for model in nir_export.NODES}
    assert sayable == set(FIELDS) == {"Source", "SoftResetIF", "HardResetIF", "LIF", "Readout"}
    assert names - sayable <= set(nir_export.REASONS)
    assert not sayable & set(nir_export.REASONS)


def test_models_that_nir_cannot_say_are_refused_by_name() -> None:
    window = Window(integers(1), integers(0), integers(0), 3, "graded")
    with pytest.raises(NetlistError, match=r"neuron \(Window\): .*no node of NIR waits"):
        nir_export.graph(one_neuron(window))


def one() -> NeuronModel:
    return SoftResetIF(integers(1), integers(0), integers(0))


@pytest.mark.parametrize("timing", ["first", "changes"])
def test_inputs_that_nir_cannot_say_are_refused(timing: Any) -> None:
    with pytest.raises(NetlistError, match=rf"in \(Source, timing {timing}\)"):
        nir_export.graph(one_neuron(one(), Source(0, 1, timing)))


@pytest.mark.parametrize(("current", "voltage"), [(0, 4096), (4095, 0), (4096, 0)])
def test_leaks_without_a_time_constant_are_refused(current: int, voltage: int) -> None:
    bias = integers(int(current == 4096))
    with pytest.raises(NetlistError, match=r"neuron \(LIF, .*_decay 0\): .*no time constant"):
        nir_export.graph(one_neuron(LIF(integers(5), bias, current, voltage)))


@pytest.mark.parametrize(
    ("current", "voltage", "kind"), [(4096, 0, "IF"), (4096, 9, "LIF"), (99, 9, "CubaLIF")]
)
def test_leaks_choose_the_node(current: int, voltage: int, kind: str, tmp_path: Path) -> None:
    neuron = LIF(integers(5), integers(int(voltage > 0)), current, voltage)
    artifact = artifact_of(one_neuron(neuron).netlist)
    nodes, _, _ = nir_export.graph(artifact)
    assert type(nodes["neuron"]).__name__ == kind
    assert again(exported(tmp_path, artifact)).hash == artifact.hash


def test_maps_without_a_node_must_be_small() -> None:
    size = 5000
    starts = frozen(np.arange(size + 1), np.int64)
    columns, weight = frozen(np.arange(size), np.int32), frozen(np.ones(size), np.int8)
    wide = Sparse(weight, (size,), (size,), columns, starts)
    artifact = one_neuron(one(), shape=(size,))
    first, second = artifact.netlist.connections
    netlist = dataclasses.replace(
        artifact.netlist, connections=(dataclasses.replace(first, map=wide), second)
    )
    with pytest.raises(NetlistError, match=r"in -> neuron: NIR has a node for the map"):
        nir_export.graph(Artifact(netlist, PROVENANCE))


def test_a_bias_for_every_neuron_of_an_image_takes_a_matrix(tmp_path: Path) -> None:
    shape = (2, 3, 3)
    bias = np.arange(18).reshape(shape)
    conv = Conv(frozen(np.ones((2, 2, 3, 3)), np.int8), shape, shape, padding=(1, 1))
    artifact = one_neuron(SoftResetIF(integers(9), integers(bias), integers(0)), shape=shape)
    first, second = artifact.netlist.connections
    artifact = artifact_of(
        dataclasses.replace(
            artifact.netlist, connections=(dataclasses.replace(first, map=conv), second)
        )
    )
    nodes, _, _ = nir_export.graph(artifact)
    assert isinstance(nodes["neuron.in0"], nir.Affine)
    np.testing.assert_array_equal(nodes["neuron.in0"].bias, bias.reshape(-1))
    assert again(exported(tmp_path, artifact)).hash == artifact.hash


def test_names_that_hdf5_cannot_hold_are_kept(tmp_path: Path) -> None:
    artifact = one_neuron(one())
    renamed = {"in": "a/b", "neuron": "a_b", "out": "."}
    populations = tuple(
        dataclasses.replace(p, name=renamed[p.name]) for p in artifact.netlist.populations
    )
    connections = tuple(
        dataclasses.replace(c, source=renamed[c.source], target=renamed[c.target])
        for c in artifact.netlist.connections
    )
    artifact = artifact_of(Netlist(populations, connections, 4))
    back = again(exported(tmp_path, artifact))
    assert [p.name for p in back.netlist.populations] == ["a/b", "a_b", "."]
    assert back.hash == artifact.hash


def test_large_integers_stay_exact() -> None:
    values: Array = np.array([2**24 + 1, -3])
    assert nir_export.floats(values).dtype == np.float64
    assert nir_export.floats(values, 3).tolist() == [(2**24 + 1) * 8, -24]
    assert nir_export.floats(np.array([2**24]), 40).dtype == np.float32


def test_a_missing_package_is_a_fault_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(BackendError, match=r"pip install .lapilli\[nir\]"):
        nir_file.nir_package()


@pytest.mark.parametrize("coding", ALL_CODINGS)
def test_every_coding_comes_back_or_is_refused_by_name(coding: Coding, tmp_path: Path) -> None:
    for seed in range(2):
        artifact = Artifact(random_netlist(np.random.default_rng(seed), coding), PROVENANCE)
        neurons = [p.neuron for p in artifact.netlist.populations]
        sayable = {type(n) for n in neurons} <= set(nir_export.NODES)
        sayable &= artifact.netlist.source.timing in ("held", "train")
        leaks = [
            n.current_decay and (n.voltage_decay or (n.current_decay == 4096 and not n.bias.any()))
            for n in neurons
            if isinstance(n, LIF)
        ]
        if sayable and all(leaks):
            assert again(exported(tmp_path, artifact)).hash == artifact.hash
        else:
            assert coding not in ("rate", "hard")
            with pytest.raises(NetlistError, match="NIR has a node that computes"):
                nir_export.graph(artifact)
