"""What the commands say, as plain dicts: `--json` prints them, `render` turns them into tables."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, final

import numpy as np
import numpy.typing as npt

import lapilli
from lapilli import counted_events, scores
from lapilli.chips import chip_of
from lapilli.compiler.linear import Sparse
from lapilli.compiler.netlist import Netlist, Population
from lapilli.compiler.neurons import STATE_BITS, MultiThreshold
from lapilli.compiler.outputs import NO_HEAD, Output
from lapilli.compiler.schedule import schedule
from lapilli.data import Dataset
from lapilli.hardware_profiles import CONFIDENCES
from lapilli.runtime import readout as reading
from lapilli.runtime.metrics import (
    ImageEvents,
    PopulationEvents,
    check_events,
    spread,
    together,
    totals,
)
from lapilli.runtime.step_events import StepEvents
from lapilli.runtime.trace import Trace

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact
    from lapilli.hardware_profiles import Profile
    from lapilli.runtime.layout import Layout
    from lapilli.runtime.verification import Verification

Report = dict[str, Any]
Progress = Callable[[int, int], None]

AGREEMENT_IMAGES = 100
"""Images on which the quantised ANN runs as well; it is written for clarity, not for speed."""


@final
@dataclass(frozen=True, eq=False)
class Evaluation:
    """One pass over a data set.

    predictions: int64 (N,), or (N, H, W) of pixels; None where outputs are no class scores: scored
    then has the reason. outputs: by name; events, image_events: exact counts over all images and in
    each, empty where the backend does not count; input_clipped: input values out of range; agree:
    images of `compared` with the quantised ANN's prediction, or outputs where there are none;
    silent: steps after which a network that has to settle sent nothing any more; step_events: as
    `Trace.step_events`, empty unless they were asked for.
    """

    predictions: npt.NDArray[np.int64] | None
    events: Mapping[str, PopulationEvents]
    input_clipped: int
    agree: int
    compared: int
    seconds: float
    stopped: npt.NDArray[np.int64] | None = None
    outputs: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    scored: scores.Scored = scores.NOTHING
    silent: npt.NDArray[np.int64] | None = None
    image_events: Mapping[str, ImageEvents] = field(default_factory=dict)
    step_events: Mapping[str, StepEvents | None] = field(default_factory=dict)


def evaluate(
    artifact: Artifact,
    images: npt.NDArray[np.float32],
    *,
    labels: npt.NDArray[np.int64] | None = None,
    score: str | None = None,
    backend: str = "reference",
    timeout_s: float | None = None,
    stop: lapilli.EarlyStop | None = None,
    readout: str | None = None,
    seed: int = 0,
    agreement_images: int = AGREEMENT_IMAGES,
    step_events: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Run all images and keep what reports need.

    labels, score: to find the output that gives classes, see `scores.choose`; agreement_images:
    how many of them the quantised ANN sees too.
    """
    start = time.perf_counter()
    trace = lapilli.run(
        artifact,
        images,
        backend=backend,
        # Counts of every population of a whole test set would fill the memory.
        record="outputs" if backend == "reference" else "counts",
        progress=progress,
        timeout_s=timeout_s,
        stop=stop,
        readout=readout,
        seed=seed,
        step_events=step_events,
    )
    seconds = time.perf_counter() - start
    returned = as_read(artifact, readout)
    scored = scores.choose(returned, trace.named_outputs, labels, score)
    agree = compared = 0
    if agreement_images > 0 and artifact.netlist.has_quantised_ann:
        compared = min(len(images), agreement_images)
        quantised = lapilli.run(
            artifact,
            images[:compared],
            backend="quantised-ann",
            readout="argmax" if readout in reading.DRAWN else readout,
            seed=seed,  # the same spikes where the input is drawn
        )
        agree = _agree(returned, trace, quantised, scored)
    return Evaluation(
        scored.classes,
        trace.events,
        trace.input_clipped,
        agree,
        compared,
        seconds,
        trace.stopped,
        trace.named_outputs,
        scored,
        trace.silent,
        trace.image_events,
        trace.step_events,
    )


def as_read(artifact: Artifact, readout: str | None) -> list[Output]:
    """The outputs; read in another way than as the network returns them, without their heads."""
    return [o if readout is None else replace(o, head=NO_HEAD) for o in artifact.outputs]


