"""NIR on the command line: another tool's file in, a model file out, and a NIR file again."""

from __future__ import annotations

import itertools
from pathlib import Path

import nir
import numpy as np
import pytest
from command_line import Run, model_file

import lapilli


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A network of leaky neurons with real weights."""
    rng = np.random.default_rng(0)
    nodes = {
        "input": nir.Input(np.array([6])),
        "fc": nir.Affine(rng.normal(size=(4, 6)), rng.normal(size=4)),
        "lif": nir.LIF(np.full(4, 0.02), np.ones(4), np.zeros(4), np.full(4, 0.1)),
        "output": nir.Output(np.array([4])),
    }
    graph = nir.NIRGraph(nodes, list(itertools.pairwise(nodes)))
    nir.write(tmp_path / "foreign.nir", graph)
    return tmp_path / "foreign.nir"


def test_a_file_of_another_tool_becomes_a_model_and_a_nir_file(
    run: Run, foreign: Path, tmp_path: Path
) -> None:
    model, back, second = (tmp_path / name for name in ("m.h5", "back.nir", "again.h5"))
    outcome = run("compile", foreign, "--steps", 16, "--dt", "1e-3", "-o", model)
    assert outcome.code == 0, outcome.err
    assert "lif: weights in 8 bits, off by up to" in outcome.err
    assert "voltage decay 0.05 as 205/4096" in outcome.err
    artifact = lapilli.load(model)
    assert artifact.provenance.options["dt"] == 1e-3
    spikes = np.random.default_rng(1).integers(0, 2, (2, 16, 6)).astype(np.float32)
    assert np.asarray(lapilli.run(artifact, spikes).outputs).shape == (2, 4)
    outcome = run("export", model, "--format", "nir", "-o", back)
    assert outcome.code == 0, outcome.err
    assert "NIR has no word for the reset by subtraction" in " ".join(outcome.out.split())
    outcome = run("compile", back, "-o", second)
    assert outcome.code == 0, outcome.err
    assert lapilli.load(second).hash == artifact.hash


def test_what_is_missing_is_said_without_a_traceback(
    run: Run, foreign: Path, tmp_path: Path
) -> None:
    outcome = run("compile", foreign, "--steps", 16, "-o", tmp_path / "m.h5")
    assert outcome.code == 2
    assert "lif (LIF)" in outcome.err
    assert "--dt" in outcome.err
    assert "Traceback" not in outcome.err
    outcome = run("compile", foreign, "--dt", "1e-3", "-o", tmp_path / "m.h5")
    assert (outcome.code, "--steps" in outcome.err) == (2, True)
    assert not (tmp_path / "m.h5").exists()


def test_what_nir_cannot_say_is_refused(run: Run, tmp_path: Path) -> None:
    outcome = run("export", model_file(tmp_path), "--format", "nir", "-o", tmp_path / "net.nir")
    assert outcome.code == 2
    assert "--method rate" in outcome.err
    assert not (tmp_path / "net.nir").exists()
