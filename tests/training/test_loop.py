"""The training loop: resumed runs, several processes, learning rates, what it refuses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is missing")

from lightning_fabric import Fabric
from lightning_fabric.plugins.precision.amp import MixedPrecision
from two_processes import examples as two_images
from two_processes import resume

from lapilli.compiler.errors import InputError
from lapilli.compiler.outputs import VOID
from lapilli.compiler.training import checkpoint
from lapilli.compiler.training.loop import Epoch, Examples, fit
from lapilli.compiler.training.objectives import Supervised, accuracy, cross_entropy
from lapilli.compiler.training.plan import Plan, Stage, evaluated
from lapilli.compiler.training.recipe import Training
from lapilli.compiler.training.schedule import learning_rate, optimiser_of
from lapilli.layers import MultiThreshold

IMAGES, BATCH = 70, 16  # 4 batches an epoch, and 6 images left over
RUN = checkpoint.run_digest("a run")


class KilledError(Exception):
    """Stands for a process that ends in the middle."""


class TwoLayers(nn.Module):
    """(N, 1, 8, 8) -> (N, 10), with everything that has a state: normalisation and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4)
        self.dropout, self.linear = nn.Dropout(0.3), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.dropout(torch.relu(self.norm(self.conv(x))).flatten(1)))
        return logits


def examples() -> Examples:
    draws = torch.Generator().manual_seed(1)
    images = torch.rand(IMAGES, 1, 8, 8, generator=draws)
    labels = torch.randint(0, 10, (IMAGES,), generator=draws)

    def noisy(x: Tensor, numbers: Any, epoch: int) -> Tensor:
        assert len(x) == len(numbers)
        return x + 0.01 * torch.tensor(numbers).reshape(-1, 1, 1, 1)

    return Examples(images, labels, noisy, lambda x: x - 0.5)


def two_stages() -> Plan:
    """First everything, then the last layer alone, whose bias is set to zero at the begin."""
    torch.manual_seed(3)
    network = TwoLayers()
    objective = Supervised(network, "classes", 0.1)

    def only_last() -> None:
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name.startswith("linear"))
        with torch.no_grad():
            network.linear.bias.zero_()

    def double() -> None:
        with torch.no_grad():
            network.linear.weight.mul_(2)

    stages = (
        Stage("all", objective, 2, end=double),
        Stage("last", objective, 2, rate=0.5, begin=only_last),
    )
    return Plan(objective, stages, evaluated(network), lambda: (network.eval(), None))


def precision_of(training: Training) -> dict[str, Any]:
    """Fabric has float16 for GPUs only: here with a scale that doubles every third step."""
    if training.precision != "16-mixed":
        return {"precision": training.precision}
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=3)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


def trained(
    training: Training, file: Path | None = None, stop_after: int | None = None
) -> tuple[dict[str, Tensor], list[Epoch]]:
    """The weights after a run that ends, as if killed, after so many batches."""
    plan = two_stages()
    fabric = Fabric(accelerator="cpu", devices=1, **precision_of(training))
    fabric.launch()
    batches = 0

    def count(stage: str, done: int, total: int) -> None:
        nonlocal batches
        batches += 1
        if batches == stop_after:
            raise KilledError

    epochs = fit(plan, training, examples(), fabric, run=RUN, checkpoint_file=file, progress=count)
    return plan.model.state_dict(), epochs


@pytest.mark.parametrize(("optimiser", "statistics"), [("sgd", 40), ("adam", 0), ("muon", 0)])
@pytest.mark.parametrize("every", [0.0, 1e6])
def test_a_run_that_is_killed_anywhere_ends_with_the_same_weights(
    optimiser: Any, statistics: int, every: float, tmp_path: Path
) -> None:
    training = Training(
        *(2, BATCH, optimiser, 0.05),
        warmup=0.2,
        checkpoint_s=every,
        clip_norm=1.0,
        held_out=5,
        statistics=statistics,
    )
    whole, epochs = trained(training)
    for stop_after in (1, 3, 4, 5, 8, 9, 13, 16):
        file = tmp_path / f"{stop_after}"
        with pytest.raises(KilledError):
            trained(training, file, stop_after)
        if 4 < stop_after < 13:
            with pytest.raises(KilledError):  # twice
                trained(training, file, 2)
        resumed, again = trained(training, file)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        assert [(e.stage, e.epoch, e.loss, e.score) for e in again] == [
            (e.stage, e.epoch, e.loss, e.score) for e in epochs
        ]
        over, _ = trained(training, file)  # nothing is left to do
        assert all(torch.equal(whole[name], over[name]) for name in whole)


