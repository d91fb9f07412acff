"""The equalities that Lapilli promises, checked on a user's own network and images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np

from lapilli.compiler.linear import Array
from lapilli.compiler.neurons import SoftResetIF
from lapilli.compiler.numerics import FloatArray
from lapilli.runtime import run
from lapilli.runtime.trace import Trace

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact

Progress = Callable[[str, int, int], None]


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
    """Compare quantised ANN, reference engine (two ways) and every other backend, bit for bit.

    Counts and readouts of the one-pass engine against the quantised ANN (window networks only: in
    rate coding they agree only in the limit), the stepped engine against the one-pass one, then
    spikes and membranes of every population at every step of each further backend.
    """

    def traced(backend: str, record: str) -> Trace:
        report = None if progress is None else _labelled(progress, f"{backend}, {record}")
        return run(
            artifact,
            images,
            backend=backend,
            record=record,  # type: ignore[arg-type]
            progress=report,
            timeout_s=timeout_s,
        )

    stepped = traced("reference", "states")
    single = traced("reference", "counts")
    sides: list[tuple[str, Mapping[str, Array], Mapping[str, Array]]] = []
    if not any(isinstance(p.neuron, SoftResetIF) for p in artifact.netlist.populations):
        ann = traced("quantised-ann", "counts")
        sides.append(("quantised ANN == reference: counts", ann.counts, single.counts))
        sides.append(("quantised ANN == reference: readouts", ann.readouts, single.readouts))
    sides.append(("reference, stepped == at once: counts", stepped.counts, single.counts))
    sides.append(("reference, stepped == at once: readouts", stepped.readouts, single.readouts))
    for backend in backends:
        if backend == "reference":
            continue
        other = traced(backend, "states")
        for kind in ("spikes", "states", "counts", "readouts"):
            label = "membranes" if kind == "states" else kind
            left, right = getattr(stepped, kind), getattr(other, kind)
            sides.append((f"reference == {backend}: {label}", left, right))
    rows, first = [], None
    for name, left, right in sides:
        row, difference = compare(name, left, right)
        rows.append(row)
        first = first or difference
    return Verification(tuple(rows), first)


def compare(
    name: str, left: Mapping[str, Array], right: Mapping[str, Array]
) -> tuple[Equality, str | None]:
    """How many integers agree, and where the first one does not (earliest step, then image)."""
    compared = equal = 0
    first = None
    for population in [*left, *(k for k in right if k not in left)]:
        a, b = left.get(population), right.get(population)
        if a is None or b is None or a.shape != b.shape:
            shapes = [None if x is None else x.shape for x in (a, b)]
            size = max(x.size for x in (a, b) if x is not None)
            compared += size
            first = first or f"{name}: {population}: shapes {shapes[0]} and {shapes[1]}"
            continue
        same = a == b
        compared += same.size
        equal += int(same.sum())
        if first is None and not same.all():
            first = f"{name}: {population}, {_place(a, b)}"
    return Equality(name, compared, equal), first


def _place(a: Array, b: Array) -> str:
    """Image, step (if recorded per step) and unit of the earliest difference."""
    where = np.argwhere(a != b)
    if a.ndim > 1:
        where = where[np.lexsort((where[:, 0], where[:, 1]))]
    at = tuple(int(i) for i in where[0])
    return f"index (image, then step or unit) {at}: {int(a[at])} against {int(b[at])}"


def _labelled(progress: Progress, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(stage, done, total)
