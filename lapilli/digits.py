"""The network of the demo: handwritten digits, 8x8 pixels, a residual block, BatchNorm.

Written as people write PyTorch: functional calls, an addition, nothing from this package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from lapilli import data

EPOCHS = 12
BATCH = 32
LEARNING_RATE = 0.01


class DigitsNetwork(nn.Module):
    """(N, 1, 8, 8) in [0, 1] -> (N, 10) logits; 16 and 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(16)
        self.conv4 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn4 = nn.BatchNorm2d(32)
        self.linear = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        branch = functional.relu(self.bn2(self.conv2(x)))
        x = functional.relu(x + self.bn3(self.conv3(branch)))
        x = functional.relu(self.bn4(self.conv4(x)))
        x = functional.avg_pool2d(x, 2).flatten(1)
        logits: torch.Tensor = self.linear(x)
        return logits


def train(*, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> DigitsNetwork:
    """The network trained on the training split, in evaluation mode; seconds on one CPU core.

    progress is called with (epochs done, epochs). The global random state is left as it was.
    """
    digits = data.load("digits", split="train")
    images = torch.from_numpy(digits.images)
    labels = torch.from_numpy(digits.labels)
    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _train(images, labels, progress)


@contextmanager
def one_thread() -> Iterator[None]:
    """Layers this small are slower on several threads, and sums would depend on their number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(
    images: torch.Tensor, labels: torch.Tensor, progress: Callable[[int, int], None] | None
) -> DigitsNetwork:
    network = DigitsNetwork()
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, epochs=EPOCHS, steps_per_epoch=-(-len(images) // BATCH)
    )
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images))
        for first in range(0, len(order), BATCH):
            chosen = order[first : first + BATCH]
            optimiser.zero_grad()
            loss = functional.cross_entropy(network(images[chosen]), labels[chosen])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        if progress is not None:
            progress(epoch + 1, EPOCHS)
    return network.eval()
