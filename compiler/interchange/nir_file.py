"""NIR files on disk: HDF5 that the package `nir` reads and writes, opened here without trust.

A file is read into memory once, walked, and only then turned into nodes, so that links to other
files, data that unfolds beyond reason and types that NIR does not have never reach `nir`.
Subgraphs are put in place of the nodes that stand for them: what comes out is flat.
"""

from __future__ import annotations

import io
import math
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, final

import h5py
import numpy as np
from h5py import h5d, h5f, h5g, h5l, h5o, h5s

from lapilli.compiler.errors import BackendError, InputError
from lapilli.compiler.linear import Array
from lapilli.compiler.sealed_file import write_whole

Tree: TypeAlias = "dict[str, Any]"
Edge: TypeAlias = "tuple[str, str]"

_HDF5_FAULTS = (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError)
_NODE_FAULTS = (
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
)
"""What h5py and the classes of `nir` raise on a malformed file."""
MAX_FILE_BYTES = 2**30
MAX_VALUE_BYTES = 2**30
"""Bytes of all values together, unpacked: no file unfolds beyond this."""
MAX_TEXT_BYTES = 2**24
MAX_MEMBERS = 2**17
MAX_DEPTH = 12
MAX_NAME = 512
_FILTERS: Final = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}


@final
@dataclass(frozen=True, eq=False)
class NirFile:
    """A flat NIR graph: nodes by name in file order, edges, and the metadata of the whole graph."""

    nodes: Mapping[str, Any]
    edges: tuple[Edge, ...]
    metadata: Mapping[str, Any]


def nir_package() -> Any:
    """The package `nir`. Raises BackendError where it is not installed."""
    try:
        import nir
    except ImportError as error:
        raise BackendError(
            "NIR",
            "the package `nir` is installed",
            found=error,
            allowed="nir 1.0.8 or later",
            remedy='Install it: pip install "lapilli[nir]".',
        ) from error
    return nir


def write(path: str | os.PathLike[str], nodes: Tree, edges: list[Edge], metadata: Tree) -> None:
    """Write a graph to `path`: all of it or nothing, the same bytes every time.

    Raises InputError for a path that is no place for a file, BackendError where the disk fails.
    """
    nir = nir_package()
    # Not type-checked: nir 1.0.8 knows square kernels and one group only (calculate_conv_output).
    graph = nir.NIRGraph(nodes, edges, metadata=metadata, type_check=False)
    image = io.BytesIO()
    nir.write(image, graph)
    write_whole(path, image.getvalue())


def read(path: str | os.PathLike[str]) -> NirFile:
    """The graph in `path`, from anybody. Raises InputError that names the node and what is wrong.

    Raises BackendError where `nir` is not installed.
    """
    nir = nir_package()
    where = str(path)
    image = _image(path, where)
    try:
        with h5py.File(h5f.open_file_image(image)) as file:
            tree = _Walk(file["/"].id).group(file["/"].id, where, 0)
    except _HDF5_FAULTS as error:
        found = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise refuse(where, "is well-formed HDF5", found, "a file that nir.write wrote") from error
    root = tree.get("node")
    if not isinstance(root, dict) or root.get("type") != "NIRGraph":
        found = (
            str(sorted(tree)) if not isinstance(root, dict) else f"node of type {root.get('type')}"
        )
        raise refuse(where, "holds a NIR graph", found, "a group `node` of type NIRGraph")
    nodes: dict[str, Any] = {}
    edges: dict[Edge, None] = {}
    _flatten(nir, root, "", nodes, edges)
    metadata = root.get("metadata", {})
    if not isinstance(metadata, dict):
        raise refuse(where, "metadata is a group", type(metadata).__name__, "a group")
    return NirFile(nodes, tuple(edges), metadata)


