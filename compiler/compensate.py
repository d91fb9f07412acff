"""Compensation without training: shift and amplitude per channel, layer after layer.

Rounding activity to a staircase moves its mean and its size. On calibration images the spiking
network's float staircase is run beside the float network. Per channel (axis 0) each population
gets the shift that removes the mean error of its drive, as psi of DA-QCFS does (Hao et al., ICML
2025), computed exactly instead of as a running average; and the spike amplitude that fits the float
activity with least squared error. Layers are treated in order, so that a later one sees, and
corrects, what is left of the errors before it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.calibrate import Progress
from lapilli.compiler.execute import FloatExecutor, active, as_tensor
from lapilli.compiler.linear import Array, along_channels, frozen
from lapilli.compiler.numerics import FloatArray, round_down
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.spiking import SpikingGraph, SpikingPopulation, pool

Calibration = Literal["none", "bias", "least-squares"]
CALIBRATIONS: tuple[Calibration, ...] = ("none", "bias", "least-squares")
"""none: as converted; bias: shifts only; least-squares: shifts and amplitudes."""

MAX_IMAGES = 256
MIN_IMAGES = 8
MAX_VALUES = 2**27
"""Images are reduced until the activity kept at a time is below this many floats (512 MiB)."""
LAYERS_AT_ONCE = 6
"""Both networks' activity of a layer, its input and a shortcut: what is kept at a time."""
_CPU = torch.device("cpu")


def compensate(
    spiking: SpikingGraph,
    graph: PopulationGraph,
    images: FloatArray,
    calibration: str,
    *,
    progress: Progress | None = None,
) -> SpikingGraph:
    """`spiking`, converted from `graph` with its biases, with corrected biases and amplitudes.

    calibration: one of CALIBRATIONS. images (N, ...): up to MAX_IMAGES of them are used, spread
    evenly. progress counts populations.
    """
    if calibration == "none":
        return spiking
    x = _chosen(images, max(int(np.prod(p.shape)) for p in graph.populations))
    theirs: dict[str, Tensor] = {}  # activity of the float network
    ours: dict[str, Tensor] = {}  # activity that the spiking network's counts stand for
    waiting = {
        p.name: sum(c.source == p.name for c in graph.connections) for p in graph.populations
    }
    corrected: dict[str, SpikingPopulation] = {}
    executor = FloatExecutor(graph, _CPU)
    with torch.no_grad():
        for p, converted in zip(graph.populations, spiking.populations, strict=True):
            if p.role == "input":
                corrected[p.name] = converted
                analog = spiking.timing != "train"  # a train of spikes is right on average
                theirs[p.name], ours[p.name] = x, _quantised_input(converted, x) if analog else x
                continue
            wanted, found = executor.drive(p, theirs), executor.drive(p, ours)
            theirs[p.name] = active(p, wanted)
            if p.role == "max":  # of what was corrected already
                source = graph.into(p.name)[0].source
                s, ours[p.name] = pool(p.name, p.shape, corrected[source]), found
            else:
                s, ours[p.name] = _corrected(
                    spiking, converted, wanted, found, theirs[p.name], calibration
                )
            for c in graph.into(p.name):
                waiting[c.source] -= 1
                if not waiting[c.source]:
                    del theirs[c.source], ours[c.source]
            corrected[p.name] = s
            if progress is not None:
                progress(len(corrected), len(graph.populations))
    return replace(spiking, populations=tuple(corrected.values()))


def _corrected(
    spiking: SpikingGraph,
    s: SpikingPopulation,
    wanted: Tensor,
    found: Tensor,
    activity: Tensor,
    calibration: str,
) -> tuple[SpikingPopulation, Tensor]:
    """s with its bias and amplitude, and the activity that its counts then stand for.

    wanted, found: drives of the float and of the spiking network; activity: of the float one.
    """
    if s.model != "product":  # which has no bias
        shift = along_channels(_mean_error(wanted, found), s.shape)
        s = replace(s, bias=frozen(s.bias + shift))
        found = found + as_tensor(shift, torch.float32, _CPU)
    if s.model == "readout":
        return s, found
    counts = _counts(spiking, s, found)
    if calibration == "least-squares":
        s = _with_amplitude(s, counts, activity - _wide(s, s.offset))
    return s, counts * _wide(s, s.count_scale) + _wide(s, s.offset)


