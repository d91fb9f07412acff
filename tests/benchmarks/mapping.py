"""The mapper: cores against what others published and against the bound; traffic; time; memory.

    python tests/benchmarks/mapping.py [--json] [--only GROUP...] [--cache FOLDER] [--networks N]

Groups: counts, bound, traffic, utilisation, resnet50, billion, checker. Each network is placed in a
process of its own; seconds are those of `place`, gigabytes the most that the process ever had, the
network in it included. --cache keeps the classifiers of vision as files: they take minutes and up
to 7 GiB to compile (`mapping_networks.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import mapping_networks
from chips import random_chip
from netlists import ALL_CODINGS, random_netlist
from placement_checker import violations

from lapilli.compiler.errors import NetlistError
from lapilli.compiler.mapping import Placement, place
from lapilli.compiler.mapping.baselines import in_order
from lapilli.compiler.mapping.mesh import Mesh
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Source
from lapilli.hardware_profiles import Profile, load

Row = dict[str, Any]
PUBLISHED: Mapping[str, tuple[str, str, int]] = {
    "pilotnet-sdnn": ("PilotNet SDNN", "loihi2", 61),
    "pilotnet-lif": ("PilotNet LIF", "loihi2", 74),
    "mnist-mlp": ("MNIST 784-128-64-10", "loihi2", 5),
    "cifar-mobilenet": ("CIFAR pseudo-MobileNet, soft reset", "loihi1", 157),
}
"""Network -> name, chip, cores that others needed (lava-dl's compile logs; NxTF's tutorial)."""
VISION: Mapping[str, str] = {
    "resnet20": "ResNet-20",
    "resnet50": "ResNet-50",
    "mobilenet_v2": "MobileNetV2",
    "vgg16": "VGG-16",
}
CHIPS_OF_NXTF = 16


def child(name: str, profile_name: str, cache: Path) -> Row:
    """One network, placed."""
    netlist, profile = mapping_networks.load(name, cache), load(profile_name)
    # The peak before says how much of the peak is the network.
    loaded = _gigabytes()
    start, cpu = time.perf_counter(), time.process_time()
    placement = place(netlist, profile)
    row: Row = {
        "network": name,
        "profile": profile_name,
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "gigabytes": _gigabytes(),
        "gigabytes_before": loaded,
        "neurons": _neurons(netlist),
        "relays": _neurons(placement.netlist) - _neurons(netlist),
        "cores": len(placement.cores),
        "chips": placement.chips,
        "bound": placement.bound.cores,
        "bound_limit": placement.bound.limit,
        "compartments": sum(core.usage.compartments for core in placement.cores),
    }
    return row | _hops(placement, profile)


def _neurons(netlist: Netlist) -> int:
    return sum(p.size for p in netlist.populations if not isinstance(p.neuron, Source))


def _gigabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _hops(placement: Placement, profile: Profile) -> Row:
    """Packets x hops of a step: as placed, with the cores in the order of layers, and at random.

    A core that holds pieces of several layers has its place by the largest, or by its number: the
    cheaper of both orders is taken. Random: the mean of three.
    """
    cores = placement.cores
    if any(core.tile is None for core in cores):
        return {}
    seats = _seats(placement, profile)
    layers = {p.name: i for i, p in enumerate(placement.netlist.populations)}
    largest = [max(core.slices, key=lambda s: s.size) for core in cores]
    order = sorted(range(len(cores)), key=lambda i: (layers[largest[i].population], largest[i].box))
    by_layers = np.empty_like(seats)
    by_layers[order] = seats
    rng = np.random.default_rng(0)
    shuffled = [_packet_hops(placement, rng.permutation(seats)) for _ in range(3)]
    return {
        "hops": _packet_hops(placement, np.array([core.tile for core in cores])),
        "hops_in_order": min(_packet_hops(placement, tiles) for tiles in (seats, by_layers)),
        "hops_at_random": sum(shuffled) / len(shuffled),
    }


def _packet_hops(placement: Placement, tiles: Any) -> float:
    """tiles: (cores, 2). The host's packets come from tile (0, 0)."""
    sent = placement.traffic
    between = np.abs(tiles[sent.source] - tiles[sent.target]).sum(axis=1)
    return float(sent.packets @ between + sent.host_packets @ tiles.sum(axis=1))


