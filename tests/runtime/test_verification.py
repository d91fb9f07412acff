"""`verify` finds one planted difference among thousands of integers, and says where it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sample_networks

import lapilli
from lapilli.compiler.linear import Array
from lapilli.compiler.netlist import Netlist
from lapilli.runtime import BACKENDS
from lapilli.runtime.trace import Trace
from lapilli.runtime.verification import Equality, Verification, compare

CASES = [(n, m) for n in sample_networks.NETWORKS for m in sample_networks.METHODS]
IMAGES = 4
CHARGE = "charge in == membranes of the reference"
REACH = "membranes in their proven reach"
WINDOWS = [
    "quantised ANN == reference: counts",
    "quantised ANN == reference: readouts",
    "reference, stepped == at once: counts",
    "reference, stepped == at once: readouts",
]
ROWS = {
    **dict.fromkeys(("graded", "unary"), WINDOWS),
    **dict.fromkeys(("sigma-delta", "fast-snn"), WINDOWS[:2]),  # they step, always
}
"""What is compared besides where networks of a method settle."""
OTHER = [f"Other == reference: {kind}" for kind in ("spikes", "membranes", "counts", "readouts")]


def verified(name: str, method: str, *backends: str) -> Verification:
    artifact = sample_networks.compiled(name, method)
    return lapilli.verify(
        artifact, sample_networks.images(name, IMAGES), backends=("reference", *backends)
    )


@pytest.mark.parametrize(("name", "method"), CASES)
def test_what_is_equal_is_found_equal(name: str, method: str) -> None:
    result = verified(name, method)
    netlist = sample_networks.compiled(name, method).netlist
    windows = ROWS.get(method, [])
    assert [row.name for row in result.rows] == [CHARGE, REACH, *windows]
    assert (netlist.settles, netlist.one_pass) == (bool(windows), windows == WINDOWS)
    assert result.ok
    assert result.first_difference is None
    for row in result.rows:
        assert row.equal == row.compared > 0
    # A leak throws charge away; what it leaves is compared with Python integers in test_reference.
    leaking = {p.name for p in netlist.populations if getattr(p.neuron, "decay", 0)}
    spiking = {p.name for p in netlist.populations[1:]} - {p.name for p in netlist.outputs}
    assert leaking == (spiking if method == "lm-ht" else set())
    sizes = {p.name: p.size for p in netlist.populations[1:]}
    conserving = sum(size for name, size in sizes.items() if name not in leaking)
    membranes = IMAGES * netlist.steps * sum(sizes.values())
    assert [row.compared for row in result.rows[:2]] == [IMAGES * conserving, membranes]


Edit = Callable[[Trace], Trace]


def planted(monkeypatch: pytest.MonkeyPatch, name: str, edit: Edit, base: str) -> None:
    """A backend `name` that runs `base` and changes what it found."""
    run = BACKENDS[base]

    def changed(netlist: Netlist, inputs: Array, *rest: Any) -> Trace:
        return edit(run(netlist, inputs, *rest))

    monkeypatch.setitem(BACKENDS, name, changed)


def off_by_one(kind: str, population: str, at: tuple[int, ...]) -> Edit:
    def edit(trace: Trace) -> Trace:
        arrays = dict(getattr(trace, kind))
        if population in arrays:
            arrays[population] = arrays[population].copy()
            arrays[population][at] += 1
        changes: dict[str, Any] = {kind: arrays}
        return dataclasses.replace(trace, **changes)

    return edit


# Method, kind, population, index, the row that differs, place
PLANTED: dict[str, tuple[str, str, str, tuple[int, ...], str, str]] = {
    "a spike": (
        "unary", "spikes", "relu_1", (2, 3, 5, 1, 2), OTHER[0],
        "image 2, step 3, unit (5, 1, 2)",
    ),
    "a membrane": (
        "rate", "states", "relu", (0, 6, 3, 5, 0), OTHER[1], "image 0, step 6, unit (3, 5, 0)",
    ),
    "a membrane of a readout": (
        "graded", "states", "linear", (3, 0, 2), OTHER[1], "image 3, step 0, unit (2)",
    ),
    "a count": ("graded", "counts", "relu_2", (1, 0, 2, 2), OTHER[2], "image 1, unit (0, 2, 2)"),
    "a readout": ("rate", "readouts", "linear", (2, 1), OTHER[3], "image 2, unit (1)"),
    "a payload of the input": (
        "graded", "spikes", "input", (3, 0, 1, 5, 5), OTHER[0], "image 3, step 0, unit (1, 5, 5)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED)
def test_a_planted_difference_is_named(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, kind, population, at, row, place = PLANTED[case]
    planted(monkeypatch, "other", off_by_one(kind, population, at), "reference")
    result = verified("residual", method, "other")
    assert not result.ok
    assert [r.name for r in result.rows[-4:]] == OTHER
    wrong = [r for r in result.rows if not r.ok]
    assert [(r.name, r.compared - r.equal) for r in wrong] == [(row, 1)]
    artifact = sample_networks.compiled("residual", method)
    images = sample_networks.images("residual", IMAGES)
    right = int(getattr(lapilli.run(artifact, images, record="states"), kind)[population][at])
    expected = f"{row}: {population}, {place}: {right + 1} against {right}"
    assert result.first_difference == expected


def test_a_wrong_membrane_of_the_reference_is_found_without_another_backend(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    last = (1, 6, 2, 2, 2)
    planted(monkeypatch, "reference", off_by_one("states", "relu_1", last), "reference")
    result = verified("residual", "rate")
    assert [row.ok for row in result.rows] == [False, True]
    assert result.first_difference is not None
    assert result.first_difference.startswith(f"{CHARGE}: relu_1, image 1, unit (2, 2, 2): ")


@pytest.mark.parametrize("kind", ["counts", "readouts"])
def test_a_wrong_quantised_ann_is_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    population, at = ("relu", (0, 1, 2, 3)) if kind == "counts" else ("linear", (0, 1))
    planted(monkeypatch, "quantised-ann", off_by_one(kind, population, at), "quantised-ann")
    result = verified("residual", "unary")
    assert [row.name for row in result.rows if not row.ok] == [
        f"quantised ANN == reference: {kind}"
    ]
    assert result.first_difference is not None
    assert f"{population}, image 0, unit {at[1:] if len(at) > 2 else '(1)'}" in (
        result.first_difference
    )


def test_a_missing_population_and_another_shape_are_differences() -> None:
    a = {"x": np.zeros((2, 3), int), "y": np.ones((2, 4), int)}
    row, first = compare("this == that", a, {"x": a["x"]})
    assert (row.compared, row.equal) == (14, 6)
    assert first == "this == that: y: shape (2, 4) against missing"
    row, first = compare("this == that", {"x": a["x"]}, a)
    assert (row.compared, row.equal) == (14, 6)
    assert first == "this == that: y: missing against shape (2, 4)"
    row, first = compare("this == that", a, {**a, "y": np.ones((2, 5), int)})
    assert (row.compared, row.equal) == (16, 6)
    assert first == "this == that: y: shape (2, 4) against shape (2, 5)"


def test_the_first_difference_is_the_earliest_image_then_step() -> None:
    left = {"x": np.zeros((3, 4, 2), int)}
    right = {"x": left["x"].copy()}
    right["x"][2, 0, 0] = right["x"][1, 3, 1] = right["x"][1, 2, 0] = 5
    row, first = compare("a == b", left, right, stepwise=True)
    assert (row.compared, row.equal) == (24, 21)
    assert first == "a == b: x, image 1, step 2, unit (0): 0 against 5"


def test_nothing_compared_is_nothing_proved() -> None:
    assert not Equality("a == b", 0, 0).ok
    row, first = compare("a == b", {}, {})
    assert (row.ok, first) == (False, None)


def test_progress_names_every_run() -> None:
    artifact = sample_networks.compiled("vectors", "graded")
    calls: list[tuple[str, int, int]] = []
    lapilli.verify(
        artifact,
        sample_networks.images("vectors", IMAGES),
        backends=(),
        progress=lambda *call: calls.append(call),
    )
    stages = ["reference, states", "reference, counts", "quantised-ann, counts"]
    assert list(dict.fromkeys(stage for stage, *_ in calls)) == stages
    assert calls[-1][1:] == (IMAGES, IMAGES)


@pytest.mark.lava
@pytest.mark.parametrize("method", ["unary", "rate"])
def test_lava_too(method: str) -> None:
    result = verified("vectors", method, "lava")
    assert [row.name for row in result.rows[-4:]] == [n.replace("Other", "Lava") for n in OTHER]
    assert result.ok
