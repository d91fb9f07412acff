"""Images into integers: what is accepted, saturated, counted, refused; and choosing a backend."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import sample_networks
import torch

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError
from lapilli.runtime import BACKENDS, RANGE_SLACK, quantise_input
from lapilli.runtime.trace import RECORDS

IMAGES = sample_networks.images("chain", 20, seed=9)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return sample_networks.compiled("chain", "graded")


@pytest.fixture(scope="module")
def signed() -> Artifact:
    return sample_networks.compiled("chain", "graded", signed=True)


def scale_of(artifact: Artifact) -> float:
    return float(artifact.netlist.input.state_scale)


def test_payloads_are_rounded_half_up_in_float64(artifact: Artifact) -> None:
    scale = scale_of(artifact)
    payloads, clipped = quantise_input(artifact.netlist, IMAGES)
    expected = [math.floor(float(x) / scale + 0.5) for x in IMAGES.reshape(-1)]
    top = artifact.netlist.input.neuron.payload()[1]
    assert payloads.reshape(-1).tolist() == [min(v, top) for v in expected]
    assert clipped == sum(v > top for v in expected)
    assert payloads.shape == IMAGES.shape
    assert payloads.dtype == np.int64


def test_payloads_do_not_depend_on_the_version_of_numpy(artifact: Artifact) -> None:
    """Next to ties, division in float32, as numpy 1 would do it, gives another integer."""
    scale = scale_of(artifact)
    ties = ((np.arange(255) + 0.5) * scale).astype(np.float32)
    near = np.concatenate([np.nextafter(ties, np.float32(s)) for s in (0, 2)] + [ties])
    images = np.resize(near, (10, *artifact.netlist.input.shape)).astype(np.float32)
    found, _ = quantise_input(artifact.netlist, images)
    exact = [math.floor(float(x) / scale + 0.5) for x in images.reshape(-1)]
    single = np.floor(images / np.float32(scale) + np.float32(0.5)).reshape(-1)
    assert found.reshape(-1).tolist() == exact
    assert single.astype(int).tolist() != exact


@pytest.mark.parametrize("kind", ["artifact", "signed"])
def test_a_little_out_of_range_saturates_and_is_counted(
    kind: str, request: pytest.FixtureRequest
) -> None:
    model: Artifact = request.getfixturevalue(kind)
    low, high = model.netlist.input.neuron.payload()
    scale = scale_of(model)
    slack = (RANGE_SLACK - 1) * max(-low, high) - 0.1  # float32 images lie beside the edge
    inside = np.zeros((2, *model.netlist.input.shape))
    inside[0, 0, 0, :3] = [high, high + 0.49, low - 0.49]
    edge = inside.copy()
    edge[1, 1, 2, :2] = [high + slack, low - slack]
    edge[1, 0, 0, 0] = high + 0.51
    for units, expected in ((inside, 0), (edge, 3)):
        payloads, clipped = quantise_input(model.netlist, units * scale)
        assert clipped == expected
        assert low <= payloads.min() <= payloads.max() <= high
    trace = lapilli.run(model, (edge * scale).astype(np.float32))
    assert trace.input_clipped == 3
    assert trace.counts[model.netlist.input.name][1, 1, 2, :2].tolist() == [high, low]


def spoiled(index: int, value: float) -> Any:
    images = IMAGES.copy()
    images.reshape(-1)[index] = value
    return images


RANGE = "values lie in the range that the network was compiled for"
SHAPE = "images have the shape that the network was compiled for"
WANTED = "(N, 2, 7, 6), N >= 1"
REFUSED: dict[str, tuple[Any, str, str, str]] = {
    "another size": (IMAGES[:, :, :-1], SHAPE, "(20, 2, 6, 6)", WANTED),
    "channels last": (IMAGES.transpose(0, 2, 3, 1), SHAPE, "(20, 7, 6, 2)", WANTED),
    "one image without a batch": (IMAGES[0], SHAPE, "(2, 7, 6)", WANTED),
    "a number": (np.float32(0.5), SHAPE, "()", WANTED),
    "no image": (IMAGES[:0], SHAPE, "(0, 2, 7, 6)", WANTED),
    "NaN": (spoiled(7, np.nan), "values are finite", "1 NaN or infinite values", "none"),
    "infinity": (spoiled(8, -np.inf), "values are finite", "1 NaN or infinite values", "none"),
    "bytes": ((IMAGES * 255).astype(np.uint8), RANGE, "0..254", ""),
    "too large": (spoiled(3, 1.26), RANGE, "..1.26", ""),
    "too small": (spoiled(3, -0.26), RANGE, "-0.26..", ""),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_images_are_refused(case: str, artifact: Artifact) -> None:
    images, rule, found, allowed = REFUSED[case]
    with pytest.raises(InputError) as caught:
        lapilli.run(artifact, images)
    error = caught.value
    assert (error.where, error.rule) == ("images", rule)
    assert found in error.found
    calibrated = f"0..{255 * scale_of(artifact):g}, a quarter more is saturated"
    assert error.allowed == (allowed or calibrated)
    assert error.remedy


@pytest.mark.parametrize(("option", "known"), [("backend", tuple(BACKENDS)), ("record", RECORDS)])
def test_an_unknown_choice_is_refused(
    option: str, known: tuple[str, ...], artifact: Artifact
) -> None:
    choice: dict[str, Any] = {option: "everything"}
    with pytest.raises(InputError) as caught:
        lapilli.run(artifact, IMAGES, **choice)
    error = caught.value
    assert (error.where, error.rule) == (option, f"the {option} is known")
    assert (error.found, error.allowed) == ("everything", ", ".join(known))
    assert error.remedy == "Choose one of them."


@pytest.mark.parametrize("backend", ["reference", "quantised-ann"])
def test_a_trace_says_who_made_it(backend: str, artifact: Artifact) -> None:
    calls: list[tuple[int, int]] = []
    trace = lapilli.run(artifact, IMAGES, backend=backend, progress=lambda *c: calls.append(c))
    assert trace.backend == backend
    assert calls[-1] == (20, 20)
    assert isinstance(trace.outputs, np.ndarray)
    assert trace.outputs.shape == (20, 3)
    assert bool(trace.events) == (backend == "reference")


def test_several_outputs_are_a_list() -> None:
    artifact = sample_networks.compiled("arithmetic", "unary")
    images = sample_networks.images("arithmetic", 4)
    for trace in (lapilli.run(artifact, images), lapilli.quantised_ann(artifact, images)):
        assert isinstance(trace.outputs, list)
        assert [output.shape for output in trace.outputs] == [(4, 4), (4, 2)]
        for p, output in zip(artifact.netlist.outputs, trace.outputs, strict=True):
            assert output.dtype == np.float64
            np.testing.assert_array_equal(output, trace.readouts[p.name] * p.state_scale)


def test_tensors_are_images_too(artifact: Artifact) -> None:
    tensor = torch.from_numpy(IMAGES).requires_grad_()
    found, expected = lapilli.run(artifact, tensor), lapilli.run(artifact, IMAGES)
    np.testing.assert_array_equal(found.outputs, expected.outputs)


def test_every_backend_is_a_function_that_imports_when_it_is_called() -> None:
    assert list(BACKENDS) == ["reference", "lava", "lava-stock", "quantised-ann"]
    assert all(callable(backend) for backend in BACKENDS.values())
