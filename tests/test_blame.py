"""`lapilli blame`: the parts of a conversion in real numbers, and where they say the damage is."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
import sample_networks
import torch
from torch import nn

import lapilli
from lapilli.blame_report import FLOOR_DB, STAGES, Blame, decibels
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.dequantise import RealNetlist, float_graph
from lapilli.compiler.errors import InputError
from lapilli.compiler.numerics import half_up
from lapilli.compiler.populations import PopulationGraph

METHODS: dict[str, Any] = {
    "parallel": lapilli.methods.Parallel(levels=6),
    "unary": lapilli.methods.Parallel(levels=6, coding="unary"),
    "fast-snn": lapilli.methods.FastSNN(levels=6),
    "sigma-delta": lapilli.methods.SigmaDelta(levels=6),
}
IMAGES = 12


class Pooled(nn.Module):
    """A curve or a line, a clipped line and a max pool."""

    def __init__(self, curve: bool) -> None:
        super().__init__()
        self.activation = nn.SiLU() if curve else nn.ReLU()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.activation(self.first(x))
        x = nn.functional.max_pool2d(nn.functional.relu6(self.second(x)), 2)
        logits: torch.Tensor = self.fc(x.flatten(1))
        return logits


def pooled(curve: bool = True) -> tuple[nn.Module, np.ndarray[Any, Any]]:
    torch.manual_seed(3)
    images = np.random.default_rng(3).normal(size=(IMAGES, 2, 8, 8)).astype(np.float32)
    return Pooled(curve).eval(), images


def sample(name: str, method: str = "") -> tuple[nn.Module, np.ndarray[Any, Any]]:
    if name == "pooled":
        return pooled(curve=method != "fast-snn")  # whose signed spikes know no curves
    return sample_networks.network(name), sample_networks.images(name, IMAGES)


def altered(artifact: Artifact, target: str, scale: int) -> Artifact:
    """The artifact with the weights into one population divided."""
    connections = tuple(
        dataclasses.replace(c, map=c.map.with_weight(c.map.weight // scale))
        if c.target == target
        else c
        for c in artifact.netlist.connections
    )
    return dataclasses.replace(
        artifact, netlist=dataclasses.replace(artifact.netlist, connections=connections)
    )


def outputs_db(found: Blame) -> dict[str, float]:
    return {stage.name: stage.output_db for stage in found.stages}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["residual", "arithmetic", "dense", "pooled"])
def test_dequantised_netlist_counts_as_the_netlist(name: str, method: str) -> None:
    model, images = sample(name, method)
    artifact = lapilli.compile(model, calibration=images, method=METHODS[method])
    real = RealNetlist(float_graph(model, images), artifact.netlist)
    x = torch.from_numpy(images.astype(np.float64))
    activity = real.run(real.counted, real.input(x))
    trace = lapilli.run(artifact, images)
    compared = 0
    for p in artifact.netlist.populations:
        if p.name in trace.counts and p.name in activity:
            counts = (activity[p.name].numpy() - p.count_offset) / p.count_scale
            np.testing.assert_array_equal(half_up(counts), trace.counts[p.name])
            compared += 1
    assert compared >= 3
    for p in artifact.netlist.outputs:
        np.testing.assert_allclose(
            activity[p.name].numpy(), trace.readouts[p.name] * p.state_scale, atol=1e-9
        )


@pytest.mark.parametrize("method", METHODS)
def test_dequantised_weights_are_the_networks_own(method: str) -> None:
    """Of single populations, without corrections of biases: only 8 bits lie between the two."""
    model, images = sample("pooled", method)
    artifact = lapilli.compile(model, calibration=images, method=METHODS[method], calibrate="none")
    real = RealNetlist(float_graph(model, images), artifact.netlist)
    clean = real.run(real.exact, torch.from_numpy(images.astype(np.float64)))
    for p in real.graph.populations[1:]:
        error = real.weighted(p, clean) - clean[p.name]
        ratio = decibels(float((clean[p.name] ** 2).sum()), float((error**2).sum()))
        assert ratio > 38, (p.name, ratio)


def test_float_against_itself_is_exact() -> None:
    model, images = pooled()
    artifact = lapilli.compile(model, calibration=images, method=METHODS["parallel"])
    real = RealNetlist(float_graph(model, images), artifact.netlist)
    clean = real.run(real.exact, torch.from_numpy(images.astype(np.float64)))
    with torch.no_grad():
        wanted = model(torch.from_numpy(images)).numpy()
    (readout,) = real.graph.outputs
    np.testing.assert_allclose(clean[readout].numpy(), wanted, atol=1e-5)
    first = real.graph.populations[0].name
    again = real.rerun(clean, first, clean[first].clone())
    error = float(((again[readout] - clean[readout]) ** 2).sum())
    assert decibels(1.0, error) == math.inf


def test_decibels() -> None:
    assert decibels(100.0, 1.0) == 20.0
    assert decibels(1.0, 0.0) == math.inf
    assert decibels(0.0, 1.0) == FLOOR_DB


def test_ratio_rises_with_levels_and_the_netlist_is_all_stages_together() -> None:
    model, images = sample("residual")
    found = []
    for levels in (2, 8, 32):
        method = lapilli.methods.Parallel(levels=levels)
        artifact = lapilli.compile(model, calibration=images, method=method)
        found.append(lapilli.blame(model, artifact, images))
    for measured in found:
        ratios = outputs_db(measured)
        assert list(ratios) == list(STAGES)
        assert ratios["executed"] == pytest.approx(ratios["together"], abs=1e-6)
        assert ratios["levels"] <= ratios["clip"]
    for coarse, fine in itertools.pairwise(found):
        assert outputs_db(coarse)["levels"] + 6 < outputs_db(fine)["levels"]
        assert outputs_db(coarse)["executed"] + 6 < outputs_db(fine)["executed"]
        for a, b in zip(coarse.layers, fine.layers, strict=True):
            assert a.role != "activation" or a.own_db < b.own_db


def test_weights_of_another_training_are_told() -> None:
    model, images = pooled()
    made = lapilli.compile(model, calibration=images, method=METHODS["parallel"])
    other, _ = pooled()
    for parameter in other.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    texts = [text for _, text in lapilli.blame(other, made, images).worst]
    assert any("not those that were compiled" in text for text in texts)
    texts = [text for _, text in lapilli.blame(model, made, images).worst]
    assert not any("not those that were compiled" in text for text in texts)


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_the_layer_with_planted_damage_is_the_worst(damaged: int) -> None:
    model, images = sample("residual")
    artifact = lapilli.compile(
        model, calibration=images, method=lapilli.methods.Parallel(levels=16)
    )
    graph = float_graph(model, images)
    target = [p.name for p in graph.populations if p.role == "activation"][damaged]
    found = lapilli.blame(model, altered(artifact, target, 4), images)
    assert found.worst[0][0] == target
    layer = next(row for row in found.layers if row.name == target)
    assert layer.own_db == min(row.own_db for row in found.layers)
    assert layer.cause in ("weights", "shift")


def test_a_range_that_is_far_too_wide_is_named_with_an_option() -> None:
    model, images = sample("chain")
    wide = images.copy()
    wide[0] *= 40  # one image of the calibration set takes the whole range for itself
    method = lapilli.methods.Parallel(levels=8, clip="percentile", percentile=100.0)
    artifact = lapilli.compile(model, calibration=wide, method=method, calibrate="none")
    found = lapilli.blame(model, artifact, images)
    causes = {row.name: row.cause for row in found.layers}
    texts = {causes[name]: text for name, text in found.worst}
    assert "--clip least-error" in texts["rounding"]


def test_rates_are_measured_and_time_costs_what_the_quantised_network_does_not() -> None:
    model, images = sample("residual")
    method = lapilli.methods.Rate(steps=16)
    found = lapilli.blame(model, lapilli.compile(model, calibration=images, method=method), images)
    ratios = outputs_db(found)
    assert ratios["weights"] > ratios["levels"] + 3
    assert ratios["executed"] < ratios["together"]


def test_random_spikes_are_exact_on_average_and_files_serve_as_models(tmp_path: Path) -> None:
    model, images = sample("residual")
    method = lapilli.methods.Rate(steps=16, input="poisson")
    artifact = lapilli.compile(model, calibration=images, method=method)
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(model, (torch.from_numpy(images),)), path)
    found = lapilli.blame(path, artifact, images)
    ratios = outputs_db(found)
    assert ratios["input"] == math.inf
    assert found.report()["stages"][0]["output_db"] is None
    assert ratios["executed"] < ratios["together"]


def refused(model: nn.Module, artifact: Artifact, images: np.ndarray[Any, Any]) -> InputError:
    with pytest.raises(InputError) as caught:
        lapilli.blame(model, artifact, images)
    return caught.value


def test_other_networks_images_and_neurons_are_refused() -> None:
    model, images = sample("residual")
    artifact = lapilli.compile(model, calibration=images, method=METHODS["parallel"])
    other = refused(sample("chain")[0], artifact, images)
    assert "not in the file" in str(other.found) and "only in the file" in str(other.found)
    assert "shape" in refused(model, artifact, images[:, :1]).rule
    assert "shape" in refused(model, artifact, images[:0]).rule
    method = lapilli.methods.Rate(steps=8, reset="zero")
    zero = lapilli.compile(model, calibration=images, method=method)
    assert "whole drive" in refused(model, zero, images).rule
    method = lapilli.methods.LMHT(levels=4, steps=2, mixing="causal")
    unrolled = lapilli.compile(model, calibration=images, method=method)
    assert ".t0" in str(refused(model, unrolled, images).found)


def test_a_network_that_is_wired_otherwise_is_refused() -> None:
    model, images = sample("residual")
    artifact = lapilli.compile(model, calibration=images, method=METHODS["parallel"])
    graph = float_graph(model, images)
    twice = {c.target for c in graph.connections}
    target = next(t for t in sorted(twice) if len(graph.into(t)) > 1)
    cut = PopulationGraph(
        graph.populations,
        tuple(c for c in graph.connections if c is not graph.into(target)[0]),
    )
    with pytest.raises(InputError, match=f"wired: {target}"):
        RealNetlist(cut, artifact.netlist)


def test_the_command_says_the_same_as_the_function(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    path = command_line.model_file(tmp_path)
    run = command_line.runner(capsys)
    given = (
        "blame",
        "command_line:SmallNetwork",
        path,
        "--weights",
        tmp_path / "weights.safetensors",
    )
    told = run(*given, "--data", "digits", "--limit", 40, "--json")
    assert told.code == 0
    report = told.json
    assert [stage["name"] for stage in report["stages"]] == list(STAGES)
    assert report["images"] == 40 and 0 <= report["float_correct"] <= 40
    assert [row["layer"] for row in report["worst"]] == [
        row["name"]
        for row in sorted(
            (row for row in report["layers"] if row["cause"] != "none"),
            key=lambda row: row["output_db"],
        )[:3]
    ]
    evaluated = run("run", path, "--data", "digits", "--limit", 40, "--json").json
    assert report["stages"][-1]["correct"] == evaluated["accuracy"]["correct"]
    shown = run(*given, "--data", "digits", "--limit", 40)
    assert shown.code == 0 and "sent dB" in shown.out and "\n1. " in shown.out
