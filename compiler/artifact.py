"""The model file: one self-contained, hashed HDF5 file, the same bytes for the same input.

What it holds is derived from the dataclasses (`storage`), checked before use (`soundness`), and
sealed (`sealed_file`): damage and newer formats are told before the HDF5 library parses one byte.
docs/artifact.md describes the format.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import h5py
import numpy as np
from h5py import h5a, h5d, h5f, h5g, h5l, h5o, h5p, h5s, h5t

from lapilli.compiler import soundness
from lapilli.compiler.errors import ArtifactError, LapilliError
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.outputs import Output, flaw, plain
from lapilli.compiler.pareto import FrontPoint
from lapilli.compiler.pareto import flaw as front_flaw
from lapilli.compiler.sealed_file import FORMAT_VERSION, SEAL_BYTES, read_sealed, write_sealed
from lapilli.compiler.storage import Option, Record, Text, Value, decode, digest, encode, refuse

FORMAT = "lapilli"
_HDF5_FAULTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError)
"""What h5py raises on a malformed file; tests/benchmarks/fuzz_artifact.py looks for others."""
_MAX_DEPTH = 8


@final
@dataclass(frozen=True)
class Provenance:
    """Where a netlist comes from. No times and no places: the same input gives the same file.

    options: of the method. calibration_hash: SHA-256 of the calibration samples. input_mean,
    input_std: the normalisation that the command line applied, per channel, or empty.
    ann_macs: multiply-accumulates of one ANN inference, per layer. labels: names of the classes.
    rounding: error of rounding to counts, per population, relative to the calibration's activity.
    outputs: what the network returns, made of the netlist's readouts; empty where nobody said.
    search, front: what was searched for and how, and what was found (`lapilli.search`); or empty.
    """

    lapilli_version: str
    torch_version: str
    method: str
    options: Mapping[str, Option]
    profile: str
    calibration_hash: str
    calibration_samples: int
    ann_macs: Mapping[str, int]
    input_mean: tuple[float, ...] = ()
    input_std: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    notes: str = ""
    outputs: tuple[Output, ...] = ()
    rounding: Mapping[str, float] = field(default_factory=dict)
    search: Mapping[str, Option] = field(default_factory=dict)
    front: tuple[FrontPoint, ...] = ()


@final
@dataclass(frozen=True, eq=False)
class Artifact:
    """A compiled network: the integer netlist and where it comes from."""

    netlist: Netlist
    provenance: Provenance

    @property
    def outputs(self) -> tuple[Output, ...]:
        """What the network returns: the captured outputs, else its readouts as they are."""
        return self.provenance.outputs or plain([p.shape for p in self.netlist.outputs])

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of the netlist: names, shapes, integers and scales, in whatever types."""
        return digest(encode(self.netlist))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model file; see `write`."""
        write(path, self)


@final
@dataclass(frozen=True, eq=False)
class ModelFile:
    """The root group of the HDF5 image."""

    format: str
    format_version: int
    hash: str
    netlist: Netlist
    provenance: Provenance


def write(path: str | os.PathLike[str], artifact: Artifact) -> None:
    """Write `artifact` to `path`: all of it or nothing, the same bytes every time.

    Raises ArtifactError or NetlistError for what `read` would refuse, InputError for a path that
    is no place for a file, BackendError where the disk fails.
    """
    netlist, provenance = artifact.netlist, artifact.provenance
    try:
        content = ModelFile(FORMAT, FORMAT_VERSION, artifact.hash, netlist, provenance)
        record = encode(content)
    except (TypeError, ValueError) as error:
        raise refuse(f"{path}:", "every field can be stored", error, "plain values") from error
    _checked(record, f"{path}:").netlist.verify()
    write_sealed(path, _pack(record))


def read(path: str | os.PathLike[str]) -> Artifact:
    """The artifact in `path`, from anybody: everything is checked before it is used.

    Raises ArtifactError that names the file, the place inside, and what is wrong.
    """
    where = f"{path}:"
    image = read_sealed(path)
    try:
        record = _unpack(image, where)
    except _HDF5_FAULTS as error:
        raise refuse(where, "is well-formed HDF5", error, "an image of this format") from error
    artifact = _checked(record, where)
    try:
        artifact.netlist.verify()
    except LapilliError as error:
        raise ArtifactError(
            f"{where}/netlist: {error.where}",
            error.rule,
            found=error.found,
            allowed=error.allowed,
            remedy=error.remedy,
        ) from error
    return artifact


def _checked(record: Value, where: str) -> Artifact:
    """Decode a whole file and check all but the proofs of `Netlist.verify`."""
    content = decode(ModelFile, record, where)
    if (content.format, content.format_version) != (FORMAT, FORMAT_VERSION):
        found = f"{content.format} {content.format_version}"
        raise refuse(f"{where}/format", "is this format", found, f"{FORMAT} {FORMAT_VERSION}")
    soundness.check(content.netlist, f"{where}/netlist")
    _check_provenance(content.provenance, f"{where}/provenance")
    artifact = Artifact(content.netlist, content.provenance)
    check_outputs(artifact, f"{where}/provenance")
    if artifact.hash != content.hash:
        raise refuse(f"{where}/hash", "is the netlist's hash", content.hash, artifact.hash)
    return artifact


def check_outputs(artifact: Artifact, where: str) -> None:
    """Raise ArtifactError unless the outputs fit the readouts."""
    wrong = flaw(artifact.outputs, [p.shape for p in artifact.netlist.outputs])
    if wrong is not None:
        raise refuse(f"{where}/outputs", *wrong)


def _check_provenance(p: Provenance, where: str) -> None:
    if len(p.input_mean) != len(p.input_std) or not all(std > 0 for std in p.input_std):
        found = f"{p.input_mean}, {p.input_std}"
        raise refuse(f"{where}/input_std", "fits the mean", found, "as many, all positive")
    for name, error in p.rounding.items():
        if not 0 <= error < math.inf:
            raise refuse(f"{where}/rounding/{name}", "is an error", error, ">= 0, finite")
    for name, count in {**p.ann_macs, "calibration_samples": p.calibration_samples}.items():
        if count < 0:
            raise refuse(f"{where}: {name}", "counts are not negative", count, ">= 0")
    wrong = front_flaw(p.front)
    if wrong is not None:
        place, rule, *facts = wrong
        raise refuse(f"{where}/{place}", rule, *facts)


def _pack(record: Value) -> bytes:
    """The HDF5 image of a record: groups, attributes (scalars, short lists), datasets (arrays)."""
    access = h5p.create(h5p.FILE_ACCESS)
    access.set_fapl_core(2**20, False)
    # One fixed layout, and the first whose metadata carry checksums.
    access.set_libver_bounds(h5f.LIBVER_V110, h5f.LIBVER_V110)
    creation = _untimed(h5p.create(h5p.FILE_CREATE))
    creation.set_userblock(SEAL_BYTES)
    with h5py.File(h5f.create(b"image", h5f.ACC_TRUNC, creation, access)) as file:
        assert isinstance(record, dict)
        _pack_group(file, record)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _untimed(plist: Any) -> Any:
    """Creation properties without times, that keep the order in which things are created."""
    plist.set_obj_track_times(False)
    order = h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED
    plist.set_link_creation_order(order)
    plist.set_attr_creation_order(order)
    return plist


def _pack_group(group: h5py.Group, record: Record) -> None:
    for name, value in record.items():
        if isinstance(value, dict):
            plist = _untimed(h5p.create(h5p.GROUP_CREATE))
            _pack_group(h5py.Group(h5g.create(group.id, name.encode(), None, plist)), value)
        elif isinstance(value, np.ndarray):
            group.create_dataset(name, data=value, track_times=False)
        elif isinstance(value, Text):
            data = value.json.encode()
            kind = h5py.string_dtype("utf-8", len(data))
            group.create_dataset(name, data=np.array(data, kind), track_times=False)
        elif isinstance(value, str):
            data = value.encode()
            kind = h5py.string_dtype("utf-8", max(len(data), 1))
            group.attrs.create(name, np.array(data, kind), dtype=kind)
        else:
            group.attrs.create(name, value, dtype=_number_type(value))


def _number_type(value: bool | int | float | tuple[float, ...]) -> np.dtype[Any]:
    sample = value if not isinstance(value, tuple) else value[0] if value else 0
    kind = "?" if isinstance(sample, bool) else "<f8" if isinstance(sample, float) else "<i8"
    return np.dtype(kind)


def _unpack(image: bytes, where: str) -> Record:
    """The record in an HDF5 image, from which nothing but plain values is accepted."""
    with h5py.File(h5f.open_file_image(image)) as file:
        root = file["/"].id
        return _Reader(len(image), root).group(root, where, 0)


@final
class _Reader:
    """Walks an image. budget: bytes of values still allowed, so no file unfolds beyond its size."""

    def __init__(self, budget: int, root: h5g.GroupID):
        self._budget = budget
        self._seen = {h5o.get_info(root).addr}
        self._numbers = {
            dtype: h5t.py_create(np.dtype(dtype)) for dtype in ("?", "<i1", "<i2", "<i4", "<i8")
        } | {"<f8": h5t.IEEE_F64LE}

    def group(self, gid: h5g.GroupID, where: str, depth: int) -> Record:
        """Attributes and members of a group."""
        if depth > _MAX_DEPTH:
            raise refuse(where, "groups are not nested deeper", depth, _MAX_DEPTH)
        record: Record = dict(self._attributes(gid, where))
        count = gid.get_num_objs()
        if count > self._budget:  # the library would make room for as many as that
            raise refuse(where, "has links that are in the file", count, f"{self._budget} bytes")
        for raw in gid:
            name = raw.decode()
            place = f"{where}/{name}"
            if name in record:
                raise refuse(place, "a name is used once", "an attribute and a member", "one")
            record[name] = self._member(gid, raw, place, depth)
        return record

    def _attributes(self, oid: Any, where: str) -> Iterator[tuple[str, Value]]:
        for i in range(h5a.get_num_attrs(oid)):
            attribute = h5a.open(oid, index=i)
            name = attribute.name.decode()
            place = f"{where}/{name}"
            dtype, shape = self._type(attribute, place)
            if len(shape) > 1:
                raise refuse(place, "attributes are scalars or short lists", shape, "rank 0 or 1")
            values = self._values(attribute, dtype, shape, place)
            if dtype.kind == "S":
                if shape:
                    raise refuse(place, "is one string", shape, "a scalar")
                yield name, bytes(values[()]).decode()
            else:
                plain = values.tolist()
                yield name, tuple(plain) if shape else plain

    def _member(self, gid: h5g.GroupID, raw: bytes, where: str, depth: int) -> Value:
        if gid.links.get_info(raw).type != h5l.TYPE_HARD:
            raise refuse(where, "everything is in the file", "a soft or external link", "no links")
        oid = h5o.open(gid, raw)
        address = h5o.get_info(oid).addr
        if address in self._seen:
            raise refuse(where, "everything has one name", "a second link", "one link each")
        self._seen.add(address)
        if isinstance(oid, h5g.GroupID):
            return self.group(oid, where, depth + 1)
        if isinstance(oid, h5d.DatasetID):
            return self._dataset(oid, where)
        raise refuse(where, "is a group or a dataset", type(oid).__name__, "group, dataset")

    def _dataset(self, dataset: h5d.DatasetID, where: str) -> Value:
        if h5a.get_num_attrs(dataset):
            raise refuse(where, "datasets have no attributes", "attributes", "none")
        plist = dataset.get_create_plist()
        if plist.get_layout() != h5d.CONTIGUOUS or plist.get_nfilters():
            raise refuse(where, "is stored plainly", "chunks, filters or a view", "contiguous")
        if plist.get_external_count():
            raise refuse(where, "everything is in the file", "external storage", "none")
        dtype, shape = self._type(dataset, where)
        values = self._values(dataset, dtype, shape, where)
        if dtype.kind != "S":
            return values
        if shape:
            raise refuse(where, "is one text", shape, "a scalar")
        return Text(bytes(values[()]).decode("ascii"))

    def _type(self, holder: Any, where: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """dtype and shape of an attribute or dataset, if it is of a kind that a file may hold."""
        kind = holder.get_type()
        space = holder.get_space()
        if space.get_simple_extent_type() not in (h5s.SCALAR, h5s.SIMPLE):
            raise refuse(where, "has a value", "no value", "a scalar or an array")
        shape = tuple(int(size) for size in space.get_simple_extent_dims())
        if isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str():
            return np.dtype(f"S{kind.get_size()}"), shape
        for dtype, known in self._numbers.items():
            if kind.equal(known):
                return np.dtype(dtype), shape
        allowed = "booleans, signed integers, float64 (little-endian), strings of fixed length"
        raise refuse(where, "has a plain type", type(kind).__name__, allowed)

    def _values(
        self, holder: Any, dtype: np.dtype[Any], shape: tuple[int, ...], where: str
    ) -> Array:
        size = math.prod((dtype.itemsize, *shape))
        # An attribute lies in its header; a dataset may claim more than was ever written.
        dataset = isinstance(holder, h5d.DatasetID)
        stored = holder.get_storage_size() if dataset else self._budget
        if size > min(stored, self._budget):
            found = f"{size} bytes, of which {stored} are stored"
            raise refuse(where, "is stored in the file in full", found, f"{self._budget} bytes")
        self._budget -= size
        values = np.empty(shape, dtype)
        if size:
            spaces = [h5s.ALL, h5s.ALL] if dataset else []
            # As stored: h5py would otherwise convert strings on the way.
            holder.read(*spaces, values, mtype=holder.get_type())
        return values
