"""Hardware profiles: what a chip allows, and what one event costs on it in energy and time.

One JSON file per chip, processor or system of chips; `schema.json` is the only statement of the
keys, their types and units, and `load` refuses a file that departs from it, naming the key. Every
number carries its unit, its source and a confidence; `CONFIDENCES` says what each confidence means
and how far such a number may be off. `None` stands for "no such limit or event is known". Units are
in the names: `_pj`, `_mw`, `_ns`, `_us`, `_bits`, `_steps`, `_per_core`. docs/profiles.md explains
the keys. Only the standard library is needed.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from lapilli.hardware_profiles.profile import (
    Arithmetic,
    Energy,
    Features,
    Limits,
    Profile,
    System,
    Time,
)
from lapilli.hardware_profiles.profile_file import HOME, ProfileError, built_in, read
from lapilli.hardware_profiles.quantity import CONFIDENCES, Confidence, Count, Quantity, Real, Trust

__all__ = [
    "CONFIDENCES",
    "Arithmetic",
    "Confidence",
    "Count",
    "Energy",
    "Features",
    "Limits",
    "Profile",
    "ProfileError",
    "Quantity",
    "Real",
    "System",
    "Time",
    "Trust",
    "load",
    "load_recorded",
    "names",
]

_S = TypeVar("_S", Features, Limits, Energy, Time, Arithmetic)


def names() -> tuple[str, ...]:
    """The built-in profiles, in alphabetical order."""
    return built_in()


def load(name_or_path: str | Path) -> Profile:
    """The profile of that name, or the one in that file (a Path, or a string ending in .json).

    Raises ProfileError for an unknown name, an unreadable file, any departure from the schema, and
    a system whose chip cannot be one.

    >>> load("loihi1").limits.neurons_per_core.value
    1024
    >>> load("kapoho-point").system.chips.value
    8
    """
    given = str(name_or_path)
    path = Path(given) if isinstance(name_or_path, Path) else _file(given, Path(), "profile")
    data = read(path)
    profile = _system(path, data) if data["kind"] == "system" else _device(path.stem, data)
    _check_mesh(path.name, profile.limits)
    return profile


def load_recorded(name: str, where: str = "the model file: profile") -> Profile:
    """The built-in profile that a model file names: what somebody wrote there opens no other file.

    Raises ProfileError for any other name; where: of the name, for the message.

    >>> load_recorded("loihi2").name
    'loihi2'
    """
    if name in names():
        return load(name)
    raise ProfileError(
        where,
        "the chip that a network was compiled for is known by name",
        found=repr(name),
        allowed=", ".join(names()),
        remedy="Give the file of this profile, or another profile: --profile, profile=.",
    )


def _file(given: str, folder: Path, where: str) -> Path:
    """The file that a name stands for, or the path itself, seen from the folder."""
    if given.endswith(".json"):
        return folder / given
    if given in names():
        return HOME / f"{given}.json"
    close = difflib.get_close_matches(given.lower(), names(), n=2, cutoff=0.5)
    raise ProfileError(
        where,
        "the name is known or ends in .json",
        found=repr(given),
        allowed=", ".join(names()),
        remedy=f"Did you mean {' or '.join(close)}?" if close else "Choose one of these.",
    )


def _device(name: str, data: Mapping[str, Any]) -> Profile:
    return Profile(
        name=name,
        kind=data["kind"],
        title=data["title"],
        calibrated=data["calibrated"],
        features=_section(Features, data["features"]),
        limits=_section(Limits, data["limits"]),
        energy=None if data["energy"] is None else _section(Energy, data["energy"]),
        time=None if data["time"] is None else _section(Time, data["time"]),
        arithmetic=None if data["arithmetic"] is None else _section(Arithmetic, data["arithmetic"]),
    )


def _system(path: Path, data: Mapping[str, Any]) -> Profile:
    """The chip with the system's changes; new constants per event are not the calibrated ones."""
    chip = _chip_of(path, data["chip"])
    changes: Mapping[str, Mapping[str, Any]] = data["changes"]
    changed = {s: _changed(path.name, s, getattr(chip, s), new) for s, new in changes.items()}
    keys = tuple(f"{section}.{key}" for section, new in changes.items() for key in new)
    system = System(chip=chip.name, changes=keys, **_quantities(data["system"]))
    _check_arrangement(path.name, system)
    return replace(
        chip,
        name=path.stem,
        title=data["title"],
        calibrated=chip.calibrated and not any(k.startswith(("energy.", "time.")) for k in keys),
        system=system,
        **changed,
    )


def _chip_of(path: Path, given: str) -> Profile:
    """The chip that a system names: a built-in one, or a file, seen from the system's folder."""
    where = f"{path.name} chip"
    file = _file(given, path.parent, where)
    data = read(file)
    if data["kind"] != "neuromorphic":
        itself = file.resolve() == path.resolve()
        raise ProfileError(
            where,
            "a system is made of neuromorphic chips",
            found=f"{given!r}, {'the system itself' if itself else 'a ' + data['kind']}",
            allowed="a chip's name, or the path of a chip's file",
            remedy="Name the chip, as in loihi1 or loihi2.",
        )
    return _device(file.stem, data)


def _changed(file: str, name: str, section: Any, new: Mapping[str, Any]) -> Any:
    if section is None and new:
        raise ProfileError(
            f"{file} changes.{name}",
            "a system changes what its chip states",
            found=f"{', '.join(new)}, and a chip without {name}",
            allowed="no change of it",
            remedy="Give these values, all of them, in a file of the chip.",
        )
    return replace(section, **_quantities(new)) if new else section


def _check_arrangement(file: str, system: System) -> None:
    wide, high, chips = system.chips_wide, system.chips_high, system.chips.value
    if wide is None and high is None:
        return
    if wide is None or high is None or wide.value * high.value != chips:
        sides = (str(side.value) if side else "null" for side in (wide, high))
        raise ProfileError(
            f"{file} system",
            "the arrangement has as many places as there are chips",
            found=f"{' x '.join(sides)} places for {chips} chips",
            allowed="chips_wide x chips_high = chips",
            remedy="Correct them, or give null for both: then the mapper arranges the chips.",
        )


def _check_mesh(file: str, limits: Limits) -> None:
    sides = (limits.mesh_width_tiles, limits.mesh_height_tiles, limits.cores_per_tile)
    cores = limits.cores_per_chip
    if cores is None or None in sides:
        return
    wide, high, deep = (side.value for side in sides if side is not None)
    if wide * high * deep < cores.value:
        raise ProfileError(
            f"{file} limits",
            "the mesh of a chip has a place for every core",
            found=f"{wide} x {high} tiles of {deep} cores for {cores.value} cores",
            allowed="mesh_width_tiles x mesh_height_tiles x cores_per_tile >= cores_per_chip",
            remedy="Correct them, or give null for the mesh.",
        )


def _section(cls: type[_S], data: Mapping[str, Any]) -> _S:
    return cls(**_quantities(data))


def _quantities(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: None if q is None else Quantity(**q) for key, q in data.items()}
