"""`lapilli run` with several outputs, maps, heads: what it prints, scores and writes."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from command_line import Run
from dense_networks import images, network
from PIL import Image

import lapilli
from lapilli import cli_outputs, pictures, scores
from lapilli.compiler.errors import InputError
from lapilli.compiler.outputs import Head, Output

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file per network, images with and without labels."""
    folder = tmp_path_factory.mktemp("outputs")
    for name in ("detector", "segmentation", "softmax", "argmax", "sigmoid"):
        method = lapilli.methods.Parallel(levels=8)
        artifact = lapilli.compile(network(name), calibration=images(32), method=method)
        artifact.save(folder / f"{name}.h5")
    rng = np.random.default_rng(2)
    labels = {"bare": {}, "classes": {"labels": rng.integers(0, 5, 6)}}
    labels["pixels"] = {"labels": rng.integers(0, 3, (6, 8, 8)).astype(np.uint8)}
    labels["pixels"]["labels"][0, :2] = scores.VOID
    for name, arrays in labels.items():
        np.savez(folder / f"{name}.npz", images=images(6, seed=4), **arrays)
    return folder


def on(folder: Path, network: str, data: str) -> tuple[object, ...]:
    return ("run", folder / f"{network}.h5", "--data", f"npz:{folder / data}.npz")


def trace(folder: Path, network: str, **options: Any) -> Arrays:
    artifact = lapilli.load(folder / f"{network}.h5")
    return lapilli.run(artifact, images(6, seed=4), **options).named_outputs


def test_every_output_is_summarised(run: Run, folder: Path) -> None:
    report = run(*on(folder, "detector", "bare"), "--json").json
    found = trace(folder, "detector")
    assert report["outputs"] == [
        {
            "name": name,
            "head": head,
            "shape": list(found[name].shape[1:]),
            "min": found[name].min(),
            "max": found[name].max(),
        }
        for name, head in (("scores", "softmax"), ("boxes", "none"))
    ]
    assert report["accuracy"] is report["segmentation"] is report["readout"] is None
    assert report["agreement"] == {
        **{"with": "quantised ANN", "of": "outputs"},
        **{"equal": 6, "images": 6},
    }
    text = run(*on(folder, "detector", "bare")).out
    assert "output scores" in text and "40 x 3, softmax" in text
    assert "same outputs as the quantised ANN" in text
    assert "Nothing is compared" not in text


@pytest.mark.parametrize("name", ["softmax", "argmax"])
@pytest.mark.parametrize("readout", [None, "logits", "softmax", "argmax"])
def test_a_head_does_not_change_the_accuracy(
    run: Run, folder: Path, name: str, readout: str | None
) -> None:
    with np.load(folder / "classes.npz") as arrays:
        labels = arrays["labels"]
    right = int((trace(folder, name, readout="argmax")["output"] == labels).sum())
    options = () if readout is None else ("--readout", readout)
    report = run(*on(folder, name, "classes"), *options, "--json").json
    assert report["accuracy"] == {"correct": right, "images": 6, "fraction": right / 6}
    assert report["scored"] == {"output": "output", "reason": None}
    assert report["readout"] == readout
    assert report["agreement"]["equal"] == 6


def test_pixels_are_scored(run: Run, folder: Path) -> None:
    report = run(*on(folder, "segmentation", "pixels"), "--score", "out", "--json").json
    with np.load(folder / "pixels.npz") as arrays:
        labels = arrays["labels"].astype(int)
    guess = trace(folder, "segmentation")["out"].argmax(1)
    known = labels != 255
    right = int(((guess == labels) & known).sum())
    shares = [
        ((guess == k) & (labels == k)).sum() / (((guess == k) | (labels == k)) & known).sum()
        for k in range(3)
    ]
    found = report["segmentation"]
    assert (found["correct"], found["pixels"]) == (right, int(known.sum()))
    assert found["mean_iou"] == pytest.approx(np.mean(shares), rel=1e-12)
    assert (report["accuracy"], report["scored"]["output"]) == (None, "out")
    text = run(*on(folder, "segmentation", "pixels"), "--score", "out").out
    assert f"({right} of {int(known.sum())})" in text
    assert "mean IoU of 3 classes" in text


