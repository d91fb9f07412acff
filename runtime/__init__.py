"""Artifact in, numbers out; nothing here sees a torch module or a pass of the compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from lapilli.compiler.errors import InputError
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import FloatArray, Int64Array, half_up
from lapilli.runtime.trace import RECORDS, Progress, Record, Trace

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact

RANGE_SLACK = 1.25
"""Inputs may exceed the calibrated range by this factor (they saturate, and are counted)."""


def _reference(
    netlist: Netlist,
    inputs: Int64Array,
    record: Record,
    progress: Progress | None,
    timeout_s: float | None,
) -> Trace:
    from lapilli.runtime import reference

    return reference.run(netlist, inputs, record=record, progress=progress)


def _lava(
    netlist: Netlist,
    inputs: Int64Array,
    record: Record,
    progress: Progress | None,
    timeout_s: float | None,
) -> Trace:
    from lapilli.runtime.lava import runner

    return runner.run(netlist, inputs, record=record, progress=progress, timeout_s=timeout_s)


def _quantised_ann(
    netlist: Netlist,
    inputs: Int64Array,
    record: Record,
    progress: Progress | None,
    timeout_s: float | None,
) -> Trace:
    from lapilli.runtime import quantised_ann

    return quantised_ann.run(netlist, inputs, progress=progress)


Backend = Callable[[Netlist, Int64Array, Record, "Progress | None", "float | None"], Trace]
BACKENDS: dict[str, Backend] = {
    "reference": _reference,
    "lava": _lava,
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
) -> Trace:
    """Execute a compiled network on images (N, ...) as the float network takes them.

    Raises InputError for images of the wrong shape or range, BackendError where the backend is
    missing, crashes or exceeds timeout_s (Lava only).
    """
    _check_known("backend", backend, tuple(BACKENDS))
    _check_known("record", record, RECORDS)
    inputs, clipped = quantise_input(artifact.netlist, images)
    trace = BACKENDS[backend](artifact.netlist, inputs, record, progress, timeout_s)
    return replace(trace, input_clipped=clipped)


def _check_known(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(
            option,
            f"the {option} is known",
            found=value,
            allowed=", ".join(known),
            remedy="Choose one of them.",
        )


def quantise_input(netlist: Netlist, images: FloatArray) -> tuple[Int64Array, int]:
    """Integer payloads (N, *shape) of the input, and how many values saturated.

    Raises InputError for NaN, a wrong shape, and values far outside the calibrated range.
    """
    source = netlist.input
    images = np.asarray(images)
    if images.ndim == 0 or images.shape[1:] != source.shape or len(images) == 0:
        raise InputError(
            "images",
            "images have the shape that the network was compiled for",
            found=images.shape,
            allowed=f"(N, {', '.join(map(str, source.shape))}), N >= 1",
            remedy="Resize or reorder the images.",
        )
    if not np.isfinite(images).all():
        raise InputError(
            "images",
            "values are finite",
            found=f"{int((~np.isfinite(images)).sum())} NaN or infinite values",
            allowed="none",
            remedy="Clean the data first.",
        )
    low, high = source.neuron.payload()
    # In float64 throughout: numpy 1 would divide float32 by a scalar in float32, numpy 2 does not.
    scaled = images.astype(np.float64) / source.state_scale
    slack = (RANGE_SLACK - 1.0) * max(-low, high)
    if scaled.min() < low - slack or scaled.max() > high + slack:
        units = float(np.max(source.state_scale))
        raise InputError(
            "images",
            "values lie in the range of the calibration images",
            found=f"{images.min():g}..{images.max():g}",
            allowed=f"{low * units:g}..{high * units:g}, a quarter more is saturated",
            remedy="Scale and normalise the images as for calibration.",
        )
    payload = half_up(scaled)
    clipped = np.clip(payload, low, high)
    return clipped, int((clipped != payload).sum())
