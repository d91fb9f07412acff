"""Records: derived from the fields of dataclasses, and refused by name where they do not fit."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from lapilli.compiler import storage
from lapilli.compiler.artifact import Provenance
from lapilli.compiler.errors import ArtifactError
from lapilli.compiler.linear import Array, LinearMap
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.neurons import MODELS, NeuronModel, Source
from lapilli.compiler.storage import Option, Text, decode, digest, encode


@dataclasses.dataclass(frozen=True, eq=False)
class Everything:
    """One field of each type that a file can hold."""

    flag: bool
    count: int
    ratio: float
    name: str
    word: Literal["graded", "unary"]
    shape: tuple[int, ...]
    pair: tuple[int, int]
    means: tuple[float, ...]
    labels: tuple[str, ...]
    threshold: Array
    unit_scale: Array
    unit_offset: Array
    macs: Mapping[str, int]
    options: Mapping[str, Option]
    neuron: NeuronModel
    neurons: tuple[Source, ...]


SOURCE = Source(-1, 5, "held")
EVERYTHING = Everything(
    flag=True,
    count=-(2**63),
    ratio=0.1,
    name="Größe\n",
    word="unary",
    shape=(),
    pair=(3, -4),
    means=(1e-300, 2.0),
    labels=("a", ""),
    threshold=np.array([1, -2], np.int16),
    unit_scale=np.array(0.5),
    unit_offset=np.array([-0.5, 0.0]),
    macs={"b": 2, "a/": 1},
    options={"x": None, "y": [1, [2.5, "z"]], "t": True},
    neuron=SOURCE,
    neurons=(SOURCE, SOURCE),
)


def record() -> Any:
    """A fresh record of EVERYTHING."""
    return copy.deepcopy(encode(EVERYTHING))


def test_every_type_of_field_comes_back() -> None:
    back = decode(Everything, record(), "x")
    for field in dataclasses.fields(Everything):
        value, expected = getattr(back, field.name), getattr(EVERYTHING, field.name)
        if isinstance(expected, np.ndarray):
            assert value.dtype == expected.dtype
            np.testing.assert_array_equal(value, expected)
        elif field.name.startswith("neuron"):
            assert repr(value) == repr(expected)
        else:
            assert value == expected
            assert type(value) is type(expected)
    assert digest(encode(back)) == digest(record())


def test_empty_lists_come_back() -> None:
    empty = dataclasses.replace(EVERYTHING, neurons=(), labels=(), macs={}, means=())
    back = decode(Everything, encode(empty), "x")
    assert (back.neurons, back.labels, back.macs, back.means) == ((), (), {}, ())


def test_a_new_class_needs_no_change_here(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass(frozen=True, eq=False)
    class Ladder(Source):  # type: ignore[misc]  # final: the test stands in for its author
        thresholds: Array

    monkeypatch.setitem(storage.FAMILIES, NeuronModel, (*MODELS, Ladder))
    ladder = Ladder(0, 1, "held", np.array([1, 2, 3]))
    written = encode(dataclasses.replace(EVERYTHING, neuron=ladder))
    back = decode(Everything, written, "x")
    assert isinstance(back.neuron, Ladder)
    assert back.neuron.thresholds.tolist() == [1, 2, 3]


REFUSED: list[tuple[str, Any, str]] = [
    ("flag", 1, "is a truth value"),
    ("count", True, "is an integer"),
    ("count", 2.0, "is an integer"),
    ("count", 2**63, "is an integer"),
    ("ratio", 1, "is a finite number"),
    ("ratio", float("nan"), "is a finite number"),
    ("ratio", float("inf"), "is a finite number"),
    ("name", 3, "is a string"),
    ("name", "x" * 4097, "is not too long"),
    ("name", "\x1b[2J", "is printable text"),
    ("name", "\ud800", "is printable text"),
    ("word", "loud", "is one of the known words"),
    ("word", 3, "is one of the known words"),
    ("shape", 3, "is a short list"),
    ("shape", (1,) * 9000, "is a short list"),
    ("shape", (1.0,), "is an integer"),
    ("pair", (1, 2, 3), "has the right length"),
    ("means", (1,), "is a finite number"),
    ("labels", ("a",), "is JSON text"),
    ("labels", Text('{"a":1}'), "is a JSON list"),
    ("labels", Text("[1]"), "is a string"),
    ("threshold", 3, "is an array"),
    ("threshold", np.array([1.0]), "has the right number type"),
    ("threshold", np.array([True]), "has the right number type"),
    ("threshold", np.array([1], np.uint8), "has the right number type"),
    ("unit_scale", np.array([1]), "has the right number type"),
    ("unit_scale", np.array([1.0, 0.0]), "scales are positive and finite"),
    ("unit_scale", np.array([-1.0]), "scales are positive and finite"),
    ("unit_scale", np.array([np.nan]), "scales are positive and finite"),
    ("unit_scale", np.array([np.inf]), "scales are positive and finite"),
    ("unit_offset", np.array([1]), "has the right number type"),
    ("unit_offset", np.array([np.nan]), "offsets are finite"),
    ("unit_offset", np.array([-np.inf]), "offsets are finite"),
    ("macs", "{}", "is JSON text"),
    ("macs", Text("[]"), "is a JSON object"),
    ("macs", Text('{"a":1,"a":2}'), "is canonical JSON"),
    ("macs", Text('{"b":1,"a":2}'), "is canonical JSON"),
    ("macs", Text('{"a": 1}'), "is canonical JSON"),
    ("macs", Text('{"a":1'), "is JSON"),
    ("macs", Text('{"a":NaN}'), "is JSON"),
    ("macs", Text('{"a":' + "[" * 100_000), "is JSON"),
    ("macs", Text('{"a":' + "9" * 5000 + "}"), "is JSON"),
    ("macs", Text('"' + "x" * 2**20 + '"'), "is not too long"),
    ("macs", Text('{"\\u001b":1}'), "is printable text"),
    ("macs", Text('{"a":1.0}'), "has the right type"),
    ("macs", Text('{"a":true}'), "has the right type"),
    ("macs", Text(f'{{"a":{2**63}}}'), "is an integer"),
    ("options", Text('{"a":{}}'), "has the right type"),
    ("options", Text('{"a":[[{}]]}'), "has the right type"),
    ("options", Text('{"a":["\\u001b"]}'), "is printable text"),
    ("neuron", 3, "is a group"),
    ("neuron", {}, "is a known class"),
    ("neuron", {"class": "os.system"}, "is a known class"),
    ("neuron", {"class": 3}, "is a known class"),
    ("neuron", {"class": "Conv"}, "is a known class"),
    ("neurons", 3, "is a numbered list"),
    ("neurons", {"0001": encode(SOURCE)}, "is a numbered list"),
    ("neurons", {"0": encode(SOURCE)}, "is a numbered list"),
    ("neurons", {f"{i:04d}": {} for i in range(8193)}, "is not too long"),
]


@pytest.mark.parametrize(("name", "value", "rule"), REFUSED)
def test_what_does_not_fit_is_refused_by_name(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        decode(Everything, {**record(), name: value}, "file:/x")
    assert caught.value.rule == rule
    assert re.fullmatch(rf"file:/x/{name}(/class)?( \(\S+\))?", caught.value.where)
    assert str(caught.value).isprintable()


def test_missing_and_unknown_fields_are_named() -> None:
    changed = {**record(), "more": 1}
    del changed["count"]
    with pytest.raises(ArtifactError) as caught:
        decode(Everything, changed, "file:")
    assert caught.value.where == "file"
    assert caught.value.found == "missing ['count'], unknown ['more']"
    inner = {**record(), "neuron": {"class": "Source", "low": 1}}
    with pytest.raises(ArtifactError) as caught:
        decode(Everything, inner, "file:")
    assert caught.value.found == "missing ['high', 'timing'], unknown none"


@pytest.mark.parametrize("hint", [bytes, Path, dict, tuple[bytes, ...]])
def test_a_type_without_storage_is_a_fault_of_the_program(hint: Any) -> None:
    cls = dataclasses.make_dataclass("New", [("field", hint)])
    with pytest.raises(TypeError, match="has no storage"):
        decode(cls, {"field": (b"x",)}, "x")
    with pytest.raises(TypeError, match="has no storage"):
        encode(cls(b"x"))


def test_every_class_that_a_file_may_hold_has_storage() -> None:
    classes = [Netlist, Provenance, *storage.FAMILIES[NeuronModel], *storage.FAMILIES[LinearMap]]
    for cls in classes:
        for name, hint in storage.fields_of(cls).items():
            with pytest.raises(ArtifactError):  # and not TypeError: the type has a rule
                storage._decode(hint, object(), "x", name)


def test_digest_tells_records_apart() -> None:
    alike: list[Any] = [
        {"a": "b"},
        {"ab": ""},
        {"a": {"b": 1}},
        {"a": 1},
        {"a": 1.0},
        {"a": True},
        {"a": "1"},
        {"a": Text("1")},
        {"a": (1,)},
        {"a": ()},
        {"a": {}},
        {"a": np.array(1)},
        {"a": np.array([1])},
        {"a": np.array([[1]])},
        {"a": np.array([1.0])},
        {"a": np.array([1, 0])},
        {"a": np.array([256])},
        {"a": 1, "b": 1},
    ]
    assert len({digest(value) for value in alike}) == len(alike)


def test_digest_does_not_see_order_and_integer_types() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    values = np.arange(-3, 3).reshape(2, 3)
    for same in (values.astype(np.int8), values.astype(">i4"), np.asfortranarray(values)):
        assert digest({"a": same}) == digest({"a": values})
