"""How near taught networks of few levels come to their teachers, on test and on training images.

    python tests/benchmarks/taught.py STUDENT.safetensors ... --teachers A.safetensors ...
        --data cifar10:FILE [--recipe cifar_resnet20_quantised] [--images 10000] [--json]

Teachers are float networks of the recipe, students what the recipe wrote. Images are not augmented.
The divergence (Kullback-Leibler, in nats an image) is from the mean of the teachers' scores, which
the recipe's students learn from.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from lapilli import data, models, training_run
from lapilli.compiler.training.qcfs import QCFS
from lapilli.compiler.training.quantised_file import quantised_network
from lapilli.compiler.training.teacher import Ensemble

BATCH = 250
FEW = 2
"""Images that show where a network's activations are."""
Row = dict[str, Any]


def student(recipe: Any, file: Path, images: Tensor) -> nn.Module:
    """With the recipe's levels, as it was trained."""
    made = quantised_network(models.load(recipe.network, None), file, images).eval()
    for layer in made.modules():
        if isinstance(layer, QCFS):
            layer.levels = recipe.options.levels
    return made


def scores(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network(part) for part in images.split(BATCH)])


def row(name: str, found: Tensor, wanted: Tensor, labels: Tensor) -> Row:
    """found, wanted: (N, K) scores; labels: (N,)."""
    ours, theirs = found.log_softmax(1), wanted.log_softmax(1)
    return {
        "network": name,
        "accuracy": 100.0 * float((found.argmax(1) == labels).float().mean()),
        "cross-entropy": float(functional.cross_entropy(found, labels)),
        "divergence": float((theirs.exp() * (theirs - ours)).sum(1).mean()),
    }


def rows_of(given: argparse.Namespace, split: Any) -> Iterator[Row]:
    recipe = training_run.find_recipe(given.recipe, {})
    found = data.load(given.data, split=split, limit=given.images)
    assert found.labels is not None
    images = torch.from_numpy(found.images)
    if recipe.mean or recipe.std:
        images = torch.from_numpy(data.normalise(found.images, recipe.mean, recipe.std))
    labels = torch.from_numpy(found.labels)
    teachers = [models.load(recipe.network, file) for file in given.teachers]
    lessons = scores(Ensemble(teachers), images)
    for file, network in zip(given.teachers, teachers, strict=True):
        yield row(file.stem, scores(network, images), lessons, labels)
    yield row("teachers together", lessons, lessons, labels)
    for file in given.students:
        made = student(recipe, file, images[:FEW])
        yield row(file.stem, scores(made, images), lessons, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("students", nargs="*", type=Path)
    parser.add_argument("--teachers", nargs="+", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="cifar_resnet20_quantised")
    parser.add_argument("--images", type=int, default=10_000, help="of each split")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    splits = ("test", "train")
    rows = [{"images": split, **row} for split in splits for row in rows_of(given, split)]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'images':<7}{'network':<20}{'accuracy':>10}{'cross-entropy':>15}{'divergence':>12}")
    for r in rows:
        name, accuracy = r["network"], f"{r['accuracy']:.2f} %"
        print(
            f"{r['images']:<7}{name:<20}{accuracy:>10}{r['cross-entropy']:>15.4f}"
            f"{r['divergence']:>12.4f}"
        )


if __name__ == "__main__":
    main()
