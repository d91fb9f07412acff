"""`lapilli compare`: figures of each network, ratios, the front, tables, JSON."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_network
import torch
from command_line import Run, model_file
from rich.console import Console
from torch import nn

import lapilli
from lapilli import compare_report, hardware_profiles, render_compare
from lapilli.cli_compare import AGAINST
from lapilli.compare_report import Beside, Compared, Comparison, members
from lapilli.compiler.errors import InputError
from lapilli.runtime.uncertainty import Band, band

IMAGES = 60
METHODS = {
    "graded2": lapilli.methods.Parallel(levels=2),
    "graded6": lapilli.methods.Parallel(levels=6),
    "unary4": lapilli.methods.Parallel(levels=4, coding="unary"),
    "rate": lapilli.methods.Rate(steps=8),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model file per method."""
    return search_network.files(tmp_path_factory.mktemp("compared"), METHODS)


@pytest.fixture(scope="module")
def found(models: dict[str, Path]) -> Comparison:
    """All of them on the same images."""
    test = search_network.images("test", IMAGES)
    return lapilli.compare(list(models.values()), test.images, test.labels)


def test_figures_are_those_of_every_network_alone(
    found: Comparison, models: dict[str, Path]
) -> None:
    test = search_network.images("test", IMAGES)
    assert (found.images, found.measure, found.against) == (IMAGES, "accuracy", "energy")
    assert [row.name for row in found.networks] == list(models)
    for row in found.networks:
        artifact = lapilli.load(models[row.name])
        trace = lapilli.run(artifact, test.images)
        correct = int((np.asarray(trace.outputs).argmax(1) == test.labels).sum())
        assert (row.correct, row.score) == (correct, correct / IMAGES)
        estimate = lapilli.estimate(artifact, test.images)
        assert (row.cores, row.chips, row.profile) == (estimate.cores, estimate.chips, "loihi2")
        assert row.dynamic_pj == estimate.total.dynamic_pj
        assert row.single_total_pj == estimate.single.total_pj
        assert row.streaming_total_pj == estimate.streaming.total_pj
        assert row.latency_us == estimate.single.time_us
        assert row.energy_delay_pj_us == estimate.single.energy_delay_pj_us
        interval = estimate.streaming.time_us
        assert row.images_per_second is not None
        assert row.images_per_second.mid == pytest.approx(1e6 / interval.mid)
        assert row.images_per_second.low == pytest.approx(1e6 / interval.high)
        assert row.synops == sum(e.synops for e in trace.events.values()) / IMAGES
        assert row.spikes == sum(e.spikes for e in trace.events.values()) / IMAGES
        assert row.neurons == sum(e.neurons for e in trace.events.values())
        assert row.file_bytes == models[row.name].stat().st_size
        assert (row.hash, row.path) == (artifact.hash, str(models[row.name]))


def test_what_each_network_is(found: Comparison) -> None:
    rows = {row.name: row for row in found.networks}
    assert {name: row.coded for name, row in rows.items()} == {
        "graded2": "parallel, graded",
        "graded6": "parallel, graded",
        "unary4": "parallel, unary",
        "rate": "rate",
    }
    assert set(rows["graded6"].levels.values()) == {6}
    assert rows["rate"].levels == {} and rows["rate"].steps == 8
    assert rows["unary4"].steps == 4 and rows["graded2"].steps == 1


def test_beside_the_first_network(found: Comparison, models: dict[str, Path]) -> None:
    test = search_network.images("test", IMAGES)
    classes = {
        name: np.asarray(lapilli.run(lapilli.load(path), test.images).outputs).argmax(1)
        for name, path in models.items()
    }
    assert found.networks[0].first is None
    right = {name: of == test.labels for name, of in classes.items()}
    for row in found.networks[1:]:
        beside = row.first
        assert beside is not None
        assert beside.same_class == (classes[row.name] == classes["graded2"]).sum()
        assert beside.only_this == (right[row.name] & ~right["graded2"]).sum()
        assert beside.only_first == (right["graded2"] & ~right[row.name]).sum()


