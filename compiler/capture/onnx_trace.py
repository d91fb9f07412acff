"""ONNX models recorded node by node: shapes by the library's inference, constants folded."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.reference
import onnx.shape_inference
import torch
from torch import fx

from lapilli.compiler.capture import onnx_names
from lapilli.compiler.capture.binding import BATCH
from lapilli.compiler.errors import CaptureError, InputError
from lapilli.compiler.layers import Kind
from lapilli.compiler.layers.catalogue import allowed
from lapilli.compiler.layers.refused import remedy
from lapilli.compiler.layers.rule import Call
from lapilli.compiler.numerics import FloatArray

if TYPE_CHECKING:
    from onnx import NodeProto, TypeProto

    from lapilli.compiler.capture.onnx_file import OnnxModel

MAX_ELEMENTS = 2**30
"""Of one tensor."""
_Constant = npt.NDArray[Any]

FOLDED = frozenset(
    name
    for line in (
        "Constant ConstantOfShape Shape Size Range EyeLike Identity Cast CastLike",
        "Gather GatherElements GatherND Concat Slice Split Squeeze Unsqueeze Reshape Flatten",
        "Transpose Expand Tile Where Compress NonZero ScatterND ScatterElements Pad OneHot",
        "Add Sub Mul Div Mod Neg Abs Sign Pow Sqrt Reciprocal Exp Log Floor Ceil Round Min Max",
        "Clip And Or Not Xor Equal Greater GreaterOrEqual Less LessOrEqual ReduceProd ReduceSum",
        "ReduceMax ReduceMin ReduceMean ArgMax ArgMin CumSum MatMul Gemm Relu Sum Mean",
        "DequantizeLinear IsNaN IsInf",
    )
    for name in line.split()
)
"""Operators that are computed where all their operands are constants."""
_SHRINKING = frozenset(("Compress", "NonZero", "Slice", "Gather", "GatherND"))
"""Whose result is about as large as an operand, where inference cannot tell."""


@final
@dataclass(frozen=True)
class Operator:
    """An operator of ONNX as the target of a recorded call."""

    name: str

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("recorded, never executed")


@final
class OnnxTrace:
    """The calls of a model for batches of samples: a `Recording`.

    Raises InputError where the model does not take the samples, CaptureError where the library
    cannot infer a shape, UnsupportedOperatorError for operators that are not even recorded.
    """

    def __init__(self, model: OnnxModel, samples: FloatArray):
        _check_samples(model, samples)
        self.batch = model.sizes[0] or BATCH
        self._model = model
        self._graph = fx.Graph()
        self._results: dict[fx.Node, Any] = {}
        self._protos: dict[fx.Node, NodeProto] = {}
        self._known: dict[str, fx.Node | _Constant | None] = {"": None}
        self._types: dict[str, TypeProto] = {}
        self._names = onnx_names.Names(model.proto.graph.node)
        self._opsets = [o for o in model.proto.opset_import if o.domain in ("", "ai.onnx")]
        self._record((self.batch, *samples.shape[1:]))
        self.nodes: tuple[fx.Node, ...] = tuple(self._graph.nodes)

    def _record(self, shape: tuple[int, ...]) -> None:
        graph = self._model.proto.graph
        name = self._model.input
        self._input = self._graph.placeholder("input")
        self._known[name] = self._input
        self._results[self._input] = torch.empty(shape, device="meta")
        self._types[name] = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, shape)
        for tensor in graph.initializer:
            self._keep(tensor.name, onnx.numpy_helper.to_array(tensor))
        for node in graph.node:
            self._node(node)
        outputs = {value.name: self._as_node(value.name) for value in graph.output}
        only = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        self._graph.output(only)

    def _node(self, node: NodeProto) -> None:
        if node.domain not in ("", "ai.onnx") or any(
            attribute.HasField("g") or attribute.graphs for attribute in node.attribute
        ):
            raise self._refuse(node, f"{node.domain}.{node.op_type}".lstrip("."))
        operands = [self._known[name] for name in node.input]
        network = [o for o in operands if isinstance(o, fx.Node)]
        if node.op_type in ("Shape", "Size") and network:
            shape = np.array(self._results[network[0]].shape, np.int64)
            begin, end = (_attributes(node).get(key) for key in ("start", "end"))
            value = shape[begin:end] if node.op_type == "Shape" else np.array(shape.prod())
            self._keep(node.output[0], value)
        elif not network:
            self._fold(node)
        else:
            self._call(node, operands)

    def _fold(self, node: NodeProto) -> None:
        """Compute a node of constants with the library's reference."""
        if node.op_type not in FOLDED:
            raise self._refuse(node, node.op_type)
        self._inferred(node)
        given = {name: self._known[name] for name in node.input if name}
        try:
            results = onnx.reference.ReferenceEvaluator(
                node, opsets={o.domain: o.version for o in self._opsets}
            ).run(None, given)
        except Exception as error:
            raise self._fault(node, f"{type(error).__name__}: {error}") from error
        for name, value in zip(node.output, results, strict=False):
            self._keep(name, np.asarray(value))

    def _call(self, node: NodeProto, operands: Sequence[Any]) -> None:
        types = self._inferred(node)
        arguments = [
            self._constant(name) if isinstance(operand, np.ndarray) else operand
            for name, operand in zip(node.input, operands, strict=True)
        ]
        call = self._graph.call_function(
            Operator(node.op_type),
            tuple(arguments),
            _attributes(node),
        )
        self._protos[call] = node
        results = [self._like(node, name, types) if name else None for name in node.output]
        self._results[call] = (
            results[0] if len(results) == 1 and not _splits(node) else tuple(results)
        )
        for index, (name, result) in enumerate(zip(node.output, results, strict=True)):
            if not name:
                continue
            self._types[name] = types[name]
            if result is self._results[call]:
                self._known[name] = call
                continue
            item = self._graph.call_function(operator.getitem, (call, index))
            self._known[name], self._results[item], self._protos[item] = item, result, node

    def _inferred(self, node: NodeProto) -> Mapping[str, TypeProto]:
        """Types of a node's results. Raises CaptureError where they are unknown or too large."""
        data = {
            name: onnx.numpy_helper.from_array(value)
            for name in node.input
            if isinstance(value := self._known[name], np.ndarray) and value.size <= _SMALL
        }
        types = {name: self._types[name] for name in node.input if name}
        try:
            schema = onnx.defs.get_schema(node.op_type, self._model.opset, "")
            found = onnx.shape_inference.infer_node_outputs(
                schema, node, types, data, opset_imports=self._opsets
            )
        except Exception as error:
            raise self._fault(node, f"{type(error).__name__}: {error}") from error
        for name, kind in found.items():
            shape = _shape(kind)
            if shape is not None and math.prod(shape) > MAX_ELEMENTS:
                raise self._fault(node, f"{name} of shape {shape}")
            constant = all(not isinstance(self._known[i], fx.Node) for i in node.input)
            if shape is None and (not constant or node.op_type not in _SHRINKING | {"Constant"}):
                raise self._fault(node, f"{name} of unknown shape")
        return found

    def _like(self, node: NodeProto, name: str, types: Mapping[str, TypeProto]) -> torch.Tensor:
        """A tensor of a result's type, without values."""
        kind = types[name].tensor_type.elem_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        shape = _shape(types[name])
        assert shape is not None, "checked before"
        like = _TORCH.get(dtype.name)
        if like is None:
            raise self._fault(node, f"{name} of type {dtype.name}")
        return torch.empty(shape, dtype=like, device="meta")

    def _keep(self, name: str, value: _Constant) -> None:
        self._known[name] = value
        kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
        self._types[name] = onnx.helper.make_tensor_type_proto(kind, value.shape)

    def _constant(self, name: str) -> fx.Node:
        """A node for a constant operand, each time a new one: nothing overwrites it."""
        value = self._known[name]
        assert isinstance(value, np.ndarray)
        node: fx.Node = self._graph.placeholder(f"constant_{len(self._results)}")
        if value.dtype.name not in _TORCH:
            raise InputError(
                self._model.where,
                "weights are numbers",
                found=f"{name} of type {value.dtype}",
                allowed=", ".join(_TORCH),
                remedy="Export the network in float32.",
            )
        if value.dtype.kind == "f" and value.dtype.name == "float32" and value.size > 1:
            _check_finite(self._model, name, value)
        self._results[node] = torch.tensor(value)
        return node

    def _as_node(self, name: str) -> fx.Node:
        found = self._known[name]
        return self._constant(name) if not isinstance(found, fx.Node) else found

    def _refuse(self, node: NodeProto, found: str) -> Exception:
        call = Call(
            self._names.path(node), node.op_type, (), onnx_names.place(node, self._model.where)
        )
        rule = "an operator has a lowering"
        return call.refuse(rule, found, allowed(node.op_type, "onnx"), remedy(node.op_type))

    def _fault(self, node: NodeProto, found: str) -> CaptureError:
        return CaptureError(
            onnx_names.place(node, self._model.where),
            "the shape of every tensor follows from that of the input",
            found=f"{node.op_type}: {found.strip().partition(chr(10))[0]}",
            allowed="what onnx.shape_inference infers, operand by operand",
            remedy="Export the network with fixed sizes, and check it with onnx.checker.",
        )

    def is_input(self, node: fx.Node) -> bool:
        """Is this placeholder the network's input?"""
        return node is self._input

    def result(self, node: fx.Node) -> Any:
        """A constant, or a tensor without values of a result's shape and type."""
        return self._results.get(node)

    def is_static(self, node: fx.Node) -> bool:
        """Shapes are folded before they are recorded."""
        return False

    def keys(self, node: fx.Node) -> tuple[Kind, tuple[Any, ...]]:
        """The operator's name; parts of a result are items."""
        if isinstance(node.target, Operator):
            return "onnx", (node.target.name,)
        return "functions", (node.target,)

    def named(self, node: fx.Node) -> tuple[str, str]:
        """(population's name, operator)."""
        proto = self._protos[node]
        return self._names.path(proto), proto.op_type

    def place(self, node: fx.Node) -> str:
        """The node's name in its file, and the user's line where the exporter kept it."""
        proto = self._protos.get(node)
        return "" if proto is None else onnx_names.place(proto, self._model.where)

    def attributes(self, node: fx.Node, names: tuple[str, ...]) -> dict[str, Any] | None:
        """None: no call is one of a module."""
        return None

    def overwritten(self, node: fx.Node) -> list[tuple[fx.Node, bool]]:
        """Nothing is ever overwritten in ONNX."""
        return []


