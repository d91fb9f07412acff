"""Networks as they are printed before and after each pass of the capturing half.

`pytest tests/compiler/test_golden.py --update-golden` rewrites the files; read the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import capturing
import pytest
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from lapilli.compiler.passes.legalise import legalise

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


class ResidualCNN(nn.Module):
    """Modules only: BatchNorm everywhere, an in-place sum, one ReLU module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
        )
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Sequential(
            nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * 4 * 4, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.head(self.relu(out))  # type: ignore[no-any-return]


class OptionA(nn.Module):
    """Functional calls: a strided block of the original ResNet, whose shortcut has no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        out = F.relu(out + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)))
        out = F.avg_pool2d(out, out.size()[3])
        return self.linear(out.view(out.size(0), -1))  # type: ignore[no-any-return]


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual_cnn": (ResidualCNN, (1, 8, 8)),
    "option_a_block": (OptionA, (4, 6, 6)),
}


def printed(name: str) -> str:
    """Before capture, after it, and after legalisation."""
    build, shape = NETWORKS[name]
    model = capturing.randomised(build())
    graph = capturing.captured(model, capturing.images(*shape))
    # Not the network's own repr: that changes from one torch to the next.
    layers = [f"{path}: {type(m).__name__}" for path, m in model.named_modules() if path]
    return (
        f"== {type(model).__name__}\n" + "\n".join(layers) + f"\n\n== after capture\n"
        f"{graph.pretty()}\n\n== after legalise\n{legalise(graph).pretty()}\n"
    )


def assert_golden(name: str, folder: Path, update: bool) -> None:
    """Fail unless the file says what is printed now; rewrite it first where that is asked for."""
    path = folder / f"{name}.txt"
    if update:
        path.write_text(printed(name), encoding="utf-8")
    assert printed(name) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NETWORKS)
def test_passes_print_what_they_printed(name: str, pytestconfig: pytest.Config) -> None:
    assert_golden(name, GOLDEN, pytestconfig.getoption("update_golden"))


def test_golden_files_are_rewritten_only_when_asked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        assert_golden("residual_cnn", tmp_path, update=False)
    assert_golden("residual_cnn", tmp_path, update=True)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text(encoding="utf-8").replace("relu", "gelu"), encoding="utf-8")
    with pytest.raises(AssertionError, match="relu"):
        assert_golden("residual_cnn", tmp_path, update=False)


@pytest.mark.parametrize("name", NETWORKS)
def test_golden_networks_compute_what_torch_computes(name: str) -> None:
    build, shape = NETWORKS[name]
    capturing.assert_computes_the_same(capturing.randomised(build()), capturing.images(*shape))
    assert {path.stem for path in GOLDEN.glob("*.txt")} >= set(NETWORKS)
