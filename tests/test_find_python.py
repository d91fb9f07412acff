"""`.ci/find-python` on machines made of fake interpreters: broken shims, pyenv, uv, nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FINDER = Path(__file__).resolve().parents[1] / ".ci/find-python"
TOOLS = ("sed",)
"""All that the finder needs besides the shell; the machine's own interpreters stay out of sight."""


class Machine:
    """A home, a PATH of `shims` then `bin`, and what lies there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environment = {"HOME": str(home), "PATH": f"{home}/shims:{home}/bin"}
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found
            (home / "bin").mkdir(exist_ok=True)
            (home / "bin" / tool).symlink_to(found)

    def put(self, place: str, script: str) -> Path:
        path = self.home / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    def python(self, place: str, version: str) -> Path:
        """An interpreter that gives a real one's answer to the finder's question."""
        return self.put(place, f'echo "{version} $0"')

    def broken(self, place: str) -> Path:
        """A shim of a version that is not selected here."""
        return self.put(place, "echo 'pyenv: command not found' >&2; exit 127")

    def find(self, *versions: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(FINDER), *versions],
            cwd=self.home,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def finds(self, expected: Path, *versions: str, **environment: str) -> bool:
        done = self.find(*versions, **environment)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout == f"{expected}\n"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def check_one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.endswith(".")
    return line


def test_on_path(machine: Machine) -> None:
    assert machine.finds(machine.python("bin/python3.10", "3.10"), "3.10")


@pytest.mark.parametrize("name", ["python3", "python"])
def test_by_a_plain_name_of_the_right_version(machine: Machine, name: str) -> None:
    assert machine.finds(machine.python(f"bin/{name}", "3.10"), "3.10")


def test_a_plain_name_of_another_version_does_not_count(machine: Machine) -> None:
    machine.python("bin/python3", "3.12")
    machine.python("bin/python", "2.7")
    assert "Python 3.10" in check_one_sentence(machine.find("3.10"))


def test_a_broken_shim_does_not_hide_a_later_one_on_path(machine: Machine) -> None:
    machine.broken("shims/python3.10")
    assert machine.finds(machine.python("bin/python3.10", "3.10"), "3.10")


def test_a_liar_does_not_count(machine: Machine) -> None:
    machine.python("shims/python3.10", "3.9")
    machine.put("bin/python3.10", "exit 0")
    check_one_sentence(machine.find("3.10"))


def test_behind_a_broken_shim_in_pyenv(machine: Machine) -> None:
    machine.broken("shims/python3.11")
    found = machine.python(".pyenv/versions/3.11.7/bin/python3.11", "3.11")
    machine.broken(".pyenv/versions/3.11.9/bin/python3.11")
    assert machine.finds(found, "3.11")


def test_newest_patch_in_pyenv_root(machine: Machine) -> None:
    for patch in (2, 13, 9):
        machine.python(f"elsewhere/versions/3.10.{patch}/bin/python3.10", "3.10")
    machine.python("elsewhere/versions/3.10.99-debug/bin/python3.10", "3.10")
    root = machine.home / "elsewhere"
    newest = root / "versions/3.10.13/bin/python3.10"
    assert machine.finds(newest, "3.10", PYENV_ROOT=str(root))


def test_in_uv_asked_away_from_the_project(machine: Machine) -> None:
    """From inside the project uv would answer with .venv, which is what is being made."""
    found = machine.python("uv/cpython-3.10/bin/python3.10", "3.10")
    asked = f'[ "$*" = "python find 3.10" ] && [ "$PWD" = / ] && echo "{found}"'
    machine.put("bin/uv", asked)
    assert machine.finds(found, "3.10")


def test_uv_without_the_version(machine: Machine) -> None:
    machine.put("bin/uv", "echo 'error: No interpreter found' >&2; exit 2")
    check_one_sentence(machine.find("3.10"))


def test_earlier_named_versions_are_preferred(machine: Machine) -> None:
    machine.python("bin/python3.13", "3.13")
    second = machine.python("bin/python3.12", "3.12")
    assert machine.finds(second, "3.11", "3.12", "3.13")
    first = machine.python(".pyenv/versions/3.11.0/bin/python3.11", "3.11")
    assert machine.finds(first, "3.11", "3.12", "3.13")


def test_override_wins(machine: Machine) -> None:
    machine.python("bin/python3.10", "3.10")
    mine = machine.python("mine/python", "3.10")
    assert machine.finds(mine, "3.10", PYTHON=str(mine))


def test_override_of_another_version_is_refused(machine: Machine) -> None:
    machine.python("bin/python3.10", "3.10")
    mine = machine.python("mine/python", "3.12")
    said = check_one_sentence(machine.find("3.10", PYTHON=str(mine)))
    assert said.startswith(f"PYTHON={mine} is Python 3.12 and does not serve")


def test_override_that_does_not_run_is_refused(machine: Machine) -> None:
    machine.python("bin/python3.10", "3.10")
    assert "does not serve" in check_one_sentence(machine.find("3.10", PYTHON="/nowhere/python"))


def test_nothing_found_says_what_to_install(machine: Machine) -> None:
    said = check_one_sentence(machine.find("3.10"))
    assert said.startswith("No Python 3.10 found")
    assert "pyenv install 3.10" in said
    several = check_one_sentence(machine.find("3.11", "3.12", "3.13"))
    assert several.startswith("No Python 3.11, 3.12 or 3.13 found")


def test_without_a_home(machine: Machine) -> None:
    del machine.environment["HOME"]
    check_one_sentence(machine.find("3.10"))


def test_a_real_virtual_environment_names_its_base(machine: Machine) -> None:
    """An activated .venv must not be found as the interpreter to make itself from."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    done = machine.find(version, PYTHON=sys.executable, PATH=os.environ["PATH"])
    assert done.returncode == 0, done.stderr
    found = Path(done.stdout.strip())
    assert found.resolve() == Path(sys.executable).resolve()
    assert not (found.parent.parent / "pyvenv.cfg").exists()


def test_a_python_without_venv_does_not_count(machine: Machine) -> None:
    """Debian ships ensurepip, without which no environment can be made, as a package of its own."""
    blocker = machine.home / "site/ensurepip.py"
    blocker.parent.mkdir()
    blocker.write_text("raise ImportError('not shipped')\n", encoding="utf-8")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    machine.put("bin/python3", f'PYTHONPATH={blocker.parent} exec {sys.executable} "$@"')
    check_one_sentence(machine.find(version))
