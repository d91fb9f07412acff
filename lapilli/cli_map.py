"""`lapilli map`: a compiled network on cores, chips and boards."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lapilli import cli_options, network_inputs, plot_files, terminal

if TYPE_CHECKING:
    from lapilli.compiler.mapping import Objective

OBJECTIVES = ("cores", "latency", "energy")
"""As `compiler.mapping.OBJECTIVES`, known without importing it: --help is quick."""


@click.command("map")
@cli_options.model_file()
@cli_options.profile("the chip or system; default: the one compiled for")
@click.option(
    "--objective",
    type=click.Choice(OBJECTIVES),
    default="cores",
    show_default=True,
    help="What is made small: cores, the time of a step, or its energy.",
)
@cli_options.data(text="Measure spikes on images", required=False)
@cli_options.limit(text="With --data: the first N images.")
@click.option(
    "--whole",
    metavar="POPULATION",
    multiple=True,
    help="Keep this one on a single core; may be given more than once.",
)
@click.option(
    "--effort",
    metavar="X",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="How long cores are moved on the mesh; 0: not at all.",
)
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True)
@plot_files.option("Draw cores, their use and the traffic.")
@cli_options.output(
    "Write every core there.",
    "FILE.json",
    required=False,
    check=cli_options.ends_in("a placement", ".json"),
)
@cli_options.common
def map_(
    model_file: Path,
    profile: str | None,
    objective: Objective,
    spec: str | None,
    limit: int | None,
    whole: tuple[str, ...],
    effort: float,
    seed: int,
    plot: Path | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Place a model file on cores, chips and boards: counts, bound, traffic, time of a step.

    --json prints every core, too.
    """
    import lapilli
    from lapilli import map_plot, map_report, render_map, reports
    from lapilli.chips import chip_of

    if limit is not None and spec is None:
        raise click.UsageError("--limit goes with --data.")
    artifact = lapilli.load(model_file)
    chip = chip_of(artifact, profile)
    rates, measured_on = None, None
    with terminal.bars() as bar:
        if spec is not None:
            from lapilli.compiler.mapping.refusals import whole_exists

            # What can be refused at once is refused before minutes of measuring.
            whole_exists(artifact.netlist, whole)
            artifact.netlist.verify(chip)
            dataset = network_inputs.images(artifact, spec, limit, bar)
            measured_on = reports.data_report(dataset)
            count = bar("counting spikes")
            rates = map_report.measured_rates(artifact, dataset.images, chip, count)
        start = time.perf_counter()
        placement = lapilli.place(
            artifact,
            profile=chip,
            objective=objective,
            rates=rates,
            whole=whole,
            effort=effort,
            seed=seed,
            progress=terminal.staged(bar),
        )
        seconds = time.perf_counter() - start
    report = {
        "artifact": reports.identity(artifact, model_file),
        "data": measured_on,
        "effort": effort,
        "seed": seed,
        "seconds": seconds,
        **map_report.placement_report(artifact.netlist, placement, chip, rates),
    }
    if as_json or output is not None:
        report.update(map_report.every_core(placement, chip))
    if output is not None:
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        cli_options.write(output, text.encode())
    if plot is not None:
        drawn = map_plot.picture(placement, chip, title=model_file.name, ending=plot.suffix)
        cli_options.write(plot, drawn)
    cli_options.show(report, as_json, render_map.placement)
