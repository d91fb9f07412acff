"""Artifact in, numbers out; nothing here sees a torch module or a pass of the compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, final, get_args

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import FloatArray, Int64Array, half_up
from lapilli.runtime.early_stop import EarlyStop, StopRule, rule
from lapilli.runtime.trace import RECORDS, Progress, Record, Trace

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact

RANGE_SLACK = 1.25
"""Inputs may exceed the calibrated range by this factor (they saturate, and are counted)."""


@final
@dataclass(frozen=True)
class Execution:
    """How a backend executes: what it keeps, whom it tells, when it gives up, when images end.

    only_readouts: nothing of other populations is needed; a backend may keep it all the same.
    step_events: count the events of each step, where the backend counts events.
    """

    record: Record = "counts"
    progress: Progress | None = None
    timeout_s: float | None = None
    stop: StopRule | None = None
    only_readouts: bool = False
    step_events: bool = False


STOCK = "lava-stock"
"""Lava with the processes that it ships with alone. They show what they send, no membranes."""
Processes = Literal["lapilli", "stock"]
PROCESSES: tuple[Processes, ...] = get_args(Processes)


def backends_with(backends: Sequence[str], processes: str) -> tuple[str, ...]:
    """The backends, Lava on these processes; only Lava has a choice."""
    _check_known("processes", processes, PROCESSES)
    if processes == "lapilli":
        return tuple(backends)
    if not {"lava", STOCK} & set(backends):
        raise InputError(
            "processes",
            "only Lava has stock processes",
            found=f"processes {processes}, backend {', '.join(backends)}",
            allowed="backend lava",
            remedy="Choose the backend lava.",
        )
    return tuple(STOCK if backend == "lava" else backend for backend in backends)


def _reference(netlist: Netlist, inputs: Int64Array, how: Execution) -> Trace:
    from lapilli.runtime import reference

    return reference.run(
        netlist,
        inputs,
        record=how.record,
        progress=how.progress,
        stop=how.stop,
        only_readouts=how.only_readouts,
        step_events=how.step_events,
    )


def _lava(netlist: Netlist, inputs: Int64Array, how: Execution) -> Trace:
    from lapilli.runtime.lava import runner

    return runner.run(
        netlist,
        inputs,
        record=how.record,
        progress=how.progress,
        timeout_s=how.timeout_s,
        stop=how.stop,
    )


def _lava_stock(netlist: Netlist, inputs: Int64Array, how: Execution) -> Trace:
    from lapilli.runtime.lava import stock

    if how.stop is not None:
        raise InputError(
            "stop",
            "stock processes run every window to its end",
            found=how.stop,
            allowed="no early stop",
            remedy="Use processes='lapilli', or the reference engine.",
        )
    return stock.run(
        netlist, inputs, record=how.record, progress=how.progress, timeout_s=how.timeout_s
    )


def _quantised_ann(netlist: Netlist, inputs: Int64Array, how: Execution) -> Trace:
    from lapilli.runtime import quantised_ann

    if how.stop is not None:
        raise InputError(
            "early stop: backend",
            "the quantised ANN has no steps to stop after",
            found=quantised_ann.NAME,
            allowed="reference or lava",
            remedy="Choose another backend.",
        )
    return quantised_ann.run(netlist, inputs, progress=how.progress)


Backend = Callable[[Netlist, Int64Array, Execution], Trace]
BACKENDS: dict[str, Backend] = {
    "reference": _reference,
    "lava": _lava,
    STOCK: _lava_stock,
    "quantised-ann": _quantised_ann,
}
"""Everything that executes a netlist; imported when used."""


def run(
    artifact: Artifact,
    images: FloatArray,
    *,
    backend: str = "reference",
    record: Record = "counts",
    progress: Progress | None = None,
    timeout_s: float | None = None,
    stop: EarlyStop | None = None,
    readout: str | None = None,
    seed: int = 0,
    step_events: bool = False,
) -> Trace:
    """Execute a compiled network on images (N, ...) as the float network takes them.

    stop: end each image once its answer is clear, see `early_stop`. readout: None for what the
    network returns, or one of `readout.READOUTS`; seed: of what is drawn at random, there
    and for inputs as Poisson trains; step_events: on the reference engine, count the events of each
    step, too. Raises
    InputError for images of the wrong shape or range, for networks that cannot stop early or be
    read in this way, BackendError where the backend is missing, crashes or exceeds timeout_s (Lava
    only).
    """
    from lapilli.runtime import poisson
    from lapilli.runtime import readout as reading

    _check_known("backend", backend, tuple(BACKENDS))
    _check_known("record", record, RECORDS)
    reading.check(artifact.netlist, artifact.outputs, readout, backend)
    if poisson.encodes(artifact, images):
        images = poisson.spikes(artifact.netlist, images, seed)
    inputs, clipped = quantise_input(artifact.netlist, images)
    clear = None if stop is None else rule(artifact.netlist, stop)
    drawn = readout in reading.DRAWN
    kept: Record = "states" if drawn else record
    how = Execution(kept, progress, timeout_s, clear, drawn and record == "outputs", step_events)
    trace = BACKENDS[backend](artifact.netlist, inputs, how)
    trace = reading.apply(artifact.netlist, artifact.outputs, trace, readout, seed)
    return replace(trace.recorded(record) if drawn else trace, input_clipped=clipped)


def _check_known(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            option,
            f"the {option} is known",
            found=value,
            allowed=", ".join(known),
            remedy="Choose one of them.",
        )


def _in_time(netlist: Netlist, images: FloatArray) -> FloatArray:
    """Images as the source takes them: one each, or one for each step of a window.

    A still image stands for all frames of a video. Raises InputError for any other shape.
    """
    shape, timing = netlist.input.shape, netlist.source.timing
    allowed = [shape] if timing != "train" else []
    if netlist.source.stepwise:
        allowed.append((netlist.steps, *shape))
    if images.ndim == 0 or len(images) == 0 or images.shape[1:] not in allowed:
        raise InputError(
            "images",
            "images have the shape that the network was compiled for",
            found=images.shape,
            allowed=" or ".join(f"(N, {', '.join(map(str, a))})" for a in allowed) + ", N >= 1",
            remedy="Resize or reorder the images.",
        )
    if netlist.source.stepwise and images.shape[1:] == shape:
        images = np.repeat(images[:, np.newaxis], netlist.steps, axis=1)
    return images


def quantise_input(netlist: Netlist, images: FloatArray) -> tuple[Int64Array, int]:
    """Integers of the input, and how many values saturated.

    They are (N, *shape), or (N, steps, *shape) where the source sends frames or spike trains.

    Raises InputError for NaN, a wrong shape, and values far outside the calibrated range.
    """
    source = netlist.input
    images = _in_time(netlist, np.asarray(images))
    if not np.isfinite(images).all():
        raise InputError(
            "images",
            "values are finite",
            found=f"{int((~np.isfinite(images)).sum())} NaN or infinite values",
            allowed="none",
            remedy="Clean the data first.",
        )
    low, high = netlist.source.low, netlist.source.high
    # In float64 throughout: numpy 1 would divide float32 by a scalar in float32, numpy 2 does not.
    scaled = images.astype(np.float64) / source.state_scale
    slack = (RANGE_SLACK - 1.0) * max(-low, high)
    if scaled.min() < low - slack or scaled.max() > high + slack:
        units = float(np.max(source.state_scale))
        raise InputError(
            "images",
            "values lie in the range that the network was compiled for",
            found=f"{images.min():g}..{images.max():g}",
            allowed=f"{low * units:g}..{high * units:g}, a quarter more is saturated",
            remedy="Scale and normalise the images as for calibration; a network of another tool "
            "is compiled with the range --low to --high.",
        )
    payload = half_up(scaled)
    clipped = np.clip(payload, low, high)
    return clipped, int((clipped != payload).sum())
