"""docs/energy.md says what the profiles and the model say."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from lapilli.hardware_profiles import CONFIDENCES, Quantity, load
from lapilli.runtime.energy import Estimate, estimate
from lapilli.runtime.metrics import PopulationEvents

DOC = (Path(__file__).parents[1] / "docs" / "energy.md").read_text(encoding="utf-8")


def pilotnet() -> Estimate:
    """PilotNet LIF on Loihi 2 as published: 16 steps a frame, 2.29 million synops a step.

    How these divide among the layers is not published, so all are in one population.
    """
    neurons = 66 * 200 * 3 + 32 * 99 * 24 + 15 * 49 * 36 + 7 * 24 * 48 + 4 * 22 * 64 + 2 * 20 * 64
    neurons += 100 + 50 + 10 + 1
    events = PopulationEvents(
        neurons=neurons,
        steps=16,
        images=1,
        spikes=0,
        synops=16 * 2_290_000,
        input_macs=0,
        neuron_updates=16 * neurons,
        synapses=0,
    )
    return estimate(
        {"all": events},
        load("loihi2"),
        latency_steps=16,
        interval_steps=16,
        ann_macs={},
        graded=False,
    )


def test_pilotnet_measured_on_loihi2_lies_within_the_band() -> None:
    """Measured by lava-dl (netx/pilotnet_snn): 447.156 mW dynamic at 408.91 frames/s."""
    e = pilotnet()
    frame_us = 1e6 / 408.91
    assert e.single.time_us.low < frame_us < e.single.time_us.high
    ours = e.single.dynamic_pj
    measured_pj = 447.156 * frame_us * 1000
    assert ours.low < measured_pj < ours.high


def doc_rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = DOC.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def cell(quantity: Quantity[Any] | None) -> str:
    return "-" if quantity is None else f"{quantity.value:g} {quantity.confidence}"


def test_the_document_has_every_constant_of_the_chips() -> None:
    chips = [load("loihi1"), load("loihi2")]
    expected = [
        [f"`{section}.{f.name}`", *(cell(getattr(getattr(p, section), f.name)) for p in chips)]
        for section in ("energy", "time")
        for f in fields(getattr(chips[0], section))
    ]
    assert doc_rows("The constants of the chips") == expected


def test_the_document_has_every_constant_of_the_reference() -> None:
    arithmetic = load("cmos45").arithmetic
    expected = [
        [width, *(cell(getattr(arithmetic, f"{width}_{op}_pj")) for op in ("mac", "ac"))]
        for width in ("fp32", "fp16", "int8", "int32")
    ]
    assert doc_rows("The ANN beside it") == expected


def test_the_document_has_every_band() -> None:
    expected = [[c, t.meaning, f"{t.factor:g}", t.reason] for c, t in CONFIDENCES.items()]
    assert doc_rows("Bands") == expected


def test_the_document_has_the_pilotnet_figures() -> None:
    e = pilotnet()
    low, mid, high = (1e-6 * v for v in vars(e.single.dynamic_pj).values())
    time = e.single.time_us
    frame_us = 1e6 / 408.91
    sentences = (
        f"which is {447.156e-3 * frame_us:.0f} uJ and {frame_us:.0f} us a frame",
        f"{mid:.0f} uJ ({low:.0f} to {high:.0f})",
        f"{time.mid:.0f} us ({time.low:.0f} to {time.high:.0f})",
    )
    assert all(s in re.sub(r"\s+", " ", DOC) for s in sentences), sentences
