"""Where the optional real data lies, and the reason a test gives when it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MNIST = SHARED / "mnist"
CIFAR10 = SHARED / "cifar10.tar.xz"
RESNET20 = SHARED / "resnet20_cifar10.safetensors"


def needs(path: Path) -> pytest.MarkDecorator:
    """Skip mark for a test that reads `path`, naming it where it is absent."""
    return pytest.mark.skipif(not path.exists(), reason=f"no data at ../shared/data/{path.name}")
