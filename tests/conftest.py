"""What every test run shares: which backends must be there, and what the header says."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING

import pytest
from backend_presence import KNOWN, REQUIRED, lava_is_missing, required_backends
from hypothesis import settings

if TYPE_CHECKING:
    from command_line import Run

# Before torch is imported: threads that spin while they wait make a busy machine many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Processes that test side by side share the cores.
if side_by_side := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // side_by_side)))
    for name in ("COLUMNS", "LINES"):  # of no terminal: readline sets them where pytest imports it
        os.environ.pop(name, None)

collect_ignore = ["benchmarks"]  # scripts for people, run by hand
SHOWN = ("torch", "numpy", "h5py", "scikit-learn", "lava-nc", "lava-dl")

# The same examples on every run; --hypothesis-profile=explore looks for new ones.
settings.register_profile("lapilli", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("explore", deadline=None, print_blob=True, max_examples=1000)
settings.load_profile("lapilli")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite tests/golden instead of comparing"
    )


def pytest_configure(config: pytest.Config) -> None:
    required = required_backends()
    if unknown := required - set(KNOWN):
        raise pytest.UsageError(
            f"{REQUIRED} names {', '.join(sorted(unknown))}; known are {', '.join(KNOWN)}"
        )
    missing = lava_is_missing()
    if missing and "lava" in required:
        raise pytest.UsageError(f"{REQUIRED} asks for lava, but {missing}")


def pytest_report_header(config: pytest.Config) -> list[str]:
    versions = []
    for distribution in SHOWN:
        try:
            versions.append(f"{distribution} {importlib.metadata.version(distribution)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{distribution} absent")
    required = ", ".join(sorted(required_backends())) or "none"
    return [f"dependencies: {', '.join(versions)}", f"backends required: {required}"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run one command in this process."""
    from command_line import runner  # and with it torch

    return runner(capsys)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("lava") and (missing := lava_is_missing()):
        pytest.skip(missing)
