"""The process that runs Lava: `python -m lapilli.runtime.lava.worker JOB_DIRECTORY`.

It reads the netlist and the inputs, starts one operating-system process per Lava process, and
reports through the job's journal. It never decides that a run takes too long: the runner does.
"""

from __future__ import annotations

import contextlib
import functools
import json
import multiprocessing
import multiprocessing.util
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg

from lapilli.compiler import artifact
from lapilli.runtime.early_stop import StopRule
from lapilli.runtime.lava import network
from lapilli.runtime.lava.clock import UNKNOWN, clocks
from lapilli.runtime.lava.journal import (
    INPUTS,
    JOB,
    NETLIST,
    Journal,
    keep_temporary,
    report_failure,
)
from lapilli.runtime.trace import Record

CHANNEL_DEPTH = 2
"""Messages that a channel holds. All processes step together, so one is on its way at a time."""
LONGEST_FOLDER = 104 - 1 - len("/pymp-########/listener-########")
"""Bytes of a path that holds sockets: 104 with the end are the least that systems take."""
_POLL_S = 0.05
REMOVAL_S = 5.0
"""For the folder, as long as processes write into it."""


Work = Callable[[Path, Record, int, "StopRule | None"], None]
"""Does a job: its directory, what to record, the steps after which every process has to be done,
and when images end before that."""


def main(arguments: Sequence[str], work: Work | None = None) -> None:
    """Run the job in the directory that `arguments` names; `work` replaces our own processes."""
    directory = Path(arguments[0])
    job = json.loads((directory / JOB).read_text("utf-8"))
    threading.Thread(target=_end_with, args=(job["runner"], directory), daemon=True).start()
    sys.excepthook = functools.partial(_failed, directory)
    stop = None if job["stop"] is None else StopRule(**job["stop"])
    keep_temporary(directory, _folder_of_sockets())
    (work or _run)(directory, job["record"], job["steps"], stop)


def _folder_of_sockets() -> str:
    """Of Lava's memory manager. Paths to them must be short, so it is not in the job's folder, nor
    in $TMPDIR where that is long."""
    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_FOLDER:
        tempfile.tempdir = "/tmp"
    return multiprocessing.util.get_temp_dir()


def _run(directory: Path, record: Record, steps: int, stop: StopRule | None) -> None:
    netlist = artifact.read(directory / NETLIST).netlist
    inputs = np.load(directory / INPUTS, mmap_mode="r", allow_pickle=False)
    journal = Journal(directory, netlist, record, len(inputs))
    arrays = {p.name: journal.arrays(p.name) for p in netlist.populations}
    table = None if stop is None else journal.stops()
    times = clocks(netlist, stop, table)
    first = network.build(netlist, inputs, journal.watches(), arrays, times)[0]
    done, stretch = 0, steps if stop is None else netlist.steps
    while done < steps and (table is None or (table[:, 0] == UNKNOWN).any()):
        done = min(done + stretch, steps)
        first.run(
            RunSteps(stretch, blocking=False),
            Loihi2SimCfg(select_tag="fixed_pt"),
            {"pypy_channel_size": CHANNEL_DEPTH},
        )
        follow(journal, done)
        first.wait()
    journal.finish(steps)
    first.stop()


def follow(journal: Journal, steps: int) -> None:
    """Return when every process has done its last step; a process that dies ends the run."""
    processes = multiprocessing.active_children()
    while (status := journal.status()) and any(row.done < steps for row in status):
        names = {row.pid: row.name for row in status}
        for process in processes:
            if process.exitcode is not None:
                _died(journal.directory, names.get(process.pid or 0, ""), process.exitcode)
        time.sleep(_POLL_S)


def _failed(
    directory: Path, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.__excepthook__(kind, error, trace)
    report_failure(directory, "", f"{kind.__name__}: {error}")
    _wait_for_the_end()


def _died(directory: Path, name: str, exit_code: int) -> NoReturn:
    what = f"exit code {exit_code}"
    if exit_code < 0:
        what = f"killed by {signal.Signals(-exit_code).name}"
    report_failure(directory, name, f"its process ended: {what}")
    _wait_for_the_end()


def _wait_for_the_end() -> NoReturn:
    # Leaving would make Lava wait for processes that wait for each other; the runner ends us all.
    while True:
        signal.pause()


def _end_with(runner: int, directory: Path) -> None:
    """End the whole group when the runner is gone, which cannot do it any more."""
    while os.getppid() == runner:
        time.sleep(1.0)
    deadline = time.monotonic() + REMOVAL_S
    while directory.exists() and time.monotonic() < deadline:
        # A first try may fail: who misses a file says so in the folder, just before it is removed.
        shutil.rmtree(directory, ignore_errors=True)
    # Not the resource tracker, which ignores this and then removes the shared memory.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(0, signal.SIGCONT)
        os.killpg(0, signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])
