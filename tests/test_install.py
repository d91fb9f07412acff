"""`.ci/install` with a fake interpreter that records what it is asked to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / ".ci"
INTERPRETER = """#!/bin/sh
here={here}
case "$1 $2 $3" in
    "-m venv "*)
        echo "venv $3" >>"$here/calls"
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip install")
        echo "pip with $PIP_CONSTRAINT: $*" >>"$here/calls"
        echo "ERROR: no such thing"
        [ ! -e "$here/no-network" ] ;;
    "-m pip check") [ ! -e "$here/conflict" ] || {{ echo "a needs b"; exit 1; }} ;;
    "-c  ") ;;
    *) echo "3.10 $0" ;;
esac
"""
INSTALL = "pip with constraints/build.txt: -m pip install -c constraints/lava.txt -e .[lava,dev]"
FRESH = ["venv .venv", INSTALL]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with the real scripts, and an interpreter of its own at `python`."""
    shutil.copytree(SCRIPTS, tmp_path / ".ci")
    (tmp_path / "pyproject.toml").write_text("[project]\n", "utf-8")
    (tmp_path / "constraints").mkdir()
    for name in ("build.txt", "lava.txt"):
        (tmp_path / "constraints" / name).write_text("a==1\n", "utf-8")
    (tmp_path / "python").write_text(INTERPRETER.format(here=tmp_path), "utf-8")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3.10").symlink_to(tmp_path / "python")
    return tmp_path


def install(clone: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run the script; what it said, and what it asked of the interpreter."""
    (clone / "calls").write_text("", "utf-8")
    done = subprocess.run(
        [".ci/install", ".venv", "constraints/lava.txt", "lava,dev", "3.10"],
        cwd=clone,
        env={"PATH": f"{clone}/bin:/usr/bin:/bin", "HOME": str(clone), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, (clone / "calls").read_text("utf-8").splitlines()


def check_asks(clone: Path, calls: list[str], **environment: str) -> None:
    done, asked = install(clone, **environment)
    assert done.returncode == 0, done.stderr
    assert asked == calls


def test_fresh_clone_then_nothing_to_do(clone: Path) -> None:
    check_asks(clone, FRESH)
    check_asks(clone, [])


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "constraints/lava.txt", "constraints/build.txt"]
)
def test_an_edit_reinstalls_in_place(clone: Path, name: str) -> None:
    check_asks(clone, FRESH)
    (clone / name).touch()
    check_asks(clone, [])
    (clone / name).write_text("b==2\n", "utf-8")
    check_asks(clone, [INSTALL])
    check_asks(clone, [])


def test_an_edit_of_tool_settings_does_not(clone: Path) -> None:
    check_asks(clone, FRESH)
    (clone / "pyproject.toml").write_text("[project]\n[tool.pytest.ini_options]\n", "utf-8")
    check_asks(clone, [])


def test_a_broken_environment_is_made_anew(clone: Path) -> None:
    check_asks(clone, FRESH)
    (clone / ".venv/bin/python").unlink()
    (clone / ".venv/bin/python").symlink_to("/nowhere/python3.10")
    check_asks(clone, FRESH)


def test_a_moved_clone_gets_a_new_environment(clone: Path) -> None:
    """Scripts such as .venv/bin/pytest name the folder they were installed in."""
    check_asks(clone, FRESH)
    stamp = clone / ".venv/installed"
    stamp.write_text(stamp.read_text("utf-8").replace(str(clone), "/elsewhere"), "utf-8")
    check_asks(clone, FRESH)


def test_an_environment_of_another_version_is_made_anew(clone: Path) -> None:
    check_asks(clone, FRESH)
    (clone / ".venv/installed").unlink()
    interpreter = clone / ".venv/bin/python"
    interpreter.write_text(interpreter.read_text("utf-8").replace("3.10", "3.9"), "utf-8")
    check_asks(clone, FRESH)


def test_failed_pip_shows_its_last_words_and_is_tried_again(clone: Path) -> None:
    (clone / "no-network").touch()
    done, calls = install(clone)
    assert done.returncode == 1
    assert calls == FRESH
    assert "ERROR: no such thing" in done.stderr
    assert done.stderr.endswith("the whole of its log is .venv/install.log.\n")
    (clone / "no-network").unlink()
    check_asks(clone, [INSTALL])


def test_conflicting_packages_fail(clone: Path) -> None:
    (clone / "conflict").touch()
    done, _ = install(clone)
    assert done.returncode == 1
    assert "a needs b" in done.stderr
    assert not (clone / ".venv/installed").exists()


def test_wrong_override_touches_nothing(clone: Path) -> None:
    done, calls = install(clone, PYTHON="/nowhere/python3.10")
    assert done.returncode == 1
    assert done.stderr.startswith("PYTHON=/nowhere/python3.10 does not serve")
    assert calls == []
    assert not (clone / ".venv").exists()
