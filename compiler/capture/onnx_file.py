"""ONNX files, read as data: checked by the library, external tensors only from beside the file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, final

from lapilli.compiler.errors import BackendError, InputError

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, TensorProto

MAX_BYTES = 2 * 2**30
"""Of the file itself: protobuf's own limit."""
MAX_EXTERNAL_BYTES = 8 * 2**30
MAX_NODES = 100_000
OLDEST = 11
"""The first opset whose operators are known here."""


@final
@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A checked model with all its tensors. sizes: of the input, None where symbolic."""

    where: str
    proto: ModelProto
    opset: int
    input: str
    sizes: tuple[int | None, ...]


def read(path: Path) -> OnnxModel:
    """The model in a file. Raises InputError; BackendError where the library is missing."""
    try:
        import onnx
        import onnx.checker
        import onnx.inliner
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise BackendError(
            str(path),
            "the package onnx reads ONNX files",
            found=str(error),
            allowed="lapilli[onnx]",
            remedy="pip install 'lapilli[onnx]'",
        ) from error

    try:
        if path.stat().st_size > MAX_BYTES:
            _refuse(path, f"{path.stat().st_size:,} bytes")
        proto = onnx.load(str(path), load_external_data=False)
        _load_external(path, proto)
        onnx.checker.check_model(proto)
        proto = onnx.inliner.inline_local_functions(proto)
    except FileNotFoundError:
        _refuse(path, "no such file")
    except InputError:
        raise
    except (
        DecodeError,
        onnx.checker.ValidationError,
        *(OSError, ValueError, RuntimeError, MemoryError),
    ) as error:
        _refuse(path, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
    return _described(path, proto)


def _refuse(
    path: Path, found: str, *, rule: str = "", allowed: str = "", remedy: str = ""
) -> NoReturn:
    raise InputError(
        str(path),
        rule or "the file is an ONNX model",
        found=found,
        allowed=allowed or "a model that onnx.checker accepts, its tensors inside or beside it",
        remedy=remedy or "Export the network again.",
    )


def _described(path: Path, proto: ModelProto) -> OnnxModel:
    import onnx

    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= opset <= newest:
        _refuse(
            path,
            f"opset {opset}",
            rule="the model's operators are of a known version",
            allowed=f"opset {OLDEST} to {newest}",
            remedy="Convert it with onnx.version_converter, or update the package onnx.",
        )
    graph = proto.graph
    if len(graph.node) > MAX_NODES or graph.sparse_initializer:
        _refuse(path, f"{len(graph.node):,} nodes, {len(graph.sparse_initializer)} sparse tensors")
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    floats = onnx.TensorProto.FLOAT
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != floats:
        _refuse(
            path,
            ", ".join(value.name for value in inputs) or "none",
            rule="a network has one input tensor",
            allowed="one tensor of float32 images",
            remedy="Export it with the other inputs fixed, in float32.",
        )
    dims = inputs[0].type.tensor_type.shape.dim
    sizes = tuple(d.dim_value if d.HasField("dim_value") else None for d in dims)
    if not sizes or any(size is not None and size < 1 for size in sizes):
        _refuse(path, f"an input of sizes {sizes}")
    return OnnxModel(str(path), proto, opset, inputs[0].name, sizes)


def _load_external(path: Path, proto: ModelProto) -> None:
    """Read tensors from other files: only from the model's own folder, only what is there."""
    import onnx

    folder, total = path.resolve().parent, 0
    for tensor in _tensors(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        target = (folder / entries.get("location", "")).resolve()
        if target.parent != folder and folder not in target.parents:
            _refuse(path, f"tensor {tensor.name!r} in {entries.get('location')!r}")
        if not target.is_file():
            _refuse(path, f"tensor {tensor.name!r} in a missing file")
        size = target.stat().st_size
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", size))
        if min(offset, length) < 0 or offset + min(length, size) > size:
            _refuse(path, f"tensor {tensor.name!r} beyond the end of its file")
        total += min(length, size)
        if total > MAX_EXTERNAL_BYTES:
            _refuse(path, f"more than {MAX_EXTERNAL_BYTES:,} bytes of tensors")
    onnx.external_data_helper.load_external_data_for_model(proto, str(folder))


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """Every tensor of a graph, in attributes and in graphs within too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from _attribute_tensors(attribute)


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    graphs: list[Any] = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
    for graph in graphs:
        yield from _tensors(graph)
