"""Distribution-aware calibration: shifts psi and phi per channel, learned as running averages.

Source: DA-QCFS of Hao et al., ICML 2025 (arXiv 2412.13610), and its public code. Two copies of the
network run on the same images, a student (the spiking network's staircase) and a reference; after
each batch every feature map's channels are corrected, all layers at a time:
    psi <- psi + m * (mean(x_reference - x_student) - psi)      before the staircase
    phi <- ... mean(y_reference - y_student)                    a spike is worth theta + phi
What phi is a running average of is what is left of the error with phi in place. As such it never
takes the whole error off: it ends at e0 / (1 + f), e0 being the error without it, f the mean share
of all spikes that are sent ("average", as in the public code). Added up instead, it does
("accumulate").
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.activations import evaluate_qcfs, staircase_top
from lapilli.compiler.calibrate import Progress
from lapilli.compiler.da_qcfs_options import DAQCFS
from lapilli.compiler.execute import FloatExecutor, active, as_tensor
from lapilli.compiler.linear import Array, along_channels, frozen
from lapilli.compiler.numerics import FloatArray
from lapilli.compiler.populations import Population, PopulationGraph
from lapilli.compiler.spiking import SpikingGraph, SpikingPopulation, pool

_CPU = torch.device("cpu")
MOST = 4.0
"""By how much a spike's worth may change: where none is sent, errors would add up for ever."""


@final
class _Shifts:
    """psi and phi of one population, (C,) each, and what they are learned from."""

    def __init__(self, p: Population, s: SpikingPopulation, hold: int, options: DAQCFS):
        self.options, self.hold = options, hold
        self.psi = torch.zeros(p.shape[0])
        self.phi = torch.zeros(p.shape[0])
        step = along_channels(s.threshold / hold, p.shape)
        self.step = as_tensor(step, torch.float32, _CPU)
        self.top = self.step * (s.high - s.low)
        self.s = s
        trained = staircase_top(p.activation)
        own = 0 if trained is None else trained[1]
        self.levels = options.reference_levels or own

    def reference(self, drive: Tensor) -> Tensor:
        """What the student's staircase comes near to: more or all of its levels, the same ends."""
        low = _wide(self.s.offset, self.s.shape) + self.s.low * self.step
        if not self.levels:
            return torch.minimum(torch.maximum(drive, low), low + self.top)
        return low + evaluate_qcfs(drive - low, self.top, self.levels, torch.floor)

    def student(self, drive: Tensor) -> Tensor:
        """The activity of the counts for a drive, both shifts included."""
        s, offset = self.s, _wide(self.s.offset, self.s.shape)
        shifted = drive + _wide(self.psi.numpy(), s.shape)
        counts = torch.floor((shifted - offset) / self.step + s.initial).clamp(s.low, s.high)
        return counts * self.step * self.worth() + offset

    def worth(self) -> Tensor:
        """1 + phi / theta, of every channel."""
        wide = _wide(self.phi.numpy(), self.s.shape)
        return (1.0 + wide / self.top).clamp(1 / MOST, MOST)

    def learn(self, before: Tensor, after: Tensor) -> None:
        """before, after: mean errors per channel, (C,), at the staircase's two sides."""
        m = self.options.momentum
        self.psi += m * (before - self.psi)
        self.phi += m * (after if self.options.rule == "accumulate" else after - self.phi)

    def applied(self) -> SpikingPopulation:
        """The spiking population with its shifts."""
        s = self.s
        share = self.worth().double().numpy().reshape(-1)  # (C,)
        bias = s.bias + along_channels(self.psi.double().numpy(), s.shape)
        return replace(
            s,
            bias=frozen(bias),
            amplitude=frozen(s.amplitude * share),
            count_scale=frozen(s.count_scale * share),
        )


def da_qcfs(
    spiking: SpikingGraph,
    graph: PopulationGraph,
    images: FloatArray,
    options: DAQCFS,
    *,
    progress: Progress | None = None,
) -> SpikingGraph:
    """`spiking`, converted from `graph`, with psi in its biases and phi in its spikes' worth.

    images (N, ...): batches are drawn from all of them. Feature maps alone are calibrated, as
    published: neither vectors, nor what is no staircase of equal steps. progress counts batches.
    """
    pairs = list(zip(graph.populations, spiking.populations, strict=True))
    hold = spiking.steps if spiking.hold else 1
    shifts = {p.name: _Shifts(p, s, hold, options) for p, s in pairs if _calibrated(p, s)}
    executor = FloatExecutor(graph, _CPU)
    rng = np.random.default_rng(options.seed)
    with torch.no_grad():
        for done in range(options.batches):
            chosen = rng.choice(len(images), min(options.batch, len(images)), replace=False)
            x = torch.from_numpy(np.array(images[np.sort(chosen)], dtype=np.float32))
            _batch(executor, pairs, shifts, x, hold)
            if progress is not None:
                progress(done + 1, options.batches)
    made: dict[str, SpikingPopulation] = {}
    for p, s in pairs:
        if p.role == "max":  # of what was corrected already
            made[p.name] = pool(p.name, p.shape, made[graph.into(p.name)[0].source])
        else:
            made[p.name] = shifts[p.name].applied() if p.name in shifts else s
    return replace(spiking, populations=tuple(made.values()))


def _calibrated(p: Population, s: SpikingPopulation) -> bool:
    equal_steps = s.rungs is None and s.model not in ("source", "max", "product", "readout")
    return equal_steps and len(p.shape) > 1


def _batch(
    executor: FloatExecutor,
    pairs: list[tuple[Population, SpikingPopulation]],
    shifts: dict[str, _Shifts],
    x: Tensor,
    hold: int,
) -> None:
    """Run both networks on one batch and learn from what they differ by."""
    theirs: dict[str, Tensor] = {}
    ours: dict[str, Tensor] = {}
    for p, s in pairs:
        if p.role == "input":
            scale = _wide(s.amplitude, s.shape)
            theirs[p.name] = x
            ours[p.name] = torch.floor(x / scale + 0.5).clamp(s.low, s.high) * scale
            continue
        wanted, found = executor.drive(p, theirs), executor.drive(p, ours)
        if p.name not in shifts:
            theirs[p.name] = active(p, wanted)
            ours[p.name] = _uncalibrated(p, s, found, hold)
            continue
        learner = shifts[p.name]
        theirs[p.name] = learner.reference(wanted)
        ours[p.name] = learner.student(found)
        learner.learn(_mean(wanted - found), _mean(theirs[p.name] - ours[p.name]))


def _uncalibrated(p: Population, s: SpikingPopulation, drive: Tensor, hold: int) -> Tensor:
    """Counts where these steps are equal; else, as for pools and readouts, the float activity."""
    if s.rungs is not None or s.model in ("max", "product", "readout"):
        return active(p, drive)
    step, offset = _wide(s.threshold / hold, s.shape), _wide(s.offset, s.shape)
    counts = torch.floor((drive - offset) / step + s.initial).clamp(s.low, s.high)
    return counts * step + offset


def _mean(error: Tensor) -> Tensor:
    return error.transpose(0, 1).flatten(1).mean(1)


def _wide(values: Array, shape: tuple[int, ...]) -> Tensor:
    return as_tensor(along_channels(values, shape), torch.float32, _CPU)