def levelled(
    spiking: SpikingGraph, s: SpikingPopulation, drive: Tensor, activity: Tensor
) -> Tensor:
    """The activity that s alone would pass on, had it the float network's drive (N, *shape).

    As compensated: the worth of a count fitted to `activity`, the float network's, and the mean
    error of each channel taken off, which the biases behind it do.
    """
    counts, offset = _counts(spiking, s, drive), _wide(s, s.offset)
    s = _with_amplitude(s, counts, activity - offset)
    found = counts * _wide(s, s.count_scale) + offset
    error = along_channels(_mean_error(activity, found), s.shape)
    return found + as_tensor(error, torch.float32, _CPU)


def _chosen(images: FloatArray, largest: int) -> Tensor:
    """As many images as memory allows; largest: units of the largest population."""
    most = max(MIN_IMAGES, MAX_VALUES // (LAYERS_AT_ONCE * largest))
    count = min(len(images), MAX_IMAGES, most)
    # Spread over the whole set: calibration files are often sorted by class.
    index = round_down(np.linspace(0, len(images) - 1, count))
    return torch.from_numpy(np.array(images[index], dtype=np.float32))


def _quantised_input(s: SpikingPopulation, x: Tensor) -> Tensor:
    scale = _wide(s, s.amplitude)
    return torch.floor(x / scale + 0.5).clamp(s.low, s.high) * scale


def _mean_error(wanted: Tensor, found: Tensor) -> Array:
    """Per channel (C,): what the drive lacks on average."""
    error = _per_channel(wanted - found).mean(1, dtype=torch.float64)
    return np.asarray(error.numpy())


def _counts(graph: SpikingGraph, s: SpikingPopulation, drive: Tensor) -> Tensor:
    """The count of a whole window whose drive is `drive`, as the ideal neuron counts."""
    if s.rungs is None:
        step = _wide(s, s.threshold) / (graph.steps if graph.hold else 1)
        counts = torch.floor((drive - _wide(s, s.offset)) / step + s.initial)
        return counts.clamp(s.low, s.high)
    counts = _wide(s, s.rungs.start).expand(drive.shape).clone()
    for at, rise in zip(s.rungs.at, s.rungs.rises, strict=True):
        counts += (drive >= _wide(s, at)) * _wide(s, rise)
    return counts


def _with_amplitude(s: SpikingPopulation, counts: Tensor, activity: Tensor) -> SpikingPopulation:
    """Value of one spike with least squared error: per channel, or one for a shape (F,).

    A channel that never fired where the float network was active keeps its value.
    """
    fired, meant = (_per_channel(t).double() for t in (counts, activity))
    overlap, energy = (fired * meant).sum(1).numpy(), (fired * fired).sum(1).numpy()
    if len(s.shape) == 1:  # as for thresholds: one unit alone has too few samples
        overlap, energy = overlap.sum(), energy.sum()
    fitted = np.divide(overlap, energy, out=np.zeros_like(overlap), where=energy > 0)
    ratio = np.where(fitted > 0, fitted / s.count_scale, 1.0)
    return replace(
        s, amplitude=frozen(s.amplitude * ratio), count_scale=frozen(s.count_scale * ratio)
    )


def _wide(s: SpikingPopulation, values: Array) -> Tensor:
    return as_tensor(along_channels(values, s.shape), torch.float32, _CPU)


def _per_channel(values: Tensor) -> Tensor:
    """(N, C, ...) as (C, values)."""
    return values.transpose(0, 1).reshape(values.shape[1], -1)
