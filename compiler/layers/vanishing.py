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


def _alpha_dropout(
    call: Call,
    *,
    input: Operand,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
) -> Operand:
    return _dropout(call, input=input, p=p, training=training, inplace=inplace)


def _stochastic_depth(
    call: Call, *, input: Operand, p: float, mode: str, training: bool = True
) -> Operand:
    return _dropout(call, input=input, p=p, training=training)


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
        "torch.nn.AlphaDropout": _MODULE,
        "torch.nn.FeatureAlphaDropout": _MODULE,
    },
    functions={
        "torch.nn.functional.dropout": _DROPOUT,
        "torch.nn.functional.dropout1d": _DROPOUT,
        "torch.nn.functional.dropout2d": _DROPOUT,
    },
)
ALPHA_DROPOUT = LayerRule(
    build=_alpha_dropout,
    functions={
        "torch.nn.functional.alpha_dropout": _DROPOUT,
        "torch.nn.functional.feature_alpha_dropout": _DROPOUT,
    },
)
STOCHASTIC_DEPTH = LayerRule(
    build=_stochastic_depth,
    functions={
        "torchvision.ops.stochastic_depth.stochastic_depth": ("input", "p", "mode", "training")
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
