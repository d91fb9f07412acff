"""Reconstruction: weights, thresholds and biases trained until the outputs are the float network's.

No labels are used. The float network sees every image beside the spiking one, and what it makes of
it is the target (distillation: Hinton, Vinyals and Dean 2015, arXiv 1503.02531). The gradient
passes a staircase as if it were the line through it (Bengio et al. 2013, arXiv 1308.3432). In the
second half weights, biases and thresholds are rounded as the netlist's, so what is trained last is
what the chip computes.
"""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import asdict, dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler.calibrate import Progress
from lapilli.compiler.errors import InputError, NetlistError, StateOverflowError
from lapilli.compiler.execute import FloatExecutor
from lapilli.compiler.numerics import FloatArray, round_down
from lapilli.compiler.passes.quantise import quantise
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.reconstruction import checkpoint
from lapilli.compiler.reconstruction.augmentation import CHANGES, augmented, harmless, order
from lapilli.compiler.reconstruction.distance import Spread, distance
from lapilli.compiler.reconstruction.options import Reconstruct
from lapilli.compiler.reconstruction.rounding import Grid, exponents_of
from lapilli.compiler.reconstruction.student import Student
from lapilli.compiler.spiking import SpikingGraph
from lapilli.hardware_profiles import Profile

RATES = (0.01, 0.0025, 0.000625)
"""Largest change of a weight in one step, relative to the weights beside it: the first of these
with which the network comes nearer to the float one."""
ENOUGH = 0.8
"""Share of the time after which no other rate is tried."""
WARM = 0.02
"""Fraction of the run in which the rate rises; then it falls as half a cosine to nothing."""
ROUND = (0.5, 0.9)
"""Fractions of the run at which the netlist is asked anew how weights are rounded."""
DECAYS = 0.9, 0.999
"""Of the running means of the gradient and of its square (Adam: arXiv 1412.6980)."""
SMALLEST = 1e-12
"""Gradients this small are nothing."""
MAX_VALUES = 2**27
"""Images in a step are reduced until the activity kept is below this many floats (512 MiB)."""
KEPT = 6
"""Floats kept per neuron: both networks' activity, drives, and gradients."""
SHOWN = 256
"""Images on which it is tried whether a change is harmless."""
SAVED = 25
"""Steps between two checkpoints."""
WATCH = 16
"""Steps between two looks at the clock."""


@final
@dataclass(frozen=True, eq=False)
class Reconstruction:
    """spiking: the network; steps: of training, done; rate: with which it came nearer, 0 for none.

    before, after: distance of the outputs from the float network's on the calibration images, as
    converted and as trained (see `distance`); at rate 0 the network stayed as it was converted.
    """

    spiking: SpikingGraph
    steps: int
    rate: float
    before: float
    after: float


def reconstruct(
    spiking: SpikingGraph,
    graph: PopulationGraph,
    images: FloatArray,
    options: Reconstruct,
    profile: Profile,
    *,
    progress: Progress | None = None,
) -> Reconstruction:
    """`spiking`, converted from `graph`, with trained weights and biases.

    images (N, ...): up to options.images of them are used, spread evenly. progress counts steps; a
    run that is interrupted goes on from options.checkpoint. Where training brought nothing, the
    network stays as it was. Raises InputError for an unusable checkpoint or device, and what
    `quantise` raises for `spiking` itself.
    """
    run = _Run(spiking, graph, images, options, profile)
    before = run.distance(run.student_of(spiking))
    run.resume()
    after = run.carried_out(progress)
    while after >= before and run.again():
        after = run.carried_out(progress)
    if after < before:
        return Reconstruction(run.student.spiking(), run.step, run.rate, before, after)
    return Reconstruction(spiking, run.step, 0.0, before, after)


class _DivergedError(Exception):
    """Training left the numbers."""


