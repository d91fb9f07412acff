"""What public measurements justify of the energy constants, and no more.

    python tests/benchmarks/fit_energy.py [--json] [-o loihi2-fitted.json]

Two measurements, each of a network that is described well enough to count its events:

* Loihi 2, PilotNet with LIF neurons (lava-dl, netx/pilotnet_snn/benchmark.ipynb): one factor on
  both energies per event, beginning with what is known without it (PRIOR). Cores and time are
  measured, so the power of cores in use is not fitted. The factor holds whatever else an event
  costs, spikes and packets above all, of which no energy is public for this chip.
* Loihi 1, ten layers of 256 neurons more, two to ten times over (abr/power_benchmarks): the slope
  of energy over size, which has no input or output in it. Steps and spikes of an inference are not
  published with it, so that no constant follows: what is found is how active the layers must have
  been for the profile's constants to hold, and that this is possible.

hardware_profiles/loihi2.json holds what is found here; rows with "profile" say whether it still
does. -o writes that file with the constants and their derivation. Nothing else is read: other
measured networks are kept for checking.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lapilli import hardware_profiles
from lapilli.compiler.sealed_file import write_whole

WITHIN = 0.05
DIGITS = 3
"""Of a constant that is written: more would pretend."""
Row = dict[str, Any]


@dataclass(frozen=True)
class PilotNet:
    """PilotNet LIF on one Loihi 2, per frame; synops are read from a plot, within 5 %."""

    dynamic_mw: float = 447.156
    frames_per_s: float = 408.91
    cores: int = 74
    steps: int = 16
    synops: float = 22.9e9 / 1e4 * 16
    layers: tuple[tuple[int, ...], ...] = (
        *((200, 66, 3), (99, 32, 24), (49, 15, 36), (24, 7, 48), (22, 4, 64), (20, 2, 64)),
        *((100,), (50,), (10,), (1,)),
    )

    @property
    def updates(self) -> int:
        """Neuron updates of a frame."""
        return self.steps * sum(int(np.prod(layer)) for layer in self.layers)

    @property
    def measured_uj(self) -> float:
        """Dynamic energy of a frame."""
        return self.dynamic_mw * 1e3 / self.frames_per_s

    def cores_uj(self, busy_core_mw: float) -> float:
        """What the cores in use take of it, over the measured time."""
        return self.cores * busy_core_mw * 1e3 / self.frames_per_s


PRIOR: dict[str, tuple[float, str]] = {
    "synop_pj": (
        9.5,
        "middle of 7 to 12 pJ; about 30 pJ with everything else folded in (lava-dl tutorials "
        "netx/pilotnet_snn/benchmark.ipynb: 68.3 uJ and 2.29 million synaptic operations per step, "
        "activity read from a plot)",
    ),
    "neuron_update_pj": (37.5, "middle of 35 to 40 pJ, about half of Loihi 1"),
}
"""Energy per event of Loihi 2 before the fit, and where it comes from."""
BRANCHES: dict[int, float] = {1: 681.6, 2: 703.7, 4: 733.5, 6: 767.9, 8: 802.4, 10: 835.8}
"""Branches of ten layers -> measured dynamic energy of an inference in uJ, all at 114 a second.

The network without a branch runs faster, so it is on another line and left out.
"""
BRANCH_NEURONS, BRANCH_SYNAPSES = 10 * 256, 9 * 256 * 256


def fitted(row: PilotNet, profile: Any) -> tuple[float, dict[str, float]]:
    """The factor, and the constants with it, to so many digits."""
    cores_uj = row.cores_uj(profile.energy.busy_core_mw.value)
    prior = {key: value for key, (value, _) in PRIOR.items()}
    factor = (row.measured_uj - cores_uj) / events_uj(row, prior)
    return factor, {key: float(f"{factor * value:.{DIGITS}g}") for key, value in prior.items()}


def events_uj(row: PilotNet, of: dict[str, float]) -> float:
    """Energy of a frame's events with these constants."""
    return 1e-6 * (row.synops * of["synop_pj"] + row.updates * of["neuron_update_pj"])


