"""The example of mapping lays a network out on a chip and a board, and draws both."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "07_mapping.py"


def test_the_example_lays_out_and_draws(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the extra plots is not installed")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--folder", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 3
    assert done.stdout.count("us per step (modelled)") == 3
