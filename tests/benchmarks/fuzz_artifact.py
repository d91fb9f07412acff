"""Damages and forges model files at random and looks at what `artifact.read` makes of them.

    python tests/benchmarks/fuzz_artifact.py [--cases N] [--seed S] [--json]

Each case must be refused with an ArtifactError, or read as the very same artifact; a forged file
(sealed and hashed again by somebody who knows the format) may also be read as another one, which
then has passed every check. Anything else is a fault: another exception, memory beyond
MEMORY_BYTES, a case beyond SECONDS of processor time. Cases run in processes of their own, so a
crash of the HDF5 library is seen; it is allowed where its own structures were forged with right
checksums.
"""

from __future__ import annotations

import argparse
import collections
import copy
import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from artifact_samples import forge, forge_hdf5, packed_sample, sample
from hdf5_checksums import checksummed, lookup3

from lapilli.compiler import soundness
from lapilli.compiler.artifact import Artifact, read
from lapilli.compiler.errors import ArtifactError
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.sealed_file import read_sealed, write_sealed
from lapilli.compiler.storage import decode

MEMORY_BYTES = 3 * 2**30
SECONDS = 2.0

Random = np.random.Generator


def flip(path: Path, rng: Random) -> None:
    """Change one byte of the file."""
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= int(rng.integers(1, 256))
    path.write_bytes(data)


def cut(path: Path, rng: Random) -> None:
    """Cut the file anywhere, or let something follow it."""
    data = path.read_bytes()
    if rng.random() < 0.8:
        path.write_bytes(data[: rng.integers(len(data))])
    else:
        path.write_bytes(data + rng.bytes(int(rng.integers(1, 2000))))


def resealed(path: Path, rng: Random) -> None:
    """Change some bytes of the HDF5 image and seal it again."""
    image = bytearray(read_sealed(path))
    for _ in range(rng.integers(1, 6)):
        image[rng.integers(len(image))] ^= int(rng.integers(1, 256))
    write_sealed(path, bytes(image))


def rechecked(path: Path, rng: Random) -> None:
    """Change HDF5's own structures and correct their checksums, so that the library trusts them."""
    image = bytearray(read_sealed(path))
    regions = checksummed(bytes(image))
    for i in rng.choice(len(regions), size=int(rng.integers(1, 3)), replace=False):
        start, end = regions[i]
        for _ in range(rng.integers(1, 4)):
            image[int(rng.integers(start + 4, end))] = _byte(rng)
        image[end : end + 4] = lookup3(bytes(image[start:end])).to_bytes(4, "little")
    write_sealed(path, bytes(image))


def edited(path: Path, rng: Random) -> None:
    """Edit attributes, datasets and links with h5py and seal the file again."""

    def edit(file: h5py.File) -> None:
        names: list[str] = []
        file.visit(names.append)
        for _ in range(rng.integers(1, 3)):
            _edit_hdf5(file, str(rng.choice(names)), rng)

    forge_hdf5(path, edit)


def forged(path: Path, rng: Random) -> None:
    """Replace values of the record, and make hash and seal fit."""

    def edit(record: dict[str, Any]) -> None:
        for _ in range(rng.integers(1, 3)):
            places = list(_places(record))
            group, name = places[rng.integers(len(places))]
            group[name] = _other(group[name], rng, record)
        _record_reach(record)

    forge(path, edit)


KINDS: dict[str, Callable[[Path, Random], None]] = {
    k.__name__: k for k in (flip, cut, resealed, rechecked, edited, forged)
}
FORGED = ("resealed", "rechecked", "edited", "forged")
"""Kinds whose author knows the format; what they change need not be noticed, only be sound."""


def _byte(rng: Random) -> int:
    return int(rng.choice([0, 1, 0x7F, 0xFF, rng.integers(256)]))


