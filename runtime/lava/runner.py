"""Runs a netlist on Lava in a supervised subprocess; this side never imports Lava.

A process model that raises, dies or hangs makes Lava wait for ever. So the worker runs in a group
of processes of its own, every process keeps a journal, and this side watches it: whatever happens,
the run ends with a Trace or one error, and with no process, shared memory or file left behind.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import final

import numpy as np

from lapilli.compiler import artifact
from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.errors import BackendError
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import Int64Array
from lapilli.compiler.schedule import schedule
from lapilli.runtime.early_stop import StopRule
from lapilli.runtime.lava import process_group
from lapilli.runtime.lava.clock import until_stopped
from lapilli.runtime.lava.journal import (
    INPUTS,
    JOB,
    LOG,
    NETLIST,
    Journal,
    Status,
    remove_temporary,
)
from lapilli.runtime.trace import Progress, Record, Trace, real_outputs

WORKER = (sys.executable, "-m", "lapilli.runtime.lava.worker")
STALL_S = 60.0
"""Time in which, besides a step's own work, at least one process must finish a step."""
SLOW_STEP_S, SLOW_MACS_PER_S = 0.02, 2e7
"""A slow machine: seconds that one process needs per step, multiply-accumulates in one second."""
_POLL_S = 0.05
_GRACE_S = 30.0
_SHARED_MEMORY = Path("/dev/shm")
_NO_ROOM = (f"[Errno {errno.ENOSPC}]", "SIGBUS")
"""What a failure says when shared memory is full: as it is asked for, or as it is written to."""
_ELSEWHERE = "run with backend='reference', which computes the same"


@final
@dataclass(frozen=True)
class Limits:
    """timeout_s: for the whole run; stall_s: without any process finishing a step."""

    timeout_s: float
    stall_s: float


def run(
    netlist: Netlist,
    inputs: Int64Array,
    *,
    record: Record = "counts",
    progress: Progress | None = None,
    timeout_s: float | None = None,
    stall_s: float | None = None,
    stop: StopRule | None = None,
    worker: Sequence[str] = WORKER,
) -> Trace:
    """Execute a netlist on Lava, all images streaming through; `progress` counts steps.

    inputs: integers, as `reference.run` takes them. timeout_s, stall_s: seconds; by default far
    above what a slow machine needs. worker: the command that runs a job directory. Raises
    BackendError where Lava is missing, fails, or exceeds a limit. Events are not counted: the
    reference engine does. stop: end each image once its answer is clear, and begin the next one.
    """
    if not installed():
        raise BackendError(
            "lava",
            "Lava is installed",
            found="no package lava-nc",
            allowed="lava-nc 0.10, on Python 3.10",
            remedy="Install it with: pip install 'lapilli[lava]'",
        )
    limits = default_limits(netlist, len(inputs))
    limits = Limits(
        limits.timeout_s if timeout_s is None else timeout_s,
        limits.stall_s if stall_s is None else stall_s,
    )
    inputs = np.ascontiguousarray(inputs, np.int64)
    with tempfile.TemporaryDirectory(prefix="lapilli-lava-", ignore_cleanup_errors=True) as name:
        kept = record
        if stop is not None and record in ("outputs", "counts"):
            record = "spikes"  # from which counts follow: who sends does not know yet who stops
        journal = Journal(Path(name), netlist, record, len(inputs))
        _prepare(journal, netlist, inputs, record, stop)
        _supervise(journal, worker, limits, steps_to_run(netlist, len(inputs)), progress)
        trace = _trace(journal, netlist)
        return trace if stop is None else _until_stopped(trace, journal, netlist, kept)


def installed() -> bool:
    """Whether Lava could be imported; imports nothing."""
    found = importlib.util.find_spec("lava")  # a namespace: lava-dl alone has one, too
    places = (found and found.submodule_search_locations) or []
    return any((Path(place) / "magma").is_dir() for place in places)


