"""Search: what it finds is what is measured afresh, and what it cannot find it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from artifact_samples import forge, sample
from search_network import LEVELS, TARGET, Images, few, found, images, search, trained
from torch import nn

import lapilli
from lapilli.compiler import measure_model
from lapilli.compiler.errors import ArtifactError, InputError, NetlistError
from lapilli.compiler.pareto import FrontPoint, front_of
from lapilli.compiler.passes.convert_parallel import Parallel
from lapilli.compiler.passes.mixed_levels import parse, written
from lapilli.compiler.storage import Text
from lapilli.hardware_profiles import ProfileError
from lapilli.level_paths import EnergyModel, mixtures, uniform
from lapilli.search_options import parse_energy
from lapilli.search_run import Search
from lapilli.sensitivity import sensitivity


def measured(net: Any) -> tuple[float, float]:
    """Share of the test images that are right, and energy in J, afresh."""
    test = images("test")
    trace = lapilli.run(net, test.images)
    energy = lapilli.estimate_events(net, trace).single.total_pj.mid
    return float((trace.outputs.argmax(1) == test.labels).mean()), energy * 1e-12


def test_the_network_found_reaches_the_accuracy_when_measured_afresh() -> None:
    result = found()
    score, energy = measured(result.artifact)
    assert score == result.chosen.score >= TARGET / 100
    assert energy == pytest.approx(result.chosen.energy_mid_j, rel=1e-12)
    cheaper = [p for p in result.candidates if p.energy_mid_j < result.chosen.energy_mid_j]
    assert all(p.score < TARGET / 100 for p in cheaper)
    assert result.complete
    assert result.chosen.images == len(images("test"))


def test_the_network_found_keeps_to_the_energy() -> None:
    limit = sorted(p.energy_mid_j for p in found().candidates)[len(found().candidates) // 2]
    result = search(target_energy=limit)
    score, energy = measured(result.artifact)
    assert energy <= limit
    assert score == max(p.score for p in result.candidates if p.energy_mid_j <= limit)
    assert result.artifact.provenance.search["target_energy_j"] == limit


def test_mixtures_beat_uniform_levels() -> None:
    """Cheaper, and no worse. (Nothing is cheaper than the fewest levels everywhere.)"""
    points = found().candidates
    mixed = [p for p in points if p.uniform is None]
    uniform_levels = [p for p in points if p.uniform is not None]
    assert sorted(p.uniform or 0 for p in uniform_levels) == list(LEVELS)
    beaten = {
        p.uniform
        for p in uniform_levels
        if any(m.energy_mid_j < p.energy_mid_j and m.score >= p.score for m in mixed)
    }
    assert len(beaten) >= 2
    assert LEVELS[0] not in beaten


def test_the_front_is_what_nothing_equals_or_beats() -> None:
    result = found()
    assert result.front == result.artifact.provenance.front
    assert [p.chosen for p in result.front].count(True) == 1
    bare = [dataclasses.replace(p, chosen=False) for p in result.front]
    for p in result.candidates:
        beaten = [
            q
            for q in result.candidates
            if q.energy_mid_j <= p.energy_mid_j and q.score >= p.score and q is not p
        ]
        assert bool(beaten) != (p in bare)


def test_the_levels_of_the_point_are_those_of_the_network() -> None:
    result = found()
    for p in result.artifact.netlist.populations:
        if p.name in result.chosen.levels:
            assert getattr(p.neuron, "levels", None) == result.chosen.levels[p.name]
    options = dict(result.artifact.provenance.options)
    mixed = parse(str(options["mixed"]))
    assert {n: mixed.get(n, options["levels"]) for n in result.chosen.levels} == dict(
        result.chosen.levels
    )
    report = lapilli.verify(result.artifact, images("test").images[:4], backends=("reference",))
    assert report.ok


def halved(seed: int) -> Search:
    """Half of some images held out."""
    train = images("train", 200)
    return search(
        calibration=train.images,
        labels=train.labels,
        held_out=None,
        target_accuracy=50,
        levels=(2, 6),
        seed=seed,
    )


def test_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        result = halved(seed=5)
        result.artifact.save(tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    other = halved(seed=6)
    hashes = {r.artifact.provenance.search["held_out_hash"] for r in (result, other)}
    assert len(hashes) == 2, "another seed holds out other images"
    assert {r.chosen.images for r in (result, other)} == {100}


def test_without_labels_it_is_agreement_with_the_float_network() -> None:
    test = images("test")
    result = search(target_accuracy=70, held_out=(test.images, None), levels=(4, 8))
    with torch.no_grad():
        said = trained()(torch.from_numpy(test.images)).numpy().argmax(1)
    outputs = lapilli.run(result.artifact, test.images).outputs.argmax(1)
    assert result.chosen.measure == "agreement"
    assert result.chosen.score == float((outputs == said).mean())
    assert result.float_score == 1.0


def test_calibration_images_are_not_measured_on() -> None:
    train = images("train", 160)
    result = search(
        calibration=train.images[:128],
        held_out=(train.images, train.labels),
        target_accuracy=70,
        levels=(12,),
    )
    assert result.chosen.images == 32
    with pytest.raises(InputError, match="not used for calibration"):
        search(calibration=train.images, held_out=(train.images[:9], None), target_accuracy=90)
    with pytest.raises(InputError, match="not used for calibration"):
        search(calibration=train.images[:1], held_out=None, target_accuracy=90)


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.zeros(445), np.zeros((445, 2), int)])
def test_labels_belong_to_the_images(labels: Images) -> None:
    with pytest.raises(InputError, match="one class number per image"):
        search(held_out=(images("test").images, labels), target_accuracy=90)


def test_a_target_out_of_reach_is_refused_with_the_best_that_was_found() -> None:
    with pytest.raises(InputError) as refused:
        search(target_accuracy=100)
    error, best = refused.value, max(found().candidates, key=lambda p: p.score)
    assert error.where == "option target_accuracy"
    assert f"{100 * best.score:.2f} %" in error.found
    assert "candidates" in error.found
    assert "--calibrate reconstruct" in error.remedy
    with pytest.raises(InputError) as refused:
        search(target_energy="1nJ", levels=(2,))
    error, cheapest = refused.value, min(found().candidates, key=lambda p: p.energy_mid_j)
    assert f"{1e6 * cheapest.energy_mid_j:.3g} uJ" in error.found
    assert error.allowed == "<= 1 nJ"


def test_time_ends_a_search() -> None:
    result = search(target_accuracy=5, seconds=1e-3, held_out=few())
    assert len(result.candidates) == 1
    assert not result.complete
    assert result.artifact.provenance.search["complete"] is False
    with pytest.raises(InputError, match="ended after") as refused:
        search(target_accuracy=100, seconds=1e-3, held_out=few())
    assert "--search-seconds" in refused.value.remedy


def test_a_chip_without_graded_spikes_is_searched_in_unary_coding() -> None:
    result = search(
        target_accuracy=60,
        profile="loihi1",
        codings=("graded", "unary"),
        levels=(3, 6),
        held_out=few(),
    )
    assert {p.coding for p in result.candidates} == {"unary"}
    assert "binary spikes only" in result.dropped["graded"]
    assert result.chosen.steps == max(result.chosen.levels.values())
    with pytest.raises(NetlistError, match="binary spikes only"):
        search(target_accuracy=60, profile="loihi1", held_out=few())


def test_codings_that_cost_more_and_give_no_more_are_dropped() -> None:
    result = search(target_accuracy=60, codings=None, levels=(2, 6), held_out=few())
    assert {"unary", "sigma-delta"} <= set(result.dropped)
    assert [p.uniform for p in result.candidates if p.coding == "unary"] == [2, 6]
    assert {p.method for p in result.candidates} == {"parallel", "sigma-delta", "rate"}
    rates = [p for p in result.candidates if p.coding == "rate"]
    assert rates
    assert all(p.levels == {} and p.steps >= 8 for p in rates)


def test_options_are_those_of_every_candidate() -> None:
    result = search(target_accuracy=20, options={"input_bits": 3}, levels=(8,), held_out=few())
    assert result.artifact.provenance.options["input_bits"] == 3
    assert result.artifact.netlist.input.neuron.high == 7  # type: ignore[attr-defined]


def test_every_candidate_is_calibrated_as_asked() -> None:
    calibrate = "reconstruct:steps=3,batch=8"
    result = search(target_accuracy=20, levels=(8,), calibrate=calibrate, held_out=few())
    assert result.artifact.provenance.options["reconstruct_done"] == 3


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "there is one target"),
    ({"target_accuracy": 80, "target_energy": 1.0}, "there is one target"),
    ({"target_accuracy": 0.8}, "in percent"),
    ({"target_accuracy": 101}, "in percent"),
    ({"target_accuracy": "many"}, "in percent"),
    ({"target_accuracy": 80, "levels": ()}, "something to search"),
    ({"target_accuracy": 80, "levels": (0,)}, "range"),
    ({"target_accuracy": 80, "codings": ("gradde",)}, "known ones"),
    ({"target_accuracy": 80, "codings": ()}, "something to search"),
    ({"target_accuracy": 80, "options": {"levels": 4}}, "chooses levels"),
    ({"target_accuracy": 80, "options": {"headroom": 2.0}}, "chooses levels"),
    ({"target_accuracy": 80, "options": {"input_bits": 1}}, "range"),
    ({"target_accuracy": 80, "seconds": 0}, "some time"),
]


@pytest.mark.parametrize(("wanted", "rule"), REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_is_computed(
    wanted: dict[str, Any], rule: str
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nothing is computed")

    with pytest.raises(InputError, match=rule):
        search(observe=never, **wanted)


def test_a_profile_without_prices_is_refused() -> None:
    with pytest.raises(ProfileError, match="needs energy"):
        search(target_accuracy=80, profile="unlimited")


def test_a_network_without_classes_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 1), nn.Flatten(0))
    with pytest.raises(InputError, match="of classes"):
        search(model.eval(), target_accuracy=80)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5uJ", 5e-6), ("5 µJ", 5e-6), (".5mJ", 5e-4), ("1e-3J", 1e-3), ("800nJ", 8e-7), (2e-6, 2e-6)],
)
def test_energies_are_read(text: str | float, value: float) -> None:
    assert parse_energy(text) == value


@pytest.mark.parametrize("text", ["5", "5uj", "uJ", "-5uJ", "0J", "1e999J", "5 W", 0, -1.0, "nan"])
def test_energies_that_are_none_are_refused(text: str | float) -> None:
    with pytest.raises(InputError, match="with its unit"):
        parse_energy(text)


def test_errors_fall_with_more_levels() -> None:
    measured = measure_model(trained(), images("train", 64).images)
    errors = sensitivity(measured, (2, 4, 8, 16, 64), Parallel())
    assert list(errors) == ["1", "4", "7"]
    for values in errors.values():
        assert values[0] > values[2] > values[4] >= 0
        assert values[4] < values[0] / 50


def runs_of(levels: tuple[int, ...], **options: Any) -> tuple[list[Any], list[float]]:
    """Uniform runs, and the energy in pJ that each was measured to take."""
    runs, energies = [], []
    for level in levels:
        net = compiled(Parallel(levels=level, **options))
        trace = lapilli.run(net, images("test").images)
        estimate = lapilli.estimate_events(net, trace)
        names = ["1", "4", "7"]
        runs.append(uniform(level, net.netlist, estimate.single.steps, trace.events, names))
        energies.append(estimate.single.total_pj.mid)
    return runs, energies


def compiled(method: Parallel) -> Any:
    return lapilli.compile(trained(), calibration=images("train", 64).images, method=method)


@pytest.mark.parametrize("coding", ["graded", "unary"])
def test_predicted_energy_is_near_what_is_measured(coding: str) -> None:
    levels = (2, 4, 8)
    runs, energies = runs_of(levels, coding=coding)
    model = EnergyModel(runs, ["1", "4", "7"], lapilli.hardware_profiles.load("loihi2"))
    for index, energy in enumerate(energies):
        predicted = model.energy_pj(np.full(3, index), index)
        assert predicted == pytest.approx(energy, rel=0.01)
    chosen = np.array([0, 2, 1])
    mixed = written({"1": 2, "4": 8, "7": 4})
    net = compiled(Parallel(levels=8, mixed=mixed, coding=coding))  # type: ignore[arg-type]
    trace = lapilli.run(net, images("test").images)
    energy = lapilli.estimate_events(net, trace).single.total_pj.mid
    assert model.energy_pj(chosen, 2) == pytest.approx(energy, rel=0.03)


def test_mixtures_rise_in_energy_and_fall_in_error() -> None:
    runs, _ = runs_of((2, 4, 8), coding="unary")
    model = EnergyModel(runs, ["1", "4", "7"], lapilli.hardware_profiles.load("loihi2"))
    errors = np.array([[9.0, 3.0, 1.0], [2.0, 0.5, 0.1], [0.4, 0.2, 0.1]])
    path = mixtures(model, errors)
    assert path[0].levels == (2, 2, 2)
    assert path[-1].levels == (8, 8, 8)
    for before, after in pairwise(path):
        assert before.energy_pj < after.energy_pj
        assert before.error > after.error
    assert any(len(set(m.levels)) > 1 for m in path)


POINT = FrontPoint("parallel", "graded", {"a": 4}, 1, 0.5, "accuracy", 9, 1e-6, 2e-6, 4e-6, 3, 1e-3)


def test_a_front_keeps_what_is_not_beaten() -> None:
    def point(energy: float, score: float) -> FrontPoint:
        return dataclasses.replace(POINT, energy_mid_j=energy, score=score)

    kept = [point(1.5e-6, 0.4), point(2e-6, 0.5), point(3e-6, 0.9)]
    beaten = [point(2e-6, 0.45), point(2.5e-6, 0.5), point(3.5e-6, 0.9)]
    assert front_of([*beaten, *kept]) == tuple(kept)
    assert front_of([]) == ()


def test_provenance_comes_back_as_it_was(tmp_path: Path) -> None:
    result = found()
    result.artifact.save(tmp_path / "net.h5")
    back = lapilli.load(tmp_path / "net.h5")
    assert back.provenance == result.artifact.provenance
    assert back.provenance.front == result.front
    assert back.hash == result.artifact.hash


FORGED: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (lambda front: front["0000"].update(score=1.5), "score"),
    (lambda front: front["0000"].update(score=float("nan")), "score"),
    (lambda front: front["0000"].update(energy_mid_j=9.0), "energy_mid_j"),
    (lambda front: front["0000"].update(energy_low_j=-1.0), "energy_mid_j"),
    (lambda front: front["0000"].update(energy_high_j=float("inf")), "energy_high_j"),
    (lambda front: front["0000"].update(latency_s=-1.0), "latency_s"),
    (lambda front: front["0000"].update(images=0), "images"),
    (lambda front: front["0000"].update(steps=0), "steps"),
    (lambda front: front["0000"].update(latency_steps=-3), "latency_steps"),
    (lambda front: front["0000"].update(measure="luck"), "measure"),
    (lambda front: front["0000"].update(method="\x1b[2J"), "method"),
    (lambda front: front["0000"].update(levels=Text('{"a":0}')), "levels"),
    (
        lambda front: front["0000"].update(levels=type(front["0000"]["levels"])('{"a":"b"}')),
        "levels",
    ),
    (lambda front: front["0001"].update(images=8), "front"),
    (lambda front: front["0001"].update(score=0.5), "front/0001"),
    (lambda front: front["0001"].update(energy_mid_j=2e-6), "front/0001"),
    (lambda front: front["0001"].update(chosen=True), "front"),
    (lambda front: front["0000"].update(chosen=False), "front"),
    (lambda front: front.pop("0000"), "front"),
    (lambda front: front["0000"].pop("levels"), "front/0000"),
]


@pytest.mark.parametrize(("change", "place"), FORGED)
def test_a_forged_front_is_refused(
    change: Callable[[dict[str, Any]], None], place: str, tmp_path: Path
) -> None:
    better = dataclasses.replace(POINT, score=0.6, energy_mid_j=3e-6)
    front = (dataclasses.replace(POINT, chosen=True), better)
    net = sample()
    provenance = dataclasses.replace(net.provenance, front=front, search={"seed": 1})
    path = tmp_path / "net.h5"
    dataclasses.replace(net, provenance=provenance).save(path)
    assert lapilli.load(path).provenance.front == front
    forge(path, lambda record: change(record["provenance"]["front"]))
    with pytest.raises(ArtifactError) as refused:
        lapilli.load(path)
    assert "/provenance/front" in refused.value.where
    assert place in refused.value.where


def test_a_front_that_is_none_is_not_written(tmp_path: Path) -> None:
    net = sample()
    provenance = dataclasses.replace(net.provenance, front=(POINT,))  # nobody chose it
    with pytest.raises(ArtifactError, match="one chosen point"):
        dataclasses.replace(net, provenance=provenance).save(tmp_path / "net.h5")
    assert not (tmp_path / "net.h5").exists()
