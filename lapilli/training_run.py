"""From a recipe to a checked model file: train, compile, verify, compare accuracies."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
from torch import Tensor

import lapilli
from lapilli import data, models, zoo
from lapilli.compiler.errors import BackendError, InputError
from lapilli.compiler.passes.options import check_choice
from lapilli.compiler.training import process_group
from lapilli.compiler.training.recipe import Recipe

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.training.loop import Epoch
    from lapilli.compiler.training.plan import Plan
    from lapilli.runtime.verification import Verification

Progress = Callable[[str, int, int], None]
DEVICES = ("auto", "cpu", "cuda")
TRIAL = 32
"""Images on which the network is compiled for a trial before it is trained."""


@final
@dataclass(frozen=True, eq=False)
class Trained:
    """What a recipe came to.

    measure: what the scores are, 0..1; network_score: of the trained network on the test images, as
    it was trained; score: of the artifact on the same ones, by the reference engine; None for test
    images without labels. seconds: of training in this process.
    """

    artifact: Artifact
    network: torch.nn.Module
    epochs: tuple[Epoch, ...]
    measure: str
    network_score: float | None
    score: float | None
    images: int
    verification: Verification
    seconds: float


def find_recipe(name: str, changes: Mapping[str, str] | None = None) -> Recipe:
    """The recipe of that name in the zoo, or in that file. Raises InputError."""
    try:
        from lapilli.compiler.training.recipe_file import read_recipe

        path = Path(name)
        if name in zoo.names():
            path = zoo.FOLDER / f"{name}.toml"
        elif path.suffix != ".toml":
            close = difflib.get_close_matches(name, zoo.names(), n=1)
            raise InputError(
                f"recipe {name}",
                "a recipe is one of the zoo's, or a TOML file",
                found=repr(name),
                allowed=", ".join(zoo.names()),
                remedy=f"Did you mean {close[0]}?" if close else "See `lapilli train --list`.",
            )
        return read_recipe(path, changes)
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error


def train(
    recipe: Recipe,
    *,
    checkpoint: Path | None = None,
    tensorboard: Path | None = None,
    limit: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
    report: Callable[[Epoch], None] | None = None,
) -> Trained | None:
    """Carry out a recipe; None in the processes of a distributed run that are not the first.

    checkpoint: file that the run goes on from, and keeps up to date; tensorboard: folder for logs;
    limit: use so many training images only; device: "auto", "cpu", "cuda". Raises InputError,
    BackendError, and what `lapilli.compile` raises.
    """
    joined = process_group.joined()
    fabric = _fabric(recipe, device, tensorboard)
    try:
        from lapilli.compiler.training.augmentation import augmenter
        from lapilli.compiler.training.checkpoint import run_digest
        from lapilli.compiler.training.kinds import KINDS
        from lapilli.compiler.training.loop import Examples, fit, outputs_of
        from lapilli.compiler.training.objectives import OBJECTIVES, check_labels
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error

    KINDS[recipe.kind].check_start(recipe)
    learnt, test = _datasets(recipe, limit, _stages(progress))
    assert learnt.labels is not None
    images, labels = torch.from_numpy(learnt.images), torch.from_numpy(learnt.labels)
    prepare = _normaliser(recipe, images)
    trained_on = max(len(images) - recipe.training.held_out, 1)
    calibration = prepare(images[:trained_on][: recipe.artifact.calibration])
    augment = augmenter(recipe.augmentation, recipe.training.seed)
    measure = OBJECTIVES[recipe.loss].measure
    if fabric.global_rank == 0:  # what cannot be compiled is told before hours of training
        _compiled(recipe, _planned(recipe, calibration), calibration[:TRIAL], None)
    plan = _planned(recipe, calibration)
    check_labels(recipe.loss, outputs_of(plan, images[:2], prepare), labels)
    start, state = time.perf_counter(), plan.model.state_dict()
    epochs = fit(
        plan,
        recipe.training,
        Examples(images, labels, augment, prepare, measure),
        fabric,
        run=run_digest(asdict(recipe), *state, *state.values(), images, labels),
        checkpoint_file=checkpoint,
        progress=progress,
        report=report if fabric.global_rank == 0 else None,
    )
    seconds = time.perf_counter() - start
    if not joined:  # the group is this run's, not the caller's
        process_group.leave_at_exit()
    if fabric.global_rank != 0:
        return None
    plan.model.to("cpu", memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    artifact, network = _compiled(recipe, plan, calibration, progress)
    artifact = replace(artifact, provenance=replace(artifact.provenance, labels=learnt.names))
    return _compared(recipe, plan, artifact, network, epochs, test, prepare, seconds, progress)


def _planned(recipe: Recipe, calibration: Tensor) -> Plan:
    """The plan, the same every time."""
    from lapilli.compiler.training.kinds import KINDS

    kind = KINDS[recipe.kind]
    with torch.random.fork_rng():
        torch.manual_seed(recipe.training.seed)
        networks = [
            models.load(spec, Path(file) if file else None) for spec, file in kind.named(recipe)
        ]
        return kind.plan(networks[0], recipe, calibration, *networks[1:])


def _compiled(
    recipe: Recipe, plan: Plan, calibration: Tensor, progress: Progress | None
) -> tuple[Artifact, torch.nn.Module]:
    how = recipe.artifact
    network, method = plan.finished()
    artifact = lapilli.compile(
        network,
        calibration=calibration.numpy(),
        method=method,
        profile=how.profile,
        calibrate=how.calibrate or None,
        progress=progress,
        preprocessing=(recipe.mean, recipe.std),
    )
    return artifact, network


def _compared(
    recipe: Recipe,
    plan: Plan,
    artifact: Artifact,
    network: torch.nn.Module,
    epochs: list[Epoch],
    test: data.Dataset,
    prepare: Callable[[Tensor], Tensor],
    seconds: float,
    progress: Progress | None,
) -> Trained:
    """Verify, and compare the artifact with what was trained."""
    from lapilli.compiler.training.loop import outputs_of
    from lapilli.compiler.training.objectives import OBJECTIVES

    inputs = prepare(torch.from_numpy(test.images))
    checked = inputs[: recipe.artifact.verify].numpy()
    verification = lapilli.verify(artifact, checked, backends=_backends())
    told = _stages(progress)("running the artifact")
    found = lapilli.run(artifact, inputs.numpy(), record="outputs", progress=told).outputs
    measure = OBJECTIVES[recipe.loss]

    def score(outputs: Tensor) -> float | None:
        if test.labels is None:
            return None
        return measure.measure(outputs, torch.from_numpy(test.labels))

    return Trained(
        artifact,
        network,
        tuple(epochs),
        measure.name,
        score(outputs_of(plan, inputs, lambda x: x)),
        score(torch.from_numpy(np.asarray(found, np.float32))),
        len(inputs),
        verification,
        seconds,
    )


def _datasets(
    recipe: Recipe,
    limit: int | None,
    told: Callable[[str], Callable[[int, int], None] | None],
) -> tuple[data.Dataset, data.Dataset]:
    """What is learned, with labels, and what is tested."""
    if not recipe.data:
        raise InputError(
            "recipe: data",
            "a network is trained on data",
            found="none: this recipe leaves them to you",
            allowed=", ".join(source.usage for source in data.SOURCES.values()),
            remedy="Add --data and one of these.",
        )
    learnt = data.load(recipe.data, split="train", limit=limit, progress=told("reading images"))
    if learnt.labels is None:
        raise InputError(
            f"data {recipe.data}",
            "a network is trained on labelled images",
            found="no labels",
            allowed="a source with labels",
            remedy="Add the array `labels` to the file.",
        )
    return learnt, _tests(recipe, learnt, told("reading test images"))


def _tests(
    recipe: Recipe, learnt: data.Dataset, told: Callable[[int, int], None] | None
) -> data.Dataset:
    """Images that the network was not trained on."""
    limit, held_out = recipe.artifact.test or None, recipe.training.held_out
    if recipe.test_data or learnt.split != "all":
        spec = recipe.test_data or recipe.data
        return data.load(spec, split="test", limit=limit, progress=told)
    if not held_out or learnt.labels is None:
        raise InputError(
            "recipe: test_data",
            "scores are taken on images that the network was not trained on",
            found=f"{recipe.data}, which has no test split",
            allowed="test_data, or training.held_out",
            remedy="Add --set test_data=npz:FILE, or --set training.held_out=500.",
        )
    images, labels = learnt.images[-held_out:][:limit], learnt.labels[-held_out:][:limit]
    return replace(learnt, images=images, labels=labels)


def _backends() -> tuple[str, ...]:
    import importlib.util

    lava = importlib.util.find_spec("lava") is not None
    return ("reference", "lava") if lava else ("reference",)


def _fabric(recipe: Recipe, device: str, tensorboard: Path | None) -> Fabric:
    """One process per device; under torchrun, as many as that started."""
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.loggers.tensorboard import TensorBoardLogger
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    check_choice("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            "option device",
            "the device is there",
            found="no CUDA device that torch can use",
            allowed="auto, cpu",
            remedy="Choose another device, or install a torch built for CUDA.",
        )
    loggers: list[Any] = []
    if tensorboard is not None:
        try:
            loggers = [TensorBoardLogger(str(tensorboard), name="lapilli")]
        except ModuleNotFoundError as error:
            raise _not_installed(error) from error
    fabric = Fabric(
        accelerator=device,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        precision=recipe.training.precision,
        loggers=loggers,
    )
    fabric.launch()
    return fabric


def _normaliser(recipe: Recipe, images: Tensor) -> Callable[[Tensor], Tensor]:
    if not recipe.mean and not recipe.std:
        return lambda x: x
    data.normalise(images[:1].numpy(), recipe.mean, recipe.std)  # says what does not fit
    shape = (1, -1, *(1,) * (images.ndim - 2))
    mean, std = (torch.tensor(v).reshape(shape) for v in (recipe.mean, recipe.std))
    return lambda x: (x - mean.to(x.device)) / std.to(x.device)


def _stages(progress: Progress | None) -> Callable[[str], Callable[[int, int], None] | None]:
    if progress is None:
        return lambda name: None
    return lambda name: lambda done, total: progress(name, done, total)


def _not_installed(error: ModuleNotFoundError) -> BackendError:
    return BackendError(
        "training",
        "training needs a few more packages",
        found=f"no module {error.name}",
        allowed="lightning-fabric, pydantic (and torchvision, tensorboard where they are used)",
        remedy="pip install 'lapilli[train]'",
    )
