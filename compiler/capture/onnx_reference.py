"""What an ONNX model computes, by the library's own reference: what a capture is compared with.

The reference is written for clarity. Operators with windows are computed by torch in its place: it
takes minutes for a few images, and in onnx 1.23 is wrong or fails for groups of transposed
convolutions, for windows that ceil_mode adds, and for BatchNormalization of opsets 9 to 13, where
it mixes in the statistics of the batch. None of this knows how Lapilli lowers an operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx.reference
import onnx.reference.op_run
import torch
import torch.nn.functional as F  # noqa: N812

from lapilli.compiler.capture.binding import few
from lapilli.compiler.errors import CaptureError

if TYPE_CHECKING:
    from lapilli.compiler.capture.onnx_file import OnnxModel

COMPARED = 8
"""Images for which the reference is asked."""
_TRAINING_MODE = 14
"""The first opset whose BatchNormalization says whether it trains."""
_Array = npt.NDArray[Any]


def run(model: OnnxModel, images: torch.Tensor) -> Any:
    """What the model returns for images (N, ...), in batches that it takes.

    Raises CaptureError where the reference cannot compute it.
    """
    own = [Conv, ConvTranspose, MaxPool, Pad, *([_StoredStatistics] if _old(model) else [])]
    evaluator = onnx.reference.ReferenceEvaluator(model.proto, new_ops=own)
    names = [value.name for value in model.proto.graph.output]
    size = model.sizes[0] or len(images)
    parts = []
    for start in range(0, len(images), size):
        part = images[start : start + size].numpy()
        try:
            results = evaluator.run(None, {model.input: few(part, size)})
        except Exception as error:
            raise CaptureError(
                model.where,
                "onnx.reference computes the model, for comparison with what was captured",
                found=f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
                allowed="operators and settings that the package onnx implements",
                remedy="Update the package onnx, or compile the network from PyTorch.",
            ) from error
        parts.append([np.asarray(result)[: len(part)] for result in results])
    joined = [torch.from_numpy(np.concatenate(items)) for items in zip(*parts, strict=True)]
    return joined[0] if len(joined) == 1 else dict(zip(names, joined, strict=True))


def _old(model: OnnxModel) -> bool:
    return model.opset < _TRAINING_MODE


class _StoredStatistics(onnx.reference.op_run.OpRun):
    """BatchNormalization: with one result it uses the stored statistics."""

    op_domain = ""

    def _run(self, x: _Array, *given: _Array, epsilon: float = 1e-5, **_: Any) -> tuple[_Array]:
        scale, bias, mean, variance = (p.reshape(-1, *(1,) * (x.ndim - 2)) for p in given)
        return ((scale * (x - mean) / np.sqrt(variance + epsilon) + bias).astype(x.dtype),)


_StoredStatistics.__name__ = "BatchNormalization"  # the operator in whose place it is called


class Conv(onnx.reference.op_run.OpRun):
    """Conv of one or two axes."""

    op_domain = ""

    def _run(self, x: _Array, weight: _Array, bias: _Array | None = None, **given: Any) -> Any:
        rank = weight.ndim - 2
        spread = list(given.get("dilations") or [1] * rank)
        step = list(given.get("strides") or [1] * rank)
        margins = _margins(x.shape[2:], weight.shape[2:], step, spread, given)
        padded = F.pad(torch.from_numpy(x), margins)
        call = F.conv1d if rank == 1 else F.conv2d
        kernel, shift = torch.tensor(weight), None if bias is None else torch.tensor(bias)
        result = call(padded, kernel, shift, step, 0, spread, given.get("group") or 1)
        return (result.numpy(),)


class ConvTranspose(onnx.reference.op_run.OpRun):
    """ConvTranspose of one or two axes: the whole result, of which the padding is cut off."""

    op_domain = ""

    def _run(self, x: _Array, weight: _Array, bias: _Array | None = None, **given: Any) -> Any:
        rank = weight.ndim - 2
        spread = list(given.get("dilations") or [1] * rank)
        step = list(given.get("strides") or [1] * rank)
        more = list(given.get("output_padding") or [0] * rank)
        call = F.conv_transpose1d if rank == 1 else F.conv_transpose2d
        kernel, shift = torch.tensor(weight), None if bias is None else torch.tensor(bias)
        group = given.get("group") or 1
        whole = call(torch.from_numpy(x), kernel, shift, step, 0, 0, group, spread)
        ends = [end for pad in reversed(more) for end in (0, pad)]
        if shift is None:
            grown = F.pad(whole, ends)
        else:  # what output_padding adds holds the bias alone
            level = shift.reshape(-1, *(1,) * rank)
            grown = F.pad(whole - level, ends) + level
        shape = given.get("output_shape")
        auto = given.get("auto_pad") or "NOTSET"
        if shape or auto.startswith("SAME"):
            wanted = list(shape or [n * s for n, s in zip(x.shape[2:], step, strict=True)])[-rank:]
            total = [max(a - b, 0) for a, b in zip(grown.shape[2:], wanted, strict=True)]
            first = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
            pads = [*first, *(t - f for t, f in zip(total, first, strict=True))]
        else:
            pads = list(given.get("pads") or [0] * 2 * rank)
        cut = [-end for a in reversed(range(rank)) for end in (pads[a], pads[a + rank])]
        return (F.pad(grown, cut).numpy(),)


class MaxPool(onnx.reference.op_run.OpRun):
    """MaxPool of one or two axes, without its indices."""

    op_domain = ""

    def _run(self, x: _Array, **given: Any) -> Any:
        kernel = list(given["kernel_shape"])
        rank = len(kernel)
        spread = list(given.get("dilations") or [1] * rank)
        step = list(given.get("strides") or [1] * rank)
        margins = _margins(x.shape[2:], kernel, step, spread, given)
        if given.get("ceil_mode"):
            for axis in range(rank):
                size = x.shape[axis + 2] + sum(margins[2 * (rank - 1 - axis) :][:2])
                left = (size - (kernel[axis] - 1) * spread[axis] - 1) % step[axis]
                # A window more, unless it would begin in the padding behind.
                behind = margins[2 * (rank - 1 - axis) + 1]
                start = size - left + (step[axis] - (kernel[axis] - 1) * spread[axis] - 1)
                if left and start < size - behind:
                    margins[2 * (rank - 1 - axis) + 1] += step[axis] - left
        padded = F.pad(torch.from_numpy(x), margins, value=-torch.inf)
        call = F.max_pool1d if rank == 1 else F.max_pool2d
        return (call(padded, kernel, step, 0, spread).numpy(),)


class Pad(onnx.reference.op_run.OpRun):
    """Pad with a constant, where negative amounts crop; other modes as numpy has them."""

    op_domain = ""

    def _run(
        self, x: _Array, pads: Any = None, value: Any = None, axes: Any = None, **given: Any
    ) -> Any:
        amounts = [int(n) for n in (given["pads"] if pads is None else pads)]
        dims = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
        whole, half = [(0, 0)] * x.ndim, len(amounts) // 2
        for place, dim in enumerate(dims):
            whole[dim] = (amounts[place], amounts[place + half])
        cut = tuple(
            slice(max(-a, 0), n - max(-b, 0)) for (a, b), n in zip(whole, x.shape, strict=True)
        )
        grown = [(max(a, 0), max(b, 0)) for a, b in whole]
        mode: Any = given.get("mode") or "constant"
        if mode != "constant":
            return (np.pad(x[cut], grown, mode=mode),)
        level = given.get("value", 0.0) if value is None else np.asarray(value).reshape(())
        return (np.pad(x[cut], grown, constant_values=np.asarray(level or 0, x.dtype)),)


def _margins(
    sizes: Any, kernel: Any, step: list[int], spread: list[int], given: dict[str, Any]
) -> list[int]:
    """Padding as torch counts it: before and after each axis, the last axis first."""
    rank, auto = len(step), given.get("auto_pad") or "NOTSET"
    pads = list(given.get("pads") or [0] * 2 * rank)
    result = []
    for axis in reversed(range(rank)):
        if not auto.startswith("SAME"):
            result += [pads[axis], pads[axis + rank]]
            continue
        out = -(-sizes[axis] // step[axis])
        reach = (kernel[axis] - 1) * spread[axis] + 1
        total = max((out - 1) * step[axis] + reach - sizes[axis], 0)
        first = total // 2 if auto == "SAME_UPPER" else total - total // 2
        result += [first, total - first]
    return result
