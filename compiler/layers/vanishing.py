"""Layers that do nothing in evaluation: dropout, identity, copies."""

from __future__ import annotations

from typing import Any

from lapilli.compiler.layers.rule import Call, LayerRule, Operand


def _dropout(
    call: Call,
    *,
    input: Operand,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Operand:
    if training and p > 0:
        raise call.refuse(
            "dropout is off in evaluation",
            "training=True, also the default of the functional form",
            "training=False in evaluation",
            "Pass training=self.training, or use nn.Dropout.",
        )
    return input


def _same(call: Call, *, input: Operand, **_: Any) -> Operand:
    return input


_DROPOUT = ("input", "p", "training", "inplace")
_MODULE = ("p", "training")

DROPOUT = LayerRule(
    build=_dropout,
    modules={
        "torch.nn.Dropout": _MODULE,
        "torch.nn.Dropout1d": _MODULE,
        "torch.nn.Dropout2d": _MODULE,
    },
    functions={
        "torch.nn.functional.dropout": _DROPOUT,
        "torch.nn.functional.dropout2d": _DROPOUT,
    },
)
IDENTITY = LayerRule(
    build=_same,
    modules={"torch.nn.Identity": ()},
    methods={
        "clone": ("input",),
        "contiguous": ("input",),
        "detach": ("input",),
        "float": ("input",),
        "to": ("input", "*device_or_dtype"),
    },
)
