"""Options of the reconstruction."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal, final, get_args

from lapilli.compiler.errors import InputError
from lapilli.compiler.passes.options import check_choice, check_count, help_text

Augment = Literal["auto", "none", "shift", "mirror", "both"]
Device = Literal["auto", "cpu", "cuda"]


@final
@dataclass(frozen=True)
class Reconstruct:
    """How long and on what the network is reconstructed.

    The same options, images and network give the same result bit for bit on the same CPU with as
    many threads, with one exception: `seconds` ends a run early where there is no time for all
    steps.
    """

    steps: int = field(default=1200, metadata=help_text("steps of training"))
    seconds: int = field(
        default=480, metadata=help_text("most time; fewer steps are planned where it is too short")
    )
    batch: int = field(
        default=64, metadata=help_text("images in one step; fewer where memory is short")
    )
    images: int = field(default=1024, metadata=help_text("most calibration images that are used"))
    augment: Augment = field(
        default="auto",
        metadata=help_text(
            "change images as well; auto: only as the float network gives the same answers",
            ("auto", "none", "shift", "mirror", "both"),
        ),
    )
    seed: int = field(default=0, metadata=help_text("of the order and the changes of images"))
    device: Device = field(
        default="auto",
        metadata=help_text("where to run; auto: a GPU if there is one", ("auto", "cpu", "cuda")),
    )
    checkpoint: str | os.PathLike[str] | None = field(
        default=None, metadata=help_text("file that an interrupted run is resumed from")
    )

    def __post_init__(self) -> None:
        check_count("steps", self.steps, 1, 10_000_000)
        check_count("seconds", self.seconds, 1, 10_000_000)
        check_count("batch", self.batch, 1, 65_536)
        check_count("images", self.images, 1, 10_000_000)
        check_count("seed", self.seed, 0, 2**31 - 1)
        check_choice("augment", self.augment, get_args(Augment))
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        if not isinstance(self.checkpoint, (str, os.PathLike, type(None))):
            raise InputError(
                "option checkpoint",
                "a checkpoint is a path",
                found=type(self.checkpoint).__name__,
                allowed="a path, or None",
                remedy="Give the path of a file, which need not exist.",
            )
