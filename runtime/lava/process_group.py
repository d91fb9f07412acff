"""Ending a group of processes for good, with what they left in shared memory.

A killed Lava run would leave its processes waiting for each other and its channels in /dev/shm.
The group is asked to end first: Python's resource tracker ignores that, sees the others die, and
removes their segments. Where it cannot, the segments seen in the processes' memory maps are removed
here (Linux; elsewhere the tracker alone does it).
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

_PROC = Path("/proc")
_SHARED_MEMORY = "/dev/shm/"


def end(group: int, *, grace_s: float = 5.0) -> None:
    """Return when no process of `group` runs any more and its shared memory is gone."""
    segments = shared_segments(group)
    # A stopped process dies only when it may go on.
    for asked in (signal.SIGTERM, signal.SIGCONT):
        _signal(group, asked)
    if not _gone(group, grace_s):
        segments |= shared_segments(group)
        _signal(group, signal.SIGKILL)
        _gone(group, grace_s)
    for segment in segments:
        segment.unlink(missing_ok=True)


def wait(group: int, grace_s: float) -> bool:
    """Whether every process of `group` ends by itself within `grace_s`."""
    return _gone(group, grace_s)


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
    """Files in shared memory that the processes of `group` have mapped."""
    segments = set()
    for pid in members(group):
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "maps").read_text("utf-8", "replace").splitlines():
                path = line.partition(_SHARED_MEMORY)
                if path[1] and not path[2].endswith(" (deleted)"):
                    segments.add(Path(_SHARED_MEMORY + path[2]))
    return segments


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _alive(group: int) -> bool:
    if _PROC.is_dir():
        return bool(members(group))
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _gone(group: int, grace_s: float) -> bool:
    deadline = time.monotonic() + grace_s
    while _alive(group):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
