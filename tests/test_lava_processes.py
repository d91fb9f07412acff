"""Lapilli's processes in the hands of a Lava user, between stock processes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import lava_user as user
import numpy as np
import oracles
import pytest
from oracle_neurons import Neuron

from lapilli.compiler.linear import LinearMap
from lapilli.compiler.neurons import MODELS, Readout, SoftResetIF, Window

TAGS = ("fixed_pt", "floating_pt")
REAL = "for real numbers use Loihi2SimCfg(select_tag='floating_pt')"
PAGE = Path(__file__).parents[1] / "docs" / "lava-processes.md"
SCRIPT = Path(__file__).with_name("lava_user.py")


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    """What the user's program printed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Cannot import module" not in done.stderr, "Lava re-executes what lies beside a process"
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _neurons(model: Any, parameters: dict[str, int], size: int) -> list[Neuron]:
    return [Neuron(model, parameters) for _ in range(size)]


def _mapped(linear_map: LinearMap, exponent: int, x: list[int]) -> list[int]:
    return oracles.mapped(oracles.synapses(linear_map), exponent, x, linear_map.out_size)


def _step(neurons: list[Neuron], drive: list[int], local: int, window: int) -> list[int]:
    if local < 0:
        return [0] * len(neurons)
    pairs = zip(neurons, drive, strict=True)
    return [neuron.step(a, local % window, window) for neuron, a in pairs]


@pytest.mark.lava
def test_network_of_a_lava_user(seen: dict[str, Any]) -> None:
    x = user.stimulus().reshape(-1, user.STEPS).T.tolist()
    size = int(np.prod(user.OUT_SHAPE))
    zero = np.zeros(())
    fires, counts = SoftResetIF(zero, zero, zero), Window(zero, zero, zero, user.LEVELS, "unary")
    parameters = {"threshold": user.THRESHOLD, "bias": user.BIAS, "initial": user.INITIAL}
    first = _neurons(fires, parameters, size)
    second = _neurons(counts, {"threshold": 5, "bias": 0, "initial": 0}, size)
    readout = _neurons(Readout(zero, zero), {"bias": 1, "initial": 0}, 2)
    nothing = [[0] * size]
    sent_first, sent_second = list(nothing), list(nothing)  # [0]: before the first step
    for t in range(user.STEPS):
        before = _mapped(user.convolution(), 1, x[t - 1]) if t else nothing[0]
        then = t - 1 - user.DELAY
        late = _mapped(user.scale(), 2, sent_first[then + 1] if then >= 0 else nothing[0])
        straight = _mapped(user.scale(), 0, sent_first[t])
        both = [a + b for a, b in zip(straight, late, strict=True)]
        last = _mapped(user.matrix(), 0, sent_second[t])
        sent_first.append(_step(first, before, t - 1, user.WINDOW))
        sent_second.append(_step(second, both, t - 2, user.WINDOW))
        _step(readout, last, t, user.STEPS)
    for name, expected in (("first", sent_first), ("second", sent_second)):
        found = np.reshape(seen[name], (size, user.STEPS)).T
        assert expected[1:] == found.tolist()
        assert 0 < found.sum() < found.size
    assert np.reshape(seen["first v"], -1).tolist() == [neuron.v for neuron in first]
    assert seen["readout v"] == [neuron.v for neuron in readout]
    assert seen["name"] == "first"


@pytest.mark.lava
def test_arguments_that_cannot_be(seen: dict[str, Any]) -> None:
    assert seen["refusals"] == [
        "window >= 1, offset and gap >= 0; found 0, 0 and 0",
        "window >= 1, offset and gap >= 0; found 1, -1 and 0",
        "real: fixed_pt computes in integers; found threshold; " + REAL,
        "threshold broadcasts to (2,); found (3,)",
        "threshold is a number; found <U4",
        "a window sends all its spikes before the next one ends: 1..4 levels; "
        "found 5 levels, unary, 4 steps",
        "sending is one of ('graded', 'unary', 'unary-last'); found 'late'",
        "a spike carries 32 bits; found 2147483648",
        "train inputs are (N, 1, ...); found (1, 2)",
        "x: fixed_pt computes in integers; found inputs; " + REAL,
        "delay >= 0; found -1",
        "half: fixed_pt computes in integers; found weights; " + REAL,
        "halved: fixed_pt computes in integers; found exponent -1; " + REAL,
    ]


@pytest.mark.lava
def test_a_user_may_set_the_membranes_between_two_runs(seen: dict[str, Any]) -> None:
    assert seen["interfered"] == [3, 50, 52, 50]


@pytest.mark.lava
def test_every_neuron_model_has_a_process() -> None:
    code = """
from lapilli.compiler.neurons import MODELS
import inspect
from lapilli.compiler.storage import fields_of
from lapilli.runtime import lava
from lapilli.runtime.lava.network import PROCESSES
for model, process in PROCESSES.items():
    assert getattr(lava, model.__name__) is process, process
    said = inspect.getdoc(process)
    for name in (*fields_of(model), *model.VARIABLES, "s_out", "window", "offset"):
        assert name in said, (process, name)
        assert name in inspect.signature(process).parameters or name not in fields_of(model)
assert set(lava.PROCESSES) == {"Synapse", *(model.__name__ for model in PROCESSES)}
print(*(model.__name__ for model in PROCESSES))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [model.__name__ for model in MODELS]


@pytest.mark.lava
def test_the_example_of_the_documentation_prints_what_it_says() -> None:
    code, printed = re.findall(r"```(?:python|text)\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == printed


def test_the_documentation_has_every_process_and_its_vars() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    found = {name: tuple(re.findall(r"`(\w+)`", said)) for name, said in rows}
    assert {model.__name__: model.VARIABLES for model in MODELS} == {
        name: variables for name, variables in found.items() if name not in TAGS
    }