def test_ratios_take_the_same_draws(found: Comparison, models: dict[str, Path]) -> None:
    test = search_network.images("test", IMAGES)
    one, two = (
        lapilli.estimate(lapilli.load(models[name]), test.images) for name in ("graded2", "graded6")
    )
    beside = found.networks[1].first
    assert beside is not None and beside.single_ratio is not None
    drawn = two.draws["single.total_pj"] / one.draws["single.total_pj"]
    assert beside.single_ratio == band(drawn)
    assert drawn[0] == two.single.total_pj.mid / one.single.total_pj.mid
    ratios = beside.single_ratio
    # Taken for independent, the same bands would say almost nothing.
    apart = two.single.total_pj.high / one.single.total_pj.low
    assert ratios.high < 1.2 * ratios.low
    assert apart > 4 * ratios.high


def test_draws_are_of_the_figures_beside_them(models: dict[str, Path]) -> None:
    test = search_network.images("test", 4)
    estimate = lapilli.estimate(lapilli.load(models["rate"]), test.images)
    bands = {
        "total.dynamic_pj": estimate.total.dynamic_pj,
        "step_time_us": estimate.step_time_us,
        "single.total_pj": estimate.single.total_pj,
        "single.time_us": estimate.single.time_us,
        "single.energy_delay_pj_us": estimate.single.energy_delay_pj_us,
        "streaming.total_pj": estimate.streaming.total_pj,
        "streaming.time_us": estimate.streaming.time_us,
    }
    assert {name: band(figure) for name, figure in estimate.draws.items()} == bands
    assert {cost.figure for cost in compare_report.COSTS.values()} <= {*bands, None}
    assert set(compare_report.RATIOS.values()) <= set(bands)
    assert "draws" not in estimate.as_dict()


def test_a_copy_has_ratio_one_and_is_told(models: dict[str, Path], tmp_path: Path) -> None:
    test = search_network.images("test", 5)
    copy = tmp_path / "graded2.h5"
    shutil.copy(models["graded2"], copy)
    both = lapilli.compare([models["graded2"], copy], test.images, test.labels)
    # Two files of one name are called by their paths.
    assert [row.name for row in both.networks] == [str(models["graded2"]), str(copy)]
    beside = both.networks[1].first
    assert beside == Beside(5, 0, 0, *[Band(1, 1, 1)] * 5)
    assert both.front == (str(models["graded2"]), str(copy))
    assert [row.front_share for row in both.networks] == [1, 1]
    assert any(note.startswith("The same network in several files") for note in both.notes)


@pytest.mark.parametrize("against", AGAINST)
def test_a_front_against_every_cost(models: dict[str, Path], against: str) -> None:
    test = search_network.images("test", 20)
    files = [models[name] for name in ("graded6", "rate")]
    found = lapilli.compare(files, test.images, test.labels, against=against)
    expected = members(
        [row.cost(against).mid for row in found.networks],
        [row.score for row in found.networks if row.score is not None],
    )
    assert found.front == tuple(found.networks[i].name for i in expected)
    for row in found.networks:
        assert row.on_front == (row.name in found.front)
        assert row.front_share is not None and 0 <= row.front_share <= 1
        if against == "cores":
            assert row.front_share == row.on_front
    assert list(AGAINST) == list(compare_report.COSTS)


def test_placed_on_cores_as_an_estimate_is(run: Run, models: dict[str, Path]) -> None:
    data = ("--data", "digits", "--limit", 8)
    report = run("compare", models["unary4"], *data, "--placed", "--json").json
    alone = run("estimate", models["unary4"], *data, "--placed", "--json").json["estimate"]
    (row,) = report["networks"]
    assert report["placed"] is True
    assert alone["placement"] is not None
    assert (row["cores"], row["chips"]) == (alone["cores"], alone["chips"])
    assert row["latency_us"] == alone["single"]["time_us"]
    assert row["dynamic_pj"] == alone["total"]["dynamic_pj"]