def _agree(outputs: Sequence[Output], trace: Trace, quantised: Trace, scored: scores.Scored) -> int:
    """Images for which the quantised ANN gives the same classes, else the very same readouts."""
    images = next(iter(quantised.readouts.values()))
    if scored.classes is not None:
        values = quantised.named_outputs
        theirs = scores.choose(outputs, values, scored.classes[: len(images)], scored.output)
        pairs = [(scored.classes[: len(images)], np.asarray(theirs.classes))]
    else:
        pairs = [(v[: len(images)], quantised.readouts[n]) for n, v in trace.readouts.items()]
    equal = np.ones(len(images), bool)
    for ours, others in pairs:
        equal &= (ours == others).reshape(len(images), -1).all(1)
    return int(equal.sum())


def predicted(outputs: Any) -> npt.NDArray[np.int64] | None:
    """The class with the highest score (N,), or None unless outputs are (N, classes)."""
    values = np.asarray(outputs) if not isinstance(outputs, list) else None
    return None if values is None or values.ndim != 2 else scores.classes(values)


accuracy = scores.accuracy


def identity(artifact: Artifact, path: object) -> Report:
    """Which model file is meant."""
    return {"path": str(path), "hash": artifact.hash}


def data_report(dataset: Dataset) -> Report:
    """Which images are meant."""
    return {"source": dataset.source, "split": dataset.split, "images": len(dataset)}


def run_report(
    evaluation: Evaluation,
    dataset: Dataset,
    backend: str,
    outputs: Sequence[Output] = (),
    readout: str | None = None,
) -> Report:
    """Accuracy, agreement with the quantised ANN, events per image where they are counted."""
    per_image = asdict(totals(evaluation.events)) if evaluation.events else None
    scored = evaluation.scored
    return {
        "backend": backend,
        "data": data_report(dataset),
        "readout": readout,
        "outputs": scores.summary(outputs, evaluation.outputs),
        "scored": {
            "output": scored.output,
            "reason": None if dataset.labels is None else scored.reason,
        },
        "accuracy": scores.accuracy(evaluation.predictions, dataset.labels),
        "segmentation": scores.segmentation(evaluation.predictions, dataset.labels),
        "agreement": {
            "with": "quantised ANN",
            "of": "outputs" if scored.classes is None else "classes",
            "equal": evaluation.agree,
            "images": evaluation.compared,
        },
        "events": per_image,
        "early_stop": _steps_report(evaluation.stopped),
        "silence": _steps_report(evaluation.silent),
        "input_values_clipped": evaluation.input_clipped,
        "seconds": evaluation.seconds,
    }


def _steps_report(steps: npt.NDArray[np.int64] | None) -> Report | None:
    """Steps until answers were clear, or until silence; None where neither was waited for."""
    if steps is None:
        return None
    return {
        "mean_steps": float(steps.mean()),
        "least_steps": int(steps.min()),
        "most_steps": int(steps.max()),
    }


def verification_report(verification: Verification) -> Report:
    """Every equality with how much was compared, and the first difference."""
    return {
        "ok": verification.ok,
        "equalities": [
            {"equality": r.name, "compared": r.compared, "equal": r.equal}
            for r in verification.rows
        ],
        "first_difference": verification.first_difference,
    }


def inspect_report(artifact: Artifact) -> Report:
    """Provenance, populations, connections and schedule of a compiled network."""
    netlist = artifact.netlist
    times = schedule(netlist.populations, netlist.connections, netlist.steps)
    return {
        "provenance": asdict(artifact.provenance),
        "steps": netlist.steps,
        "latency_steps": times.latency,
        "interval_steps": times.interval,
        "totals": {
            "populations": len(netlist.populations),
            "neurons": sum(p.size for p in netlist.populations),
            "connections": len(netlist.connections),
            "compact_connections": sum(not isinstance(c.map, Sparse) for c in netlist.connections),
            "forms": _sorted(Counter(type(c.map).__name__ for c in netlist.connections)),
            "synapses": sum(c.map.synapses for c in netlist.connections),
            "stored_weights": sum(int(c.map.weight.size) for c in netlist.connections),
        },
        "state_bits": STATE_BITS,
        "models": {
            model: {
                "populations": count,
                "neurons": sum(p.size for p in netlist.populations if _model(p) == model),
            }
            for model, count in _sorted(Counter(map(_model, netlist.populations))).items()
        },
        "populations": [_population(netlist, p, times.first[p.name]) for p in netlist.populations],
    }


def _model(p: Population) -> str:
    return type(p.neuron).__name__


def _counts(p: Population, steps: int) -> list[int] | None:
    """Smallest and largest count of a window, where the neuron itself bounds it."""
    levels = getattr(p.neuron, "levels", None)
    if levels is None:
        return None
    times = steps if isinstance(p.neuron, MultiThreshold) else 1  # of its levels in every step
    return [getattr(p.neuron, "lowest", 0), levels * times]


