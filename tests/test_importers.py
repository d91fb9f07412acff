"""Files of other tools as MODEL: the whole command line on a network of lava-dl, and the API."""

from __future__ import annotations

from pathlib import Path

import netx_files as nf
import numpy as np
import pytest
from command_line import Run

import lapilli
from lapilli import data, importers
from lapilli.compiler.errors import InputError

STEPS, SAMPLES, INPUTS = 12, 4, 6


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """net.net; spikes.npz lies beside it."""
    rng = np.random.default_rng(0)
    layers = [
        nf.source((2, 1, 3)),
        nf.conv(nf.mixed(rng, 3, 2, 1, 2), (2, 1, 3), nf.cuba(20), bias=np.array([2, -1, 3])),
        nf.flatten((6,)),
        nf.dense_rec(nf.mixed(rng, 5, INPUTS), nf.mixed(rng, 5, 5), nf.cuba(40, 4096)),
        nf.dense(nf.mixed(rng, 3, 5), nf.cuba(20), delay=np.array([0, 2, 1]), extra=3),
    ]
    spikes = rng.random((SAMPLES, STEPS, 2, 1, 3)) < 0.4
    np.savez(tmp_path / "spikes.npz", spikes=spikes, labels=np.arange(SAMPLES) % 3)
    return nf.write(tmp_path / "net.net", layers)


def test_every_command_works_on_an_imported_network(run: Run, net: Path) -> None:
    model, spikes = net.with_name("model.h5"), f"npz:{net.with_name('spikes.npz')}"
    compiled = run("compile", net, "-o", model, "--steps", STEPS, "--json")
    assert compiled.code == 0
    assert compiled.json["provenance"]["method"] == "netx-import"
    assert "note: layer4.dense: not read, as netx does not: extra" in compiled.err
    assert "Traceback" not in compiled.err

    ran = run("run", model, "--data", spikes, "--json")
    assert ran.code == 0
    assert ran.json["accuracy"]["images"] == SAMPLES
    assert ran.json["agreement"]["images"] == 0
    assert ran.json["events"]["spikes_per_image"] > 0
    verified = run("verify", model, "--data", spikes, "--backend", "reference", "--json")
    assert (verified.code, verified.json["ok"]) == (0, True)
    priced = run("estimate", model, "--data", spikes, "--json").json["estimate"]
    assert priced["total"]["synops_pj"]["mid"] > 0
    assert priced["total"]["input_pj"]["mid"] == 0
    for command in ("run", "estimate"):
        assert run(command, model, "--data", spikes).code == 0
    shown = run("inspect", model)
    assert (shown.code, "LIF" in shown.out) == (0, True)


def test_the_api_takes_a_path(net: Path) -> None:
    artifact = lapilli.compile(net, steps=STEPS)
    assert artifact.hash == lapilli.compile(str(net), steps=STEPS, profile="loihi2").hash
    spikes = data.load(f"npz:{net.with_name('spikes.npz')}", split="test").images
    trace = lapilli.run(artifact, spikes)
    assert trace.outputs.shape == (SAMPLES, 3)
    assert lapilli.compile(net).netlist.steps == 64
    with pytest.raises(InputError, match="values lie in the range"):
        lapilli.run(artifact, 5 * spikes)  # netx would make a 1 of each 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--method", "parallel"], "--method has no use for .net files"),
        (["--calib", "digits"], "--calib has no use for .net files"),
        (["--mean", "0.5"], "--mean has no use for .net files"),
        (
            ["--levels", "4"],
            "option --levels: this option is one of those that a network of lava-dl takes",
        ),
        (["--low", "0"], "options --low and --high: the range of the input is two integers"),
        (["--low", "0", "--high", "1.5"], "the range of the input is two integers"),
        (["--steps", "0"], "steps: a sample has a usual length"),
        (["--profile", "loihi9"], "loihi9"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    run: Run, net: Path, arguments: list[str], message: str
) -> None:
    outcome = run("compile", net, "-o", net.with_name("model.h5"), *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert not net.with_name("model.h5").exists()


def test_the_input_range_is_given_where_neurons_are(run: Run, tmp_path: Path) -> None:
    layers = [nf.source((2,), nf.sdnn()), nf.dense([[9, -3], [2, 9]], nf.sdnn())]
    net = nf.write(tmp_path / "Net.NET", layers)
    model = tmp_path / "model.h5"
    options = ["--low", "-8", "--high", "7", "--steps", "4"]
    assert run("compile", net, "-o", model, *options).code == 0
    source = lapilli.load(model).netlist.source
    assert (source.low, source.high) == (-8, 7)


def test_a_damaged_file_is_one_message(run: Run, net: Path) -> None:
    net.write_bytes(net.read_bytes()[:700])
    outcome = run("compile", net, "-o", net.with_name("model.h5"))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("Error: ")
    assert "Traceback" not in outcome.err


def test_networks_of_torch_still_need_calibration_and_method(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "model.h5"
    assert "Missing option '--calib'" in run("compile", "net:build", "-o", output).err
    outcome = run("compile", "net:build", "-o", output, "--calib", "digits")
    assert (outcome.code, "Missing option '--method'" in outcome.err) == (2, True)
    from torch import nn

    with pytest.raises(TypeError, match="calibration and method; found no calibration"):
        lapilli.compile(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="calibration and method; found steps"):
        lapilli.compile(nn.Linear(2, 2), calibration=np.zeros((1, 2)), method=0, steps=3)


def test_other_files_are_refused() -> None:
    with pytest.raises(InputError, match=r"the name of a file says what it is; found \.txt"):
        lapilli.compile("net.txt")


def test_every_option_of_an_importer_is_an_option() -> None:
    assert importers.IMPORTERS
    for importer in importers.IMPORTERS.values():
        assert importer.what
        assert set(importer.options) <= set(importers.OPTIONS)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.int16, np.int64])
def test_spikes_are_read_as_they_are(tmp_path: Path, kind: type[np.generic]) -> None:
    spikes = np.random.default_rng(0).integers(0, 2, (3, 5, 2)).astype(kind)
    np.savez(tmp_path / "spikes.npz", spikes=spikes)
    found = data.load(f"npz:{tmp_path / 'spikes.npz'}", split="test", limit=2)
    assert (found.images == spikes[:2]).all()
    assert found.labels is None


@pytest.mark.parametrize(
    "spikes",
    [
        np.zeros((3, 5)),
        np.zeros((3, 5), np.int8),
        np.zeros((3, 0, 2), np.int8),
        np.full((1, 2, 3), 2**25),
        np.full((1, 2, 3), "a"),
    ],
)
def test_other_arrays_are_no_spikes(tmp_path: Path, spikes: np.ndarray) -> None:
    np.savez(tmp_path / "spikes.npz", spikes=spikes)
    with pytest.raises(InputError, match=r"spikes is an array \(N, steps, \.\.\.\)"):
        data.load(f"npz:{tmp_path / 'spikes.npz'}", split="test")
