"""Networks of the recipes: small ones that two processor cores train, and usual ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def digits_cnn() -> nn.Module:
    """(N, 1, 8, 8) -> (N, 10): two convolutions for scikit-learn's digits."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)),
    )


def mnist_cnn() -> nn.Module:
    """(N, 1, 28, 28) -> (N, 10): seven layers with max pooling, of examples/05."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 32, 3, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 128), nn.ReLU(), nn.Dropout(0.3)),
        nn.Linear(128, 10),
    )


def mnist_student() -> nn.Module:
    """(N, 1, 28, 28) -> (N, 10): strides instead of pooling, for networks trained with spikes."""
    return nn.Sequential(
        *(nn.Conv2d(1, 24, 5, 2, padding=2, bias=False), nn.BatchNorm2d(24), nn.ReLU()),
        *(nn.Conv2d(24, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
        *(nn.Conv2d(48, 64, 3, 2, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 96, 3, padding=1, bias=False), nn.BatchNorm2d(96), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(96 * 7 * 7, 10)),
    )


def mnist_deep() -> nn.Module:
    """(N, 1, 28, 28) -> (N, 10): ten narrow convolutions, deep enough for spikes to come late."""
    first = [_conv(1, 12, 2), *(_conv(12, 12) for _ in range(4))]
    second = [_conv(12, 24, 2), *(_conv(24, 24) for _ in range(4))]
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(24 * 7 * 7, 10))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters (option A of He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride != 1:  # every second pixel, and zeros for the new channels
            quarter = out.shape[1] // 4
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return functional.relu(out + x)


class ResNet(nn.Module):
    """(N, 3, 32, 32) -> (N, classes): He et al. 2016 for CIFAR, 6 * blocks + 2 layers."""

    def __init__(self, blocks: int, widths: tuple[int, int, int], classes: int = 10) -> None:
        super().__init__()
        first, second, third = widths
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = nn.Sequential(*(BasicBlock(first, first) for _ in range(blocks)))
        self.layer2 = _stage(first, second, blocks)
        self.layer3 = _stage(second, third, blocks)
        self.linear = nn.Linear(third, classes)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.linear(torch.flatten(functional.adaptive_avg_pool2d(out, 1), 1))
        return logits


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    rest = (BasicBlock(outputs, outputs) for _ in range(blocks - 1))
    return nn.Sequential(BasicBlock(inputs, outputs), *rest)


def resnet20() -> nn.Module:
    """0.27 million parameters, 41 million multiply-accumulates an image."""
    return ResNet(3, (16, 32, 64))


def resnet8() -> nn.Module:
    """0.08 million parameters, 13 million multiply-accumulates an image."""
    return ResNet(1, (16, 32, 64))


_VGG = {
    11: (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    16: (64, 64, 0, 128, 128, 0, *(256,) * 3, 0, *(512,) * 3, 0, *(512,) * 3, 0),
}
"""Channels of convolutions, and 0 for pooling (Simonyan and Zisserman 2015, table 1: A and D)."""


def vgg11() -> nn.Module:
    """(N, 3, 32, 32) -> (N, 10), with average pooling."""
    return _vgg(11)


def vgg16() -> nn.Module:
    """(N, 3, 32, 32) -> (N, 10), with average pooling."""
    return _vgg(16)


def _vgg(depth: int) -> nn.Module:
    layers: list[nn.Module] = []
    inputs = 3
    for channels in _VGG[depth]:
        if channels == 0:
            layers.append(nn.AvgPool2d(2))
            continue
        layers += [nn.Conv2d(inputs, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
        layers.append(nn.ReLU())
        inputs = channels
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 10))


def keyword_mlp() -> nn.Module:
    """(N, 390) -> (N, 12): dense layers, the kind that the first Loihi benchmarks ran.

    390 are 15 frames of 26 features (Blouw et al. 2019).
    """
    return nn.Sequential(
        *(nn.Linear(390, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 12))
    )


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def shapes_detector() -> nn.Module:
    """(N, 1, 32, 32) -> (N, 3 + 4, 8, 8): scores of three shapes and a box, for every cell."""
    return nn.Sequential(
        *(_conv(1, 16), _conv(16, 32, 2), _conv(32, 32), _conv(32, 64, 2), _conv(64, 64)),
        *(_conv(64, 64), nn.Conv2d(64, 3 + 4, 1)),
    )


class UNet(nn.Module):
    """(N, 1, 32, 32) -> (N, 4, 32, 32): Ronneberger et al. 2015, two levels deep and narrow."""

    def __init__(self, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.fine, self.middle = _conv(1, width), _conv(width, 2 * width)
        self.coarse = _conv(2 * width, 2 * width)
        self.pool = nn.MaxPool2d(2)
        self.up_middle = nn.ConvTranspose2d(2 * width, 2 * width, 2, stride=2)
        self.join_middle = _conv(4 * width, 2 * width)
        self.up_fine = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join_fine = _conv(2 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        middle = self.middle(self.pool(fine))
        coarse = self.coarse(self.pool(middle))
        middle = self.join_middle(torch.cat([self.up_middle(coarse), middle], 1))
        scores: Tensor = self.head(self.join_fine(torch.cat([self.up_fine(middle), fine], 1)))
        return scores


def shapes_unet() -> nn.Module:
    """Background and three shapes, per pixel."""
    return UNet()
