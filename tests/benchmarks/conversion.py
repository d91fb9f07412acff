"""Conversion without training data's labels, measured: accuracy of ResNet-20 against levels.

    python tests/benchmarks/conversion.py [--json] [--levels 2,4,8,16,32] [--images 10000]
        [--calibrate reconstruct] [--steps 1200] [--seconds 480]

The network is calibrated on the first 1,024 training images, without their labels, and the integer
netlist is run by the reference engine. It needs ../shared/data and is left out where that is
absent.
"""

from __future__ import annotations

import argparse
import json
import platform
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import lapilli
from lapilli import data, models

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
CALIBRATION_IMAGES = 1024
LIMIT_S = 600
BARS = {2: 66.0, 4: 77.0, 8: 80.3, 16: 81.0, 32: 81.0}
"""Levels -> least accuracy in %, on all 10,000 test images."""
Row = dict[str, Any]


def accuracy(outputs: Any, labels: Any) -> float:
    return 100.0 * float((np.argmax(outputs, axis=1) == labels).mean())


def float_accuracy(network: Any, images: Any, labels: Any) -> float:
    import torch

    with torch.no_grad():
        parts = [network(torch.from_numpy(images[i : i + 64])) for i in range(0, len(images), 64)]
    return accuracy(torch.cat(parts).numpy(), labels)


def measured(given: argparse.Namespace, levels: int, network: Any, sets: Any) -> Row:
    """The network with so many levels, compiled and run."""
    calibration, images, labels = sets
    how: Any = given.calibrate
    if how == "reconstruct":
        how = lapilli.methods.Reconstruct(
            steps=given.steps, seconds=given.seconds, seed=given.seed, checkpoint=given.checkpoint
        )
    start = time.perf_counter()

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "reconstruct" and (done % 50 == 0 or done == total):
            spent = time.perf_counter() - start
            print(f"L={levels}: step {done} of {total}, {spent:.0f} s", file=sys.stderr)

    distances: Row = {}

    def observe(stage: str, before: Any, after: Any) -> None:
        if stage == "reconstruct":
            distances.update(before=after.before, after=after.after, rate=after.rate)

    net = lapilli.compile(
        network,
        calibration=calibration,
        method=lapilli.methods.Parallel(levels=levels),
        calibrate=how,
        progress=progress,
        observe=observe,
    )
    seconds = time.perf_counter() - start
    found = accuracy(lapilli.run(net, images, record="outputs").outputs, labels)
    bar = BARS.get(levels)
    return {
        "levels": levels,
        "accuracy": found,
        "at_least": bar,
        "seconds": seconds,
        "steps": net.provenance.options.get("reconstruct_done", 0),
        **distances,
        "holds": bar is None or (found >= bar and seconds <= LIMIT_S),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--levels", default=",".join(map(str, BARS)), help="comma-separated")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--calibrate", default="reconstruct")
    usual = lapilli.methods.Reconstruct()
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--seconds", type=int, default=usual.seconds)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--checkpoint", type=Path, help="for one level: where to go on from")
    given = parser.parse_args()
    archive, weights = SHARED / "cifar10.tar.xz", SHARED / "resnet20_cifar10.safetensors"
    if not (archive.exists() and weights.exists()):
        print("left out: no ../shared/data", file=sys.stderr)
        return 0
    example = runpy.run_path(str(ROOT / "examples" / "03_resnet20.py"))
    network = example["ResNet20"]().eval()
    models.load_weights(network, weights)
    train = data.load(f"cifar10:{archive}", split="train", limit=CALIBRATION_IMAGES)
    test = data.load(f"cifar10:{archive}", split="test")
    calibration, images = (
        data.normalise(part.images, example["MEAN"], example["STD"]) for part in (train, test)
    )
    chosen = np.random.default_rng(0).permutation(len(images))[: given.images]
    assert test.labels is not None
    sets = calibration, images[chosen], test.labels[chosen]
    ann = float_accuracy(network, *sets[1:])
    if not given.json:
        print(f"float: {ann:.2f} % of {len(chosen)} test images")
    rows = []
    for levels in map(int, given.levels.split(",")):
        r = measured(given, levels, network, sets)
        rows.append(r)
        if not given.json:
            bar = "" if r["at_least"] is None else f"at least {r['at_least']:.1f}, "
            print(
                f"{'ok  ' if r['holds'] else 'MISS'} L={levels:<3} {r['accuracy']:.2f} % "
                f"({bar}{r['steps']} steps, {r['seconds']:.0f} s)",
                flush=True,
            )
    if given.json:
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        about = {"benchmark": "conversion", "machine": machine, "float": ann, "images": len(chosen)}
        print(json.dumps({**about, "calibrate": given.calibrate, "rows": rows}))
    return 0 if all(r["holds"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
