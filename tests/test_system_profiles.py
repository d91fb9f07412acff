"""Systems of chips: what they have from their chip, what is their own, and what is refused."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from command_line import Run, SmallNetwork

import lapilli
from lapilli import data as data_sets
from lapilli import hardware_profiles
from lapilli.hardware_profiles import (
    CONFIDENCES,
    Features,
    Profile,
    ProfileError,
    System,
    load,
    names,
)

HOME = Path(hardware_profiles.__file__).parent
SCHEMA = json.loads((HOME / "schema.json").read_text())
DOCUMENT = (Path(__file__).parents[1] / "docs" / "profiles.md").read_text("utf-8")
CHIPS = {
    "hala-point": ("loihi2", 1152),
    "kapoho-bay": ("loihi1", 2),
    "kapoho-point": ("loihi2", 8),
    "nahuku32": ("loihi1", 32),
    "oheo-gulch": ("loihi2", 1),
    "pohoiki-springs": ("loihi1", 768),
}


def raw(name: str = "kapoho-point") -> dict[str, Any]:
    data = json.loads((HOME / f"{name}.json").read_text())
    assert isinstance(data, dict)
    return data


def put(data: dict[str, Any], key: str, value: object) -> None:
    *folders, last = key.split(".")
    for folder in folders:
        data = data.setdefault(folder, {})
    data[last] = value


def write(folder: Path, data: object, name: str = "mine.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(data))
    return path


def refusal(given: str | Path) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        load(given)
    error = caught.value
    assert all((error.where, error.rule, error.found, error.allowed, error.remedy))
    return error


def system_of(profile: Profile) -> System:
    assert profile.system is not None
    return profile.system


def quantity(value: object, unit: str) -> dict[str, object]:
    return {"value": value, "unit": unit, "source": "a test", "confidence": "assumed"}


def test_the_systems_and_their_chips() -> None:
    systems = {n: load(n).system for n in names()}
    found = {n: (s.chip, s.chips.value) for n, s in systems.items() if s is not None}
    assert found == CHIPS


@pytest.mark.parametrize("name", CHIPS)
def test_a_system_is_its_chip_with_changes(name: str) -> None:
    profile, chip, data = load(name), load(CHIPS[name][0]), raw(name)
    system = system_of(profile)
    assert (profile.name, profile.title) == (name, data["title"])
    assert (profile.kind, profile.calibrated) == (chip.kind, chip.calibrated)
    assert (profile.features, profile.arithmetic) == (chip.features, chip.arithmetic)
    assert (profile.energy, profile.time) == (chip.energy, chip.time)
    own = {key: vars(q) for key, q in profile.quantities() if not profile.from_chip(key)}
    expected = {f"system.{k}": q for k, q in data["system"].items() if q is not None}
    for section, changed in data["changes"].items():
        expected |= {f"{section}.{key}": q for key, q in changed.items()}
    assert own == expected
    assert {f"{s}.{k}" for s, new in data["changes"].items() for k in new} == set(system.changes)
    inherited = {key: q for key, q in profile.quantities() if profile.from_chip(key)}
    assert inherited == {k: q for k, q in chip.quantities() if k not in system.changes}
    assert not any(chip.from_chip(key) for key, _ in chip.quantities())


@pytest.mark.parametrize("name", CHIPS)
def test_a_systems_numbers_agree_with_each_other(name: str) -> None:
    profile = load(name)
    system, limits = system_of(profile), profile.limits
    assert system.chips_wide and system.chips_high
    assert system.chips_wide.value * system.chips_high.value == system.chips.value
    assert limits.cores_per_chip and limits.neurons_per_core
    cores = system.chips.value * limits.cores_per_chip.value
    assert system.cores is None or system.cores.value == cores
    if system.neurons is not None:
        assert 0.95 < system.neurons.value / (cores * limits.neurons_per_core.value) <= 1


def test_what_is_known_of_single_systems() -> None:
    hala, oheo = load("hala-point"), load("oheo-gulch")
    assert hala.limits.cores_per_chip and hala.limits.cores_per_chip.value == 122
    assert set(system_of(hala).changes) == {
        "limits.neurons_per_core",
        "limits.cores_per_chip",
        "limits.x86_cores_per_chip",
    }
    power = system_of(hala).max_power_mw
    assert power and (power.value, power.unit) == (2_600_000, "mW")
    static, x86 = system_of(oheo).board_static_mw, system_of(oheo).x86_mw
    assert static and x86 and (static.value, x86.value) == (1780, 1560)
    links = [(system_of(load(n)).chip_hop_pj, system_of(load(n)).chip_hop_ns) for n in CHIPS]
    assert links == [(None, None)] * len(CHIPS)  # published for none of them


def test_schema_and_system_agree() -> None:
    rule = SCHEMA["$defs"]["system"]["properties"]["system"]
    keys = [f.name for f in fields(System) if f.name not in ("chip", "changes")]
    assert list(rule["properties"]) == rule["required"] == keys
    hints = get_type_hints(System)
    for key, reference in rule["properties"].items():
        inner = SCHEMA["$defs"][reference["$ref"].rpartition("/")[2]]
        assert ("null" in inner["type"]) == (type(None) in get_args(hints[key])), key


@pytest.mark.parametrize("name", names())
def test_every_file_obeys_the_schema_in_the_eyes_of_another(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="the package jsonschema is not installed")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(raw(name))


@pytest.mark.parametrize("name", CHIPS)
def test_every_key_of_a_system_is_needed(name: str, tmp_path: Path) -> None:
    data = raw(name)
    paths: list[tuple[str, ...]] = [(key,) for key in data if key != "kind"]
    paths += [("system", key) for key in data["system"]]
    paths += [("system", k, part) for k, q in data["system"].items() for part in q or ()]
    assert len(paths) > 4 + 11 + 4
    for path in paths:
        folders, last = path[:-1], path[-1]
        changed = inner = copy.deepcopy(data)
        for folder in folders:
            inner = inner[folder]
        del inner[last]
        error = refusal(write(tmp_path, changed))
        assert error.where == f"mine.json {'.'.join(folders)}".rstrip()
        assert (error.rule, error.found) == ("no key is missing", f"no {last!r}")


WRONG = [
    ("system.chips.value", 0, "the value is in range", "1..1000000000"),
    ("system.chips.value", 8.0, "the type is right", "integer"),
    ("system.chips.unit", "board", "the unit is fixed by the key's name", "chip"),
    ("system.chips.source", "", "the text is not empty", "a text"),
    ("system.chips", None, "the type is right", "object"),
    ("system.chips", 8, "the type is right", "object"),
    ("system.chip_hop_pj", quantity(-1, "pJ"), "the value is in range", "0.."),
    ("system.x86_mw", quantity(1, "W"), "the unit is fixed by the key's name", "mW"),
    ("system", None, "the type is right", "object"),
    ("chip", 2, "the type is right", "string"),
    ("chip", " ", "the text is not empty", "a text"),
    ("changes", None, "the type is right", "object"),
    ("changes.limits", None, "the type is right", "object"),
    ("changes.limits.cores_per_chip", 7, "the type is right", "object"),
    ("changes.energy.synop_pj", None, "the type is right", "object"),
    ("changes.limits.cores_per_chip", quantity(0, "core"), "the value is in range", "1.."),
    ("title", "", "the text is not empty", "a text"),
]


@pytest.mark.parametrize(("key", "value", "rule", "allowed"), WRONG)
def test_wrong_values_are_refused_by_key(
    key: str, value: object, rule: str, allowed: str, tmp_path: Path
) -> None:
    data = raw()
    put(data, key, value)
    error = refusal(write(tmp_path, data))
    assert error.where.startswith(f"mine.json {key}")
    assert error.rule == rule
    assert error.allowed.startswith(allowed)
    jsonschema = pytest.importorskip("jsonschema", reason="the package jsonschema is not installed")
    # Only Python tells 8.0 from 8.
    assert jsonschema.Draft202012Validator(SCHEMA).is_valid(data) == isinstance(value, float)


@pytest.mark.parametrize(
    ("key", "where", "remedy"),
    [
        ("system.chip_wide", "mine.json system", "Did you mean 'chips_wide'?"),
        ("changes.limits.core_per_chip", "mine.json changes.limits", "Did you mean 'cores_per_"),
        ("changes.features", "mine.json changes", "Remove the key."),
        ("calibrated", "mine.json", "Remove the key."),
        ("chips", "mine.json", "Did you mean 'chip'?"),
    ],
)
def test_unknown_keys_are_refused(key: str, where: str, remedy: str, tmp_path: Path) -> None:
    data = raw()
    put(data, key, 1)
    error = refusal(write(tmp_path, data))
    assert (error.where, error.rule) == (where, "every key is known")
    assert error.remedy.startswith(remedy)


def test_an_unknown_chip_is_refused(tmp_path: Path) -> None:
    data = raw()
    data["chip"] = "loihi-2"
    error = refusal(write(tmp_path, data))
    assert (error.where, error.found) == ("mine.json chip", "'loihi-2'")
    assert error.remedy.startswith("Did you mean loihi2")
    data["chip"] = "gone.json"
    error = refusal(write(tmp_path, data))
    assert (error.rule, error.found) == ("the profile can be read", "No such file or directory")
    assert error.where.endswith("gone.json")


@pytest.mark.parametrize(("chip", "kind"), [("cmos45", "processor"), ("hala-point", "system")])
def test_a_chip_that_is_none_is_refused(chip: str, kind: str, tmp_path: Path) -> None:
    data = raw()
    data["chip"] = chip
    error = refusal(write(tmp_path, data))
    assert error.where == "mine.json chip"
    assert error.rule == "a system is made of neuromorphic chips"
    assert error.found == f"{chip!r}, a {kind}"


def test_cycles_are_refused(tmp_path: Path) -> None:
    data = raw()
    data["chip"] = "mine.json"
    itself = refusal(write(tmp_path, data))
    assert itself.found == "'mine.json', the system itself"
    data["chip"] = "other.json"
    path = write(tmp_path, data)
    write(tmp_path, {**data, "chip": "mine.json"}, "other.json")
    assert refusal(path).found == "'other.json', a system"


@pytest.mark.parametrize(
    ("wide", "high", "found"),
    [(3, 3, "3 x 3"), (7, 1, "7 x 1"), (8, None, "8 x null"), (None, 8, "null x 8")],
)
def test_an_arrangement_holds_the_chips(
    wide: int | None, high: int | None, found: str, tmp_path: Path
) -> None:
    data = raw()
    for key, side in (("chips_wide", wide), ("chips_high", high)):
        put(data, f"system.{key}", None if side is None else quantity(side, "chip"))
    error = refusal(write(tmp_path, data))
    assert (error.where, error.found) == ("mine.json system", f"{found} places for 8 chips")


def test_changes_that_the_chip_cannot_take(tmp_path: Path) -> None:
    data = raw()
    put(data, "changes.limits.cores_per_chip", quantity(129, "core"))
    assert refusal(write(tmp_path, data)).rule == "the mesh of a chip has a place for every core"
    data = {**raw(), "chip": "unlimited", "changes": {"energy": {"synop_pj": quantity(1, "pJ")}}}
    error = refusal(write(tmp_path, data))
    assert error.where == "mine.json changes.energy"
    assert error.found == "synop_pj, and a chip without energy"


def test_a_system_of_ones_own_with_a_chip_of_ones_own(tmp_path: Path) -> None:
    chip = raw("loihi1")
    put(chip, "limits.cores_per_chip.value", 100)
    (tmp_path / "chips").mkdir()
    write(tmp_path / "chips", chip, "chip.json")
    data = raw()
    data["chip"] = "chips/chip.json"
    data["changes"] = {
        "limits": {"neurons_per_core": quantity(512, "compartment"), "decay_bits": None},
        "energy": {},
    }
    put(data, "system.chips_wide", None)
    put(data, "system.chips_high", None)
    path = write(tmp_path, data)
    for given in (path, str(path)):
        profile = load(given)
        system, limits = system_of(profile), profile.limits
        assert (profile.name, system.chip, system.chips.value) == ("mine", "chip", 8)
        assert system.changes == ("limits.neurons_per_core", "limits.decay_bits")
        assert limits.cores_per_chip and limits.cores_per_chip.value == 100
        assert limits.neurons_per_core and limits.neurons_per_core.value == 512
        assert limits.decay_bits is None and "limits.decay_bits" in profile.unknown()
        assert profile.calibrated and system.chips_wide is None


def test_new_constants_are_not_calibrated_ones(tmp_path: Path) -> None:
    assert load("nahuku32").calibrated
    for section, key, unit in (("energy", "synop_pj", "pJ"), ("time", "synop_ns", "ns")):
        data = {**raw("nahuku32"), "changes": {section: {key: quantity(9, unit)}}}
        profile = load(write(tmp_path, data))
        assert getattr(getattr(profile, section), key).value == 9
        assert not profile.calibrated and not profile.from_chip(f"{section}.{key}")


@pytest.mark.parametrize(
    ("name", "method"),
    [("kapoho-point", lapilli.methods.Parallel(levels=4)), ("nahuku32", lapilli.methods.Rate(8))],
)
def test_a_network_goes_to_a_system_as_to_its_chip(name: str, method: object) -> None:
    images = data_sets.load("digits", split="train", limit=32).images
    network = SmallNetwork().eval()
    on_system, on_chip = (
        lapilli.compile(network, calibration=images, method=method, profile=profile)
        for profile in (name, CHIPS[name][0])
    )
    assert on_system.provenance.profile == name
    ours, theirs = (lapilli.estimate(a, images[:2]) for a in (on_system, on_chip))
    assert ours.title == load(name).title
    assert (ours.total, ours.single, ours.cores) == (theirs.total, theirs.single, theirs.cores)
    placed, expected = (lapilli.place(a) for a in (on_system, on_chip))
    assert placed.profile == name
    assert len(placed.cores) == len(expected.cores) > 0


@pytest.mark.parametrize("name", names())
def test_every_constant_is_printed_with_unit_source_and_confidence(
    name: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "2000")  # one line for each
    text, shown = run("profiles", name).out, run("profiles", name, "--json").json
    rows = {r[0]: r[1:] for r in (re.split(r" {2,}", s.strip()) for s in text.splitlines())}
    profile = load(name)
    expected = dict(profile.quantities())
    assert expected.keys() == shown["quantities"].keys()
    for key, q in expected.items():
        assert q.unit and q.source.strip() and q.confidence in CONFIDENCES
        assert rows[key] == [str(q.value), q.unit, q.confidence, q.source]
        printed = shown["quantities"][key]
        assert printed == {**vars(q), "from_chip": profile.from_chip(key)}
        assert shown["confidences"][q.confidence]["factor"] == CONFIDENCES[q.confidence].factor
    sections = ("system.", "features.", "limits.", "energy.", "time.", "arithmetic.")
    assert {key for key in rows if key.startswith(sections)} == expected.keys()
    assert shown["unknown"] == list(profile.unknown())
    assert all(key in text.partition("Not known: ")[2] for key in shown["unknown"])


def test_a_systems_own_numbers_stand_apart(run: Run) -> None:
    own, _, chips = run("profiles", "hala-point").out.partition("From its chip, loihi2")
    assert "system.chips" in own and "limits.cores_per_chip" in own
    assert "limits.state_bits" in chips and "limits.cores_per_chip" not in chips
    assert "From its chip" not in run("profiles", "loihi2").out


def test_profiles_are_listed_with_kind_title_and_calibrated(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {p["name"]: p for p in run("profiles", "--json").json["profiles"]}
    assert tuple(listed) == names()
    monkeypatch.setenv("COLUMNS", "2000")
    text = run("profiles").out
    for name, p in listed.items():
        profile = load(name)
        kind = "system" if name in CHIPS else profile.kind
        chip, chips = CHIPS.get(name, (None, None))
        assert p == {
            "name": name,
            "kind": kind,
            "title": profile.title,
            "calibrated": profile.calibrated,
            "chip": chip,
            "chips": chips,
        }
        holds = f"{chips:,} x {chip}" if chips else "-"
        row = [name, kind, holds, "yes" if profile.calibrated else "no", profile.title]
        assert row in [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def test_a_file_of_ones_own_is_printed(run: Run, tmp_path: Path) -> None:
    path = write(tmp_path, raw("hala-point"), "loihi2.json")  # the name of its own chip
    shown = run("profiles", path, "--json").json
    assert (shown["name"], shown["kind"], shown["chips"]) == ("loihi2", "system", 1152)
    own, _, chips = run("profiles", path).out.partition("From its chip, loihi2")
    assert own.count("system.chips ") == 1 and chips.count("limits.state_bits") == 1
    write(tmp_path, {**raw(), "chips": 3})
    refused = run("profiles", tmp_path / "mine.json")
    assert refused.code == 2
    assert "every key is known" in refused.err and "Traceback" not in refused.err


def test_the_document_has_every_key_and_a_file_that_loads(tmp_path: Path) -> None:
    keys = [f"`{f.name}`" for cls in (Features, System) for f in fields(cls)]
    assert [key for key in keys if key not in DOCUMENT] == []
    assert [c for c in CONFIDENCES if f"`{c}`" not in DOCUMENT] == []
    (example,) = re.findall(r"^```json\n(\{.*?)^```$", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    profile = load(write(tmp_path, json.loads(example)))
    assert system_of(profile).chips.value == 4
    assert profile.limits == load("loihi2").limits
