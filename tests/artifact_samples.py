"""A small artifact with every neuron model and every map form, and forged files made from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
from h5py import h5f
from netlists import integers, proven

from lapilli.compiler import artifact as model_file
from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.linear import (
    Array,
    Conv,
    ConvTransposed,
    Dense,
    DensePart,
    Diagonal,
    Sparse,
    frozen,
)
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import (
    GradedMax,
    Ladder,
    NeuronModel,
    OrGate,
    Product,
    Readout,
    Relay,
    SoftResetIF,
    Source,
    Window,
)
from lapilli.compiler.outputs import Head, Output
from lapilli.compiler.sealed_file import read_sealed, write_sealed
from lapilli.compiler.storage import digest

PROVENANCE = Provenance(
    lapilli_version="0.1.0",
    torch_version="2.3.1",
    method="parallel",
    options={"levels": 8, "graded": True, "percentile": 99.9, "skip": ["a", 1, None, [0.5]]},
    profile="loihi2",
    calibration_hash="ab" * 32,
    calibration_samples=500,
    ann_macs={"conv": 1234, "kopf/fc": 108},
    input_mean=(0.485, 0.456),
    input_std=(0.229, 0.224),
    labels=("Katze", "Hündin"),
    notes="two\nlines",
)
OUTPUTS = (Output("scores", 0, (3,)), Output("Köpfe.1", 0, (), Head("argmax")))
"""Of `sample`, whose readout is a vector of three."""


def _population(name: str, shape: tuple[int, ...], neuron: NeuronModel, scale: Any) -> Population:
    return Population(name, shape, neuron, frozen(scale, float), frozen(0.5), 0, 0)


def sample_netlist(seed: int = 0) -> Netlist:
    """Five populations, six connections, one with a residual sum; drawn from `seed`."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> Array:
        return frozen(rng.integers(-20, 21, shape).astype(np.int8))

    per_channel = integers(rng.integers(9, 30, (4, 1, 1)))
    window = Window(per_channel, integers(rng.integers(-5, 5, (4, 1, 1))), integers(4), 5, "unary")
    values = rng.integers(-9, 10, (36, 36)) * (rng.random((36, 36)) < 0.2)
    sparse = Sparse.from_matrix(sp.csr_matrix(values.astype(np.int8)), (4, 3, 3), (4, 3, 3))
    conv = Conv(weight(4, 1, 3, 3), (2, 6, 6), (4, 3, 3), (2, 2), (1, -1), groups=2)
    square = (4, 3, 3)
    populations = (
        _population("input", (2, 6, 6), Source(-3, 7, "first"), 0.25),
        _population("Größe.conv", square, window, rng.random((4, 1, 1)) + 0.1),
        _population("if", square, SoftResetIF(integers(17), integers(0), integers(8)), 0.1),
        _population("sum", square, dataclasses.replace(window, sending="graded"), 0.1),
        _population("out", (3,), Readout(integers([1, 2, 3]), integers(0)), [0.1, 0.2, 0.3]),
    )
    shared = frozen(0.3)
    kernels = frozen(np.random.default_rng(seed + 1).integers(-5, 6, (4, 2, 2, 1)), np.int8)
    up = ConvTransposed(kernels, square, square, (2, 1), (1, 0), groups=2)
    connections = (
        Connection("input", "Größe.conv", conv, 0, 0, frozen([0.1, 0.2, 0.3, 0.4])),
        Connection("Größe.conv", "if", Diagonal(frozen(np.int8(3)), square, square), 1, 0, shared),
        Connection("if", "sum", sparse, 0, 0, shared),
        Connection("Größe.conv", "sum", Diagonal(frozen(np.int8(2)), square, square), 0, 1, shared),
        Connection("if", "sum", up, 0, 0, shared),
        Connection("sum", "out", Dense(weight(3, 36), square, (3,)), 0, 0, frozen([1.0, 2.0, 3.0])),
    )
    return proven(Netlist(populations, connections, 8))


def packed_netlist() -> Netlist:
    """Counts below zero, a curve, a maximum, a product, an OR, a relay that reads a part, and a
    count of 0 that stands for something.
    """
    square = (4, 3, 3)
    one, zero = Diagonal(frozen(np.int8(1)), square, square), integers(0)
    rungs, rises = integers(np.arange(-6, 6).reshape(3, 4, 1, 1)), integers([-1, 1, 1])
    models = {
        "input": Source(-9, 9, "first"),
        "signed": Window(integers(2), zero, integers(1), 4, "graded", -3),
        "curve": Ladder(np.sort(rungs, axis=0), rises, integers(1), zero, zero, 0, 2, "graded"),
        "max": GradedMax(integers(3 + 3 * 8), 2, 3, -3, 4, "graded"),
        "gate": Product(integers(3), integers(3), integers(1), 3, -3, 1, 0, 6, "unary"),
        "or": OrGate(),
        "part": Relay(integers(-300), integers(400), integers(-300), integers(400)),
        "out": Readout(zero, integers(1)),
    }
    populations = [_population(name, square, model, 0.5) for name, model in models.items()]
    populations[-3] = dataclasses.replace(populations[-3], count_offset=frozen(-1.5))
    edges = [("input", "signed", 0), ("signed", "curve", 1), ("signed", "max", 0)]
    edges += [("signed", "max", 3), ("max", "gate", 0), ("curve", "gate", 3)]
    edges += [("gate", "or", 0), ("or", "out", 2), ("max", "out", 0), ("part", "out", 1)]
    connections = [Connection(a, b, one, e, 0, frozen(0.5)) for a, b, e in edges]
    weight = frozen(np.arange(-90, 90).reshape(36, 5) % 23 - 11, np.int8)
    some = DensePart(weight, square, square, 7)
    connections.append(Connection("signed", "part", some, 0, 0, frozen(0.5)))
    return proven(Netlist(tuple(populations), tuple(connections), 8))


def packed_sample() -> Artifact:
    """Another small artifact, of models that `sample` has not."""
    return Artifact(packed_netlist(), PROVENANCE)


def sample(seed: int = 0) -> Artifact:
    """A small artifact."""
    return Artifact(sample_netlist(seed), dataclasses.replace(PROVENANCE, outputs=OUTPUTS))


def forge(path: Path, edit: Callable[[dict[str, Any]], None], *, rehash: bool = True) -> None:
    """Edit the record in a file and seal it again, with a hash that fits: a clever tamperer."""
    record: Any = model_file._unpack(read_sealed(path), "")
    edit(record)
    if rehash:
        record["hash"] = digest(record["netlist"])
    write_sealed(path, model_file._pack(record))


def forge_hdf5(path: Path, edit: Callable[[h5py.File], None]) -> None:
    """Edit the HDF5 image in a file with h5py and seal it again."""
    with h5py.File(h5f.open_file_image(read_sealed(path), flags=1)) as file:  # 1: writable
        edit(file)
        file.flush()
        image = file.id.get_file_image()
    write_sealed(path, image)