def _seats(placement: Placement, profile: Profile) -> Any:
    """(cores, 2): tiles of the first seats of the fewest chips, where cores in order sit."""
    limits, system, count = profile.limits, profile.system, len(placement.cores)
    sizes = limits.mesh_width_tiles, limits.mesh_height_tiles
    wide, high, per_tile, per_chip = (
        q.value for q in (*sizes, limits.cores_per_tile, limits.cores_per_chip) if q
    )
    if system and system.chips_wide and system.chips_high:
        chips = system.chips_wide.value, system.chips_high.value
        mesh = Mesh(*chips, wide, high, per_tile, per_chip)
    else:
        mesh = Mesh.near_square(count, wide, high, per_tile, per_chip)
    slots = in_order(count, mesh)
    return np.stack([mesh.x[slots], mesh.y[slots]], axis=1)


class Runs:
    """Networks placed in processes of their own, each once."""

    def __init__(self, cache: Path, seconds: float):
        self._cache, self._seconds = cache, seconds
        self._done: dict[tuple[str, str], Row] = {}

    def placed(self, name: str, profile: str) -> Row:
        """What `child` says; {"error": ...} where it failed."""
        key = name, profile
        if key not in self._done:
            self._done[key] = self._run(name, profile)
            print(json.dumps(self._done[key]), file=sys.stderr, flush=True)
        return self._done[key]

    def all(self) -> list[Row]:
        """Everything that was measured."""
        return list(self._done.values())

    def _run(self, name: str, profile: str) -> Row:
        if name in mapping_networks.COMPILED and not (self._cache / f"{name}.h5").exists():
            script = Path(mapping_networks.__file__)
            command = [sys.executable, str(script), name, "--cache", str(self._cache)]
            subprocess.run(command, check=True, stdout=sys.stderr)
        command = [sys.executable, __file__, "--child", name, profile]
        command += ["--cache", str(self._cache)]
        row = {"network": name, "profile": profile}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=self._seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return {**row, "error": f"more than {self._seconds:g} s"}
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["killed"])[-1]
            return {**row, "error": last[:300]}
        found: Row = json.loads(done.stdout.splitlines()[-1])
        return found


def _row(measure: str, value: float | None, unit: str, target: str, holds: bool) -> Row:
    return {"measure": measure, "value": value, "unit": unit, "target": target, "holds": holds}


def _failed(measure: str, run: Row, target: str) -> Row:
    return _row(f"{measure}: {run['error']}", None, "", target, False)


def counts(runs: Runs) -> Iterator[Row]:
    """Published core counts, by the same rules."""
    for name, (title, chip, cores) in PUBLISHED.items():
        run, target = runs.placed(name, chip), f"<= {cores}"
        if "error" in run:
            yield _failed(f"{title}, {chip}", run, target)
            continue
        measure = f"{title}, {chip}, bound {run['bound']}"
        yield _row(measure, run["cores"], "cores", target, run["cores"] <= cores)


def bound(runs: Runs) -> Iterator[Row]:
    """Cores over the lower bound."""
    for name, title in VISION.items():
        run, measure = runs.placed(name, "loihi2"), f"{title}: cores / bound"
        if "error" in run:
            yield _failed(measure, run, "<= 1.10")
            continue
        ratio = run["cores"] / run["bound"]
        measure = f"{measure}, {run['cores']:,} / {run['bound']:,}"
        yield _row(measure, ratio, "", "<= 1.10", ratio <= 1.10)


def traffic(runs: Runs) -> Iterator[Row]:
    """Packets x hops against the order of layers and a random layout."""
    for name, title in VISION.items():
        run = runs.placed(name, "loihi2")
        for kind, least in (("in order", -30), ("at random", -70)):
            measure = f"{title}: packets x hops against cores {kind}"
            if "error" in run:
                yield _failed(measure, run, f"<= {least}")
                continue
            change = 100.0 * (run["hops"] / run[f"hops_{kind.replace(' ', '_')}"] - 1.0)
            yield _row(measure, change, "%", f"<= {least}", change <= least)


def utilisation(runs: Runs) -> Iterator[Row]:
    """Compartments in use of those of the cores in use, 28-layer MobileNet."""
    run = runs.placed("mobilenet-28", "loihi1")
    title = "MobileNet of 28 layers, 128x128, loihi1"
    if "error" in run:
        yield _failed(title, run, "> 80")
        return
    limits = load("loihi1").limits
    assert limits.neurons_per_core and limits.cores_per_chip
    share = 100.0 * run["compartments"] / (run["cores"] * limits.neurons_per_core.value)
    measure = f"{title}: compartments of the {run['cores']:,} cores in use"
    yield _row(measure, share, "%", "> 80", share > 80)
    fits = run["chips"] <= CHIPS_OF_NXTF
    yield _row(f"{title}: chips", run["chips"], "chips", f"<= {CHIPS_OF_NXTF}", fits)
    cores = CHIPS_OF_NXTF * limits.cores_per_chip.value
    share = 100.0 * run["compartments"] / (cores * limits.neurons_per_core.value)
    measure = f"{title}: compartments of all {CHIPS_OF_NXTF} chips, decided by the network alone"
    yield _row(measure, share, "%", "> 80", share > 80)


