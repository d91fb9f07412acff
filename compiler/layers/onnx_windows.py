"""What ONNX says about moving windows, for every layer that has one: padding before each axis.

Source: onnx/docs/Operators.md, Conv, ConvTranspose, AveragePool: auto_pad, pads, strides.
"""

from __future__ import annotations

from collections.abc import Sequence

from lapilli.compiler.ir import Shape
from lapilli.compiler.layers.rule import Call

Numbers = Sequence[int] | None


def numbers(given: Numbers, rank: int, default: int = 1) -> tuple[int, ...]:
    """One number per spatial axis."""
    return (default,) * rank if not given else tuple(int(n) for n in given)


def padding(
    call: Call,
    sizes: Shape,
    out: Shape,
    kernel: Sequence[int],
    strides: Numbers,
    dilations: Numbers,
    pads: Numbers,
    auto_pad: str,
) -> tuple[tuple[int, int], ...]:
    """(before, after) of each spatial axis; sizes, out: of the operand and result, (C, ...).

    Raises UnsupportedOperatorError for what is no padding.
    """
    rank = len(kernel)
    if len(sizes) != rank + 1:
        raise call.refuse(
            f"a window of {rank} axes reads as many",
            f"an operand of shape {sizes}",
            "(C, L) or (C, H, W)",
            "Keep the batch axis.",
        )
    if auto_pad in ("NOTSET", ""):
        given = numbers(pads, 2 * rank, 0)
        if min(given) < 0:
            raise call.refuse("padding adds zeros", given, ">= 0", "Crop with a slice.")
        return tuple(zip(given[:rank], given[rank:], strict=True))
    if auto_pad == "VALID":
        return ((0, 0),) * rank
    step, spread = numbers(strides, rank), numbers(dilations, rank)
    result = []
    for size, wanted, taps, pace, apart in zip(
        sizes[1:], out[1:], kernel, step, spread, strict=True
    ):
        total = max((wanted - 1) * pace + (taps - 1) * apart + 1 - size, 0)
        before = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        result.append((before, total - before))
    return tuple(result)
