"""`.net` files come from anybody: damaged and hostile ones are refused, never half read."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import netx_files as nf
import netx_samples
import numpy as np
import pytest

from lapilli.compiler.errors import InputError, LapilliError
from lapilli.compiler.interchange.netx_file import MAX_FILE_BYTES, MAX_MEMBERS, read_netx
from lapilli.compiler.interchange.netx_import import import_netx
from lapilli.hardware_profiles import load

Change = Callable[[h5py.File], object]
WEIGHT = "layer/0/weight"
LOIHI2 = load("loihi2")


def small(path: Path) -> Path:
    """A sound file of two layers."""
    weight = np.arange(-8, 8).reshape(4, 4)
    return nf.write(path / "network.net", [nf.dense(weight), nf.dense(weight)])


def renewed(file: h5py.File, name: str = WEIGHT, **options: object) -> None:
    """A dataset of other properties in the place of a sound one."""
    del file[name]
    file.create_dataset(name, **options)


def _moved(file: h5py.File) -> None:
    file.move("layer/1", "layer/2")


def _deep(file: h5py.File) -> None:
    file.create_group("layer/0/a/b/c/d")


def _many(file: h5py.File) -> None:
    for i in range(MAX_MEMBERS):
        file[f"layer/0/extra{i}"] = 1


def _linked(file: h5py.File, link: object) -> None:
    del file[WEIGHT]
    file[WEIGHT] = link


def _stored_outside(file: h5py.File) -> None:
    renewed(file, shape=(4, 4), dtype="i4", external=[("/etc/hostname", 0, 64)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((4, 4), "i4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4, 4))
    del file[WEIGHT]
    file.create_virtual_dataset(WEIGHT, layout)


def _reference(file: h5py.File) -> None:
    target = file["layer/1"].ref
    renewed(file, data=np.array([target], h5py.ref_dtype))


HOSTILE: dict[str, tuple[Change, str]] = {
    "soft link": (lambda f: _linked(f, h5py.SoftLink("/layer/1/weight")), "a soft or external"),
    "external link": (lambda f: _linked(f, h5py.ExternalLink("x.h5", "/")), "a soft or external"),
    "second name": (lambda f: _linked(f, f["layer/1/weight"]), "everything has one name"),
    "loop": (lambda f: _linked(f, f["layer"]), "everything has one name"),
    "reference": (_reference, "is numbers or a text"),
    "compound": (lambda f: renewed(f, data=np.zeros(2, [("a", "i4")])), "is numbers or a text"),
    "complex": (lambda f: renewed(f, data=np.zeros(2, np.complex64)), "is numbers or a text"),
    "wide float": (lambda f: renewed(f, data=np.zeros(2, np.longdouble)), "is numbers or a text"),
    "filter": (lambda f: renewed(f, data=np.zeros((4, 4)), compression="gzip"), "stored plainly"),
    "bomb": (
        lambda f: renewed(f, shape=(2**20, 2**20), dtype="i8", chunks=(64, 64), fillvalue=1),
        "stored plainly",
    ),
    "never written": (lambda f: renewed(f, shape=(2**20, 2**20), dtype="i8"), "file in full"),
    "outside": (_stored_outside, "stored plainly"),
    "view": (_virtual, "stored plainly"),
    "no value": (lambda f: renewed(f, data=h5py.Empty("f")), "has a value"),
    "named type": (lambda f: _linked(f, np.dtype("i4")), "is a group or a dataset"),
    "texts": (
        lambda f: renewed(f, "layer/0/neuron/type", data=[b"CUBA", b"CUBA"]), "one short text",
    ),
    "long text": (
        lambda f: renewed(f, "layer/0/neuron/type", data=np.bytes_("C" * 999)), "one short text",
    ),
    "long free text": (
        lambda f: renewed(f, "layer/0/neuron/type", data="C" * 999), "its text is in the file",
    ),
    "not ASCII": (lambda f: renewed(f, "layer/0/neuron/type", data="CUB\xc4"), "one short text"),
    "no layers": (lambda f: f.move("layer", "layers"), "has layers"),
    "layers of numbers": (lambda f: renewed(f, "layer", data=3), "layers are numbered from 0"),
    "layer of numbers": (lambda f: renewed(f, "layer/0", data=3), "a layer is a group"),
    "missing layer": (_moved, "layers are numbered from 0"),
    "deep": (_deep, "groups are small"),
    "many members": (_many, "groups are small"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    change, message = HOSTILE[name]
    path = small(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(InputError, match=r"network\.net") as error:
        read_netx(path)
    assert message in str(error.value)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    file = read_netx(small(tmp_path))
    assert [layer["type"] for layer in file.layers] == ["dense", "dense"]
    neuron = file.layers[0]["neuron"]
    assert isinstance(neuron, dict)
    assert neuron["type"] == "CUBA"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is HDF5"),
        (b"PK\x03\x04 a zip", "the file is HDF5"),
        (b"\x89HDF\r\n\x1a\n" + bytes(200), "is well-formed HDF5"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other.net"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_netx(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.net")
    for path in (tmp_path, tmp_path / "pipe.net", tmp_path / "missing.net", "a\0b.net"):
        with pytest.raises(InputError, match="the file can be read"):
            read_netx(path)


def test_a_file_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.net"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 1)
    with pytest.raises(InputError, match="the file has a usual size"):
        read_netx(path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = small(tmp_path).read_bytes()
    for size in [*range(0, len(whole), 997), len(whole) - 1]:
        (tmp_path / "cut.net").write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_netx(tmp_path / "cut.net")


def test_a_damaged_heap_neither_hangs_nor_tells_more_than_its_text(tmp_path: Path) -> None:
    """HDF5 1.14 searches an object of size 0 for ever."""
    path = small(tmp_path)
    image = bytearray(path.read_bytes())
    heap = image.index(b"GCOL\x01")
    for at, value in ((heap + 16, 2**16 - 1), (heap + 24, 0), (heap + 24, 2**63), (heap, 0)):
        damaged = bytearray(image)
        struct.pack_into("<H" if at == heap + 16 else "<Q", damaged, at, value)
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"/layer/\d/neuron/type: its text is in the file"):
            read_netx(path)


@pytest.mark.parametrize("name", ["delay-all", "sdnn", "recurrent"])
def test_mutations_are_read_or_refused(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(0)
    whole = nf.write(tmp_path / "whole.net", netx_samples.sample(name)[0]).read_bytes()
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))
    refused = 0
    for _ in range(80):
        image = bytearray(whole)
        for at in rng.choice(used, rng.integers(1, 4)):
            image[at] = int(rng.integers(256))
        (tmp_path / "mutant.net").write_bytes(image)
        try:
            import_netx(tmp_path / "mutant.net", steps=4, profile=LOIHI2)
        except LapilliError:
            refused += 1
    assert 20 < refused <= 80
