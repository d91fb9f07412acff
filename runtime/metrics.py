"""What was counted while a network ran: events per population, and their totals.

Counts are exact integers, summed over all images; per-image figures divide at the very end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import final

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.compiler.numerics import Int64Array


@final
@dataclass(frozen=True)
class PopulationEvents:
    """Events of one population over `images` inferences.

    neurons: its size; steps: time steps per inference in which its neurons are updated;
    spikes: messages sent; synops: synaptic events arriving over spike connections;
    input_macs: multiply-accumulates of the analog input arriving; neuron_updates: updates done;
    synapses: stored or shared synapses arriving. All but neurons, steps and synapses are summed
    over the images. None where nobody counted: synops_excitatory, synops_inhibitory: those over
    positive and negative weights; synops_graded: those that bring a payload of a population that
    can send more than -1, 0 and 1; updates_with_input: those whose drive is not zero, the others
    are idle.
    """

    neurons: int
    steps: int
    images: int
    spikes: int
    synops: int
    input_macs: int
    neuron_updates: int
    synapses: int
    synops_excitatory: int | None = None
    synops_inhibitory: int | None = None
    synops_graded: int | None = None
    updates_with_input: int | None = None


@final
@dataclass(frozen=True, eq=False)
class ImageEvents:
    """Events of one population in each image, (N,) each; the sums are its `PopulationEvents`."""

    spikes: Int64Array
    synops: Int64Array
    input_macs: Int64Array


_PERCENTILES = (5, 50, 95, 99)


@final
@dataclass(frozen=True)
class Spread:
    """How a count varies over the images: percentiles are counts that occurred."""

    mean: float
    least: int
    p5: int
    p50: int
    p95: int
    p99: int
    most: int


@final
@dataclass(frozen=True)
class Totals:
    """Sums over all populations; events are means per image, without rounding."""

    neurons: int
    synapses: int
    images: int
    spikes_per_image: float
    synops_per_image: float
    input_macs_per_image: float
    neuron_updates_per_image: float


_OPTIONAL = [f.name for f in fields(PopulationEvents) if f.default is None]


def check_events(events: Mapping[str, PopulationEvents]) -> int:
    """The number of images. Raises InputError unless the events can be counts of one run."""
    if not events:
        raise InputError(
            "events",
            "at least one population was counted",
            found=0,
            allowed=">= 1",
            remedy="Run on the reference engine: it counts events.",
        )
    images = next(iter(events.values())).images
    for name, e in events.items():
        for field in fields(e):
            if getattr(e, field.name) is None and field.name in _OPTIONAL:
                continue
            least = 1 if field.name in ("neurons", "steps", "images") else 0
            value = getattr(e, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(
                    f"{name}.{field.name}",
                    "an event count is an integer that is large enough",
                    found=repr(value),
                    allowed=f">= {least}",
                    remedy="Count again with this version on the reference engine.",
                )
        if e.images != images:
            raise InputError(
                f"{name}.images",
                "all populations are counted over the same images",
                found=e.images,
                allowed=images,
                remedy="Take all events from one run.",
            )
    return images


def totals(events: Mapping[str, PopulationEvents]) -> Totals:
    """Sums over populations, events as means per image. Raises InputError as check_events."""
    images = check_events(events)
    every = events.values()
    return Totals(
        neurons=sum(e.neurons for e in every),
        synapses=sum(e.synapses for e in every),
        images=images,
        spikes_per_image=sum(e.spikes for e in every) / images,
        synops_per_image=sum(e.synops for e in every) / images,
        input_macs_per_image=sum(e.input_macs for e in every) / images,
        neuron_updates_per_image=sum(e.neuron_updates for e in every) / images,
    )


def spread(counts: Int64Array) -> Spread:
    """Mean, extremes and percentiles of one count over the images, (N,)."""
    p5, p50, p95, p99 = map(int, np.percentile(counts, _PERCENTILES, method="inverted_cdf"))
    return Spread(float(counts.mean()), int(counts.min()), p5, p50, p95, p99, int(counts.max()))


def together(events: Mapping[str, ImageEvents]) -> ImageEvents:
    """The events of all populations in each image."""
    parts = list(events.values())
    kinds = ([getattr(part, field.name) for part in parts] for field in fields(ImageEvents))
    return ImageEvents(*(np.sum(kind, axis=0) for kind in kinds))
