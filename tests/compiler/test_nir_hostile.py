"""NIR files from anybody: one error that names the place, never a traceback, never a flood."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lapilli.compiler.errors import InputError, LapilliError
from lapilli.compiler.interchange import nir_file
from lapilli.compiler.interchange.nir_import import NirImport
from lapilli.compiler.interchange.nir_import import read as read_nir
from lapilli.hardware_profiles import load


def sound(path: Path) -> Path:
    """A small network as another tool would write it."""
    nodes = {
        "input": nir.Input(np.array([3])),
        "fc": nir.Affine(np.arange(6.0).reshape(2, 3), np.ones(2)),
        "if": nir.IF(np.ones(2), np.full(2, 4.0), metadata={"note": "text"}),
        "output": nir.Output(np.array([2])),
    }
    edges = [("input", "fc"), ("fc", "if"), ("if", "output")]
    file = path / "net.nir"
    nir.write(file, nir.NIRGraph(nodes, edges, metadata={"tool": "some"}, type_check=False))
    return file


def imported(file: Path) -> Any:
    return read_nir(file, load("loihi2"), NirImport(steps=4))


def test_the_sound_file_is_read(tmp_path: Path) -> None:
    assert imported(sound(tmp_path)).netlist.input.name == "input"


Change = Callable[[h5py.File], None]


def _put(place: str, value: Any, **more: Any) -> Change:
    def change(file: h5py.File) -> None:
        if place in file:
            del file[place]
        file.create_dataset(place, data=value, **more)

    return change


def _empty(place: str, shape: tuple[int, ...], kind: Any, **more: Any) -> Change:
    def change(file: h5py.File) -> None:
        if place in file:
            del file[place]
        file.create_dataset(place, shape=shape, dtype=kind, **more)

    return change


def _link(place: str, link: Any) -> Change:
    def change(file: h5py.File) -> None:
        del file[place]
        file[place] = link if not callable(link) else link(file)

    return change


def _remove(place: str) -> Change:
    def change(file: h5py.File) -> None:
        del file[place]

    return change


def _nested(file: h5py.File) -> None:
    group = file["node"]
    for _ in range(40):
        group = group.create_group("deeper")


def _crowded(file: h5py.File) -> None:
    kind = h5py.string_dtype()
    text = "x" * 2**20
    data = file.create_dataset("node/metadata/many", shape=(64,), dtype=kind)
    data[:] = text


FC, IF = "node/nodes/fc", "node/nodes/if"
HOSTILE: dict[str, tuple[Change, str]] = {
    "external link": (
        _link(f"{FC}/weight", h5py.ExternalLink("/etc/passwd", "/x")),
        "fc/weight: everything is in the file",
    ),
    "soft link": (_link(f"{FC}/weight", h5py.SoftLink("/version")), "fc/weight: everything is in"),
    "hard loop": (_link(f"{FC}/weight", lambda file: file["node"]), "everything has one name"),
    "second name": (_link(f"{FC}/bias", lambda f: f[f"{IF}/r"]), "everything has one name"),
    "external data": (
        _empty(f"{FC}/weight", (2, 3), "f8", external=[("other.bin", 0, 48)]),
        "fc/weight: everything is in the file",
    ),
    "huge": (
        _empty(f"{FC}/weight", (2**20, 2**20), "f8", chunks=(1, 1024)),
        "fc/weight: is not larger when unpacked",
    ),
    "many texts": (
        _empty("node/edges", (2**25, 2), h5py.string_dtype(), chunks=(1024, 2)),
        "texts are few|not larger",
    ),
    "long texts": (_crowded, "metadata/many: texts are short"),
    "deep": (_nested, "graphs are not nested deeper"),
    "compound": (
        _put(f"{FC}/weight", np.zeros(3, [("a", "f4"), ("b", "i4")])),
        "fc/weight: has a type of NIR",
    ),
    "complex": (_put(f"{FC}/weight", np.ones((2, 3), complex)), "fc/weight: has a type of NIR"),
    "null": (_put(f"{FC}/weight", h5py.Empty("f8")), "fc/weight: has a value"),
    "filter": (
        _put(f"{FC}/weight", np.ones((2, 3)), scaleoffset=3),
        "fc/weight: is packed plainly",
    ),
    "named type": (
        _link(f"{FC}/weight", np.dtype("f8")),
        "fc/weight: is a group or a dataset",
    ),
    "no graph": (_remove("node"), "holds a NIR graph"),
    "other type": (_put("node/type", "IF"), "holds a NIR graph"),
    "no nodes": (_remove("node/nodes"), "has nodes and edges"),
    "no edges": (_remove("node/edges"), "has nodes and edges"),
    "edge list": (_put("node/edges", np.zeros((2, 2))), "edges are pairs of names"),
    "edge triples": (
        _put("node/edges", np.array([["a", "b", "c"]], object), dtype=h5py.string_dtype()),
        "edges are pairs of names",
    ),
    "metadata": (
        lambda f: (f.__delitem__("node/metadata"), _put("node/metadata", 3)(f))[1],
        "metadata is a group",
    ),
    "node metadata": (
        lambda f: (f.__delitem__(f"{IF}/metadata"), _put(f"{IF}/metadata", 3)(f))[1],
        r"if \(IF\): metadata is a group",
    ),
    "unknown node": (_put(f"{IF}/type", "Spiker"), "if: is a node that NIR has"),
    "private name": (_put(f"{IF}/type", "NIRNode"), "if .*(is a node|has the fields)"),
    "no type": (_remove(f"{IF}/type"), "if: is a node that NIR has"),
    "missing field": (_remove(f"{IF}/r"), r"if \(IF\): has the fields of its type"),
    "extra field": (_put(f"{IF}/colour", 3), r"if \(IF\): has the fields of its type"),
    "field is a group": (
        lambda f: (f.__delitem__(f"{IF}/r"), f.create_group(f"{IF}/r"))[0],
        r"if \(IF\): has the fields of its type",
    ),
    "shapes": (_put(f"{IF}/r", np.ones(5)), r"if \(IF\): has the fields of its type"),
    "text for numbers": (_put(f"{FC}/bias", "many"), r"fc \(Affine\): bias is numbers"),
    "name": (lambda f: f.move(IF, "node/nodes/\x1b[31m"), "names are few, short and printable"),
    "input of nothing": (
        _put("node/nodes/input/shape", np.array([0])),
        r"input \(Input\): the input has a size",
    ),
    "huge input": (
        _put("node/nodes/input/shape", np.array([2**40])),
        r"input \(Input\): the input has a size",
    ),
    "overflowing input": (
        _put("node/nodes/input/shape", np.array([2**62, 2**62, 4])),
        r"input \(Input\): the input has a size",
    ),
    "real input": (
        _put("node/nodes/input/shape", np.array([3.5])),
        r"input \(Input\): the input has a shape",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_by_place(case: str, tmp_path: Path) -> None:
    change, message = HOSTILE[case]
    file = sound(tmp_path)
    with h5py.File(file, "a") as opened:
        change(opened)
    with pytest.raises(InputError, match=message):
        imported(file)


def test_layers_that_would_not_fit_are_refused(tmp_path: Path) -> None:
    """A small file that asks for a large plane: the stride and padding of a convolution."""
    nodes = {
        "input": nir.Input(np.array([1, 4, 4])),
        "conv": nir.Conv2d((4, 4), np.ones((1, 1, 1, 1)), 1, 2**18, 1, 1, np.zeros(1)),
        "output": nir.Output(np.array([1, 4, 4])),
    }
    edges = [("input", "conv"), ("conv", "output")]
    file = tmp_path / "net.nir"
    nir.write(file, nir.NIRGraph(nodes, edges, type_check=False))
    with pytest.raises(InputError, match=r"conv \(Conv2d\): a layer is not larger"):
        imported(file)
    nodes["conv"] = nir.SumPool2d(np.array([2**15, 2**15]), np.array([1, 1]), np.array([2**14] * 2))
    nir.write(file, nir.NIRGraph(nodes, edges, type_check=False))
    with pytest.raises(InputError, match=r"conv \(SumPool2d\): windows are not too large"):
        imported(file)


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"not HDF5 at all" * 99])
def test_what_is_no_hdf5_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "net.nir"
    file.write_bytes(content)
    with pytest.raises(InputError, match="is well-formed HDF5"):
        imported(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the file can be read"):
        imported(tmp_path / "absent.nir")
    with pytest.raises(InputError, match="a NIR file is a regular file"):
        imported(tmp_path)
    os.mkfifo(tmp_path / "pipe.nir")
    with pytest.raises(InputError, match="a NIR file is a regular file"):
        imported(tmp_path / "pipe.nir")


def test_large_files_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nir_file, "MAX_FILE_BYTES", 1000)
    with pytest.raises(InputError, match="a NIR file is not larger"):
        imported(sound(tmp_path))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_flipped_bytes_never_escape_as_tracebacks(data: st.DataObject, tmp_path: Path) -> None:
    image = bytearray(sound(tmp_path).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(image) - 1))
        image[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del image[data.draw(st.integers(0, len(image) - 1)) :]
    file = tmp_path / "altered.nir"
    file.write_bytes(bytes(image))
    try:
        artifact = imported(file)
    except LapilliError as error:
        assert error.where
    else:
        artifact.netlist.verify()
