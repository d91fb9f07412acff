"""What one of two processes does in tests; a module of its own, because processes import it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, distributed, nn

from lapilli.compiler.training.fast_snn import _Judge, _Scores
from lapilli.compiler.training.loop import Examples, fit
from lapilli.compiler.training.objectives import Supervised
from lapilli.compiler.training.plan import Plan, Stage, evaluated
from lapilli.compiler.training.process_group import leave
from lapilli.compiler.training.recipe import Training

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Says(nn.Module):
    """The image's only number is the score of class 0, or of class 1."""

    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = nn.Parameter(torch.tensor(float(kind)), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x * (1 - self.kind), x * self.kind], 1)


def judge(rank: int, store: str, folder: str) -> None:
    """One of two processes: in the first, 2 images of a batch are right as tuned, in the second 4
    as kept."""
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    tuned, kept = cast("Any", Says(0)), cast("Any", Says(1))
    judged = _Judge(tuned, kept, "classes", _Scores())
    wrapped = nn.parallel.DistributedDataParallel(judged)
    for _ in range(3):
        count = 2 * rank + 2
        wrapped(torch.ones(count, 1), torch.full((count,), rank)).backward()
    judged.decide()
    torch.save([judged.scores.sums, tuned.kind.detach()], f"{folder}/{rank}")
    leave()


def resume(rank: int, port: int, folder: str) -> None:
    """One of two processes on hosts of their own: only the first one's has the checkpoint."""
    from lightning_fabric import Fabric

    one = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({key: str(value) for key, value in (one | there).items()})
    fabric = Fabric(accelerator="cpu", devices=2)
    fabric.launch()
    found = [once(fabric, Path(folder) / f"checkpoint of {rank}") for _ in range(2)]
    torch.save(found, f"{folder}/{rank}")
    leave()


def once(fabric: Fabric, file: Path) -> tuple[int, int, dict[str, Tensor]]:
    """Batches that were computed, epochs that there were, weights and statistics in the end."""
    torch.manual_seed(0)
    objective = Supervised(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), "classes")
    network = objective.network
    stages = (Stage("train", objective, 2),)
    plan = Plan(objective, stages, evaluated(network), lambda: (network, None))
    counted: list[str] = []

    def count(stage: str, done: int, total: int) -> None:
        counted.append(stage)

    training = Training(2, 16, statistics=32)
    epochs = fit(plan, training, examples(), fabric, checkpoint_file=file, progress=count)
    return len(counted), len(epochs), {k: v.clone() for k, v in network.state_dict().items()}


def examples() -> Examples:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(32) % 3
    return Examples(
        torch.rand(32, 4, generator=draws),
        labels,
        lambda images, numbers, epoch: images,
        lambda images: images,
    )
