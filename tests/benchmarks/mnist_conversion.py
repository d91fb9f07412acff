"""MNIST with max pooling, converted and measured: what each method loses on all test images.

    python tests/benchmarks/mnist_conversion.py [--json] [--weights FILE] [--epochs 20]
        [--images 10000] [--only parallel,fast-snn,fast-snn-15,rate,rate-plain] [--calibrate NAME]

The network is that of examples/05_mnist_max_pooling.py, trained here, or read from FILE where that
exists (else kept there). It is calibrated on the first 1,024 training images, without their labels;
nothing is chosen by test images. --calibrate is for parallel and fast-snn, as on the command line.
It needs ../shared/data and is left out where that is absent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import runpy
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lapilli
from lapilli import data

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT.parent / "shared" / "data" / "mnist"
FLOAT_BAR, CONVERTED_BAR = 99.3, 99.44
"""Least accuracies in %: of the float network; of the best converted one (as published)."""
M = lapilli.methods
CASES: tuple[tuple[str, str, Any, float | None], ...] = (
    ("parallel", "parallel, L=8", M.Parallel(levels=8), 0.02),
    ("fast-snn", "fast-snn, signed, settled, L=8", M.FastSNN(levels=8), 0.02),
    ("fast-snn-15", "fast-snn, signed, settled, L=15", M.FastSNN(levels=15), 0.02),
    ("rate", "rate, T=64", M.Rate(steps=64, per_channel=True, initial="even"), 0.05),
    ("rate-plain", "rate, T=64, options left as they are", M.Rate(steps=64), None),
)
"""Name for --only, what is shown, options, most points that may be lost (None: not bounded)."""
Row = dict[str, Any]


def measured(name: str, net: Any, test: Any, right: Any, most: float | None) -> Row:
    """One compiled network on the test images; right: where the float network answers well."""
    start = time.perf_counter()
    answers = lapilli.run(net, test.images, record="outputs").outputs.argmax(1)
    seconds = time.perf_counter() - start
    found = answers == test.labels
    lost = 100.0 * float(int(right.sum()) - int(found.sum())) / len(test)
    return {
        "measure": f"{name}: float - SNN",
        "value": lost,
        "unit": "points",
        "target": "" if most is None else f"<= {most}",
        # Whole images: 0.02 points of 10,000 are two of them.
        "holds": most is None or round(lost * len(test)) <= round(most * len(test)),
        "accuracy": 100.0 * float(found.mean()),
        "only_float_right": int((right & ~found).sum()),
        "only_snn_right": int((found & ~right).sum()),
        "seconds": seconds,
    }


def accuracy_row(measure: str, value: float, bar: float) -> Row:
    holds = value >= bar
    return {"measure": measure, "value": value, "unit": "%", "target": f">= {bar}", "holds": holds}


def show(row: Row) -> None:
    text = (
        f"{'ok  ' if row['holds'] else 'MISS'} {row['measure']}: {row['value']:.2f} {row['unit']}"
    )
    if "accuracy" in row:
        text += (
            f" ({row['accuracy']:.2f} %; {row['only_float_right']} images lost, "
            f"{row['only_snn_right']} won; {row['seconds']:.0f} s)"
        )
    print(f"{text}, {row['target']}" if row["target"] else text, flush=True)


def rows_of(given: argparse.Namespace) -> Iterator[Row]:
    """Each as soon as it is known."""
    example = runpy.run_path(str(ROOT / "examples" / "05_mnist_max_pooling.py"))
    with contextlib.redirect_stdout(sys.stderr):  # it prints how far training is
        network = example["network_of"](given)
    calibration = data.load(f"mnist:{given.data}", split="train", limit=example["CALIBRATION"])
    test = data.load(f"mnist:{given.data}", split="test", limit=given.images)
    right = example["scores"](network, test.images).argmax(1) == test.labels
    yield accuracy_row("float network", 100.0 * float(right.mean()), FLOAT_BAR)
    best = 0.0
    for kind, name, method, most in (case for case in CASES if case[0] in given.only.split(",")):
        how = None if kind.startswith("rate") else given.calibrate
        net = lapilli.compile(network, calibration=calibration.images, method=method, calibrate=how)
        row = measured(name, net, test, right, most)
        best = max(best, row["accuracy"])
        yield row
    yield accuracy_row("best converted network", best, CONVERTED_BAR)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--weights", type=Path, help="a safetensors file: kept, then used again")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--learn", type=int, default=55_000, help="training images")
    parser.add_argument("--images", type=int, default=10_000, help="test images")
    parser.add_argument("--only", default="parallel,fast-snn,rate", help="which cases")
    parser.add_argument("--calibrate", help="left out: the method's own way")
    parser.add_argument("--data", type=Path, default=MNIST, help="the folder of the IDX files")
    given = parser.parse_args()
    if not given.data.is_dir():
        print(f"left out: there is no {given.data}", file=sys.stderr)
        return 0
    rows = []
    for row in rows_of(given):
        rows.append(row)
        if not given.json:
            show(row)
    if given.json:
        machine = f"{platform.machine()}, Python {platform.python_version()}"
        about = {"benchmark": "mnist_conversion", "machine": machine, "images": given.images}
        print(json.dumps({**about, "rows": rows}))
    return 0 if all(r["holds"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