def refuse(where: str, rule: str, found: object, allowed: object, remedy: str = "") -> InputError:
    """The error for a file, or a node in it, that breaks `rule`."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(found))
    return InputError(
        where,
        rule,
        found=shown if len(shown) <= 200 else shown[:200] + "...",
        allowed=allowed,
        remedy=remedy or "Export the network to NIR again, with the tool that it comes from.",
    )


def _image(path: str | os.PathLike[str], where: str) -> bytes:
    """The bytes of a regular file of a size that can be read."""
    try:
        # Before opening: a pipe would block.
        mode, size = Path(path).stat().st_mode, Path(path).stat().st_size
        if not stat.S_ISREG(mode):
            raise refuse(where, "a NIR file is a regular file", "a folder or device", "a file")
        if size > MAX_FILE_BYTES:
            raise refuse(where, "a NIR file is not larger", f"{size} bytes", MAX_FILE_BYTES)
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        found = getattr(error, "strerror", None) or error
        remedy = "Check the path and its permissions."
        raise refuse(where, "the file can be read", found, "a readable file", remedy) from error


@final
class _Walk:
    """Reads groups into plain dictionaries and counts what it reads."""

    def __init__(self, root: h5g.GroupID):
        self._bytes, self._text, self._members = MAX_VALUE_BYTES, MAX_TEXT_BYTES, MAX_MEMBERS
        self._seen = {h5o.get_info(root).addr}

    def group(self, gid: h5g.GroupID, where: str, depth: int) -> Tree:
        """The members of a group, groups inside it as dictionaries."""
        if depth > MAX_DEPTH:
            raise refuse(where, "graphs are not nested deeper", depth, MAX_DEPTH)
        tree: Tree = {}
        for raw in list(gid):
            name = raw.decode()
            place = f"{where}/{name}"
            self._members -= 1
            if self._members < 0 or len(name) > MAX_NAME or not name.isprintable():
                allowed = f"{MAX_MEMBERS} printable names of {MAX_NAME} characters"
                raise refuse(where, "names are few, short and printable", name, allowed)
            if gid.links.get_info(raw).type != h5l.TYPE_HARD:
                raise refuse(place, "everything is in the file", "a soft or external link", "none")
            oid = h5o.open(gid, raw)
            address = h5o.get_info(oid).addr
            if address in self._seen:
                raise refuse(place, "everything has one name", "a second link", "one link each")
            self._seen.add(address)
            if isinstance(oid, h5g.GroupID):
                tree[name] = self.group(oid, place, depth + 1)
            elif isinstance(oid, h5d.DatasetID):
                tree[name] = self._dataset(h5py.Dataset(oid), place)
            else:
                raise refuse(place, "is a group or a dataset", type(oid).__name__, "either")
        return tree

    def _dataset(self, dataset: h5py.Dataset, where: str) -> Any:
        plist = dataset.id.get_create_plist()
        filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
        if plist.get_external_count() or plist.get_layout() == h5d.VIRTUAL:
            raise refuse(where, "everything is in the file", "data in another file", "none")
        if not set(filters) <= set(_FILTERS):
            raise refuse(where, "is packed plainly", f"filters {filters}", sorted(_FILTERS))
        if dataset.id.get_space().get_simple_extent_type() not in (h5s.SCALAR, h5s.SIMPLE):
            raise refuse(where, "has a value", "no value", "a number, a text or an array")
        text = h5py.check_string_dtype(dataset.dtype)
        if text is None and dataset.dtype.kind not in "fiub":
            raise refuse(where, "has a type of NIR", dataset.dtype, "numbers and texts")
        size = math.prod(dataset.shape) * (16 if text else dataset.dtype.itemsize)
        self._bytes -= size
        if self._bytes < 0:
            found = f"{dataset.shape} of {dataset.dtype}"
            raise refuse(where, "is not larger when unpacked", found, f"{MAX_VALUE_BYTES} bytes")
        return dataset[()] if text is None else self._texts(dataset, where)

    def _texts(self, dataset: h5py.Dataset, where: str) -> Any:
        # One by one: all of them may point at the same long text.
        if dataset.size > MAX_MEMBERS:
            raise refuse(where, "texts are few", dataset.shape, f"{MAX_MEMBERS} texts")
        values = [self._one_text(dataset[index], where) for index in np.ndindex(dataset.shape)]
        if dataset.shape == ():
            return values[0]
        return np.array(values, dtype=object).reshape(dataset.shape)

    def _one_text(self, value: Any, where: str) -> str:
        data = bytes(value) if isinstance(value, bytes) else str(value).encode()
        self._text -= len(data)
        if self._text < 0:
            raise refuse(where, "texts are short", f"{len(data)} bytes", f"{MAX_TEXT_BYTES} in all")
        return data.decode()


def _flatten(
    nir: Any, graph: Tree, prefix: str, nodes: dict[str, Any], edges: dict[Edge, None]
) -> None:
    """Add the nodes of a graph and of the graphs inside it; edges name the nodes themselves."""
    where = prefix.removesuffix("/") or "the graph"
    members, pairs = graph.get("nodes"), graph.get("edges")
    if not isinstance(members, dict) or not isinstance(pairs, np.ndarray):
        raise refuse(where, "has nodes and edges", sorted(graph), "nodes, edges")
    for name, member in members.items():
        place = f"{prefix}{name}"
        kind = member.get("type") if isinstance(member, dict) else None
        if kind == "NIRGraph":
            _flatten(nir, member, f"{place}/", nodes, edges)
        else:
            nodes[place] = _node(nir, member, kind, place, inner=bool(prefix))
    for source, target in _pairs(pairs, where):
        for name in (source, target):
            if name not in members:
                raise refuse(where, "edges join nodes that exist", f"{source} -> {target}", "nodes")
        edge = (
            _port(members, source, "Output", prefix),
            _port(members, target, "Input", prefix),
        )
        if edge in edges:
            raise refuse(where, "an edge is there once", f"{source} -> {target}", "one")
        edges[edge] = None


def _pairs(pairs: Array, where: str) -> Iterator[Edge]:
    if pairs.size == 0:
        return
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype != object:
        raise refuse(where, "edges are pairs of names", f"{pairs.dtype} {pairs.shape}", "(N, 2)")
    yield from ((str(a), str(b)) for a, b in pairs)


def _port(members: Tree, name: str, kind: str, prefix: str) -> str:
    """The node that an edge to or from `name` means: of a graph, its one input or output."""
    member = members[name]
    if member.get("type") != "NIRGraph":
        return f"{prefix}{name}"
    inside = member.get("nodes")
    inside = inside if isinstance(inside, dict) else {}
    ports = [k for k, v in inside.items() if isinstance(v, dict) and v.get("type") == kind]
    if len(ports) != 1:
        raise refuse(f"{prefix}{name}", f"a graph within the graph has one {kind}", ports, "one")
    return f"{prefix}{name}/{ports[0]}"


def _node(nir: Any, member: Any, kind: object, where: str, inner: bool) -> Any:
    """One node as the class that `nir` has for it; the ports of a subgraph pass everything on."""
    if not isinstance(kind, str) or not hasattr(nir, kind) or kind not in nir.ir.__all__:
        raise refuse(where, "is a node that NIR has", f"type {kind}", "a node of nir.ir")
    if inner and kind in ("Input", "Output"):
        return nir.Scale(scale=np.ones(()))
    try:
        node = nir.dict2NIRNode(dict(member))
    except _NODE_FAULTS as error:
        found = f"{type(error).__name__}: {error}"
        raise refuse(f"{where} ({kind})", "has the fields of its type", found, "as NIR") from error
    if not isinstance(getattr(node, "metadata", {}), dict):
        raise refuse(f"{where} ({kind})", "metadata is a group", "a value", "a group")
    return node
