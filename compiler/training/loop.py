"""The training loop: stages, epochs, batches, checkpoints. Devices are Lightning Fabric's business.

What a step draws at random depends on the seed and the step's number alone, so that a run which was
killed goes on from its last checkpoint to the very weights of an uninterrupted one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from lapilli.compiler.errors import InputError
from lapilli.compiler.training import checkpoint
from lapilli.compiler.training.augmentation import Augment, draw_seed
from lapilli.compiler.training.norm_statistics import following, measured_anew
from lapilli.compiler.training.objectives import accuracy
from lapilli.compiler.training.plan import Plan, Stage, channels_last
from lapilli.compiler.training.recipe import Training
from lapilli.compiler.training.schedule import learning_rate, optimiser_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Progress = Callable[[str, int, int], None]
"""progress(stage, done, total) in batches."""


@final
@dataclass(frozen=True)
class Epoch:
    """What an epoch came to.

    loss: mean over its batches; score: of the held-out images by the recipe's measure (see
    `objectives`), None without any; seconds: of this process.
    """

    stage: str
    epoch: int
    epochs: int
    loss: float
    score: float | None
    seconds: float


Report = Callable[[Epoch], None]


@final
@dataclass(frozen=True, eq=False)
class Examples:
    """images: (N, ...) as `prepare` takes them; labels: (N, ...); prepare: normalises a batch;
    measure: score of outputs against labels."""

    images: Tensor
    labels: Tensor
    augment: Augment
    prepare: Callable[[Tensor], Tensor]
    measure: Callable[[Tensor, Tensor], float | None] = accuracy


@final
@dataclass(eq=False)
class _Place:
    """Where a run is: the batch to come, what the epoch's losses so far add up to, what is over."""

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    loss: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def fit(
    plan: Plan,
    training: Training,
    examples: Examples,
    fabric: Fabric,
    *,
    run: bytes = b"",
    checkpoint_file: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    report: Report | None = None,
) -> list[Epoch]:
    """Carry the plan out; the epochs, those before an interruption included.

    run: identifies the run to its checkpoint (`checkpoint.run_digest`); b"" for none, so that any
    such run goes on from it. Raises InputError for a checkpoint of another run, for one in no
    folder, and for a batch that the devices cannot share equally.
    """
    _check_batch(training, len(examples.images) - training.held_out, fabric.world_size)
    with torch.random.fork_rng():
        runner = _Runner(plan, training, examples, fabric, run, checkpoint_file, progress, report)
        runner.run()
    return [Epoch(**row) for row in runner.place.history]


