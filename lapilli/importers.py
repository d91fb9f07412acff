"""Networks of other tools that MODEL may name: files that are read, not compiled.

Each kind has a row in IMPORTERS, by the ending of the file's name. Such networks are integers
already, or say how they become integers: they need neither calibration nor a method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, final

from lapilli.compiler.errors import InputError

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact
    from lapilli.hardware_profiles import Profile

Options = Mapping[str, Any]


@final
@dataclass(frozen=True)
class Importer:
    """what: a file of this kind, in words; options: of OPTIONS, that it takes."""

    what: str
    options: tuple[str, ...]
    read: Callable[[Path, Profile, Options], Artifact]


def importer_of(model: object) -> Importer | None:
    """The importer of the file that `model` names, if it names one."""
    if not isinstance(model, (str, Path)):
        return None
    return IMPORTERS.get(Path(model).suffix.lower())


def read(model: str | Path, profile: Profile, options: Options) -> Artifact:
    """The network in the file `model`. Raises InputError for options that it does not take."""
    importer = importer_of(model)
    if importer is None:
        raise InputError(
            f"model {model}",
            "the name of a file says what it is",
            found=Path(model).suffix or "no ending",
            allowed=", ".join(IMPORTERS),
            remedy="Give a torch.nn.Module, or the path of such a file.",
        )
    for name in options:
        if name not in importer.options:
            raise InputError(
                f"option --{name.replace('_', '-')}",
                f"this option is one of those that {importer.what} takes",
                found=f"model {model}",
                allowed=", ".join(f"--{allowed}" for allowed in importer.options),
                remedy="Leave it out.",
            )
    return importer.read(Path(model), profile, options)


def files(option: str) -> str:
    """Endings of the files that take an option."""
    return ", ".join(ending for ending, one in IMPORTERS.items() if option in one.options)


def _netx(path: Path, profile: Profile, options: Options) -> Artifact:
    from lapilli.compiler.interchange.netx_import import DEFAULT_STEPS, import_netx

    bounds = [options.get("low"), options.get("high")]
    given = [bound for bound in bounds if bound is not None]
    if len(given) == 1 or any(bound != bound // 1 for bound in given):
        raise InputError(
            "options --low and --high",
            "the range of the input is two integers",
            found=", ".join(str(bound) for bound in bounds),
            allowed="integers as netx takes them, or neither option",
            remedy="Give both.",
        )
    span = (int(given[0]), int(given[1])) if given else None
    steps = options.get("steps", DEFAULT_STEPS)
    return import_netx(path, steps=steps, profile=profile, input_range=span)


def _nir(path: Path, profile: Profile, options: Options) -> Artifact:
    from lapilli.compiler.interchange.nir_import import NirImport, read

    return read(path, profile, NirImport(**options))


IMPORTERS: Final[Mapping[str, Importer]] = MappingProxyType(
    {
        ".net": Importer("a network of lava-dl", ("steps", "low", "high"), _netx),
        ".nir": Importer("a NIR file", ("steps", "low", "high", "timing", "reset", "dt"), _nir),
    }
)
"""By the ending of the file's name; adding a kind is a row here, and its options in OPTIONS."""

OPTIONS: Final[Mapping[str, tuple[type[Any], str]]] = MappingProxyType(
    {
        "steps": (int, "time steps of one sample"),
        "low": (float, "smallest input value"),
        "high": (float, "largest input value"),
        "timing": (str, "train: the input has a value for every step; held: one for all"),
        "reset": (str, "of neurons: zero or subtract"),
        "dt": (float, "seconds of one time step"),
    }
)
"""Options of importers: type and help; those that a method has too are the method's."""
