"""What compiles, for people: families of operators, by every name that they have anywhere.

Which rows of the table of layers belong to a family follows from their names; docs/operators.md
has one row per family.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, final

from lapilli.compiler.layers import TABLE, Kind
from lapilli.compiler.layers.heads import HEADS, HeadRule
from lapilli.compiler.layers.refused import REMEDIES
from lapilli.compiler.layers.rule import LayerRule

KINDS: tuple[Kind, ...] = ("modules", "functions", "methods", "aten", "onnx")
LISTED = "the operators that `lapilli operators` lists"
_ALIKE = 0.8
"""Similarity from which a name is taken for a slip of another: max_pool3d, not LayerNorm."""


@final
@dataclass(frozen=True)
class Family:
    """Operators that compute the same, or nearly so.

    keys: names without case and underscores; a row belongs here if it has one of them. ends: it may
    end an output as a head. Only a family with neurons depends on the method.
    """

    title: str
    keys: tuple[str, ...]
    neurons: Literal["none", "activation", "max", "product"] = "none"
    ends: bool = False

    def rules(self) -> tuple[LayerRule | HeadRule, ...]:
        """Its rows, of heads or of layers."""
        table: Iterable[LayerRule | HeadRule] = HEADS if self.ends else TABLE
        return tuple(rule for rule in table if set(self.keys) & {key(n) for n in names(rule)})

    def names(self, *kinds: Kind) -> tuple[str, ...]:
        """Short names of one or several kinds in order, in-place forms left out."""
        found = {n for rule in self.rules() for kind in kinds or KINDS for n in _short(rule, kind)}
        plain = {n for n in found if not (n.endswith("_") and n.strip("_") in found)}
        plain -= {f"i{n}" for n in found}  # operator.iadd
        return tuple(sorted(plain, key=str.lower))


def _activation(title: str, *keys: str) -> Family:
    return Family(title, keys, "activation")


FAMILIES: tuple[Family, ...] = (
    Family("convolution, 1-D and 2-D", ("conv1d", "conv", "convolution")),
    Family("transposed convolution, 1-D and 2-D", ("convtranspose1d", "convtranspose")),
    Family("linear, matrix products with constants", ("linear", "matmul", "gemm", "einsum")),
    Family("batch norm", ("batchnorm1d", "batchnormalization")),
    Family("instance norm with stored statistics", ("instancenorm1d",)),
    _activation("ReLU", "relu"),
    _activation("ReLU6", "relu6"),
    _activation("clamp, Hardtanh", "clamp", "clampmin", "clampmax", "hardtanh"),
    _activation("hard-sigmoid", "hardsigmoid"),
    _activation("LeakyReLU, PReLU, RReLU in evaluation", "leakyrelu", "prelu", "rrelu"),
    _activation("softplus", "softplus"),
    _activation("ELU, CELU, SELU", "elu", "celu", "selu"),
    _activation("sigmoid", "sigmoid"),
    _activation("log-sigmoid", "logsigmoid"),
    _activation("tanh", "tanh"),
    _activation("softsign", "softsign"),
    _activation("tanhshrink", "tanhshrink"),
    _activation("hard-swish", "hardswish"),
    _activation("SiLU (swish)", "silu"),
    _activation("GELU, exact and tanh", "gelu"),
    _activation("Mish", "mish"),
    _activation("threshold", "threshold", "thresholdedrelu"),
    _activation("soft and hard shrink", "softshrink", "hardshrink", "shrink"),
    _activation("absolute value", "abs"),
    _activation("square", "square", "pow"),
    _activation("QCFS, a staircase that was trained", *("qcfs", "floor", "if")),
    Family("average pooling", ("avgpool1d", "averagepool", "globalaveragepool")),
    Family("adaptive average pooling", ("adaptiveavgpool1d",)),
    Family("mean over axes", ("mean", "reducemean")),
    Family("max pooling", ("maxpool1d", "maxpool", "globalmaxpool"), "max"),
    Family("adaptive max pooling", ("adaptivemaxpool1d",), "max"),
    Family("largest over axes", ("amax", "reducemax"), "max"),
    Family("sum over axes", ("sum", "reducesum")),
    Family("flatten, reshape, view, squeeze", ("flatten",)),
    Family(
        "slices and selections",
        ("getitem", "slice", "select", "narrow", "indexselect", "gather", "index"),
    ),
    Family(
        "padding, also reflected, repeated, circular",
        (
            *("pad", "constantpadnd", "zeropad2d"),
            *("reflectionpad2d", "replicationpad2d", "circularpad2d"),
        ),
    ),
    Family("flip, roll", ("flip", "roll")),
    Family("repeat, tile, expand", ("repeat", "tile", "repeatinterleave", "expand")),
    Family("addition (residual connections)", ("add",)),
    Family("subtraction", ("sub", "rsub")),
    Family("concatenate, stack", ("cat", "hstack", "stack")),
    Family("split, chunk, unbind", ("split", "unbind")),
    Family("permute, transpose", ("permute", "transpose", "moveaxis")),
    Family("channel shuffle", ("channelshuffle",)),
    Family(
        "pixel shuffle and back",
        ("pixelshuffle", "pixelunshuffle", "depthtospace", "spacetodepth"),
    ),
    Family(
        "upsampling: nearest, bilinear, bicubic",
        (
            *("interpolate", "resize"),
            *("upsamplenearest2d", "upsamplenearestexact2d"),
            *("upsamplebilinear2d", "upsamplebicubic2d", "upsamplebilinear2daa"),
        ),
    ),
    Family("multiplication and division by a constant", ("mul", "div")),
    Family("multiplication of two activities (gates)", ("mul",), "product"),
    Family("negation", ("neg",)),
    Family(
        "dropout and stochastic depth in evaluation",
        ("dropout", "alphadropout", "stochasticdepth"),
    ),
    Family("identity, clone, detach", ("identity",)),
    Family("softmax at the end of an output", ("softmax", "softmax2d"), ends=True),
    Family("log-softmax at the end of an output", ("logsoftmax",), ends=True),
    Family("sigmoid at the end of an output", ("sigmoid",), ends=True),
    Family(
        "argmax, max, topk(1) at the end of an output",
        ("argmax", "amax", "max", "topk"),
        ends=True,
    ),
)


def names(rule: LayerRule | HeadRule) -> tuple[str, ...]:
    """Every short name of a row, of every kind."""
    return tuple(n for kind in KINDS for n in _short(rule, kind))


def _short(rule: LayerRule | HeadRule, kind: Kind) -> list[str]:
    # An operator's overload comes last, a function's module first.
    return [
        name.partition(".")[0] if kind == "aten" else name.rpartition(".")[2]
        for name in getattr(rule, kind)
    ]


def key(name: str) -> str:
    """What is left of a name without the ways in which libraries write it.

    >>> key("torch.nn.functional.leaky_relu_"), key("LeakyReLU"), key("aten.leaky_relu.default")
    ('leakyrelu', 'leakyrelu', 'leakyrelu')
    """
    parts = name.split(".")
    short = parts[1] if parts[0] == "aten" and len(parts) > 1 else parts[-1]
    return short.replace("_", "").replace("-", "").lower()


def find(name: str) -> tuple[Family, ...]:
    """Families that have an operator of this name, however it is written."""
    wanted = key(name)
    return tuple(f for f in FAMILIES if wanted in {key(n) for n in f.names()})


def near(name: str, *kinds: Kind) -> tuple[str, ...]:
    """Names that differ from `name` by a slip, the closest first; of some kinds only."""
    rules: tuple[LayerRule | HeadRule, ...] = (*TABLE, *HEADS)
    return _close(
        name, (n for rule in rules for kind in kinds or KINDS for n in _short(rule, kind))
    )


def near_refused(name: str) -> tuple[str, ...]:
    """Operators with a remedy of their own whose names differ from `name` by a slip."""
    return _close(name, REMEDIES)


def _close(name: str, known: Iterable[str]) -> tuple[str, ...]:
    plain = {key(n): n for n in sorted(known, key=lambda n: not n.endswith("_"))}
    plain.pop(key(name), None)  # known as something else, such as another overload
    return tuple(plain[k] for k in difflib.get_close_matches(key(name), plain, 3, _ALIKE))


def allowed(called: str, kind: Kind) -> str:
    """What a refusal of `called` says is allowed: where all are listed, and names close to it."""
    # What has a remedy of its own is no slip of the pen: glu is not gelu.
    close = () if key(called) in {key(n) for n in REMEDIES} else near(called, kind)
    return f"{LISTED}, such as {', '.join(close)}" if close else LISTED
