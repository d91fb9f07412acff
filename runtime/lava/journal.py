"""How processes report: files in the job's directory, mapped into memory by everybody.

Lava's own channels for a Var carry one element at a time, and an exception inside a process can
leave a run waiting for ever. So every process writes where it stands, what it records, and why it
failed where the supervisor can read it at any time. No Lava in here: both sides import this.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from lapilli.compiler.linear import Array, Shape
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Readout, Source
from lapilli.runtime.lava.clock import COLUMNS, empty_table
from lapilli.runtime.trace import Record

NETLIST, INPUTS, JOB, LOG = "netlist.h5", "inputs.npy", "job.json", "log"
"""What the runner leaves for the worker, and where the worker's output goes."""
_STATUS = "status.npy"
_TEMPORARY = "temporary"
_STOPS = "stops.npy"
_FAILURE = "failure.json"


class Phase(IntEnum):
    """What a process does: between steps, waiting for messages, or working on them.

    In this order: of the processes that are behind, the one that works holds up the others.
    """

    IDLE = 0
    WAITING = 1
    WORKING = 2


class _Column(IntEnum):
    PID = 0
    DONE = 1
    PHASE = 2


class Failure(NamedTuple):
    """Why a run ended early: the process that failed first, and what happened to it."""

    process: str
    what: str


class Status(NamedTuple):
    """Where one process stands. pid: 0 before its first step; done: steps completed."""

    name: str
    pid: int
    done: int
    phase: Phase


def process_names(netlist: Netlist) -> list[str]:
    """Every process of a network: populations, then connections, in the netlist's order."""
    connections = [f"{c.source} -> {c.target}" for c in netlist.connections]
    return [p.name for p in netlist.populations] + connections


@final
@dataclass(frozen=True)
class Recording:
    """One array that a run leaves behind: kind "counts", "spikes", "states" or "readouts"."""

    kind: str
    population: str
    file: str
    dtype: type[np.int32] | type[np.int64]
    shape: Shape

    @property
    def bytes(self) -> int:
        """Size of the array."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def recordings(netlist: Netlist, record: Record, images: int) -> list[Recording]:
    """The arrays of a run; the shapes are those of `Trace`."""
    result = []
    for index, p in enumerate(netlist.populations):
        kinds = ["readouts" if isinstance(p.neuron, Readout) else "counts"]
        if record in ("spikes", "states") and not isinstance(p.neuron, Readout):
            kinds.append("spikes")
        if record == "states" and not isinstance(p.neuron, Source):
            kinds.append("states")
        for kind in kinds:
            stepwise = kind in ("spikes", "states")
            shape = (images, netlist.steps, *p.shape) if stepwise else (images, *p.shape)
            # One step's values fit 24 bits; what is summed over a window need not.
            dtype = np.int32 if stepwise else np.int64
            result.append(Recording(kind, p.name, f"{kind}-{index}.npy", dtype, shape))
    return result


@final
class Journal:
    """The reports of one run, in `directory`."""

    def __init__(self, directory: Path, netlist: Netlist, record: Record, images: int):
        self.directory = directory
        self.names = process_names(netlist)
        self.images = images
        self.recordings = recordings(netlist, record, images)

    @property
    def bytes(self) -> int:
        """Room that the recordings take."""
        return sum(recording.bytes for recording in self.recordings)

    def create(self) -> None:
        """Make every file, filled with zeros."""
        _mapped(self.directory / _STATUS, "w+", np.int64, (len(self.names), len(_Column)))
        for recording in self.recordings:
            _mapped(self.directory / recording.file, "w+", recording.dtype, recording.shape)
        stops = _mapped(self.directory / _STOPS, "w+", np.int64, (self.images, COLUMNS))
        stops[:] = empty_table(self.images)

    def stops(self) -> Array:
        """The table of early stopping, see `clock`; unused without."""
        return _mapped(self.directory / _STOPS, "r+")

    def finish(self, steps: int) -> None:
        """Call every process done with all steps: there is nothing left to do in them."""
        _mapped(self.directory / _STATUS, "r+")[:, _Column.DONE] = steps

    def watches(self) -> list[Watch]:
        """For every process the place where it reports, in the order of `process_names`."""
        table = _mapped(self.directory / _STATUS, "r+")
        rows = zip(self.names, table, strict=True)
        return [Watch(row, self.directory, name) for name, row in rows]

    def arrays(self, population: str) -> dict[str, Array]:
        """The mapped arrays of one population, by kind."""
        return {
            r.kind: _mapped(self.directory / r.file, "r+")
            for r in self.recordings
            if r.population == population
        }

    def status(self) -> list[Status]:
        """Where every process stands now."""
        table = _mapped(self.directory / _STATUS, "r").tolist()
        return [
            Status(name, row[_Column.PID], row[_Column.DONE], Phase(row[_Column.PHASE]))
            for name, row in zip(self.names, table, strict=True)
        ]

    def failure(self) -> Failure | None:
        """The first failure that was reported."""
        try:
            return Failure(**json.loads((self.directory / _FAILURE).read_text("utf-8")))
        except FileNotFoundError:
            return None


@final
class Watch:
    """Reports the steps of one process. Two writers never share a row."""

    def __init__(self, row: Array, directory: Path, name: str):
        self._row, self._directory, self._name = row, directory, name

    @contextlib.contextmanager
    def step(self, time_step: int) -> Iterator[None]:
        """Around everything that a process does in one step (1, 2, ...)."""
        self._row[_Column.PID] = os.getpid()
        self._row[_Column.PHASE] = Phase.WAITING
        try:
            yield
        except Exception as error:
            report_failure(self._directory, self._name, f"{type(error).__name__}: {error}")
            raise
        self._row[_Column.DONE] = time_step
        self._row[_Column.PHASE] = Phase.IDLE

    def working(self) -> None:
        """All messages of this step have arrived."""
        self._row[_Column.PHASE] = Phase.WORKING


def keep_temporary(directory: Path, folder: str) -> None:
    """Note a folder outside the job's, which a worker that is killed would leave."""
    (directory / _TEMPORARY).write_text(folder, "utf-8")


def remove_temporary(directory: Path) -> None:
    """Remove the folder that was noted, if any."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree((directory / _TEMPORARY).read_text("utf-8"), ignore_errors=True)


def report_failure(directory: Path, process: str, what: str) -> None:
    """Leave a failure for the supervisor, whole, unless somebody was first."""
    draft = directory / f"{_FAILURE}.{os.getpid()}"
    draft.write_text(json.dumps({"process": process, "what": what}), "utf-8")
    with contextlib.suppress(FileExistsError):
        os.link(draft, directory / _FAILURE)


def _mapped(
    path: Path,
    mode: str,
    dtype: type[np.int32] | type[np.int64] | None = None,
    shape: Shape | None = None,
) -> Array:
    # A plain view of the mapping: np.memmap itself is slow to index.
    mapping: Any = np.lib.format.open_memmap
    return np.asarray(mapping(path, mode, dtype, shape))
