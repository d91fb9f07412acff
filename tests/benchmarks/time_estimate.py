"""What it costs to count events for an estimate: ResNet-20, against the same run without counting.

    python tests/benchmarks/time_estimate.py [--json] [--limit 10000] [--repeats 3] [--levels 8]
        [--coding graded]
        [--steps]

"Without" is the accuracy of the same images with every count switched off, which no command does:
`lapilli run` counts, too. --steps: events of each step are counted as well, for which there is no
target. Both are repeated in turns and the shortest times compared. It needs
../shared/data and is left out where that is absent.
"""

from __future__ import annotations

import argparse
import json
import platform
import runpy
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import lapilli
from lapilli import data, models, reports
from lapilli.runtime import reference

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
CALIBRATION_IMAGES = 256
MOST = 1.15


def uncounted() -> Any:
    """The engine with its counts switched off, and all that is computed for them alone."""
    return mock.patch.multiple(
        reference.Engine,
        _count=lambda self, p, activity: None,
        _updates_with_input=lambda self, p, drives: None,
    )


def measured(given: argparse.Namespace, net: Any, images: data.Dataset) -> dict[str, float]:
    """The shortest times, in s: wall and processor, with and without."""

    def accuracy() -> None:
        with uncounted():
            reports.evaluate(net, images.images, labels=images.labels, agreement_images=0)

    def estimate() -> None:
        found = reports.evaluate(
            net,
            images.images,
            labels=images.labels,
            agreement_images=0,
            step_events=given.steps,
        )
        reports.estimate_report(net, found, images)

    ways: dict[str, Callable[[], None]] = {"without": accuracy, "with": estimate}
    times: dict[str, list[float]] = {f"{way}_{clock}": [] for way in ways for clock in ("s", "cpu")}
    for _ in range(given.repeats):
        for way, act in ways.items():
            wall, processor = time.perf_counter(), time.process_time()
            act()
            times[f"{way}_s"].append(time.perf_counter() - wall)
            times[f"{way}_cpu"].append(time.process_time() - processor)
    return {name: min(values) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--limit", type=int, default=10_000, help="test images")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--levels", type=int, default=8)
    parser.add_argument("--coding", choices=["graded", "unary"], default="graded")
    parser.add_argument("--steps", action="store_true", help="count the events of each step, too")
    given = parser.parse_args()
    archive, weights = SHARED / "cifar10.tar.xz", SHARED / "resnet20_cifar10.safetensors"
    if not (archive.exists() and weights.exists()):
        print("left out: no ../shared/data", file=sys.stderr)
        return 0
    example = runpy.run_path(str(ROOT / "examples" / "03_resnet20.py"))
    network = example["ResNet20"]().eval()
    models.load_weights(network, weights)

    def normalised(split: Any, limit: int) -> data.Dataset:
        part = data.load(f"cifar10:{archive}", split=split, limit=limit)
        images = data.normalise(part.images, example["MEAN"], example["STD"])
        return replace(part, images=images)

    net = lapilli.compile(
        network,
        calibration=normalised("train", CALIBRATION_IMAGES).images,
        method=lapilli.methods.Parallel(levels=given.levels, coding=given.coding),
        profile="loihi2",
    )
    found = measured(given, net, normalised("test", given.limit))
    ratio = found["with_s"] / found["without_s"]
    of_processor = found["with_cpu"] / found["without_cpu"]
    what = (
        f"ResNet-20, L = {given.levels} {given.coding}, {given.limit} images"
        + ", each step" * given.steps
    )
    rows = [
        {"measure": f"{what}: without", "value": found["without_s"], "unit": "s"},
        {"measure": f"{what}: estimate", "value": found["with_s"], "unit": "s"},
        {"measure": "estimate / without, processor", "value": of_processor, "unit": "ratio"},
        {"measure": "estimate / without, wall", "value": ratio, "unit": "ratio"},
    ]
    for row in rows:
        row.update(target=None, holds=True)
    if not given.steps:
        rows[-1].update(target=f"<= {MOST}", holds=ratio <= MOST)
    if given.json:
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        print(json.dumps({"benchmark": "time_estimate", "machine": machine, "rows": rows}))
    else:
        for row in rows:
            print(f"{row['measure']:<60}{row['value']:>9.3f} {row['unit']}")
    return 0 if rows[-1]["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
