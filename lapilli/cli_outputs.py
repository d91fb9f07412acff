"""What `lapilli run` does with outputs: how they are read, scored, and written to files."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lapilli import cli_options

if TYPE_CHECKING:
    import numpy.typing as npt

READOUTS = ("logits", "softmax", "argmax", "poisson-softmax", "winner-softmax")
"""As `runtime.readout.READOUTS`, known without importing it: --help is quick."""


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--readout, --seed, --score, --save-outputs and --save-pictures."""
    made = (
        click.option(
            "--readout",
            type=click.Choice(READOUTS),
            help="Read the outputs in this way; default: as the network returns them.",
        ),
        click.option(
            "--seed",
            metavar="N",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="With random readouts and inputs: where their numbers begin.",
        ),
        cli_options.score(),
        click.option(
            "--save-outputs",
            metavar="FILE.npz",
            type=cli_options.FILE,
            callback=cli_options.in_folder,
            help="Write the outputs there, each under its name.",
        ),
        click.option(
            "--save-pictures",
            metavar="DIR",
            type=click.Path(path_type=Path, file_okay=False),
            callback=cli_options.in_folder,
            help="Write class maps of the first images there as PNG files; made where missing.",
        ),
    )
    for option in reversed(made):
        command = option(command)
    return command


def save(path: Path, outputs: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays as numpy.savez does: the whole file or none, the same bytes every time.

    Names come from a model file, so what could lead out of a folder is replaced. Raises
    InputError for a path that is no place for a file, BackendError where the disk fails.
    """
    import numpy as np

    from lapilli.compiler.sealed_file import write_whole

    content = io.BytesIO()
    taken: set[str] = set()
    with zipfile.ZipFile(content, "w") as archive:
        for name, values in outputs.items():
            key, count = plain_key(name), 0
            while key in taken:
                count += 1
                key = f"{plain_key(name)}_{count}"
            taken.add(key)
            entry = zipfile.ZipInfo(f"{key}.npy")  # of the year 1980
            with archive.open(entry, "w", force_zip64=True) as file:
                np.save(file, np.ascontiguousarray(values), allow_pickle=False)
    write_whole(path, content.getvalue())


def plain_key(name: str) -> str:
    """A name for an entry of an archive.

    >>> plain_key("out"), plain_key("boxes.1"), plain_key("../a:b")
    ('out', 'boxes.1', '.._a_b')
    """
    return "".join("_" if c in '/\\:*?"<>|' else c for c in name)[:200]
