"""Several compiled networks on the same images: each runs once, which scores, counts and prices.

`lapilli.compare` and `lapilli compare` are made of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt

import lapilli
from lapilli import network_inputs, placed_estimate, reports, scores
from lapilli.chips import chip_of
from lapilli.compare_notes import notes
from lapilli.compare_report import (
    COSTS,
    RATIOS,
    Beside,
    Compared,
    Comparison,
    check_against,
    front_shares,
    members,
    ratio,
)
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError, LapilliError
from lapilli.compiler.outputs import VOID
from lapilli.hardware_profiles import Profile, ProfileError
from lapilli.runtime.metrics import PopulationEvents, totals
from lapilli.runtime.trace import Trace
from lapilli.runtime.uncertainty import DRAWS, Figure

if TYPE_CHECKING:
    from lapilli.runtime.energy import Estimate

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Progress = Callable[[str, int, int], None]
Model = Artifact | str | Path
_PER_SECOND = 1e6


@final
@dataclass(frozen=True, eq=False)
class Entry:
    """One network that is compared, under the name that people see."""

    name: str
    path: Path | None
    artifact: Artifact

    @property
    def where(self) -> str:
        """What messages call it."""
        return str(self.path or self.name)


@final
@dataclass(frozen=True)
class Rules:
    """How all networks are measured.

    placed: put each on cores first, with what the images make it send; against: one of COSTS;
    without: constants to leave out, as `lapilli.estimate` does; score: the output whose classes
    are compared with the labels, None where there is only one.
    """

    placed: bool = False
    against: str = "energy"
    without: tuple[str, ...] = ()
    score: str | None = None

    def __post_init__(self) -> None:
        check_against(self.against)


@final
@dataclass(frozen=True, eq=False)
class _Measured:
    """A row, with what it is compared by: classes (N, ...) and draws of its figures.

    chip: whose constants price it, which several systems may be built of.
    """

    row: Compared
    chip: str
    classes: Labels | None
    draws: Mapping[str, Figure]


def compare(
    models: Sequence[Model] | Mapping[str, Model],
    images: Images,
    labels: Labels | None = None,
    *,
    profile: Profile | None = None,
    placed: bool = False,
    against: str = "energy",
    without: Sequence[str] = (),
    score: str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Accuracy, size, energy and time of networks on the same images, and their Pareto front.

    models: artifacts or paths of model files; a mapping names them. images: (N, ...) before the
    normalisation that each file remembers. labels: (N,), or (N, H, W) of pixels; without them
    there is no front. profile: the chip of all, None for the one that each was compiled for;
    placed, against, without, score: of `Rules`; progress: called with (stage, done, total).

    Raises InputError for a network that does not fit the images or labels and for one given twice,
    and what reading, placing and pricing raise, always with the network's name.
    """
    rules = Rules(placed, against, tuple(without), score)
    return compare_entries(read(models), images, labels, profile, rules, progress)


def compare_entries(
    entries: Sequence[Entry],
    images: Images,
    labels: Labels | None,
    profile: Profile | None,
    rules: Rules,
    progress: Progress | None,
) -> Comparison:
    """`compare`, of networks that were read before there were images."""
    truth = _labels(labels, images)
    priced = [(e, chip_of(e.artifact, profile, f"{e.where}: profile")) for e in entries]
    # What can be refused at once is refused before minutes of counting.
    for entry, chip in priced:
        _try(entry, images, truth, chip, rules)
    measured = [_measured(e, images, truth, chip, rules, progress) for e, chip in priced]
    return _together(measured, len(images), truth, rules)


def read(models: Sequence[Model] | Mapping[str, Model]) -> list[Entry]:
    """Artifacts or model files with their names. Raises InputError, ArtifactError."""
    if isinstance(models, (str, Path)):
        models = [models]  # a text is a sequence of letters
    given = list(models.values()) if isinstance(models, Mapping) else list(models)
    if not given:
        raise _refused("models", "there is something to compare", "no network", "one or more")
    for index, model in enumerate(given):
        first = next(i for i, other in enumerate(given) if _same(model, other))
        if first < index:
            name = f"network {index + 1}" if isinstance(model, Artifact) else str(model)
            raise _refused(name, "every network is given once", "the same one again", "one of it")
    names = list(models) if isinstance(models, Mapping) else _names(given)
    return [
        Entry(name, None, model)
        if isinstance(model, Artifact)
        else Entry(name, Path(model), lapilli.load(model))
        for name, model in zip(names, given, strict=True)
    ]


