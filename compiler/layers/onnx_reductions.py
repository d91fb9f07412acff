"""ONNX's Reduce operators, as functions over dimensions. No layer by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lapilli.compiler.ir import Node
from lapilli.compiler.layers.rule import Call, Operand


def onnx_reduction(over: Callable[..., Node]) -> Callable[..., Node | Operand]:
    """The builder of a Reduce operator. over(call, input=, dim=, keepdim=); dim (): all of them."""

    def build(
        call: Call,
        *,
        input: Operand,
        axes: Any = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Node | Operand:
        dims = () if axes is None else tuple(np.asarray(axes, np.int64).reshape(-1).tolist())
        if not dims and noop_with_empty_axes:
            return input
        return over(call, input=input, dim=dims, keepdim=bool(keepdims))

    return build
