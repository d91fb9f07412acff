"""`lapilli export`: a compiled network in the formats of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

import click

from lapilli import cli_options, terminal
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
@cli_options.model_file()
@click.option(
    "--format", "format_", type=click.Choice(list(FORMATS)), required=True, help="what to write"
)
@cli_options.output("the file to write")
@cli_options.profile()
@cli_options.data(text="for sanafe, images one of which is written along", required=False)
@click.option(
    "--image", metavar="N", type=click.IntRange(min=0), help="For sanafe: which of them, from 0 on."
)
@cli_options.common
def export(
    model_file: Path,
    format_: str,
    output: Path,
    profile: str | None,
    spec: str | None,
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
    if (spec, image) != (None, None) and format_ not in USES_DATA:
        raise InputError(
            "--data" if spec is not None else "--image",
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
        **FORMATS[format_](artifact, output, Wishes(profile, spec, image or 0)),
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
