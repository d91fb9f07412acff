"""What was counted while a network ran: events per population, and their totals.

Counts are exact integers, summed over all images; per-image figures divide at the very end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import final

from lapilli.compiler.errors import InputError


@final
@dataclass(frozen=True)
class PopulationEvents:
    """Events of one population over `images` inferences.

    neurons: its size; steps: time steps per inference in which its neurons are updated;
    spikes: messages sent; synops: synaptic events arriving over spike connections;
    input_macs: multiply-accumulates of the analog input arriving; neuron_updates: updates done;
    synapses: stored or shared synapses arriving. All but neurons, steps and synapses are summed
    over the images.
    """

    neurons: int
    steps: int
    images: int
    spikes: int
    synops: int
    input_macs: int
    neuron_updates: int
    synapses: int


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
