"""What the tests of the command line share: one compiled network, and a way to run commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import lapilli
from lapilli import cli, data

Run = Callable[..., "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON object and nothing else."""
        return json.loads(self.out)


def runner(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs one command in this process."""

    def execute(*arguments: object) -> Outcome:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(a) for a in arguments])
        text = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Outcome(exit_.value.code, text.out, text.err)

    return execute


class SmallNetwork(nn.Module):
    """Two convolutions on the digits; compiles in a moment."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(torch.relu(self.conv(x)).flatten(1))
        return logits


def model_file(folder: Path) -> Path:
    """model.h5, compiled with a normalisation; weights.safetensors lies beside it."""
    torch.manual_seed(1)
    network = SmallNetwork().eval()
    save_file(network.state_dict(), folder / "weights.safetensors")
    images = data.normalise(data.load("digits", split="train", limit=64).images, (0.3,), (0.4,))
    artifact = lapilli.compile(
        network,
        calibration=images,
        method=lapilli.methods.Parallel(levels=4),
        calibrate="bias",
        preprocessing=((0.3,), (0.4,)),
    )
    artifact.save(folder / "model.h5")
    return folder / "model.h5"