def test_one_network_alone(run: Run, models: dict[str, Path]) -> None:
    outcome = run("compare", models["rate"], "--data", "digits", "--limit", 4)
    assert outcome.code == 0, outcome.err
    assert "Beside" not in outcome.out and "Pareto front" in outcome.out
    assert "rest on the same constants" not in outcome.out


def test_every_network_sees_its_own_normalisation(
    run: Run, models: dict[str, Path], tmp_path: Path
) -> None:
    normalised = model_file(tmp_path)
    data = ("--data", "digits", "--limit", 30)
    both = run("compare", normalised, models["graded6"], *data, "--json").json
    for row, path in zip(both["networks"], (normalised, models["graded6"]), strict=True):
        alone = run("run", path, *data, "--json").json
        assert row["correct"] == alone["accuracy"]["correct"]


def test_chips_of_their_own_or_one_for_all(models: dict[str, Path], tmp_path: Path) -> None:
    test = search_network.images("test", 5)
    artifact = lapilli.load(models["unary4"])
    other = replace(artifact, provenance=replace(artifact.provenance, profile="loihi1"))
    own = lapilli.compare({"one": artifact, "two": other}, test.images, test.labels)
    assert [(row.profile, row.calibrated) for row in own.networks] == [
        ("loihi2", False),
        ("loihi1", True),
    ]
    assert [row.file_bytes for row in own.networks] == [None, None]
    assert any("Constants of different chips err independently" in note for note in own.notes)
    assert not any("rest on the same constants" in note for note in own.notes)
    same = lapilli.compare(
        {"one": artifact, "two": other}, test.images, test.labels, profile="loihi1"
    )
    assert [row.profile for row in same.networks] == ["loihi1", "loihi1"]
    assert same.networks[0].single_total_pj == own.networks[1].single_total_pj


def test_systems_of_one_chip_share_its_constants(models: dict[str, Path]) -> None:
    test = search_network.images("test", 5)
    artifact = lapilli.load(models["unary4"])
    other = replace(artifact, provenance=replace(artifact.provenance, profile="oheo-gulch"))
    found = lapilli.compare({"one": artifact, "two": other}, test.images, test.labels)
    assert [row.profile for row in found.networks] == ["loihi2", "oheo-gulch"]
    beside = found.networks[1].first
    assert beside is not None and beside.dynamic_ratio == Band(1, 1, 1)
    assert any("rest on the same constants" in note for note in found.notes)
    assert not any("err independently" in note for note in found.notes)


def test_a_file_that_is_called_as_an_artifact_is(models: dict[str, Path], tmp_path: Path) -> None:
    """Names are unique: the front is told by them."""
    test = search_network.images("test", 2)
    file = tmp_path / "network 1.h5"
    shutil.copy(models["rate"], file)
    both = [lapilli.load(models["graded2"]), file]
    found = lapilli.compare(both, test.images, test.labels)
    assert [row.name for row in found.networks] == ["network 1", str(file)]


def test_a_profile_that_knows_no_times_or_energies(
    run: Run, models: dict[str, Path], tmp_path: Path
) -> None:
    """Costs of zero are drawn and compared; there is no rate, and there are no ratios."""
    home = Path(hardware_profiles.__file__).parent
    table = json.loads((home / "loihi2.json").read_text(encoding="utf-8"))
    for section in ("energy", "time"):
        for quantity in filter(None, table[section].values()):
            quantity["value"] = 0
    (tmp_path / "zero.json").write_text(json.dumps(table), encoding="utf-8")
    given = ("compare", models["graded2"], models["rate"], "--data", "digits", "--limit", 3)
    on = ("--profile", tmp_path / "zero.json")
    rows = run(*given, *on, "--json").json["networks"]
    assert [row["images_per_second"] for row in rows] == [None, None]
    assert {rows[1]["first"][key] for key in compare_report.RATIOS} == {None}
    assert {row["latency_us"]["high"] for row in rows} == {0}
    outcome = run(*given, *on, "--against", "latency")
    assert outcome.code == 0 and "inf" not in outcome.out and "nan" not in outcome.out


