"""The chip that a command works for: the one that is asked for, or the one compiled for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lapilli.hardware_profiles import Profile, load, load_recorded

if TYPE_CHECKING:
    from lapilli.compiler.artifact import Artifact


def chip_of(
    artifact: Artifact,
    profile: str | Path | Profile | None = None,
    where: str = "the model file: profile",
) -> Profile:
    """profile: a name, a file or a profile; None: what the network was compiled for.

    where: names that in a message. Raises ProfileError.
    """
    if profile is None:
        return load_recorded(artifact.provenance.profile, where)
    return profile if isinstance(profile, Profile) else load(profile)
