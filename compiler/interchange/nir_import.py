"""FILE.nir -> Artifact: our own export back to the integer, or the network of another tool.

What Lapilli exported is rebuilt by `nir_restore`. All other graphs are networks in real numbers:
`nir_graph` reads them, `nir_quantise` makes integers of them.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Literal, final

from lapilli.compiler.artifact import Artifact, Provenance
from lapilli.compiler.interchange import nir_file
from lapilli.compiler.interchange.nir_file import refuse
from lapilli.compiler.interchange.nir_graph import RESETS, Reset, network
from lapilli.compiler.interchange.nir_quantise import Integers, quantised
from lapilli.compiler.interchange.nir_restore import KEY, restored
from lapilli.compiler.passes.options import check_choice, check_count, check_range
from lapilli.compiler.soundness import MAX_STEPS
from lapilli.compiler.storage import MAX_TEXT
from lapilli.hardware_profiles import Profile


@final
@dataclass(frozen=True)
class NirImport:
    """How a NIR file is read.

    steps: of one window, dt (seconds of one step), reset ("zero" or "subtract": what
    neurons do whose metadata do not say), timing ("train": the input has a value for every step;
    "held": one for all), low and high (range of the input): for the networks of other tools. What
    Lapilli exported needs none of them.
    """

    steps: int | None = None
    dt: float | None = None
    reset: Reset = "zero"
    timing: Literal["train", "held"] = "train"
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_count("steps", self.steps, 1, MAX_STEPS)
        if self.dt is not None:
            check_range("dt", self.dt, 1e-12, 1e6)
        check_choice("reset", self.reset, RESETS)
        check_choice("timing", self.timing, ("train", "held"))
        check_range("low", self.low, -1e12, 0)
        check_range("high", self.high, 1e-12, 1e12)


def read(path: str | os.PathLike[str], profile: Profile, options: NirImport) -> Artifact:
    """The network in a NIR file, for a chip. What was rounded is told in `provenance.notes`.

    What Lapilli exported comes back as it was, whatever the chip and the options.

    Raises InputError naming the node that cannot be imported, StateOverflowError and NetlistError
    where the chip cannot carry it, BackendError where the package `nir` is missing.
    """
    file = nir_file.read(path)
    if KEY in file.metadata:
        return restored(file, str(path))
    if options.steps is None:
        remedy = "Give the number of time steps of one input: --steps."
        raise refuse(str(path), "a window has a length", "none", "steps >= 1", remedy)
    integers = Integers(options.steps, options.timing, options.low, options.high)
    netlist, lines = quantised(network(file, options.dt, options.reset), integers, profile)
    notes = "\n".join(lines)
    given = {k: v for k, v in asdict(options).items() if v is not None}
    return Artifact(
        netlist,
        Provenance(
            lapilli_version=version("lapilli"),
            torch_version="",
            method="nir",
            options=given,
            profile=profile.name,
            calibration_hash="",
            calibration_samples=0,
            ann_macs={},
            notes=notes if len(notes) <= MAX_TEXT else notes[: MAX_TEXT - 3] + "...",
        ),
    )
