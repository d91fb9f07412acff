"""How rounding is compensated: the calibrations by name, and their options where they have any.

Read without torch. A calibration with options is a frozen dataclass, whose fields may be given in
text, as in "reconstruct:steps=400,seconds=120".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from lapilli.compiler.da_qcfs_options import DAQCFS
from lapilli.compiler.errors import InputError
from lapilli.compiler.passes.options import check_choice
from lapilli.compiler.reconstruction.options import Reconstruct

Calibration = str | DAQCFS | Reconstruct
CALIBRATIONS: Mapping[str, type[DAQCFS] | type[Reconstruct] | None] = {
    "none": None,
    "bias": None,
    "least-squares": None,
    "da-qcfs": DAQCFS,
    "reconstruct": Reconstruct,
}
"""Name -> options; None: of those that `compensate` does, which have none."""
_FILES = ("checkpoint",)
"""Options that name files: they change no result, and no artifact names a place."""


def options_of(calibrate: Calibration) -> Calibration:
    """The options that a name stands for, with what it says after a colon; or as they are.

    Names without options as they are. Raises InputError for what there is not.
    """
    if not isinstance(calibrate, str):
        _check_kind(calibrate)
        return calibrate
    name, _, given = calibrate.partition(":")
    check_choice("calibrate", name, tuple(CALIBRATIONS))
    kind = CALIBRATIONS[name]
    if kind is None:
        check_choice("calibrate", calibrate, tuple(CALIBRATIONS))
        return name
    known = {option.name: option.default for option in fields(kind)}
    chosen: dict[str, Any] = {}
    for part in filter(None, given.split(",")):
        key, _, value = part.partition("=")
        if key not in known:
            raise _wrong(name, part, known)
        try:
            chosen[key] = _read(value, known[key])
        except ValueError:
            raise _wrong(name, part, known) from None
    return kind(**chosen)


def recorded(calibrate: Calibration) -> dict[str, Any]:
    """As provenance keeps it."""
    if isinstance(calibrate, str):
        return {"calibrate": calibrate}
    name = next(name for name, kind in CALIBRATIONS.items() if kind is type(calibrate))
    prefix = name.replace("-", "_")
    values = {key: value for key, value in asdict(calibrate).items() if key not in _FILES}
    return {"calibrate": name, **{f"{prefix}_{key}": value for key, value in values.items()}}


def _read(text: str, default: Any) -> Any:
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text.lower(), text)
    return text if default is None else type(default)(text)


def _check_kind(calibrate: object) -> None:
    kinds = [kind for kind in CALIBRATIONS.values() if kind is not None]
    if type(calibrate) not in kinds:
        raise InputError(
            "option calibrate",
            "a calibration is a name, or options of one",
            found=type(calibrate).__name__,
            allowed=", ".join([*CALIBRATIONS, *(f"{kind.__name__}(...)" for kind in kinds)]),
            remedy="Pass for example calibrate='least-squares'.",
        )


def _wrong(name: str, part: str, known: Mapping[str, Any]) -> InputError:
    kinds = {key: "path" if v is None else type(v).__name__ for key, v in known.items()}
    return InputError(
        "option calibrate",
        "options of a calibration are name=value, separated by commas",
        found=repr(part),
        allowed=", ".join(f"{key}={kind}" for key, kind in kinds.items()),
        remedy=f"Write for example {name}:{next(iter(known))}={known[next(iter(known))]}.",
    )
