"""The equalities that Lapilli promises, checked on a user's own network and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.numerics import FloatArray
from lapilli.runtime import STOCK, run
from lapilli.runtime.quantised_ann import Drives
from lapilli.runtime.trace import Record, Trace

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact

Progress = Callable[[str, int, int], None]
STEPWISE = ("spikes", "states")
"""Parts of a trace with an axis of time steps behind the axis of images."""


@final
@dataclass(frozen=True)
class Equality:
    """One comparison: what was compared, how many integers, how many of them agree."""

    name: str
    compared: int
    equal: int

    @property
    def ok(self) -> bool:
        """Did everything agree, and was there anything to compare?"""
        return self.equal == self.compared > 0


@final
@dataclass(frozen=True)
class Verification:
    """All comparisons; first_difference names population, image, step and unit, or is None."""

    rows: tuple[Equality, ...]
    first_difference: str | None

    @property
    def ok(self) -> bool:
        """Did every comparison agree?"""
        return all(row.ok for row in self.rows)


def verify(
    artifact: Artifact,
    images: FloatArray,
    *,
    backends: Sequence[str] = ("reference", "lava"),
    progress: Progress | None = None,
    timeout_s: float | None = None,
) -> Verification:
    """Compare executions that share no code, bit for bit: the first difference says where.

    The reference engine's membranes at every step against their proven reach. Its last ones against
    the charge that its own counts deliver, computed apart from it, where neurons conserve charge.
    For networks that settle (`Netlist.settling`), too: its counts and readouts against those of the
    quantised ANN, and step by step against one pass where there is one (in rate coding the former
    agree in the limit only, and there is no other pass). A window that is too short to settle for
    an image fails here. Then spikes and membranes of every population at every step of each further
    backend; stock processes show no membranes.
    """

    def traced(backend: str, record: Record) -> Trace:
        report = None if progress is None else _labelled(progress, f"{backend}, {record}")
        return run(
            artifact, images, backend=backend, record=record, progress=report, timeout_s=timeout_s
        )

    netlist = artifact.netlist
    stepped = traced("reference", "states")
    charges = _charges(netlist, stepped)
    checks = [_Check("charge in == membranes of the reference", *charges)] if charges[0] else []
    checks.append(_Check("membranes in their proven reach", *reaches(netlist, stepped), True))
    if netlist.settling:
        single, ann = traced("reference", "counts"), traced("quantised-ann", "counts")
        checks += _checks("quantised ANN == reference", ann, single, ("counts", "readouts"))
        name = "reference, stepped == at once"
        if netlist.one_pass:
            checks += _checks(name, stepped, single, ("counts", "readouts"))
    for backend in backends:
        if backend != "reference":
            record: Record = "spikes" if backend == STOCK else "states"
            other = traced(backend, record)
            kinds = (*STEPWISE[: STEPWISE.index(record) + 1], "counts", "readouts")
            checks += _checks(f"{backend.capitalize()} == reference", other, stepped, kinds)
    found = [compare(*check) for check in checks]
    first = next((difference for _, difference in found if difference is not None), None)
    return Verification(tuple(row for row, _ in found), first)


class _Check(NamedTuple):
    name: str
    left: Mapping[str, Array]
    right: Mapping[str, Array]
    stepwise: bool = False


def _checks(name: str, left: Trace, right: Trace, kinds: Sequence[str]) -> list[_Check]:
    return [
        _Check(
            f"{name}: {'membranes' if kind == 'states' else kind}",
            getattr(left, kind),
            getattr(right, kind),
            kind in STEPWISE,
        )
        for kind in kinds
    ]


def _charges(netlist: Netlist, trace: Trace) -> tuple[dict[str, Array], dict[str, Array]]:
    """v after the window's last step: from the counts of all populations, and as recorded."""
    drives = Drives(netlist)
    expected = {}
    for p in netlist.populations:
        # A spike that was sent in the last steps of the window may still be on its way.
        late = any(c.recurrent or c.synaptic_delay for c in netlist.into(p.name))
        if p is netlist.input or late:
            continue
        total = drives.total(p, trace.counts)
        # In 64 bits: numpy 1 multiplies small counts by a scalar threshold in 16.
        count = np.asarray(trace.counts.get(p.name, np.zeros_like(total)), np.int64)
        membranes = p.neuron.final_state(total, count, netlist.steps)
        if membranes is not None:
            expected[p.name] = membranes
    return expected, {name: trace.states[name][:, -1] for name in expected}


def reaches(netlist: Netlist, trace: Trace) -> tuple[dict[str, Array], dict[str, Array]]:
    """v of every step, cut to what was proven, and as it is."""
    proven = {p.name: (p.state_low, p.state_high) for p in netlist.populations}
    return {n: np.clip(v, *proven[n]) for n, v in trace.states.items()}, dict(trace.states)


def compare(
    name: str, left: Mapping[str, Array], right: Mapping[str, Array], stepwise: bool = False
) -> tuple[Equality, str | None]:
    """How many integers agree, and where the first one does not.

    Arrays are (N, *shape) or, if stepwise, (N, steps, *shape). First is the first population that
    differs, there the first image, there the first step.
    """
    compared = equal = 0
    first = None
    for population in [*left, *(k for k in right if k not in left)]:
        a, b = left.get(population), right.get(population)
        if a is None or b is None or a.shape != b.shape:
            shapes = ["missing" if x is None else f"shape {x.shape}" for x in (a, b)]
            compared += max(x.size for x in (a, b) if x is not None)
            first = first or f"{name}: {population}: {shapes[0]} against {shapes[1]}"
            continue
        same = a == b
        compared += same.size
        equal += int(np.count_nonzero(same))
        if first is None and not same.all():
            at = np.unravel_index(int(np.argmin(same)), same.shape)
            place = _place([int(i) for i in at], stepwise)
            first = f"{name}: {population}, {place}: {int(a[at])} against {int(b[at])}"
    return Equality(name, compared, equal), first


def _place(at: list[int], stepwise: bool) -> str:
    """Words for an index into (N, *shape) or (N, steps, *shape)."""
    image, *rest = at
    step = f"step {rest.pop(0)}, " if stepwise else ""
    return f"image {image}, {step}unit ({', '.join(map(str, rest))})"


def _labelled(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total)
