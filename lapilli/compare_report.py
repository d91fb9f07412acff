"""What a comparison of compiled networks says: figures of each, ratios to the first, the front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple, final

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.compiler.pareto import undominated
from lapilli.runtime.uncertainty import Band, Figure, band


class Cost(NamedTuple):
    """What a front may be drawn against.

    value: a field of `Compared`; figure: its name in `Estimate.draws`, None of a count.
    """

    value: str
    figure: str | None
    title: str


COSTS: Mapping[str, Cost] = {
    "energy": Cost("single_total_pj", "single.total_pj", "total energy of one image alone"),
    "streaming": Cost(
        "streaming_total_pj", "streaming.total_pj", "total energy of an image, back to back"
    ),
    "dynamic": Cost("dynamic_pj", "total.dynamic_pj", "dynamic energy of an image, all layers"),
    "latency": Cost("latency_us", "single.time_us", "latency of one image alone"),
    "energy-delay": Cost(
        "energy_delay_pj_us", "single.energy_delay_pj_us", "energy times time of one image alone"
    ),
    "cores": Cost("cores", None, "cores"),
}


@final
@dataclass(frozen=True)
class Beside:
    """A network beside the first one: images of the same class, or that only one got right.

    None where classes are those of pixels or there are no labels. Energies and times are ratios,
    this one to the first, with the same draw of the constants for both: a constant that both rest
    on cancels out as far as it can. None where the first has none of it.
    """

    same_class: int | None
    only_this: int | None
    only_first: int | None
    dynamic_ratio: Band | None
    single_ratio: Band | None
    streaming_ratio: Band | None
    latency_ratio: Band | None
    energy_delay_ratio: Band | None


RATIOS = {
    "dynamic_ratio": "total.dynamic_pj",
    "single_ratio": "single.total_pj",
    "streaming_ratio": "streaming.total_pj",
    "latency_ratio": "single.time_us",
    "energy_delay_ratio": "single.energy_delay_pj_us",
}
"""Fields of `Beside` -> names of `Estimate.draws`."""


@final
@dataclass(frozen=True)
class Compared:
    """One network on the images; energies in pJ and times in us, of one inference.

    path, file_bytes: None of a network that is no file. levels: of every population that counts;
    steps: of a window. score: the share that is right (`Comparison.measure`); correct: images, None
    of pixels. synops, spikes, input_macs: means per image. dynamic_pj: of all layers;
    single_total_pj, latency_us, energy_delay_pj_us: of one image alone; streaming_total_pj,
    images_per_second: of images back to back, None where the profile knows no time. on_front: no
    other network is at least as good and costs no more, but for equal ones; front_share: in what
    share of the draws of the constants that is so. first: beside the first network, None of that
    one.
    """

    name: str
    path: str | None
    hash: str
    file_bytes: int | None
    method: str
    coding: str
    levels: Mapping[str, int] = field(hash=False)
    steps: int
    profile: str
    calibrated: bool
    correct: int | None
    score: float | None
    neurons: int
    synapses: int
    cores: int
    chips: int
    synops: float
    spikes: float
    input_macs: float
    dynamic_pj: Band
    single_total_pj: Band
    streaming_total_pj: Band
    latency_steps: int
    latency_us: Band
    images_per_second: Band | None
    energy_delay_pj_us: Band
    on_front: bool = False
    front_share: float | None = None
    first: Beside | None = None

    @property
    def coded(self) -> str:
        """Method and coding; once where they are the same word."""
        return self.method if self.coding == self.method else f"{self.method}, {self.coding}"

    def cost(self, against: str) -> Band:
        """What the front is drawn against, see COSTS."""
        found = getattr(self, COSTS[against].value)
        return found if isinstance(found, Band) else Band(*(float(found),) * 3)


@final
@dataclass(frozen=True)
class Comparison:
    """Networks on the same images, in the order in which they were given.

    measure: "accuracy", the share of images that are right, or of "pixels"; None without labels.
    against: the cost (COSTS) that the front is drawn against, by the middle of its bands; front:
    names, the cheapest first, empty without labels. notes: what a reader should know, in words.
    """

    images: int
    measure: str | None
    against: str
    front: tuple[str, ...]
    networks: tuple[Compared, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers with the field names as keys, for JSON."""
        found = asdict(self)
        return {**found, **{key: list(found[key]) for key in ("front", "networks", "notes")}}


def check_against(against: str) -> None:
    """Raise InputError for a cost that nobody knows."""
    if against not in COSTS:
        raise InputError(
            "against",
            "a front is drawn against a cost that is known",
            found=repr(against),
            allowed=", ".join(COSTS),
            remedy="Name one of these.",
        )


def ratio(figure: Figure, other: Figure) -> Band | None:
    """figure / other, draw by draw; None where the other is zero somewhere."""
    return band(figure / other) if np.all(other > 0) else None


def members(costs: Sequence[float], scores: Sequence[float]) -> tuple[int, ...]:
    """Indices on the front, the cheapest first; equal points are all on it.

    >>> members([2.0, 1.0, 3.0, 1.0], [0.9, 0.8, 0.9, 0.8])
    (1, 3, 0)
    """
    found = undominated(range(len(costs)), costs.__getitem__, scores.__getitem__)
    return tuple(
        other
        for index in found
        for other in range(len(costs))
        if (costs[other], scores[other]) == (costs[index], scores[index])
    )


def front_shares(costs: Sequence[Figure], scores: Sequence[float]) -> tuple[float, ...]:
    """For every network the share of draws in which it is on the front; costs: (1 + draws,) each.

    The same draw of the constants prices all networks, as the constants are the same on one chip.
    """
    drawn, right = np.stack(costs)[:, 1:], np.array(scores)[:, None]
    shares = []
    for cost, score in zip(drawn, right, strict=True):
        # As `members` has it, for all draws at once.
        as_good, better = (drawn <= cost) & (right >= score), (drawn < cost) | (right > score)
        shares.append(float((~(as_good & better).any(0)).mean()))
    return tuple(shares)
