"""Whatever goes wrong inside a Lava run: one error that names the layer, and nothing is left."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lava_worker_faults import FAULTY_STEP, VICTIM, small_netlist

from lapilli.compiler.errors import BackendError
from lapilli.runtime import reference
from lapilli.runtime.lava import process_group, runner

SCRIPT = str(Path(__file__).with_name("lava_worker_faults.py"))
INPUTS = np.arange(12).reshape(4, 3) % 6
STALL_S = 5.0  # a busy machine starts Lava in less
Usage = namedtuple("Usage", "total used free")


class Leftovers:
    """What a run had, seen just before its end, and whether any of it is still there."""

    def __init__(self, temporary: Path):
        self.temporary = temporary
        self.processes: set[int] = set()
        self.segments: set[Path] = set()

    def look(self) -> None:
        """Every process that lives in the temporary folder, with its shared memory."""
        found = processes_in(self.temporary)
        self.processes |= set(found)
        groups = set()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                groups.add(os.getpgid(pid))
        for group in groups:
            self.segments |= process_group.shared_segments(group)

    def assert_gone(self, *, within_s: float = 0.0) -> None:
        deadline = time.monotonic() + within_s
        while self._remaining() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert self._remaining() == []

    def _remaining(self) -> list[object]:
        files = [path for path in self.temporary.iterdir() if path.name.startswith("lapilli")]
        segments = [path for path in self.segments if path.exists()]
        return [*processes_in(self.temporary), *segments, *files]


def processes_in(folder: Path) -> list[int]:
    """Processes whose working directory is, or was, below `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended, or is not ours
            if str((entry / "cwd").readlink()).startswith(f"{folder}/"):
                found.append(int(entry.name))
    return found


@pytest.fixture
def leftovers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Leftovers]:
    """Runs keep their files below `tmp_path`; afterwards nothing of them may remain."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen, end = Leftovers(tmp_path), process_group.end

    def observed(*arguments: object, **options: object) -> None:
        seen.look()
        end(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(process_group, "end", observed)
    yield seen
    seen.assert_gone()


def run_with(fault: str, **options: object) -> BackendError:
    with pytest.raises(BackendError) as caught:
        runner.run(
            small_netlist(),
            INPUTS,
            worker=(sys.executable, SCRIPT, fault),
            **options,  # type: ignore[arg-type]
        )
    assert caught.value.exit_code == 3
    assert caught.value.remedy
    return caught.value


@pytest.mark.lava
@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("raise", "ValueError: planted"),
        ("exit", "exit code 7"),
        ("kill", "killed by SIGKILL"),
        ("hang", "no step in 5 s, it is in step"),
        ("stop", "no step in 5 s, it is in step"),
    ],
)
def test_fault_in_a_population_names_it(fault: str, found: str, leftovers: Leftovers) -> None:
    error = run_with(fault, stall_s=STALL_S)
    assert error.where == f"lava: {VICTIM}"
    assert found in error.found
    # It idles while the input travels and `before` integrates its window of 4.
    assert f"{FAULTY_STEP + 5} of" in error.found or f"after {FAULTY_STEP + 4} of" in error.found
    assert len(leftovers.processes) > 9
    assert leftovers.segments


@pytest.mark.lava
def test_fault_in_a_synapse_names_it(leftovers: Leftovers) -> None:
    error = run_with("raise-in-synapse")
    assert error.where in {
        "lava: input -> before",
        f"lava: before -> {VICTIM}",
        f"lava: {VICTIM} -> after",
        "lava: after -> out",
    }
    assert "planted" in error.found


@pytest.mark.lava
def test_fault_in_the_building_of_the_network(leftovers: Leftovers) -> None:
    error = run_with("raise-in-build")
    assert error.where == "lava: the run"
    assert "KeyError" in error.found


def test_worker_that_gives_up(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "installed", lambda: True)
    error = run_with("leader-dies")
    assert error.where == "lava: the run"
    assert error.found == "it ended with code 1, last line: planted: the worker gives up"


def test_worker_that_never_begins(leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "installed", lambda: True)
    error = run_with("never-begins", stall_s=0.5)
    assert error.where == "lava: the run"
    assert error.found == "no step in 0.5 s, it never began"
    assert "if it hangs again, run with backend='reference'" in error.remedy


@pytest.mark.lava
def test_timeout_of_the_whole_run(leftovers: Leftovers) -> None:
    with pytest.raises(BackendError) as caught:
        runner.run(small_netlist(), np.zeros((100_000, 3), np.int64), timeout_s=2.5)
    assert "not done after 2.5 s" in caught.value.found
    assert caught.value.allowed == "2.5 s"
    assert "timeout_s" in caught.value.remedy


@pytest.mark.lava
def test_worker_killed_from_outside(leftovers: Leftovers) -> None:
    def kill_the_leader(done: int, total: int) -> None:
        if done > 5 and not leftovers.segments:
            leftovers.look()
            os.kill(os.getpgid(min(leftovers.processes)), signal.SIGKILL)

    with pytest.raises(BackendError) as caught:
        runner.run(small_netlist(), np.zeros((100_000, 3), np.int64), progress=kill_the_leader)
    assert "it ended with code -9" in caught.value.found
    assert leftovers.segments


@pytest.mark.lava
def test_worker_that_does_not_leave_loses_no_result(
    leftovers: Leftovers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "_GRACE_S", 0.5)
    worker = (sys.executable, SCRIPT, "never-leaves")
    trace = runner.run(small_netlist(), INPUTS, worker=worker)
    expected = reference.run(small_netlist(), INPUTS)
    np.testing.assert_array_equal(trace.outputs, expected.outputs)
    assert leftovers.segments


@pytest.mark.lava
def test_error_of_the_progress_display_ends_the_run(leftovers: Leftovers) -> None:
    def broken(done: int, total: int) -> None:
        if done > 5:
            raise RuntimeError("the terminal is gone")

    with pytest.raises(RuntimeError, match="terminal"):
        runner.run(small_netlist(), np.zeros((100_000, 3), np.int64), progress=broken)
    assert leftovers.segments


@pytest.mark.lava
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_runner_interrupted_or_killed(number: signal.Signals, tmp_path: Path) -> None:
    user = subprocess.Popen(
        [sys.executable, SCRIPT, "run"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watchdog = threading.Timer(60, user.kill)
    watchdog.start()
    try:
        assert user.stdout is not None
        assert user.stdout.readline() == "running\n"
        seen = Leftovers(tmp_path)
        seen.look()
        assert len(seen.processes) > 9
        assert seen.segments
        # A slow start on a busy machine does not count: from here on it has a minute of its own.
        watchdog.cancel()
        watchdog = threading.Timer(60, user.kill)
        watchdog.start()
        user.send_signal(number)
        user.communicate()
    finally:
        watchdog.cancel()
        user.kill()
    assert user.returncode == -number
    seen.assert_gone(within_s=15)


@pytest.mark.lava
def test_the_folder_goes_where_a_process_writes_into_it_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lapilli.runtime.lava import worker

    folder, remove, ended = tmp_path / "job", shutil.rmtree, list[tuple[int, int]]()
    folder.mkdir()

    def beaten_once(path: Path, ignore_errors: bool) -> None:
        monkeypatch.setattr(shutil, "rmtree", remove)  # of the next call
        (path / "failure").touch()

    monkeypatch.setattr(shutil, "rmtree", beaten_once)
    monkeypatch.setattr(os, "killpg", lambda group, number: ended.append((group, number)))
    worker._end_with(os.getpid(), folder)  # which is not this process's parent
    assert not folder.exists()
    assert ended == [(0, signal.SIGCONT), (0, signal.SIGTERM)]


def test_missing_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BackendError) as caught:
        runner.run(small_netlist(), INPUTS)
    assert caught.value.exit_code == 3
    assert "pip install 'lapilli[lava]'" in str(caught.value)


def test_namespace_without_lava_nc_is_missing_lava(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lava" / "lib").mkdir(parents=True)  # what lava-dl alone leaves
    spec = importlib.machinery.PathFinder.find_spec("lava", [str(tmp_path)])
    assert spec is not None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert not runner.installed()
    (tmp_path / "lava" / "magma").mkdir()
    assert runner.installed()


def test_this_side_never_imports_lava() -> None:
    code = """
import sys
from lapilli.runtime.lava import runner
runner.installed()
print(sorted({name.partition(".")[0] for name in sys.modules} & {"lava", "torch"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_full_disk_is_told_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "installed", lambda: True)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**6, 10**6, 100))
    with pytest.raises(BackendError) as caught:
        runner.run(small_netlist(), INPUTS)
    assert caught.value.found == "0 MB free"


def test_limits_grow_with_the_work() -> None:
    short = runner.default_limits(small_netlist(), 1)
    long = runner.default_limits(small_netlist(), 100)
    assert long.timeout_s > short.timeout_s > short.stall_s > runner.STALL_S
