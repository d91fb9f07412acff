"""Exported programs: ATen calls on one input and constants, from torch.export or a .pt2 file."""

from __future__ import annotations

import itertools
import json
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx

from lapilli.compiler.capture.binding import plain
from lapilli.compiler.errors import InputError, UnsupportedOperatorError
from lapilli.compiler.layers import TABLE
from lapilli.compiler.layers.catalogue import allowed
from lapilli.compiler.layers.heads import HEADS
from lapilli.compiler.layers.refused import remedy

Size = int | None
"""Of one axis; None where it is symbolic."""


@final
@dataclass(frozen=True, eq=False)
class Program:
    """A graph of placeholders, ATen calls and one output, nested as the network returns it.

    constants: placeholder -> parameter, buffer or constant; input: the placeholder of the one
    input tensor; sizes: of its axes, the batch first; least, most: batches that it takes, where
    that is symbolic; trusted: does it come from this process, and not from a file? Nodes' meta:
    "modules", a list of (path, full name of the class), outermost first; "written", what the
    user's code called, or ""; "place", its file, line and code, or "".
    """

    where: str
    graph: fx.Graph
    constants: Mapping[str, Any]
    input: str
    sizes: tuple[Size, ...]
    least: int = 1
    most: int | None = None
    trusted: bool = False

    @property
    def fixed_batch(self) -> int | None:
        """The one batch size that it takes, or None."""
        return self.sizes[0]

    def check(self, shape: Sequence[int]) -> None:
        """Raise InputError unless images of this shape (N, ...) fit the program's input."""
        fits = len(shape) == len(self.sizes) and all(
            wanted in (None, size) for wanted, size in zip(self.sizes[1:], shape[1:], strict=True)
        )
        if not fits:
            raise InputError(
                self.where,
                "the network accepts the calibration images",
                found=f"images of shape {tuple(shape[1:])}",
                allowed=f"{tuple('any' if s is None else s for s in self.sizes[1:])}, "
                "as it was exported",
                remedy="Give images as the model takes them, or export it for these.",
            )

    def capture_batch(self, usual: int) -> int:
        """How many images to record the calls with: `usual`, where the program takes so many."""
        if self.fixed_batch is not None:
            return self.fixed_batch
        return max(self.least, min(usual, self.most or usual))


def from_export(program: torch.export.ExportedProgram, where: str) -> Program:
    """The program that torch.export made in this process. Raises InputError, CaptureError."""
    given, image = _inputs(program, where)
    size = image.meta["val"].shape
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in program.graph.nodes:
        if node.op == "output":
            graph.output(fx.node.map_arg(_results(program, node), copies.__getitem__))
        else:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            described(copies[node], node.meta)
    return Program(
        where,
        graph,
        {copies[node].name: value for node, value in given.items()},
        copies[image].name,
        tuple(s if isinstance(s, int) else None for s in size),
        *_range(program, size[0]),
        trusted=True,
    )


def _inputs(
    program: torch.export.ExportedProgram, where: str
) -> tuple[dict[fx.Node, Any], fx.Node]:
    """Placeholders with the constants they stand for, and the one for the images."""
    nodes = [n for n in program.graph.nodes if n.op == "placeholder"]
    constants: dict[fx.Node, Any] = {}
    images: list[fx.Node] = []
    for node, spec in zip(nodes, program.graph_signature.input_specs, strict=True):
        kind = spec.kind.name
        if kind in ("PARAMETER", "BUFFER", "CONSTANT_TENSOR"):
            constants[node] = _constant(program, str(spec.target))
        elif kind != "USER_INPUT":
            raise _no_program(where, f"an input of kind {kind.lower()}")
        elif type(spec.arg).__name__ == "TensorArgument":
            images.append(node)
        else:  # a number or None that the program was exported with
            constants[node] = getattr(spec.arg, "value", None)
    only = one_input(where, [node.name for node in images])
    return constants, next(node for node in images if node.name == only)


def _constant(program: torch.export.ExportedProgram, name: str) -> Tensor:
    found = program.state_dict.get(name)
    tensor: Tensor = program.constants[name] if found is None else found
    return tensor.detach()


def _range(program: torch.export.ExportedProgram, size: Any) -> tuple[int, int | None]:
    if isinstance(size, int):
        return size, size
    found = program.range_constraints.get(size.node.expr)
    if found is None:
        return 1, None
    upper = str(found.upper)
    return max(1, int(found.lower)), int(upper) if upper.isdigit() else None


def _results(program: torch.export.ExportedProgram, output: fx.Node) -> Any:
    """What the user gets, nested; effects that the program returns first are left out."""
    kept = [
        node
        for node, spec in zip(output.args[0], program.graph_signature.output_specs, strict=True)  # type: ignore[arg-type]
        if spec.kind.name == "USER_OUTPUT"
    ]
    return torch.utils._pytree.tree_unflatten(kept, program.call_spec.out_spec)


def one_input(where: str, inputs: Sequence[str]) -> str:
    """The only input tensor. Raises InputError where there are others."""
    if len(inputs) != 1:
        raise InputError(
            where,
            "a network has one input tensor",
            found=", ".join(inputs) or "none",
            allowed="one tensor of images",
            remedy="Export it with the other inputs fixed.",
        )
    return inputs[0]


def _no_program(where: str, found: str) -> InputError:
    return InputError(
        where,
        "an exported program holds tensors and ATen operators",
        found=found,
        allowed="parameters, buffers, constant tensors and one input",
        remedy="Export it without custom objects and effects.",
    )


