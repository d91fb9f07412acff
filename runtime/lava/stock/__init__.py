"""A netlist on processes that ship with lava-nc 0.10 alone: `--processes stock`.

For hardware that has these, and nothing of ours. Every count and readout is the reference
engine's, or the network is refused before anything runs; docs/stock.md says what becomes of what.
This side never imports Lava.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from lapilli.compiler.errors import InputError
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import Int64Array
from lapilli.runtime.lava import runner
from lapilli.runtime.lava.runner import SLOW_MACS_PER_S, SLOW_STEP_S, STALL_S, Limits
from lapilli.runtime.lava.stock.lowering import lower
from lapilli.runtime.lava.stock.plan import Plan
from lapilli.runtime.trace import Progress, Record, Trace

NAME = "lava-stock"
WORKER = (sys.executable, "-m", "lapilli.runtime.lava.stock.worker")


def run(
    netlist: Netlist,
    inputs: Int64Array,
    *,
    record: Record = "counts",
    progress: Progress | None = None,
    timeout_s: float | None = None,
    worker: Sequence[str] = WORKER,
) -> Trace:
    """Execute a netlist on stock Lava processes, supervised as `runner.run` does it.

    Raises NetlistError, naming the population, for what stock processes cannot compute exactly,
    InputError where membranes are asked for, BackendError where Lava is missing or fails.
    """
    if record == "states":
        raise InputError(
            "record",
            "stock processes show what they send, not their membranes",
            found=record,
            allowed="outputs, counts, spikes",
            remedy="Record spikes, or run it with processes='lapilli'.",
        )
    found = limits(lower(netlist, inputs))
    trace = runner.run(
        netlist,
        inputs,
        record=record,
        progress=progress,
        timeout_s=found.timeout_s if timeout_s is None else timeout_s,
        stall_s=found.stall_s,
        worker=worker,
    )
    return replace(trace, backend=NAME)


def limits(plan: Plan) -> Limits:
    """Limits that a slow, busy machine keeps."""
    step_s = SLOW_STEP_S * plan.processes + plan.synapses / SLOW_MACS_PER_S
    start_s = STALL_S + step_s
    return Limits(timeout_s=start_s + step_s * plan.steps, stall_s=start_s)
