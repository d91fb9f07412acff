"""`lapilli map`: the table, the JSON, measured rates, what it refuses; a user's way with digits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Run, model_file
from placement_checker import violations

import lapilli
from lapilli import cli_map, data, map_report
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping import OBJECTIVES, Placement
from lapilli.compiler.mapping.fan_in import as_placed
from lapilli.hardware_profiles import load

PLACEMENT_KEYS = {
    *("artifact", "data", "effort", "seed", "seconds", "profile", "calibrated", "objective"),
    *("cores", "bound", "cores_over_bound", "chips", "neurons", "packets", "host_packets"),
    *("mesh_cost", "step", "rates", "relays", "populations", "unchecked"),
    *("mesh", "cores_in_use", "edges", "host_packets_to"),
}
POPULATION_KEYS = {
    *("population", "shape", "neurons", "relay", "cores", "piece", "binding", "use"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("map"))


@pytest.fixture(scope="module")
def artifact(model: Path) -> Artifact:
    return lapilli.load(model)


def profile_file(folder: Path, **limits: int) -> Path:
    """A board of two chips like Loihi 2, with limits of its own."""

    def number(value: int, unit: str) -> dict[str, object]:
        return {"value": value, "unit": unit, "confidence": "assumed", "source": "a test"}

    schema = {key: q.unit for key, q in load("loihi2").quantities()}
    nothing = ("cores", "neurons", "synapses", "chip_hop_pj", "chip_hop_ns")
    path = folder / "mine.json"
    changes = {name: number(n, schema[f"limits.{name}"]) for name, n in limits.items()}
    system: dict[str, Any] = {
        "chips": number(2, "chip"),
        "chips_wide": number(2, "chip"),
        "chips_high": number(1, "chip"),
        **dict.fromkeys((*nothing, "board_static_mw", "x86_mw", "max_power_mw")),
    }
    content = {"kind": "system", "title": "Mine", "chip": "loihi2", "system": system}
    path.write_text(json.dumps({**content, "changes": {"limits": changes}}))
    return path


def test_the_table_says_layers_totals_and_what_is_bounded(run: Run, model: Path) -> None:
    outcome = run("map", model)
    assert outcome.code == 0, outcome.err
    text = " ".join(outcome.out.split())
    for words in (
        *("relu 4x4x4 64 1 4x4x4", "fc 10 10 1 10", "cores over lower bound 1.000"),
        *("lower bound 1, decided by", "relays added none", "packets x hops", "step time*"),
        *("* modelled: these constants are not calibrated", "at most one spike per neuron"),
        "Limits that were not checked:",
    ):
        assert words in text, words


def test_json_has_every_core_with_its_use_and_the_traffic(
    run: Run, model: Path, artifact: Artifact, tmp_path: Path
) -> None:
    profile = profile_file(tmp_path, neurons_per_core=20)
    report = run("map", model, "--profile", profile, "--json").json
    assert set(report) == PLACEMENT_KEYS
    assert report["profile"] == "mine"
    assert report["cores"] == len(report["cores_in_use"]) >= report["bound"]["cores"] >= 4
    assert report["neurons"] == 74
    assert all(set(p) == POPULATION_KEYS for p in report["populations"])
    held = 0
    for index, core in enumerate(report["cores_in_use"]):
        assert set(core) == {"core", "chip", "tile", "slices", "usage", "utilisation"}
        assert core["core"] == index
        size = sum(int(np.prod([high - low for low, high in s["box"]])) for s in core["slices"])
        assert size == core["usage"]["compartments"] <= 20
        assert core["utilisation"]["neurons_per_core"] == size / 20
        assert max(core["utilisation"].values()) <= 1
        held += size
    assert held == 74
    edges, mesh = report["edges"], report["mesh"]
    total = sum(edges["packets"]) + sum(report["host_packets_to"])
    assert report["packets"] == pytest.approx(total)
    assert report["mesh_cost"]["packets"] == pytest.approx(total)
    assert (mesh["chips_wide"], mesh["chips_high"]) == (2, 1)
    tiles = np.array([core["tile"] for core in report["cores_in_use"]])
    hops = np.abs(tiles[edges["source"]] - tiles[edges["target"]]).sum(1) @ edges["packets"]
    hops += tiles.sum(1) @ report["host_packets_to"]
    assert report["mesh_cost"]["packet_hops"] == pytest.approx(hops)
    placement = lapilli.place(artifact, profile=profile)
    assert violations(artifact.netlist, placement, load(profile)) == []


def test_the_file_holds_what_json_prints(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "placement.json"
    printed = run("map", model, "--json", "-o", target, "--seed", 3, "--effort", 0.5).json
    assert json.loads(target.read_text()) == printed
    assert (printed["seed"], printed["effort"]) == (3, 0.5)
    shown = run("map", model, "-o", target)
    assert shown.code == 0
    assert "wrote" in shown.err
    assert "wrote" not in shown.out


def test_rates_are_measured_on_images(run: Run, model: Path, artifact: Artifact) -> None:
    report = run("map", model, "--data", "digits", "--limit", 20, "--json").json
    images = data.load("digits", split="test", limit=20).images
    p = artifact.provenance
    images = data.normalise(images, p.input_mean, p.input_std)
    trace = lapilli.run(artifact, images)
    rates = report["rates"]
    assert all(rate["measured"] for rate in rates.values())
    sent = int(np.count_nonzero(trace.counts["relu"]))  # graded: one spike carries the count
    assert rates["relu"]["rate"] == sent / (64 * artifact.netlist.steps * 20)
    assert 0 < rates["relu"]["rate"] < 1
    assert rates["input"]["rate"] == np.count_nonzero(trace.counts["input"]) / (64 * 20)
    assert report["data"] == {"source": "digits", "split": "test", "images": 20}
    bounds = run("map", model, "--json").json
    assert bounds["packets"] > report["packets"] > 0
    assert not any(rate["measured"] for rate in bounds["rates"].values())
    text = run("map", model, "--data", "digits", "--limit", 20).out
    assert "Rates: measured on digits, test split, 20 images." in " ".join(text.split())


def test_relays_are_named_with_their_layer_and_measured(
    run: Run, model: Path, artifact: Artifact, tmp_path: Path
) -> None:
    profile = profile_file(tmp_path, input_axon_words_per_core=40)
    given = ("map", model, "--profile", profile, "--data", "digits", "--limit", 5)
    report = run(*given, "--json").json
    relays = report["relays"]
    assert relays
    assert {relay["layer"] for relay in relays} <= {"relu", "fc"}
    assert all(report["rates"][relay["population"]]["measured"] for relay in relays)
    added = {p["population"] for p in report["populations"] if p["relay"]}
    assert added == {relay["population"] for relay in relays}
    netlist = as_placed(artifact.netlist, load(profile))
    assert added == {p.name for p in netlist.populations} - {
        p.name for p in artifact.netlist.populations
    }
    assert "neurons for fc" in " ".join(run(*given).out.split())


def test_objectives_are_those_of_the_mapper(run: Run, model: Path, tmp_path: Path) -> None:
    assert cli_map.OBJECTIVES == OBJECTIVES
    found = {
        objective: run("map", model, "--objective", objective, "--json").json
        for objective in OBJECTIVES
    }
    assert all(report["objective"] == name for name, report in found.items())
    times = {name: report["step"]["step_us"] for name, report in found.items()}
    assert times["latency"] <= min(times.values())
    assert found["cores"]["cores"] <= found["latency"]["cores"]


def test_the_api_takes_the_same(artifact: Artifact) -> None:
    told: list[tuple[str, int, int]] = []
    found = lapilli.place(
        artifact,
        profile="kapoho-point",
        objective="latency",
        rates={"relu": 0.25},
        whole=["fc"],
        effort=0.2,
        seed=1,
        progress=lambda *seen: told.append(seen),
    )
    assert isinstance(found, Placement)
    assert (found.profile, found.objective) == ("kapoho-point", "latency")
    assert len(found.of("fc")) == 1
    assert {stage for stage, *_ in told} >= {"partition"}
    bounded = lapilli.place(artifact, profile="kapoho-point", whole=["fc"])
    relu = map_report.placement_report(artifact.netlist, bounded, load("kapoho-point"))
    assert relu["rates"]["relu"] == {"rate": 1.0, "measured": False}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "beauty"}, "allowed cores, latency, energy"),
        ({"rates": {"rely": 0.5}}, "Did you mean 'relu'?"),
        ({"rates": {"relu": 1.5}}, "a neuron sends at most one spike in a step"),
        ({"rates": {"relu": float("nan")}}, "a neuron sends at most one spike in a step"),
        ({"seed": -1}, "a seed is not negative"),
        ({"effort": -1.0}, "found -1.0, allowed 0 or more"),
        ({"whole": "rely"}, "Did you mean 'relu'?"),
    ],
)
def test_the_api_refuses(artifact: Artifact, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        lapilli.place(artifact, **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--whole", "rely"), "Did you mean 'relu'?"),
        (("--whole", "rely", "--data", "digits"), "Did you mean 'relu'?"),
        (("--profile", "lohi2"), "loihi2"),
        (("--profile", "cmos45"), "a network is placed on a chip with cores"),
        (("--profile", "absent.json"), "absent.json"),
        (("--profile", "loihi1"), "sends binary spikes only"),
        (("--objective", "beauty"), "'beauty' is not one of"),
        (("--limit", "5"), "--limit goes with --data"),
        (("--effort", "-1"), "--effort"),
        (("--plot", "picture.gif"), "a picture ends in"),
        (("-o", "cores.csv"), "a placement ends in .json"),
        (("-o", "absent/cores.json"), "there is no folder 'absent'"),
        (("--data", "numbers"), "numbers"),
    ],
)
def test_what_is_refused(run: Run, model: Path, given: tuple[str, ...], message: str) -> None:
    outcome = run("map", model, *given)
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())
    assert outcome.out == ""


def test_a_system_that_is_too_small_says_so(run: Run, model: Path, tmp_path: Path) -> None:
    profile = profile_file(tmp_path, neurons_per_core=2, cores_per_chip=8)
    outcome = run("map", model, "--profile", profile)
    assert outcome.code == 2
    text = " ".join(outcome.err.split())
    assert "the system has as many cores as the network needs" in text
    assert "allowed: 16, on 2 chips" in text


def test_a_forbidden_cut_says_what_it_would_take(run: Run, model: Path, tmp_path: Path) -> None:
    profile = profile_file(tmp_path, neurons_per_core=20)
    outcome = run("map", model, "--profile", profile, "--whole", "relu")
    assert outcome.code == 2
    assert "split over 4 cores it fits; you forbade splitting" in " ".join(outcome.err.split())


def test_profiles_without_limits_times_and_mesh(run: Run, model: Path) -> None:
    report = run("map", model, "--profile", "unlimited", "--json").json
    assert (report["cores"], report["mesh"], report["step"], report["mesh_cost"]) == (
        1,
        *[None] * 3,
    )
    assert all(p["binding"] is None and p["use"] == {} for p in report["populations"])
    text = " ".join(run("map", model, "--profile", "unlimited").out.split())
    assert "step time the profile states no times" in text
    assert "mesh the profile states none" in text
    assert "calibrated" not in text