_SMALL = 2**16
"""Constants beyond this size are weights, whose values decide no shape."""
_TORCH = {
    name: getattr(torch, name)
    for name in (
        "float16",
        "float32",
        "float64",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "bool",
    )
}


def _check_samples(model: OnnxModel, samples: FloatArray) -> None:
    fits = len(model.sizes) == samples.ndim and all(
        wanted in (None, size)
        for wanted, size in zip(model.sizes[1:], samples.shape[1:], strict=True)
    )
    if not fits:
        raise InputError(
            model.where,
            "the network accepts the calibration images",
            found=f"images of shape {samples.shape[1:]}",
            allowed=f"{tuple('any' if s is None else s for s in model.sizes[1:])}",
            remedy="Give images as the model takes them, or export it for these.",
        )


def _check_finite(model: OnnxModel, name: str, value: _Constant) -> None:
    bad = int((~np.isfinite(value)).sum())
    if bad:
        raise InputError(
            f"{model.where}: {name}",
            "weights and statistics are finite numbers",
            found=f"{bad} NaN or infinite values of {value.size}",
            allowed="finite numbers only",
            remedy="The checkpoint is damaged or its training diverged.",
        )


def _splits(node: NodeProto) -> bool:
    return node.op_type == "Split"


def _shape(kind: TypeProto) -> tuple[int, ...] | None:
    tensor = kind.tensor_type
    if not tensor.HasField("shape") or not all(d.HasField("dim_value") for d in tensor.shape.dim):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in node.attribute}


def _plain(value: Any) -> Any:
    """An attribute as Python has it; of a float32 the shortest number that means it."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return float(str(np.float32(value)))
    if isinstance(value, (list, tuple)) or type(value).__name__.startswith("Repeated"):
        return [_plain(item) for item in value]
    return value
