"""What a `.net` file holds, and what is refused because it cannot hold it.

tests/test_netx_export_lava.py runs the files in stock netx.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import netlists
import numpy as np
import pytest
import scipy.sparse as sp
from netx_netlists import ROADS, ZERO, dense, random_road

from lapilli.compiler.errors import BackendError, InputError, NetlistError
from lapilli.compiler.interchange.netx_chain import MAX_MATRIX, Window, chain, survives
from lapilli.compiler.interchange.netx_export import Instructions, write
from lapilli.compiler.interchange.netx_import import import_netx
from lapilli.compiler.linear import Array, Conv, Dense, Diagonal, Shape, Sparse, frozen
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import (
    LIF,
    HardResetIF,
    NeuronModel,
    Readout,
    SoftResetIF,
    Source,
    Timing,
)
from lapilli.compiler.neurons import Window as WindowNeuron
from lapilli.hardware_profiles import load
from lapilli.runtime import reference

Content = dict[str, Any]


def content(path: Path) -> Content:
    """Every dataset of a file by its path, as values; texts decoded."""
    found: Content = {}

    def visit(name: str, item: h5py.Dataset | h5py.Group) -> None:
        assert not item.attrs
        if isinstance(item, h5py.Dataset):
            value = item[()]
            text = isinstance(value, bytes) or (
                isinstance(value, np.ndarray) and value.dtype.kind == "S"
            )
            found[name] = np.asarray(value).reshape(-1)[0].decode() if text else value.tolist()

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def integers(*values: object) -> list[Array]:
    return [netlists.integers(value) for value in values]


def hard(threshold: object, bias: object = 0, initial: object = 0) -> HardResetIF:
    return HardResetIF(*integers(threshold, bias, initial))


def network(
    neuron: NeuronModel | None = None,
    weight: object = ((1, -2), (3, 4), (-5, 6)),
    source: Source | None = None,
    exponent: int = 0,
    steps: int = 4,
    readout: Readout | None = None,
) -> Netlist:
    """Two inputs -> three neurons -> two readouts, all dense."""
    into = Dense(frozen(weight, np.int8), (2,), (3,))
    out = Dense(frozen(((1, 0, -1), (2, 2, -9)), np.int8), (3,), (2,))
    return netlists.proven(
        Netlist(
            (
                netlists.population("input", (2,), source or Source(0, 15, "held")),
                netlists.population("layer", (3,), neuron or hard(10)),
                netlists.population("out", (2,), readout or Readout(*integers(0, 0))),
            ),
            (
                netlists.connection("input", "layer", into, exponent),
                netlists.connection("layer", "out", out),
            ),
            steps,
        )
    )


def test_a_dense_network_line_by_line(tmp_path: Path) -> None:
    told = write(tmp_path / "x.net", network(hard(10, (1, 0, -7)), exponent=1))
    neuron = {"type": "CUBA", "iDecay": 4096, "vDecay": 0, "refDelay": 1, "gradedSpike": False}
    assert content(tmp_path / "x.net") == {
        "layer/0/type": "input",
        "layer/0/shape": [2],
        "layer/1/type": "dense",
        "layer/1/shape": [3],
        "layer/1/inFeatures": 2,
        "layer/1/outFeatures": 3,
        "layer/1/weight": [[2, -4], [6, 8], [-10, 12]],
        "layer/1/bias": [1, 0, -7],
        **{f"layer/1/neuron/{key}": value for key, value in neuron.items()},
        "layer/1/neuron/vThMant": 9,
        "layer/2/type": "dense",
        "layer/2/shape": [2],
        "layer/2/inFeatures": 3,
        "layer/2/outFeatures": 2,
        "layer/2/weight": [[1, 0, -1], [2, 2, -9]],
        **{f"layer/2/neuron/{key}": value for key, value in neuron.items()},
        "layer/2/neuron/vThMant": 2**17 - 1,
        "lapilli/reset_interval": 4,
        "lapilli/reset_offset": 1,
        "lapilli/input_message_bits": 4,
        "lapilli/read_step": 6,
        "lapilli/unit": 64,
        "lapilli/timing": "held",
    }
    assert (told.reset_interval, told.reset_offset, told.input_message_bits) == (4, 1, 4)
    assert (told.read_step, told.interval, told.input_shape) == (6, 4, (2,))
    assert [dataclasses.astuple(place) for place in told.layers] == [
        ("layer", 1, 0, (3,), 2),
        ("out", 2, 1, (2,), 3),
    ]


def test_convolutions_flatten_and_grouped_pooling(tmp_path: Path) -> None:
    netlist = random_road(np.random.default_rng(3), (2, 6, 9), (*ROADS["pooling"][1][:2], dense))
    told = write(tmp_path / "x.net", netlist)
    found = content(tmp_path / "x.net")
    kinds = [found[f"layer/{k}/type"] for k in range(5)]
    assert kinds == ["input", "conv", "conv", "flatten", "dense"]
    assert "layer/5/type" not in found
    _, first, second, _ = netlist.populations
    assert found["layer/0/shape"] == [2, 6, 9]
    assert found["layer/1/shape"] == list(first.shape)
    assert found["layer/2/shape"] == list(second.shape)
    assert found["layer/2/groups"] == found["layer/2/inChannels"] == first.shape[0] == 2
    assert found["layer/2/weight"] == [[[[32, 32], [32, 32]]]] * 2
    assert (found["layer/2/stride"], found["layer/2/padding"]) == ([2, 2], [0, 0])
    assert (found["layer/2/kernelSize"], found["layer/2/dilation"]) == ([2, 2], [1, 1])
    assert found["layer/3/shape"] == [second.size, 1, 1]
    assert "layer/3/neuron/type" not in found
    assert [(place.group, place.process) for place in told.layers] == [(1, 0), (2, 1), (4, 2)]
    assert told.layers[1].shape == second.shape[::-1]


def test_biases_per_channel_and_per_neuron(tmp_path: Path) -> None:
    shape = (2, 3, 4)
    identity = Diagonal(frozen(1, np.int8), shape, shape)
    each = np.arange(24).reshape(shape)
    for bias in (netlists.integers([[[5]], [[6]]]), netlists.integers(each), ZERO):
        netlist = road(shape, identity, HardResetIF(netlists.integers(9), bias, ZERO))
        write(tmp_path / "x.net", netlist)
        found = content(tmp_path / "x.net").get("layer/1/bias")
        assert found == {3: each.transpose(2, 1, 0).tolist(), 0: None}.get(
            0 if not bias.any() else 3 if bias.size == 24 else 1, [5, 6]
        )


def road(shape: Shape, linear: Conv | Diagonal | Sparse | Dense, neuron: NeuronModel) -> Netlist:
    """Input -> one map -> neurons -> a readout."""
    out = Dense(frozen(np.tile([1, -1], linear.out_size)[None, : linear.out_size]), *SINGLE)
    out = dataclasses.replace(out, in_shape=linear.out_shape)
    return netlists.proven(
        Netlist(
            (
                netlists.population("input", shape, Source(0, 1, "held")),
                netlists.population("layer", linear.out_shape, neuron),
                netlists.population("out", (1,), Readout(ZERO, ZERO)),
            ),
            (
                netlists.connection("input", "layer", linear),
                netlists.connection("layer", "out", out),
            ),
            3,
        )
    )


SINGLE: tuple[Shape, Shape] = ((1,), (1,))


def test_leaks_of_a_lif_are_kept(tmp_path: Path) -> None:
    write(tmp_path / "x.net", network(LIF(*integers(70, 3), 1000, 200)))
    found = content(tmp_path / "x.net")
    neuron = [found[f"layer/1/neuron/{key}"] for key in ("iDecay", "vDecay", "vThMant")]
    assert neuron == [1000, 200, 70]


@pytest.mark.parametrize(
    ("low", "high", "timing", "bits"),
    [
        (0, 1, "held", 0),
        (0, 2, "held", 2),
        (0, 255, "train", 8),
        (-1, 0, "held", 1),
        (-128, 127, "held", 8),
        (-129, 0, "first", 9),
        (-3, 12, "train", 5),
    ],
)
def test_message_bits_hold_the_input(
    low: int, high: int, timing: Timing, bits: int, tmp_path: Path
) -> None:
    told = write(tmp_path / "x.net", network(source=Source(low, high, timing)))
    assert (told.input_message_bits, told.timing) == (bits, timing)


@pytest.mark.parametrize(
    ("matrix", "kept"),
    [
        ([[3, -5]], True),
        ([[-256, 254]], True),
        ([[0, 0]], False),
        ([[-2, -2]], False),
        ([[-1, -1]], False),
        ([[-4, 0]], False),
        ([[-256, -3]], False),
        ([[-64, -3]], False),
        ([[-63, -3]], True),
        ([[255, 2]], True),
        ([[0, 1]], True),
    ],
)
def test_matrices_that_netx_would_change(matrix: list[list[int]], kept: bool) -> None:
    weight = np.array(matrix)
    assert survives(weight) == kept
    netlist = network(weight=np.array([[1, -1]] * 3))
    if weight.min() >= -128 and weight.max() <= 127:
        netlist = network(weight=np.repeat(weight, 3, axis=0))
        first, _ = chain(netlist).layers
        assert isinstance(first.synapse, Window) == (not kept)


def test_a_matrix_as_a_convolution_covers_what_it_reads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    netlist = random_road(rng, *ROADS["powers of two"])
    told = write(tmp_path / "x.net", netlist)
    found = content(tmp_path / "x.net")
    kinds = [found[f"layer/{k}/type"] for k in range(5)]
    assert kinds == ["input", "conv", "conv", "flatten", "dense"]
    before = netlist.populations[1].shape
    assert found["layer/2/shape"] == [5, 1, 1]
    assert found["layer/2/kernelSize"] == list(before[1:])
    matrix = netlist.into("layer1")[0].map.weight
    assert found["layer/2/weight"] == matrix.reshape(5, *before).tolist()
    assert told.layers[1].shape == (1, 1, 5)


def test_a_flat_layer_before_such_a_convolution_is_one_too() -> None:
    made = chain(random_road(np.random.default_rng(0), *ROADS["one-signed matrices in a row"]))
    assert made.form == (6, 1, 1)
    assert [layer.form for layer in made.layers] == [(5, 1, 1)] * 3 + [(5,)]
    assert [layer.flatten for layer in made.layers] == [False, False, False, True]


@pytest.mark.parametrize("size", [(3, 4), (5, 5), (1, 2)])
def test_any_padding_and_number_of_outputs_is_written(size: tuple[int, int]) -> None:
    """Against what netx's convolution does with symmetric zeros and as many outputs as fit."""
    rng = np.random.default_rng(sum(size))
    for _ in range(60):
        kernel, stride, dilation = (tuple(rng.integers(1, 4, 2).tolist()) for _ in range(3))
        padding, outputs = tuple(rng.integers(-2, 3, 2).tolist()), rng.integers(1, 5, 2).tolist()
        weight = frozen(rng.integers(-9, 10, (2, 1, *kernel)), np.int8)
        linear = Conv(weight, (1, *size), (2, *outputs), stride, padding, dilation)
        layer = chain(road((1, *size), linear, hard(9))).layers[0]
        w = layer.synapse
        assert isinstance(w, Window)
        assert min(w.padding) >= 0
        room = [
            size[k] + 2 * w.padding[k] - w.dilation[k] * (w.weight.shape[2 + k] - 1) - 1
            for k in (0, 1)
        ]
        assert [r // s + 1 for r, s in zip(room, w.stride, strict=True)] == outputs
        same = Conv(w.weight, linear.in_shape, linear.out_shape, w.stride, w.padding, w.dilation)
        assert (same.to_sparse() != linear.to_sparse()).nnz == 0


@pytest.mark.parametrize("name", ROADS)
def test_what_is_exported_comes_back_with_the_same_spikes(name: str, tmp_path: Path) -> None:
    """Our reader of `.net` files knows nothing of our writer; inputs of 0 and 1, as it takes."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    netlist = random_road(rng, *ROADS[name])
    write(tmp_path / "x.net", netlist)
    again = import_netx(tmp_path / "x.net", steps=netlist.steps, profile=load("netx")).netlist
    images = rng.integers(0, 2, (6, *netlist.input.shape))
    trains = np.repeat(images[:, None], netlist.steps, axis=1)
    ours = reference.run(netlist, images, record="spikes")
    theirs = reference.run(
        again, trains.reshape(6, netlist.steps, *again.input.shape), record="spikes"
    )
    pairs = list(zip(netlist.populations[1:-1], again.populations[1:-1], strict=True))
    for p, q in pairs:
        sent = ours.spikes[p.name].reshape(6, netlist.steps, -1)
        assert np.array_equal(sent, theirs.spikes[q.name].reshape(sent.shape)), p.name
    assert not pairs or any(ours.counts[p.name].any() for p, _ in pairs)
    (mine,), (other,) = (trace.readouts.values() for trace in (ours, theirs))
    assert (mine.reshape(6, -1) * 64 == other.reshape(6, -1)).all()


def soft() -> SoftResetIF:
    return SoftResetIF(*integers(10, 0, 5))


def window() -> WindowNeuron:
    return WindowNeuron(*integers(10, 0, 5), 4, "graded")


def delayed() -> Netlist:
    netlist = network()
    late = dataclasses.replace(netlist.connections[1], synaptic_delay=2)
    return netlists.proven(dataclasses.replace(netlist, connections=(netlist.connections[0], late)))


def with_extra(*extra: Connection, populations: tuple[Population, ...] = ()) -> Netlist:
    netlist = network()
    source, layer, out = netlist.populations
    return netlists.proven(
        dataclasses.replace(
            netlist,
            populations=(source, layer, *populations, out),
            connections=(*netlist.connections, *extra),
        )
    )


def residual() -> Netlist:
    shortcut = Diagonal(frozen(1, np.int8), (2,), (2,))
    return with_extra(netlists.connection("input", "out", shortcut))


def recurrent() -> Netlist:
    loop = Diagonal(frozen(-1, np.int8), (3,), (3,))
    return with_extra(netlists.connection("layer", "layer", loop))


def branch() -> Netlist:
    side = netlists.population("side", (2,), Readout(ZERO, ZERO))
    into = Dense(frozen(((1, 0, -1), (2, 2, -9)), np.int8), (3,), (2,))
    return with_extra(netlists.connection("layer", "side", into), populations=(side,))


def convolution_behind_a_matrix() -> Netlist:
    shape = (2, 2, 2)
    matrix = Dense(frozen(np.arange(64).reshape(8, 8) - 9, np.int8), (8,), shape)
    kernel = Conv(frozen(np.ones((1, 2, 2, 2)), np.int8), shape, (1, 1, 1))
    return netlists.proven(
        Netlist(
            (
                netlists.population("input", (8,), Source(0, 1, "held")),
                netlists.population("unflat", shape, hard(5)),
                netlists.population("out", (1, 1, 1), Readout(ZERO, ZERO)),
            ),
            (
                netlists.connection("input", "unflat", matrix),
                netlists.connection("unflat", "out", kernel),
            ),
            2,
        )
    )


def large_sparse() -> Netlist:
    size = 2100
    assert size * size > MAX_MATRIX
    weight = sp.csr_matrix(sp.identity(size, np.int8))
    return road((size,), Sparse.from_matrix(weight, (size,), (size,)), hard(5))


REFUSED: dict[str, tuple[Callable[[], Netlist], str, str]] = {
    "soft reset": (lambda: network(soft()), "layer (SoftResetIF)", "resets to zero"),
    "window": (lambda: network(window()), "layer (Window)", "sends 0 or 1"),
    "initial": (lambda: network(hard(9, 0, 4)), "layer (HardResetIF)", "an empty membrane"),
    "readout that starts": (
        lambda: network(readout=Readout(*integers(0, 3))),
        "out (Readout)",
        "an empty membrane",
    ),
    "thresholds": (lambda: network(hard((9, 9, 8))), "layer (HardResetIF)", "one threshold"),
    "residual": (residual, "out", "nothing is added or concatenated"),
    "recurrent": (recurrent, "layer", "drives itself"),
    "branch": (branch, "out", "there are no branches"),
    "delay": (delayed, "layer -> out", "has a delay"),
    "weights": (lambda: network(exponent=6), "input -> layer", "no exponent"),
    "reshape": (convolution_behind_a_matrix, "unflat", "no layer reshapes"),
    "size": (large_sparse, "input -> layer", "written out as a full matrix"),
    "membrane": (lambda: network(hard(131000)), "layer (HardResetIF)", "membranes have 18 bits"),
    "readout": (
        lambda: network(readout=Readout(*integers(5000, 0)), steps=30),
        "out (Readout)",
        "membranes have 18 bits",
    ),
    "drive": (
        lambda: network(hard(10000, (0, -32000, 0)), source=Source(0, 20000, "held"), steps=1),
        "layer (HardResetIF)",
        "drives have 18 bits",
    ),
    "bias": (lambda: network(hard(50000, 32768)), "layer (HardResetIF)", "biases have 16 bits"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_format_cannot_carry_is_refused(name: str, tmp_path: Path) -> None:
    make, where, rule = REFUSED[name]
    netlist = make()
    netlist.verify()
    with pytest.raises(NetlistError) as caught:
        write(tmp_path / "x.net", netlist)
    error = caught.value
    assert error.where == where
    assert error.rule.startswith("in a .net file ") and rule in error.rule
    assert all((error.found, error.allowed, error.remedy))
    assert not list(tmp_path.iterdir())


def test_the_last_numbers_that_fit(tmp_path: Path) -> None:
    for neuron in (hard(2**17 - 1 - 150), hard(40000, 32767), hard(40000, -32768)):
        told = write(tmp_path / "x.net", network(neuron, steps=1))
        assert isinstance(told, Instructions)


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / f"{name}.net", network())
    assert (tmp_path / "a.net").read_bytes() == (tmp_path / "b.net").read_bytes()


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"absent"):
        write(tmp_path / "absent" / "x.net", network())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BackendError):
        write(tmp_path / "x.net", network())
    assert not list(tmp_path.iterdir())
