"""Unary spikes in the last steps of their windows: what of them other formats can say.

Window neurons wait for the end of a window, which NIR, netx and Lava's stock neurons do not know,
in whichever order these send; the file for Loihi holds the neurons themselves.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lapilli
from lapilli.compiler.artifact import Artifact
from lapilli.compiler.errors import NetlistError
from lapilli.compiler.interchange import loihi_export, loihi_import, netx_export, nir_export
from lapilli.hardware_profiles import load
from lapilli.runtime.lava.stock.lowering import lower

CHIPS = ("loihi2", "loihi1")


def images(count: int) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, 8, 8), np.float32)


@functools.cache
def late(profile: str) -> Artifact:
    """Layers, and a max pool, whose gate needs the order."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 3)),
    )
    method = lapilli.methods.Parallel(levels=4, coding="unary", order="last")
    found = lapilli.compile(network.eval(), calibration=images(16), method=method, profile=profile)
    sends = {p.neuron.sending for p in found.netlist.populations if hasattr(p.neuron, "sending")}
    assert sends == {"unary-last"}
    return found


@pytest.mark.parametrize("profile", CHIPS)
def test_the_file_for_loihi_sends_as_late(profile: str) -> None:
    artifact = late(profile)
    placement = lapilli.place(artifact)
    document = loihi_export.configuration(artifact, placement, load(profile))
    rebuilt = loihi_import.rebuild(json.loads(loihi_export.text(document)))
    again = Artifact(rebuilt, artifact.provenance)
    assert again.hash == artifact.hash
    (wanted, found) = (lapilli.run(a, images(5), record="spikes") for a in (artifact, again))
    for name, spikes in wanted.spikes.items():
        np.testing.assert_array_equal(found.spikes[name], spikes, name)
    np.testing.assert_array_equal(found.outputs, wanted.outputs)
    early, last = (wanted.spikes["1"][:, step].mean() for step in (0, -1))
    assert last > early  # of a train whose ones come last


@pytest.mark.parametrize("profile", CHIPS)
def test_others_refuse_it_with_the_reason(tmp_path: Path, profile: str) -> None:
    artifact = late(profile)
    with pytest.raises(NetlistError, match="sends 0 or 1") as netx:
        netx_export.write(tmp_path / "late.net", artifact.netlist)
    assert "Window" in netx.value.found
    with pytest.raises(NetlistError, match="computes what the neuron computes"):
        nir_export.write(tmp_path / "late.nir", artifact)
    with pytest.raises(NetlistError, match="for a window of one step") as stock:
        lower(artifact.netlist, np.zeros((1, 64), np.int64))
    assert "4 steps, unary-last" in stock.value.found
    assert list(tmp_path.iterdir()) == []
