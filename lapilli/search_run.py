"""One search under way: candidates compiled and measured, until the goal is bracketed."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt

import lapilli
from lapilli import scores
from lapilli.compiler import Measured, convert_measured
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import (
    InputError,
    NetlistError,
    StateOverflowError,
    UnsupportedOperatorError,
)
from lapilli.compiler.outputs import plain, returned
from lapilli.compiler.pareto import FrontPoint, Measure, front_of
from lapilli.compiler.passes.mixed_levels import counting, written
from lapilli.compiler.storage import Option
from lapilli.held_out import HeldOut
from lapilli.level_paths import EnergyModel, Mixture, Uniform, mixtures, uniform
from lapilli.runtime.trace import Trace
from lapilli.search_options import CODINGS, Goal
from lapilli.sensitivity import Errors, sensitivity

if TYPE_CHECKING:
    from lapilli.compiler.da_qcfs_options import DAQCFS
    from lapilli.compiler.reconstruction.options import Reconstruct
    from lapilli.hardware_profiles import Profile

_PJ = 1e-12
_US = 1e-6
BATCH = 64
BETWEEN = 4
"""Mixtures measured beside those that are bisected, evenly along the path."""
Progress = Callable[[str, int, int], None]
_REFUSED = (NetlistError, StateOverflowError, UnsupportedOperatorError)
"""What a chip may say to a coding, or to so many levels; another one may do."""


@final
@dataclass(frozen=True, eq=False)
class Search:
    """What was found.

    artifact: the chosen network, with the front in its provenance; front: the measured networks
    that none equals or beats, cheapest first; candidates: all that were measured, in their order;
    sensitivity: population -> level -> distance of the outputs from the float network's with that
    level there alone (empty where nothing mixed was asked for); dropped: codings that were not
    searched to the end -> why; complete: did time allow all that was planned? float_score: the
    float network's own score on the same images (1 for agreement).
    """

    artifact: Artifact
    front: tuple[FrontPoint, ...]
    candidates: tuple[FrontPoint, ...]
    sensitivity: Mapping[str, Mapping[int, float]]
    dropped: Mapping[str, str]
    complete: bool
    float_score: float
    seconds: float

    @property
    def chosen(self) -> FrontPoint:
        """The point of the artifact."""
        return next(p for p in self.front if p.chosen)


@final
@dataclass(frozen=True, eq=False)
class Task:
    """What is searched, and within which bounds.

    options: of all methods alike; seconds: no candidate is begun that would probably not be done
    by then (the first is, in any case).
    """

    profile: Profile
    goal: Goal
    levels: tuple[int, ...]
    codings: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    calibrate: str | DAQCFS | Reconstruct | None = None
    seconds: float = 600.0
    seed: int = 0


class OutOfTimeError(Exception):
    """The next candidate would not be done in time."""


@final
class Run:
    """Everything measured so far."""

    def __init__(
        self,
        measured: Measured,
        held_out: HeldOut,
        task: Task,
        start: float,
        progress: Progress | None,
        tell: Callable[[FrontPoint], None] | None,
    ):
        self.measured, self.task, self.start = measured, task, start
        self.names = counting(measured.populations)
        self.images = held_out.images
        classes = _float_classes(measured, held_out)
        self.truth = classes if held_out.labels is None else held_out.labels
        self.measure: Measure = "agreement" if held_out.labels is None else "accuracy"
        self.float_score = _share(classes, self.truth)
        self.points: dict[tuple[str, tuple[int, ...]], FrontPoint] = {}
        self.uniform: dict[tuple[str, int], Uniform] = {}
        self.best: tuple[FrontPoint, Artifact] | None = None
        self.errors: Errors = {}
        self.dropped: dict[str, str] = {}
        self.refusal: Exception | None = None
        self.longest = 0.0
        self.planned = len(task.levels)
        self.progress, self.tell = progress, tell

    def everything(self) -> None:
        """All codings, one after the other."""
        for coding in self.task.codings:
            if self.points and self._hopeless(coding):
                continue
            runs = self._uniform(coding)
            if len(runs) > 1 and len(self.names) > 1 and CODINGS[coding].mixes:
                self._mixed(coding, runs)
        if not self.points and self.refusal is not None:
            raise self.refusal

    def _hopeless(self, coding: str) -> bool:
        """Is it dearer and no better at the fewest levels and in the middle? Then it is dropped."""
        levels = CODINGS[coding].levels or self.task.levels
        for level in dict.fromkeys((levels[0], levels[len(levels) // 2])):
            others = list(self.points.values())
            found = self._level(coding, level)
            if found is not None and found in front_of([*others, found]):
                return False
        self.dropped.setdefault(
            coding, "no better and no cheaper at two levels than what was measured before"
        )
        return True

    def _uniform(self, coding: str) -> list[Uniform]:
        """The same level everywhere, for all levels."""
        made = CODINGS[coding]
        levels = made.levels or self.task.levels
        for level in levels:
            found = self._level(coding, level)
            # More steps cost more: beyond the goal lies nothing that is wanted.
            if found is None or not (made.mixes or self.task.goal.wants_more(found)):
                break
        runs = (self.uniform.get((coding, level)) for level in levels)
        return [run for run in runs if run is not None]

    def _level(self, coding: str, level: int) -> FrontPoint | None:
        """One level everywhere; None, and a word on why, where the chip or the method refuses."""
        try:
            return self._candidate(coding, dict.fromkeys(self.names, level), level)
        except _REFUSED as error:
            self.dropped.setdefault(coding, f"from {level} levels on: {error}")
            self.refusal = self.refusal or error
            return None

    def _mixed(self, coding: str, runs: list[Uniform]) -> None:
        """Bisect the mixtures for the goal."""
        model = EnergyModel(runs, self.names, self.task.profile)
        path = mixtures(model, self._errors(model.levels))
        low, high = 0, len(path)
        self.planned = len(self.points) + len(path).bit_length() + BETWEEN
        while low < high:
            middle = (low + high) // 2
            found = self._mixture(coding, path[middle])
            # Towards more energy while too few are right, or while there is energy left.
            if found is not None and self.task.goal.wants_more(found):
                low = middle + 1
            else:
                high = middle
        for part in range(1, BETWEEN + 1):  # so that the front says what else there is
            self._mixture(coding, path[part * len(path) // (BETWEEN + 1)])

    def _mixture(self, coding: str, mixture: Mixture) -> FrontPoint | None:
        try:
            return self._candidate(coding, dict(zip(self.names, mixture.levels, strict=True)))
        except _REFUSED:
            return None

    def _errors(self, levels: Sequence[int]) -> npt.NDArray[np.float64]:
        """(populations, levels): what each costs; measured once, for all levels."""
        every = self.task.levels
        if not self.errors:
            report = self.progress
            self.errors = sensitivity(
                self.measured,
                every,
                CODINGS["graded"].options(every[0], self.task.options),
                macs=sum(self.best[1].provenance.ann_macs.values()) if self.best else 0,
                progress=None if report is None else lambda n, of: report("sensitivity", n, of),
            )
        columns = [every.index(level) for level in levels]
        return np.array([self.errors[name] for name in self.names])[:, columns]

    def _candidate(
        self, coding: str, levels: Mapping[str, int], level: int | None = None
    ) -> FrontPoint:
        """Compile and measure, unless that was done; level: where it is the same everywhere."""
        made = CODINGS[coding]
        key = coding, tuple(levels.values()) if made.mixes else (level or 0,)
        if key in self.points:
            return self.points[key]
        self._wait_no_longer()
        before = time.monotonic()
        common = level or Counter(levels.values()).most_common(1)[0][0]
        options = made.options(common, self.task.options)
        if made.mixes:
            others = {name: n for name, n in levels.items() if n != common}
            options = replace(options, mixed=written(others))
        artifact = convert_measured(
            self.measured, options, self.task.profile, calibrate=self.task.calibrate
        )
        trace = lapilli.run(artifact, self.images, record="outputs", seed=self.task.seed)
        point = self._point(coding, levels if made.mixes else {}, artifact, trace)
        if level is not None and made.mixes:
            latency = point.latency_steps
            self.uniform[coding, level] = uniform(
                level, artifact.netlist, latency, trace.events, self.names
            )
        self.points[key] = point
        if self.best is None or self.task.goal.better(point, self.best[0]):
            self.best = point, artifact
        self.longest = max(self.longest, time.monotonic() - before)
        self._tell(point)
        return point

    def _tell(self, point: FrontPoint) -> None:
        if self.tell is not None:
            self.tell(point)
        if self.progress is not None:
            done = len(self.points)
            self.progress("candidates", done, max(self.planned, done + 1))

    def _wait_no_longer(self) -> None:
        spent = time.monotonic() - self.start
        if self.points and spent + self.longest > self.task.seconds:
            raise OutOfTimeError

    def _point(
        self, coding: str, levels: Mapping[str, int], artifact: Artifact, trace: Trace
    ) -> FrontPoint:
        classes = _classes(artifact.outputs, trace.named_outputs, self.truth)
        estimate = lapilli.estimate_events(artifact, trace, profile=self.task.profile)
        energy = estimate.single.total_pj
        return FrontPoint(
            method=artifact.provenance.method,
            coding=coding,
            levels=dict(levels),
            steps=artifact.netlist.steps,
            score=_share(classes, self.truth),
            measure=self.measure,
            images=len(self.images),
            energy_low_j=energy.low * _PJ,
            energy_mid_j=energy.mid * _PJ,
            energy_high_j=energy.high * _PJ,
            latency_steps=estimate.single.steps,
            latency_s=estimate.single.time_us.mid * _US,
        )

    def result(self, complete: bool) -> Search:
        """The chosen network with the front in its provenance. Raises InputError without one."""
        points = list(self.points.values())
        assert self.best is not None
        best, found = self.best
        if not self.task.goal.met(best):
            limit = "" if complete else f", ended after {self.task.seconds:g} s"
            raise self.task.goal.missed(best, len(points), self.float_score, limit)
        front = tuple(replace(p, chosen=True) if p == best else p for p in front_of(points))
        searched: dict[str, Option] = {
            **self.task.goal.recorded(),
            "candidates": len(points),
            "complete": complete,
            "float_score": self.float_score,
            "held_out_hash": hashlib.sha256(self.images.astype("<f4").tobytes()).hexdigest(),
            "seed": self.task.seed,
        }
        provenance = replace(found.provenance, search=searched, front=front)
        errors = {
            name: dict(zip(self.task.levels, values, strict=True))
            for name, values in self.errors.items()
        }
        return Search(
            artifact=replace(found, provenance=provenance),
            front=front,
            candidates=tuple(points),
            sensitivity=errors,
            dropped=dict(self.dropped),
            complete=complete,
            float_score=self.float_score,
            seconds=time.monotonic() - self.start,
        )


def _float_classes(measured: Measured, held_out: HeldOut) -> npt.NDArray[np.int64]:
    """What the float network says of the held-out images."""
    import torch

    from lapilli.compiler.execute import FloatExecutor

    graph = measured.populations
    executor = FloatExecutor(graph, torch.device("cpu"))
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in graph.outputs}
    with torch.no_grad():
        for at in range(0, len(held_out.images), BATCH):
            batch = torch.from_numpy(np.array(held_out.images[at : at + BATCH]))
            for name, value in executor.stream(batch):
                if name in parts:
                    parts[name].append(value.numpy())
    whole = [np.concatenate(parts[name]) for name in graph.outputs]
    outputs = measured.graph.returned or plain([v.shape[1:] for v in whole])
    values = {o.name: returned(o, whole[o.readout]) for o in outputs}
    return _classes(outputs, values, held_out.labels)


def _classes(
    outputs: Sequence[Any],
    values: Mapping[str, npt.NDArray[Any]],
    truth: npt.NDArray[np.int64] | None,
) -> npt.NDArray[np.int64]:
    """Raises InputError where no output gives classes."""
    scored = scores.choose(outputs, values, truth)
    if scored.classes is None:
        raise InputError(
            "search",
            "accuracy is that of classes",
            found=scored.reason,
            allowed="one output with scores of classes",
            remedy="Compile with --method, and compare outputs with `lapilli blame`.",
        )
    return scored.classes


def _share(classes: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    """Images, or pixels, of the right class."""
    found = scores.accuracy(classes, truth) or scores.segmentation(classes, truth)
    assert found is not None
    return float(found["fraction"])
