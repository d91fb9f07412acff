"""Layers that do nothing in evaluation: dropout, identity, copies."""

from __future__ import annotations

from typing import Any

import numpy as np

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


def _onnx_dropout(
    call: Call,
    *,
    input: Operand,
    ratio: Any = 0.5,
    training_mode: Any = False,
    seed: int = 0,
) -> Operand:
    p = 0.5 if ratio is None else float(np.asarray(ratio).reshape(()))
    training = training_mode is not None and bool(np.asarray(training_mode).reshape(()))
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
    aten=dict.fromkeys(("dropout", "dropout_", "feature_dropout"), _DROPOUT[:-1]),
)
ALPHA_DROPOUT = LayerRule(
    build=_alpha_dropout,
    functions={
        "torch.nn.functional.alpha_dropout": _DROPOUT,
        "torch.nn.functional.feature_alpha_dropout": _DROPOUT,
    },
    aten=dict.fromkeys(("alpha_dropout", "feature_alpha_dropout"), _DROPOUT[:-1]),
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
    aten=dict.fromkeys(
        (
            *("alias", "clone", "contiguous", "detach", "detach_", "lift_fresh_copy"),
            *("to", "_to_copy"),
        ),
        ("input", "*type"),
    ),
    onnx={"Identity": ("input",), "Cast": ("input",)},
)
ONNX_DROPOUT = LayerRule(build=_onnx_dropout, onnx={"Dropout": ("input", "ratio", "training_mode")})
