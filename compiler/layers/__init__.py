"""Every layer the compiler knows: one file per family, one row per way of building a node.

To add a layer, write its node, `build` and `lower` in a file here and name its rule in TABLE.
What to do instead of a layer that is not in the TABLE stands in `refused.py`.
"""

from __future__ import annotations

from typing import Literal

from lapilli.compiler.ir import Node
from lapilli.compiler.layers.activation import RELU
from lapilli.compiler.layers.arithmetic import (
    ADD,
    DIVIDE,
    MULTIPLY,
    NEGATE,
    SUBTRACT,
    SUBTRACT_FROM,
)
from lapilli.compiler.layers.convolution import CONV2D, CONV_TRANSPOSE
from lapilli.compiler.layers.dense import LINEAR
from lapilli.compiler.layers.joining import CONCATENATE, HSTACK, SPLIT, STACK, UNBIND
from lapilli.compiler.layers.permutation import (
    CHANNEL_SHUFFLE,
    PERMUTE,
    PIXEL_SHUFFLE,
    PIXEL_UNSHUFFLE,
    TRANSPOSE,
)
from lapilli.compiler.layers.pooling import ADAPTIVE_AVERAGE_POOL, AVERAGE_POOL, MEAN
from lapilli.compiler.layers.rescale import BATCH_NORM
from lapilli.compiler.layers.rule import LayerRule
from lapilli.compiler.layers.shape import PAD, RESHAPE, SLICE, ZERO_PAD
from lapilli.compiler.layers.upsampling import INTERPOLATE
from lapilli.compiler.layers.vanishing import (
    ALPHA_DROPOUT,
    DROPOUT,
    IDENTITY,
    STOCHASTIC_DEPTH,
)

TABLE: tuple[LayerRule, ...] = (
    CONV2D,
    CONV_TRANSPOSE,
    LINEAR,
    BATCH_NORM,
    RELU,
    AVERAGE_POOL,
    ADAPTIVE_AVERAGE_POOL,
    MEAN,
    RESHAPE,
    SLICE,
    PAD,
    ZERO_PAD,
    ADD,
    CONCATENATE,
    HSTACK,
    STACK,
    SPLIT,
    UNBIND,
    PERMUTE,
    TRANSPOSE,
    CHANNEL_SHUFFLE,
    PIXEL_SHUFFLE,
    PIXEL_UNSHUFFLE,
    INTERPOLATE,
    SUBTRACT,
    SUBTRACT_FROM,
    MULTIPLY,
    DIVIDE,
    NEGATE,
    DROPOUT,
    ALPHA_DROPOUT,
    STOCHASTIC_DEPTH,
    IDENTITY,
)

MEANING: dict[type[Node], LayerRule] = {rule.node: rule for rule in TABLE if rule.node is not None}
"""The rule that says what a node computes."""


def known(kind: Literal["modules", "functions", "methods"]) -> str:
    """The short names of all layers of one kind, for people."""
    names = {key.rpartition(".")[2] for rule in TABLE for key in getattr(rule, kind)}
    return ", ".join(sorted(names))
