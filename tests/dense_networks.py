"""Small networks with several outputs: a detector, a segmentation network, classifiers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

CLASSES, ANCHORS = 3, 2


class Detector(nn.Module):
    """As SSD: heads on two resolutions, permuted, reshaped and joined over all anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2))
        self.deeper = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.scores = nn.ModuleList(nn.Conv2d(n, ANCHORS * CLASSES, 3, padding=1) for n in (6, 8))
        self.boxes = nn.ModuleList(nn.Conv2d(n, ANCHORS * 4, 1) for n in (6, 8))

    def _joined(self, heads: nn.ModuleList, maps: list[Tensor], width: int) -> Tensor:
        found = []
        for head, features in zip(heads, maps, strict=True):
            x = head(features)
            n, _, height, wide = x.shape
            x = x.view(n, -1, width, height, wide).permute(0, 3, 4, 1, 2)
            found.append(x.reshape(n, -1, width))
        return torch.cat(found, dim=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        fine = self.body(x)
        maps = [fine, self.deeper(fine)]
        return {
            "scores": F.softmax(self._joined(self.scores, maps, CLASSES), dim=-1),
            "boxes": self._joined(self.boxes, maps, 4),
        }


class Segmentation(nn.Module):
    """As torchvision's: an ordered dictionary with the maps and those of an auxiliary head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()),
        )
        self.classifier = nn.Conv2d(6, CLASSES, 1)
        self.aux_classifier = nn.Conv2d(6, CLASSES, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features, result = self.body(x), OrderedDict()
        for name, head in (("out", self.classifier), ("aux", self.aux_classifier)):
            result[name] = F.interpolate(
                head(features), size=x.shape[-2:], mode="bilinear", align_corners=False
            )
        return result


class Classifier(nn.Module):
    """Two layers, then what `end` makes of the logits."""

    def __init__(self, end: Callable[[Tensor], Tensor] | nn.Module, classes: int = 5):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(64, classes)
        self.end = end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.fc(torch.relu(self.conv(x)).flatten(1)))


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "detector": Detector,
    "segmentation": Segmentation,
    "softmax": lambda: Classifier(nn.Softmax(dim=1)),
    "argmax": lambda: Classifier(lambda x: x.argmax(1)),
    "sigmoid": lambda: Classifier(lambda x: x.sigmoid().squeeze(1), classes=1),
}
SHAPE = (1, 8, 8)
"""Of every network's image."""


def network(name: str) -> nn.Module:
    """The network in evaluation mode, with fixed weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return NETWORKS[name]().eval()


def images(count: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Random images in 0..1."""
    return np.random.default_rng(seed).random((count, *SHAPE)).astype(np.float32)
