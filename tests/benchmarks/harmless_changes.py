"""How alike float networks answer mirrored and shifted images: figures of decision 19.

    python tests/benchmarks/harmless_changes.py [--json] [--mnist FILE.safetensors]

measures `reconstruction.augmentation.likeness` on 256 training images: of ResNet-20 with the
weights in ../shared/data, and of examples/05_mnist_max_pooling.py's network with those of FILE.
"""

from __future__ import annotations

import argparse
import json
import runpy
from pathlib import Path
from typing import Any

import torch

from lapilli import data, models
from lapilli.compiler.reconstruction.augmentation import CHANGES, likeness

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
IMAGES, BATCH = 256, 64


def alike(network: torch.nn.Module, images: torch.Tensor) -> dict[str, float]:
    """Correlation of the outputs before and after each change."""

    def answer(x: torch.Tensor) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return {"outputs": network(x)}

    named = ("mirror", "shift")
    return {name: likeness(answer, images, BATCH, CHANGES[name]) for name in named}


def resnet20() -> dict[str, float]:
    """On CIFAR-10."""
    example = runpy.run_path(str(ROOT / "examples" / "03_resnet20.py"))
    network = example["ResNet20"]()
    models.load_weights(network, SHARED / "resnet20_cifar10.safetensors")
    found = data.load(f"cifar10:{SHARED / 'cifar10.tar.xz'}", split="train", limit=IMAGES)
    images = data.normalise(found.images, example["MEAN"], example["STD"])
    return alike(network.eval(), torch.from_numpy(images))


def mnist(weights: Path) -> dict[str, float]:
    """Of the seven layers."""
    example = runpy.run_path(str(ROOT / "examples" / "05_mnist_max_pooling.py"))
    network: Any = example["build"]()
    models.load_weights(network, weights)
    found = data.load(f"mnist:{SHARED / 'mnist'}", split="train", limit=IMAGES)
    return alike(network.eval(), torch.from_numpy(found.images))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--mnist", type=Path, metavar="FILE")
    given = parser.parse_args()
    report = {"resnet20": resnet20()}
    if given.mnist:
        report["mnist"] = mnist(given.mnist)
    if given.json:
        print(json.dumps(report))
        return
    for name, found in report.items():
        print(name, " ".join(f"{change} {value:.2f}" for change, value in found.items()))


if __name__ == "__main__":
    main()