def steps_to_run(netlist: Netlist, images: int) -> int:
    """Steps until every population has sent its last spike of the last image."""
    plan = schedule(netlist.populations, netlist.connections, netlist.steps)
    # The schedule ends with the readouts; a population that nobody listens to may end later.
    last = max(plan.sends.values()) + (images - 1) * plan.interval + netlist.steps
    return max(plan.total_steps(images), last)


def default_limits(netlist: Netlist, images: int) -> Limits:
    """Limits that a slow, busy machine keeps."""
    processes = len(netlist.populations) + len(netlist.connections)
    macs = sum(c.map.dense_macs for c in netlist.connections)
    step_s = SLOW_STEP_S * processes + macs / SLOW_MACS_PER_S
    start_s = STALL_S + SLOW_STEP_S * processes
    timeout_s = start_s + step_s * steps_to_run(netlist, images)
    return Limits(timeout_s=timeout_s, stall_s=start_s + step_s)


def _prepare(
    journal: Journal, netlist: Netlist, inputs: Int64Array, record: Record, stop: StopRule | None
) -> None:
    _check_room(journal.directory, journal.bytes + inputs.nbytes)
    if _SHARED_MEMORY.is_dir():
        _check_room(_SHARED_MEMORY, _channel_bytes(netlist))
    provenance = Provenance(
        lapilli_version=importlib.metadata.version("lapilli"),
        torch_version="",
        method="",
        options={},
        profile="",
        calibration_hash="",
        calibration_samples=0,
        ann_macs={},
    )
    artifact.write(journal.directory / NETLIST, Artifact(netlist, provenance))
    np.save(journal.directory / INPUTS, inputs, allow_pickle=False)
    steps = steps_to_run(netlist, len(inputs))
    rule = None if stop is None else asdict(stop)
    job = {"record": record, "steps": steps, "runner": os.getpid(), "stop": rule}
    (journal.directory / JOB).write_text(json.dumps(job), "utf-8")
    journal.create()


def _channel_bytes(netlist: Netlist) -> int:
    # Two messages each: spikes of 4 bytes to the synapse, currents of 8 bytes from it.
    return sum(2 * (4 * c.map.in_size + 8 * c.map.out_size) for c in netlist.connections)


