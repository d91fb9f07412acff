"""The process that runs stock Lava: `python -m lapilli.runtime.lava.stock.worker JOB_DIRECTORY`.

Stock processes keep no journal, so their messages to the host stand for it: a step is done when
every population's spikes of that step have arrived here.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from lava.magma.core.run_conditions import RunSteps

from lapilli.compiler import artifact
from lapilli.compiler.linear import Array
from lapilli.runtime.early_stop import StopRule
from lapilli.runtime.lava import worker
from lapilli.runtime.lava.journal import INPUTS, NETLIST, Journal, Watch
from lapilli.runtime.lava.stock import lowering, network
from lapilli.runtime.lava.stock.plan import Plan
from lapilli.runtime.trace import Record


def main(arguments: Sequence[str]) -> None:
    """Run the job in the directory that `arguments` names."""
    worker.main(arguments, _run)


def _run(directory: Path, record: Record, steps: int, stop: StopRule | None) -> None:
    assert stop is None  # refused before: stock processes run every window to its end
    netlist = artifact.read(directory / NETLIST).netlist
    inputs = np.load(directory / INPUTS, allow_pickle=False)
    plan = lowering.lower(netlist, inputs)
    journal = Journal(directory, netlist, record, len(inputs))
    arrays = [journal.arrays(tap.population) for tap in plan.taps]
    built = network.build(plan)
    built.first.run(
        RunSteps(plan.steps, blocking=False),
        network.configuration(),
        {"pypy_channel_size": worker.CHANNEL_DEPTH},
    )
    # Waiting for a message of a process that has died would never end.
    follower = threading.Thread(target=worker.follow, args=(journal, steps), daemon=True)
    follower.start()
    watches = journal.watches()
    for step in range(plan.steps):
        received = [np.asarray(extractor.receive()) for extractor in built.extractors]
        for tap, kinds, values in zip(plan.taps, arrays, received, strict=True):
            _write(plan, kinds, step - tap.first, values)
        _report(watches, (step + 1) * steps // plan.steps)
    follower.join()  # processes may end from here on
    built.first.wait()
    built.first.stop()


def _write(plan: Plan, kinds: Mapping[str, Array], local: int, values: Array) -> None:
    """Record what a population sent in its step `local`."""
    image, tau = divmod(local, plan.interval)
    for kind, array in kinds.items():
        if not 0 <= image < len(array):
            continue
        if kind == "spikes":
            array[image, tau] = values.reshape(array.shape[2:])
        elif kind == "counts":
            array[image] += values.reshape(array.shape[1:]).astype(array.dtype)
        elif tau == plan.interval - 1:
            array[image] = values.reshape(array.shape[1:])


def _report(watches: Sequence[Watch], done: int) -> None:
    """Every process has done so many of the journal's steps."""
    for watch in watches:
        with watch.step(done):
            watch.working()


if __name__ == "__main__":
    main(sys.argv[1:])
