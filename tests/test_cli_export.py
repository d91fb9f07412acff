"""`lapilli export`: formats, files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Run, model_file

import lapilli
from lapilli import cli_export
from lapilli.compiler.interchange import loihi_export, loihi_import


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled model file."""
    return model_file(tmp_path_factory.mktemp("cli"))


def test_export_for_loihi(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.json"
    outcome = run("export", model, "--format", "loihi", "-o", target)
    assert outcome.code == 0, outcome.err
    artifact = lapilli.load(model)
    assert artifact.hash in outcome.out
    assert "Nothing of this was ever run on silicon." in outcome.out
    assert "\n  output_axons_per_core: the profile states none\n" in outcome.out
    document, netlist = loihi_import.read(target)
    assert document["profile"]["name"] == "loihi2"
    assert document["netlist_hash"] == artifact.hash
    assert [p.name for p in netlist.populations] == [p.name for p in artifact.netlist.populations]
    again = run("export", model, "--format", "loihi", "-o", tmp_path / "again.json", "--json")
    assert again.json == {
        "artifact": {"path": str(model), "hash": artifact.hash},
        "format": "loihi",
        "path": str(tmp_path / "again.json"),
        "profile": "loihi2",
        "cores": len(document["cores"]),
        "chips": 1,
        "notice": loihi_export.NOTICE,
        "unchecked": [f"{u['limit']}: {u['reason']}" for u in document["unchecked"]],
    }
    assert (tmp_path / "again.json").read_bytes() == target.read_bytes()


def test_export_for_another_chip(run: Run, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "net.json"
    arguments = ("export", model, "--format", "loihi", "-o", target)
    assert run(*arguments, "--profile", "unlimited").code == 0
    assert json.loads(target.read_text("utf-8"))["profile"]["name"] == "unlimited"
    before = target.read_bytes()
    for profile, word in (("loihi1", "binary spikes"), ("cmos45", "cores"), ("absent", "known")):
        outcome = run(*arguments, "--profile", profile)
        assert (outcome.code, outcome.out) == (2, "")
        assert outcome.err.startswith("Error: ")
        assert word in outcome.err
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--format", "absent", "-o", "x.json"), "absent"),
        (("-o", "x.json"), "--format"),
        (("--format", "loihi"), "-o"),
        (("--format", "loihi", "-o", "absent/x.json"), "there is no folder 'absent'"),
    ],
)
def test_bad_input(
    run: Run,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    word: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run("export", model, *arguments)
    assert outcome.code == 2
    assert word in outcome.err
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_no_model(run: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.h5"
    wrong.write_text("no model")
    outcome = run("export", wrong, "--format", "loihi", "-o", tmp_path / "x.json")
    assert outcome.code == 2
    assert "a Lapilli model" in outcome.err
    assert not (tmp_path / "x.json").exists()


def test_a_profile_is_for_formats_of_chips(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_export, "USES_PROFILE", ("another",))
    target = tmp_path / "x.json"
    outcome = run("export", model, "--format", "loihi", "-o", target, "--profile", "loihi2")
    assert outcome.code == 2
    assert "--profile loihi2 with --format loihi" in outcome.err
    assert not target.exists()


def test_a_full_disk_is_the_environments_fault(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    outcome = run("export", model, "--format", "loihi", "-o", tmp_path / "x.json")
    assert outcome.code == 3
    assert "No space left on device" in outcome.err
    assert not list(tmp_path.iterdir())


def test_every_format_is_offered(run: Run) -> None:
    shown = run("export", "--help").out
    assert set(cli_export.USES_PROFILE) <= set(cli_export.FORMATS)
    for name in cli_export.FORMATS:
        assert name in shown


def test_export_for_netx(run: Run, model: Path, tmp_path: Path) -> None:
    """The whole way from the command line; tests/compiler/test_netx_export.py has the content."""
    target, compiled = tmp_path / "net.net", tmp_path / "zero.h5"
    refused = run("export", model, "--format", "netx", "-o", target)
    assert (refused.code, refused.out) == (2, "")
    assert "resets to zero" in refused.err and "--reset zero --profile netx" in refused.err
    assert not target.exists()
    options = ("--method", "rate", "--reset", "zero", "--profile", "netx")
    options = (*options, "--steps", "8", "--input-bits", "4")
    weights = model.with_name("weights.safetensors")
    user = ("command_line:SmallNetwork", "--weights", weights, "--calib", "digits")
    outcome = run("compile", *user, *options, "-o", compiled)
    assert outcome.code == 0, outcome.err
    exported = run("export", compiled, "--format", "netx", "-o", target, "--json")
    assert exported.code == 0, exported.err
    assert exported.json == {
        "artifact": {"path": str(compiled), "hash": lapilli.load(compiled).hash},
        "format": "netx",
        "path": str(target),
        "network": {"reset_interval": 8, "reset_offset": 1, "input_message_bits": 4},
        "input_shape": [8, 8, 1],
        "input_timing": "held",
        "read_step": 10,
        "interval": 8,
        "unit": 64,
        "layers": [
            "layers[0] is relu, shape 4x4x4, from time step 2",
            "layers[1] is fc, shape 10, from time step 3",
        ],
    }
    shown = run("export", compiled, "--format", "netx", "-o", target)
    assert "network: reset_interval 8, reset_offset 1, input_message_bits 4" in shown.out
    assert "\ninput_shape: 8 x 8 x 1\n" in shown.out
    assert "\n  layers[0] is relu, shape 4x4x4, from time step 2\n" in shown.out
    profile = run("export", compiled, "--format", "netx", "-o", target, "--profile", "netx")
    assert (profile.code, "--profile netx with --format netx" in profile.err) == (2, True)
