"""From calls to a layer's `build`: the arguments it knows, and the checks that hold for all."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from lapilli.compiler.ir import Shape
from lapilli.compiler.layers import Kind
from lapilli.compiler.layers.refused import remedy
from lapilli.compiler.layers.rule import Call, Operand
from lapilli.compiler.numerics import FloatArray

BATCH = 5
"""Samples used for capture: few, and unlike any usual channel count, so batch axes stand out."""

INPUT = "input"
"""The name of the network's input, whatever its author called it."""


def rows(table: Iterable[Any], kind: Kind) -> dict[Any, tuple[Any, tuple[str, ...]]]:
    """Rules and positional parameters by what one kind of input calls them: objects or names."""
    by_name = kind in ("methods", "aten", "onnx")
    return {
        (key if by_name else _resolve(key)): (rule, parameters)
        for rule in table
        for key, parameters in getattr(rule, kind).items()
        # A model that calls a library's operator has imported that library.
        if by_name or key.rpartition(".")[0] in sys.modules
    }


def _resolve(name: str) -> Any:
    """The object that a full name such as torch.nn.functional.relu stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def bind(
    call: Call,
    build: Callable[..., Any],
    parameters: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """Arguments by the names that `build` knows; see LayerRule for `parameters`.

    Raises UnsupportedOperatorError for arguments that no parameter takes.
    """
    places = [p for p in parameters if "=" not in p]
    names = [p for p in places if not p.startswith("*")]
    renamed = dict(p.split("=") for p in parameters if "=" in p)
    named = {renamed.get(name, name): value for name, value in kwargs.items()}
    accepted = inspect.signature(build).parameters.values()
    anything = any(p.kind is p.VAR_KEYWORD for p in accepted)
    unknown = [name for name in named if name not in {p.name for p in accepted}]
    more = len(args) - len(names)
    if (unknown and not anything) or (more > 0 and len(names) == len(places)):
        raise call.refuse(
            "a call has the arguments that its lowering knows",
            ", ".join(unknown) or f"{len(args)} positional arguments",
            ", ".join(names),
            "Leave the other arguments out.",
        )
    bound = {**dict(zip(names, args, strict=False)), **named}
    if places[-1].startswith("**") and more > 0:
        bound[places[-1][2:]] = tuple(args[len(names) :])
    return bound


def check_constants(call: Call, bound: Mapping[str, Any]) -> None:
    """Refuse weights, indices and settings that depend on the input."""
    for name, value in bound.items():
        if name not in ("input", "other") and isinstance(value, Operand):
            raise call.refuse(
                "parameters are constants",
                f"{name} that depends on the input",
                "weights, indices and settings that are the same for every image",
                "Make them fixed: dynamic weights have no spiking form.",
            )


def check_result(call: Call, kind: str, shape: Iterable[int], batch: int) -> None:
    """Refuse what a lowering does not expect: another type, or images mixed with each other.

    kind: the type of a result, as torch writes it; shape: with the batch of `batch` images.
    """
    if kind != "torch.float32":
        raise call.refuse(
            "a call returns one float32 tensor", kind, "torch.float32", remedy("type")
        )
    sizes = tuple(shape)
    if not sizes or sizes[0] != batch:
        raise call.refuse(
            "the batch stays the first dimension",
            f"result of shape {sizes} for {batch} images",
            f"({batch}, ...)",
            "Keep the batch dimension first, for example x.flatten(1). What is done image by "
            "image, such as decoding boxes, belongs on the host.",
        )


def batchless(shape: Iterable[int]) -> Shape:
    """Without the batch. One number per image is one channel: everything has a first axis."""
    return tuple(shape)[1:] or (1,)


def few(samples: FloatArray, count: int) -> FloatArray:
    """`count` of the samples (N, ...), from the first on, again and again."""
    return np.asarray(samples[np.arange(count) % len(samples)])


def plain(called: str) -> str:
    """A call's part of a name, the same however it is written: x += y, x.add_(y), torch.add.

    >>> plain("iadd"), plain("add_"), plain("__getitem__"), plain("interpolate")
    ('add', 'add', 'getitem', 'interpolate')
    """
    bare = called.strip("_") or called
    return bare[1:] if bare in _IN_PLACE else bare


_IN_PLACE = {f"i{name}" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")}
