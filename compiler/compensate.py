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
from lapilli.compiler.execute import TorchMap, as_tensor
from lapilli.compiler.linear import along_channels, frozen
from lapilli.compiler.numerics import FloatArray
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.spiking import SpikingGraph, SpikingPopulation

Calibration = Literal["none", "bias", "least-squares"]
CALIBRATIONS: tuple[Calibration, ...] = ("none", "bias", "least-squares")
"""none: as converted; bias: shifts only; least-squares: shifts and amplitudes."""

MAX_IMAGES = 256
MAX_VALUES = 2**27
"""Images are reduced until the activity kept at a time is below this many floats (512 MiB)."""


def compensate(
    spiking: SpikingGraph,
    graph: PopulationGraph,
    images: FloatArray,
    calibration: Calibration,
    *,
    progress: Progress | None = None,
) -> SpikingGraph:
    """`spiking`, converted from `graph`, with corrected biases and amplitudes."""
    if calibration == "none":
        return spiking
    largest = max(int(np.prod(p.shape)) for p in graph.populations)
    count = min(len(images), MAX_IMAGES, max(8, MAX_VALUES // (6 * largest)))
    # Spread over the whole set: calibration files are often sorted by class.
    chosen = images[np.linspace(0, len(images) - 1, count).astype(np.int64)]
    x = torch.from_numpy(np.array(chosen, dtype=np.float32))
    device = torch.device("cpu")
    last_use = {c.source: c.target for c in graph.connections}  # order of targets is topological
    theirs: dict[str, Tensor] = {}
    ours: dict[str, Tensor] = {}
    result: list[SpikingPopulation] = []
    with torch.no_grad():
        for index, (p, s) in enumerate(zip(graph.populations, spiking.populations, strict=True)):
            if p.role == "input":
                theirs[p.name], ours[p.name] = x, _quantised_input(s, x)
                result.append(s)
                continue
            exact = s.bias if s.bias.ndim else s.bias.reshape(1)
            wanted = as_tensor(exact, torch.float32, device).expand(len(x), *p.shape).clone()
            found = wanted.clone()
            for c in graph.into(p.name):
                apply = TorchMap(c.map, torch.float32, device)
                wanted += apply(theirs[c.source]).reshape(wanted.shape)
                found += apply(ours[c.source]).reshape(wanted.shape)
            shift = _per_channel(wanted - found).mean(1)
            found += shift.reshape((-1,) + (1,) * (len(p.shape) - 1))
            s = replace(s, bias=frozen(s.bias + along_channels(shift.double().numpy(), p.shape)))
            if p.role != "readout":
                activity = wanted.clamp_min(0)
                counts = _counts(spiking, s, found)
                if calibration == "least-squares":
                    s = _with_amplitude(s, counts, activity)
                theirs[p.name] = activity
                ours[p.name] = counts * _wide(s, s.count_scale)
            result.append(s)
            for name in [n for n in theirs if last_use.get(n) == p.name]:
                del theirs[name], ours[name]
            if progress is not None:
                progress(index + 1, len(graph.populations))
    return replace(spiking, populations=tuple(result))


def _quantised_input(s: SpikingPopulation, x: Tensor) -> Tensor:
    scale = _wide(s, s.amplitude)
    return torch.floor(x / scale + 0.5).clamp(s.low, s.high) * scale


def _counts(graph: SpikingGraph, s: SpikingPopulation, drive: Tensor) -> Tensor:
    """Spikes of a whole window that arrive at the drive's real value, as the ideal neuron counts."""
    step = _wide(s, s.threshold) / (graph.steps if graph.hold else 1)
    return torch.floor(drive / step + s.initial).clamp(0, graph.levels)


def _with_amplitude(s: SpikingPopulation, counts: Tensor, activity: Tensor) -> SpikingPopulation:
    """Least-squares value of one spike per channel; unchanged where a channel never fired."""
    fired, meant = (_per_channel(t).double() for t in (counts, activity))
    overlap, energy = (fired * meant).sum(1).numpy(), (fired * fired).sum(1).numpy()
    old = np.broadcast_to(s.count_scale, overlap.shape)
    new = np.where((overlap > 0) & (energy > 0), overlap / np.maximum(energy, 1e-30), old)
    ratio = new / old
    if s.count_scale.ndim == 0 and len(s.shape) == 1:
        ratio = np.asarray(overlap.sum() / max(energy.sum(), 1e-30) / s.count_scale)
        ratio = ratio if ratio > 0 else np.ones(())
    return replace(
        s, amplitude=frozen(s.amplitude * ratio), count_scale=frozen(s.count_scale * ratio)
    )


def _wide(s: SpikingPopulation, values: np.ndarray) -> Tensor:
    return as_tensor(along_channels(values, s.shape), torch.float32, torch.device("cpu"))


def _per_channel(values: Tensor) -> Tensor:
    """(N, C, ...) as (C, values)."""
    return values.transpose(0, 1).reshape(values.shape[1], -1)
