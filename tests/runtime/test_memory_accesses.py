"""Accesses to memory, one by one, against what is derived from counts; in the report, too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import search_network
from command_line import runner
from counted_cases import brings_spikes, case
from netlists import Coding

import lapilli
from lapilli import placed_estimate, reports
from lapilli.compiler.neurons import Source
from lapilli.data import load as load_data
from lapilli.hardware_profiles import load
from lapilli.runtime import reference
from lapilli.runtime.memory_accesses import memory_accesses

IMAGES = 2
CODINGS: tuple[Coding, ...] = ("graded", "unary", "rate", "signed", "train", "relays")


@pytest.mark.parametrize("coding", CODINGS)
def test_equal_to_counting_one_by_one(coding: Coding) -> None:
    netlist, inputs, result = case(coding, IMAGES, seed=1)
    found = memory_accesses(netlist, reference.run(netlist, inputs).events)
    wanted: dict[str, Counter[str]] = {name: Counter() for name in found}
    for p in netlist.populations:
        sends = result.spikes[p.name].reshape(IMAGES, netlist.steps, -1)
        goes_to = sorted({c.target for c in netlist.connections if c.source == p.name})
        for image in range(IMAGES):
            for step in range(netlist.steps):
                if not isinstance(p.neuron, Source):
                    for _ in range(p.size):
                        wanted[p.name]["words"] += len(p.neuron.start(p.shape))
                    for value in sends[image, step].tolist():
                        wanted[p.name]["entries"] += len(goes_to) * (value != 0)
    for c in netlist.connections:
        kind = "weights" if brings_spikes(netlist, c) else "input"
        sends = result.spikes[c.source].reshape(IMAGES * netlist.steps, -1)
        for _, source, _ in oracles.synapses(c.map):
            wanted[c.target][kind] += int(np.count_nonzero(sends[:, source]))
    for name, a in found.items():
        w = wanted[name]
        assert (a.weights_read, a.input_weights_read) == (w["weights"], w["input"]), name
        assert (a.state_words_read, a.state_words_written) == (w["words"], w["words"]), name
        assert a.axon_entries_read == w["entries"], name
        weights = np.concatenate([c.map.weight.reshape(-1) for c in netlist.into(name)])
        low, high = int(weights.min()), int(weights.max())
        assert -(2 ** (a.weight_bits - 1)) <= low and high < 2 ** (a.weight_bits - 1)
        narrower = 2 ** (a.weight_bits - 2) if a.weight_bits > 1 else 0
        assert low < -narrower or high >= narrower
        assert a.weight_bits_read == (w["weights"] + w["input"]) * a.weight_bits
        assert (a.state_bits, a.state_bits_moved) == (24, 48 * w["words"])


def digits(coding: Any, profile: str) -> Any:
    return lapilli.compile(
        search_network.trained(),
        calibration=search_network.images("train", 64).images,
        method=lapilli.methods.Parallel(levels=4, coding=coding),
        profile=profile,
    )


def test_a_chip_and_a_placement() -> None:
    """The host of Loihi 1 computes the first layer; axons are those of the cores."""
    artifact, chip = digits("unary", "loihi1"), load("loihi1")
    images = search_network.images("test", 4).images
    trace = lapilli.run(artifact, images)
    layout = placed_estimate.layout_of(artifact, trace.events, images, chip)
    assert layout.placed is not None
    alone = memory_accesses(artifact.netlist, trace.events)
    found = memory_accesses(artifact.netlist, trace.events, chip, layout)
    first, *_ = found
    assert alone[first].input_weights_read == trace.events[first].input_macs > 0
    for name, a in found.items():
        assert a.input_weights_read == 0
        assert (a.weight_bits, a.state_bits) == (8, 24)
        assert a.axon_entries_read == layout.placed.sent[name].packets * 4


def test_the_report_has_them() -> None:
    artifact, data = digits("graded", "loihi2"), load_data("digits", split="test", limit=6)
    found = reports.evaluate(artifact, data.images, agreement_images=0, step_events=True)
    events = reports.estimate_report(artifact, found, data)["events"]
    for layer, memory, steps in zip(
        events["layers"], events["memory"], events["steps"], strict=True
    ):
        assert layer["name"] == memory["name"] == steps["name"]
        assert memory["weights_read"] == layer["synops"]["mean"]
        words = len(artifact.netlist[layer["name"]].neuron.VARIABLES)
        assert memory["state_words_read"] == layer["neuron_updates"] * words
        spikes = steps["steps"]["spikes"]
        assert sum(spikes["mean"]) == pytest.approx(layer["spikes"]["mean"])
        assert spikes["p50"] == [layer["spikes"]["p50"]]
    plain = reports.evaluate(artifact, data.images, agreement_images=0)
    assert reports.estimate_report(artifact, plain, data)["events"]["steps"] is None


def test_the_command_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact, run = digits("unary", "loihi1"), runner(capsys)
    artifact.save(tmp_path / "model.h5")
    command = ("estimate", tmp_path / "model.h5", "--data", "digits", "--limit", "6", "--json")
    events = run(*command, "--steps").json["events"]
    assert run(*command).json["events"] == {**events, "steps": None}
    for layer, steps in zip(events["layers"], events["steps"], strict=True):
        for kind in ("spikes", "synops"):
            assert len(steps["steps"][kind]["mean"]) == artifact.netlist.steps
            assert sum(steps["steps"][kind]["mean"]) == pytest.approx(layer[kind]["mean"])
