"""Names of populations and places from what an ONNX node says about itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, final

from lapilli.compiler.capture.program import module_path, place_in

if TYPE_CHECKING:
    from onnx import NodeProto

_SCOPES = "pkg.torch.onnx.name_scopes"
_CLASSES = "pkg.torch.onnx.class_hierarchy"
_TRACE = "pkg.torch.onnx.stack_trace"
_LONGEST = 10_000
"""Characters of metadata that are looked at."""


@final
class Names:
    """Names for the nodes of one graph, after the modules of PyTorch where it was exported there.

    TorchScript's exporter names nodes /layer1/layer1.0/relu/Relu: a module that calls no others is
    taken for a layer, which gives its call the module's own path, as torch.fx would.
    """

    def __init__(self, nodes: Iterable[NodeProto]):
        paths = {scope(node.name) for node in nodes if node.name.startswith("/")}
        parents = {path[:i] for path in paths for i in range(len(path))}
        self._layers = {path for path in paths if path and path not in parents}

    def path(self, node: NodeProto) -> str:
        """The population's name that a node suggests."""
        word = snake(node.op_type)
        told = _told(node)
        if told is not None:
            module, is_layer = told
        elif node.name.startswith("/"):
            parts = scope(node.name)
            module, is_layer = ".".join(parts), parts in self._layers
        else:
            plain = node.name or next(iter(node.output), "")
            return re.sub(r"[^\w.:-]+", ".", plain).strip(".") or word
        if is_layer and module:
            return module
        return f"{module}.{word}" if module else word


def scope(name: str) -> tuple[str, ...]:
    """The modules around a node of TorchScript's exporter, from the outermost.

    >>> scope("/layer1/layer1.0/relu/Relu"), scope("/features/features.1/conv/conv.0/conv.0.0/Conv")
    (('layer1.0', 'relu'), ('features.1', 'conv.0.0'))
    """
    parts: list[str] = []
    for part in name.strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts[-1] = part
        else:
            parts.append(part)
    return tuple(parts)


def snake(operator: str) -> str:
    """What PyTorch calls such an operator, roughly.

    >>> snake("LeakyRelu"), snake("Relu"), snake("HardSwish"), snake("ReduceMean")
    ('leaky_relu', 'relu', 'hardswish', 'mean')
    """
    if operator in _OTHERWISE:
        return _OTHERWISE[operator]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", operator).lower()
    return words.replace("hard_", "hard")


_OTHERWISE = {
    **{"Concat": "cat", "Resize": "interpolate", "Slice": "getitem", "Gather": "getitem"},
    **{"ReduceMean": "mean", "Transpose": "permute", "Gemm": "linear", "MatMul": "matmul"},
    **{"BatchNormalization": "batch_norm", "MaxPool": "max_pool", "AveragePool": "avg_pool"},
}


def place(node: NodeProto, where: str) -> str:
    """The node, and the line of the user's code where the exporter kept it."""
    kept = place_in(_metadata(node, _TRACE))
    named = f"node {node.name or next(iter(node.output), '?')!r} of {where}"
    return f"{kept} ({named})" if kept else named


def _told(node: NodeProto) -> tuple[str, bool] | None:
    """(module's path, is it a layer of torch.nn?) as torch's newer exporter writes them down."""
    try:
        scopes = ast.literal_eval(_metadata(node, _SCOPES) or "None")
        classes = ast.literal_eval(_metadata(node, _CLASSES) or "None")
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not (isinstance(scopes, list) and isinstance(classes, list)):
        return None
    if len(scopes) != len(classes) or len(scopes) < 2:
        return None
    owner = str(classes[-2])
    layer = owner.startswith("torch.nn.") and ".container." not in owner
    return module_path(str(scopes[-2])), layer


def _metadata(node: NodeProto, key: str) -> str:
    for entry in getattr(node, "metadata_props", ()):
        if entry.key == key and len(entry.value) <= _LONGEST:
            return str(entry.value)
    return ""
