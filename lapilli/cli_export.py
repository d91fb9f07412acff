"""`lapilli export`: a compiled network in the formats of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

import click

from lapilli import terminal
from lapilli.compiler.errors import InputError

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact

Report = dict[str, Any]


@final
@dataclass(frozen=True)
class Wishes:
    """What is asked for beside the file: profile: another chip than the one compiled for; data,
    image: the input that is written along.
    """

    profile: str | None
    data: str | None
    image: int


Exporter = Callable[["Artifact", Path, Wishes], Report]
"""Writes the network into the file, as wished; what to tell of it.

Values of the report are shown as they are, a list one item per line.
"""


def _loihi(artifact: Artifact, path: Path, wishes: Wishes) -> Report:
    from lapilli.chips import chip_of
    from lapilli.compiler.interchange import loihi_export
    from lapilli.compiler.mapping import place

    chip = chip_of(artifact, wishes.profile)
    placement = place(artifact.netlist, chip)
    loihi_export.write(path, artifact, placement, chip)
    return {
        "profile": chip.name,
        "cores": len(placement.cores),
        "chips": placement.chips,
        "notice": loihi_export.NOTICE,
        "unchecked": [f"{limit}: {reason}" for limit, reason in placement.unchecked],
    }


def _netx(artifact: Artifact, path: Path, wishes: Wishes) -> Report:
    from lapilli.compiler.interchange import netx_export

    told = netx_export.write(path, artifact.netlist)
    return {
        "network": {
            "reset_interval": told.reset_interval,
            "reset_offset": told.reset_offset,
            "input_message_bits": told.input_message_bits,
        },
        "input_shape": list(told.input_shape),
        "input_timing": told.timing,
        "read_step": told.read_step,
        "interval": told.interval,
        "unit": told.unit,
        "layers": [
            f"layers[{place.process}] is {place.population}, shape "
            f"{'x'.join(map(str, place.shape))}, from time step {place.first}"
            for place in told.layers
        ],
    }


def _nir(artifact: Artifact, path: Path, wishes: Wishes) -> Report:
    from lapilli.compiler.interchange import nir_export

    nir_export.write(path, artifact)
    return {"notice": nir_export.NOTICE}


def _sanafe(artifact: Artifact, path: Path, wishes: Wishes) -> Report:
    from lapilli import network_inputs
    from lapilli.chips import chip_of
    from lapilli.compiler.interchange import sanafe_export
    from lapilli.compiler.mapping import place

    if wishes.data is None:
        raise InputError(
            "--data",
            "one image is simulated, and written along with the network",
            found="no --data",
            allowed="--data DATA --image N",
            remedy="Name the images.",
        )
    chip = chip_of(artifact, wishes.profile)
    placement = place(artifact.netlist, chip)
    images = network_inputs.images(artifact, wishes.data, wishes.image + 1, _no_bar).images
    if len(images) <= wishes.image:
        raise InputError(
            "--image",
            "the data has this image",
            found=wishes.image,
            allowed=f"0..{len(images) - 1}",
            remedy="Choose one of these.",
        )
    inputs = network_inputs.integers(artifact, images[wishes.image :])
    told = sanafe_export.write(path, artifact, placement, chip, inputs[0])
    return {
        "profile": chip.name,
        "cores": len(placement.cores),
        "chips": placement.chips,
        "image": wishes.image,
        "steps": told["steps"],
        "charges": {name: told[name] for name in ("charges", "charge_synapses")},
        "unknown": told["unknown_costs"],
    }


def _no_bar(stage: str) -> terminal.Count:
    return lambda done, of: None


FORMATS: Mapping[str, Exporter] = MappingProxyType(
    {"loihi": _loihi, "netx": _netx, "nir": _nir, "sanafe": _sanafe}
)
"""Every format; each imports what it needs when it is used."""
USES_PROFILE = ("loihi", "sanafe")
"""Formats that are written for one chip."""
USES_DATA = ("sanafe",)
"""Formats that hold an input, too."""


@click.command("export")
@click.argument("model_file", metavar="MODEL.H5", type=click.Path(path_type=Path))
@click.option(
    "--format", "format_", type=click.Choice(list(FORMATS)), required=True, help="what to write"
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="the file to write",
)
@click.option("--profile", metavar="NAME", help="another chip than the one compiled for")
@click.option("--data", metavar="DATA", help="sanafe: images, as `run` takes them")
@click.option(
    "--image", metavar="N", type=click.IntRange(min=0), help="sanafe: which of them, from 0 on."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
def export(
    model_file: Path,
    format_: str,
    output: Path,
    profile: str | None,
    data: str | None,
    image: int | None,
    as_json: bool,
) -> None:
    """Write a model file in another format: for chips, other simulators, other tools."""
    import lapilli

    if profile is not None and format_ not in USES_PROFILE:
        raise InputError(
            "--profile",
            "a format that is written for one chip takes a profile",
            found=f"--profile {profile} with --format {format_}",
            allowed=f"--profile with --format {' or '.join(USES_PROFILE)}",
            remedy="Leave it out.",
        )
    if (data, image) != (None, None) and format_ not in USES_DATA:
        raise InputError(
            "--data" if data is not None else "--image",
            "a format that holds an input takes images",
            found=f"images with --format {format_}",
            allowed=f"images with --format {' or '.join(USES_DATA)}",
            remedy="Leave it out.",
        )
    artifact = lapilli.load(model_file)
    report = {
        "artifact": {"path": str(model_file), "hash": artifact.hash},
        "format": format_,
        "path": str(output),
        **FORMATS[format_](artifact, output, Wishes(profile, data, image or 0)),
    }
    if as_json:
        terminal.show_json(report)
        return
    report["artifact"] = artifact.hash
    terminal.show(*(line for key, value in report.items() for line in _lines(key, value)))


def _lines(key: str, value: object) -> list[str]:
    if isinstance(value, dict):
        value = ", ".join(f"{name} {inner}" for name, inner in value.items())
    if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
        value = " x ".join(map(str, value))
    if not isinstance(value, list):
        return [terminal.plain(f"{key}: {value}")]
    return [f"{key}:", *(terminal.plain(f"  {item}") for item in value)]