@final
class _Runner:
    def __init__(
        self,
        plan: Plan,
        training: Training,
        examples: Examples,
        fabric: Fabric,
        run: bytes,
        checkpoint_file: str | os.PathLike[str] | None,
        progress: Progress | None,
        report: Report | None,
    ) -> None:
        self.plan, self.training, self.examples, self.fabric = plan, training, examples, fabric
        self.run_id, self.file = run or checkpoint.run_digest(), checkpoint_file
        self.progress, self.report = progress, report
        self.count = len(examples.images) - training.held_out
        self.batches = max(self.count // training.batch, 1)
        self.place = _Place()
        self.saved = time.monotonic()

    def run(self) -> None:
        resumed = None
        if self.file is not None and self.fabric.global_rank == 0:
            resumed = checkpoint.read(self.file, self.run_id)
        resumed = self.fabric.broadcast(resumed)  # the file is the first process's, on its host
        if resumed is not None:
            self.place = _Place(**resumed["place"])
            self.fabric.strategy.precision.load_state_dict(resumed["precision"])
            self._load(resumed)
        while self.place.stage < len(self.plan.stages):
            stage = self.plan.stages[self.place.stage]
            stage.begin()
            self._stage(stage, resumed)
            resumed = None
            stage.end()
            self.place.stage, self.place.epoch = self.place.stage + 1, 0
            self._save(None)

    def _stage(self, stage: Stage, resumed: dict[str, Any] | None) -> None:
        moments = None if resumed is None else resumed["optimiser"]
        if resumed is not None and moments is not None:  # what begin changed has been trained since
            self._load(resumed)
        optimiser = optimiser_of(self.training, stage)
        channels_last(stage.objective)
        objective, wrapped = self.fabric.setup(stage.objective, optimiser)
        if moments is not None:  # on the device by now
            optimiser.load_state_dict(moments)
        first = self.place.epoch
        for epoch in range(first, stage.epochs):
            self.place.epoch = epoch
            self._epoch(stage, objective, wrapped, optimiser)

    def _epoch(self, stage: Stage, objective: Any, wrapped: Any, optimiser: Any) -> None:
        started, place = time.monotonic(), self.place
        objective.train()
        whole = stage.epochs * self.batches
        before = sum(s.epochs for s in self.plan.stages[: place.stage]) * self.batches
        all_stages = sum(s.epochs for s in self.plan.stages) * self.batches
        over_run = self.training.schedule_over == "run"
        for x, y in self._loader(place.epoch, place.batch, self.batches):
            done = place.epoch * self.batches + place.batch
            share = (before + done) / all_stages if over_run else done / whole
            rate = stage.rate * learning_rate(self.training, share)
            for group in optimiser.param_groups:
                group["lr"] = rate
            torch.manual_seed(
                draw_seed(
                    *(self.training.seed, place.stage, place.epoch, place.batch),
                    self.fabric.global_rank,
                )
            )
            loss = objective(self.examples.prepare(x), y)
            self.fabric.backward(loss)
            if self.training.clip_norm:
                # In float16 infinite gradients are no fault: the scaler leaves such a step out.
                self.fabric.clip_gradients(
                    *(objective, wrapped),
                    max_norm=self.training.clip_norm,
                    error_if_nonfinite=self.training.precision != "16-mixed",
                )
            wrapped.step()
            wrapped.zero_grad()
            place.loss += float(loss.detach())
            place.batch += 1
            logged = {"loss": float(loss.detach()), "rate": rate}
            self.fabric.log_dict(logged, step=before + done)
            if self.progress is not None:
                self.progress(stage.name, done + 1, whole)
            if time.monotonic() - self.saved > self.training.checkpoint_s:
                self._save(optimiser)
        if place.epoch + 1 == stage.epochs and self.training.statistics:
            self._measure_norms(stage)
        self._end_epoch(stage, time.monotonic() - started)
        self._save(optimiser)

    def _measure_norms(self, stage: Stage) -> None:
        """On images drawn and augmented as those of one more epoch; nothing where none follow."""
        place, training = self.place, self.training
        norms = following(stage.objective)
        if not norms:  # an objective may count the images that it sees
            return
        batches = min(-(-training.statistics // training.batch), self.batches)
        objective = stage.objective  # as it is: wrapped, it would take over another process's
        with measured_anew(norms, self.fabric.all_reduce), self.fabric.autocast():
            for k, (x, y) in enumerate(self._loader(stage.epochs, 0, batches)):
                key = (training.seed, place.stage, stage.epochs, k)
                torch.manual_seed(draw_seed(*key, self.fabric.global_rank))
                objective(self.examples.prepare(x), y)

    def _end_epoch(self, stage: Stage, seconds: float) -> None:
        place = self.place
        mean = float(self.fabric.all_reduce(torch.tensor(place.loss / self.batches)))  # type: ignore[arg-type]
        row = Epoch(stage.name, place.epoch + 1, stage.epochs, mean, self._score(), seconds)
        place.history.append({**row.__dict__})
        place.epoch, place.batch, place.loss = place.epoch + 1, 0, 0.0
        if self.report is not None:
            self.report(row)

    def _score(self) -> float | None:
        """Of the held-out images."""
        if not self.training.held_out:
            return None
        images, labels = self.examples.images[self.count :], self.examples.labels[self.count :]
        prepare, device = self.examples.prepare, self.fabric.device
        return self.examples.measure(outputs_of(self.plan, images, prepare, device), labels)

    def _loader(self, epoch: int, first: int, end: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of some of the epoch's batches."""
        place, training, fabric = self.place, self.training, self.fabric
        order = torch.randperm(
            self.count,
            generator=torch.Generator().manual_seed(draw_seed(training.seed, place.stage, epoch)),
        )
        batch = min(training.batch, self.count)
        share = batch // fabric.world_size
        mine = [
            order[k * batch + fabric.global_rank * share :][:share].tolist()
            for k in range(first, end)
        ]
        images, labels = self.examples.images, self.examples.labels
        drawn = draw_seed(place.stage, epoch)

        def collate(numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
            chosen = torch.tensor(numbers)
            return self.examples.augment(images[chosen], numbers, drawn), labels[chosen]

        loader: DataLoader[Any] = DataLoader(
            range(self.count),  # type: ignore[arg-type]
            batch_sampler=_Batches(mine),
            collate_fn=collate,
        )
        ready: Any = fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        return iter(ready)

    def _save(self, optimiser: Any) -> None:
        self.saved = time.monotonic()
        if self.file is None or self.fabric.global_rank != 0:
            return
        state = {
            "place": self.place.__dict__,
            "model": self.plan.model.state_dict(),
            "optimiser": None if optimiser is None else optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),  # the scale of the loss
        }
        checkpoint.write(Path(self.file), self.run_id, state)

    def _load(self, state: dict[str, Any]) -> None:
        self.plan.model.load_state_dict(state["model"])


@final
class _Batches(Sampler[list[int]]):
    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def outputs_of(
    plan: Plan,
    images: Tensor,
    prepare: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    batch: int = 250,
) -> Tensor:
    """What the network as it stands makes of images (N, ...)."""
    with torch.no_grad():
        parts = torch.split(images, batch)
        return torch.cat([plan.predict(prepare(part.to(device))).cpu() for part in parts])


def _check_batch(training: Training, count: int, processes: int) -> None:
    if count < 1:
        raise InputError(
            "training.held_out",
            "some images are left to train on",
            found=f"{training.held_out} held out",
            allowed=f"fewer than {count + training.held_out}",
            remedy="Hold fewer images out.",
        )
    if min(training.batch, count) % processes:
        raise InputError(
            "training.batch",
            "processes share a batch equally",
            found=f"{min(training.batch, count)} images, {processes} processes",
            allowed=f"a multiple of {processes}",
            remedy="Choose another batch, or another number of processes.",
        )