@final
class _Run:
    """Everything that changes from step to step, and the step."""

    def __init__(
        self,
        spiking: SpikingGraph,
        graph: PopulationGraph,
        images: FloatArray,
        options: Reconstruct,
        profile: Profile,
    ):
        device = _device(options)
        self._spiking, self._options, self._profile = spiking, options, profile
        count = min(len(images), options.images)
        # Spread over the whole set: calibration files are often sorted by class.
        chosen = images[round_down(np.linspace(0, len(images) - 1, count))]
        self._images = torch.from_numpy(np.array(chosen, dtype=np.float32)).to(device)
        self._teacher, self._outputs = FloatExecutor(graph, device), graph.outputs
        units = sum(int(np.prod(p.shape)) for p in graph.populations)
        self._batch = max(min(options.batch, count, MAX_VALUES // (KEPT * units)), 1)
        spreads = {name: Spread() for name in graph.outputs}
        with torch.no_grad():
            for part in torch.split(self._images, self._batch):
                for name, value in self._meant(part).items():
                    spreads[name].add(value)
            self._changes = (
                harmless(self._meant, self._images[:SHOWN], self._batch)
                if options.augment == "auto"
                else CHANGES[options.augment]
            )
        self._spreads = {name: found.size() for name, found in spreads.items()}
        self.student = self.student_of(spiking)
        self._moments = torch.zeros(2, len(self.student.values), device=device)
        self._grid: Grid | None = None
        self._key = _fingerprint(spiking, chosen, options, profile)
        self.step, self.rate = 0, RATES[0]
        self._per_epoch = -(-count // self._batch)
        self.steps = options.steps
        self._seconds, self._since = 0.0, time.monotonic()
        self._begun = 0.0

    def student_of(self, spiking: SpikingGraph) -> Student:
        """The network to train."""
        sizes = {name: float(size.mean()) for name, size in self._spreads.items()}
        return Student(spiking, sizes, self._images.device)

    def again(self) -> bool:
        """Back to the start, to try the next smaller rate; not where rates or time have run out.

        A network that starts near the float one is driven away from it by steps that one far from
        it needs: which it is, no property of it says beforehand.
        """
        smaller = [rate for rate in RATES if rate < self.rate]
        if not smaller or self._spent() > ENOUGH * self._options.seconds:
            return False
        self.rate, self.step, self.steps = smaller[0], 0, self._options.steps
        self.student = self.student_of(self._spiking)
        self._moments.zero_()
        self._grid, self._begun = None, self._spent()
        return True

    def advance(self) -> None:
        """One step of training."""
        marks = [int(fraction * self.steps) for fraction in ROUND]
        # Where steps were cut, the first mark may have been passed without notice.
        if self.step in marks or (self._grid is None and self.step > marks[0]):
            self._grid = self._rounding_of(self.student)
        images = self._drawn()
        with torch.no_grad():
            wanted = self._meant(images)
        self.student.gradient.zero_()
        loss = self._loss(self.student, images, wanted, self._grid)
        if not math.isfinite(float(loss.detach())):
            raise _DivergedError
        loss.backward()  # type: ignore[no-untyped-call]
        self._descend()
        self.step += 1
        if self.step % WATCH == 0:
            self._watch()
        if self.step % SAVED == 0:
            self.save()

    def carried_out(self, progress: Progress | None) -> float:
        """All steps; the distance after them, infinite for what diverged."""
        try:
            while self.step < self.steps:
                self.advance()
                if progress is not None:
                    progress(self.step, self.steps)
            self.save()
            return self.distance(self.student)
        except (_DivergedError, NetlistError, StateOverflowError):  # no netlist holds its numbers
            return math.inf

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if self._options.checkpoint is None:
            return
        count = 3 * len(self.student.values) + len(self._spiking.connections) + 2
        state = checkpoint.read(self._options.checkpoint, self._key, count)
        if state is None:
            return
        self.step, self.steps, self._seconds = state.step, state.steps, state.seconds
        numbers = torch.from_numpy(state.values).to(self._moments.device)
        size = len(self.student.values)
        parts = [size, 2 * size, numbers.numel() - 3 * size - 2, 2]
        values, moments, exponents, last = torch.split(numbers, parts)
        rate, self._begun = last.tolist()
        self.rate = min(RATES, key=lambda known: abs(known - rate))
        self.student.values.copy_(values)
        self._moments.copy_(moments.view_as(self._moments))
        if len(exponents) and exponents[0] >= 0:
            self._grid = self._grid_of([int(e) for e in exponents.tolist()])

    def save(self) -> None:
        """Write the checkpoint, if one is wanted."""
        if self._options.checkpoint is None:
            return
        none = [-1] * len(self._spiking.connections)
        exponents = none if self._grid is None else self._grid.exponents
        last = torch.tensor([*map(float, exponents), self.rate, self._begun])
        parts = (self.student.values, self._moments.flatten(), last)
        values = torch.cat([part.cpu() for part in parts]).numpy()
        state = checkpoint.State(self.step, self.steps, self._spent(), values)
        checkpoint.write(self._options.checkpoint, self._key, state)

    def _rounding_of(self, student: Student) -> Grid | None:
        """How a netlist of the network as it is now is rounded."""
        if self._spiking.hold:  # rate coding: steps and windows have scales of their own
            return None
        now = student.spiking()
        return self._grid_of(exponents_of(now, quantise(now, self._profile)))

    def _grid_of(self, exponents: list[int]) -> Grid:
        return Grid(self._spiking, exponents, self.student.maps(), self._profile)

    def _meant(self, images: Tensor) -> dict[str, Tensor]:
        """The float network's outputs."""
        activity = self._teacher.run(images)
        return {name: activity[name] for name in self._outputs}

    def _drawn(self) -> Tensor:
        """The images of this step."""
        options, (epoch, place) = self._options, divmod(self.step, self._per_epoch)
        ranks = order(options.seed, epoch, len(self._images))
        chosen = ranks[place * self._batch : (place + 1) * self._batch]
        images = self._images[chosen.to(self._images.device)]
        return augmented(images, options.seed, self.step, self._changes)

    def _loss(
        self, student: Student, images: Tensor, wanted: dict[str, Tensor], grid: Grid | None
    ) -> Tensor:
        found = student.run(images, grid)
        losses = [distance(found[n], value, self._spreads[n]) for n, value in wanted.items()]
        return torch.stack(losses).sum()

    def _descend(self) -> None:
        """Adam, on all parameters at once."""
        gradient, (mean, square) = self.student.gradient, self._moments
        mean.lerp_(gradient, 1 - DECAYS[0])
        square.lerp_(gradient.square(), 1 - DECAYS[1])
        first, second = (1 - decay ** (self.step + 1) for decay in DECAYS)
        done = self.step / self.steps
        rate = self.rate * min((self.step + 1) / (WARM * self.steps), 1.0)
        rate *= 0.5 + 0.5 * math.cos(math.pi * done)
        size = (square / second).sqrt_().add_(SMALLEST)
        self.student.values.addcdiv_(mean, size, value=-rate / first)

    def _spent(self) -> float:
        return self._seconds + time.monotonic() - self._since

    def _watch(self) -> None:
        """Plan fewer steps where the time is too short for all."""
        each = (self._spent() - self._begun) / self.step
        possible = self.step + max(int((self._options.seconds - self._spent()) / each), 0)
        self.steps = min(self.steps, possible)

    def distance(self, student: Student) -> float:
        """How far its outputs, as rounded, are from the float network's on the images as given."""
        grid, total = self._rounding_of(student), 0.0
        with torch.no_grad():
            for images in torch.split(self._images, self._batch):
                total += float(self._loss(student, images, self._meant(images), grid)) * len(images)
        return total / len(self._images)


def _device(options: Reconstruct) -> torch.device:
    there = torch.cuda.is_available()
    if options.device == "cuda" and not there:
        raise InputError(
            "option device",
            "the device is there",
            found="no CUDA device that torch can use",
            allowed="cpu, auto",
            remedy="Choose another device, or install a torch with CUDA.",
        )
    return torch.device("cuda" if there and options.device != "cpu" else "cpu")


def _fingerprint(
    spiking: SpikingGraph, images: FloatArray, options: Reconstruct, profile: Profile
) -> bytes:
    """SHA-256 of all that the result depends on, but for the time it is given."""
    given = {k: v for k, v in asdict(options).items() if k not in ("checkpoint", "seconds")}
    about = [spiking.steps, spiking.levels, spiking.sending, spiking.timing, profile.name, given]
    digest = hashlib.sha256(repr(about).encode())
    for p in spiking.populations:
        digest.update(repr((p.name, p.shape, p.model, p.initial, p.low, p.high)).encode())
        for values in (p.threshold, p.amplitude, p.count_scale, p.bias):
            digest.update(np.ascontiguousarray(values, "<f8").tobytes())
    for c in spiking.connections:
        digest.update(repr((c.source, c.target, c.map.pretty(), c.map.in_shape)).encode())
        digest.update(np.ascontiguousarray(c.map.weight, "<f8").tobytes())
    digest.update(np.ascontiguousarray(images, "<f4").tobytes())
    return digest.digest()