def _same(model: Model, other: Model) -> bool:
    if isinstance(model, Artifact) or isinstance(other, Artifact):
        return model is other
    first, second = Path(model), Path(other)
    if first.exists() and second.exists():
        return first.samefile(second)
    return first == second


def _names(models: Sequence[Model]) -> list[str]:
    """Files without folder and ending where these tell them apart, else as they were given."""
    names = [
        f"network {index + 1}" if isinstance(model, Artifact) else Path(model).stem
        for index, model in enumerate(models)
    ]
    return [
        name if isinstance(model, Artifact) or names.count(name) == 1 else str(model)
        for name, model in zip(names, models, strict=True)
    ]


def _labels(labels: npt.NDArray[Any] | None, images: Images) -> Labels | None:
    """Raise InputError unless there is a label for every image."""
    if len(images) == 0:
        raise _refused("images", "networks are compared on images", "none", "one or more")
    if labels is None:
        return None
    found = np.asarray(labels)
    if len(found) != len(images) or found.ndim not in (1, 3) or found.dtype.kind not in "iu":
        raise _refused(
            "labels",
            "there is one class number per image, or per pixel",
            f"{found.dtype} of shape {found.shape} for {len(images)} images",
            f"integers ({len(images)},) or ({len(images)}, height, width)",
        )
    wide = found.astype(np.int64)
    if wide.min(initial=0) < 0:  # of an unsigned number that is too large, too
        allowed = "0 or more; in maps 255 for pixels of no class"
        raise _refused(
            "labels", "classes are numbered from 0", f"{found.min()}..{found.max()}", allowed
        )
    if wide.ndim == 3 and np.all(wide == VOID):
        raise _refused("labels", "some pixels are of a class", f"{VOID} everywhere", "0..254")
    return wide


@contextmanager
def _of(entry: Entry) -> Iterator[None]:
    """Every refusal says which network it is about."""
    try:
        yield
    except (LapilliError, ProfileError) as error:
        raise type(error)(
            f"{entry.where}: {error.where}",
            error.rule,
            found=error.found,
            allowed=error.allowed,
            remedy=error.remedy,
        ) from error


def _try(entry: Entry, images: Images, labels: Labels | None, chip: Profile, rules: Rules) -> None:
    """Does it fit on cores? And one image: does it take that, know the classes, have a price?"""
    with _of(entry):
        runs = placed_estimate.fitting(entry.artifact, chip) if rules.placed else entry.artifact
        trace = lapilli.run(
            runs, network_inputs.normalised(entry.artifact, images[:1]), record="outputs"
        )
        lapilli.estimate_events(runs, trace, profile=chip, without=rules.without)
        if labels is not None:
            _check_classes(runs, trace, labels, rules.score)


def _check_classes(artifact: Artifact, trace: Trace, labels: Labels, score: str | None) -> None:
    """Raise InputError unless the first image's outputs are of the labels' classes."""
    found = scores.choose(artifact.outputs, trace.named_outputs, labels[:1], score)
    if found.classes is None or found.output is None:
        raise _refused(
            "outputs",
            "the network gives classes like the labels",
            found.reason,
            f"classes of shape {labels[:1].shape[1:] or 'one per image'}",
        )
    values = trace.named_outputs[found.output]
    known = values.shape[1] if values.ndim in (2, 4) and values.dtype.kind == "f" else None
    most = int(labels[(labels != VOID) | (labels.ndim == 1)].max(initial=0))
    if known is not None and most >= max(known, 2):  # a single score tells two classes apart
        raise _refused(
            f"output {found.output}",
            "the network knows the classes of the labels",
            f"{known} classes, and a label {most}",
            f"more than {most} classes",
        )


def _measured(
    entry: Entry,
    images: Images,
    labels: Labels | None,
    chip: Profile,
    rules: Rules,
    progress: Progress | None,
) -> _Measured:
    """One run of the network: its classes, its events, and what these cost."""

    def told(stage: str, done: int, total: int) -> None:
        if progress is not None:
            progress(f"{entry.name}: {stage}", done, total)

    with _of(entry):
        artifact, layout = entry.artifact, None
        prepared = network_inputs.normalised(artifact, images)
        runs = placed_estimate.on_chip(artifact, chip) if rules.placed else artifact
        found = reports.evaluate(
            runs,
            prepared,
            labels=labels,
            score=None if labels is None else rules.score,
            agreement_images=0,
            progress=partial(told, "counting events"),
        )
        if rules.placed:
            layout = placed_estimate.layout_of(
                artifact, found.events, prepared, chip, progress=told
            )
        counted = Trace("reference", np.zeros(0), {}, {}, events=found.events)
        estimate = lapilli.estimate_events(
            runs, counted, profile=chip, without=rules.without, layout=layout
        )
        row = _row(entry, found.events, estimate)
        accuracy = scores.accuracy(found.predictions, labels)
        pixels = scores.segmentation(found.predictions, labels)
        if accuracy is not None:
            row = replace(row, correct=accuracy["correct"], score=accuracy["fraction"])
        elif pixels is not None:
            row = replace(row, score=pixels["fraction"])
        named = chip.name if chip.system is None else chip.system.chip
        return _Measured(row, named, found.predictions, estimate.draws)


