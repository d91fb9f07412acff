"""`lapilli estimate`: what it prints, what its JSON holds, what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_network
from command_line import Run

import lapilli
from lapilli.runtime.neurobench_metrics import measure

IMAGES = 40
METHODS = {
    "graded": lapilli.methods.Parallel(levels=6),
    "unary": lapilli.methods.Parallel(levels=4, coding="unary"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model file per coding."""
    return search_network.files(tmp_path_factory.mktemp("models"), METHODS, unary="loihi1")


def estimated(run: Run, model: Path, *options: object) -> dict[str, Any]:
    report: dict[str, Any] = run(
        "estimate", model, "--data", "digits", "--limit", IMAGES, *options, "--json"
    ).json
    return report


def test_events_of_every_layer_and_image(run: Run, models: dict[str, Path]) -> None:
    events = estimated(run, models["graded"])["events"]
    trace = lapilli.run(
        lapilli.load(models["graded"]), search_network.images("test", IMAGES).images
    )
    assert events["images"] == IMAGES
    assert [row["name"] for row in events["layers"]] == list(trace.events)
    for row in events["layers"]:
        counted, each = trace.events[row["name"]], trace.image_events[row["name"]]
        assert row["synops"]["mean"] == counted.synops / IMAGES
        assert row["synops"]["most"] == each.synops.max()
        assert row["synops"]["p50"] in each.synops
        kinds = row["synops_excitatory"] + row["synops_inhibitory"]
        assert kinds == pytest.approx(counted.synops / IMAGES)
        assert row["updates_idle"] + row["updates_with_input"] == row["neuron_updates"]
    total = events["total"]
    assert total["spikes"]["mean"] == sum(e.spikes for e in trace.events.values()) / IMAGES
    everything = np.sum([e.synops for e in trace.image_events.values()], 0)
    assert total["synops"]["least"] == everything.min()
    assert total["synops_graded"] > 0


def test_what_is_not_counted_is_null(run: Run, models: dict[str, Path]) -> None:
    report = estimated(run, models["unary"])
    assert report["events"]["total"]["updates_idle"] is None
    assert report["events"]["total"]["synops_graded"] == 0
    text = run("estimate", models["unary"], "--data", "digits", "--limit", 2).out
    assert "-: not counted" in text
    assert "neurobench" not in report and "NeuroBench" not in text


def test_the_tables(run: Run, models: dict[str, Path]) -> None:
    options = ("--data", "digits", "--limit", 5, "--neurobench", "--profile", "oheo-gulch")
    text = run("estimate", models["graded"], *options).out
    for words in (
        *("Events of one image", "What makes the bands wide", "share of variance"),
        *("keras-spiking", "SpiNNaker 2", "Titan Black", "SynapticOperations: Effective_MACs"),
        *("total energy of the board", "energy times time", "total energy, one image alone*"),
    ):
        assert words in text, words


def test_neurobench_beside_it(run: Run, models: dict[str, Path]) -> None:
    found = estimated(run, models["unary"], "--neurobench")["neurobench"]
    artifact = lapilli.load(models["unary"])
    images = search_network.images("test", IMAGES).images
    assert found == lapilli.neurobench(artifact, images).as_dict()
    inputs, _ = lapilli.runtime.quantise_input(artifact.netlist, images)
    assert found == measure(artifact.netlist, inputs).as_dict()
    keys = ["Footprint", "ConnectionSparsity", "ActivationSparsity", "SynapticOperations"]
    assert list(found) == [*keys, "MembraneUpdates"]


def test_a_term_left_out(run: Run, models: dict[str, Path]) -> None:
    whole = estimated(run, models["graded"])["estimate"]
    less = estimated(run, models["graded"], "--without", "energy.chip_static_mw")["estimate"]
    assert less["single"]["chip_static_pj"]["high"] == 0
    assert less["single"]["total_pj"]["high"] < whole["single"]["total_pj"]["low"]
    assert "energy.chip_static_mw" in less["not_counted"][0]
    wrong = run(
        *("estimate", models["graded"], "--data", "digits", "--limit", 2),
        *("--without", "energy.nothing"),
    )
    assert wrong.code == 2
    assert "energy.nothing" in wrong.err and "energy.synop_pj" in wrong.err


@pytest.mark.parametrize("coding", list(METHODS))
def test_placed_on_cores(run: Run, models: dict[str, Path], coding: str) -> None:
    """The network is placed with the spikes counted here: as `map` does with the same images."""
    ours = estimated(run, models[coding], "--placed")["estimate"]
    mapped = run("map", models[coding], "--data", "digits", "--limit", IMAGES, "--json").json
    assert (ours["cores"], ours["chips"]) == (mapped["cores"], mapped["chips"])
    assert ours["placement"]["core_us"]["mid"] == pytest.approx(mapped["step"]["core_us"])
    steps = ours["streaming"]["steps"] if coding == "unary" else 1
    assert ours["placement"]["packets"] == pytest.approx(mapped["packets"] * steps)
    assert not any("need a placement" in line for line in ours["not_counted"])
    assert estimated(run, models[coding])["estimate"]["placement"] is None


def test_the_tables_of_a_board(run: Run, models: dict[str, Path]) -> None:
    options = ("--data", "digits", "--limit", 5, "--placed", "--profile", "kapoho-point")
    text = run("estimate", models["graded"], *options).out
    for words in (
        *("Placed on 1 cores of 1 chip(s), for cores", "a step: the busiest core*"),
        *("spikes and packets", "hops of packets", "of these from the host"),
        *("7 chips of the system that are not in use", "the board"),
    ):
        assert words in text, words
    plain = run("estimate", models["graded"], "--data", "digits", "--limit", 5).out
    assert "Placed on" not in plain and "hops of packets" not in plain
    refused = run("estimate", models["graded"], *options[:-1], "unlimited-nothing")
    assert refused.code == 2 and "unlimited-nothing" in refused.err
