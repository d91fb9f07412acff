"""Hardware profiles: what a chip allows, and what one event costs on it in energy and time.

One JSON file per device; `schema.json` is the only statement of the keys, their types and units,
and `load` refuses a file that departs from it, naming the key. Every number carries its unit, its
source and a confidence; `CONFIDENCES` says what each confidence means and how far such a number
may be off. `None` stands for "no such limit or event is known". Units are in the names: `_pj`,
`_mw`, `_ns`, `_us`, `_bits`, `_steps`, `_per_core`. Only the standard library is needed.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Generic, Literal, NoReturn, TypeVar, final

_HOME = Path(__file__).parent
_SCHEMA = "schema"

Confidence = Literal["measured", "published", "quoted", "inferred", "recalled", "assumed"]
Sharing = Literal["population", "channel", "neuron"]
Division = Literal["any", "power-of-two"]
SoftReset = Literal["subtracted", "kept apart"]
_V = TypeVar("_V")
_S = TypeVar("_S")


@final
class ProfileError(ValueError):
    """A profile that does not exist, cannot be used, or breaks the schema (exit code 2)."""

    exit_code: ClassVar[int] = 2

    def __init__(self, where: str, rule: str, *, found: object, allowed: object, remedy: str):
        self.where = where
        self.rule = rule
        self.found = str(found)
        self.allowed = str(allowed)
        self.remedy = remedy
        super().__init__(where, rule)

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.rule}; found {self.found}, allowed {self.allowed}. {self.remedy}"
        )


@final
@dataclass(frozen=True)
class Trust:
    """What a confidence means, and the factor within which the true value is taken to lie."""

    meaning: str
    factor: float
    reason: str


CONFIDENCES: Mapping[Confidence, Trust] = MappingProxyType(
    {
        "measured": Trust(
            "measured on silicon, read in the primary artefact",
            1.25,
            "two measured static powers of one Loihi 2 chip, 0.232 and 0.282 W, are 1.22 apart",
        ),
        "published": Trust(
            "published, read in a primary or near-primary text",
            1.5,
            "two published energies of a Loihi 1 synaptic event, 23.6 and 35.5 pJ, are 1.50 apart",
        ),
        "quoted": Trust(
            "stated by someone else, the original not read",
            2.0,
            "our judgement: between a published and an inferred number",
        ),
        "inferred": Trust(
            "derived by us, the derivation is in the source",
            3.0,
            "a Loihi 2 synaptic event: 9.5 pJ by itself, about 30 pJ if it alone carried the power",
        ),
        "recalled": Trust(
            "recalled from a text that we could not read; check before citing",
            3.0,
            "our judgement: no better than an inferred number",
        ),
        "assumed": Trust(
            "chosen by us, nothing stands behind it",
            5.0,
            "our judgement: the order of magnitude only",
        ),
    }
)


@final
@dataclass(frozen=True)
class Quantity(Generic[_V]):
    """One value with what is needed to trust it: unit, source, confidence."""

    value: _V
    unit: str
    source: str
    confidence: Confidence


Real = Quantity[float]
Count = Quantity[int]


@final
@dataclass(frozen=True)
class Features:
    """What a network may use on the device.

    programmable_neurons: are neurons programs that compare, shift and multiply as they like?
    threshold_sharing is the finest granularity at which thresholds may differ;
    threshold_division what a neuron that counts thresholds in its membrane can divide by;
    soft_reset how a neuron subtracts its threshold: from its membrane, or "kept apart" in a second
    variable, so that the membrane goes on adding up, in units of 2**-threshold_exponent, and its
    starting charge is half an even threshold (Lava's ATRLIF);
    soft_reset_compartments how many compartments a neuron takes that subtracts its threshold.
    """

    graded_spikes: Quantity[bool]
    programmable_neurons: Quantity[bool]
    threshold_sharing: Quantity[Sharing]
    threshold_division: Quantity[Division]
    soft_reset: Quantity[SoftReset]
    soft_reset_compartments: Count


@final
@dataclass(frozen=True)
class Limits:
    """What a network must fit; None where no limit is known. Widths include the sign."""

    weight_bits: Count | None
    weight_exponent_min: Count | None
    weight_exponent_max: Count | None
    synapse_accumulator_bits: Count | None
    state_bits: Count
    decay_bits: Count | None
    bias_mantissa_bits: Count | None
    bias_exponent_bits: Count | None
    threshold_mantissa_bits: Count | None
    threshold_exponent: Count | None
    payload_bits: Count | None
    max_delay_steps: Count | None
    max_refractory_steps: Count | None
    neurons_per_core: Count | None
    cores_per_chip: Count | None
    cores_per_tile: Count | None
    mesh_width_tiles: Count | None
    mesh_height_tiles: Count | None
    x86_cores_per_chip: Count | None
    memory_word_bits: Count | None
    synapse_words_per_core: Count | None
    synapse_words_per_axon: Count | None
    dense_synapse_bits: Count | None
    conv_synapse_bits: Count | None
    conv_row_overhead_bits: Count | None
    pool_words_per_core: Count | None
    neuron_words: Count | None
    input_axons_per_core: Count | None
    output_axons_per_core: Count | None
    input_axon_words_per_core: Count | None
    axon_map_words_per_core: Count | None
    axon_memory_words_per_core: Count | None
    synapse_formats_per_core: Count | None
    compartment_profiles_per_core: Count | None
    threshold_profiles_per_core: Count | None
    neuron_groups_per_core: Count | None
    destination_groups_per_core: Count | None


@final
@dataclass(frozen=True)
class Energy:
    """Energy per event in pJ, and power in mW, of a neuromorphic chip.

    neuron_access is paid by every neuron in every step, neuron_update on top of it by one that is
    updated; axon_out is one packet to one core; chip_running is drawn on top of chip_static once
    x86 cores and mesh run; busy_core is drawn by each core in use. None: not known separately.
    """

    synop_pj: Real
    neuron_access_pj: Real | None
    neuron_update_pj: Real
    spike_pj: Real | None
    axon_out_pj: Real | None
    hop_east_west_pj: Real | None
    hop_north_south_pj: Real | None
    chip_static_mw: Real
    chip_running_mw: Real | None
    busy_core_mw: Real | None


@final
@dataclass(frozen=True)
class Time:
    """Time per event on one core in ns; barrier between steps; shortest step observed in us."""

    synop_ns: Real
    neuron_access_ns: Real | None
    neuron_update_ns: Real | None
    spike_ns: Real | None
    axon_out_ns: Real | None
    axon_in_ns: Real | None
    hop_east_west_ns: Real | None
    hop_north_south_ns: Real | None
    barrier_ns: Real | None
    step_floor_us: Real


@final
@dataclass(frozen=True)
class Arithmetic:
    """Energy per operation of a processor in pJ; mac multiplies and accumulates, ac only adds."""

    fp32_mac_pj: Real
    fp32_ac_pj: Real
    fp16_mac_pj: Real | None
    fp16_ac_pj: Real | None
    int8_mac_pj: Real
    int8_ac_pj: Real
    int32_mac_pj: Real | None
    int32_ac_pj: Real | None


@final
@dataclass(frozen=True)
class Profile:
    """One device. `calibrated`: its constants per event were fitted to silicon by their source."""

    name: str
    kind: Literal["neuromorphic", "processor"]
    title: str
    calibrated: bool
    features: Features
    limits: Limits
    energy: Energy | None
    time: Time | None
    arithmetic: Arithmetic | None

    def quantities(self) -> Iterator[tuple[str, Quantity[Any]]]:
        """Every known value as ("energy.synop_pj", quantity), in the order of the file."""
        for name in ("features", "limits", "energy", "time", "arithmetic"):
            section = getattr(self, name)
            for field in fields(section) if section is not None else ():
                quantity = getattr(section, field.name)
                if quantity is not None:
                    yield f"{name}.{field.name}", quantity


def names() -> tuple[str, ...]:
    """The built-in profiles, in alphabetical order."""
    return tuple(sorted(p.stem for p in _HOME.glob("*.json") if p.stem != _SCHEMA))


def load(name_or_path: str | Path) -> Profile:
    """The profile of that name, or the one in that file (a Path, or a string ending in .json).

    Raises ProfileError for an unknown name, an unreadable file, and any departure from the schema.

    >>> load("loihi1").limits.neurons_per_core.value
    1024
    """
    given = str(name_or_path)
    if isinstance(name_or_path, Path) or given.endswith(".json"):
        path = Path(name_or_path)
    elif given in names():
        path = _HOME / f"{given}.json"
    else:
        close = difflib.get_close_matches(given.lower(), names(), n=2, cutoff=0.5)
        raise ProfileError(
            "profile",
            "the name is known or ends in .json",
            found=repr(given),
            allowed=", ".join(names()),
            remedy=f"Did you mean {' or '.join(close)}?" if close else "Choose one of these.",
        )
    data = _read(path)
    schema = _read(_HOME / f"{_SCHEMA}.json")
    _check(data, schema, schema["$defs"], path.name, "")
    return Profile(
        name=path.stem,
        kind=data["kind"],
        title=data["title"],
        calibrated=data["calibrated"],
        features=_section(Features, data["features"]),
        limits=_section(Limits, data["limits"]),
        energy=None if data["energy"] is None else _section(Energy, data["energy"]),
        time=None if data["time"] is None else _section(Time, data["time"]),
        arithmetic=None if data["arithmetic"] is None else _section(Arithmetic, data["arithmetic"]),
    )


def _section(cls: type[_S], data: Mapping[str, Any]) -> _S:
    return cls(**{key: None if q is None else Quantity(**q) for key, q in data.items()})


def _read(path: Path) -> Any:
    """The file as JSON; a key given twice is refused, for JSON would silently keep the last."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in items]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ValueError(f"key {twice[0]!r} given twice")
        return dict(items)

    try:
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=pairs)
    except OSError as error:
        found = error.strerror or str(error)
        rule, allowed, remedy = "the profile can be read", "a file", "Check the path."
    except (ValueError, RecursionError) as error:
        found, rule, allowed = str(error), "a profile is JSON", "JSON with each key once, in UTF-8"
        remedy = "Correct the file, or begin with a copy of a built-in profile."
    raise ProfileError(str(path), rule, found=found, allowed=allowed, remedy=remedy)


