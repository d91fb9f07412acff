"""Statistics of every population's activity on real samples: what thresholds are chosen from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.activations import along_units
from lapilli.compiler.errors import CaptureError, InputError
from lapilli.compiler.execute import FloatExecutor
from lapilli.compiler.linear import Array, frozen
from lapilli.compiler.numerics import FloatArray, round_down
from lapilli.compiler.outputs import Output, disagreement, leaves, plain
from lapilli.compiler.populations import PopulationGraph

BINS = 2048
BATCH = 64
CAPTURE_TOLERANCE = 1e-3
"""Largest deviation of the legalised float network from the user's, relative to the largest output.

Both are float32 sums in another order; a mistake in capture is larger by orders of magnitude.
"""
CLIPS = np.geomspace(1.0 / 64.0, 1.0, 192)
"""Candidate clip values as fractions of the largest activity: 2.2 % apart."""
ALIKE = 1e-12
"""Ratios that differ by float rounding only."""
_INT32 = torch.iinfo(torch.int32).max
TINY = 1e-30
"""Stands in for a range of nothing, so that nothing is divided by zero."""
Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, eq=False)
class PopulationRange:
    """Smallest and largest activity (a readout's: drive) and its distribution, per channel.

    All arrays have a first axis of C channels; C = 1 where a population has no channels beside its
    units (shape (F,)), for one histogram per unit would be larger than the layer's weights; but
    C = F where units have thresholds of their own (`activations.along_units`).
    histogram (C, BINS): counts of positive values in equal bins over (0, maximum]; zeros (C,):
    how many values were not positive; below (C, BINS): counts of negative values in equal bins from
    zero down to the minimum, or (C, 0) where there are none.
    """

    minimum: Array
    maximum: Array
    histogram: Array
    zeros: Array
    below: Array

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

    def least_error(self, low: int, high: int, per_channel: bool) -> Array:
        """The step whose multiples low .. high round the activity with least squared error.

        The best of CLIPS * the step that clips nothing; (C,) or ().
        """
        top, counts, _ = self._table(per_channel)
        bottom, under = self._table_below(per_channel) if low < 0 else (top * 0, counts[:, :0])
        # A side without values has no say, nor has one without counts.
        above = top / high if high else top * 0
        largest = np.maximum(above, bottom / max(-low, TINY))
        error = sum(
            _squared_errors(side, tally, np.maximum(largest, TINY), limit)
            for side, tally, limit in ((top, counts, high), (bottom, under, -low))
            if tally.size
        )
        best = np.argmin(error, axis=1)
        result = np.asarray(CLIPS[best] * largest)
        return result if per_channel else result[0]

    def rounding_error(self, low: int, high: int, step: Array) -> float:
        """Root mean square error of rounding to step * (low .. high), relative to the activity's.

        step: () or (C,). 0 where there was no activity.
        """
        steps = np.broadcast_to(np.atleast_1d(step), self.maximum.shape)
        error = energy = 0.0
        for top, counts, limit in (
            (np.maximum(self.maximum, 0.0), self.histogram, max(high, 0)),
            (np.maximum(-self.minimum, 0.0), self.below, max(-low, 0)),
        ):
            if counts.size:
                values = np.multiply.outer(top, (np.arange(BINS) + 0.5) / BINS)
                nearest = round_down(np.minimum(values / steps[:, None] + 0.5, limit))
                error += float((counts * (nearest * steps[:, None] - values) ** 2).sum())
                energy += float((counts * values**2).sum())
        return float(np.sqrt(error / energy)) if energy > 0 else 0.0

    def _table(self, per_channel: bool) -> tuple[Array, Array, Array]:
        """Largest value, counts and zeros per row: channels, or one row for the population."""
        if per_channel or len(self.maximum) == 1:
            return self.maximum, self.histogram, self.zeros
        top, pooled = _pooled(self.maximum, self.histogram)
        return top, pooled, self.zeros.sum(keepdims=True)

    def _table_below(self, per_channel: bool) -> tuple[Array, Array]:
        """The same of the negative values: how far down, and counts."""
        depth = np.maximum(-self.minimum, 0.0)
        if per_channel or len(depth) == 1 or not self.below.size:
            return depth, self.below
        return _pooled(depth, self.below)


def _pooled(top: Array, counts: Array) -> tuple[Array, Array]:
    """Histograms of channels, each over its own range, as one over the largest range."""
    largest = top.max(keepdims=True)
    # Each channel's bins go where their centres lie on the common scale.
    centres = np.multiply.outer(top, np.arange(BINS) + 0.5)
    target = round_down(np.clip(centres / max(largest[0], TINY), 0, BINS - 1))
    return largest, np.bincount(target.ravel(), counts.ravel(), minlength=BINS)[None, :]


def _squared_errors(top: Array, counts: Array, largest: Array, limit: int) -> Array:
    """(C, clips): squared error of rounding to multiples of CLIPS * largest up to limit of them.

    top (C,): end of the bins counts (C, BINS); largest (C,). From zero up, each multiple k of a
    step s that values are rounded to or beyond changes their squared error by
    (k s - c)**2 - ((k - 1) s - c)**2 = (2 k - 1) s**2 - 2 s c: tails of the histogram are enough.
    """
    centres = (np.arange(BINS) + 0.5) / BINS
    scale = np.where(top > 0, top, 1.0)
    ratio = largest / scale  # the step in units of the bins' range
    if np.ptp(ratio) <= ALIKE * ratio[0]:  # where all is positive: the same bins for all channels
        ratio = ratio[:1]
    steps = np.multiply.outer(ratio, CLIPS)
    number, weight = (_tails(counts * values) for values in (1, centres))
    rows = np.arange(len(counts))[:, None]
    error = np.repeat((counts @ centres**2)[:, None], len(CLIPS), axis=1)
    for k in range(1, limit + 1):
        reached = steps * (k - 0.5)
        first = -round_down(0.5 - np.minimum(reached, 1.0) * BINS)  # bins whose centre is no less
        error += (2 * k - 1) * steps**2 * number[rows, first] - 2 * steps * weight[rows, first]
        if reached.min() > 1.0:
            break
    return np.asarray(error * (scale**2)[:, None])


def _tails(values: Array) -> Array:
    """(C, BINS + 1): sums from each bin to the last, and nothing."""
    sums = np.zeros((len(values), values.shape[1] + 1))
    sums[:, :-1] = np.cumsum(values[:, ::-1], axis=1)[:, ::-1]
    return sums


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
    reference: Callable[[Tensor], Any] | None = None,
    compared: int | None = None,
    precise: bool = False,
    returned: Sequence[Output] = (),
    progress: Progress | None = None,
) -> Ranges:
    """Run `graph` over images (N, ...) twice: for the extremes, then for the distribution.

    reference: the user's network (`frontend.Network.run`); its outputs must agree with the graph's
    within CAPTURE_TOLERANCE, else CaptureError: nothing that capture missed survives; compared:
    on so many images, None for all, where the reference is slow; precise: in float64, as steps of
    staircases ask for: float32 takes some of them otherwise where it adds in another order.
    returned: how it makes them of the graph's readouts; empty: it returns them as they are.
    Raises InputError where activity is not finite. progress counts images, each of them twice.
    """
    check_images(images, "calibration set")
    executor = FloatExecutor(graph, torch.device("cpu"))
    split = {p.name for p in graph.populations if along_units(p.activation)}
    low: dict[str, Tensor] = {}
    high: dict[str, Tensor] = {}
    with torch.no_grad():
        for done, batch in _batches(images):
            readouts: dict[str, Tensor] = {}
            for name, value in executor.stream(batch):
                least, largest = _extremes(name, _by_channel(value, name in split))
                low[name] = torch.minimum(low.get(name, least), least)
                high[name] = torch.maximum(high.get(name, largest), largest)
                if name in graph.outputs:
                    readouts[name] = value
            left = len(batch) if compared is None else compared - (done - len(batch))
            if reference is not None and left > 0:
                if precise:
                    readouts = _in_float64(graph, batch[:left])
                readouts = {name: readouts[name][:left] for name in graph.outputs}
                outputs = returned or plain([tuple(r.shape[1:]) for r in readouts.values()])
                _check_outputs(outputs, readouts, reference(batch[:left]))
            if progress is not None:
                progress(done, 2 * len(images))
        counts: dict[str, Tensor] = {}
        below: dict[str, Tensor] = {}
        for done, batch in _batches(images):
            for name, value in executor.stream(batch):
                rows = _by_channel(value, name in split)
                _tally(counts, name, _histogram(rows, high[name]))
                if (low[name] < 0).any():
                    _tally(below, name, _histogram(-rows, -low[name]))
            if progress is not None:
                progress(len(images) + done, 2 * len(images))
    ranges = {
        name: PopulationRange(
            frozen(low[name].numpy(), np.float64),
            frozen(high[name].numpy(), np.float64),
            _seen(counts[name][:, 1:]),
            _seen(counts[name][:, 0]),
            _seen(below.get(name, counts[name])[:, 1 if name in below else BINS + 1 :]),
        )
        for name in high
    }
    digest = hashlib.sha256(np.ascontiguousarray(images, "<f4").data).hexdigest()
    return Ranges(ranges, len(images), digest)


def _in_float64(graph: PopulationGraph, batch: Tensor) -> dict[str, Tensor]:
    stream = FloatExecutor(graph, torch.device("cpu"), torch.float64).stream(batch.double())
    return {name: value for name, value in stream if name in graph.outputs}


def _batches(images: FloatArray) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(images), BATCH):
        batch = np.array(images[start : start + BATCH], dtype=np.float32)
        yield start + len(batch), torch.from_numpy(batch)


def _by_channel(value: Tensor, units: bool) -> Tensor:
    """(N, C, ...) as (C, values); (N, F) as (F, values) if units are apart, else (1, values)."""
    if value.ndim == 2 and not units:
        return value.reshape(1, -1)
    return value.transpose(0, 1).flatten(1)


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


def _seen(counts: Tensor) -> Array:
    """The counts, read-only where they are: tables of all channels are large."""
    array = np.asarray(counts.numpy())
    array.flags.writeable = False
    return array


def _tally(counts: dict[str, Tensor], name: str, found: Tensor) -> None:
    """Add 32-bit counts; in 64 bits as soon as a sum might not fit."""
    if name in counts:
        have = counts[name]
        if have.dtype == torch.int32 and int(have.max()) + int(found.max()) > _INT32:
            have = have.long()
        found = have.add_(found)
    counts[name] = found


def _histogram(rows: Tensor, maximum: Tensor) -> Tensor:
    """(C, 1 + BINS): how many values are not positive, then how many lie in each bin."""
    scale = BINS / maximum.clamp_min(TINY).unsqueeze(1)
    bins = (rows * scale).ceil_().clamp_(0, BINS).to(torch.int32)
    bins += (1 + BINS) * torch.arange(len(rows), dtype=torch.int32).unsqueeze(1)
    counts = torch.bincount(bins.flatten(), minlength=len(rows) * (1 + BINS))
    return counts.reshape(len(rows), -1).to(torch.int32)


def _check_outputs(
    returned: Sequence[Output], readouts: Mapping[str, Tensor], expected: object
) -> None:
    """Compare, behind the heads, every output with what the user's network returned."""
    theirs, names = leaves(expected), list(readouts)
    batch = len(readouts[names[0]])
    sizes = [
        [batch * math.prod(output.shape) for output in returned],
        [int(tensor.numel()) for _, tensor in theirs],
    ]
    if sizes[0] != sizes[1]:
        raise _captured_wrongly("outputs", f"{sizes[0]} values", f"{sizes[1]} values")
    for output, (_, wanted) in zip(returned, theirs, strict=True):
        name = names[output.readout]
        expected_values = wanted.reshape(batch, *output.shape).numpy()
        error = disagreement(output, readouts[name].numpy(), expected_values)
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
