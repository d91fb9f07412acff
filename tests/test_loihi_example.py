"""The script for Loihi's hardware takes any exported network, whatever its input looks like."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from artifact_samples import PROVENANCE
from backend_presence import lava_is_missing
from netlists import Coding, random_netlist

from lapilli.compiler.artifact import Artifact
from lapilli.compiler.interchange import loihi_export
from lapilli.compiler.linear import Dense
from lapilli.compiler.mapping import place
from lapilli.hardware_profiles import load

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "04_loihi_hardware.py"


@pytest.mark.parametrize("coding", ["train", "sigma-delta", "rate"])
def test_images_spike_trains_and_frames(coding: Coding, tmp_path: Path) -> None:
    netlist = random_netlist(np.random.default_rng(0), coding, (Dense,))
    chip = load("unlimited")
    path = tmp_path / "network.json"
    loihi_export.write(path, Artifact(netlist, PROVENANCE), place(netlist, chip), chip)
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = ["Lava is not installed"] if lava_is_missing() else ["engine's: True"] * 2
    assert [words for words in expected if words not in done.stdout] == []
