"""What may end an output without neurons: softmax, sigmoid, argmax, the largest of an axis.

At the very end of an output, where nothing else reads its result, such a call is taken off as the
output's `Head`: exact, in float64, beside the readout with the logits. Anywhere else it is what
the table of layers says: a sigmoid is an activation there, a softmax is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

from lapilli.compiler.layers.rule import Call, Operand, axis_of
from lapilli.compiler.outputs import Head


@final
@dataclass(frozen=True, eq=False)
class Headed:
    """A tensor that a head makes of an operand, under whatever shape."""

    operand: Operand
    head: Head


@final
@dataclass(frozen=True, eq=False)
class HeadedPair:
    """What max(dim) and topk(1) return: values and indices."""

    values: Headed
    indices: Headed

    def part(self, key: object) -> Headed | None:
        """The one that [0], [1], .values or .indices reads."""
        if key in (0, -2, "values"):
            return self.values
        return self.indices if key in (1, -1, "indices") else None


Taken = Headed | HeadedPair
Build = Callable[..., "Taken | None"]
"""build(call, **parameters): what is taken off; None where these parameters make no head."""


@final
@dataclass(frozen=True, eq=False)
class HeadRule:
    """One kind of call; modules, functions, methods, aten and onnx as of `LayerRule`."""

    build: Build
    modules: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    functions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    methods: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    aten: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    onnx: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def _implicit(operand: Operand, dim: int | None) -> int:
    """The dimension that torch's softmax takes where none is given."""
    return dim if dim is not None else 0 if len(operand.shape) == 2 else 1


def _softmax(call: Call, *, input: Operand, dim: int | None = None, **_: Any) -> Headed:
    return Headed(input, Head("softmax", axis_of(call, _implicit(input, dim), input.shape)))


def _softmax2d(call: Call, *, input: Operand) -> Headed:
    return Headed(input, Head("softmax", len(input.shape) - 3))


def _log_softmax(call: Call, *, input: Operand, dim: int | None = None, **_: Any) -> Headed:
    return Headed(input, Head("log_softmax", axis_of(call, _implicit(input, dim), input.shape)))


def _sigmoid(call: Call, *, input: Operand) -> Headed:
    return Headed(input, Head("sigmoid"))


def _argmax(
    call: Call, *, input: Operand, dim: int | None = None, keepdim: bool = False
) -> Headed | None:
    if not isinstance(dim, int):  # over the whole batch
        return None
    return Headed(input, Head("argmax", axis_of(call, dim, input.shape), keepdim))


def _arg_max(
    call: Call, *, input: Operand, axis: int = 0, keepdim: int = 1, select_last_index: int = 0
) -> Headed | None:
    """ONNX has other defaults."""
    if select_last_index:
        return None
    return _argmax(call, input=input, dim=axis, keepdim=bool(keepdim))


def _amax(call: Call, *, input: Operand, dim: Any = None, keepdim: bool = False) -> Headed | None:
    single = dim[0] if isinstance(dim, (tuple, list)) and len(dim) == 1 else dim
    if not isinstance(single, int):
        return None
    return Headed(input, Head("max", axis_of(call, single, input.shape), keepdim))


def _max(
    call: Call, *, input: Operand, dim: Any = None, keepdim: bool = False
) -> HeadedPair | None:
    if not isinstance(dim, int) or isinstance(dim, bool):  # of the whole batch, or of two tensors
        return None
    axis = axis_of(call, dim, input.shape)
    heads = (Head("max", axis, keepdim), Head("argmax", axis, keepdim))
    return HeadedPair(*(Headed(input, head) for head in heads))


def _topk(
    call: Call, *, input: Operand, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> HeadedPair | None:
    return _max(call, input=input, dim=dim, keepdim=True) if k == 1 and largest else None


_DIM = ("input", "dim")
_SOFTMAX = (*_DIM, "_stacklevel", "dtype")
_KEEP = (*_DIM, "keepdim")
_TOP = ("input", "k", "dim", "largest", "sorted")

HEADS: tuple[HeadRule, ...] = (
    HeadRule(
        _softmax,
        modules={"torch.nn.Softmax": ("dim",)},
        functions={"torch.softmax": (*_DIM, "dtype"), "torch.nn.functional.softmax": _SOFTMAX},
        methods={"softmax": (*_DIM, "dtype")},
        aten={"softmax": (*_DIM, "dtype"), "_softmax": (*_DIM, "half_to_float")},
        onnx={"Softmax": ("input", "axis=dim")},
    ),
    HeadRule(_softmax2d, modules={"torch.nn.Softmax2d": ()}),
    HeadRule(
        _log_softmax,
        modules={"torch.nn.LogSoftmax": ("dim",)},
        functions={
            "torch.log_softmax": (*_DIM, "dtype"),
            "torch.nn.functional.log_softmax": _SOFTMAX,
        },
        methods={"log_softmax": (*_DIM, "dtype")},
        aten={"log_softmax": (*_DIM, "dtype"), "_log_softmax": (*_DIM, "half_to_float")},
        onnx={"LogSoftmax": ("input", "axis=dim")},
    ),
    HeadRule(
        _sigmoid,
        modules={"torch.nn.Sigmoid": ()},
        functions=dict.fromkeys(
            (
                *("torch.sigmoid", "torch.sigmoid_", "torch.special.expit"),
                "torch.nn.functional.sigmoid",
            ),
            ("input",),
        ),
        methods={"sigmoid": ("input",), "sigmoid_": ("input",)},
        aten={"sigmoid": ("input",), "sigmoid_": ("input",)},
        onnx={"Sigmoid": ("input",)},
    ),
    HeadRule(
        _argmax,
        functions={"torch.argmax": _KEEP},
        methods={"argmax": _KEEP},
        aten={"argmax": _KEEP},
    ),
    HeadRule(_arg_max, onnx={"ArgMax": ("input", "keepdims=keepdim")}),
    HeadRule(_amax, functions={"torch.amax": _KEEP}, methods={"amax": _KEEP}, aten={"amax": _KEEP}),
    HeadRule(_max, functions={"torch.max": _KEEP}, methods={"max": _KEEP}, aten={"max.dim": _KEEP}),
    HeadRule(_topk, functions={"torch.topk": _TOP}, methods={"topk": _TOP}, aten={"topk": _TOP}),
)
"""Every call that may be taken off the end of an output."""
