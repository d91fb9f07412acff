"""The laws of the house that are found by running code; those found by reading it: `house_laws.py`.

Each returns what breaks the law, as there. Code runs in a fresh interpreter whose working folder
is given: a `lapilli` lying there goes before the installed one.
"""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

HEAVY = frozenset({"torch", "h5py", "lava", "sklearn", "scipy"})
IMPORT_SECONDS = 0.3
EXAMPLE_SECONDS = 60.0

_TIMED = """
import json, sys, time
start = time.perf_counter()
import lapilli
print(json.dumps([time.perf_counter() - start, sorted(sys.modules)]))
"""


def _run(folder: Path, *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


def start_up_faults(folder: Path, attempts: int = 5) -> list[str]:
    """`import lapilli` that loads a heavy package or is slow; the fastest attempt counts."""
    seconds = []
    for _ in range(attempts):
        done = _run(folder, "-c", _TIMED, seconds=60)
        if done.returncode:
            return [f"import lapilli fails: {done.stderr}"]
        elapsed, loaded = json.loads(done.stdout)
        if heavy := HEAVY & set(loaded):
            return [f"import lapilli loads {', '.join(sorted(heavy))}"]
        seconds.append(elapsed)
    if min(seconds) >= IMPORT_SECONDS:
        return [f"import lapilli takes {min(seconds):.2f} s, {IMPORT_SECONDS} s allowed"]
    return []


def dependence_faults(
    folder: Path, blocked: Iterable[str], code: str, *arguments: str
) -> list[str]:
    """Code that cannot run where the blocked packages are not installed."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in blocked)
    done = _run(folder, "-c", f"import sys\n{block}{code}", *arguments, seconds=60)
    return [done.stderr] if done.returncode else []


def doctest_faults(module: ModuleType) -> list[str]:
    """Examples in docstrings that do not print what they say."""
    failures: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        runner.run(test, out=failures.append)
    return failures


def example_faults(
    example: Path, folder: Path, seconds_allowed: float = EXAMPLE_SECONDS
) -> list[str]:
    """An example that fails, shows nothing, or outlasts a reader's patience.

    It may take so many seconds of a processor, whatever else the machine does meanwhile, and five
    times that by the clock.
    """
    start = _of_children()
    try:
        done = _run(folder, str(example), seconds=5 * seconds_allowed)
    except subprocess.TimeoutExpired:
        return [f"{example.name}: still running after {5 * seconds_allowed:.0f} s"]
    seconds = _of_children() - start
    faults = []
    if done.returncode:
        faults.append(f"{example.name}: exit code {done.returncode}\n{done.stderr}")
    if not done.stdout.strip():
        faults.append(f"{example.name}: shows nothing")
    if seconds > seconds_allowed:
        faults.append(f"{example.name}: {seconds:.0f} s, {seconds_allowed:.0f} s allowed")
    return faults


def _of_children() -> float:
    """Processor seconds of the processes that were started here and have ended."""
    used = os.times()
    return used.children_user + used.children_system
