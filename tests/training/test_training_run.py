"""`lapilli train`: from a recipe to a checked model file, and what it refuses beforehand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import runner
from torch import nn

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is missing")

import lapilli
from lapilli import data, training_run, zoo
from lapilli.compiler.errors import BackendError, InputError, UnsupportedOperatorError
from lapilli.compiler.training.kinds import KINDS
from lapilli.zoo import networks

QUICK = {"training.epochs": "1", "artifact.verify": "1", "artifact.test": "60"}


def quick(**changes: str) -> Any:
    named = {key.replace("__", "."): value for key, value in changes.items()}
    return training_run.find_recipe("digits", {**QUICK, **named})


class Cubed(nn.Module):
    """With an operator that no chip has, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(torch.relu(self.linear(x.flatten(1))), 1).values


class Tied(nn.Module):
    """With one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = (nn.Linear(64, n) for n in (64, 64, 10))
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x.flatten(1)))))
        logits: torch.Tensor = self.last(x)
        return logits


def test_a_recipe_ends_in_a_model_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run, file = runner(capsys), tmp_path / "m.h5"
    sets = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
    done = run("train", "digits", *sets, "-o", file, "--device", "cpu", "--json")
    assert done.code == 0 and "train: epoch 1 of 1: loss" in done.err
    report = done.json
    assert report["ok"] and report["measure"] == "accuracy" and report["test_images"] == 60
    artifact = lapilli.load(file)
    assert artifact.hash == report["artifact"]["hash"]
    test = data.load("digits", split="test", limit=60)
    assert test.labels is not None
    right = np.argmax(lapilli.run(artifact, test.images).outputs, 1) == test.labels
    assert report["score"] == pytest.approx(right.mean())
    # The weights beside it are the trained network's.
    again = run("train", "digits", *sets, "--weights", file.with_suffix(".safetensors"))
    assert again.code == 2 and "Missing option" in again.err
    table = run("train", "digits", *sets, "-o", file, "--device", "cpu")
    assert table.code == 0 and "the spiking network, in integers" in table.out


def test_what_starts_from_weights_begins_where_they_are(tmp_path: Path) -> None:
    trained = training_run.train(quick(), device="cpu")
    assert trained is not None
    from safetensors.torch import save_file

    file = tmp_path / "w.safetensors"
    save_file({k: v.contiguous() for k, v in trained.network.state_dict().items()}, file)
    still = training_run.train(
        quick(weights=str(file), training__rate="0.0", training__optimiser="sgd"), device="cpu"
    )
    assert still is not None
    for name, value in still.network.named_parameters():
        assert torch.equal(value, dict(trained.network.named_parameters())[name])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("cifar_resnet20_quantised", "quantised.trained"),
        ("cifar_resnet20_2bit", "fast-snn.trained"),
        ("cifar_resnet20_2bit", "fast-snn.quantised.trained"),
        ("cifar_resnet20_lm_ht", "lm-ht.quantised"),
    ],
)
def test_a_network_that_brings_its_weights_takes_no_others(name: str, option: str) -> None:
    changes = {option: "trained.safetensors", "data": "digits"}
    if option == "lm-ht.quantised":
        changes["lm-ht.start"] = "qcfs"
    recipe = training_run.find_recipe(name, changes)
    KINDS[recipe.kind].check_start(recipe)
    recipe = training_run.find_recipe(name, {**changes, "weights": "float.safetensors"})
    with pytest.raises(InputError, match=f"option .*{option}: a network's weights") as refused:
        training_run.train(recipe, device="cpu")
    assert "float.safetensors" in str(refused.value)


def test_two_files_of_one_quantised_network_are_refused() -> None:
    changes = {"fast-snn.trained": "a.safetensors", "fast-snn.quantised.trained": "b.safetensors"}
    recipe = training_run.find_recipe("cifar_resnet20_2bit", changes)
    with pytest.raises(InputError, match="a network's weights come from one file"):
        KINDS[recipe.kind].check_start(recipe)


def test_the_zoo_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    out = runner(capsys)("train", "--list").out
    assert [line.partition(":")[0] for line in out.splitlines()] == zoo.names()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("digts",), "Did you mean digits?"),
        (("digits", "--set", "epochs"), "not KEY=VALUE"),
        (("digits", "--set", "training.epoch=1"), "Did you mean epochs?"),
        (("digits", "--data", "npz:none.npz"), "no such file"),
        (("digits", "--set", "network=nowhere:net"), "no module"),
        (("digits", "--device", "gpu"), "option device"),
        (("digits", "--checkpoint", "nowhere/file"), "no folder"),
        (("shapes_unet",), "this recipe leaves them to you"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    done = runner(capsys)("train", *arguments, "-o", tmp_path / "m.h5")
    assert done.code == 2 and says in done.err
    assert not list(tmp_path.iterdir())


def test_scores_are_taken_on_images_that_were_not_trained_on(tmp_path: Path) -> None:
    digits = data.load("digits", split="train", limit=120)
    file = tmp_path / "d.npz"
    np.savez(file, images=digits.images, labels=digits.labels)
    spec = f"npz:{file}"
    with pytest.raises(InputError, match="not trained on"):
        training_run.train(quick(data=spec, training__held_out="0"), device="cpu")
    held = training_run.train(quick(data=spec, training__held_out="30"), device="cpu")
    assert held is not None and held.images == 30
    other = training_run.train(
        quick(data=spec, test_data="digits", training__held_out="0"), device="cpu"
    )
    assert other is not None and other.images == 60
    np.savez(file, images=digits.images)
    with pytest.raises(InputError, match="labelled"):
        training_run.train(quick(data=spec), device="cpu")


def test_calibration_images_are_none_of_those_that_are_held_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digits = data.load("digits", split="train", limit=120)
    file = tmp_path / "d.npz"
    np.savez(file, images=digits.images, labels=digits.labels)
    seen: list[torch.Tensor] = []
    planned = training_run._planned

    def note(recipe: Any, calibration: torch.Tensor) -> Any:
        seen.append(calibration)
        return planned(recipe, calibration)

    monkeypatch.setattr(training_run, "_planned", note)
    recipe = quick(data=f"npz:{file}", training__held_out="50", training__batch="32")
    assert training_run.train(recipe, device="cpu") is not None
    assert seen
    assert all(np.array_equal(images.numpy(), digits.images[:70]) for images in seen)


def test_labels_that_the_network_has_no_score_for_are_refused(tmp_path: Path) -> None:
    digits = data.load("digits", split="train", limit=80)
    assert digits.labels is not None
    file = tmp_path / "d.npz"
    np.savez(file, images=digits.images, labels=digits.labels + 2)
    with pytest.raises(InputError, match="class 11, scores of 10"):
        training_run.train(quick(data=f"npz:{file}", training__held_out="20"), device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(BackendError, match="no CUDA device"):
        training_run.train(quick(), device="cuda")


def test_weights_that_layers_share_are_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    monkeypatch.setattr(networks, "tied", Tied, raising=False)
    sets = [part for key, value in QUICK.items() for part in ("--set", f"{key}={value}")]
    chosen = ("--set", "network=lapilli.zoo.networks:tied", "--device", "cpu")
    done = runner(capsys)("train", "digits", *sets, *chosen, "-o", tmp_path / "m.h5")
    assert done.code == 0
    state = load_file(tmp_path / "m.safetensors")
    assert torch.equal(state["first.weight"], state["second.weight"])


def test_what_cannot_be_compiled_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "cubed", Cubed, raising=False)
    told: list[object] = []
    with pytest.raises(UnsupportedOperatorError, match="sort"):
        training_run.train(
            quick(network="lapilli.zoo.networks:cubed"), device="cpu", report=told.append
        )
    assert told == []


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
def test_losses_are_logged_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = training_run.train(quick(), device="cpu", tensorboard=tmp_path)
    assert done is not None
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    read = EventAccumulator(str(events))
    read.Reload()
    losses = [event.value for event in read.Scalars("loss")]
    assert np.mean(losses) == pytest.approx(done.epochs[0].loss, rel=1e-4)
    assert read.Scalars("rate")[0].value == pytest.approx(0.005)


def test_a_missing_package_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = quick()
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(BackendError, match=r"lapilli\[train\]"):
        training_run.train(recipe, device="cpu")
