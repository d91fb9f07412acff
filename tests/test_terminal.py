"""Standard output and error as terminals, pipes and full disks see them."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Run, model_file

import lapilli
from lapilli import render, terminal

HELP_SECONDS = 0.5


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled model file."""
    return model_file(tmp_path_factory.mktemp("cli"))


def test_help_is_quick_and_light(tmp_path: Path) -> None:
    code = (
        "import sys; from lapilli import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'torch', 'numpy', 'scipy', 'h5py', 'lava', 'sklearn', 'rich'}\n"
        "print('HEAVY', heavy & set(sys.modules))"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        seconds.append(time.perf_counter() - start)
        assert "HEAVY set()" in done.stdout, done.stdout + done.stderr
    for command in ("demo", "compile", "run", "verify", "estimate", "inspect", "profiles"):
        assert f"  {command} " in done.stdout
    assert min(seconds) < HELP_SECONDS


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which $LAPILLI is the command."""
    lapilli_command = f"'{sys.executable}' -W error -m lapilli.cli"
    return subprocess.run(
        ["bash", "-c", line.replace("$LAPILLI", lapilli_command)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    done = shell("$LAPILLI profiles loihi1 | head -n 1; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_standard_output() -> None:
    done = shell("$LAPILLI profiles > /dev/full")
    assert done.returncode == 3
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


def test_terminals_without_unicode_are_served() -> None:
    done = shell("$LAPILLI profiles", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert "loihi2" in done.stdout


def on_a_terminal(command: list[str]) -> tuple[str, str]:
    """Standard output and what was drawn on the terminal that is the command's standard error."""
    controller, terminal = pty.openpty()
    drawn = bytearray()

    def read() -> None:  # while the command draws: a full terminal would stop it
        with contextlib.suppress(OSError):  # how Linux says that the other end has closed
            while part := os.read(controller, 4096):
                drawn.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=terminal, check=True, text=True, timeout=120
    )
    os.close(terminal)
    reader.join()
    os.close(controller)
    return done.stdout, drawn.decode()


def test_progress_is_drawn_on_a_terminal_only(model: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "lapilli.cli",
        "run",
        str(model),
        "--data",
        "digits",
        "--limit",
        "5",
    ]
    printed, drawn = on_a_terminal([*command, "--json"])
    assert json.loads(printed)["accuracy"]["images"] == 5
    assert "running on reference" in drawn
    silent = subprocess.run(command, capture_output=True, check=False, text=True)
    assert silent.returncode == 0
    assert silent.stderr == ""


def test_every_stage_has_one_bar() -> None:
    made: list[str] = []
    counted: list[tuple[str, int, int]] = []

    def bar(title: str) -> terminal.Count:
        made.append(title)
        return lambda done, total: counted.append((title, done, total))

    told = terminal.staged(bar)
    calls = [("one", 1, 2), ("one", 2, 2), ("two", 1, 1), ("one", 2, 2)]
    for call in calls:
        told(*call)
    assert made == ["one", "two"]
    assert counted == calls


def test_names_cannot_steer_the_terminal(run: Run, model: Path, tmp_path: Path) -> None:
    artifact = lapilli.load(model)
    noted = replace(artifact, provenance=replace(artifact.provenance, notes="a [bold]b :smile:"))
    odd = tmp_path / "\x1b[2J.h5"
    noted.save(odd)
    text = run("inspect", odd).out
    assert "\x1b" not in text
    assert "a [bold]b :smile:" in text
    refused = run("inspect", tmp_path / "\x1b[3J.h5")
    assert refused.code == 2
    assert "\x1b" not in refused.err


@pytest.mark.parametrize(
    ("pj", "text"),
    [(0, "0 pJ"), (0.5, "0.5 pJ"), (999.4, "999 pJ"), (81.8e6, "81.8 uJ"), (1.35e12, "1.35 J")],
)
def test_energies_are_readable(pj: float, text: str) -> None:
    assert render.joules(pj) == text


def test_bands_have_one_unit() -> None:
    values = {"low": 93.1e6, "mid": 349e6, "high": 1350e6}
    assert render.band(values) == ("349 uJ", "93.1 .. 1,350 uJ")
