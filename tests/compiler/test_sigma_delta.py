"""Sigma-delta: a still image settles to the quantised ANN, a video sends changes only."""

from __future__ import annotations

import numpy as np
import pytest
import sample_networks
from sample_networks import NETWORKS

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import InputError
from lapilli.compiler.neurons import SigmaDelta

FRAMES = 5


def compiled(name: str, steps: int) -> Artifact:
    return lapilli.compile(
        sample_networks.network(name),
        calibration=sample_networks.images(name, 40),
        method=lapilli.methods.SigmaDelta(levels=6, steps=steps),
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_still_image_is_the_parallel_networks(name: str) -> None:
    """The same thresholds and weights, so the same counts and outputs, image for image."""
    parallel = lapilli.compile(
        sample_networks.network(name),
        calibration=sample_networks.images(name, 40),
        method=lapilli.methods.Parallel(levels=6),
    )
    images = sample_networks.images(name, 9, seed=1)
    expected, found = lapilli.run(parallel, images), lapilli.run(compiled(name, FRAMES), images)
    assert set(expected.counts) == set(found.counts)
    for population, counts in expected.counts.items():
        assert np.array_equal(counts, found.counts[population]), population
    np.testing.assert_equal(found.outputs, expected.outputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_frame_of_a_video_is_the_quantised_ann(name: str) -> None:
    artifact = compiled(name, FRAMES)
    rng = np.random.default_rng(3)
    video = rng.random((3, FRAMES, *NETWORKS[name][1])).astype(np.float32)
    trace = lapilli.run(artifact, video, record="states")
    frames = video.reshape(-1, *video.shape[2:])
    single = lapilli.run(compiled(name, 1), frames)
    signs: set[int] = set()
    for p in artifact.netlist.populations:
        if isinstance(p.neuron, SigmaDelta):
            activity = np.cumsum(trace.spikes[p.name], axis=1).reshape(-1, *p.shape)
            assert np.array_equal(activity, single.counts[p.name])
            signs |= set(np.sign(trace.spikes[p.name]).reshape(-1).tolist())
    assert signs == {-1, 0, 1}
    for p in artifact.netlist.outputs:
        assert np.array_equal(trace.states[p.name].reshape(-1, *p.shape), single.readouts[p.name])


def test_a_still_video_sends_nothing_after_its_first_frame() -> None:
    images = sample_networks.images("residual", 4)
    one, many = (lapilli.run(compiled("residual", steps), images) for steps in (1, FRAMES))
    assert sum(e.spikes for e in one.events.values()) > 0
    for name, events in one.events.items():
        assert many.events[name].spikes == events.spikes
        assert many.events[name].synops == events.synops
        assert many.events[name].input_macs == events.input_macs


def test_frames_that_differ_a_little_cost_little() -> None:
    artifact = compiled("residual", 2)
    images = sample_networks.images("residual", 4)
    moved = images.copy()
    moved[:, :, :2, :2] += 0.1
    still, near, far = (
        sum(e.spikes for e in lapilli.run(artifact, np.stack(pair, 1)).events.values())
        for pair in ((images, images), (images, moved), (images, 1 - images))
    )
    assert still < near < far


def test_a_video_of_another_length_is_refused() -> None:
    video = np.zeros((2, FRAMES + 1, *NETWORKS["chain"][1]), np.float32)
    with pytest.raises(InputError, match="images have the shape") as caught:
        lapilli.run(compiled("chain", FRAMES), video)
    assert caught.value.allowed == "(N, 2, 7, 6) or (N, 5, 2, 7, 6), N >= 1"


def test_chips_without_graded_spikes_cannot_have_it() -> None:
    with pytest.raises(lapilli.compiler.errors.NetlistError, match="binary spikes only"):
        lapilli.compile(
            sample_networks.network("chain"),
            calibration=sample_networks.images("chain", 40),
            method=lapilli.methods.SigmaDelta(),
            profile="loihi1",
        )


@pytest.mark.lava
def test_lava_agrees_on_a_video() -> None:
    rng = np.random.default_rng(4)
    video = rng.random((2, FRAMES, *NETWORKS["residual"][1])).astype(np.float32)
    result = lapilli.verify(compiled("residual", FRAMES), video)
    assert result.ok, result.first_difference
    assert result.rows[-1].name == "Lava == reference: readouts"
