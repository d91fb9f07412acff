"""One network for every kind of input, and the files of it in tests/golden/inputs.

python tests/captured_network.py    writes the files of this version of torch again
"""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

INPUTS = Path(__file__).parent / "golden" / "inputs"
SHAPE = (2, 12, 12)
BATCH = 3
"""Of the files; none of the other sizes."""


class Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv(x)))
        y += x
        return F.relu(y)


class EveryInput(nn.Module):
    """Residuals in place, joins, slices, pooling, upsampling, a shared layer, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU())
        self.layer1 = nn.Sequential(Block(4), nn.Identity(), Block(4))
        self.act = nn.ReLU()
        self.down = nn.AvgPool2d(2)
        self.map = nn.Conv2d(6, 3, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.layer1(self.stem(x))
        small = self.act(self.down(x) * 0.5 - 0.1)
        wide = torch.cat([x, F.interpolate(small, scale_factor=2.0)[:, 1:3]], 1)
        pooled = torch.flatten(F.adaptive_avg_pool2d(small, 1), 1)
        return {"map": self.map(self.act(wide)), "classes": self.fc(pooled)}


def network() -> nn.Module:
    """In evaluation mode, with the same weights on every version of torch."""
    model = EveryInput().eval()
    random = np.random.default_rng(4)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            low = 0.5 if name.endswith("running_var") else -0.7
            values = random.uniform(low, low + 1.4, tuple(tensor.shape))
            tensor.copy_(torch.from_numpy(values))
    return model


def samples(count: int = 7) -> npt.NDArray[np.float32]:
    return np.random.default_rng(5).normal(size=(count, *SHAPE)).astype(np.float32)


def exported(*, dynamic: bool = False) -> torch.export.ExportedProgram:
    """The network as torch.export has it, for one batch or any."""
    dims = {"x": {0: torch.export.Dim("batch", min=2, max=64)}} if dynamic else None
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(network(), (torch.tensor(samples(BATCH)),), dynamic_shapes=dims)


def write_onnx(path: Path, opset: int, *, dynamic: bool = False, folded: bool = False) -> None:
    """The network by TorchScript's exporter; folded: BatchNorm in the weights before it."""
    kept = torch.onnx.TrainingMode.PRESERVE
    axes = {"x": {0: "batch"}} if dynamic else None
    more = {} if torch.__version__ < "2.5" else {"dynamo": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network(),
            (torch.tensor(samples(BATCH)),),
            str(path),
            opset_version=opset,
            input_names=["x"],
            output_names=["map", "classes"],
            training=torch.onnx.TrainingMode.EVAL if folded else kept,
            dynamic_axes=axes,
            **more,
        )


def _without_paths(path: Path) -> None:
    """Take the folders of this machine out of an archive, and make it small."""
    folders = re.compile(rb'(File \\")[^"]*/((?:torch|tests)/[^"]+)')
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            text = folders.sub(rb"\1site/\2", content) if name.endswith(".json") else content
            archive.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)


def _write() -> None:
    INPUTS.mkdir(parents=True, exist_ok=True)
    version = ".".join(torch.__version__.split(".")[:2])
    path = INPUTS / f"every_input_torch_{version}.pt2"
    torch.export.save(exported(dynamic=True), str(path))
    _without_paths(path)
    if version == "2.3":
        write_onnx(INPUTS / "every_input.onnx", 17)


if __name__ == "__main__":
    _write()
