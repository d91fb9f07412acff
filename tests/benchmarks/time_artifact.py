"""How long writing and reading a large model file take, and how large it is beside its weights.

python tests/benchmarks/time_artifact.py [--layers N] [--width N] [--json]
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from artifact_samples import PROVENANCE
from netlists import integers, proven

from lapilli.compiler.artifact import Artifact, read
from lapilli.compiler.linear import Array, Dense, frozen
from lapilli.compiler.netlist import Connection, Netlist, Population
from lapilli.compiler.neurons import NeuronModel, Readout, Source, Window


def chain(layers: int, width: int) -> Artifact:
    """Dense layers of `width` neurons, one after the other, with random 8-bit weights."""
    rng = np.random.default_rng(0)
    window = Window(integers(1000), integers(0), integers(500), 4, "graded")
    readout = Readout(integers(0), integers(0))
    models: list[NeuronModel] = [Source(0, 1, "first"), *[window] * (layers - 1), readout]
    one, shape = frozen(1.0), (width,)
    populations = [
        Population(f"layer{i}", shape, model, one, one, 0, 0) for i, model in enumerate(models)
    ]
    connections = [
        Connection(before.name, after.name, Dense(_weights(rng, width), shape, shape), 0, 0, one)
        for before, after in itertools.pairwise(populations)
    ]
    return Artifact(proven(Netlist(tuple(populations), tuple(connections), 4)), PROVENANCE)


def _weights(rng: np.random.Generator, width: int) -> Array:
    return frozen(rng.integers(-127, 128, (width, width), np.int8))


def measure(artifact: Artifact, path: Path) -> dict[str, tuple[float, str, float | None]]:
    """Measure -> value, unit, target; seconds are the best of three."""
    seconds: dict[str, list[float]] = {"write": [], "read": [], "verify": []}
    actions: dict[str, Any] = {
        "write": lambda: artifact.save(path),
        "read": lambda: read(path),
        "verify": artifact.netlist.verify,
    }
    for _ in range(3):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - start)
    best = {name: min(values) for name, values in seconds.items()}
    weights = sum(c.map.weight.nbytes for c in artifact.netlist.connections)
    return {
        "file": (path.stat().st_size / 1e6, "MB", None),
        "file beside its weights": (path.stat().st_size - weights, "bytes", None),
        "verify": (best["verify"], "s", None),
        "write, verify excluded": (best["write"] - best["verify"], "s", 1.0),
        "read, verify excluded": (best["read"] - best["verify"], "s", 1.0),
    }


def main() -> int:
    """Print the table or one JSON object; exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(chain(options.layers, options.width), Path(folder) / "model.h5")
    rows = [
        {
            "measure": name,
            "value": value,
            "unit": unit,
            "target": target,
            "holds": target is None or value < target,
        }
        for name, (value, unit, target) in found.items()
    ]
    if options.json:
        python = platform.python_version()
        machine = f"{platform.machine()}, Python {python}, h5py {h5py.__version__}"
        print(json.dumps({"benchmark": "time_artifact", "machine": machine, "rows": rows}))
    else:
        for row in rows:
            print(f"{row['measure']:<26}{row['value']:>12.6g} {row['unit']}")
    return 0 if all(row["holds"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
