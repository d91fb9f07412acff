"""Events in each step and accesses to memory, as plain dicts for `estimate --json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from lapilli.runtime.memory_accesses import memory_accesses
from lapilli.runtime.metrics import PopulationEvents
from lapilli.runtime.step_events import StepEvents

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact
    from lapilli.hardware_profiles import Profile
    from lapilli.runtime.layout import Layout

Report = dict[str, Any]
_WIDTHS = ("images", "weight_bits", "state_bits")


def memory(
    artifact: Artifact,
    events: Mapping[str, PopulationEvents],
    profile: Profile,
    layout: Layout | None,
) -> list[Report]:
    """One row per population: accesses per image, and the bits of a weight and of a state."""
    found = memory_accesses(artifact.netlist, events, profile, layout)
    return [
        {
            "name": name,
            **{f.name: getattr(a, f.name) / a.images for f in fields(a) if f.name not in _WIDTHS},
            "weight_bits": a.weight_bits,
            "state_bits": a.state_bits,
            "weight_bits_read": a.weight_bits_read / a.images,
            "state_bits_moved": a.state_bits_moved / a.images,
        }
        for name, a in found.items()
    ]


def steps(counted: Mapping[str, StepEvents | None]) -> list[Report] | None:
    """One row per population: what happens in each step of an image; None where nobody asked."""
    return [{"name": name, "steps": _row(e)} for name, e in counted.items()] or None


def _row(e: StepEvents | None) -> Report | None:
    """None where the steps are not known; percentiles are null where images were not kept."""
    if e is None:
        return None
    row: Report = {}
    for kind, sums, spread in (
        ("spikes", e.spikes, e.spikes_percentiles),
        ("synops", e.synops, e.synops_percentiles),
    ):
        each = [None] * 3 if spread is None else spread.tolist()
        row[kind] = {
            "mean": (sums / e.images).tolist(),
            **dict(zip(("p5", "p50", "p95"), each, strict=True)),
        }
    return row
