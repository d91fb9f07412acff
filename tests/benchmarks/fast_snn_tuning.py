"""Fast-SNN at two bits without settling: how much of its loss layer-wise fine-tuning recovers.

    python tests/benchmarks/fast_snn_tuning.py [--json] [--recipe mnist_cnn_2bit] [--limit N]
        [--set KEY=VALUE ...] [--data SPEC]

The recipe's quantised network is trained once; its spiking network is then measured on all test
images as it is, and tuned. In floating point, as trained, and as the integer netlists that come out
of both. It needs ../shared/data and is left out where that is absent.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from lapilli import training_run
from lapilli.training_run import Trained

ROOT = Path(__file__).resolve().parents[2]
MNIST = ROOT.parent / "shared" / "data" / "mnist"
LEAST = 0.5
"""Share of the loss against the quantised network that fine-tuning recovers, as demanded."""
Row = dict[str, Any]


def trained(recipe: Any, given: argparse.Namespace) -> Trained:
    def report(epoch: Any) -> None:
        said = f"{epoch.stage} {epoch.epoch}/{epoch.epochs}: loss {epoch.loss:.5f}"
        print(f"{said}, {epoch.seconds} s", file=sys.stderr, flush=True)

    result = training_run.train(recipe, limit=given.limit, device=given.device, report=report)
    assert result is not None
    if not result.verification.ok:
        raise SystemExit("an equality between netlist, engine and Lava fails")
    return result


def rows_of(given: argparse.Namespace) -> list[Row]:
    changes = dict(change.split("=", 1) for change in given.set)
    recipe = replace(training_run.find_recipe(given.recipe, changes), data=given.data)
    own = recipe.options
    ann = trained(replace(recipe, kind="quantised", options=own.quantised), given)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "quantised.safetensors"
        state = ann.network.state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, file)
        own, recipe = replace(own, trained=str(file)), replace(recipe, weights="")
        plain = trained(replace(recipe, options=replace(own, epochs=0)), given)
        tuned = trained(replace(recipe, options=own), given)
    rows = [row("quantised network, as trained", ann.network_score)]
    for name, value in (
        ("as trained", lambda made: made.network_score),
        ("in integers", lambda made: made.score),
    ):
        before, after = value(plain), value(tuned)
        rows += [row(f"signed spikes, {name}", before), row(f"tuned, {name}", after)]
        lost, gained = ann.network_score - before, after - before
        share = gained / lost if lost > 0 else 0.0
        rows.append(
            {
                "measure": f"share of the loss recovered, {name}",
                "value": 100.0 * share,
                "unit": "%",
                "target": f">= {100 * LEAST:.0f}",
                "holds": lost > 0 and share >= LEAST,
            }
        )
    return rows


def row(measure: str, accuracy: float | None) -> Row:
    assert accuracy is not None
    return {"measure": measure, "value": 100 * accuracy, "unit": "%", "target": "", "holds": True}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--recipe", default="mnist_cnn_2bit")
    parser.add_argument("--data", default=f"mnist:{MNIST}")
    parser.add_argument("--limit", type=int, help="training images")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    if given.data == f"mnist:{MNIST}" and not MNIST.is_dir():
        print(f"left out: there is no {MNIST}", file=sys.stderr)
        return 0
    rows = rows_of(given)
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    if given.json:
        about = {"benchmark": "fast_snn_tuning", "machine": machine}
        print(json.dumps({**about, "rows": rows}))
    else:
        for one in rows:
            mark = "ok  " if one["holds"] else "MISS"
            print(f"{mark} {one['measure']}: {one['value']:.2f} {one['unit']} {one['target']}")
    return 0 if all(one["holds"] for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