def test_without_labels_there_is_no_front(
    run: Run, models: dict[str, Path], tmp_path: Path
) -> None:
    pixels = search_network.images("test", 5).images
    np.savez(tmp_path / "x.npz", images=pixels)
    data = ("--data", f"npz:{tmp_path / 'x.npz'}")
    outcome = run("compare", models["graded2"], models["rate"], *data, "--json")
    report = outcome.json
    assert (report["measure"], report["front"]) == (None, [])
    assert [row["front_share"] for row in report["networks"]] == [None, None]
    assert report["networks"][1]["first"]["same_class"] in range(6)
    assert report["networks"][1]["first"]["only_this"] is None
    text = run("compare", models["graded2"], models["rate"], *data).out
    assert "Without labels there is no accuracy" in text


ROW_KEYS = {
    *("name", "path", "hash", "file_bytes", "method", "coding", "levels", "steps", "profile"),
    *("calibrated", "correct", "score", "neurons", "synapses", "cores", "chips", "synops"),
    *("spikes", "input_macs", "dynamic_pj", "single_total_pj", "streaming_total_pj"),
    *("latency_steps", "latency_us", "images_per_second", "energy_delay_pj_us", "on_front"),
    *("front_share", "first"),
}
BESIDE_KEYS = {
    *("same_class", "only_this", "only_first", "dynamic_ratio", "single_ratio"),
    *("streaming_ratio", "latency_ratio", "energy_delay_ratio"),
}


def test_the_keys_of_the_json(run: Run, models: dict[str, Path]) -> None:
    given = ("compare", models["graded2"], models["rate"], "--data", "digits", "--limit", IMAGES)
    report: dict[str, Any] = run(*given, "--json").json
    assert set(report) == {
        *("data", "placed", "without", "images", "measure", "against", "front", "networks", "notes")
    }
    assert {f.name for f in fields(Compared)} == ROW_KEYS
    for row in report["networks"]:
        assert set(row) == ROW_KEYS
        assert set(row["dynamic_pj"]) == {"low", "mid", "high"}
    assert report["networks"][0]["first"] is None
    assert set(report["networks"][1]["first"]) == BESIDE_KEYS
    test = search_network.images("test", IMAGES)
    same = lapilli.compare(given[1:3], test.images, test.labels).as_dict()
    assert json.loads(json.dumps(same)) == {key: report[key] for key in same}


def test_the_tables(run: Run, models: dict[str, Path]) -> None:
    given = ("--data", "digits", "--limit", 10, "--against", "latency")
    text = run("compare", *models.values(), *given).out
    for words in (
        *("digits, test split, 10 images", "graded2", "unary", "rate"),
        *("dynamic", "images/s", "energy times time", "KiB", "synops", "MACs"),
        *("Beside graded2", "right only here", "latency of one image alone"),
        *("Pareto front, accuracy against latency of one image alone"),
        *("* modelled: these constants are not calibrated against silicon", "uJ*", "us*"),
    ):
        assert words in text, words
    assert max(map(len, text.splitlines())) <= 120
    assert "standard error" in text or "is right on all" in text
    cores = run("compare", models["rate"], "--data", "digits", "--limit", 2, "--against", "cores")
    assert "yes" in cores.out


def test_ratios_are_starred_where_one_side_is(models: dict[str, Path]) -> None:
    test = search_network.images("test", 5)
    artifact = lapilli.load(models["unary4"])
    sure = replace(artifact, provenance=replace(artifact.provenance, profile="loihi1"))
    for both in ({"one": artifact, "two": sure}, {"one": sure, "two": artifact}):
        found = lapilli.compare(both, test.images, test.labels).as_dict()
        assert re.search(r"two .*\d\* \(", printed(found))
    twice = {"one": sure, "two": replace(sure, provenance=sure.provenance)}
    found = lapilli.compare(twice, test.images, test.labels).as_dict()
    assert "*" not in printed(found)


def printed(found: dict[str, Any]) -> str:
    """The tables of a comparison."""
    screen = Console(width=120, record=True, file=io.StringIO())
    where = {"source": "digits", "split": "test", "images": found["images"]}
    for part in render_compare.comparison({**found, "data": where}):
        screen.print(part)
    return screen.export_text()


