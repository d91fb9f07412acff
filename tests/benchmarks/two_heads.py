"""The network of docs/outputs.md: trained on the handwritten digits, its weights in a file.

    python tests/benchmarks/two_heads.py [--epochs N] [-o FILE]

writes two_heads.safetensors. `two_heads:build`, in the folder of this script, is the network.
"""

from __future__ import annotations

import argparse
import sys

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor, nn

from lapilli import data

BATCH = 64


class TwoHeads(nn.Module):
    """Which digit, and where there is ink."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 8, 3, padding=1)
        self.digit = nn.Linear(8 * 16, 10)
        self.ink = nn.Conv2d(8, 2, 1)

    def logits(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 10) and (N, 2, 8, 8) for images (N, 1, 8, 8)."""
        features = torch.relu(self.body(x))
        digit = self.digit(F.avg_pool2d(features, 2).flatten(1))
        return digit, self.ink(features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Probabilities (N, 10) and a class map (N, 8, 8)."""
        digit, ink = self.logits(x)
        return {"digit": digit.softmax(1), "ink": ink.argmax(1)}


def build() -> TwoHeads:
    """With weights drawn from seed 0."""
    torch.manual_seed(0)
    return TwoHeads()


def trained(epochs: int) -> TwoHeads:
    """Trained by Adam on the digits of the training split; ink: brighter than a half."""
    model, split = build(), data.load("digits", split="train")
    images, labels = torch.tensor(split.images), torch.tensor(split.labels)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(BATCH):
            digit, ink = model.logits(images[chosen])
            bright = (images[chosen, 0] > 0.5).long()
            loss = F.cross_entropy(digit, labels[chosen]) + F.cross_entropy(ink, bright)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def main() -> int:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("-o", "--output", default="two_heads.safetensors")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the same sums on every machine, and faster for so small a network
    save_file(trained(options.epochs).state_dict(), options.output)
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
