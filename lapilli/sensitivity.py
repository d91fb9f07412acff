"""What fewer levels cost: each population alone with few levels in the float network.

Only calibration images are used, and no labels: the error is the distance of the outputs from the
float network's that the reconstruction trains with (`reconstruction.distance`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from lapilli.compiler import Measured
from lapilli.compiler.compensate import levelled
from lapilli.compiler.execute import FloatExecutor, active
from lapilli.compiler.numerics import round_down
from lapilli.compiler.passes.convert_parallel import Parallel, convert_parallel
from lapilli.compiler.passes.mixed_levels import counting
from lapilli.compiler.populations import Population, PopulationGraph
from lapilli.compiler.reconstruction.distance import Spread, distance

MOST_IMAGES, LEAST_IMAGES = 64, 4
MOST_VALUES = 2**27
"""Images are reduced until the activity kept is below this many floats (512 MiB)."""
MOST_MACS = 5e12
"""And until all runs together are below this many multiply-accumulates: about a minute."""

Errors = Mapping[str, tuple[float, ...]]
"""Population -> distance of the outputs at each of the levels asked for."""


def sensitivity(
    measured: Measured,
    levels: Sequence[int],
    options: Parallel,
    *,
    macs: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Errors:
    """For every population that counts, the error with `levels` there and no rounding elsewhere.

    options: how levels are chosen (clip, per_channel); macs: of one run of the network.
    """
    names = counting(measured.populations)
    run = _Run(measured, _images(measured, macs * len(names) * len(levels) / 2))
    found: dict[str, list[float]] = {name: [] for name in names}
    with torch.no_grad():
        for index, count in enumerate(levels):
            chosen = Parallel(
                levels=count,
                clip=options.clip,
                percentile=options.percentile,
                per_channel=options.per_channel,
            )
            spiking = convert_parallel(measured.populations, measured.ranges, chosen)
            neurons = {p.name: p for p in spiking.populations}
            for place, name in enumerate(names):
                p = measured.populations[name]
                drive = run.executor.drive(p, run.clean)
                value = levelled(spiking, neurons[name], drive, run.clean[name])
                found[name].append(run.error(name, value))
                if progress is not None:
                    progress(index * len(names) + place + 1, len(levels) * len(names))
    return {name: tuple(errors) for name, errors in found.items()}


def _images(measured: Measured, macs: float) -> Tensor:
    """As many images as memory and time allow, spread over the calibration set."""
    units = sum(int(np.prod(p.shape)) for p in measured.populations.populations)
    affordable = int(round_down(MOST_MACS / (macs + 1)))
    most = max(min(MOST_IMAGES, MOST_VALUES // (2 * units), affordable), LEAST_IMAGES)
    count = min(len(measured.images), most)
    index = round_down(np.linspace(0, len(measured.images) - 1, count))
    return torch.from_numpy(np.array(measured.images[index], dtype=np.float32))


@final
class _Run:
    """The float network's activity on the images, and what becomes of a change."""

    def __init__(self, measured: Measured, images: Tensor):
        self._graph = measured.populations
        self.executor = FloatExecutor(self._graph, torch.device("cpu"))
        with torch.no_grad():
            self.clean = self.executor.run(images)
        self._sizes: dict[str, Tensor] = {}
        for name in self._graph.outputs:
            spread = Spread()
            spread.add(self.clean[name])
            self._sizes[name] = spread.size()

    def error(self, name: str, value: Tensor) -> float:
        """Distance of the outputs where one population's activity is `value` instead."""
        changed = {**self.clean, name: value}
        for p in _behind(self._graph, name):
            changed[p.name] = active(p, self.executor.drive(p, changed))
        return sum(
            float(distance(changed[output], self.clean[output], size))
            for output, size in self._sizes.items()
        )


def _behind(graph: PopulationGraph, name: str) -> list[Population]:
    """Populations that a change of this one reaches, in order."""
    reached, found = {name}, []
    for p in graph.populations:
        if any(c.source in reached for c in graph.into(p.name)):
            reached.add(p.name)
            found.append(p)
    return found