def _edit_hdf5(file: h5py.File, name: str, rng: Random) -> None:
    if name not in file:
        return
    item = file[name]
    what = rng.integers(6)
    attributes = list(item.attrs)
    if what == 0 and attributes:
        del item.attrs[rng.choice(attributes)]
    elif what == 1 and attributes:
        values = [7, -1, 2**62, 0.5, True, "x", b"\xff", [1, 2], [[1]], h5py.Empty("i8"), np.inf]
        item.attrs[rng.choice(attributes)] = values[rng.integers(len(values))]
    elif what == 2:
        item.attrs["more"] = 1
    elif what == 3:
        del file[name]
    elif what == 4:
        other = str(rng.choice(["/netlist", "/provenance", "/netlist/populations"]))
        links: list[Any] = [h5py.SoftLink(other), h5py.ExternalLink("x.h5", other), file[other]]
        parent, last = name.rpartition("/")[::2]
        del file[name]
        if (parent or "/") in file and other in file:
            file[parent or "/"][last] = links[rng.integers(3)]
    else:
        del file[name]
        options: list[dict[str, Any]] = [
            {"data": [1, 2, 3]},
            {"data": np.zeros(5000, np.int8), "compression": "gzip"},
            {"shape": (2**40,), "dtype": "i1"},
            {"shape": (2**40,), "dtype": "i1", "chunks": (1024,)},
            {"data": "text"},
            {"data": np.float64(rng.normal())},
            {"shape": (3,), "dtype": "i8", "external": [("/etc/hostname", 0, 24)]},
        ]
        file.create_dataset(name, **options[rng.integers(len(options))])


def _record_reach(record: dict[str, Any]) -> None:
    """Correct the recorded reach of every state where one can be computed."""
    try:
        netlist = decode(Netlist, record["netlist"], "")
        soundness.check(netlist, "")
        for group, population in zip(
            record["netlist"]["populations"].values(), netlist.populations, strict=True
        ):
            if population.neuron.flaw(netlist.steps) is None:  # else `read` has to find it
                group["state_low"], group["state_high"] = netlist.reach(population.name)
    except (ArtifactError, KeyError, ValueError):
        return  # not a netlist any more: `read` has to say so


