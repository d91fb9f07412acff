"""The content of a `.net` file of lava-dl, as plain arrays: from anybody, so nothing is trusted.

A `.net` file is HDF5: groups /layer/0 .. /layer/N-1 of datasets, no attributes. The file is read
into memory whole; links, references, filters, views and external storage are refused, and every
size is checked before memory is taken. What the layers mean is read by `netx_import`.
Source: lava-dl 0.6, lava/lib/dl/netx/hdf5.py (reader) and lava/lib/dl/slayer/block (writer).
"""

from __future__ import annotations

import hashlib
import math
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np
from h5py import h5d, h5f, h5g, h5l, h5o, h5s, h5t

from lapilli.compiler.errors import InputError
from lapilli.compiler.linear import Array

Tree = dict[str, "str | Array | Tree"]
"""Members of a group by name: texts, arrays of numbers, groups."""

MAX_FILE_BYTES = 2**30
MAX_LAYERS = 1024
MAX_MEMBERS = 64
MAX_TEXT_BYTES = 256
MAX_RANK = 8
_MAX_DEPTH = 3
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FAULTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError)
"""What h5py raises on a malformed file; UnicodeError is a ValueError."""


@final
@dataclass(frozen=True, eq=False)
class NetxFile:
    """path: for messages; layers: what /layer/0, /layer/1, ... hold; digest: SHA-256 (hex)."""

    path: str
    layers: tuple[Tree, ...]
    digest: str