@pytest.mark.parametrize(("over", "of"), [("stage", 8), ("run", 16)])
def test_the_rate_follows_its_schedule_over_a_stage_or_the_run(
    over: Any, of: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stages of eight batches; killed in the second one, too."""
    shares: list[float] = []

    def noted(training: Training, done: float) -> float:
        shares.append(done)
        return learning_rate(training, done)

    monkeypatch.setattr("lapilli.compiler.training.loop.learning_rate", noted)
    training = Training(2, BATCH, schedule_over=over, checkpoint_s=0.0)
    whole, _ = trained(training)
    assert shares == [k % of / of for k in range(16)]
    with pytest.raises(KilledError):
        trained(training, tmp_path / "run", 11)
    shares.clear()
    resumed, _ = trained(training, tmp_path / "run")
    assert shares == [k % of / of for k in range(16 - len(shares), 16)] and 4 < len(shares) < 8
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("images", [1, 40, 10**6])
def test_statistics_are_measured_anew_with_the_last_weights(images: int) -> None:
    """On whole batches, and on no image twice; the weights are what they were without."""
    training = Training(2, BATCH, statistics=images)
    before, epochs = trained(replace(training, statistics=0))
    after, again = trained(training)
    anew = dict(two_stages().model.named_buffers())
    assert all(torch.equal(before[name], after[name]) for name in before if name not in anew)
    assert int(after["network.norm.num_batches_tracked"]) == {1: 1, 40: 3, 10**6: 4}[images]
    assert [e.loss for e in epochs] == [e.loss for e in again]
    plan = two_stages()
    plan.model.load_state_dict(after)
    data = examples()
    shown = data.prepare(data.augment(data.images, range(IMAGES), 0))
    with torch.no_grad():
        drives = plan.model.network.conv(shown).transpose(0, 1).flatten(1)
    apart = (after["network.norm.running_mean"] - drives.mean(1)).abs().max()
    assert apart < {1: 0.05, 40: 0.03, 10**6: 0.01}[images]  # 6 images are left over


def test_where_no_statistics_follow_no_image_is_seen_for_them() -> None:
    """Objectives may count what they see, as those do that choose between two networks."""

    class Counting(Supervised):
        seen = 0

        def train(self, mode: bool = True) -> Counting:
            return super().train(False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            self.seen += len(x)
            return super().forward(x, y)

    objective = Counting(TwoLayers(), "classes")
    before = {name: value.clone() for name, value in objective.named_buffers()}
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    plan = Plan(
        objective,
        (Stage("all", objective, 1),),
        evaluated(objective.network),
        lambda: (objective.network, None),
    )
    fit(plan, Training(1, BATCH, statistics=40), examples(), fabric)
    assert objective.seen == 4 * BATCH
    assert all(torch.equal(before[name], value) for name, value in objective.named_buffers())


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_mixed_precision_resumes_bit_for_bit(precision: Any, tmp_path: Path) -> None:
    """The scale of the loss included, which in float16 moves with what overflowed so far.

    With Adam, since momentum and decay of SGD hide what a scale that starts afresh changes.
    """
    training = Training(*(2, BATCH, "adam", 0.05), clip_norm=1.0, precision=precision)
    whole, epochs = trained(training)
    for stop_after in (3, 6, 10):
        file = tmp_path / f"{stop_after}"
        with pytest.raises(KilledError):
            trained(replace(training, checkpoint_s=0.0), file, stop_after)
        state = checkpoint.read(file, RUN)
        assert bool(state["precision"]) == (precision == "16-mixed")
        resumed, again = trained(training, file)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
        assert [e.loss for e in again] == [e.loss for e in epochs]


def test_stages_begin_and_end_and_train_what_they_say() -> None:
    state, epochs = trained(Training(2, BATCH))
    first = two_stages()
    assert [(e.stage, e.epoch, e.epochs) for e in epochs] == [
        *(("all", 1, 2), ("all", 2, 2)),
        *(("last", 1, 2), ("last", 2, 2)),
    ]
    assert not torch.equal(
        state["network.conv.weight"], first.model.state_dict()["network.conv.weight"]
    )
    alone, _ = trained(Training(2, BATCH, seed=1))
    assert not torch.equal(alone["network.conv.weight"], state["network.conv.weight"])


def test_a_run_without_a_name_goes_on_from_its_own_checkpoint(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    over = [
        fit(two_stages(), Training(2, BATCH), examples(), fabric, checkpoint_file=tmp_path / "c")
        for _ in range(2)
    ]
    assert over[0] == over[1]


def test_every_step_of_all_stages_is_logged_once() -> None:
    class Logger:
        name, version = "steps", 0
        steps: ClassVar[list[int | None]] = []

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.steps.append(step)

    fabric: Any = Fabric(accelerator="cpu", devices=1, loggers=cast("Any", Logger()))
    fabric.launch()
    fit(two_stages(), Training(2, BATCH), examples(), fabric)
    assert Logger.steps == list(range(2 * 2 * (IMAGES // BATCH)))


@pytest.mark.parametrize("precision", ["32-true", "16-mixed"])
def test_infinite_gradients_stop_a_run_but_not_in_float16(precision: Any) -> None:
    """There the scaler starts too high, and leaves such steps out."""
    plan = two_stages()
    objective = plan.stages[0].objective
    next(objective.parameters()).register_hook(lambda slope: slope * torch.inf)
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    training = Training(1, BATCH, clip_norm=1.0, precision=precision)
    if precision == "16-mixed":
        assert len(fit(plan, training, examples(), fabric)) == 4
    else:
        with pytest.raises(RuntimeError, match="non-finite"):
            fit(plan, training, examples(), fabric)


def test_a_class_of_the_number_of_no_class_counts_where_there_are_more() -> None:
    labels = torch.tensor([3, VOID])
    few, many = torch.zeros(2, VOID), torch.zeros(2, 1000)
    few[:, 3], many[0, 3], many[1, VOID] = 1.0, 1.0, 1.0
    assert accuracy(few, labels) == accuracy(many, labels) == 1.0
    many[1, 0] = 2.0
    assert accuracy(many, labels) == 0.5
    each = [cross_entropy(many[k : k + 1], labels[k : k + 1], 0.0) for k in range(2)]
    assert float(cross_entropy(many, labels, 0.0)) == pytest.approx(float(sum(each)) / 2)
    assert torch.equal(cross_entropy(few, labels, 0.0), cross_entropy(few[:1], labels[:1], 0.0))


def test_checkpoints_of_others_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "state"
    with pytest.raises(KilledError):
        trained(Training(2, BATCH), file, 6)
    whole = file.read_bytes()
    state = checkpoint.read(file, RUN)
    assert state["place"]["stage"] == 0 and state["place"]["epoch"] == 1
    for damaged, found in (
        (whole[:-1], "damaged"),
        (whole[:40], "another"),
        (b"", "another kind"),
        (whole[:-50] + b"x" + whole[-49:], "damaged"),
    ):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=found):
            checkpoint.read(file, RUN)
    file.write_bytes(whole)
    with pytest.raises(InputError, match="another run"):
        checkpoint.read(file, checkpoint.run_digest("another run"))
    with pytest.raises(InputError, match="a folder"):
        checkpoint.read(tmp_path, RUN)
    assert checkpoint.read(tmp_path / "none", RUN) is None


def test_a_batch_is_shared_equally_and_something_is_left_to_train_on() -> None:
    with pytest.raises(InputError, match="left to train on"):
        trained(Training(1, BATCH, held_out=IMAGES))


def test_learning_rates() -> None:
    cosine = Training(rate=2.0, warmup=0.5)
    assert [learning_rate(cosine, d) for d in (0.0, 0.25, 0.5, 1.0)] == [0.0, 1.0, 2.0, 0.0]
    assert learning_rate(cosine, 0.75) == pytest.approx(1.0)
    step = Training(rate=1.0, schedule="step", drops=(0.5, 0.75), drop=0.5)
    assert [learning_rate(step, d) for d in (0.0, 0.49, 0.5, 0.75)] == [1.0, 1.0, 0.5, 0.25]
    assert learning_rate(Training(rate=3.0, schedule="constant"), 0.9) == 3.0


def test_weights_decay_and_thresholds_and_mixing_do_not() -> None:
    own = MultiThreshold(2, 3, 1.0, mixing="full", learn_keep=True, learn_threshold=True)
    network = nn.Sequential(nn.Linear(3, 2), own)
    decay = Training(weight_decay=0.1)
    for stage, expected in (
        (Stage("all", network, 1), 0.1),
        (Stage("all", network, 1, weight_decay=0.3), 0.3),
    ):
        groups = optimiser_of(decay, stage).param_groups
        weights, others = groups
        assert [p.shape for p in weights["params"]] == [(2, 3)]
        assert {p.shape for p in others["params"]} == {(2,), (), (3, 3)}
        assert [weights["weight_decay"], others["weight_decay"]] == [expected, 0.0]


def test_what_mixes_steps_stays_where_no_gradient_moves_it() -> None:
    """Decay alone would bring its logits to 0, which is the mean of the steps."""
    own = MultiThreshold(2, 3, 1.0, mixing="full")
    assert own.logits is not None
    with torch.no_grad():
        own.logits.fill_(1.0)
    own.logits.grad = torch.zeros_like(own.logits)
    training = Training(rate=1.0, weight_decay=0.5)
    optimiser_of(training, Stage("all", own, 1)).step()
    assert torch.equal(own.logits.detach(), torch.ones(3, 3))


def run_cli(
    folder: Path, *arguments: object, launch: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    command = [*launch, "-c", "from lapilli.cli import main; main()"]
    if not launch:
        command = [sys.executable, *command]
    else:
        script = folder / "main.py"
        script.write_text(LAUNCHED, "utf-8")
        command = [*launch, str(script)]
    return subprocess.Popen(
        [*command, "train", *map(str, arguments)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


LAUNCHED = """
import atexit
import sys

from torch import distributed

from lapilli.cli import main

atexit.register(lambda: print(f"in a group: {distributed.is_initialized()}", file=sys.stderr))
main()
"""


def finished(process: subprocess.Popen[str], launched: int = 0) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "Grad strides" not in err  # of weights in another memory format than their gradients
    # Now and then, gloo's threads abort a process that ends while it is in a group.
    assert err.count("in a group: False") == launched and "in a group: True" not in err
    return out


SHORT = ("--set", "training.epochs=3", "--limit", "500", "--set", "training.checkpoint_s=0")
NETWORK = ("--set", "network=training_runs:Small", "--device", "cpu", "--json")


def test_kill_9_and_resume_give_the_same_weights(tmp_path: Path) -> None:
    one, two, state = tmp_path / "one.h5", tmp_path / "two.h5", tmp_path / "state"
    arguments = ("digits", *SHORT, *NETWORK)
    finished(run_cli(tmp_path, *arguments, "-o", one))
    process = run_cli(tmp_path, *arguments, "--checkpoint", state, "-o", two)
    deadline = time.monotonic() + 120
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL and not two.exists()
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()
    finished(run_cli(tmp_path, *arguments, "--checkpoint", state, "-o", two))
    assert one.read_bytes() == two.read_bytes()
    assert (
        one.with_suffix(".safetensors").read_bytes() == two.with_suffix(".safetensors").read_bytes()
    )


def test_only_the_first_process_needs_the_checkpoint(tmp_path: Path) -> None:
    """On several hosts the file is the first one's: all go on from it, none waits for ever."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn: Any = torch.multiprocessing.spawn
    spawn(resume, (port, str(tmp_path)), nprocs=2)
    assert [f.name for f in tmp_path.glob("checkpoint*")] == ["checkpoint of 0"]
    found = [torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2)]
    for first, second in found:
        assert first[:2] == (4, 2) and second[:2] == (0, 2)
    states = [run[2] for runs in found for run in runs]
    for name, value in states[0].items():
        assert all(torch.equal(value, state[name]) for state in states)
    # Statistics are those of all images, of which each process saw a half, and of these weights.
    drives = functional.linear(two_images().images, states[0]["0.weight"], states[0]["0.bias"])
    torch.testing.assert_close(states[0]["1.running_mean"], drives.mean(0))


QUANTISED = """
kind = "quantised"
network = "training_runs:steady"
data = "digits"

[training]
batch = 64
optimiser = "muon"
rate = 0.005
statistics = 128

[quantised]
levels = 3
"""


@pytest.mark.parametrize("recipe", ["digits", "quantised.toml"])
def test_two_processes_train_as_one_does(recipe: str, tmp_path: Path) -> None:
    """torchrun, two CPU processes over gloo; the same batch for both together."""
    (tmp_path / "quantised.toml").write_text(QUANTISED, "utf-8")
    arguments = (recipe, *SHORT, *NETWORK, "--set", "network=training_runs:steady")
    alone = json.loads(finished(run_cli(tmp_path, *arguments, "-o", tmp_path / "one.h5")))
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    both = run_cli(tmp_path, *arguments, "-o", tmp_path / "two.h5", launch=launch)
    shared = json.loads(finished(both, launched=2))
    # Sums of a batch are taken in another order: floats, not integers.
    losses = [[epoch["loss"] for epoch in report["epochs"]] for report in (alone, shared)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert shared["ok"] and shared["score"] == pytest.approx(alone["score"], abs=0.01)