def test_progress_is_told_per_network(models: dict[str, Path]) -> None:
    test = search_network.images("test", 3)
    told: list[tuple[str, int, int]] = []

    def compare(*names: str, placed: bool) -> list[str]:
        told.clear()
        lapilli.compare(
            [models[name] for name in names],
            test.images,
            test.labels,
            placed=placed,
            progress=lambda stage, done, of: told.append((stage, done, of)),
        )
        return list(dict.fromkeys(stage for stage, _, _ in told))

    both = compare("graded2", "rate", placed=False)
    assert both == ["graded2: counting events", "rate: counting events"]
    assert ("rate: counting events", 3, 3) in told
    stages = compare("graded2", placed=True)
    assert len(stages) > 1 and all(stage.startswith("graded2: ") for stage in stages)


def test_constants_can_be_left_out_of_all(run: Run, models: dict[str, Path]) -> None:
    left_out = ("energy.chip_static_mw", "energy.busy_core_mw")
    images, pair = search_network.images("test", 5).images, [models["graded2"], models["rate"]]
    found = lapilli.compare(pair, images, without=left_out)
    for row, path in zip(found.networks, pair, strict=True):
        alone = lapilli.estimate(lapilli.load(path), images, without=left_out)
        assert row.single_total_pj == alone.single.total_pj
        assert (
            alone.single.total_pj.mid
            < lapilli.estimate(lapilli.load(path), images).single.total_pj.mid
        )
    assert found.notes[0] == f"Left out on request: {', '.join(left_out)}."
    given = ("compare", *pair, "--data", "digits", "--limit", 5)
    options = [part for key in left_out for part in ("--without", key)]
    shown = run(*given, *options, "--json").json
    assert shown["without"] == list(left_out) and shown["notes"][0] == found.notes[0]
    wrong = run(*given, "--without", "energy.static")
    assert wrong.code == 2 and "graded2.h5" in wrong.err and "energy.static" in wrong.err


class TwoHeads(nn.Module):
    """Two answers of ten classes each; of the second, the last class is always the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.one, self.two = nn.Linear(64, 12), nn.Linear(12, 10), nn.Linear(12, 10)
        with torch.no_grad():
            self.two.bias[9] = 100.0

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        shared = torch.relu(self.body(x.flatten(1)))
        return {"one": self.one(shared), "two": self.two(shared)}


def test_the_output_that_is_scored_can_be_named(run: Run, tmp_path: Path) -> None:
    test = search_network.images("test", 20)
    pixels = search_network.images("train", 16).images
    method = lapilli.methods.Parallel(levels=4)
    path = tmp_path / "two.h5"
    lapilli.compile(TwoHeads().eval(), calibration=pixels, method=method).save(path)
    with pytest.raises(InputError, match="classes like the labels"):
        lapilli.compare([path], test.images, test.labels)
    (row,) = lapilli.compare([path], test.images, test.labels, score="two").networks
    assert row.correct == int((test.labels == 9).sum()) > 0
    given = ("compare", path, "--data", "digits", "--limit", 20)
    assert run(*given, "--score", "two", "--json").json["networks"][0]["correct"] == row.correct
    wrong = run(*given, "--score", "three")
    assert wrong.code == 2 and "one, two" in wrong.err
    assert lapilli.compare([path], test.images, score="two").front == ()


def test_maps_are_scored_by_pixels() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1)).eval()
    pixels = search_network.images("train", 16).images
    artifact = lapilli.compile(
        network, calibration=pixels, method=lapilli.methods.Parallel(levels=4)
    )
    outputs = np.asarray(lapilli.run(artifact, pixels[:4]).outputs)
    labels = outputs.argmax(1)
    labels[0, 0, :4] = 255  # unknown
    labels[1, 0, :6] = (labels[1, 0, :6] + 1) % 3
    found = lapilli.compare([artifact], pixels[:4], labels)
    (row,) = found.networks
    assert (found.measure, row.correct) == ("pixels", None)
    assert row.score == pytest.approx(1 - 6 / (4 * 64 - 4))
    assert found.front == ("network 1",)
