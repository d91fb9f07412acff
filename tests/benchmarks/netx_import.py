"""Imported `.net` files against netx itself: every spike of every layer, every last membrane.

    python tests/benchmarks/netx_import.py FILE.net... [--steps 64] [--hours 2] [--json]

Three inputs each: at random, Poisson and sparse. netx runs each in a process of its own (see
tests/netx_referee.py), all at once; a large network takes it minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import netx_files

from lapilli.compiler.artifact import Artifact
from lapilli.compiler.interchange.netx_import import import_netx
from lapilli.hardware_profiles import load
from lapilli.runtime import reference

REFEREE = Path(__file__).resolve().parents[1] / "netx_referee.py"
KINDS = ("random", "Poisson", "sparse")
FRAMES = (-60, 120)
"""What neurons of an input layer are fed."""
Row = dict[str, object]


def inputs(artifact: Artifact, kind: str, steps: int) -> np.ndarray:
    """One sample, (1, steps, *shape): spikes, or currents where the file has input neurons."""
    rng = np.random.default_rng(KINDS.index(kind))
    source = artifact.netlist.source
    shape = (1, steps, *artifact.netlist.input.shape)
    if kind == "random":
        return rng.integers(source.low, source.high + 1, shape)
    if kind == "Poisson":
        return np.minimum(rng.poisson(0.15 * source.high, shape), source.high)
    return np.where(rng.random(shape) < 0.1, source.high, 0)


def measure(path: Path, steps: int, seconds: float) -> list[Row]:
    """Rows for one file."""
    given = netx_files.layer_types(path)[0] == ("input", True)
    span = FRAMES if given else None
    artifact = import_netx(path, steps=steps, profile=load("loihi2"), input_range=span)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for kind in KINDS:
            place = Path(folder) / kind
            place.mkdir()
            shutil.copy(path, place / "network.net")
            np.save(place / "network.npy", inputs(artifact, kind, steps))
            command = [sys.executable, str(REFEREE), str(place)]
            running.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=2))
        for kind, process in zip(KINDS, running, strict=True):
            process.wait(timeout=seconds)
            place = Path(folder) / kind
            sample, theirs = np.load(place / "network.npy"), np.load(place / "network.npz")
            rows += compare(f"{path.name}, {kind}", artifact, sample, dict(theirs))
    return rows


def compare(
    title: str, artifact: Artifact, sample: np.ndarray, theirs: dict[str, np.ndarray]
) -> list[Row]:
    """How many spikes and last membranes agree."""
    trace = reference.run(artifact.netlist, sample, record="states")
    layers = [p.name for p in artifact.netlist.populations if p.name not in ("input", "output")]
    equal = compared = fired = 0
    for k, name in enumerate(layers):
        ours = trace.spikes.get(name, np.zeros((*trace.states[name].shape,), np.int64))
        expected = theirs[str(k)].reshape(ours.shape)
        equal += int((ours == expected).sum())
        fired += int(np.count_nonzero(expected))
        compared += ours.size
    membranes = trace.states[layers[-1]][:, -1].reshape(theirs["v"].shape) == theirs["v"]
    return [
        _row(f"{title}: spikes of {len(layers)} layers ({fired} not 0)", equal, compared),
        _row(f"{title}: last membranes", int(membranes.sum()), membranes.size),
    ]


def _row(name: str, value: int, target: int) -> Row:
    unit = f"of {target} equal"
    return {
        "measure": name,
        "value": value,
        "unit": unit,
        "target": target,
        "holds": value == target,
    }


def main() -> int:
    """Print the table or one JSON object; exit 1 if a spike differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--hours", type=float, default=2.0, help="end netx after that time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [
        row for path in options.files for row in measure(path, options.steps, options.hours * 3600)
    ]
    if options.json:
        machine = f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"
        print(json.dumps({"benchmark": "netx_import", "machine": machine, "rows": rows}))
    else:
        for row in rows:
            print(f"{row['measure']:<70}{row['value']:>10} {row['unit']}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
