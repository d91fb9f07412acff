"""Train a small CNN on MNIST and compile it twice, for graded spikes and for rate coding.

python examples/02_mnist.py [FOLDER WITH THE FOUR IDX FILES]
"""

# needs: ../shared/data/mnist

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import lapilli
from lapilli import data

IMAGES, EPOCHS, BATCH, RATE = 15_000, 2, 64, 0.01  # a part of the training set: an example


def build() -> nn.Module:
    """(N, 1, 28, 28) -> (N, 10); strided convolutions instead of pooling."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def train(images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """The network after EPOCHS passes over the images."""
    torch.manual_seed(0)
    network = build()
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, RATE, epochs=EPOCHS, steps_per_epoch=-(-len(images) // BATCH)
    )
    for epoch in range(EPOCHS):
        for first in range(0, len(images), BATCH):
            optimiser.zero_grad()
            scores = network(images[first : first + BATCH])
            loss = functional.cross_entropy(scores, labels[first : first + BATCH])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: last loss {loss.item():.3f}")
    return network.eval()


def main(folder: Path) -> None:
    """Train, compile with two methods, and compare on 2,000 test images."""
    learnt = data.load(f"mnist:{folder}", split="train", limit=IMAGES)
    test = data.load(f"mnist:{folder}", split="test", limit=2000)
    assert learnt.labels is not None and test.labels is not None
    network = train(torch.from_numpy(learnt.images), torch.from_numpy(learnt.labels))
    with torch.no_grad():
        ann = network(torch.from_numpy(test.images)).numpy().argmax(1)
    print(f"ANN: {100 * (ann == test.labels).mean():.2f} % of {len(test)} test images")
    for method, count in (
        (lapilli.methods.Parallel(levels=8), len(test)),
        (lapilli.methods.Rate(steps=64), 500),  # 64 steps an image
    ):
        net = lapilli.compile(network, calibration=learnt.images[:512], method=method)
        trace = lapilli.run(net, test.images[:count])
        correct = np.asarray(trace.outputs).argmax(1) == test.labels[:count]
        synops = sum(e.synops for e in trace.events.values()) / count
        print(f"{method}: {100 * correct.mean():.2f} % of {count}, {synops:,.0f} synops an image")


if __name__ == "__main__":
    shared = Path(__file__).resolve().parents[2] / "shared" / "data" / "mnist"
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else shared
    if place.is_dir():
        main(place)
    else:
        print(f"Skipped: there is no folder {place}; name the one with MNIST's four IDX files.")
