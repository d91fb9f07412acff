"""Layers that do nothing in evaluation: dropout, identity, copies."""

from __future__ import annotations

from typing import Any

from lapilli.compiler.layers.rule import Call, LayerRule, Operand


def _dropout(
    call: Call,
    *,
    input: Operand,  # noqa: A002 - torch's own parameter name
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Operand:
    if training and p > 0:
        raise call.refuse(
            "dropout is off in evaluation",
            "training=True in the call itself",
            "training=self.training",
            "Pass training=self.training, or use nn.Dropout.",
        )
    return input


def _same(call: Call, *, input: Operand, **_: Any) -> Operand:  # noqa: A002
    return input


_DROPOUT = ("input", "p", "training", "inplace")

DROPOUT = LayerRule(
    build=_dropout,
    functions={
        "torch.nn.functional.dropout": _DROPOUT,
        "torch.nn.functional.dropout2d": _DROPOUT,
    },
)
IDENTITY = LayerRule(
    build=_same,
    modules={
        "torch.nn.Identity": (),
        "torch.nn.Dropout": (),
        "torch.nn.Dropout1d": (),
        "torch.nn.Dropout2d": (),
    },
    methods={"contiguous": ("input",), "clone": ("input",), "detach": ("input",)},
)