def _sorted(counts: Counter[str]) -> dict[str, int]:
    """The most frequent first, then by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _population(netlist: Netlist, p: Population, first_step: int) -> Report:
    incoming = netlist.into(p.name)
    threshold = getattr(p.neuron, "threshold", None)
    weights = [c.map.weight for c in incoming if c.map.weight.size]
    return {
        "name": p.name,
        "model": _model(p),
        "shape": list(p.shape),
        "counts": _counts(p, netlist.steps),
        "neurons": p.size,
        "first_step": first_step,
        "from": [
            {
                "source": c.source,
                "form": type(c.map).__name__,
                "synapses": c.map.synapses,
                "stored_weights": int(c.map.weight.size),
                "exponent": c.exponent,
                "delay": c.delay,
            }
            for c in incoming
        ],
        "synapses": sum(c.map.synapses for c in incoming),
        "threshold": None if threshold is None else [int(threshold.min()), int(threshold.max())],
        "v": [p.state_low, p.state_high],
        "v_bits": signed_bits(p.state_low, p.state_high),
        "weight_bits": max(
            (signed_bits(int(w.min()), int(w.max())) for w in weights), default=None
        ),
    }


def signed_bits(low: int, high: int) -> int:
    """Bits of the narrowest two's complement integer that holds low .. high.

    >>> signed_bits(0, 0), signed_bits(-128, 127), signed_bits(-129, 0), signed_bits(0, 128)
    (1, 8, 9, 9)
    """
    return 1 + max(max(high, 0).bit_length(), (-low - 1).bit_length() if low < 0 else 0)


def estimate_report(
    artifact: Artifact,
    evaluation: Evaluation,
    dataset: Dataset,
    profile: str | None = None,
    without: Sequence[str] = (),
    layout: Layout | None = None,
) -> Report:
    """The estimate as it is, and the events that it was made from; layout: of a placement."""
    counted = Trace("reference", np.zeros(0), {}, {}, events=evaluation.events)
    chip = chip_of(artifact, profile)
    estimate = lapilli.estimate_events(
        artifact, counted, profile=profile, without=without, layout=layout
    )
    return {
        "method": artifact.provenance.method,
        "data": data_report(dataset),
        "events": {
            **events_report(evaluation.events, evaluation.image_events),
            "memory": counted_events.memory(artifact, evaluation.events, chip, layout),
            "steps": counted_events.steps(evaluation.step_events),
        },
        "estimate": estimate.as_dict(),
    }


def events_report(
    events: Mapping[str, PopulationEvents], image_events: Mapping[str, ImageEvents]
) -> Report:
    """What happens in an image: spread over the images, and means of what is counted in all.

    None stands for what was not counted.
    """
    images = check_events(events)

    def mean(counts: Sequence[int | None]) -> float | None:
        known = [count for count in counts if count is not None]
        return sum(known) / images if len(known) == len(counts) else None

    def row(name: str, of: Sequence[PopulationEvents], each: ImageEvents) -> Report:
        updates, with_input = (
            mean([getattr(e, key) for e in of]) for key in ("neuron_updates", "updates_with_input")
        )
        assert updates is not None
        return {
            "name": name,
            **{key: asdict(spread(values)) for key, values in vars(each).items()},
            **{key: mean([getattr(e, key) for e in of]) for key in _KINDS_OF_SYNOPS},
            "neuron_updates": updates,
            "updates_with_input": with_input,
            "updates_idle": None if with_input is None else updates - with_input,
        }

    return {
        "images": images,
        "layers": [row(name, [e], image_events[name]) for name, e in events.items()],
        "total": row("total", list(events.values()), together(image_events)),
    }


_KINDS_OF_SYNOPS = ("synops_excitatory", "synops_inhibitory", "synops_graded")


def profile_report(profile: Profile) -> Report:
    """Every number of a profile, whether a system has it from its chip, and what is not known."""
    quantities = {
        key: {**asdict(quantity), "from_chip": profile.from_chip(key)}
        for key, quantity in profile.quantities()
    }
    used = {q["confidence"] for q in quantities.values()}
    return {
        **profile_summary(profile),
        "quantities": quantities,
        "unknown": list(profile.unknown()),
        "confidences": {name: asdict(c) for name, c in CONFIDENCES.items() if name in used},
    }


def profile_summary(profile: Profile) -> Report:
    """What tells a profile from others; a system's kind is that of its file."""
    system = profile.system
    return {
        "name": profile.name,
        "kind": profile.kind if system is None else "system",
        "title": profile.title,
        "calibrated": profile.calibrated,
        "chip": None if system is None else system.chip,
        "chips": None if system is None else system.chips.value,
    }
