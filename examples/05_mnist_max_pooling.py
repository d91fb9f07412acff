"""A seven-layer CNN with max pooling, trained on MNIST and compiled by three methods.

python examples/05_mnist_max_pooling.py [FOLDER WITH THE FOUR IDX FILES] [--epochs N] [--learn N]
    [--weights FILE] [--images N]

A glance takes less than a minute. The network of docs/results.md:

python examples/05_mnist_max_pooling.py --epochs 20 --learn 55000 --weights mnist7.safetensors
"""

# needs: ../shared/data/mnist

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

import lapilli
from lapilli import data, models

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"
HELD_OUT = 5_000  # the last training images: nothing is ever chosen by test images
BATCH, RATE, DECAY = 128, 4e-3, 1e-2
DEGREES, SHIFT, SCALE = 10.0, 2.0, 0.1  # at most, to either side; a shift in pixels
CALIBRATION = 1024


def build() -> nn.Module:
    """(N, 1, 28, 28) -> (N, 10): two convolutions, a pool, a convolution, a pool, two dense."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Dropout(0.3)),
        nn.Linear(128, 10),
    )


def moved(images: torch.Tensor) -> torch.Tensor:
    """Each image turned, shifted and scaled a little, at random."""
    n, _, _, size = images.shape
    turn, scale, *shift = torch.rand(4, n) * 2 - 1
    angle, factor = turn * math.radians(DEGREES), 1 + scale * SCALE
    by = [s * SHIFT * 2 / size for s in shift]
    cosine, sine = angle.cos() * factor, angle.sin() * factor
    rows = torch.stack([cosine, -sine, by[0], sine, cosine, by[1]], dim=1).reshape(n, 2, 3)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    result: torch.Tensor = functional.grid_sample(images, grid, align_corners=False)
    return result


def train(learnt: data.Dataset, epochs: int, check: data.Dataset) -> nn.Module:
    """The network after so many passes over `learnt`; of `check` it prints the accuracy."""
    torch.manual_seed(0)
    network = build()
    assert learnt.labels is not None
    images, labels = torch.from_numpy(learnt.images), torch.from_numpy(learnt.labels)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=DECAY)
    per_epoch = -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, RATE, epochs=epochs, steps_per_epoch=per_epoch
    )
    start = time.perf_counter()
    for epoch in range(epochs):
        network.train()
        order = torch.randperm(len(images))
        for first in range(0, len(images), BATCH):
            chosen = order[first : first + BATCH]
            optimiser.zero_grad()
            batch = moved(images[chosen]).to(memory_format=torch.channels_last)
            loss = functional.cross_entropy(network(batch), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        found = f"{percent(scores(network, check.images), check):.2f} % of {len(check)} held out"
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {epochs}: {found}, {seconds:.0f} s", flush=True)
    return network.eval()


def scores(network: nn.Module, images: Any) -> Any:
    """What the float network answers, (N, 10)."""
    network.eval()
    every = torch.from_numpy(images)
    with torch.no_grad():
        return torch.cat([network(every[i : i + 250]) for i in range(0, len(every), 250)]).numpy()


def percent(outputs: Any, of: data.Dataset) -> float:
    """Accuracy of scores (N, 10)."""
    return 100 * float((np.argmax(outputs, axis=1) == of.labels).mean())


def network_of(given: argparse.Namespace) -> nn.Module:
    """The network of a file that is there, or a newly trained one, which the file then holds."""
    if given.weights is not None and given.weights.exists():
        network = build().eval()
        models.load_weights(network, given.weights)
        return network
    learnt = data.load(f"mnist:{given.data}", split="train")
    assert learnt.labels is not None
    last = len(learnt) - HELD_OUT
    first = min(given.learn, last)
    parts = [
        data.Dataset(learnt.images[part], learnt.labels[part], learnt.names, learnt.source, "train")
        for part in (slice(0, first), slice(last, None))
    ]
    network = train(parts[0], given.epochs, parts[1])
    if given.weights is not None:
        save_file(network.state_dict(), given.weights)
    return network


def main() -> None:
    """Train or load, compile by three methods, and compare on test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, nargs="?", default=SHARED, help="the four IDX files")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learn", type=int, default=10_000, help="training images, of 55000")
    parser.add_argument("--weights", type=Path, help="a safetensors file: kept, then used again")
    parser.add_argument("--images", type=int, default=250, help="test images (10000 has all)")
    given = parser.parse_args()
    if not given.data.is_dir():
        print(f"Skipped: there is no folder {given.data}; name the one with MNIST's IDX files.")
        return
    network = network_of(given)
    calibration = data.load(f"mnist:{given.data}", split="train", limit=CALIBRATION).images
    test = data.load(f"mnist:{given.data}", split="test", limit=given.images)
    print(f"ANN: {percent(scores(network, test.images), test):.2f} % of {len(test)} test images")
    for method in (
        lapilli.methods.Parallel(levels=8),
        lapilli.methods.FastSNN(levels=8),
        lapilli.methods.Rate(steps=64),
    ):
        net = lapilli.compile(network, calibration=calibration, method=method)
        found = lapilli.run(net, test.images, record="outputs").outputs
        print(f"{type(method).__name__}: {percent(found, test):.2f} %")


if __name__ == "__main__":
    main()
