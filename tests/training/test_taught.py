"""`tests/benchmarks/taught.py`, whose figures are in docs/results.md."""

from __future__ import annotations

import runpy
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("lightning_fabric", reason="lightning-fabric, of the extra train, is missing")

from lapilli import data, training_run
from lapilli.zoo import networks

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "taught.py"))
RECIPE = """
kind = "quantised"
network = "lapilli.zoo.networks:digits_cnn"
data = "digits"

[training]
epochs = 1

[artifact]
verify = 1
test = 0

[quantised]
levels = 3
"""


def test_accuracy_is_the_recipes_and_divergence_is_the_definitions(tmp_path: Path) -> None:
    recipe, student, teacher = (
        tmp_path / f"{name}" for name in ("r.toml", "student.safetensors", "teacher.safetensors")
    )
    recipe.write_text(RECIPE, "utf-8")
    found = training_run.train(training_run.find_recipe(str(recipe)), limit=512, device="cpu")
    assert found is not None and found.network_score is not None
    save_file({k: v.contiguous() for k, v in found.network.state_dict().items()}, student)
    knows = networks.digits_cnn().eval()
    save_file(knows.state_dict(), teacher)

    given = Namespace(
        recipe=str(recipe), data="digits", images=None, teachers=[teacher], students=[student]
    )
    alone, together, taught = SCRIPT["rows_of"](given, "test")
    assert [r["network"] for r in (alone, together, taught)] == [
        "teacher",
        "teachers together",
        "student",
    ]
    assert alone["divergence"] == together["divergence"] == 0.0
    assert alone["accuracy"] == together["accuracy"]
    assert taught["accuracy"] == pytest.approx(100 * found.network_score)

    test = data.load("digits", split="test")
    with torch.no_grad():
        images = torch.from_numpy(test.images)
        logs = [n.eval()(images).double().log_softmax(1).numpy() for n in (found.network, knows)]
    ours, theirs = logs
    assert test.labels is not None
    entropy = -ours[np.arange(len(ours)), test.labels].mean()
    assert taught["cross-entropy"] == pytest.approx(entropy, rel=1e-4)
    divergence = (np.exp(theirs) * (theirs - ours)).sum(1).mean()
    assert taught["divergence"] == pytest.approx(divergence, rel=1e-4)
