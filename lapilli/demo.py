"""The main job on data that everybody has: train, compile, check, run on Lava, price, one table."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import RenderableType
from safetensors.torch import save_file

import lapilli
from lapilli import data, digits, render, reports
from lapilli.compiler.artifact import Artifact
from lapilli.terminal import Count, plain, say

Report = dict[str, Any]
Bar = Callable[[str], Count]

PROFILE = "loihi2"
LAVA_IMAGES = 16
NO_LAVA = "Lava is not installed: pip install 'lapilli[lava]' on Python 3.10 brings it."


def methods() -> Mapping[str, object]:
    """File name of every model file that the demo makes -> the method it shows."""
    return MappingProxyType(
        {
            "parallel": lapilli.methods.Parallel(levels=8),
            "parallel-unary": lapilli.methods.Parallel(levels=8, coding="unary"),
            "rate": lapilli.methods.Rate(steps=64),
        }
    )


def run(bar: Bar, keep: Path | None = None) -> Report:
    """Everything that `lapilli demo` prints. keep: a folder for the weights and model files.

    "ok" is False where two executions differ; a missing Lava is reported, not a failure.
    """
    with digits.one_thread():
        return _run(bar, keep)


def _run(bar: Bar, keep: Path | None) -> Report:
    start = time.perf_counter()
    network = digits.train(progress=bar("training"))
    train, test = (data.load("digits", split=split) for split in ("train", "test"))
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        save_file(network.state_dict(), keep / "digits.safetensors")
    with torch.no_grad():
        logits = network(torch.from_numpy(test.images))
    ann = reports.predicted(logits.numpy())
    say(f"demo: trained in {time.perf_counter() - start:.1f} s")
    rows = []
    for name, method in methods().items():
        artifact = lapilli.compile(
            network, calibration=train.images, method=method, profile=PROFILE
        )
        artifact = replace(artifact, provenance=replace(artifact.provenance, labels=test.names))
        if keep is not None:
            artifact.save(keep / f"{name}.h5")
        rows.append({"name": name, **_row(artifact, test, bar)})
        say(f"demo: {name} done at {time.perf_counter() - start:.1f} s")
    return {
        "ok": all(row["verification"]["ok"] for row in rows),
        "data": reports.data_report(test),
        "ann": reports.accuracy(ann, test.labels),
        "ann_energy": rows[0]["estimate"]["ann_total"],
        "ann_on": rows[0]["estimate"]["reference"],
        "profile": {"name": PROFILE, "calibrated": rows[0]["estimate"]["calibrated"]},
        "methods": rows,
        "lava_images": LAVA_IMAGES,
        "lava_missing": next((r["lava_missing"] for r in rows if r["lava_missing"]), None),
        "seconds": time.perf_counter() - start,
    }


def _row(artifact: Artifact, test: data.Dataset, bar: Bar) -> Report:
    """One method: the whole test split on the reference engine, a few images on Lava."""
    evaluation = reports.evaluate(
        artifact, test.images, agreement_images=0, progress=bar("reference engine")
    )
    quantised = reports.predicted(lapilli.quantised_ann(artifact, test.images).outputs)
    sizes = reports.inspect_report(artifact)
    found = reports.run_report(evaluation, test, "reference")
    verification, missing = _verify(artifact, test.images[:LAVA_IMAGES], bar("Lava"))
    return {
        "options": dict(artifact.provenance.options),
        "quantised_ann": reports.accuracy(quantised, test.labels),
        "snn": found["accuracy"],
        "events": found["events"],
        "steps": sizes["steps"],
        "latency_steps": sizes["latency_steps"],
        "estimate": reports.estimate_report(artifact, evaluation, test)["estimate"],
        "verification": verification,
        "lava_missing": missing,
    }


def _verify(
    artifact: Artifact, images: npt.NDArray[np.float32], count: Count
) -> tuple[Report, str | None]:
    """Every equality, on Lava too where it is installed; else why it is not."""
    missing = importlib.util.find_spec("lava") is None
    checked = lapilli.verify(
        artifact,
        images,
        backends=("reference",) if missing else ("reference", "lava"),
        progress=lambda stage, done, total: count(done, total),
    )
    return reports.verification_report(checked), NO_LAVA if missing else None


def tables(report: Report) -> Iterator[RenderableType]:
    """The report as one table, and a line per equality, summed over the methods."""
    where, calibrated = report["data"], report["profile"]["calibrated"]
    star = "" if calibrated else "*"
    made = render.table(
        f"Handwritten digits, whole test split ({where['images']} images), "
        f"energy of one image alone on {report['profile']['name']}",
        (
            *("network", "accuracy", "quantised ANN", "steps", "latency", "MAC, synops"),
            *(f"dynamic{star}", f"energy{star}", f"low .. high{star}"),
        ),
        caption="" if calibrated else render.UNCALIBRATED,
    )
    ann, fp32 = report["ann_energy"], report["ann_energy"]["fp32_pj"]
    macs = f"{ann['macs']:,.0f}"
    accuracy = _percent(report["ann"])
    made.add_row(f"ANN on {report['ann_on']}", accuracy, "", "", "", macs, render.band(fp32)[0])
    for row in report["methods"]:
        made.add_row(
            f"SNN {row['name']}",
            _percent(row["snn"]),
            _percent(row["quantised_ann"]),
            str(row["steps"]),
            str(row["latency_steps"]),
            f"{row['events']['synops_per_image']:,.0f}",
            render.band(row["estimate"]["total"]["dynamic_pj"])[0],
            *render.band(row["estimate"]["single"]["total_pj"]),
        )
    yield made
    yield from _equalities(report)


def _percent(accuracy: Report) -> str:
    return f"{100 * accuracy['fraction']:.2f} %"


def _equalities(report: Report) -> Iterator[str]:
    sums: dict[str, list[Report]] = {}
    for row in report["methods"]:
        for check in row["verification"]["equalities"]:
            sums.setdefault(check["equality"], []).append({**check, "method": row["name"]})
    for equality, checks in sums.items():
        sides, _, what = equality.partition(": ")
        compared, equal = (sum(check[key] for check in checks) for key in ("compared", "equal"))
        of = ", ".join(check["method"] for check in checks)
        yield f"{plain(sides)}: {equal:,} of {compared:,} {plain(what) or 'integers'} ({of})"
    for row in report["methods"]:
        if row["verification"]["first_difference"] is not None:
            yield f"{row['name']}: {plain(row['verification']['first_difference'])}"
    if report["lava_missing"] is not None:
        yield f"Lava: not run. {plain(report['lava_missing'])}"
    yield f"Checked on {report['lava_images']} images. {report['seconds']:.0f} s in all."
