"""The README's code and commands run as they stand there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from backend_presence import lava_is_missing

README = (Path(__file__).resolve().parents[1] / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    """The contents of the fenced blocks of a language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    return [content for found, content in fenced if found == language]


def test_the_api_of_the_readme_runs(tmp_path: Path) -> None:
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) <= 20
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"^accuracy: (0\.9\d+)$", done.stdout, flags=re.MULTILINE)
    assert accuracy and float(accuracy[1]) > 0.98
    assert "equal: True" in done.stdout
    assert re.search(r"^uJ per image: \d", done.stdout, flags=re.MULTILINE)


def test_the_commands_of_the_readme_run(tmp_path: Path) -> None:
    (listing,) = (b for b in blocks("") if b.startswith("lapilli "))
    commands = [shlex.split(line) for line in listing.replace("\\\n", "").splitlines()]
    assert {command[1] for command in commands} == {
        *("demo", "compile", "inspect", "run", "verify", "estimate", "export", "profiles"),
        *("operators", "blame", "train", "robustness", "map", "compare"),
    }
    for command in commands:
        expected = 3 if command[1] == "verify" and lava_is_missing() else 0
        done = subprocess.run(
            [sys.executable, "-m", "lapilli.cli", *command[1:]],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == expected, (command, done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("target", re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE))
def test_the_targets_of_the_readme_exist(target: str) -> None:
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text("utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


@pytest.mark.parametrize(
    "example",
    ["02_mnist.py absent", "05_mnist_max_pooling.py absent", "03_resnet20.py --data absent"],
)
def test_examples_say_what_they_lack(example: str, tmp_path: Path) -> None:
    name, *arguments = example.split()
    path = Path(__file__).resolve().parents[1] / "examples" / name
    done = subprocess.run(
        [sys.executable, str(path), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("Skipped: there is no ")
