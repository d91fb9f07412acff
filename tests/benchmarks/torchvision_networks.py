"""Every CNN of torchvision, compiled as it is: what stands in the way, and are all integers equal?

    python tests/benchmarks/torchvision_networks.py [--json | --markdown] [--only NAME...]
        [--kind classifiers|dense|all] [--size 64] [--levels 8] [--rows FILE]

Random weights, BatchNorm's statistics of the calibration images (`tests/public_networks.py`). Each
network is compiled in a process of its own (parallel, graded, loihi2, compensation "bias"); then
two images run through the reference engine and the quantised ANN, and every count of every
population and every output is compared. --rows keeps finished rows in a file, one JSON object a
line, and goes on where it was left.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import public_networks

import lapilli
from lapilli.compiler.errors import LapilliError
from lapilli.compiler.linear import Sparse

Row = dict[str, Any]
ENOUGH = 70.0
"""Per cent of the classifiers that have to compile."""
REMEMBERED = 300
"""Characters of an error that are kept."""
GIB = 2**20  # of ru_maxrss, in KiB


def child(name: str, size: int, levels: int, count: int) -> Row:
    """One network: compiled and compared, or refused."""
    size = max(size, public_networks.SMALLEST.get(name, 0))
    calibration = public_networks.images(count, size)
    network = public_networks.built(name, calibration)
    row: Row = {"network": name, "size": size, "parameters": _parameters(network)}
    before, start, cpu = _peak(), time.perf_counter(), time.process_time()
    try:
        net = lapilli.compile(
            network,
            calibration=calibration,
            method=lapilli.methods.Parallel(levels=levels),
            profile="loihi2",
            calibrate="bias",
        )
    except LapilliError as error:
        kind = type(error).__name__
        reason = f"{error.where}: {error.rule}; found {error.found}"
        reason = re.sub(r"\S*site-packages/", "", reason)[:REMEMBERED]
        return {**row, "status": "refused", "error": kind, "reason": reason}
    row |= {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_gib": _peak(),
        "peak_before_gib": before,
    }
    maps = [c.map for c in net.netlist.connections]
    sparse = [m for m in maps if isinstance(m, Sparse)]
    row |= {
        "populations": len(net.netlist.populations),
        "connections": len(maps),
        "sparse": len(sparse),
        "stored": sum(m.weight.size for m in maps),
        "stored_sparse": sum(m.weight.size for m in sparse),
        "synapses": sum(m.synapses for m in maps),
    }
    return {**row, "status": "compiled", **_compared(net, public_networks.images(2, size, seed=7))}


def _compared(net: Any, images: Any) -> Row:
    """Integers of the reference engine and of the quantised ANN: how many, how many equal."""
    spiking = lapilli.run(net, images, record="counts")
    ann = lapilli.quantised_ann(net, images)
    compared = equal = active = 0
    for kind in ("counts", "readouts"):
        ours, theirs = getattr(spiking, kind), getattr(ann, kind)
        if set(ours) != set(theirs):
            raise SystemExit(f"{kind}: populations differ")
        for population in ours:
            compared += ours[population].size
            equal += int((ours[population] == theirs[population]).sum())
            active += int(np.count_nonzero(ours[population]))
    maps = [
        np.array_equal(a, b)
        for a, b in zip(spiking.named_outputs.values(), ann.named_outputs.values(), strict=True)
    ]
    return {
        "compared": compared,
        "equal": equal,
        "active": active,
        "outputs": len(maps),
        "outputs_equal": sum(maps),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GIB


def _parameters(network: Any) -> int:
    return sum(p.numel() for p in network.parameters())


def measured(name: str, options: argparse.Namespace) -> Row:
    """One network in a process of its own, which may run out of memory or time."""
    command = [sys.executable, __file__, "--child", name]
    for option in ("size", "levels", "images", "memory"):
        command += [f"--{option}", str(getattr(options, option))]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=options.seconds, check=False
        )
    except subprocess.TimeoutExpired:
        reason = f"more than {options.seconds:g} s on this machine"
        return {"network": name, "status": "skipped", "reason": reason}
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["killed"])[-1][:REMEMBERED]
        memory = "memory" in last.lower() or done.returncode == -9
        reason = f"more than {options.memory:g} GiB" if memory else last
        status = "skipped" if memory else "failed"
        return {"network": name, "status": status, "reason": reason}
    row: Row = json.loads(done.stdout.splitlines()[-1])
    return row


def campaign(names: list[str], options: argparse.Namespace) -> Iterator[Row]:
    """A row for each network; those that the file has already are not measured again."""
    kept: dict[str, Row] = {}
    if options.rows is not None and options.rows.exists():
        lines = options.rows.read_text().splitlines()
        kept = {row["network"]: row for row in map(json.loads, lines)}
    for index, name in enumerate(names):
        if name not in kept:
            kept[name] = measured(name, options)
            if options.rows is not None:
                with options.rows.open("a") as file:
                    file.write(json.dumps(kept[name]) + "\n")
        row = kept[name]
        print(f"{index + 1}/{len(names)} {name}: {_verdict(row)}", file=sys.stderr, flush=True)
        yield row


def _verdict(row: Row) -> str:
    if row["status"] != "compiled":
        return f"{row['status']}: {row['reason']}"
    seconds = f"{row['seconds']:.0f} s ({row['cpu_seconds']:.0f} s of processor)"
    return f"{row['equal']:,} of {row['compared']:,} equal, {seconds}, {row['peak_gib']:.1f} GiB"


def summary(rows: list[Row], classifiers: list[str]) -> list[Row]:
    """The measures of the whole campaign, each with its target."""
    chosen = [row for row in rows if row["network"] in classifiers]
    dense = [row for row in rows if row["network"] in public_networks.DENSE]
    compiled = [row for row in rows if row["status"] == "compiled"]
    result = []
    if chosen:
        share = 100.0 * sum(row["status"] == "compiled" for row in chosen) / len(chosen)
        name = f"classifiers that compile, of {len(chosen)}"
        result.append(_measure(name, share, "%", f">= {ENOUGH:g}", share >= ENOUGH))
    compared, equal = (sum(row[key] for row in compiled) for key in ("compared", "equal"))
    result.append(
        _measure(
            f"integers equal, {len(compiled)} networks, 2 images each",
            equal,
            f"of {compared}",
            f"== {compared}",
            equal == compared > 0,
        )
    )
    maps = [row for row in dense if row["status"] == "compiled"]
    if maps:
        exact = sum(row["outputs"] == row["outputs_equal"] for row in maps)
        name = f"dense prediction: all outputs equal, of {len(maps)} that compile of {len(dense)}"
        result.append(_measure(name, exact, "networks", f"== {len(maps)}", exact == len(maps)))
    for row in compiled:
        if row["network"] == "resnet50":
            seconds, peak = row["seconds"], row["peak_gib"]
            name = f"ResNet-50 at {row['size']}x{row['size']}"
            holds = seconds < 60
            result.append(_measure(f"{name}: capture to netlist", seconds, "s", "< 60", holds))
            result.append(_measure(f"{name}: peak memory", peak, "GiB", "< 4", peak < 4))
    return result


def _measure(measure: str, value: float, unit: str, target: str, holds: bool) -> Row:
    return {"measure": measure, "value": value, "unit": unit, "target": target, "holds": holds}


def markdown(rows: list[Row]) -> Iterator[str]:
    """The table of docs/networks.md."""
    yield (
        "| network | pixels | populations | connections (sparse) | weights stored (sparse) | "
        "synapses | seconds of processor | peak GiB | integers equal |"
    )
    yield "| --- " * 9 + "|"
    for row in rows:
        if row["status"] != "compiled":
            yield f"| {row['network']} | {row['status']}: {row['reason']} " + "| " * 7 + "|"
            continue
        yield (
            f"| {row['network']} | {row['size']} | {row['populations']} | "
            f"{row['connections']} ({row['sparse']}) | "
            f"{row['stored']:,} ({row['stored_sparse']:,}) | {row['synapses']:,} | "
            f"{row['cpu_seconds']:.0f} | {row['peak_gib']:.1f} | "
            f"{row['equal']:,} of {row['compared']:,} |"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--kind", choices=("classifiers", "dense", "all"), default="all")
    parser.add_argument("--size", type=int, default=64, help="pixels, at least")
    parser.add_argument("--levels", type=int, default=8)
    parser.add_argument("--images", type=int, default=8, help="calibration images")
    parser.add_argument("--memory", type=float, default=16.0, help="GiB of addresses per network")
    parser.add_argument("--seconds", type=float, default=1800.0, help="time limit per network")
    parser.add_argument("--rows", type=Path, help="file of finished rows; resumed")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser


def main() -> int:
    """Print the measures; exit 1 if one misses its target."""
    options = _parser().parse_args()
    if options.child:
        limit = int(options.memory * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        print(json.dumps(child(options.child, options.size, options.levels, options.images)))
        return 0
    classifiers, transformers = public_networks.classifiers()
    every = {
        "classifiers": [*classifiers, *transformers],
        "dense": list(public_networks.DENSE),
    }
    names = [n for k, names in every.items() if options.kind in (k, "all") for n in names]
    rows = list(campaign(options.only or names, options))
    measures = summary(rows, classifiers)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        print(
            json.dumps(
                {
                    "benchmark": "torchvision_networks",
                    "machine": machine,
                    "rows": measures,
                    "networks": rows,
                }
            )
        )
        return 0 if all(m["holds"] for m in measures) else 1
    if options.markdown:
        print("\n".join(markdown(rows)))
    for m in measures:
        mark = "ok  " if m["holds"] else "MISS"
        print(f"{mark} {m['measure']:<62} {m['value']:>14,.4g} {m['unit']} ({m['target']})")
    return 0 if all(m["holds"] for m in measures) else 1


if __name__ == "__main__":
    sys.exit(main())