_TYPES: Mapping[str, tuple[type, ...]] = MappingProxyType(
    {
        "object": (dict,),
        "null": (type(None),),
        "string": (str,),
        "boolean": (bool,),
        "integer": (int,),
        "number": (int, float),
    }
)


def _check(value: Any, rule: Mapping[str, Any], defs: Any, file: str, key: str) -> None:
    """Raise unless `value` obeys `rule`: the part of JSON Schema that schema.json uses.

    Stricter than JSON Schema in one point: 1.0 is not an integer.
    """

    def refuse(law: str, found: object, allowed: object, remedy: str) -> NoReturn:
        where = f"{file} {key}".rstrip()
        raise ProfileError(where, law, found=found, allowed=allowed, remedy=remedy)

    if "$ref" in rule:
        rule = defs[rule["$ref"].rpartition("/")[2]]
    if "const" in rule and value != rule["const"]:
        refuse("the unit is fixed by the key's name", _brief(value), rule["const"], "Convert it.")
    if "enum" in rule and value not in rule["enum"]:
        refuse("the value is one of a list", _brief(value), ", ".join(rule["enum"]), "Choose one.")
    if "type" in rule:
        kinds = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
        if not any(_is(value, kind) for kind in kinds):
            remedy = "Give an object with value, unit, source and confidence."
            remedy = remedy if "object" in kinds else "Correct the value."
            refuse("the type is right", _brief(value), " or ".join(kinds), remedy)
    if "pattern" in rule and not re.search(rule["pattern"], value):
        refuse("the text is not empty", repr(value), "a text", "Say where the value comes from.")
    if "minimum" in rule and not rule["minimum"] <= value <= rule["maximum"]:
        allowed = f"{rule['minimum']}..{rule['maximum']}"
        refuse("the value is in range", value, allowed, "Correct the value.")
    if "properties" in rule and isinstance(value, dict):
        known = rule["properties"]
        unknown = next((k for k in value if k not in known), None)
        if unknown is not None:
            close = difflib.get_close_matches(unknown, known, n=1)
            remedy = f"Did you mean {close[0]!r}?" if close else "Remove the key."
            refuse("every key is known", f"key {unknown!r}", ", ".join(known), remedy)
        missing = [k for k in rule["required"] if k not in value]
        if missing:
            remedy = "Add it; null where nothing is known."
            remedy = "Add it: no number stands alone." if "unit" in known else remedy
            refuse("no key is missing", f"no {missing[0]!r}", ", ".join(rule["required"]), remedy)
        for name, inner in known.items():
            _check(value[name], inner, defs, file, f"{key}.{name}".lstrip("."))


def _is(value: Any, kind: str) -> bool:
    # bool is an int in Python, but not in JSON.
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