def _row(entry: Entry, events: Mapping[str, PopulationEvents], estimate: Estimate) -> Compared:
    origin, counted = entry.artifact.provenance, totals(events)
    found = {p.name: getattr(p.neuron, "levels", None) for p in entry.artifact.netlist.populations}
    return Compared(
        name=entry.name,
        path=None if entry.path is None else str(entry.path),
        hash=entry.artifact.hash,
        file_bytes=None if entry.path is None else entry.path.stat().st_size,
        method=origin.method,
        coding=_coding(entry.artifact),
        levels={name: levels for name, levels in found.items() if levels is not None},
        steps=entry.artifact.netlist.steps,
        profile=estimate.profile,
        calibrated=estimate.calibrated,
        correct=None,
        score=None,
        neurons=counted.neurons,
        synapses=counted.synapses,
        cores=estimate.cores,
        chips=estimate.chips,
        synops=counted.synops_per_image,
        spikes=counted.spikes_per_image,
        input_macs=counted.input_macs_per_image,
        dynamic_pj=estimate.total.dynamic_pj,
        single_total_pj=estimate.single.total_pj,
        streaming_total_pj=estimate.streaming.total_pj,
        latency_steps=estimate.single.steps,
        latency_us=estimate.single.time_us,
        images_per_second=ratio(
            np.full(1 + DRAWS, _PER_SECOND), estimate.draws["streaming.time_us"]
        ),
        energy_delay_pj_us=estimate.single.energy_delay_pj_us,
    )


def _coding(artifact: Artifact) -> str:
    """As a search names codings: graded, unary, or the method where that is how it sends."""
    chosen = artifact.provenance.options.get("coding")
    if chosen is not None:
        return str(chosen)
    if artifact.provenance.method in ("rate", "sigma-delta"):
        return artifact.provenance.method
    return "graded" if artifact.netlist.graded else "binary"


def _together(
    measured: list[_Measured], images: int, labels: Labels | None, rules: Rules
) -> Comparison:
    first = measured[0]
    rows = [first.row, *(replace(m.row, first=_beside(m, first, labels)) for m in measured[1:])]
    right = [row.score for row in rows if row.score is not None]
    on_front: tuple[int, ...] = ()
    if len(right) == len(rows):
        figure = COSTS[rules.against].figure
        costs = [row.cost(rules.against).mid for row in rows]
        on_front = members(costs, right)
        shares: Sequence[float] = [float(index in on_front) for index in range(len(rows))]
        if figure is not None:
            shares = front_shares([m.draws[figure] for m in measured], right)
        rows = [
            replace(row, on_front=index in on_front, front_share=share)
            for index, (row, share) in enumerate(zip(rows, shares, strict=True))
        ]
    measure = None if labels is None else ("accuracy" if labels.ndim == 1 else "pixels")
    front = tuple(rows[index].name for index in on_front)
    chips: dict[str, list[str]] = {}
    for m in measured:
        chips.setdefault(m.chip, []).append(m.row.name)
    told = tuple(notes(rows, chips, images, measure, rules.against, rules.without))
    return Comparison(images, measure, rules.against, front, tuple(rows), told)


def _beside(this: _Measured, first: _Measured, labels: Labels | None) -> Beside:
    ours, theirs = this.classes, first.classes
    same = only_this = only_first = None
    if ours is not None and theirs is not None and ours.ndim == 1 and ours.shape == theirs.shape:
        same = int((ours == theirs).sum())
        if labels is not None:
            only_this = int(((ours == labels) & (theirs != labels)).sum())
            only_first = int(((ours != labels) & (theirs == labels)).sum())
    ratios = {key: ratio(this.draws[name], first.draws[name]) for key, name in RATIOS.items()}
    return Beside(same, only_this, only_first, **ratios)


def _refused(where: str, rule: str, found: object, allowed: str) -> InputError:
    return InputError(
        where,
        rule,
        found=found,
        allowed=allowed,
        remedy="Compare networks that were compiled for the same images and classes, each once.",
    )
