"""Which chip a command works for; a model file names one, and nothing else happens through it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import search_network
from command_line import runner

import lapilli
from lapilli.chips import chip_of
from lapilli.compiler.artifact import Artifact
from lapilli.hardware_profiles import ProfileError, load
from lapilli.hardware_profiles.profile_file import HOME


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A network whose provenance names a file in the place of a chip: a good profile, even."""
    file = tmp_path_factory.mktemp("elsewhere") / "loihi2.json"
    shutil.copy(HOME / "loihi2.json", file)
    made = lapilli.compile(
        search_network.trained(),
        calibration=search_network.images("train", 64).images,
        method=lapilli.methods.Parallel(levels=2),
    )
    return replace(made, provenance=replace(made.provenance, profile=str(file)))


IMAGES = search_network.images("test", 2).images
ASKED: dict[str, Callable[[Artifact], Any]] = {
    "estimate": lambda net: lapilli.estimate(net, IMAGES),
    "placed estimate": lambda net: lapilli.estimate(net, IMAGES, placed=True),
    "place": lapilli.place,
}
COMMANDS = {
    "estimate": ("estimate", "--data", "digits", "--limit", "2"),
    "placed estimate": ("estimate", "--data", "digits", "--limit", "2", "--placed"),
    "map": ("map",),
    "export": ("export", "--format", "loihi", "-o", "out.json"),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_a_model_file_names_is_not_opened(what: str, strange: Artifact) -> None:
    with pytest.raises(ProfileError, match="the model file: profile"):
        ASKED[what](strange)


@pytest.mark.parametrize("what", COMMANDS)
def test_commands_say_so(
    what: str, strange: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "m.h5"
    strange.save(file)
    name, *options = COMMANDS[what]
    done = runner(capsys)(name, file, *(tmp_path / o if o == "out.json" else o for o in options))
    assert done.code == 2 and "Give the file of this profile" in done.err
    assert not (tmp_path / "out.json").exists()


def test_a_chip_that_is_asked_for(strange: Artifact) -> None:
    chip = load("loihi1")
    assert chip_of(strange, chip) is chip
    assert chip_of(strange, "loihi1") == chip
    assert chip_of(strange, HOME / "loihi1.json").name == "loihi1"
    own = replace(strange, provenance=replace(strange.provenance, profile="loihi1"))
    assert chip_of(own) == chip
