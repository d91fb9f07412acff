"""Statistics of every population's activity on real samples: what thresholds are chosen from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.errors import CaptureError, InputError
from lapilli.compiler.execute import FloatExecutor
from lapilli.compiler.linear import Array
from lapilli.compiler.numerics import FloatArray
from lapilli.compiler.populations import PopulationGraph

BINS = 2048
BATCH = 64
CAPTURE_TOLERANCE = 1e-3
"""Largest deviation of the legalised float network from the user's, relative to the largest output.

Both are float32 sums in another order; a mistake in capture is larger by orders of magnitude.
"""
Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, eq=False)
class PopulationRange:
    """Per channel (C,): smallest and largest drive or activity, and how activity is distributed.

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
        edges, counts, zeros = self._table(per_channel)
        cumulative = np.cumsum(counts, axis=1)
        start = zeros[:, None] if over == "all" else np.zeros((len(zeros), 1))
        wanted = percentile / 100.0 * (cumulative[:, -1:] + start) - start
        index = np.minimum((cumulative < wanted).sum(axis=1), BINS - 1)
        rows = np.arange(len(counts))
        before = np.where(index > 0, cumulative[rows, np.maximum(index - 1, 0)], 0)
        inside = np.maximum(counts[rows, index], 1)
        fraction = np.clip((wanted[:, 0] - before) / inside, 0.0, 1.0)
        result = (index + fraction) * edges / BINS
        return result if per_channel else result[0]

    def least_error(self, levels: int, per_channel: bool) -> Array:
        """The clip value whose `levels` equal steps round the activity with least squared error."""
        edges, counts, _ = self._table(per_channel)
        centres = (np.arange(BINS) + 0.5) / BINS
        fractions = np.linspace(0.1, 1.0, 91)
        step = fractions[:, None] / levels
        steps = np.clip(np.floor(centres / step + 0.5), 0, levels)
        squared = (steps * step - centres) ** 2  # (fractions, BINS), in units of maximum
        best = np.argmin(counts @ squared.T, axis=1)
        result = fractions[best] * edges
        return result if per_channel else result[0]

    def _table(self, per_channel: bool) -> tuple[Array, Array, Array]:
        """Largest value, counts and zeros per row: channels, or one row for the population."""
        if per_channel:
            return self.maximum, self.histogram, self.zeros
        top = float(self.maximum.max())
        # Each channel's bins are moved to the common scale by their upper edge.
        edges = (np.arange(BINS) + 1)[None, :] * self.maximum[:, None]
        target = np.ceil(edges / max(top, 1e-30)).astype(np.int64) - 1
        pooled = np.bincount(
            np.clip(target, 0, BINS - 1).ravel(), self.histogram.ravel(), minlength=BINS
        )
        return np.array([top]), pooled[None, :], self.zeros.sum(keepdims=True)


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
    """
    executor = FloatExecutor(graph, torch.device("cpu"))
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}
    total = 2 * len(images)
    with torch.no_grad():
        for done, batch in _batches(images):
            activity = executor.run(batch)
            if reference is not None:
                _check_outputs(graph, activity, reference(batch))
            for name, value in activity.items():
                rows = _by_channel(value)
                low[name] = torch.minimum(low.get(name, rows.amin(1)), rows.amin(1))
                high[name] = torch.maximum(high.get(name, rows.amax(1)), rows.amax(1))
            if progress is not None:
                progress(done, total)
        counts = {n: torch.zeros(len(high[n]) * BINS, dtype=torch.int64) for n in high}
        seen = dict.fromkeys(high, 0)
        for done, batch in _batches(images):
            for name, value in executor.run(batch).items():
                rows = _by_channel(value)
                counts[name] += _histogram(rows, high[name])
                seen[name] += rows.shape[1]
            if progress is not None:
                progress(len(images) + done, total)
    ranges = {
        name: _range(low[name], high[name], counts[name].reshape(-1, BINS), seen[name])
        for name in high
    }
    digest = hashlib.sha256(np.ascontiguousarray(images, "<f4").tobytes()).hexdigest()
    return Ranges(ranges, len(images), digest)


def _batches(images: FloatArray) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(images), BATCH):
        batch = np.array(images[start : start + BATCH], dtype=np.float32)
        yield start + len(batch), torch.from_numpy(batch)


def _by_channel(value: Tensor) -> Tensor:
    """(N, C, ...) as (C, values)."""
    return value.transpose(0, 1).reshape(value.shape[1], -1)


def _histogram(rows: Tensor, maximum: Tensor) -> Tensor:
    channels = torch.arange(len(rows)).unsqueeze(1)
    scale = BINS / maximum.clamp_min(1e-30).unsqueeze(1)
    index = (torch.ceil(rows * scale).long() - 1).clamp(0, BINS - 1) + channels * BINS
    return torch.bincount(index[rows > 0], minlength=len(rows) * BINS)


def _range(low: Tensor, high: Tensor, histogram: Tensor, seen: int) -> PopulationRange:
    counts = histogram.numpy()
    return PopulationRange(
        low.double().numpy(), high.double().numpy(), counts, seen - counts.sum(axis=1)
    )


def _check_outputs(graph: PopulationGraph, activity: Mapping[str, Tensor], expected: object) -> None:
    for name, theirs in zip(graph.outputs, _tensors(expected), strict=True):
        ours = activity[name].reshape(theirs.shape)
        scale = float(theirs.abs().max().clamp_min(1e-6))
        error = float((ours - theirs).abs().max()) / scale
        if not error <= CAPTURE_TOLERANCE:
            raise CaptureError(
                name,
                "the captured network computes what the user's network computes",
                found=f"a relative difference of {error:.2g}",
                allowed=f"{CAPTURE_TOLERANCE:g} (float32 rounding)",
                remedy="The forward does something that tracing did not see, such as a hook or a "
                "random call: please report it with the network.",
            )


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value
    assert isinstance(items, (tuple, list)) or isinstance(value, dict)
    return [tensor for item in items for tensor in _tensors(item)]  # type: ignore[union-attr]