def refuse(where: str, rule: str, found: object, allowed: object, remedy: str = "") -> InputError:
    """The error for something in a file that breaks `rule`; `found` is shortened and printable."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(found)[:200])
    remedy = remedy or "Export the network again with slayer's export_hdf5."
    return InputError(where, rule, found=text, allowed=allowed, remedy=remedy)


def read_netx(path: str | os.PathLike[str]) -> NetxFile:
    """The layers of a `.net` file. Raises InputError that names the file, the place, the fault."""
    image = _read(path)
    where = str(path)
    try:
        with h5py.File(h5f.open_file_image(image)) as file:
            root = file["/"].id
            layers = _Walk(image, root).layers(root, where)
    except _FAULTS as error:
        raise refuse(where, "is well-formed HDF5", error, "a file of slayer's export") from error
    return NetxFile(where, layers, hashlib.sha256(image).hexdigest())


def _read(path: str | os.PathLike[str]) -> bytes:
    where = str(path)
    try:
        # Before opening: a pipe would block.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise refuse(where, "the file can be read", "no regular file", "a .net file")
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_FILE_BYTES:
                raise refuse(where, "the file has a usual size", f"{size} bytes", MAX_FILE_BYTES)
            image = file.read(size)
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        remedy = "Check the path and its permissions."
        raise refuse(where, "the file can be read", found, "a .net file", remedy) from error
    if not image.startswith(_SIGNATURE):
        found = f"a file that begins with {image[:8]!r}"
        raise refuse(where, "the file is HDF5", found, f"{_SIGNATURE!r} first")
    return image


@final
class _Walk:
    """Walks an image. budget: bytes of values still allowed, so no file unfolds beyond its size."""

    def __init__(self, image: bytes, root: h5g.GroupID):
        self._image = image
        self._budget = len(image)
        self._seen = {h5o.get_info(root).addr}

    def layers(self, root: h5g.GroupID, where: str) -> tuple[Tree, ...]:
        """The groups of /layer, in order. Other members of the root are not looked at."""
        if b"layer" not in list(root):
            raise refuse(where, "has layers", "no group /layer", "/layer/0, /layer/1, ...")
        place = f"{where}: /layer"
        group = self._open(root, b"layer", place)
        names = list(group) if isinstance(group, h5g.GroupID) else []
        count = len(names)
        if set(names) != {b"%d" % i for i in range(count)} or not 1 <= count <= MAX_LAYERS:
            found = ", ".join(ascii(name) for name in names[:8]) or "none"
            raise refuse(place, "layers are numbered from 0", found, f"0 .. up to {MAX_LAYERS - 1}")
        layers = []
        for i in range(count):
            layer = self._member(group, b"%d" % i, f"{place}/{i}", 0)
            if not isinstance(layer, dict):
                raise refuse(f"{place}/{i}", "a layer is a group", "a dataset", "a group")
            layers.append(layer)
        return tuple(layers)

    def _open(self, group: h5g.GroupID, name: bytes, where: str) -> Any:
        if group.links.get_info(name).type != h5l.TYPE_HARD:
            raise refuse(where, "everything is in the file", "a soft or external link", "no links")
        oid = h5o.open(group, name)
        address = h5o.get_info(oid).addr
        if address in self._seen:
            raise refuse(where, "everything has one name", "a second link", "one link each")
        self._seen.add(address)
        return oid

    def _member(self, group: h5g.GroupID, name: bytes, where: str, depth: int) -> Any:
        oid = self._open(group, name, where)
        if isinstance(oid, h5d.DatasetID):
            return self._dataset(oid, where)
        if not isinstance(oid, h5g.GroupID):
            raise refuse(where, "is a group or a dataset", type(oid).__name__, "group, dataset")
        names = list(oid)
        if depth == _MAX_DEPTH or len(names) > MAX_MEMBERS:
            found = f"{len(names)} members at depth {depth}"
            raise refuse(where, "groups are small", found, f"{MAX_MEMBERS}, depth {_MAX_DEPTH}")
        tree: Tree = {}
        for raw in names:
            key = raw.decode()
            tree[key] = self._member(oid, raw, f"{where}/{key}", depth + 1)
        return tree

    def _dataset(self, dataset: h5d.DatasetID, where: str) -> str | Array:
        plist = dataset.get_create_plist()
        plain = plist.get_layout() in (h5d.CONTIGUOUS, h5d.COMPACT) and not plist.get_nfilters()
        if not plain or (plist.get_layout() == h5d.CONTIGUOUS and plist.get_external_count()):
            found = "chunks, filters, a view or external storage"
            raise refuse(where, "is stored plainly, as slayer does", found, "contiguous values")
        space = dataset.get_space()
        if space.get_simple_extent_type() not in (h5s.SCALAR, h5s.SIMPLE):
            raise refuse(where, "has a value", "no value", "a scalar or an array")
        shape = tuple(int(size) for size in space.get_simple_extent_dims())
        kind = dataset.get_type()
        if isinstance(kind, h5t.TypeStringID):
            return self._text(dataset, kind, shape, where)
        dtype = kind.dtype
        if dtype.kind not in "biuf" or dtype.itemsize > 8:
            raise refuse(where, "is numbers or a text", dtype, "booleans, integers, floats, texts")
        size = math.prod((dtype.itemsize, *shape))
        stored = int(dataset.get_storage_size())
        if len(shape) > MAX_RANK or size > min(stored, self._budget):
            found = f"{dtype} of shape {shape}, {stored} bytes stored"
            raise refuse(where, "is stored in the file in full", found, f"{self._budget} bytes")
        self._budget -= size
        values = h5py.Dataset(dataset)[()] if size else np.empty(shape, dtype)
        return np.asarray(values)

    def _text(
        self, dataset: h5d.DatasetID, kind: h5t.TypeStringID, shape: tuple[int, ...], where: str
    ) -> str:
        long = 0 if kind.is_variable_str() else kind.get_size()
        if shape not in ((), (1,)) or long > MAX_TEXT_BYTES:
            found = f"{shape} texts of {long} bytes"
            raise refuse(where, "is one short text", found, f"one, up to {MAX_TEXT_BYTES} bytes")
        if long:
            raw = h5py.Dataset(dataset)[()]
            raw = bytes(raw[0] if shape else raw)
        else:
            raw = self._heap_text(dataset.get_offset(), where)
        if len(raw) > MAX_TEXT_BYTES or not raw.isascii():
            raise refuse(where, "is one short text", raw, f"ASCII, up to {MAX_TEXT_BYTES} bytes")
        return raw.decode("ascii")

    def _heap_text(self, offset: int | None, where: str) -> bytes:
        """A text of variable length, from the global heap: the library hangs on a damaged one.

        Source: HDF5 File Format Specification, III.E (global heap) and VIII (vlen elements).
        """
        image, found = self._image, None
        if offset is not None and offset + 16 <= len(image):
            length, heap, wanted = struct.unpack_from("<IQI", image, offset)
            end = heap + 16
            if image[heap : heap + 5] == b"GCOL\x01" and end <= len(image):
                (size,) = struct.unpack_from("<Q", image, heap + 8)
                found = self._heap_object(end, min(heap + size, len(image)), wanted)
            if found is not None and length <= len(found):
                return found[:length]
        raise refuse(where, "its text is in the file", "a damaged heap", "a text")

    def _heap_object(self, at: int, end: int, wanted: int) -> bytes | None:
        while at + 16 <= end:
            index, _, size = struct.unpack_from("<HH4xQ", self._image, at)
            if index == wanted:
                return self._image[at + 16 : at + 16 + min(size, MAX_TEXT_BYTES + 1)]
            if index == 0:  # what is left of the heap
                return None
            at += 16 + (size + 7) // 8 * 8
        return None


def keys(tree: Mapping[str, object]) -> str:
    """The names in a group, for messages."""
    return ", ".join(sorted(tree)) or "nothing"
