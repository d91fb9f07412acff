"""The main job, measured: accuracy, equality with Lava, start-up time.

    python tests/benchmarks/main_job.py [--json] [--cifar-images 10000] [--skip-lava]

ResNet-20 needs ../shared/data and is left out, and said to be, where that is absent.
"""

from __future__ import annotations

import argparse
import json
import platform
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import lapilli
from lapilli import data, digits, models

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
CIFAR10, WEIGHTS = SHARED / "cifar10.tar.xz", SHARED / "resnet20_cifar10.safetensors"
Row = dict[str, Any]


def row(measure: str, value: float, unit: str, target: str, holds: bool) -> Row:
    return {"measure": measure, "value": value, "unit": unit, "target": target, "holds": holds}


def accuracy(outputs: Any, labels: Any) -> float:
    return 100.0 * float((np.argmax(outputs, axis=1) == labels).mean())


def float_outputs(network: Any, images: Any) -> Any:
    import torch

    with torch.no_grad():
        parts = [network(torch.from_numpy(images[i : i + 64])) for i in range(0, len(images), 64)]
    return torch.cat(parts).numpy()


def digits_rows(with_lava: bool) -> Iterator[Row]:
    network = digits.train()
    train, test = data.load("digits", split="train"), data.load("digits", split="test")
    ann = accuracy(float_outputs(network, test.images), test.labels)
    for name, method in (
        ("parallel L=8", lapilli.methods.Parallel(levels=8)),
        ("parallel L=8 unary", lapilli.methods.Parallel(levels=8, coding="unary")),
        ("rate T=64", lapilli.methods.Rate(steps=64)),
    ):
        net = lapilli.compile(network, calibration=train.images, method=method)
        snn = accuracy(lapilli.run(net, test.images, record="outputs").outputs, test.labels)
        holds = snn >= ann - 0.5
        yield row(f"digits, {name}: SNN - ANN", snn - ann, "points", ">= -0.5", holds)
        if with_lava:
            yield equality(f"digits, {name}", net, test.images[:16])


def equality(name: str, net: Any, images: Any) -> Row:
    """Spikes and membranes of every population at every step, reference against Lava."""
    rows = [r for r in lapilli.verify(net, images).rows if "Lava" in r.name]
    compared, equal = sum(r.compared for r in rows), sum(r.equal for r in rows)
    label = f"{name}: integers equal on Lava, {len(images)} images"
    return row(label, equal, "integers", f"== {compared}", equal == compared > 0)


def resnet_rows(images: int, with_lava: bool) -> Iterator[Row]:
    example = runpy.run_path(str(ROOT / "examples" / "03_resnet20.py"))
    network = example["ResNet20"]().eval()
    models.load_weights(network, WEIGHTS)
    spec = f"cifar10:{CIFAR10}"
    train, test = data.load(spec, split="train", limit=1024), data.load(spec, split="test")
    mean, std = example["MEAN"], example["STD"]
    chosen = np.random.default_rng(0).permutation(len(test.images))[:images]
    x, y = data.normalise(test.images, mean, std)[chosen], test.labels[chosen]
    ann = accuracy(float_outputs(network, x), y)
    yield row(f"ResNet-20, float, {len(x)} images", ann, "%", "81.03 on 10,000", ann > 80)
    for levels in (16,):
        net = lapilli.compile(
            network,
            calibration=data.normalise(train.images, mean, std),
            method=lapilli.methods.Parallel(levels=levels),
        )
        start = time.perf_counter()
        snn = accuracy(lapilli.run(net, x, record="outputs").outputs, y)
        rate = len(x) / (time.perf_counter() - start)
        label = f"ResNet-20, parallel L={levels}"
        yield row(f"{label}: SNN - float", snn - ann, "points", ">= -3", snn >= ann - 3)
        yield row(f"{label}: reference engine", rate, "images/s", "> 0", rate > 0)
        if with_lava:
            yield equality(label, net, x[:2])


def import_row() -> Row:
    code = "import time; s = time.perf_counter(); import lapilli; print(time.perf_counter() - s)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd="/")
        for _ in range(5)
    ]
    seconds = min(float(run.stdout) for run in runs)
    return row("import lapilli", seconds, "s", "< 0.3", seconds < 0.3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--cifar-images", type=int, default=10_000)
    parser.add_argument("--skip-lava", action="store_true")
    options = parser.parse_args()
    rows = [import_row(), *digits_rows(not options.skip_lava)]
    if CIFAR10.exists() and WEIGHTS.exists():
        rows += resnet_rows(options.cifar_images, not options.skip_lava)
    else:
        print("ResNet-20 left out: no ../shared/data", file=sys.stderr)
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    if options.json:
        print(json.dumps({"benchmark": "main_job", "machine": machine, "rows": rows}))
    else:
        for r in rows:
            mark = "ok  " if r["holds"] else "MISS"
            print(f"{mark} {r['measure']:<58} {r['value']:>12,.4g} {r['unit']} ({r['target']})")
    return 0 if all(r["holds"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
