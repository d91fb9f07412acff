"""Deep staircases: a last bit of float32 decides about a step, which is no fault of capture."""

from __future__ import annotations

import capturing
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lapilli.compiler import measure_model
from lapilli.compiler.activations import CURVES, Clip, Curve, is_stepped
from lapilli.compiler.calibrate import calibrate
from lapilli.compiler.errors import CaptureError
from lapilli.layers import IF, QCFS, MultiThreshold

X = np.float32(0.1) * np.random.default_rng(0).integers(0, 11, (64, 20)).astype(np.float32)


def tied() -> nn.Module:
    """Tenths all over, so that many drives are half a step but for the last bits of float32.

    Capture makes one map of the first two, and so adds in another order than torch does.
    """
    rng = np.random.default_rng(1)
    network = nn.Sequential(
        *(nn.Linear(20, 20, bias=False), nn.Linear(20, 200, bias=False), QCFS(4, 2.0)),
        nn.Linear(200, 5),
    )
    for layer in (network[0], network[1]):
        tenths = rng.integers(-10, 11, tuple(layer.weight.shape)).astype(np.float32)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(np.float32(0.1) * tenths))
    return network.eval()


def test_steps_of_staircases_are_compared_in_float64() -> None:
    model = tied()
    graph = capturing.legalised(model, X)
    assert [p.role for p in graph.populations] == ["input", "activation", "readout"]
    with pytest.raises(CaptureError, match="captured network computes"):
        calibrate(graph, X, reference=model)
    measured = measure_model(model, X)
    assert measured.ranges.samples == len(X)


def test_what_capture_missed_is_found_in_staircases_too() -> None:
    model = tied()
    graph = capturing.legalised(model, X)

    precise = model.double()

    def same(images: Tensor) -> Tensor:
        outputs: Tensor = precise(images.double())
        return outputs

    calibrate(graph, X, reference=same, precise=True)
    with pytest.raises(CaptureError, match="captured network computes"):
        calibrate(graph, X, reference=lambda images: same(images) + 0.1, precise=True)


def test_what_is_stepped() -> None:
    assert not is_stepped(Clip(0.0))
    assert not is_stepped(Curve("sigmoid"))
    assert "qcfs" in CURVES
    for layer in (QCFS(4, 1.0), IF(4, 1.0, reset="zero"), MultiThreshold(2, 2, 1.0, keep=0.5)):
        layer.analog = True  # type: ignore[assignment]  # of those with spikes
        graph = capturing.legalised(nn.Sequential(nn.Linear(20, 4), layer).eval(), X)
        found = [p.activation for p in graph.populations if p.role == "activation"]
        assert [is_stepped(a) for a in found if a is not None] == [True]
