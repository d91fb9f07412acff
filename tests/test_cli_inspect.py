"""`lapilli inspect` on networks with neurons of every kind: models, counts, forms of maps."""

from __future__ import annotations

from pathlib import Path

import mixed_networks
import pytest
from command_line import Run
from torch import nn

import lapilli


@pytest.mark.parametrize(
    ("name", "models", "counts"),
    [
        ("pooled", {"Window": 4, "GradedMax": 7}, {"max_pool2d_2": [-5, 1], "relu": [0, 6]}),
        ("gated", {"Ladder": 4, "Product": 2, "Window": 2}, {"silu": [-1, 5], "head": None}),
        ("curved", {"Ladder": 7}, {"tanh": [-3, 3], "input": None}),
    ],
)
def test_models_counts_and_forms_are_shown(
    name: str,
    models: dict[str, int],
    counts: dict[str, list[int] | None],
    run: Run,
    tmp_path: Path,
) -> None:
    artifact = mixed_networks.compiled(name, lapilli.methods.Parallel(levels=6))
    artifact.save(tmp_path / "m.h5")
    report = run("inspect", tmp_path / "m.h5", "--json").json
    found = {model: m["populations"] for model, m in report["models"].items()}
    assert found == {**models, "Source": 1, "Readout": 1}
    totals = report["totals"]
    assert sum(m["neurons"] for m in report["models"].values()) == totals["neurons"]
    assert sum(totals["forms"].values()) == totals["connections"]
    sparse = totals["forms"].get("Sparse", 0)
    assert totals["compact_connections"] == totals["connections"] - sparse
    for p in report["populations"]:
        if p["name"] in counts:
            assert p["counts"] == counts[p["name"]]
        if p["counts"] is not None:
            assert p["counts"][1] - p["counts"][0] == 6
    text = run("inspect", tmp_path / "m.h5").out
    for model, number in models.items():
        assert text.count(f" {model} ") >= number
        assert f"{model} {report['models'][model]['neurons']:,}" in text
    said = f"Connections: {totals['compact_connections']} of {totals['connections']} stay compact"
    assert said in " ".join(text.split())
    assert "a new image every step." in " ".join(text.split())


def test_counts_of_several_steps(run: Run, tmp_path: Path) -> None:
    method = lapilli.methods.LMHT(levels=3, steps=4)
    artifact = lapilli.compile(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()),
        calibration=mixed_networks.images("pooled", 20),
        method=method,
    )
    artifact.save(tmp_path / "m.h5")
    populations = run("inspect", tmp_path / "m.h5", "--json").json["populations"]
    assert [p["counts"] for p in populations] == [None, [0, 12], None]
    assert "a new image every 4 steps." in " ".join(run("inspect", tmp_path / "m.h5").out.split())
