"""Networks of public libraries, unmodified, with random weights and real statistics.

torchvision's classification CNNs and its dense prediction networks; two U-Nets, written as users
write them, that need torch alone. Random weights make the activity of deep networks explode or
die, so BatchNorm's statistics come from one forward pass over the calibration images in which
BatchNorm alone is in training mode, with cumulative averages: exactly what the images have.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

Images = npt.NDArray[np.float32]
TRANSFORMERS = ("vit_", "swin_", "maxvit_")
"""Families of torchvision's classifiers that are no CNNs: products of activities with softmax."""
SMALLEST = {
    "alexnet": 96,
    "inception_v3": 96,
    "maxvit_t": 224,
    "ssd300_vgg16": 272,
    "vit_h_14": 224,
} | {f"vit_{size}": 224 for size in ("b_16", "b_32", "l_16", "l_32")}
"""Pixels of the smallest images that these networks take, in steps of 8; others take 64."""


def torchvision_models() -> Any:
    """The module torchvision.models; ImportError where torchvision is not installed."""
    with warnings.catch_warnings():  # of an image library that is not there, nor needed
        warnings.simplefilter("ignore")
        return importlib.import_module("torchvision.models")


def classifiers() -> tuple[list[str], list[str]]:
    """Names of torchvision's classification networks: CNNs, transformers."""
    models = torchvision_models()
    names = models.list_models(module=models)
    transformers = [name for name in names if name.startswith(TRANSFORMERS)]
    return [name for name in names if name not in transformers], transformers


def images(count: int, size: int, seed: int = 0) -> Images:
    """Noise with some large structure, about as ImageNet's images are after normalisation."""
    rng = np.random.default_rng(seed)
    fine = rng.normal(size=(count, 3, size, size))
    coarse = rng.normal(size=(count, 3, size // 8, size // 8)).repeat(8, axis=2).repeat(8, axis=3)
    return (0.6 * fine + 0.8 * coarse).astype(np.float32)


def built(name: str, calibration: Images, seed: int = 0) -> nn.Module:
    """A network of `classifiers()` or DENSE in evaluation mode, random weights from `seed`."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the initialisation of GoogLeNet and Inception
        torch.manual_seed(seed)
        builder = DENSE.get(name) or _classifier(name)
        return with_statistics(builder(), calibration)


def _classifier(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        model: nn.Module = torchvision_models().get_model(name, weights=None)
        return model

    return build


def with_statistics(model: nn.Module, calibration: Images) -> nn.Module:
    """`model` in evaluation mode, BatchNorm with the statistics of `calibration` (N, C, H, W)."""
    model.eval()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative: after one pass the pass's own statistics
        norm.train()
    if norms:
        with torch.no_grad():
            model(torch.from_numpy(calibration))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model.eval()


class Heads(nn.Module):
    """A detector without what is no network: the outputs of its head on its backbone's maps.

    The rest of torchvision's detectors is data-dependent Python over boxes: resizing of images of
    any size, anchors, thresholds, non-maximum suppression. Scores and offsets of every anchor, as
    the untouched backbone and head modules return them, are the outputs.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(list(self.backbone(x).values()))
        return found["cls_logits"], found["bbox_regression"]


class Double(nn.Sequential):
    """Two convolutions, as U-Nets have them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """Ronneberger et al. 2015: max pooling down, up again, joined with what was there before.

    up: "transposed" (a transposed convolution), "bilinear", or "bilinear, corners aligned", which
    has no compact form.
    """

    def __init__(self, up: str, width: int = 16, depth: int = 4, classes: int = 5) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.downs = nn.ModuleList(
            Double(a, b) for a, b in zip([3, *widths[:-1]], widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.ups = nn.ModuleList(
            nn.ConvTranspose2d(deep, shallow, 2, stride=2)
            if up == "transposed"
            else nn.Upsample(scale_factor=2, mode="bilinear", align_corners="corners" in up)
            for deep, shallow in pairs
        )
        self.joins = nn.ModuleList(
            Double((shallow if up == "transposed" else deep) + shallow, shallow)
            for deep, shallow in pairs
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = []
        for down in self.downs:
            x = down(self.pool(x) if kept else x)
            kept.append(x)
        for up, join, skip in zip(self.ups, self.joins, kept[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], dim=1))
        maps: Tensor = self.head(x)
        return maps


class SmallSegmentation(nn.Module):
    """As FCN: a dilated backbone with max pooling, a head, maps of the image's own size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.deep = nn.Sequential(
            nn.Conv2d(8, 16, 3, padding=2, dilation=2, bias=False), nn.BatchNorm2d(16)
        )
        self.shortcut = nn.Conv2d(8, 16, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Sigmoid())
        self.classifier = nn.Sequential(
            nn.Conv2d(16, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(8, 5, 1),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        size = x.shape[-2:]
        x = self.pool(self.stem(x))
        x = functional.relu(self.deep(x) + self.shortcut(x))
        x = self.classifier(x * self.gate(x))
        return {"out": functional.interpolate(x, size=size, mode="bilinear", align_corners=False)}


def _other(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        models = torchvision_models()
        model: nn.Module = models.get_model(name, weights=None, weights_backbone=None)
        return model

    return build


DENSE: Mapping[str, Callable[[], nn.Module]] = {
    "unet_transposed": lambda: UNet("transposed"),
    "unet_bilinear": lambda: UNet("bilinear"),
    "unet_bilinear_corners": lambda: UNet("bilinear, corners aligned"),
    "fcn_resnet50": _other("fcn_resnet50"),
    "deeplabv3_resnet50": _other("deeplabv3_resnet50"),
    "deeplabv3_mobilenet_v3_large": _other("deeplabv3_mobilenet_v3_large"),
    "lraspp_mobilenet_v3_large": _other("lraspp_mobilenet_v3_large"),
    "ssdlite320_mobilenet_v3_large": lambda: Heads(_other("ssdlite320_mobilenet_v3_large")()),
    "ssd300_vgg16": lambda: Heads(_other("ssd300_vgg16")()),
}
"""Dense prediction: name -> builder."""
