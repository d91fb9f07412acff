"""Class maps as pictures: what people would rather look at than read."""

from __future__ import annotations

import colorsys
import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lapilli.cli_outputs import plain_key
from lapilli.compiler.errors import InputError
from lapilli.compiler.outputs import Output
from lapilli.compiler.sealed_file import write_whole
from lapilli.scores import classes

IMAGES = 16
"""So many images are drawn; the outputs of all go into a file (`cli_outputs.save`)."""


def palette() -> bytes:
    """256 colours (red, green, blue): class 0 is black, neighbours differ in hue, 255 is white."""
    colours = [(0, 0, 0)]
    for k in range(1, 255):
        hue, shade = k * 0.61803398875 % 1.0, (1.0, 0.7, 0.45)[k % 3]
        red, green, blue = (int(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.8, shade))
        colours.append((red, green, blue))
    return bytes(part for colour in [*colours, (255, 255, 255)] for part in colour)


def save(
    folder: Path, outputs: Sequence[Output], values: Mapping[str, npt.NDArray[Any]]
) -> list[Path]:
    """Write NAME_0000.png and so on for every output that gives classes of pixels; their paths.

    One pixel per unit of the map; classes from 255 on share a colour. Raises InputError where no
    output is a map, BackendError where the disk fails.
    """
    maps = {
        output.name: found
        for output in outputs
        if (found := classes(values[output.name], output.head.kind == "sigmoid")) is not None
        and found.ndim == 3
    }
    if not maps:
        shapes = ", ".join(f"{name} {v.shape[1:]}" for name, v in values.items())
        raise InputError(
            "pictures",
            "an output gives classes of pixels",
            found=shapes,
            allowed="(classes, height, width), or an argmax along the classes",
            remedy="Leave --save-pictures out, or use --save-outputs.",
        )
    with contextlib.suppress(OSError):  # told by the first file that cannot be written
        folder.mkdir(exist_ok=True)
    colours, written = palette(), []
    for name, found in maps.items():
        for index, plane in enumerate(found[:IMAGES]):
            picture = Image.fromarray(np.clip(plane, 0, 255).astype(np.uint8))
            picture.putpalette(colours)
            content = io.BytesIO()
            picture.save(content, "PNG")
            path = folder / f"{plain_key(name)}_{index:04d}.png"
            write_whole(path, content.getvalue())
            written.append(path)
    return written