def pilotnet_rows(row: PilotNet, profile: Any, constants: dict[str, float]) -> list[Row]:
    """The measured energy: before, with what was found, and with what the profile holds."""
    e = profile.energy
    held = {key: getattr(e, key).value for key in PRIOR}
    prior = {key: value for key, (value, _) in PRIOR.items()}
    found = []
    for name, of in (("before", prior), ("fitted", constants), ("profile loihi2", held)):
        modelled = events_uj(row, of) + row.cores_uj(e.busy_core_mw.value)
        error = modelled / row.measured_uj - 1
        found.append(
            {
                "measure": f"Loihi 2, PilotNet LIF, dynamic energy of a frame: {name}",
                "value": modelled,
                "unit": "uJ",
                "target": row.measured_uj,
                "holds": name == "before" or abs(error) <= WITHIN,
            }
        )
    return found


def branch_rows(profile: Any) -> list[Row]:
    """The slope, how well a line describes the family, and the activity that it takes."""
    sizes, energies = np.array(list(BRANCHES)), np.array(list(BRANCHES.values()))
    slope, start = np.polyfit(sizes, energies, 1)
    worst = float(np.abs((start + slope * sizes) / energies - 1).max())
    e = profile.energy
    update_uj = 1e-6 * BRANCH_NEURONS * (e.neuron_access_pj.value + e.neuron_update_pj.value)
    most_steps = slope / update_uj
    rows: list[Row] = [
        {"measure": "Loihi 1, energy of ten layers more", "value": float(slope), "unit": "uJ"},
        {"measure": "Loihi 1, largest distance from the line", "value": worst, "unit": "ratio"},
        {
            "measure": "Loihi 1, most steps that an inference can have had, were it silent",
            "value": float(most_steps),
            "unit": "step",
        },
    ]
    for row in rows:
        row.update(target=None, holds=True)
    rows[1].update(target=f"<= {WITHIN}", holds=bool(worst <= WITHIN))
    for steps in (1, 10, 50):
        operations = (slope - steps * update_uj) * 1e6 / e.synop_pj.value / steps
        share = operations / BRANCH_SYNAPSES
        rows.append(
            {
                "measure": f"Loihi 1, synapses used in each of {steps} steps, for these constants",
                "value": float(share),
                "unit": "share",
                "target": "0..1",
                "holds": bool(0 <= share <= 1),
            }
        )
    return rows


def write(path: Path, factor: float, constants: dict[str, float]) -> None:
    """The Loihi 2 profile with these constants; nothing else is changed."""
    home = Path(hardware_profiles.__file__).parent
    profile = json.loads((home / "loihi2.json").read_text(encoding="utf-8"))
    for key, value in constants.items():
        profile["energy"][key].update(
            value=value, confidence="inferred", source=_source(key, factor)
        )
    write_whole(path, (json.dumps(profile, indent=2) + "\n").encode())


def _source(key: str, factor: float) -> str:
    before, why = PRIOR[key]
    return (
        f"tests/benchmarks/fit_energy.py: {factor:.3g} times {before}, one factor for synop_pj and "
        "neuron_update_pj, so that PilotNet LIF (lava-dl netx/pilotnet_snn/benchmark.ipynb) takes "
        f"its measured dynamic energy on its 74 cores in its measured time; {before}: {why}"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("-o", "--output", type=Path, help="write a profile there")
    given = parser.parse_args(arguments)
    chip = hardware_profiles.load("loihi2")
    factor, constants = fitted(PilotNet(), chip)
    rows = pilotnet_rows(PilotNet(), chip, constants)
    rows.append({"measure": "Loihi 2, factor", "value": factor, "unit": "ratio", "target": None})
    for key, value in constants.items():
        held = getattr(chip.energy, key).value
        rows.append(
            {
                "measure": f"Loihi 2, {key}, and in the profile",
                "value": value,
                "unit": "pJ",
                "target": held,
                "holds": value == held,
            }
        )
    rows += branch_rows(hardware_profiles.load("loihi1"))
    for row in rows:
        row.setdefault("holds", True)
    if given.output is not None:
        write(given.output, factor, constants)
    if given.json:
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        print(json.dumps({"benchmark": "fit_energy", "machine": machine, "rows": rows}))
    else:
        for row in rows:
            target = "" if row["target"] is None else f"   target {row['target']}"
            mark = "ok  " if row["holds"] else "MISS"
            print(f"{mark} {row['measure']:<68}{row['value']:>10.4g} {row['unit']}{target}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
