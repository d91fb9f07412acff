"""Search: levels per population and a coding that reach an accuracy, or keep to an energy.

First every coding with the same level everywhere; then, where levels may differ, mixtures: what a
level costs in error is measured population by population (`sensitivity`), what it saves in energy
is predicted (`level_paths`), and the mixtures on the way between are bisected. Whatever is said of
a network was measured: it was compiled, and ran on the reference engine on held-out images.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lapilli.compiler import Progress, measure_model
from lapilli.compiler.pareto import FrontPoint
from lapilli.held_out import HeldOut, divided
from lapilli.runtime.energy import estimate
from lapilli.runtime.metrics import PopulationEvents
from lapilli.search_options import (
    LEVELS,
    checked_codings,
    checked_levels,
    checked_options,
    checked_time,
    goal,
)
from lapilli.search_run import OutOfTimeError, Run, Search, Task

if TYPE_CHECKING:
    import torch

    from lapilli.compiler import Observe
    from lapilli.compiler.da_qcfs_options import DAQCFS
    from lapilli.compiler.frontend import Network
    from lapilli.compiler.reconstruction.options import Reconstruct
    from lapilli.hardware_profiles import Profile


def search(
    model: torch.nn.Module | torch.export.ExportedProgram | Network,
    calibration: npt.NDArray[np.float32],
    labels: npt.NDArray[Any] | None,
    held_out: tuple[npt.NDArray[np.float32], npt.NDArray[Any] | None] | None,
    *,
    target_accuracy: float | None,
    target_energy: float | str | None,
    profile: Profile,
    calibrate: str | DAQCFS | Reconstruct | None = None,
    levels: Sequence[int] | None = None,
    codings: Sequence[str] | None = None,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    seconds: float = 600.0,
    seed: int = 0,
    observe: Observe | None = None,
    progress: Progress | None = None,
    tell: Callable[[FrontPoint], None] | None = None,
    preprocessing: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
) -> Search:
    """Find the cheapest network that reaches an accuracy, or the best one that keeps to an energy.

    Arguments as for `lapilli.search`; method: only codings of this one. seconds: no candidate is
    begun that would probably not be done by then. tell: called with each candidate that was
    measured. Raises InputError where no network reaches the target, or what is asked for makes no
    sense; ProfileError where the profile cannot price an inference; and what compiling raises.
    """
    start = time.monotonic()
    chosen = checked_codings(codings, method)
    task = Task(
        profile=profile,
        goal=goal(target_accuracy, target_energy),
        levels=checked_levels(LEVELS if levels is None else levels),
        codings=chosen,
        options=checked_options(options or {}, chosen),
        calibrate=calibrate,
        seconds=checked_time(seconds),
        seed=seed,
    )
    _check_price(profile)
    images, out = divided(calibration, labels, held_out and HeldOut(*held_out), seed)
    measured = measure_model(
        model, images, observe=observe, progress=progress, preprocessing=preprocessing
    )
    run = Run(measured, out, task, start, progress, tell)
    complete = True
    try:
        run.everything()
    except OutOfTimeError:
        complete = False
    return run.result(complete)


def _check_price(profile: Profile) -> None:
    """Raise ProfileError unless the profile can price an inference."""
    nothing = {"": PopulationEvents(1, 1, 1, 0, 0, 0, 0, 0)}
    estimate(nothing, profile, latency_steps=1, interval_steps=1, ann_macs={}, graded=False)
