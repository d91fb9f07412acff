"""The fit: what it writes is a profile that reproduces the measurement, and nothing else moves."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from lapilli.hardware_profiles import load

SCRIPT = runpy.run_path(str(Path(__file__).parent / "benchmarks" / "fit_energy.py"))


def test_the_fitted_profile_reproduces_its_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fitted.json"
    assert SCRIPT["main"](["--json", "-o", str(path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["benchmark"] == "fit_energy"
    assert all(row["holds"] for row in report["rows"])
    assert all(row.keys() >= {"measure", "value", "unit", "target"} for row in report["rows"])
    energy = load(path).energy
    assert energy is not None and energy.busy_core_mw is not None
    # lava-dl netx/pilotnet_snn: 447.156 mW dynamic at 408.91 frames/s, 16 steps, 74 cores.
    neurons = 66 * 200 * 3 + 32 * 99 * 24 + 15 * 49 * 36 + 7 * 24 * 48 + 4 * 22 * 64 + 2 * 20 * 64
    updates = 16 * (neurons + 100 + 50 + 10 + 1)
    events = 16 * 2.29e6 * energy.synop_pj.value + updates * energy.neuron_update_pj.value
    modelled_uj = 1e-6 * events + 74 * energy.busy_core_mw.value * 1e3 / 408.91
    assert modelled_uj == pytest.approx(447.156e3 / 408.91, rel=0.05)


def test_only_two_constants_move(tmp_path: Path) -> None:
    path = tmp_path / "fitted.json"
    SCRIPT["main"](["-o", str(path)])
    before, after = dict(load("loihi2").quantities()), dict(load(path).quantities())
    moved = {key for key in before if before[key] != after[key]}
    assert moved == {"energy.synop_pj", "energy.neuron_update_pj"}
    assert not load(path).calibrated
    for key in moved:
        assert after[key].confidence == "inferred"
        assert "fit_energy.py" in after[key].source and before[key].source in after[key].source
        ratio = after[key].value / before[key].value
        assert ratio == pytest.approx(after["energy.synop_pj"].value / 9.5, rel=0.01)


def test_only_the_rows_for_fitting_are_used() -> None:
    """The family of Loihi 1 from one branch on, and PilotNet LIF."""
    assert list(SCRIPT["BRANCHES"]) == [1, 2, 4, 6, 8, 10]
    ends: Any = SCRIPT["BRANCHES"]
    assert (ends[10] - ends[1]) / 9 == pytest.approx(17.1, abs=0.05)
    assert SCRIPT["PilotNet"]().measured_uj == pytest.approx(1093.5, abs=0.1)
