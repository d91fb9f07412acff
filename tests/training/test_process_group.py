"""Groups of processes: who leaves them, and when. See also test_loop.py, of what they train."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is missing")

from lapilli import training_run
from lapilli.compiler.training import process_group

TWICE = """
from lapilli import training_run

quick = {"training.epochs": "1", "artifact.verify": "1", "artifact.test": "20"}
for _ in range(2):
    made = training_run.train(training_run.find_recipe("digits", quick), limit=256, device="cpu")
    if made is not None:
        print(made.epochs[0].loss, made.verification.ok)
"""


def test_one_program_of_two_processes_trains_several_times(tmp_path: Path) -> None:
    script = tmp_path / "twice.py"
    script.write_text(TWICE, "utf-8")
    launch = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, str(script)],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    first, second = (line.split() for line in done.stdout.splitlines() if line.endswith("True"))
    assert first == second


def test_a_group_that_the_caller_joined_is_the_callers_to_leave(tmp_path: Path) -> None:
    distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    quick = {"training.epochs": "1", "artifact.verify": "1", "artifact.test": "20"}
    recipe = training_run.find_recipe("digits", quick)
    try:
        assert training_run.train(recipe, limit=256, device="cpu") is not None
        assert process_group.joined()
    finally:
        process_group.leave()
    assert not process_group.joined()
    process_group.leave()  # of none: nothing to do
