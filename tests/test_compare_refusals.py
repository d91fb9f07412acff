"""What `lapilli compare` refuses, by name, before anything is counted."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import chips
import numpy as np
import pytest
import search_network
from command_line import Run
from torch import nn

import lapilli
from lapilli import hardware_profiles
from lapilli.compare_report import Comparison
from lapilli.compiler.errors import ArtifactError, InputError, NetlistError
from lapilli.hardware_profiles import Profile, ProfileError


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model file per method."""
    methods = {
        "graded2": lapilli.methods.Parallel(levels=2),
        "unary4": lapilli.methods.Parallel(levels=4, coding="unary"),
        "rate": lapilli.methods.Rate(steps=8),
    }
    return search_network.files(tmp_path_factory.mktemp("refused"), methods)


def test_too_many_cores_are_refused_before_anything_is_counted(models: dict[str, Path]) -> None:
    test = search_network.images("test", 3)
    board = hardware_profiles.load("oheo-gulch")
    few = replace(
        board.limits, neurons_per_core=chips.quantity(64), cores_per_chip=chips.quantity(3)
    )
    tight = replace(board, limits=few)
    told: list[str] = []

    def compare(profile: Profile, placed: bool) -> Comparison:
        return lapilli.compare(
            [models["rate"], models["graded2"]],
            test.images,
            test.labels,
            profile=profile,
            placed=placed,
            progress=lambda stage, done, of: told.append(stage),
        )

    with pytest.raises(NetlistError, match=r"rate\.h5: .*as many cores as the network needs"):
        compare(tight, placed=True)
    with pytest.raises(NetlistError, match="as many cores as the network needs"):
        lapilli.estimate(
            lapilli.load(models["rate"]),
            test.images,
            profile=tight,
            placed=True,
            progress=lambda done, of: told.append("estimate"),
        )
    assert told == []
    assert compare(tight, placed=False).front
    assert compare(board, placed=True).front
    assert "graded2: counting events" in told


class WideNetwork(nn.Module):
    """One layer on images of 4x4."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Any) -> Any:
        return self.fc(x.flatten(1))


def test_refusals_name_the_file(run: Run, models: dict[str, Path], tmp_path: Path) -> None:
    good, data = models["graded2"], ("--data", "digits", "--limit", 4)
    other = tmp_path / "other.h5"
    pixels = np.random.default_rng(0).random((8, 1, 4, 4), np.float32)
    lapilli.compile(
        WideNetwork().eval(), calibration=pixels, method=lapilli.methods.Parallel(levels=2)
    ).save(other)
    (tmp_path / "no.h5").write_bytes(b"nothing")
    (tmp_path / "link.h5").symlink_to(good)
    for wrong, words in (
        (tmp_path / "absent.h5", "absent.h5"),
        (tmp_path / "no.h5", "no.h5"),
        (other, "(N, 1, 4, 4)"),
        (good, "every network is given once"),
        (tmp_path / "link.h5", "every network is given once"),
    ):
        outcome = run("compare", good, wrong, *data)
        assert outcome.code == 2, wrong
        assert str(wrong) in outcome.err and words in outcome.err, outcome.err
        assert outcome.out == ""
    outcome = run("compare", models["unary4"], good, *data, "--profile", "loihi1")
    assert outcome.code == 2
    assert f"{good}: loihi1" in outcome.err and "graded" in outcome.err
    assert run("compare", good, *data, "--profile", "cmos45").code == 2
    assert run("compare", *data).code == 2


def test_labels_that_do_not_fit(models: dict[str, Path]) -> None:
    test = search_network.images("test", 5)
    artifact = lapilli.load(models["graded2"])
    with pytest.raises(InputError, match=r"network 1.*knows the classes of the labels"):
        lapilli.compare([artifact], test.images, np.array([1, 2, 3, 4, 10]))
    with pytest.raises(InputError, match="one class number per image"):
        lapilli.compare([artifact], test.images, np.array([1, 2]))
    with pytest.raises(InputError, match="gives classes like the labels"):
        lapilli.compare([artifact], test.images, np.zeros((5, 8, 8), np.int64))
    with pytest.raises(InputError, match="compared on images"):
        lapilli.compare([artifact], test.images[:0], None)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0, 1, 2, 3, -1]), "found -1..3"),
        (np.full(5, 2**63 + 1, np.uint64), "numbered from 0"),
        (np.full((5, 8, 8), 255), "some pixels are of a class"),
    ],
)
def test_labels_of_no_class(models: dict[str, Path], labels: Any, says: str) -> None:
    test = search_network.images("test", 5)
    with pytest.raises(InputError, match=says):
        lapilli.compare([models["graded2"]], test.images, labels)


def test_networks_and_options_that_do_not_fit(models: dict[str, Path]) -> None:
    test = search_network.images("test", 2)
    artifact = lapilli.load(models["graded2"])
    with pytest.raises(InputError, match="network 2: every network is given once"):
        lapilli.compare([artifact, artifact], test.images, test.labels)
    with pytest.raises(InputError, match="something to compare"):
        lapilli.compare([], test.images, test.labels)
    with pytest.raises(InputError, match="a cost that is known"):
        lapilli.compare([artifact], test.images, test.labels, against="beauty")
    with pytest.raises(ArtifactError, match="absent"):
        lapilli.compare("absent.h5", test.images, test.labels)


def test_no_file_is_read_that_a_model_file_names(models: dict[str, Path], tmp_path: Path) -> None:
    """A profile of one's own has to be given again: the file knows its name only."""
    test = search_network.images("test", 2)
    artifact = lapilli.load(models["graded2"])
    own = tmp_path / "own.json"
    shutil.copy(Path(hardware_profiles.__file__).parent / "loihi2.json", own)
    for name in ("gone", "own", str(own)):
        strange = replace(artifact, provenance=replace(artifact.provenance, profile=name))
        with pytest.raises(ProfileError, match=r"strange: profile.*--profile"):
            lapilli.compare({"strange": strange}, test.images, test.labels)
        found = lapilli.compare({"strange": strange}, test.images, test.labels, profile=own)
        assert found.networks[0].profile == "own"