@pytest.mark.parametrize(
    ("network", "data", "said"),
    [
        ("segmentation", "pixels", "several outputs give classes (out, aux): choose one"),
        ("segmentation", "classes", "no output gives classes of an image: out (3, 8, 8)"),
        ("detector", "classes", "no output gives classes of an image: scores (40, 3)"),
        ("softmax", "pixels", "no output gives classes of (8, 8) pixels: output (5,)"),
    ],
)
def test_labels_that_do_not_fit_are_told(
    run: Run, folder: Path, network: str, data: str, said: str
) -> None:
    outcome = run(*on(folder, network, data))
    assert outcome.code == 0
    assert said in " ".join(outcome.out.split())
    assert said in run(*on(folder, network, data), "--json").json["scored"]["reason"]


def test_an_output_to_score_that_is_not_there_is_refused(run: Run, folder: Path) -> None:
    outcome = run(*on(folder, "segmentation", "pixels"), "--score", "main")
    assert outcome.code == 2
    assert "score: the output that is compared with the labels exists" in outcome.err
    assert "found:   main\n  allowed: out, aux\n" in outcome.err


def test_readouts_of_the_command_line(run: Run, folder: Path) -> None:
    refused = run(*on(folder, "softmax", "bare"), "--readout", "poisson-softmax")
    assert refused.code == 2
    assert "Poisson softmax draws spikes in every step" in refused.err
    assert run(*on(folder, "softmax", "bare"), "--readout", "median").code == 2