def described(node: fx.Node, meta: Mapping[str, Any]) -> None:
    """Give a node the meta that Program promises, from what torch.export wrote about it.

    nn_module_stack: key -> (path, class); source_fn_stack, torch_fn: what was called.
    """
    stack = meta.get("nn_module_stack") or {}
    node.meta = {
        "modules": [(module_path(str(path)), _name_of(kind)) for path, kind in stack.values()],
        "written": _written(meta),
        "place": place_in(str(meta.get("stack_trace") or "")),
    }


def module_path(recorded: str) -> str:
    """The path in named_modules() of what torch.export recorded.

    >>> module_path("getattr(L['self'].layer1, '0').conv"), module_path("layer1.0.relu@1")
    ('layer1.0.conv', 'layer1.0.relu')
    """
    path = recorded
    while path != (path := re.sub(r"getattr\(((?:[^()])*), '([^']*)'\)", r"\1.\2", path)):
        pass
    path = re.sub(r"^L\['[^']*'\]\.?|^L__self___?", "", path)
    return re.sub(r"@\d+", "", path)


def _name_of(kind: Any) -> str:
    return kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"


def _written(meta: Mapping[str, Any]) -> str:
    """The function or method in the user's code behind an operator, without its module."""
    if meta.get("torch_fn"):  # ("relu6_1", "function.relu6")
        return str(meta["torch_fn"][1]).rpartition(".")[2]
    if meta.get("source_fn_stack"):
        source = meta["source_fn_stack"][-1][1]
        if not isinstance(source, type):
            name = source if isinstance(source, str) else getattr(source, "__name__", "")
            return str(name).rpartition(".")[2]
    return ""


_FRAME = re.compile(r'^\s*File "(?P<file>[^"]*)", line (?P<line>\d+), in (?P<name>.*)$')


def place_in(stack_trace: str) -> str:
    """file:line in function: code, of the innermost frame that is not torch's; else nothing."""
    lines, found = [*stack_trace.splitlines(), ""], ""
    for line, code in itertools.pairwise(lines):
        frame = _FRAME.match(line)
        if frame is not None and not re.search(r"[/\\]torch[/\\]", frame["file"]):
            text = "" if _FRAME.match(code) else code.strip()
            found = f"{frame['file']}:{frame['line']} in {frame['name']}: {text}"
    return found


ARITHMETIC = frozenset(
    getattr(operator, name)
    for name in ("getitem", "add", "sub", "mul", "floordiv", "truediv", "mod", "neg", "pow")
)
"""What a program may compute with sizes."""

_CONSTANTS = frozenset(
    name
    for line in (
        "arange full full_like zeros zeros_like ones ones_like empty empty_like scalar_tensor",
        "new_zeros new_ones new_full new_empty linspace eye fill fill_ zero_ copy copy_",
        "lift_fresh lift_fresh_copy alias clone detach detach_ contiguous to _to_copy type_as",
        "expand expand_as repeat t permute transpose view reshape _unsafe_view squeeze unsqueeze",
        "slice select index index_select cat stack flip sum prod mean amax amin cumsum",
        "add sub rsub mul div neg pow sqrt rsqrt reciprocal exp log abs floor ceil round sign",
        "add_ sub_ mul_ div_ clamp clamp_min clamp_max minimum maximum where eq ne lt le gt ge",
        "sym_size sym_numel sym_stride sym_storage_offset",
        "_assert_tensor_metadata _assert_scalar _assert_async sym_constrain_range_for_size",
    )
    for name in line.split()
)
"""Operators of ATen that a file may apply to constants and sizes, beside those of the layers."""


def is_known(name: str) -> bool:
    """May a file call this operator of ATen? Nothing that could reach files or raw memory."""
    rows = [*(rule.aten for rule in TABLE), *(rule.aten for rule in HEADS)]
    return name in _CONSTANTS or any(name == k.partition(".")[0] for row in rows for k in row)


def refuse_target(where: str, target: str, meta: Mapping[str, Any]) -> UnsupportedOperatorError:
    """The error for a call that no program may make: its module, its line, what to do instead."""
    called = target.removeprefix("torch.ops.").removeprefix("aten.").partition(".")[0]
    stack = meta.get("nn_module_stack") or {}
    path = module_path(str(next(reversed(stack.values()))[0])) if stack else ""
    place = place_in(str(meta.get("stack_trace") or ""))
    name = f"{path}.{plain(called)}" if path else plain(called)
    return UnsupportedOperatorError(
        f"{name} ({called}) of {where}{f' at {place}' if place else ''}",
        "an operator has a lowering",
        found=target.removeprefix("torch.ops."),
        allowed=allowed(called, "aten"),
        remedy=remedy(called),
    )


def nested(spec: Any, results: Sequence[Any]) -> Any:
    """Results as torch.utils._pytree's JSON nests them; a plain tuple where it is not understood.

    >>> nested({"type": None, "context": None, "children_spec": []}, [1])
    1
    >>> leaf = {"type": None, "context": None, "children_spec": []}
    >>> nested({"type": "builtins.dict", "context": '["out"]', "children_spec": [leaf]}, [1])
    {'out': 1}
    """
    left = list(results)
    try:
        found = _nested(spec, left)
    except (LookupError, TypeError, ValueError, AttributeError):
        return tuple(results)
    return tuple(results) if left else found


def _nested(spec: Any, left: list[Any]) -> Any:
    kind = spec["type"]
    if kind is None:
        return left.pop(0)
    children = [_nested(child, left) for child in spec["children_spec"]]
    if kind in ("builtins.dict", "collections.OrderedDict"):
        return dict(zip(map(str, json.loads(spec["context"])), children, strict=True))
    return tuple(children)
