"""Exported programs from .pt2 files of torch.export.save, in the formats of torch 2.3 to 2.13.

torch.export.load would run code that a file brings along: pickles, compiled libraries, expressions
of sizes that sympy evaluates. Here the archive is read as data: the program as JSON, weights as
bytes or with weights_only, and operators by name, of those that the table of layers knows.
Source of the format: torch/_export/serde/schema.py, torch/export/pt2_archive/constants.py.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, final

import torch
from torch import Tensor, fx

from lapilli.compiler.capture.program import (
    ARITHMETIC,
    Program,
    Size,
    described,
    is_known,
    nested,
    one_input,
    refuse_target,
)
from lapilli.compiler.errors import InputError

MAX_BYTES = 8 * 2**30
"""Of all members of an archive together, unpacked."""
MAX_JSON = 256 * 2**20
MAX_NODES = 100_000
_FAULTS = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError),
    *(ArithmeticError, NotImplementedError, MemoryError),
    *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)
"""What damaged archives raise, found by tests/compiler/test_pt2_hostile.py."""
_DTYPES = {
    **{1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64},
    **{6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16},
}
"""torch._export.serde.schema.ScalarType."""
_MEMORY_FORMATS = {
    1: torch.contiguous_format,
    2: torch.channels_last,
    3: torch.channels_last_3d,
    4: torch.preserve_format,
}


def read(path: Path) -> Program:
    """The program in a .pt2 file. Raises InputError, CaptureError for unknown operators."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive, path).program()
    except FileNotFoundError:
        _refuse(path, "no such file")
    except InputError:
        raise
    except RecursionError:
        _refuse(path, "a program nested too deeply")
    except _FAULTS as error:
        _refuse(path, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def _refuse(path: Path, found: str) -> NoReturn:
    raise InputError(
        str(path),
        "the file is an exported program that can be read as data",
        found=found,
        allowed="what torch.export.save writes: one program, plain tensors",
        remedy="Export it again: torch.export.save(torch.export.export(model, (images,)), FILE).",
    )


@final
class _Archive:
    """The members of one archive, none of them trusted."""

    def __init__(self, archive: zipfile.ZipFile, path: Path):
        self._archive, self._path = archive, path
        size = sum(info.file_size for info in archive.infolist())
        if size > MAX_BYTES:
            _refuse(path, f"{size:,} bytes unpacked, more than {MAX_BYTES:,}")
        self._names = {re.sub(r"^[^/]*/(?=(models|data)/)", "", n): n for n in archive.namelist()}

    def program(self) -> Program:
        """The only program of the archive."""
        names = [n for n in self._names if re.fullmatch(r"models/[^/]+\.json", n)]
        if len(names) == 1:
            model = names[0][len("models/") : -len(".json")]
            weights = self._tensors("weights", model)
            constants = self._tensors("constants", model)
            return _Reader(self._path, self._json(names[0]), weights, constants).program()
        if "serialized_exported_program.json" not in self._names:
            compiled = any(n.startswith("data/aotinductor") for n in self._names)
            what = "compiled code" if compiled else f"{len(names)} programs"
            _refuse(self._path, f"an archive with {what}")
        document = self._json("serialized_exported_program.json")
        weights = self._pickled("serialized_state_dict.pt")
        constants = self._pickled("serialized_constants.pt")
        return _Reader(self._path, document, weights, constants).program()

    def _read(self, name: str) -> bytes:
        return self._archive.read(self._names[name])

    def _json(self, name: str) -> Any:
        content = self._read(name)
        if len(content) > MAX_JSON:
            _refuse(self._path, f"{name} of {len(content):,} bytes")
        return json.loads(content)

    def _tensors(self, kind: str, model: str) -> dict[str, Tensor]:
        """Weights or constants: bytes as they are in memory, described in a file of their own."""
        listed = f"data/{kind}/{model}_{kind}_config.json"
        if listed not in self._names:
            whole = f"data/{kind}/{model}.pt"
            return self._pickled(whole) if whole in self._names else {}
        found = {}
        for name, entry in self._json(listed)["config"].items():
            member = f"data/{kind}/{entry['path_name']}"
            if entry.get("use_pickle"):
                found[name] = self._plain(name, self._load(member))
            else:
                found[name] = _tensor(self._read(member), entry["tensor_meta"])
        return found

    def _pickled(self, name: str) -> dict[str, Tensor]:
        loaded = self._load(name)
        return {str(key): self._plain(str(key), value) for key, value in dict(loaded).items()}

    def _load(self, name: str) -> Any:
        content = io.BytesIO(self._read(name))
        # Before torch 2.6 the older formats run code, weights_only or not: CVE-2025-32434.
        if not zipfile.is_zipfile(content):
            _refuse(self._path, f"{name} that is no zip archive of torch.save")
        with zipfile.ZipFile(content) as inner:
            if any(member.endswith("constants.pkl") for member in inner.namelist()):
                _refuse(self._path, f"{name} with a TorchScript program")
            if sum(info.file_size for info in inner.infolist()) > MAX_BYTES:
                _refuse(self._path, f"{name} of more than {MAX_BYTES:,} bytes")
        content.seek(0)
        return torch.load(content, map_location="cpu", weights_only=True)

    def _plain(self, name: str, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            _refuse(self._path, f"{name} of type {type(value).__name__}")
        return value.detach()


def _tensor(content: bytes, meta: Mapping[str, Any]) -> Tensor:
    """The tensor that lies in these bytes. Raises ValueError where it does not."""
    dtype = _DTYPES[meta["dtype"]]
    sizes, strides = ([_whole(n) for n in meta[key]] for key in ("sizes", "strides"))
    offset = _whole(meta["storage_offset"])
    if len(strides) != len(sizes) or min([0, offset, *sizes, *strides]) < 0:
        raise ValueError(f"sizes {sizes}, strides {strides}, offset {offset}")
    flat = (
        torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0).to(dtype)
    )
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if math.prod(sizes) == 0:
        return torch.empty(sizes, dtype=dtype)
    if last >= flat.numel() or math.prod(sizes) > flat.numel():
        # The file may hold the tensor alone, without the storage it was a view of.
        return flat[: math.prod(sizes)].reshape(sizes).clone()
    return flat.as_strided(sizes, strides, offset).clone()


def _whole(value: Mapping[str, Any]) -> int:
    number = value["as_int"]
    if not isinstance(number, int):
        raise ValueError(f"{number!r} for a size")
    return number


@final
class _Reader:
    """One program's JSON, and the tensors beside it."""

    def __init__(
        self,
        path: Path,
        document: Any,
        weights: Mapping[str, Tensor],
        constants: Mapping[str, Tensor],
    ):
        self._where = str(path)
        self._path = path
        self._document = document
        self._module = document["graph_module"]
        self._record = self._module["graph"]
        self._tensors = {**constants, **weights}
        self._graph = fx.Graph()
        self._known: dict[str, Any] = {}

    def program(self) -> Program:
        """The graph and its constants."""
        if len(self._record["nodes"]) > MAX_NODES:
            _refuse(self._path, f"{len(self._record['nodes']):,} calls")
        constants, inputs = {}, []
        signature = self._module["signature"]
        for spec in signature["input_specs"]:
            name, value = self._input(spec)
            if name is None:
                continue  # a number that no call reads
            if not isinstance(name, str) or not name.isidentifier():
                _refuse(self._path, f"an input named {name!r}")
            node = self._graph.placeholder(name)
            self._known[name] = node
            if value is None:
                inputs.append(name)
            else:
                constants[node.name] = value
        only = one_input(self._where, inputs)
        for record in self._record["nodes"]:
            self._node(record)
        results = [
            self._argument(spec["user_output"]["arg"])
            for spec in signature["output_specs"]
            if "user_output" in spec
        ]
        self._graph.output(nested(self._out_spec(), results))
        sizes = tuple(self._size(s) for s in self._record["tensor_values"][only]["sizes"])
        least, most = self._range(self._record["tensor_values"][only]["sizes"][0])
        return Program(
            self._where,
            self._graph,
            constants,
            self._known[only].name,
            sizes,
            least,
            most,
        )

    def _input(self, spec: Mapping[str, Any]) -> tuple[str | None, Tensor | None]:
        """Name of a placeholder, and its value where it is a constant."""
        ((kind, entry),) = spec.items()
        if kind == "user_input":
            argument = entry["arg"]
            return (
                (argument["as_tensor"]["name"], None) if "as_tensor" in argument else (None, None)
            )
        if kind in ("constant_input", "token"):
            return None, None
        key = {"parameter": "parameter_name", "buffer": "buffer_name"}.get(
            kind, "tensor_constant_name"
        )
        if key not in entry:
            _refuse(self._path, f"an input of kind {kind}")
        return entry["arg"]["name"], self._tensors[entry[key]]

    def _node(self, record: Mapping[str, Any]) -> None:
        target = self._target(record)
        given = [(a.get("name", ""), self._argument(a["arg"])) for a in record["inputs"]]
        if isinstance(target, torch._ops.OpOverload):
            known = {a.name: a.kwarg_only for a in target._schema.arguments}
            args = tuple(value for name, value in given if not known.get(name, False))
            kwargs = {name: value for name, value in given if known.get(name, False)}
            self._check_order(target, [n for n, _ in given if not known.get(n, False)])
        else:
            args, kwargs = tuple(value for _, value in given), {}
        node = self._graph.call_function(target, args, kwargs)
        described(node, self._meta(record))
        self._outputs(node, record["outputs"])

    def _check_order(self, target: Any, names: list[str]) -> None:
        expected = [a.name for a in target._schema.arguments if not a.kwarg_only]
        if names != expected[: len(names)]:
            _refuse(self._path, f"{target} with arguments {', '.join(names)}")

    def _target(self, record: Mapping[str, Any]) -> Any:
        """The operator of one call, found by name among those that may be executed."""
        name = str(record["target"])
        prefix = "torch.ops.aten."
        if name.startswith(prefix):
            operator_, _, overload = name.removeprefix(prefix).partition(".")
            if is_known(operator_):
                return getattr(getattr(torch._ops.ops.aten, operator_), overload)
        found = next((f for f in ARITHMETIC if name == f"_operator.{f.__name__}"), None)
        if found is None:
            raise refuse_target(self._where, name, self._meta(record))
        return found

    def _meta(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """What torch.export wrote down about a call, as it is in memory."""
        written = record.get("metadata") or {}
        stack = {}
        for entry in filter(None, written.get("nn_module_stack", "").split(";")):
            # The path may hold commas: getattr(L['self'].layer1, '0').
            key, _, rest = entry.partition(",")
            path, _, kind = rest.rpartition(",")
            stack[key] = (path, kind)
        meta: dict[str, Any] = {"nn_module_stack": stack, "stack_trace": written.get("stack_trace")}
        if "torch_fn" in written:
            meta["torch_fn"] = tuple(written["torch_fn"].split(";"))
        if "source_fn_stack" in written:
            last = written["source_fn_stack"].split(";")[-1]
            meta["source_fn_stack"] = [tuple(last.partition(",")[::2])]
        return meta

    def _outputs(self, node: fx.Node, outputs: Any) -> None:
        """Names of what a call returns: itself, or its parts."""
        if len(outputs) == 1 and "as_tensors" not in outputs[0]:
            self._name(outputs[0], node)
            return
        parts = outputs[0]["as_tensors"] if len(outputs) == 1 else outputs
        for index, part in enumerate(parts):
            item = self._graph.call_function(_ITEM, (node, index))
            item.meta = dict(node.meta)
            self._name(part, item)

    def _name(self, output: Mapping[str, Any], node: fx.Node) -> None:
        """Other names come from lists of tensors, which hold names without a kind."""
        ((kind, value),) = output.items()
        if kind != "as_none":
            name = value if kind == "name" else value.get("as_name") or value.get("name")
            self._known[str(name)] = node

    def _argument(self, argument: Mapping[str, Any]) -> Any:
        """One argument's value: a node, a constant, or a list of these."""
        ((kind, value),) = argument.items()
        if kind not in _CONSTANT_KINDS and kind not in _NAMED_KINDS:
            _refuse(self._path, f"an argument of kind {kind}")
        if kind in _NAMED_KINDS:
            return (
                [self._named(v) for v in value] if isinstance(value, list) else self._named(value)
            )
        return _CONSTANT_KINDS[kind](value)

    def _named(self, value: Mapping[str, Any]) -> Any:
        ((kind, content),) = value.items()
        if kind == "as_none":
            return None
        if kind in ("as_int", "as_float", "as_bool"):
            return content
        if isinstance(content, dict):  # newer versions: {"as_tensor": {"name": ...}}
            content = content["name"]
        return self._known[content]

    def _size(self, size: Mapping[str, Any]) -> Size:
        return size.get("as_int")

    def _range(self, size: Mapping[str, Any]) -> tuple[int, int | None]:
        if "as_int" in size:
            return size["as_int"], size["as_int"]
        # "s0", or Symbol('s0', positive=True, integer=True): never evaluated, only looked up.
        name = re.sub(r"^Symbol\('(\w+)'.*\)$", r"\1", str(size["as_expr"]["expr_str"]))
        limits = self._document.get("range_constraints", {}).get(name, {})
        least, most = limits.get("min_val"), limits.get("max_val")
        return max(1, least or 1), most if isinstance(most, int) and most < 2**31 else None

    def _out_spec(self) -> Any:
        """How results are nested, as torch.utils._pytree writes it; None where it is not told."""
        calls = self._module.get("module_call_graph") or []
        signature = next((c["signature"] for c in calls if c["fqn"] == ""), None)
        return None if signature is None else json.loads(signature["out_spec"])[1]


def _real(value: Any) -> float:
    return float(value)  # also "Infinity" and "NaN", which newer versions write as text


def _device(value: Any) -> torch.device:
    return torch.device("cpu")


_ITEM = next(f for f in ARITHMETIC if f.__name__ == "getitem")
_CONSTANT_KINDS: dict[str, Any] = {
    "as_none": lambda value: None,
    "as_int": int,
    "as_ints": list,
    "as_float": _real,
    "as_floats": lambda values: [_real(v) for v in values],
    "as_string": str,
    "as_bool": bool,
    "as_bools": list,
    "as_scalar_type": lambda value: _DTYPES[value],
    "as_memory_format": lambda value: _MEMORY_FORMATS[value],
    "as_layout": lambda value: torch.strided,
    "as_device": _device,
}
_NAMED_KINDS = (
    *("as_tensor", "as_tensors", "as_optional_tensor", "as_optional_tensors"),
    *("as_sym_int", "as_sym_ints", "as_sym_bool", "as_sym_float"),
)