def test_outputs_are_written(run: Run, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "outputs.npz"
    for name in ("detector", "segmentation", "sigmoid"):
        assert run(*on(folder, name, "bare"), "--save-outputs", path).code == 0
        found = trace(folder, name)
        with np.load(path) as arrays:
            assert list(arrays) == list(found)
            for key, values in found.items():
                assert np.array_equal(arrays[key], values)
                assert arrays[key].dtype == values.dtype
    first = path.read_bytes()
    run(*on(folder, "sigmoid", "bare"), "--save-outputs", path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path], "nothing else is left behind"


def test_a_folder_that_is_not_there_is_told_before_anything_runs(run: Run, folder: Path) -> None:
    outcome = run(*on(folder, "detector", "none"), "--save-outputs", folder / "no" / "o.npz")
    assert outcome.code == 2
    assert "there is no folder" in outcome.err


@pytest.mark.parametrize("readout", [None, "argmax"])
def test_maps_become_pictures(run: Run, folder: Path, tmp_path: Path, readout: str | None) -> None:
    options = () if readout is None else ("--readout", readout)
    outcome = run(*on(folder, "segmentation", "bare"), "--save-pictures", tmp_path, *options)
    assert outcome.code == 0
    assert not (tmp_path / "new").exists()
    new = run(*on(folder, "segmentation", "bare"), "--save-pictures", tmp_path / "new", *options)
    assert new.code == 0
    assert len(list((tmp_path / "new").iterdir())) == 12
    shutil.rmtree(tmp_path / "new")
    found = trace(folder, "segmentation")
    names = [f"{name}_{i:04d}.png" for name in found for i in range(6)]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert len([line for line in outcome.err.splitlines() if line.startswith("wrote ")]) == 12
    for name, values in found.items():
        with Image.open(tmp_path / f"{name}_0003.png") as picture:
            assert np.array_equal(np.asarray(picture), values.argmax(1)[3])
            kept = picture.getpalette()
        assert kept is not None
        assert bytes(kept) == pictures.palette()[: len(kept)]
    colours = {pictures.palette()[i : i + 3] for i in range(0, 768, 3)}
    assert len(colours) > 250


def test_pictures_of_what_is_no_map_are_refused(run: Run, folder: Path, tmp_path: Path) -> None:
    outcome = run(*on(folder, "detector", "bare"), "--save-pictures", tmp_path)
    assert outcome.code == 2
    assert "an output gives classes of pixels" in outcome.err
    assert run(*on(folder, "detector", "bare"), "--save-pictures", tmp_path / "no").code == 2
    assert not (tmp_path / "no").exists()
    deep = run(*on(folder, "segmentation", "bare"), "--save-pictures", tmp_path / "no" / "where")
    assert deep.code == 2
    assert "there is no folder" in deep.err


def test_names_of_a_file_lead_nowhere(tmp_path: Path) -> None:
    arrays: Arrays = {name: np.arange(i + 1) for i, name in enumerate(["../a", ".._a", "file"])}
    cli_outputs.save(tmp_path / "o.npz", arrays)
    with np.load(tmp_path / "o.npz") as found:
        assert {name: len(found[name]) for name in found} == {".._a": 1, ".._a_1": 2, "file": 3}


@pytest.mark.parametrize("command", ["verify", "estimate"])
@pytest.mark.parametrize("network", ["detector", "segmentation", "argmax"])
def test_other_commands_take_several_outputs(
    run: Run, folder: Path, command: str, network: str
) -> None:
    more = ("--backend", "reference") if command == "verify" else ()
    arguments = (command, *on(folder, network, "pixels")[1:], "--limit", 2, *more)
    outcome = run(*arguments, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json
    assert run(*arguments).code == 0


def test_inspect_names_the_outputs(run: Run, folder: Path) -> None:
    outputs = run("inspect", folder / "detector.h5", "--json").json["provenance"]["outputs"]
    assert [output["name"] for output in outputs] == ["scores", "boxes"]
    assert outputs[0]["head"] == {"kind": "softmax", "axis": 1, "keep": False}
    text = " ".join(run("inspect", folder / "detector.h5").out.split())
    assert "scores (40, 3) softmax, boxes (40, 4)" in text


ROWS = np.array([[0.1, 0.9], [0.8, 0.2]])


@pytest.mark.parametrize(
    ("values", "sigmoid", "expected"),
    [
        (ROWS, False, [1, 0]),
        (ROWS[:, :1], True, [0, 1]),
        (ROWS[:, 0], True, [0, 1]),
        (ROWS[:, 0], False, None),
        (np.array([3, 4]), False, [3, 4]),
        (np.array([[3], [4]]), False, [3, 4]),
        (ROWS.reshape(2, 2, 1, 1), False, [[[1]], [[0]]]),
        (ROWS[:, :1].reshape(2, 1, 1, 1), True, [[[0]], [[1]]]),
        (np.zeros((2, 3, 4, 5, 6)), False, None),
        (np.zeros((2, 3, 4)), False, None),
    ],
)
def test_classes(values: Any, sigmoid: bool, expected: Any) -> None:
    found = scores.classes(values, sigmoid)
    assert (None if found is None else found.tolist()) == expected


def test_outputs_that_agree_need_no_choice() -> None:
    outputs = [Output("logits", 0, (2,)), Output("class", 0, (), Head("argmax"))]
    values: Arrays = {"logits": ROWS, "class": ROWS.argmax(1)}
    found = scores.choose(outputs, values, np.array([1, 1]))
    assert (found.output, found.reason) == ("logits", None)
    assert found.classes is not None
    assert scores.accuracy(found.classes, np.array([1, 1])) == {
        **{"correct": 1, "images": 2},
        "fraction": 0.5,
    }
    other = scores.choose(outputs, {**values, "class": np.array([0, 0])}, np.array([1, 1]))
    assert (other.classes, "choose one" in str(other.reason)) == (None, True)
    with pytest.raises(InputError):
        scores.choose(outputs, values, None, "boxes")


def test_overlap_of_nothing_known() -> None:
    void = np.full((1, 2, 2), scores.VOID)
    found = scores.segmentation(np.zeros((1, 2, 2), np.int64), void)
    assert found == {"correct": 0, "pixels": 0, "fraction": 0.0, "mean_iou": 0.0, "classes": 0}
    many = scores.segmentation(void, void)
    assert many is not None
    assert (many["correct"], many["classes"]) == (4, 1)


def test_labels_of_pixels_keep_the_classes_unnamed(folder: Path) -> None:
    from lapilli import data

    dataset = data.load(f"npz:{folder / 'pixels.npz'}", split="test", limit=2)
    assert dataset.labels is not None
    assert (dataset.labels.shape, dataset.names) == ((2, 8, 8), ())


def test_a_network_without_names_is_run_as_before(folder: Path) -> None:
    """Of another tool, or of a program that made the netlist itself."""
    artifact = lapilli.load(folder / "segmentation.h5")
    bare = replace(artifact, provenance=replace(artifact.provenance, outputs=()))
    found = lapilli.run(bare, images(6, seed=4)).named_outputs
    for ours, theirs in zip(found.values(), trace(folder, "segmentation").values(), strict=True):
        assert np.array_equal(ours, theirs)
    assert list(found) == ["0", "1"]
