"""Workers of the Lava backend that misbehave: `python lava_worker_faults.py FAULT JOB_DIRECTORY`.

The faults sit in this file's process only; the package has no hook for them. With `run` instead of
a fault it is not a worker but a user: a program that runs a long network until somebody stops it.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import netlists
import numpy as np

from lapilli.compiler.linear import Dense, frozen
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import Readout, SoftResetIF, Source, Window

VICTIM = "victim"
FAULTY_STEP = 3


def small_netlist() -> Netlist:
    """Four populations in a row; `VICTIM` is the only one of its model."""
    zero, shape = netlists.integers(0), (3,)
    window = Window(netlists.integers(2), zero, zero, 4, "graded")
    populations = (
        netlists.population("input", shape, Source(-5, 5, "held")),
        netlists.population("before", shape, window),
        netlists.population(VICTIM, shape, SoftResetIF(netlists.integers(3), zero, zero)),
        netlists.population("after", shape, window),
        netlists.population("out", shape, Readout(zero, zero)),
    )
    names = [p.name for p in populations]
    matrix = Dense(frozen(np.array([[1, 2, 0], [0, 1, 2], [2, 0, 1]], np.int8)), shape, shape)
    connections = (netlists.connection(a, b, matrix) for a, b in itertools.pairwise(names))
    return netlists.proven(Netlist(populations, tuple(connections), 4))


def _hang() -> None:
    time.sleep(3600)


def _raise() -> None:
    raise ValueError("planted")


IN_A_STEP: dict[str, Callable[[], None]] = {
    "hang": _hang,
    "raise": _raise,
    "exit": lambda: os._exit(7),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
}
"""What the victim does in its step `FAULTY_STEP`."""


def _plant(fault: Callable[[], None]) -> None:
    step, calls = SoftResetIF.step, itertools.count(1)

    def faulty(*arguments: Any) -> Any:
        if next(calls) == FAULTY_STEP:
            fault()
        return step(*arguments)

    SoftResetIF.step = faulty  # type: ignore[method-assign]


def main(what: str, arguments: list[str]) -> None:
    """Plant the fault and be the worker, or be the user."""
    if what == "run":
        _run_for_ever()
    if what == "never-begins":
        _hang()
    if what == "leader-dies":
        sys.exit("planted: the worker gives up")

    from lapilli.runtime.lava import worker

    if what in IN_A_STEP:
        _plant(IN_A_STEP[what])
    elif what == "never-leaves":
        worker.network.AbstractProcess.stop = lambda self: _hang()
    elif what == "raise-in-synapse":
        worker.network.processes.ExactMap.__call__ = lambda self, x: _raise()
    elif what == "raise-in-build":
        worker.network.PROCESSES.clear()
    else:
        assert what == "unproven", what
        Netlist.verify = lambda *_: None  # type: ignore[method-assign]
    worker.main(arguments)


def _run_for_ever() -> None:
    from lapilli.runtime import lava

    def progress(done: int, total: int) -> None:
        if done > 10:
            print("running", flush=True)

    # What a shell starts in the background ignores it, and so does all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    inputs = np.zeros((100_000, 3), np.int64)
    lava.run(small_netlist(), inputs, progress=progress)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