def resnet50(runs: Runs) -> Iterator[Row]:
    """Time and memory of a large network."""
    yield from _effort(runs, "resnet50", "loihi2", "ResNet-50 at 224x224", (10.0, 1.0))


def billion(runs: Runs) -> Iterator[Row]:
    """A network that fills the largest machine."""
    run = runs.placed("billion", "hala-point")
    if "error" not in run:
        neurons, most = run["neurons"], 1_100_000_000
        measure = f"neurons on hala-point, {run['cores']:,} cores on {run['chips']:,} chips"
        yield _row(measure, neurons, "neurons", f">= {most}", neurons >= most)
    yield from _effort(runs, "billion", "hala-point", "1.1 billion neurons", (300.0, 8.0))


def _effort(
    runs: Runs, name: str, profile: str, title: str, most: tuple[float, float]
) -> Iterator[Row]:
    run, (seconds, gigabytes) = runs.placed(name, profile), most
    if "error" in run:
        yield _failed(title, run, f"< {seconds:g} s, < {gigabytes:g} GB")
        return
    measure = f"{title}: time to place ({run['cpu_seconds']:.1f} s of processor)"
    yield _row(measure, run["seconds"], "s", f"< {seconds:g}", run["seconds"] < seconds)
    found = run["gigabytes"]
    yield _row(f"{title}: peak memory", found, "GB", f"< {gigabytes:g}", found < gigabytes)


def checker(networks: int) -> Iterator[Row]:
    """Random networks of all codings on random chips, looked at neuron by neuron."""
    found = placed = cores = 0
    for seed in range(networks):
        rng = np.random.default_rng(seed)
        netlist = random_netlist(rng, ALL_CODINGS[seed % len(ALL_CODINGS)])
        profile = random_chip(rng, netlist.graded)
        try:
            # How well cores are laid on the mesh does not matter here.
            placement = place(netlist, profile, effort=0.01)
        except NetlistError:
            continue
        placed, cores = placed + 1, cores + len(placement.cores)
        found += len(violations(placement.netlist, placement, profile))
    measure = f"violations on {placed} random networks, {cores:,} cores"
    yield _row(measure, found, "violations", "== 0", found == 0)
    share = 100.0 * placed / networks
    yield _row(f"of {networks} networks, placed and not refused", share, "%", ">= 80", share >= 80)


GROUPS: Mapping[str, Callable[[Runs], Iterator[Row]]] = {
    "counts": counts,
    "bound": bound,
    "traffic": traffic,
    "utilisation": utilisation,
    "resnet50": resnet50,
    "billion": billion,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true")
    groups = (*GROUPS, "checker")
    parser.add_argument("--only", nargs="+", metavar="GROUP", choices=groups, default=groups)
    parser.add_argument("--cache", type=Path, help="folder of compiled networks")
    parser.add_argument("--networks", type=int, default=200, help="random networks to check")
    parser.add_argument("--seconds", type=float, default=900.0, help="time limit per network")
    parser.add_argument("--child", nargs=2, metavar=("NETWORK", "PROFILE"), help=argparse.SUPPRESS)
    return parser


def measured(options: argparse.Namespace, cache: Path) -> tuple[list[Row], list[Row]]:
    """The rows, and what was measured of each network."""
    runs = Runs(cache, options.seconds)
    rows = [row for name, group in GROUPS.items() if name in options.only for row in group(runs)]
    if "checker" in options.only:
        rows += checker(options.networks)
    return rows, runs.all()


def main() -> int:
    """Print the measures; exit 1 if one misses its target."""
    options = _parser().parse_args()
    if options.child:
        print(json.dumps(child(*options.child, options.cache)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows, networks = measured(options, options.cache or Path(folder))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        found = {"benchmark": "mapping", "machine": machine, "rows": rows, "networks": networks}
        print(json.dumps(found))
    else:
        for r in rows:
            mark = "ok  " if r["holds"] else "MISS"
            value = "nothing" if r["value"] is None else f"{r['value']:,.4g}"
            print(f"{mark} {r['measure']:<88} {value:>14} {r['unit']} ({r['target']})")
    return 0 if all(r["holds"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
