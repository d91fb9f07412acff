"""A trained ResNet-20 for CIFAR-10, written as people write it, compiled without a change.

python examples/03_resnet20.py [--images N] [--levels L] [--weights FILE] [--data ARCHIVE]
"""

# needs: ../shared/data/cifar10.tar.xz
# needs: ../shared/data/resnet20_cifar10.safetensors

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

import lapilli
from lapilli import data, models, reports

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A of He et al. 2015)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1:  # every second pixel, and zeros for the new channels
            quarter = out.shape[1] // 4
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return functional.relu(out + x)


class ResNet20(nn.Module):
    """(N, 3, 32, 32), normalised -> (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16), Block(16, 16), Block(16, 16))
        self.layer2 = nn.Sequential(Block(16, 32), Block(32, 32), Block(32, 32))
        self.layer3 = nn.Sequential(Block(32, 64), Block(64, 64), Block(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        out = functional.avg_pool2d(out, out.shape[3])
        logits: torch.Tensor = self.linear(out.flatten(1))
        return logits


def main() -> None:
    """Float accuracy, then that of the spiking network, on the same files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100, help="test images (10000 has all)")
    parser.add_argument("--levels", type=int, default=16, help="activation levels")
    parser.add_argument("--weights", type=Path, default=SHARED / "resnet20_cifar10.safetensors")
    parser.add_argument("--data", type=Path, default=SHARED / "cifar10.tar.xz")
    given = parser.parse_args()
    missing = [path for path in (given.weights, given.data) if not path.exists()]
    if missing:
        print(f"Skipped: there is no {missing[0]}; name another with --weights or --data.")
        return
    network = ResNet20().eval()
    models.load_weights(network, given.weights)
    calibration = data.load(f"cifar10:{given.data}", split="train", limit=256)
    test = data.load(f"cifar10:{given.data}", split="test", limit=given.images)
    images = data.normalise(test.images, MEAN, STD)
    with torch.no_grad():
        parts = [network(part) for part in torch.from_numpy(images).split(250)]  # type: ignore[no-untyped-call]
    ann = reports.accuracy(torch.cat(parts).numpy().argmax(1), test.labels)
    start = time.perf_counter()
    net = lapilli.compile(
        network,
        calibration=data.normalise(calibration.images, MEAN, STD),
        method=lapilli.methods.Parallel(levels=given.levels),
        preprocessing=(MEAN, STD),
    )
    compiled = time.perf_counter() - start
    found = reports.evaluate(net, images, agreement_images=2)
    snn = reports.accuracy(found.predictions, test.labels)
    assert ann is not None and snn is not None
    neurons = sum(p.size for p in net.netlist.populations)
    print(f"{len(net.netlist.populations)} populations, {neurons:,} neurons, {compiled:.1f} s")
    print(f"ANN, float32: {100 * ann['fraction']:.2f} % of {ann['images']} test images")
    print(f"SNN, {given.levels} levels: {100 * snn['fraction']:.2f} %, in {found.seconds:.1f} s")
    print(f"class of the quantised ANN: {found.agree} of {found.compared} images")


if __name__ == "__main__":
    main()
