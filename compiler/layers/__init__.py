"""Every layer the compiler knows: one file per family, one row per way of building a node.

To add a layer, write its node, `build` and `lower` in a file here and name its rule in TABLE.
What to do instead of a layer that is not in the TABLE stands in `refused.py`.
"""

from __future__ import annotations

from typing import Literal

from lapilli.compiler.ir import Node
from lapilli.compiler.layers.activation import ACTIVATIONS
from lapilli.compiler.layers.arithmetic import (
    ADD,
    DIVIDE,
    MULTIPLY,
    NEGATE,
    SUBTRACT,
    SUBTRACT_FROM,
)
from lapilli.compiler.layers.axiswise import (
    EXPAND,
    FLIP,
    INDEX_SELECT,
    ONNX_SUM,
    REPEAT,
    REPEAT_INTERLEAVE,
    ROLL,
    SUM,
    TILE,
)
from lapilli.compiler.layers.convolution import (
    CONV2D,
    CONV_TRANSPOSE,
    CONVOLUTION,
    ONNX_CONVOLUTION,
    ONNX_TRANSPOSED,
)
from lapilli.compiler.layers.dense import (
    EINSUM,
    GEMM,
    LINEAR,
    PRODUCT,
)
from lapilli.compiler.layers.floor import FLOOR
from lapilli.compiler.layers.joining import CONCATENATE, HSTACK, SPLIT, STACK, UNBIND
from lapilli.compiler.layers.max_pooling import (
    ADAPTIVE_MAX_POOL,
    GLOBAL_MAX_POOL,
    MAX_OVER_AXES,
    MAX_POOL,
    ONNX_MAX,
    ONNX_MAX_POOL,
)
from lapilli.compiler.layers.padding import (
    CIRCULAR_PAD,
    CONSTANT_PAD,
    FILL_PAD,
    ONNX_PAD,
    PAD,
    REFLECTION_PAD,
    REPLICATION_PAD,
)
from lapilli.compiler.layers.permutation import (
    CHANNEL_SHUFFLE,
    DEPTH_TO_SPACE,
    MOVE,
    PERMUTE,
    PIXEL_SHUFFLE,
    PIXEL_UNSHUFFLE,
    SPACE_TO_DEPTH,
    TRANSPOSE,
)
from lapilli.compiler.layers.pooling import (
    ADAPTIVE_AVERAGE_POOL,
    AVERAGE_POOL,
    GLOBAL_AVERAGE_POOL,
    MEAN,
    ONNX_AVERAGE_POOL,
    ONNX_MEAN,
)
from lapilli.compiler.layers.rescale import (
    BATCH_NORM,
    INSTANCE_NORM,
    ONNX_BATCH_NORM,
)
from lapilli.compiler.layers.rule import LayerRule
from lapilli.compiler.layers.shape import (
    NARROW,
    ONNX_GATHER,
    ONNX_SLICE,
    RESHAPE,
    SELECT,
    SLICE,
    SLICE_ALONG,
)
from lapilli.compiler.layers.upsampling import (
    BICUBIC,
    BILINEAR,
    GATHER,
    INTERPOLATE,
    NEAREST,
    NEAREST_EXACT,
    RESIZE,
    SMOOTH,
)
from lapilli.compiler.layers.vanishing import (
    ALPHA_DROPOUT,
    DROPOUT,
    IDENTITY,
    ONNX_DROPOUT,
    STOCHASTIC_DEPTH,
)

TABLE: tuple[LayerRule, ...] = (
    CONV2D,
    CONV_TRANSPOSE,
    CONVOLUTION,
    ONNX_CONVOLUTION,
    ONNX_TRANSPOSED,
    LINEAR,
    PRODUCT,
    GEMM,
    EINSUM,
    BATCH_NORM,
    ONNX_BATCH_NORM,
    INSTANCE_NORM,
    *ACTIVATIONS,
    FLOOR,
    AVERAGE_POOL,
    ADAPTIVE_AVERAGE_POOL,
    MEAN,
    ONNX_AVERAGE_POOL,
    GLOBAL_AVERAGE_POOL,
    ONNX_MEAN,
    MAX_POOL,
    ADAPTIVE_MAX_POOL,
    MAX_OVER_AXES,
    ONNX_MAX_POOL,
    GLOBAL_MAX_POOL,
    ONNX_MAX,
    RESHAPE,
    SLICE,
    SLICE_ALONG,
    SELECT,
    NARROW,
    INDEX_SELECT,
    PAD,
    CONSTANT_PAD,
    FILL_PAD,
    REFLECTION_PAD,
    REPLICATION_PAD,
    CIRCULAR_PAD,
    ONNX_PAD,
    SUM,
    FLIP,
    ROLL,
    REPEAT,
    TILE,
    REPEAT_INTERLEAVE,
    EXPAND,
    ONNX_SUM,
    ONNX_SLICE,
    ONNX_GATHER,
    ADD,
    CONCATENATE,
    HSTACK,
    STACK,
    SPLIT,
    UNBIND,
    PERMUTE,
    TRANSPOSE,
    MOVE,
    CHANNEL_SHUFFLE,
    PIXEL_SHUFFLE,
    PIXEL_UNSHUFFLE,
    DEPTH_TO_SPACE,
    SPACE_TO_DEPTH,
    INTERPOLATE,
    NEAREST,
    NEAREST_EXACT,
    BILINEAR,
    BICUBIC,
    SMOOTH,
    GATHER,
    RESIZE,
    SUBTRACT,
    SUBTRACT_FROM,
    MULTIPLY,
    DIVIDE,
    NEGATE,
    DROPOUT,
    ALPHA_DROPOUT,
    ONNX_DROPOUT,
    STOCHASTIC_DEPTH,
    IDENTITY,
)

MEANING: dict[type[Node], LayerRule] = {rule.node: rule for rule in TABLE if rule.node is not None}
"""The rule that says what a node computes."""


Kind = Literal["modules", "functions", "methods", "aten", "onnx"]
"""What a kind of input calls its layers by: a field of LayerRule."""
