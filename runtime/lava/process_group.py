"""Ending a group of processes for good, with what they left in shared memory.

A killed Lava run would leave its processes waiting for each other and its channels in /dev/shm.
The group is asked to end first: Python's resource tracker ignores that, sees the others die, and
removes their segments. Where it cannot, the segments seen in the processes' memory maps are removed
here (Linux; elsewhere the tracker alone does it).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from pathlib import Path

_PROC = Path("/proc")
_SEGMENT = re.compile(r" (/dev/shm/psm_[^/ ]+)$")  # as multiprocessing.shared_memory names them


def end(leader: subprocess.Popen[bytes], *, grace_s: float = 5.0) -> None:
    """Return when no process of the group of `leader` runs any more and no segment is left."""
    segments = shared_segments(leader.pid)
    # A stopped process dies only when it may go on.
    for asked in (signal.SIGTERM, signal.SIGCONT):
        _signal(leader, asked)
    if not wait(leader, grace_s):
        segments |= shared_segments(leader.pid)
        _signal(leader, signal.SIGKILL)
        wait(leader, grace_s)
    leader.wait()
    for segment in segments:
        segment.unlink(missing_ok=True)


def wait(leader: subprocess.Popen[bytes], grace_s: float) -> bool:
    """Whether the whole group ends by itself within `grace_s`."""
    deadline = time.monotonic() + grace_s
    while _alive(leader):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def members(group: int) -> list[int]:
    """Processes of `group` that are alive; zombies are not."""
    found = []
    for entry in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            # "pid (name) state parent group ...", and the name may hold anything.
            fields = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] not in "ZX":
                found.append(int(entry.name))
    return found


def shared_segments(group: int) -> set[Path]:
    """Segments of shared memory that the processes of `group` have mapped."""
    segments = set()
    for pid in members(group):
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "maps").read_text("utf-8", "replace").splitlines():
                if found := _SEGMENT.search(line):
                    segments.add(Path(found.group(1)))
    return segments


def _signal(leader: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if _alive(leader):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader.pid, number)


def _alive(leader: subprocess.Popen[bytes]) -> bool:
    leader.poll()  # a process that nobody asks about stays a zombie
    if _PROC.is_dir():
        return bool(members(leader.pid))
    try:
        os.killpg(leader.pid, 0)
    except ProcessLookupError:
        return False
    return True