def _places(record: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for name, value in record.items():
        yield record, name
        if isinstance(value, dict):
            yield from _places(value)


def _other(value: Any, rng: Random, record: dict[str, Any]) -> Any:
    """Another value of the same kind most of the time, else something from elsewhere."""
    integers = [0, 1, -1, 2, 3, 60, 2**20, 2**31, 2**40, 2**62, -(2**63), 2**63 - 1]
    if rng.random() < 0.15:
        places = list(_places(record))
        group, name = places[rng.integers(len(places))]
        return copy.deepcopy(group[name])
    if isinstance(value, np.ndarray):
        return _other_array(value, rng, integers)
    if isinstance(value, tuple):
        if rng.random() < 0.3:  # another view of the same size
            return (math.prod(value),) if rng.random() < 0.5 else value[::-1]
        changed = [int(rng.choice(integers)) if rng.random() < 0.5 else v for v in value]
        return tuple(changed[: rng.integers(len(changed) + 1)] if rng.random() < 0.3 else changed)
    if isinstance(value, bool | int):
        return (not value) if isinstance(value, bool) else int(rng.choice(integers))
    words = [
        "",
        "x",
        "Conv",
        "Dense",
        "Window",
        "Ladder",
        "Product",
        "unary",
        "changes",
        "out",
        "input",
        "y" * 5000,
    ]
    return str(rng.choice(words)) if isinstance(value, str) else value


def _other_array(value: Any, rng: Random, integers: list[int]) -> Any:
    choice = rng.integers(5)
    if choice == 4:
        return value.reshape(-1) if rng.random() < 0.5 else value[..., None]
    if choice == 0:
        return value.reshape(-1)[: rng.integers(value.size + 1)]
    if choice == 1:
        return value.astype(rng.choice(["i1", "i8", "f8"]))
    if choice == 2:
        return np.broadcast_to(value, (2, *value.shape)).copy()
    changed = value.copy().reshape(-1)
    if changed.size:
        kind = changed.dtype.kind
        extremes = [0.0, -1.0, 1e300, np.inf, np.nan] if kind == "f" else integers
        new = np.asarray(rng.choice(extremes))
        at = rng.integers(changed.size, size=int(rng.integers(1, 4)))
        with np.errstate(over="ignore"):
            changed[at] = new.astype(changed.dtype)
    return changed.reshape(value.shape)


def outcome(path: Path, original: Artifact, *, forged: bool) -> str:
    """What `read` makes of the file; "fault: ..." for what it must not make of it."""
    start = time.process_time()
    try:
        artifact = read(path)
        _compute(artifact.netlist)
    except ArtifactError:
        result = "refused"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the finding
        return f"fault: {type(error).__name__}: {error}"
    else:
        same = artifact.hash == original.hash and artifact.provenance == original.provenance
        result = "same" if same else "other" if forged else "fault: a change went unnoticed"
    seconds = time.process_time() - start
    return result if seconds < SECONDS else f"fault: {seconds:.1f} s"


def _compute(netlist: Netlist) -> None:
    """Use every array of an accepted netlist: an index out of range would show here."""
    for c in netlist.connections:
        x = np.ones((1, *c.map.in_shape), np.int64)
        assert (c.map.apply(x).reshape(-1) == c.map.to_sparse() @ x.reshape(-1)).all()
        assert c.map.synapses == c.map.to_sparse().count_nonzero()
        assert c.map.dense_macs >= 0
    for p in netlist.populations:
        drive = np.zeros(p.shape, np.int64)
        state, _ = p.neuron.step(p.neuron.start(p.shape), drive, 0, netlist.steps)
        assert state["v"].shape == p.shape


def work(kind: str, seed: int, first: int, last: int) -> None:
    """Run the cases from `first` up to `last` of one kind; print one outcome a line."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.h5"
        samples = []
        for original in (sample(), packed_sample()):
            original.save(path)
            samples.append((original, path.read_bytes()))
        for case in range(first, last):
            original, pristine = samples[case % 2]
            path.write_bytes(pristine)
            KINDS[kind](path, np.random.default_rng([seed, case, len(kind)]))
            print(json.dumps(outcome(path, original, forged=kind in FORGED)), flush=True)


def supervise(kind: str, seed: int, cases: int) -> collections.Counter[str]:
    """Count the outcomes of `cases` cases; a worker that dies is replaced after its last case."""
    counts: collections.Counter[str] = collections.Counter()
    case = 0
    while case < cases:
        command = [sys.executable, __file__, "--seed", str(seed)]
        command += ["--worker", kind, str(case), str(cases)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        counts.update(line.partition(":")[0] for line in lines)
        for number, line in enumerate(lines, start=case):
            if line.startswith("fault"):
                print(f"{kind} case {number}: {line}", file=sys.stderr)
        case += len(lines)
        if done.returncode:
            name = "crash" if done.returncode < 0 else "fault"
            counts[name] += 1
            print(f"{kind} case {case}: {name}: {done.stderr[-300:].strip()}", file=sys.stderr)
            case += 1
    return counts


def main() -> int:
    """Run every kind; exit 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, first, last = options.worker
        work(kind, options.seed, int(first), int(last))
        return 0
    rows = []
    for kind in options.kinds:
        counts = supervise(kind, options.seed, options.cases)
        for name in ("refused", "same", "other"):
            rows.append(_row(f"{kind}: {name}", counts[name], None))
        rows.append(_row(f"{kind}: fault", counts["fault"], 0))
        # The library trusts a structure whose checksum is right; only a forger can make one.
        rows.append(_row(f"{kind}: crash", counts["crash"], None if kind == "rechecked" else 0))
    if options.json:
        machine = (
            f"{platform.machine()}, Python {platform.python_version()}, h5py {h5py.__version__}"
        )
        print(json.dumps({"benchmark": "fuzz_artifact", "machine": machine, "rows": rows}))
    else:
        for row in rows:
            print(f"{row['measure']:<24}{row['value']:>8} {row['unit']}")
    return 0 if all(row["holds"] for row in rows) else 1


def _row(measure: str, value: int, target: int | None) -> dict[str, Any]:
    holds = target is None or value == target
    return {"measure": measure, "value": value, "unit": "cases", "target": target, "holds": holds}


if __name__ == "__main__":
    sys.exit(main())
