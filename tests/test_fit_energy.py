"""The fit: what it writes is a profile that reproduces the measurement, and nothing else moves."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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


def test_the_shipped_profile_is_the_fitted_one(tmp_path: Path) -> None:
    path = tmp_path / "fitted.json"
    SCRIPT["main"](["-o", str(path)])
    shipped, written = dict(load("loihi2").quantities()), dict(load(path).quantities())
    assert shipped == written
    assert not load(path).calibrated
    for key, before in (("energy.synop_pj", 9.5), ("energy.neuron_update_pj", 37.5)):
        assert written[key].confidence == "inferred"
        assert "fit_energy.py" in written[key].source and f"{before}:" in written[key].source
        assert written[key].value / before == pytest.approx(1.65, rel=0.01)


def test_a_profile_that_was_not_fitted_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both constants as they were before: the script fails, and names them."""
    chip = load("loihi2")
    assert chip.energy is not None and chip.energy.synop_pj is not None
    old = replace(chip.energy.synop_pj, value=9.5)
    energy = replace(chip.energy, synop_pj=old)
    monkeypatch.setitem(
        SCRIPT["main"].__globals__,
        "hardware_profiles",
        SimpleNamespace(
            load=lambda name: replace(chip, energy=energy) if name == "loihi2" else load(name)
        ),
    )
    assert SCRIPT["main"](["--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["rows"]
    missed = [row["measure"] for row in rows if not row["holds"]]
    assert missed == [
        "Loihi 2, PilotNet LIF, dynamic energy of a frame: profile loihi2",
        "Loihi 2, synop_pj, and in the profile",
    ]


def test_only_the_rows_for_fitting_are_used() -> None:
    """The family of Loihi 1 from one branch on, and PilotNet LIF."""
    assert list(SCRIPT["BRANCHES"]) == [1, 2, 4, 6, 8, 10]
    ends: Any = SCRIPT["BRANCHES"]
    assert (ends[10] - ends[1]) / 9 == pytest.approx(17.1, abs=0.05)
    assert SCRIPT["PilotNet"]().measured_uj == pytest.approx(1093.5, abs=0.1)
