"""`lapilli blame`: where a compiled network loses accuracy against the network it came from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lapilli import cli_options, network_inputs, terminal

if TYPE_CHECKING:
    from rich.console import RenderableType

Report = dict[str, Any]
IMAGES = 256
BAR, DB_PER_CELL = 12, 5


@click.command("blame")
@click.argument("model")
@cli_options.model_file()
@cli_options.weights()
@cli_options.data()
@cli_options.limit(IMAGES)
@cli_options.common
def blame(
    model: str, model_file: Path, weights: Path | None, spec: str, limit: int, as_json: bool
) -> None:
    """Say where MODEL.H5 loses accuracy against MODEL, from which it was compiled."""
    import lapilli
    from lapilli import models, reports

    artifact = lapilli.load(model_file)
    network = models.load(model, weights)
    with terminal.bars() as bar:
        dataset = network_inputs.images(artifact, spec, limit, bar)
        found = lapilli.blame(
            network, artifact, dataset.images, dataset.labels, progress=bar("measuring")
        )
    report = {
        "artifact": reports.identity(artifact, model_file),
        "data": reports.data_report(dataset),
        **found.report(),
    }
    cli_options.show(report, as_json, _tables)


def _tables(report: Report) -> Iterator[RenderableType]:
    from lapilli.render import table

    images = report["images"]

    def percent(correct: int | None) -> str:
        return "-" if correct is None else f"{100 * correct / images:.2f} %"

    where = report["data"]
    title = f"{where['source']}, {where['split']} split, {images} images"
    made = table(title, ("applied alone", "", "accuracy", "outputs dB"), text=2)
    made.add_row("float", "the network itself", percent(report["float_correct"]), "-")
    for stage in report["stages"]:
        cells = percent(stage["correct"]), _db(stage["output_db"])
        made.add_row(stage["name"], stage["meaning"], *cells)
    yield made
    rank = {row["layer"]: str(n) for n, row in enumerate(report["worst"], start=1)}
    parts = ("clip", "rounding", "weights", "shift")
    columns = ("layer", "", "sent dB", "", "own dB", *parts, "outputs dB", "accuracy")
    made = table("Layer by layer: signal-to-noise ratio against float", columns, text=2)
    made.columns[3].justify = "left"
    for layer in report["layers"]:
        name = terminal.plain(layer["name"])
        made.add_row(
            name,
            rank.get(layer["name"], ""),
            _db(layer["cumulative_db"]),
            _bar(layer["cumulative_db"]),
            *(_db(layer[f"{part}_db"]) for part in ("own", *parts, "output")),
            percent(layer["correct"]),
        )
    yield made
    for number, row in enumerate(report["worst"], start=1):
        yield f"{number}. {terminal.plain(row['layer'])}: {terminal.plain(row['suggestion'])}"


def _db(value: float | None) -> str:
    return "exact" if value is None else f"{value:.1f}"


def _bar(value: float | None) -> str:
    """A block per 5 dB, up to 60.

    >>> _bar(15.5), _bar(-3.0), len(_bar(None))
    ('###', '', 12)
    """
    return "#" * (BAR if value is None else max(min(int(value // DB_PER_CELL), BAR), 0))
