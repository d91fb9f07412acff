"""Profiles: every number has unit, source and confidence; departures from the schema are named."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from lapilli import hardware_profiles
from lapilli.hardware_profiles import (
    CONFIDENCES,
    Arithmetic,
    Energy,
    Features,
    Limits,
    ProfileError,
    Time,
    load,
    load_recorded,
    names,
)
from lapilli.hardware_profiles.profile_file import MAX_BYTES

HOME = Path(hardware_profiles.__file__).parent
SCHEMA = json.loads((HOME / "schema.json").read_text())
SECTIONS = {
    "features": Features,
    "limits": Limits,
    "energy": Energy,
    "time": Time,
    "arithmetic": Arithmetic,
}
DEVICES = ("cmos45", "lava-stock", "loihi1", "loihi2", "netx", "unlimited")
"""Chips and processors; tests/test_system_profiles.py has the systems."""
UNITS_BY_SUFFIX = {"_pj": "pJ", "_mw": "mW", "_ns": "ns", "_us": "us", "_bits": "bit"}
UNITS_BY_SUFFIX |= {"_steps": "step", "_tiles": "tile", "_compartments": "compartment"}


def raw(name: str = "loihi1") -> dict[str, Any]:
    data = json.loads((HOME / f"{name}.json").read_text())
    assert isinstance(data, dict)
    return data


def write(folder: Path, data: object) -> Path:
    path = folder / "mine.json"
    path.write_text(json.dumps(data))
    return path


def refusal(given: str | Path) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        load(given)
    error = caught.value
    assert error.exit_code == 2
    assert str(error) == (
        f"{error.where}: {error.rule}; found {error.found}, allowed {error.allowed}. {error.remedy}"
    )
    assert all((error.where, error.rule, error.found, error.allowed, error.remedy))
    return error


def test_the_built_in_profiles_exist() -> None:
    assert names() == (
        *("cmos45", "hala-point", "kapoho-bay", "kapoho-point", "lava-stock", "loihi1", "loihi2"),
        *("nahuku32", "netx", "oheo-gulch", "pohoiki-springs", "unlimited"),
    )
    assert {n for n in names() if load(n).system is None} == set(DEVICES)


@pytest.mark.parametrize("name", names())
def test_every_number_has_unit_source_and_confidence(name: str) -> None:
    profile = load(name)
    quantities = dict(profile.quantities())
    assert quantities, name
    for key, q in quantities.items():
        assert q.source.strip(), key
        assert q.confidence in CONFIDENCES, key
        assert q.unit, key
        for suffix, unit in UNITS_BY_SUFFIX.items():
            if key.endswith(suffix):
                assert q.unit == unit, key


@pytest.mark.parametrize("name", DEVICES)
def test_loading_changes_nothing(name: str) -> None:
    profile, data = load(name), raw(name)
    found = {key: vars(q) for key, q in profile.quantities()}
    expected = {
        f"{section}.{key}": q
        for section in SECTIONS
        for key, q in (data[section] or {}).items()
        if q is not None
    }
    assert found == expected
    assert (profile.name, profile.title) == (name, data["title"])
    assert (profile.kind, profile.calibrated) == (data["kind"], data["calibrated"])


def test_values_that_the_compiler_and_the_documentation_rely_on() -> None:
    loihi1, loihi2, unlimited = load("loihi1"), load("loihi2"), load("unlimited")
    assert [p.features.graded_spikes.value for p in (loihi1, loihi2, unlimited)] == [
        False,
        True,
        True,
    ]
    assert [p.features.threshold_sharing.value for p in (loihi1, loihi2, unlimited)] == [
        "population",
        "channel",
        "neuron",
    ]
    assert [p.features.soft_reset_compartments.value for p in (loihi1, loihi2)] == [2, 1]
    assert [p.calibrated for p in (loihi1, loihi2, unlimited)] == [True, False, False]
    bits = {n: load(n).limits.state_bits.value for n in names()}
    assert bits == {**dict.fromkeys(names(), 24), "netx": 18}
    known = [key for key, _ in unlimited.quantities() if key.startswith("limits.")]
    assert known == ["limits.state_bits"]
    assert unlimited.energy is None and unlimited.time is None and unlimited.arithmetic is None
    assert load("cmos45").kind == "processor"
    delay = loihi1.limits.max_delay_steps
    assert delay is not None and (delay.value, delay.confidence) == (62, "recalled")


def test_relays_need_graded_spikes() -> None:
    relays = {n: load(n).features.relay_populations.value for n in DEVICES}
    assert relays == {
        **{"loihi1": False, "loihi2": True, "unlimited": True, "cmos45": True},
        **{"lava-stock": False, "netx": False},
    }
    assert not [n for n in DEVICES if relays[n] and not load(n).features.graded_spikes.value]


@pytest.mark.parametrize("name", names())
def test_a_mesh_has_a_place_for_every_core(name: str) -> None:
    limits = load(name).limits
    sides = (limits.mesh_width_tiles, limits.mesh_height_tiles, limits.cores_per_tile)
    values = [side.value for side in sides if side is not None]
    if name in ("cmos45", "lava-stock", "netx", "unlimited"):
        assert (values, limits.cores_per_chip) == ([], None)
    else:
        assert values == [8, 4, 4]
        assert limits.cores_per_chip is not None
        assert 100 < limits.cores_per_chip.value <= 128


def test_a_mesh_too_small_for_its_cores_is_refused(tmp_path: Path) -> None:
    data = raw("loihi1")
    put(data, "limits.cores_per_chip.value", 129)
    error = refusal(write(tmp_path, data))
    assert error.rule == "the mesh of a chip has a place for every core"
    assert error.found == "8 x 4 tiles of 4 cores for 129 cores"
    put(data, "limits.mesh_width_tiles", None)
    assert load(write(tmp_path, data)).limits.mesh_width_tiles is None


def test_a_profile_is_frozen() -> None:
    profile = load("loihi2")
    with pytest.raises(FrozenInstanceError):
        profile.features.graded_spikes.value = False  # type: ignore[misc]


def test_schema_and_dataclasses_agree() -> None:
    device = SCHEMA["$defs"]["device"]["properties"]
    assert device.keys() == {"kind", "title", "calibrated", *SECTIONS}
    for section, cls in SECTIONS.items():
        rule = SCHEMA["$defs"][section]
        keys = [f.name for f in fields(cls)]
        assert list(rule["properties"]) == keys
        assert device[section]["required"] == keys
        hints = get_type_hints(cls)
        for key, reference in rule["properties"].items():
            inner = SCHEMA["$defs"][reference["$ref"].rpartition("/")[2]]
            assert ("null" in inner["type"]) == (type(None) in get_args(hints[key])), key
    assert SCHEMA["$defs"]["confidence"]["enum"] == list(CONFIDENCES)


def test_the_loader_knows_every_keyword_of_the_schema() -> None:
    known = {"const", "enum", "type", "pattern", "minimum", "maximum", "$ref"}
    known |= {"properties", "required", "additionalProperties", "if", "then", "else"}

    def keywords(rule: dict[str, Any]) -> set[str]:
        branches = [rule[k] for k in ("if", "then", "else") if k in rule]
        inner = [keywords(r) for r in (*branches, *rule.get("properties", {}).values())]
        return set(rule).union(*inner)

    notes = {"$schema", "$defs", "title", "description"}
    found = keywords(SCHEMA).union(*(keywords(r) for r in SCHEMA["$defs"].values()))
    assert found - notes == known
    assert all(r.get("additionalProperties", False) is False for r in SCHEMA["$defs"].values())


def test_confidence_factors_widen_with_doubt() -> None:
    factors = [trust.factor for trust in CONFIDENCES.values()]
    assert factors == sorted(factors) and factors[0] > 1
    assert all(t.meaning and t.reason for t in CONFIDENCES.values())


@pytest.mark.parametrize("name", DEVICES)
def test_every_key_is_needed(name: str, tmp_path: Path) -> None:
    data = raw(name)
    tried = 0
    for section in SECTIONS:
        for key, quantity in (data[section] or {}).items():
            for member in (None, *(quantity or {})):
                changed = copy.deepcopy(data)
                del (changed[section] if member is None else changed[section][key])[member or key]
                error = refusal(write(tmp_path, changed))
                where = f"mine.json {section}" if member is None else f"mine.json {section}.{key}"
                assert error.where == where
                assert error.rule == "no key is missing"
                assert error.found == f"no {member or key!r}"
                tried += 1
    assert tried >= 4 * 4


def put(data: dict[str, Any], key: str, value: object) -> None:
    *folders, last = key.split(".")
    for folder in folders:
        data = data[folder]
    data[last] = value


WRONG = [
    ("energy.synop_pj.unit", "nJ", "the unit is fixed by the key's name", "pJ"),
    ("energy.synop_pj.value", -1, "the value is in range", "0..1000000000000"),
    ("energy.synop_pj.value", "35", "the type is right", "number"),
    ("energy.synop_pj.value", True, "the type is right", "number"),
    ("energy.synop_pj.value", None, "the type is right", "number"),
    ("energy.synop_pj.value", float("nan"), "the value is in range", "0..1000000000000"),
    ("energy.synop_pj.value", float("inf"), "the value is in range", "0..1000000000000"),
    ("energy.synop_pj.source", " ", "the text is not empty", "a text"),
    ("energy.synop_pj.source", 7, "the type is right", "string"),
    ("energy.synop_pj.confidence", "sure", "the value is one of a list", "measured, published"),
    ("energy.synop_pj", 35.5, "the type is right", "object"),
    ("energy.synop_pj", None, "the type is right", "object"),
    ("limits.weight_bits.value", 8.5, "the type is right", "integer"),
    ("limits.neurons_per_core.value", 0, "the value is in range", "1..1000000000"),
    ("features.graded_spikes.value", 1, "the type is right", "boolean"),
    ("features.threshold_sharing.value", "core", "the value is one of a list", "population"),
    ("kind", "analog", "the value is one of a list", "neuromorphic, processor, system"),
    ("title", "", "the text is not empty", "a text"),
    ("calibrated", "yes", "the type is right", "boolean"),
    ("limits", None, "the type is right", "object"),
]


@pytest.mark.parametrize(("key", "value", "rule", "allowed"), WRONG)
def test_wrong_values_are_refused_by_key(
    key: str, value: object, rule: str, allowed: str, tmp_path: Path
) -> None:
    data = raw()
    put(data, key, value)
    error = refusal(write(tmp_path, data))
    assert (error.where, error.rule) == (f"mine.json {key}", rule)
    assert error.allowed.startswith(allowed)


@pytest.mark.parametrize(
    ("key", "where", "remedy"),
    [
        ("limits.wieght_bits", "mine.json limits", "Did you mean 'weight_bits'?"),
        ("energy.synop_pj.sauce", "mine.json energy.synop_pj", "Did you mean 'source'?"),
        ("zzz", "mine.json", "Remove the key."),
    ],
)
def test_unknown_keys_are_refused(key: str, where: str, remedy: str, tmp_path: Path) -> None:
    data = raw()
    put(data, key, 1)
    error = refusal(write(tmp_path, data))
    assert (error.where, error.rule, error.remedy) == (where, "every key is known", remedy)
    assert error.found == f"key {key.rpartition('.')[2]!r}"


@pytest.mark.parametrize(
    ("content", "rule", "found"),
    [
        (b"{", "a profile is JSON", "line 1"),
        (b"", "a profile is JSON", "line 1"),
        (b"\xff\xfe{}", "a profile is JSON", "utf-8"),
        (b'{"kind": 1, "kind": 2}', "a profile is JSON", "key 'kind' given twice"),
        (b"[" * 100_000, "a profile is JSON", ""),
        (b"[]", "the type is right", "[]"),
    ],
)
def test_files_that_are_no_profile(content: bytes, rule: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    error = refusal(path)
    assert error.rule == rule
    assert found in error.found
    assert "mine.json" in error.where


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = refusal(str(tmp_path / "none.json"))
    assert (missing.rule, missing.found) == ("the profile can be read", "No such file or directory")
    assert refusal(tmp_path).rule == "the profile can be read"
    pipe = tmp_path / "pipe.json"
    os.mkfifo(pipe)  # reading would wait for a writer
    assert (refusal(pipe).rule, refusal(pipe).found) == ("the profile can be read", "no file")


def test_no_more_is_read_than_a_profile_has(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(b" " * (MAX_BYTES + 1))
    assert "more than" in refusal(path).found


def test_a_model_file_opens_no_other_file(tmp_path: Path) -> None:
    """What it says about its chip is a name, whatever stands there."""
    copy = tmp_path / "loihi2.json"
    shutil.copy(HOME / "loihi2.json", copy)
    assert load(copy).name == load_recorded("loihi2").name
    for name in (str(copy), "mine", ""):
        with pytest.raises(ProfileError, match="--profile") as refused:
            load_recorded(name, "here")
        assert refused.value.where == "here"


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("loihi", "Did you mean loihi2 or loihi1?"),
        ("hala_point", "Did you mean hala-point or kapoho-point?"),
        ("Loihi1", "Did you mean loihi1 or loihi2?"),
        ("unlimitted", "Did you mean unlimited?"),
        ("truenorth", "Choose one of these."),
        ("schema", "Choose one of these."),
        ("", "Choose one of these."),
    ],
)
def test_unknown_names_suggest_known_ones(given: str, remedy: str) -> None:
    error = refusal(given)
    assert error.remedy == remedy
    assert error.allowed == ", ".join(names())
    assert repr(given) in error.found


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    data = raw("loihi2")
    put(data, "energy.synop_pj.value", 11)
    path = write(tmp_path, data)
    for given in (path, str(path)):
        profile = load(given)
        assert profile.name == "mine"
        assert profile.energy is not None and profile.energy.synop_pj.value == 11


def test_loading_needs_the_standard_library_only() -> None:
    code = (
        "import sys, lapilli.hardware_profiles as h; h.load('loihi1');"
        "print(sorted({'numpy', 'torch', 'jsonschema', 'h5py', 'lava'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_loader_agrees_with_the_jsonschema_package(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="the package jsonschema is not installed")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    # NaN is no JSON, so the package has no opinion about it.
    judged = [(key, value) for key, value, *_ in WRONG if str(value) != "nan"]
    assert len(judged) == len(WRONG) - 1
    assert validator.is_valid(raw())
    for key, value in judged:
        data = raw()
        put(data, key, value)
        assert not validator.is_valid(data), key
        refusal(write(tmp_path, data))
