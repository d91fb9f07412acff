"""`compile_model` from a torch module to a file that runs: the whole road, for every method."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_networks
import torch
from torch import nn

import lapilli
from lapilli.compiler import compile_model, ir
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.calibrate import Ranges
from lapilli.compiler.errors import (
    CaptureError,
    InputError,
    LapilliError,
    NetlistError,
    UnsupportedOperatorError,
)
from lapilli.compiler.frontend import Network
from lapilli.compiler.netlist import Netlist
from lapilli.compiler.passes import METHODS
from lapilli.compiler.populations import PopulationGraph
from lapilli.compiler.spiking import SpikingGraph
from lapilli.hardware_profiles import load
from lapilli.layers import QCFS

CODINGS = list(sample_networks.METHODS)
CALIBRATION = sample_networks.images("residual", 40)
IMAGES = sample_networks.images("residual", 12, seed=3)
TESTS = Path(__file__).parents[1]


def residual(coding: str, **options: Any) -> Artifact:
    method, profile = sample_networks.METHODS[coding]
    model = sample_networks.network("residual")
    return lapilli.compile(
        model, calibration=CALIBRATION, method=method, profile=profile, **options
    )


def test_every_method_is_compiled_here() -> None:
    kinds = {type(options) for options, _ in sample_networks.METHODS.values()}
    assert kinds == {method.options for method in METHODS.values()}
    assert {name: m.options for name, m in METHODS.items()} == lapilli.methods.METHODS


@pytest.mark.parametrize("coding", CODINGS)
def test_a_saved_network_runs_as_the_one_in_memory(coding: str, tmp_path: Path) -> None:
    artifact = residual(coding)
    artifact.save(tmp_path / "model.h5")
    loaded = lapilli.load(tmp_path / "model.h5")
    assert loaded.hash == artifact.hash
    assert loaded.provenance == artifact.provenance
    traces = [lapilli.run(a, IMAGES, record="states") for a in (artifact, loaded)]
    for kind in ("counts", "readouts", "spikes", "states"):
        left, right = (getattr(trace, kind) for trace in traces)
        assert list(left) == list(right)
        for name, values in left.items():
            np.testing.assert_array_equal(values, right[name], name)
    np.testing.assert_array_equal(traces[0].outputs, traces[1].outputs)
    assert traces[0].events == traces[1].events
    assert lapilli.verify(loaded, IMAGES, backends=("reference",)).ok


@pytest.mark.parametrize("coding", CODINGS)
def test_the_same_input_gives_the_same_bytes(coding: str, tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        residual(coding).save(tmp_path / name)
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(TESTS)!r}); import sample_networks\n"
        "sample_networks.compiled('residual', 'unary').save(sys.argv[1])"
    )
    path = tmp_path / "other.h5"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    residual("unary").save(tmp_path / "here.h5")
    assert path.read_bytes() == (tmp_path / "here.h5").read_bytes()


def test_what_matters_changes_the_hash() -> None:
    base = residual("unary")
    options = sample_networks.METHODS["unary"][0]
    model = sample_networks.network("residual")
    variants = [
        lapilli.compile(
            sample_networks.network("residual", 1),
            calibration=CALIBRATION, method=options, profile="loihi1",
        ),
        lapilli.compile(
            model, calibration=CALIBRATION[:20], method=options, profile="loihi1"
        ),
        lapilli.compile(
            model, calibration=CALIBRATION,
            method=dataclasses.replace(options, levels=3), profile="loihi1",
        ),
        lapilli.compile(model, calibration=CALIBRATION, method=options, profile="loihi2"),
        residual("unary", calibrate="none"),
    ]  # fmt: skip
    assert len({base.hash, *(v.hash for v in variants)}) == len(variants) + 1
    # Where it comes from is remembered, but is no part of the network.
    assert residual("unary", preprocessing=((0.1, 0.2), (1.0, 2.0))).hash == base.hash


@pytest.mark.parametrize("coding", CODINGS)
def test_observe_sees_every_pass_in_order(coding: str) -> None:
    seen: list[tuple[str, Any, Any]] = []
    artifact = residual(coding, observe=lambda *call: seen.append(call))
    method = artifact.provenance.method
    assert [name for name, *_ in seen] == [
        "capture", "reorder_pools", "split_joins", "legalise", "calibrate", f"convert_{method}",
        "compensate", "quantise",
    ]  # fmt: skip
    types = [
        *(Network, ir.Graph, ir.Graph, ir.Graph, PopulationGraph, Ranges),
        *(SpikingGraph, SpikingGraph, Netlist),
    ]
    for (_, before, after), first, then in zip(seen, types[:-1], types[1:], strict=True):
        assert isinstance(before, first)
        assert isinstance(after, then)
    assert seen[-1][2] is artifact.netlist
    changed = seen[6][1] is not seen[6][2]
    assert changed == (method != "rate"), "rate coding is not compensated unless asked to"


def test_progress_names_the_long_stages() -> None:
    calls: list[tuple[str, int, int]] = []
    residual("graded", progress=lambda *call: calls.append(call))
    assert list(dict.fromkeys(stage for stage, *_ in calls)) == ["calibrate", "compensate"]
    for stage in ("calibrate", "compensate"):
        counts = [(done, total) for name, done, total in calls if name == stage]
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1]


@pytest.mark.parametrize("calibrate", [None, "none", "bias", "least-squares"])
@pytest.mark.parametrize("coding", ["graded", "rate"])
def test_provenance_is_complete(coding: str, calibrate: str | None) -> None:
    artifact = residual(coding, calibrate=calibrate, preprocessing=((0.5,), (0.25,)))
    p = artifact.provenance
    options, profile = sample_networks.METHODS[coding]
    usual = {"graded": "least-squares", "rate": "none"}[coding]
    assert p.lapilli_version == version("lapilli")
    assert p.torch_version == torch.__version__
    assert type(p.torch_version) is str
    assert p.method == {"graded": "parallel", "rate": "rate"}[coding]
    assert dict(p.options) == {
        **dataclasses.asdict(options), "calibrate": usual if calibrate is None else calibrate
    }  # fmt: skip
    assert p.profile == profile
    assert p.calibration_hash == hashlib.sha256(CALIBRATION.tobytes()).hexdigest()
    assert p.calibration_samples == 40
    assert (p.input_mean, p.input_std) == ((0.5,), (0.25,))
    # conv1 2*4*9 at 36 places, conv2 4*6*9 and conv3 6*6*9 at 9, borders excluded; linear 6*3.
    assert dict(p.ann_macs) == {
        "conv1": 8 * 16 * 16, "conv2": 24 * 8 * 8, "conv3": 36 * 7 * 7, "linear": 18
    }  # fmt: skip


@pytest.mark.parametrize("name", sample_networks.NETWORKS)
def test_many_levels_approach_the_float_network(name: str) -> None:
    model = sample_networks.network(name)
    images = sample_networks.images(name, 40)
    with torch.no_grad():
        result = model(torch.from_numpy(images))
    wanted = [t.numpy() for t in (result if isinstance(result, tuple) else (result,))]
    errors = {}
    for levels in (2, 8, 64):
        artifact = lapilli.compile(
            model, calibration=images, method=lapilli.methods.Parallel(levels=levels)
        )
        outputs = lapilli.run(artifact, images).outputs
        found = outputs if isinstance(outputs, list) else [outputs]
        errors[levels] = max(
            float(np.abs(a - b).mean() / b.std()) for a, b in zip(found, wanted, strict=True)
        )
    assert errors[64] < 0.05
    assert errors[64] < errors[8] < errors[2]


def test_long_rate_windows_approach_the_float_network() -> None:
    model = sample_networks.network("residual")
    with torch.no_grad():
        wanted = model(torch.from_numpy(CALIBRATION)).numpy()
    errors = {}
    for steps in (8, 64, 512):
        artifact = lapilli.compile(
            model,
            calibration=CALIBRATION,
            method=lapilli.methods.Rate(steps=steps, percentile=100.0),
            profile="loihi1",
        )
        found = lapilli.run(artifact, CALIBRATION).outputs
        errors[steps] = float(np.abs(found - wanted).mean() / wanted.std())
    assert errors[512] < 0.05
    assert errors[512] < errors[64] < errors[8] / 3  # 8-bit weights limit the last


def test_the_users_network_is_left_alone() -> None:
    model = sample_networks.network("chain")
    model.train()
    before = copy.deepcopy(model.state_dict())
    images = sample_networks.images("chain", 20)
    trained = lapilli.compile(model, calibration=images, method=lapilli.methods.Parallel())
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    evaluated = lapilli.compile(
        model.eval(), calibration=torch.from_numpy(images), method=lapilli.methods.Parallel()
    )
    assert trained.hash == evaluated.hash


def test_a_profile_is_a_name_a_file_or_an_object(tmp_path: Path) -> None:
    profile = load("loihi2")
    path = tmp_path / "loihi2.json"
    path.write_bytes((TESTS.parent / "hardware_profiles" / "loihi2.json").read_bytes())
    hashes = {residual_for(p).hash for p in ("loihi2", profile, path, str(path))}
    assert len(hashes) == 1


def residual_for(profile: Any) -> Artifact:
    return lapilli.compile(
        sample_networks.network("residual"),
        calibration=CALIBRATION,
        method=lapilli.methods.Parallel(levels=3),
        profile=profile,
    )


def spoiled_network() -> nn.Module:
    model = sample_networks.network("residual")
    with torch.no_grad():
        model.get_parameter("conv2.weight")[1, 2, 0, 0] = torch.nan
    return model


def spoiled_images() -> Any:
    images = CALIBRATION.copy()
    images[3, 1, 2, 2] = np.inf
    return images


class Sorted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sort(torch.relu(x), dim=1).values


# Changed arguments, error, where, rule
REFUSED: dict[str, tuple[dict[str, Any], type[LapilliError], str, str]] = {
    "no images": (
        {"calibration": CALIBRATION[:0]},
        InputError, "calibration set", "there is at least one image, with the batch first",
    ),
    "infinite images": (
        {"calibration": spoiled_images()}, InputError, "calibration set", "values are finite",
    ),
    "images of another shape": (
        {"calibration": CALIBRATION[:, :1]},
        InputError, "Residual", "the network accepts the calibration images",
    ),
    "weights of NaN": (
        {"model": spoiled_network()},
        InputError, "conv2.weight", "weights and statistics are finite",
    ),
    "an unknown compensation": (
        {"calibrate": "magic"}, InputError, "option calibrate", "options take a listed value",
    ),
    "a method by its name": (
        {"method": "parallel"}, InputError, "method", "a method is chosen by its options object",
    ),
    "a processor": (
        {"profile": load("cmos45")},
        InputError, "profile cmos45", "networks are compiled for neuromorphic chips",
    ),
    "graded spikes for loihi1": (
        {"profile": load("loihi1")},
        NetlistError, "relu (Window)", "loihi1 sends binary spikes only",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compiled_is_refused(case: str) -> None:
    changes, kind, where, rule = REFUSED[case]
    arguments: dict[str, Any] = {
        "model": sample_networks.network("residual"),
        "calibration": CALIBRATION,
        "method": lapilli.methods.Parallel(),
        "profile": load("loihi2"),
        **changes,
    }
    with pytest.raises(kind) as caught:
        compile_model(**arguments)
    error = caught.value
    assert error.where == where
    assert error.rule.startswith(rule)
    assert all((error.found, error.allowed, error.remedy))
    assert error.exit_code == 2


def test_an_unknown_operator_is_refused_by_name() -> None:
    with pytest.raises((UnsupportedOperatorError, CaptureError)) as caught:
        lapilli.compile(Sorted(), calibration=CALIBRATION, method=lapilli.methods.Parallel())
    assert "sort" in str(caught.value)


def test_what_was_trained_in_levels_is_not_compensated() -> None:
    """Networks of QCFS layers, unless they are asked to count otherwise than they were trained."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), QCFS(6, 0.5), nn.Conv2d(4, 4, 3), QCFS(6, 0.7)),
        *(nn.Flatten(), nn.Linear(64, 5)),
    ).eval()
    images = np.random.default_rng(0).random((40, 1, 8, 8), dtype=np.float32)

    def compensation(levels: int, calibrate: str | None = None) -> object:
        method = lapilli.methods.Parallel(levels=levels)
        made = lapilli.compile(network, calibration=images, method=method, calibrate=calibrate)
        return made.provenance.options["calibrate"]

    assert compensation(6) == "none"
    assert compensation(4) == "least-squares"
    assert compensation(6, "bias") == "bias"
