"""The marker `lava` and LAPILLI_BACKENDS, in test runs of their own with and without a Lava."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
INNER = """
import pytest

@pytest.mark.lava
def test_with_lava():
    assert True

def test_without():
    assert True
"""


@pytest.fixture
def session(tmp_path: Path) -> Path:
    """A folder with the real conftest, two tests, and a `site` folder that shadows packages."""
    for name in ("conftest.py", "backend_presence.py"):
        (tmp_path / name).write_text((TESTS / name).read_text("utf-8"), "utf-8")
    (tmp_path / "test_inner.py").write_text(INNER, "utf-8")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\nmarkers = lava: needs Lava\naddopts = -p no:cacheprovider -rs\n",
        "utf-8",
    )
    (tmp_path / "site").mkdir()
    return tmp_path


def with_lava(session: Path) -> None:
    (session / "site/lava/magma").mkdir(parents=True)
    (session / "site/lava/__init__.py").touch()
    (session / "site/lava/magma/__init__.py").touch()


def without_lava(session: Path) -> None:
    (session / "site/lava").mkdir()
    (session / "site/lava/__init__.py").write_text("raise ImportError('no Lava')\n", "utf-8")


def run(session: Path, required: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(session / "site"),
        "LAPILLI_BACKENDS": required,
        "PYTEST_ADDOPTS": "",
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", str(session)],
        cwd=session,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("required", ["", "reference"])
def test_missing_lava_skips_with_its_reason(session: Path, required: str) -> None:
    without_lava(session)
    done = run(session, required)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 1 skipped" in done.stdout
    assert "Lava is not installed" in done.stdout


def test_missing_lava_fails_where_it_is_required(session: Path) -> None:
    without_lava(session)
    done = run(session, "reference,lava")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "LAPILLI_BACKENDS asks for lava, but Lava is not installed" in done.stderr
    assert "Traceback" not in done.stderr


def test_present_lava_runs(session: Path) -> None:
    with_lava(session)
    done = run(session, "reference,lava")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_unknown_backend_is_refused(session: Path) -> None:
    done = run(session, "reference,lavva")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "LAPILLI_BACKENDS names lavva; known are reference, lava" in done.stderr


def test_header_names_versions_and_requirements(session: Path) -> None:
    done = run(session, "reference")
    assert "dependencies: torch " in done.stdout
    assert "backends required: reference" in done.stdout
