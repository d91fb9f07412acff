"""An estimate of a network on the cores that it is placed on: one run, one placement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import lapilli
from lapilli.chips import chip_of
from lapilli.compiler.errors import InputError
from lapilli.compiler.mapping.fan_in import as_placed
from lapilli.hardware_profiles import Profile
from lapilli.map_report import input_rate
from lapilli.runtime.placed_layout import layout, rates

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact
    from lapilli.compiler.mapping import Placement
    from lapilli.runtime.energy import Estimate
    from lapilli.runtime.layout import Layout
    from lapilli.runtime.metrics import PopulationEvents

Images = npt.NDArray[np.float32]


def estimate(
    artifact: Artifact,
    images: Images,
    profile: Profile | None = None,
    without: Sequence[str] = (),
    placement: Placement | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Estimate:
    """Energy and latency on the cores of `placement`; None places with the rates of this very run.

    Raises InputError where the placement is of another network or profile, and as `lapilli.place`.
    """
    if profile is None:
        profile = chip_of(artifact, None if placement is None else placement.profile)
    chip = profile
    # What can be refused at once is refused before minutes of counting.
    runs = fitting(artifact, chip) if placement is None else on_chip(artifact, chip)
    if placement is not None:
        _check(artifact, runs, placement, chip)
    trace = lapilli.run(runs, images, record="outputs", progress=progress)
    found = layout_of(artifact, trace.events, images, chip, placement)
    return lapilli.estimate_events(runs, trace, profile=chip, without=without, layout=found)


def on_chip(artifact: Artifact, profile: Profile) -> Artifact:
    """The network as it is placed: with relays where a layer has too many inputs for a core.

    It computes the same. Raises NetlistError where the network breaks a limit of the chip.
    """
    artifact.netlist.verify(profile)
    return replace(artifact, netlist=as_placed(artifact.netlist, profile))


def fitting(artifact: Artifact, profile: Profile) -> Artifact:
    """`on_chip`, of a network that is known to fit: on which cores it goes, no count changes.

    Raises as `lapilli.place`.
    """
    lapilli.place(artifact, profile=profile, effort=0)
    return on_chip(artifact, profile)


def layout_of(
    artifact: Artifact,
    events: Mapping[str, PopulationEvents],
    images: Images,
    profile: Profile,
    placement: Placement | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Layout:
    """What the energy model needs of the placement; None places with what was counted.

    events: of a run of `on_chip` on these images.
    """
    sent = input_rate(artifact, images)
    if placement is None:
        name = artifact.netlist.input.name
        known = {name: sent, **rates(events)}
        placement = lapilli.place(artifact, profile=profile, rates=known, progress=progress)
    return layout(placement, profile, events, sent)


def _check(artifact: Artifact, runs: Artifact, placement: Placement, profile: Profile) -> None:
    """Raise InputError unless this very network was placed."""
    ours, theirs = (
        {p.name: p.shape for p in netlist.populations}
        for netlist in (runs.netlist, placement.netlist)
    )
    if placement.profile == profile.name and ours != theirs:
        different = sorted(name for name, _ in ours.items() ^ theirs.items())
        raise InputError(
            "placement",
            "the placement is one of this network",
            found=f"not alike: {', '.join(dict.fromkeys(different))}",
            allowed=f"the {len(ours)} populations of the network on {profile.name}",
            remedy="Place this network with lapilli.place.",
        )
