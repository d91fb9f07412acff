"""Statistics of every population's activity on real samples: what thresholds are chosen from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.errors import CaptureError, InputError
from lapilli.compiler.execute import FloatExecutor
from lapilli.compiler.linear import Array, frozen
from lapilli.compiler.numerics import FloatArray, round_down
from lapilli.compiler.populations import PopulationGraph

BINS = 2048
BATCH = 64
CAPTURE_TOLERANCE = 1e-3
"""Largest deviation of the legalised float network from the user's, relative to the largest output.

Both are float32 sums in another order; a mistake in capture is larger by orders of magnitude.
"""
CLIPS = np.geomspace(1.0 / 64.0, 1.0, 192)
"""Candidate clip values as fractions of the largest activity: 2.2 % apart."""
TINY = 1e-30
"""Stands in for a range of nothing, so that nothing is divided by zero."""
Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, eq=False)
class PopulationRange:
    """Smallest and largest activity (a readout's: drive) and its distribution, per channel.

    All arrays have a first axis of C channels; C = 1 where a population has no channels beside its
    units (shape (F,)), for one histogram per unit would be larger than the layer's weights.
    histogram (C, BINS): counts of positive values in equal bins over (0, maximum]; zeros (C,):
    how many values were not positive.
    """

    minimum: Array
    maximum: Array
    histogram: Array
    zeros: Array

    def percentile(
        self, percentile: float, over: Literal["all", "positive"], per_channel: bool
    ) -> Array:
        """The value below which `percentile` % of the (positive) activity lies; (C,) or ().

        Interpolated within a bin of maximum / BINS. Source: Rueckauer et al. 2016, section 2.
        """
        top, counts, zeros = self._table(per_channel)
        cumulative = np.cumsum(counts, axis=1)
        start = zeros if over == "all" else np.zeros(len(zeros))
        # How many of the positive values lie below; negative where the zeros are enough.
        wanted = percentile / 100.0 * (cumulative[:, -1] + start) - start
        index = np.minimum((cumulative < wanted[:, None]).sum(axis=1), BINS - 1)
        rows = np.arange(len(counts))
        inside = counts[rows, index]
        before = cumulative[rows, index] - inside
        fraction = np.clip((wanted - before) / np.maximum(inside, 1), 0.0, 1.0)
        result = np.asarray((index + fraction) * top / BINS)
        return result if per_channel else result[0]

    def least_error(self, levels: int, per_channel: bool) -> Array:
        """The clip value whose `levels` equal steps round the activity with least squared error.

        The best of CLIPS * maximum; (C,) or ().
        """
        top, counts, _ = self._table(per_channel)
        centres = (np.arange(BINS) + 0.5) / BINS
        step = CLIPS[:, None] / levels
        rounded = np.clip(round_down(centres / step + 0.5), 0, levels) * step
        squared = (rounded - centres) ** 2  # (clips, BINS), in units of maximum**2
        best = np.argmin(counts @ squared.T, axis=1)
        result = np.asarray(CLIPS[best] * top)
        return result if per_channel else result[0]

    def _table(self, per_channel: bool) -> tuple[Array, Array, Array]:
        """Largest value, counts and zeros per row: channels, or one row for the population."""
        if per_channel or len(self.maximum) == 1:
            return self.maximum, self.histogram, self.zeros
        top = self.maximum.max(keepdims=True)
        # Each channel's bins go where their centres lie on the common scale.
        centres = np.multiply.outer(self.maximum, np.arange(BINS) + 0.5)
        target = np.clip(round_down(centres / max(top[0], TINY)), 0, BINS - 1)
        pooled = np.bincount(target.ravel(), self.histogram.ravel(), minlength=BINS)
        return top, pooled[None, :], self.zeros.sum(keepdims=True)


@final
@dataclass(frozen=True, eq=False)
class Ranges:
    """Ranges of all populations; digest: SHA-256 of the calibration images."""

    populations: Mapping[str, PopulationRange]
    samples: int
    digest: str

    def __getitem__(self, name: str) -> PopulationRange:
        return self.populations[name]


def check_images(images: FloatArray, where: str) -> None:
    """Raise InputError unless there are images and all their values are finite."""
    if images.ndim < 2 or len(images) == 0:
        raise InputError(
            where,
            "there is at least one image, with the batch first",
            found=f"shape {images.shape}",
            allowed="(N, ...) with N >= 1",
            remedy="Give a non-empty array of images.",
        )
    if not np.isfinite(images).all():
        raise InputError(
            where,
            "values are finite",
            found=f"{int((~np.isfinite(images)).sum())} NaN or infinite values",
            allowed="none",
            remedy="Clean the data first.",
        )


def calibrate(
    graph: PopulationGraph,
    images: FloatArray,
    *,
    reference: torch.nn.Module | None = None,
    progress: Progress | None = None,
) -> Ranges:
    """Run `graph` over images (N, ...) twice: for the extremes, then for the distribution.

    reference: the user's network (from `frontend.evaluation_copy`); its outputs must agree with
    the graph's within CAPTURE_TOLERANCE, else CaptureError: nothing that capture missed survives.
    Raises InputError where activity is not finite. progress counts images, each of them twice.
    """
    check_images(images, "calibration set")
    executor = FloatExecutor(graph, torch.device("cpu"))
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}
    with torch.no_grad():
        for done, batch in _batches(images):
            activity = executor.run(batch)
            for name, value in activity.items():
                least, largest = _extremes(name, _by_channel(value))
                low[name] = torch.minimum(low.get(name, least), least)
                high[name] = torch.maximum(high.get(name, largest), largest)
            if reference is not None:
                _check_outputs(graph, activity, reference(batch))
            if progress is not None:
                progress(done, 2 * len(images))
        counts: dict[str, Tensor] = {}
        for done, batch in _batches(images):
            for name, value in executor.run(batch).items():
                found = _histogram(_by_channel(value), high[name])
                counts[name] = counts[name].add_(found) if name in counts else found
            if progress is not None:
                progress(len(images) + done, 2 * len(images))
    ranges = {
        name: PopulationRange(
            frozen(low[name].numpy(), np.float64),
            frozen(high[name].numpy(), np.float64),
            frozen(counts[name][:, 1:].numpy()),
            frozen(counts[name][:, 0].numpy()),
        )
        for name in high
    }
    digest = hashlib.sha256(np.ascontiguousarray(images, "<f4").data).hexdigest()
    return Ranges(ranges, len(images), digest)


def _batches(images: FloatArray) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(images), BATCH):
        batch = np.array(images[start : start + BATCH], dtype=np.float32)
        yield start + len(batch), torch.from_numpy(batch)


def _by_channel(value: Tensor) -> Tensor:
    """(N, C, ...) as (C, values), (N, F) as (1, values)."""
    return value.reshape(1, -1) if value.ndim == 2 else value.transpose(0, 1).flatten(1)


def _extremes(name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    least, largest = rows.amin(1), rows.amax(1)
    if not (torch.isfinite(least).all() and torch.isfinite(largest).all()):
        raise InputError(
            name,
            "the float network's activity is finite",
            found="NaN or infinite values",
            allowed="numbers within float32",
            remedy="Check the weights and statistics of the layers before it, and the images.",
        )
    return least, largest


def _histogram(rows: Tensor, maximum: Tensor) -> Tensor:
    """(C, 1 + BINS): how many values are not positive, then how many lie in each bin."""
    scale = BINS / maximum.clamp_min(TINY).unsqueeze(1)
    bins = (rows * scale).ceil_().clamp_(0, BINS).to(torch.int32)
    bins += (1 + BINS) * torch.arange(len(rows), dtype=torch.int32).unsqueeze(1)
    counts = torch.bincount(bins.flatten(), minlength=len(rows) * (1 + BINS))
    return counts.reshape(len(rows), -1)


def _check_outputs(
    graph: PopulationGraph, activity: Mapping[str, Tensor], expected: object
) -> None:
    theirs = _tensors(expected)
    sizes = [[activity[name].numel() for name in graph.outputs], [t.numel() for t in theirs]]
    if sizes[0] != sizes[1]:
        raise _captured_wrongly("outputs", f"{sizes[0]} values", f"{sizes[1]} values")
    for name, wanted in zip(graph.outputs, theirs, strict=True):
        scale = float(wanted.abs().max().clamp_min(1e-6))
        error = float((activity[name].reshape(wanted.shape) - wanted).abs().max()) / scale
        if not error <= CAPTURE_TOLERANCE:
            allowed = f"{CAPTURE_TOLERANCE:g} (float32 rounding)"
            raise _captured_wrongly(name, f"a relative difference of {error:.2g}", allowed)


def _captured_wrongly(where: str, found: str, allowed: str) -> CaptureError:
    return CaptureError(
        where,
        "the captured network computes what the user's network computes",
        found=found,
        allowed=allowed,
        remedy="The forward does something that tracing did not see, such as a hook or a "
        "random call: please report it with the network.",
    )


def _tensors(value: Any) -> list[Tensor]:
    """The tensors in a network's result, in the order in which capture names them."""
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    return [tensor for item in items for tensor in _tensors(item)]