def _check_room(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < needed:
        raise BackendError(
            f"lava: {place}",
            "there is room for what a run leaves",
            found=f"{free / 1e6:.0f} MB free",
            allowed=f"{needed / 1e6:.0f} MB",
            remedy="Run fewer images at once, record less, or free some room.",
        )


def _supervise(
    journal: Journal,
    command: Sequence[str],
    limits: Limits,
    steps: int,
    progress: Progress | None,
) -> None:
    """Return when every process has done all steps; whatever happens, nothing is left running."""
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
    with (journal.directory / LOG).open("wb") as log:
        worker = subprocess.Popen(
            [*command, str(journal.directory)],
            cwd=journal.directory,  # where nothing can be imported by accident
            env={**os.environ, **threads},  # the processes are the threads
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with _interrupts() as interrupted:
            _follow(worker, journal, limits, steps, progress, interrupted)
        process_group.wait(worker, _GRACE_S)
    finally:
        process_group.end(worker)
        remove_temporary(journal.directory)


@contextlib.contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects Ctrl-C, to be obeyed between two looks at the journal.

    As an exception it could arise where Python drops exceptions, in a destructor of a mapped array.
    """
    seen: list[int] = []
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not usual or threading.current_thread() is not threading.main_thread():
        yield seen
        return
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _follow(
    worker: subprocess.Popen[bytes],
    journal: Journal,
    limits: Limits,
    steps: int,
    progress: Progress | None,
    interrupted: Sequence[int],
) -> None:
    start = moved_at = time.monotonic()
    shown, before = -1, [-1]
    while True:
        if interrupted:
            raise KeyboardInterrupt
        ended = worker.poll() is not None  # asked first: its last words are written by then
        status = journal.status()
        _refuse_failure(journal, status, steps)
        done, now = [row.done for row in status], time.monotonic()
        if progress is not None and min(done) != shown:
            shown = min(done)
            progress(shown, steps)
        if min(done) >= steps:
            return
        if ended:
            raise _crashed(worker, journal)
        if done != before:
            before, moved_at = done, now
        if now - moved_at > limits.stall_s:
            remedy = f"Try again on an idle machine; if it hangs again, {_ELSEWHERE}."
            raise _too_slow(status, steps, f"no step in {limits.stall_s:g} s", "a step", remedy)
        if now - start > limits.timeout_s:
            found = f"not done after {limits.timeout_s:g} s"
            remedy = f"Run fewer images, allow more time with timeout_s, or {_ELSEWHERE}."
            raise _too_slow(status, steps, found, f"{limits.timeout_s:g} s", remedy)
        time.sleep(_POLL_S)


def _refuse_failure(journal: Journal, status: Sequence[Status], steps: int) -> None:
    failure = journal.failure()
    if failure is not None and any(word in failure.what for word in _NO_ROOM):
        raise BackendError(
            f"lava: {_SHARED_MEMORY}",
            "there is room for the channels between processes, a page each",
            found=failure.what,
            allowed="room for every channel",
            remedy="Free some shared memory or enlarge it (docker run --shm-size), or "
            f"{_ELSEWHERE}.",
        )
    if failure is not None:
        done = next((row.done for row in status if row.name == failure.process), 0)
        raise BackendError(
            f"lava: {failure.process or 'the run'}",
            "every process of Lava works until the end",
            found=f"{failure.what}, after {done} of {steps} steps",
            allowed="no failure",
            remedy=f"If it fails again, {_ELSEWHERE}, and report the failure.",
        )


def _crashed(worker: subprocess.Popen[bytes], journal: Journal) -> BackendError:
    lines = (journal.directory / LOG).read_text("utf-8", "replace").strip().splitlines()
    said = f", last line: {lines[-1]}" if lines else ""
    return BackendError(
        "lava: the run",
        "Lava works until the end",
        found=f"it ended with code {worker.returncode}{said}",
        allowed="code 0 after the last step",
        remedy=f"If it fails again, {_ELSEWHERE}, and report the failure.",
    )


def _too_slow(
    status: Sequence[Status], steps: int, found: str, allowed: str, remedy: str
) -> BackendError:
    slowest = _slowest(status)
    if not any(row.pid for row in status):
        where, place = "lava: the run", "it never began"
    else:
        where, place = f"lava: {slowest.name}", f"it is in step {slowest.done + 1} of {steps}"
    return BackendError(
        where,
        "Lava goes on",
        found=f"{found}, {place}",
        allowed=allowed,
        remedy=remedy,
    )


def _slowest(status: Sequence[Status]) -> Status:
    """The process that the others wait for: it is behind, and waits for nobody itself."""
    behind = min(row.done for row in status)
    late = [row for row in status if row.done == behind]
    return max(late, key=lambda row: row.phase)  # max takes the first of equals


def _trace(journal: Journal, netlist: Netlist) -> Trace:
    kept: dict[str, dict[str, Int64Array]] = {
        kind: {} for kind in ("counts", "spikes", "states", "readouts")
    }
    for p in netlist.populations:
        for kind, array in journal.arrays(p.name).items():
            kept[kind][p.name] = np.array(array)
    return Trace(
        "lava",
        real_outputs(netlist, kept["readouts"]),
        kept["counts"],
        kept["readouts"],
        kept["spikes"],
        kept["states"],
    )


def _until_stopped(trace: Trace, journal: Journal, netlist: Netlist, record: Record) -> Trace:
    """What belongs to the steps that each image ran; those before the readout ran ahead of it."""
    stopped = np.array(journal.stops()[:, 0])
    cut = {
        kind: {
            name: until_stopped(values, stopped, netlist[name].shape)
            for name, values in getattr(trace, kind).items()
        }
        for kind in ("spikes", "states")
    }
    return replace(
        trace,
        outputs=real_outputs(netlist, trace.readouts, stopped),
        counts={name: spikes.sum(1, dtype=np.int64) for name, spikes in cut["spikes"].items()},
        spikes=cut["spikes"] if record in ("spikes", "states") else {},
        states=cut["states"],
        stopped=stopped,
    )
